# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Pictures: written where asked, showing what is there, and refusing to show nothing."""

import pytest
from PIL import Image

from hub_cards import plot_retrieval_grid, plot_training_curves


LOG = [
    {"step": 10, "loss": 5.0, "itc_loss": 4.0, "temperature": 0.07, "regulation_weight_min": 0.5},
    {"step": 10, "eval_loss": 5.2, "eval_text_to_image_recall@10": 4.0},
    {"step": 20, "loss": 3.0, "itc_loss": 2.0, "temperature": 0.06, "regulation_weight_min": 0.3},
    {"step": 20, "eval_loss": 3.9, "eval_text_to_image_recall@10": 9.0},
]


def colors(path) -> set[tuple[int, int, int]]:
    image = Image.open(path).convert("RGB")
    return {color for _, color in image.getcolors(image.width * image.height)}


class TestPlotTrainingCurves:
    def test_draws_a_panel_for_each_kind_of_curve(self, tmp_path):
        plot_training_curves(LOG, tmp_path / "few.png")
        plot_training_curves([{"step": entry["step"], "loss": 1.0} for entry in LOG], tmp_path / "one.png")
        few, one = Image.open(tmp_path / "few.png"), Image.open(tmp_path / "one.png")
        assert few.width > 3 * one.width
        assert len(colors(tmp_path / "few.png")) > 10

    def test_scalable_picture(self, tmp_path):
        plot_training_curves(LOG, tmp_path / "curves.svg")
        text = (tmp_path / "curves.svg").read_text()
        assert text.lstrip().startswith("<?xml")

    def test_nothing_to_draw_raises(self, tmp_path):
        with pytest.raises(ValueError, match="nothing to draw"):
            plot_training_curves([{"step": 1, "epoch": 0.1}], tmp_path / "curves.png")
        assert not (tmp_path / "curves.png").exists()


class TestPlotRetrievalGrid:
    def test_shows_images_and_grades(self, tmp_path):
        images = [Image.new("RGB", (64, 64), color) for color in ("#0000ff", "#00ffff", "#ff00ff")]
        path = tmp_path / "found.png"
        plot_retrieval_grid(["blue"], [images], path, grades=[[1.0, 0.5, 0.0]], title="Found")
        shown = colors(path)
        for color in ((0, 0, 255), (0, 255, 255), (255, 0, 255)):
            assert color in shown
        for frame in ("#1a7f37", "#bf8700", "#cf222e"):
            assert tuple(int(frame[start : start + 2], 16) for start in (1, 3, 5)) in shown

    def test_as_many_rows_as_queries(self, tmp_path):
        image = Image.new("RGB", (8, 8), "blue")
        plot_retrieval_grid(["a"], [[image]], tmp_path / "one.png")
        plot_retrieval_grid(["a", "b", "c"], [[image]] * 3, tmp_path / "three.png")
        assert Image.open(tmp_path / "three.png").height > 2 * Image.open(tmp_path / "one.png").height

    def test_queries_without_images_raise(self, tmp_path):
        with pytest.raises(ValueError):
            plot_retrieval_grid(["a", "b"], [[Image.new("RGB", (8, 8))]], tmp_path / "found.png")
