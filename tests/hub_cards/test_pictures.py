# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Pictures: written where asked, showing what is there, and refusing to show nothing."""

import numpy as np
import pytest
import torch
from PIL import Image

from hub_cards import (
    plot_grounding,
    plot_retrieval_grid,
    plot_training_curves,
    plot_weight_histogram,
    visualize_patch_selection,
)
from modeling_sacl import SaclConfig, SaclForPreTraining, SaclModel


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

    @pytest.mark.parametrize("query", [r"costs $5 and $\frac{$", "a very long query " * 20])
    def test_any_words_can_be_drawn(self, tmp_path, query):
        plot_retrieval_grid([query], [[Image.new("RGB", (8, 8))]], tmp_path / "found.png", title=query)
        assert (tmp_path / "found.png").exists()


class TestPlotWeightHistogram:
    BAR = (76, 120, 168)

    def columns(self, path) -> int:
        """How many columns of pixels the bars take."""
        pixels = np.asarray(Image.open(path).convert("RGB"))
        return int((pixels == self.BAR).all(axis=2).any(axis=0).sum())

    def test_spread_weights_take_more_bars_than_equal_ones(self, tmp_path):
        plot_weight_histogram(torch.linspace(0.2, 2.0, 500), tmp_path / "spread.png")
        plot_weight_histogram([1.0] * 500, tmp_path / "equal.png", title="$equal")
        spread, equal = self.columns(tmp_path / "spread.png"), self.columns(tmp_path / "equal.png")
        assert spread > 10 * equal > 0

    @pytest.mark.parametrize("weights", [[], [float("nan")], [-0.1, 1.0]])
    def test_what_is_no_weight_raises(self, tmp_path, weights):
        with pytest.raises(ValueError, match="There must be weights"):
            plot_weight_histogram(weights, tmp_path / "weights.png")


class TestPlotGrounding:
    @staticmethod
    def draw(path, maps, words=None):
        """The pixels of a picture of a blue image with these maps."""
        words = [f"word{number}" for number in range(len(maps))] if words is None else words
        plot_grounding(Image.new("RGB", (64, 32), "#3050a0"), words, maps, path)
        return torch.from_numpy(np.asarray(Image.open(path).convert("RGB")).copy()).int()

    def test_dims_all_but_where_a_map_is_high(self, tmp_path):
        """Of the picture's second half: its first is the image itself."""
        color = torch.tensor([48, 80, 160])
        everywhere = (self.draw(tmp_path / "words.png", torch.ones(1, 2, 4)) == color).all(dim=2)
        nowhere = self.draw(tmp_path / "words.png", torch.zeros(1, 2, 4))
        top, left = everywhere.nonzero().amin(dim=0)
        bottom, right = everywhere.nonzero().amax(dim=0)
        half = torch.arange(everywhere.shape[1]) > (left + right) / 2
        assert (nowhere[everywhere & half] - 0.15 * color).abs().max() < 1
        assert (nowhere[everywhere & ~half] == color).all()
        for row, column in ((0, 0), (1, 3)):
            maps = torch.zeros(1, 2, 4)
            maps[0, row, column] = 0.01
            rows, columns = (self.draw(tmp_path / "words.png", maps)[..., 2] > 80).mul(half & everywhere).nonzero().T
            assert (rows.float().mean() < (top + bottom) / 2) == (row == 0)
            assert (columns.float().mean() < (left + 3 * right) / 4) == (column == 0)
            # Half as bright at least is about one patch of eight.
            assert 0.05 < len(rows) / (everywhere & half).sum() < 0.2

    def test_each_word_has_its_own_scale_and_says_so(self, tmp_path):
        maps = torch.rand(3, 2, 4, generator=torch.Generator().manual_seed(0))
        plot_grounding(Image.new("RGB", (8, 8)), ["a", "cat", "."], maps / maps.amax((1, 2), True), tmp_path / "a.svg")
        weak = maps / maps.amax((1, 2), True) * torch.tensor([1.0, 0.25, 0.0])[:, None, None]
        plot_grounding(Image.new("RGB", (8, 8)), ["a", "cat", "."], list(weak), tmp_path / "b.svg")
        assert "<!-- 25% -->" in (tmp_path / "b.svg").read_text()
        assert "<!-- 0% -->" in (tmp_path / "b.svg").read_text()
        assert (tmp_path / "a.svg").read_text().count("<!-- 100% -->") == 3

    def test_many_words_take_several_rows(self, tmp_path):
        few, many = (self.draw(tmp_path / "words.png", torch.ones(count, 2, 4)) for count in (3, 14))
        assert many.shape[0] > 2 * few.shape[0]
        assert many.shape[1] < 2 * few.shape[1]

    def test_words_are_no_formulas(self, tmp_path):
        self.draw(tmp_path / "words.png", torch.ones(2, 2, 4), words=["$\\frac$", "_"])

    def test_words_without_maps_raise(self, tmp_path):
        for words in ([], ["a"]):
            with pytest.raises(ValueError, match=f"got {len(words)} words and 2 maps"):
                self.draw(tmp_path / "words.png", torch.ones(2, 2, 4), words=words)
        with pytest.raises(ValueError, match="got 0 words and 0 maps"):
            self.draw(tmp_path / "words.png", [])


class TestVisualizePatchSelection:
    """The tiny processor makes images of 32 x 32 pixels: 4 x 4 patches."""

    @pytest.fixture(params=[SaclModel, SaclForPreTraining])
    def model(self, request, tiny_config):
        torch.manual_seed(0)
        vision_config = {**tiny_config.vision_config.to_dict(), "hidden_size": 32, "patch_keep_rate": 0.5}
        return request.param(SaclConfig(text_config=tiny_config.text_config, vision_config=vision_config)).eval()

    @pytest.fixture
    def pixels(self):
        return torch.randint(60, 256, (32, 32, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)

    @pytest.fixture
    def image(self, pixels):
        return Image.fromarray(pixels.numpy())

    @staticmethod
    def bright_patches(axis, shown: torch.Tensor) -> list[int]:
        """The places of a panel that are as in the image; all others must be darker."""
        panel = torch.from_numpy(axis.get_images()[0].get_array())
        ratio = (panel / shown).unfold(0, 8, 8).unfold(1, 8, 8).reshape(16, -1)
        assert (((ratio - 1).abs() < 1e-3).all(dim=1) | (ratio < 0.5).all(dim=1)).all()
        return (ratio[:, 0] > 0.5).nonzero().flatten().tolist()

    @pytest.mark.parametrize("text", [None, "a red bus"])
    def test_dims_what_is_dropped(self, model, tiny_processor, image, pixels, text):
        if text is not None:
            model.set_patch_selection(guide="text")
        figure = visualize_patch_selection(model, tiny_processor, image, text)
        original, *panels = figure.axes
        shown = torch.from_numpy(original.get_images()[0].get_array())
        assert (shown - pixels / 255).abs().max() < 1 / 255

        inputs = tiny_processor(text=text or "a", images=image, return_tensors="pt")
        base, guide = model.base_model, {}
        if text is not None:
            guide["text_states"] = base.text_model(inputs["input_ids"]).last_hidden_state[:, 0]
        kept = base.vision_model(inputs["pixel_values"], **guide).kept_patches
        assert len(panels) == len(kept) == 2
        for panel, (places,) in zip(panels, kept, strict=True):
            places = [place for place in places.tolist() if place >= 0]
            assert self.bright_patches(panel, shown) == places
            assert panel.get_title().endswith(f"{len(places)} of 16 patches")

    def test_can_be_saved(self, model, tiny_processor, image, tmp_path):
        visualize_patch_selection(model, tiny_processor, image).savefig(tmp_path / "patches.png")
        assert len(colors(tmp_path / "patches.png")) > 100

    def test_nothing_to_show_raises(self, model, tiny_processor, image):
        with pytest.raises(ValueError, match=r'the image chooses.*`model.set_patch_selection\(guide="text"\)`'):
            visualize_patch_selection(model, tiny_processor, image, "a red bus")
        model.set_patch_selection(keep_rate=1.0)
        with pytest.raises(ValueError, match=r"keeps all patches.*`model.set_patch_selection\(keep_rate=0.7\)`"):
            visualize_patch_selection(model, tiny_processor, image)
