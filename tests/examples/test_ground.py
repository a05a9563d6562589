# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Learning to find shapes in mosaics, two steps long, and looking at what the model has found."""

import json
import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image
from transformers.utils import logging


EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def run():
    """Runs an example as from its command line, but in this process: most of its time would be imports."""
    verbosity = logging.get_verbosity()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))

        def run(script: str, *arguments: str) -> dict:
            patch.setattr(sys, "argv", [script, *arguments])
            return runpy.run_path(str(EXAMPLES / script), run_name="__main__" if arguments else "example")

        yield run
    logging.set_verbosity(verbosity)


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    """What a short lesson leaves, for the model of the demonstration as it is before training."""
    folder = tmp_path_factory.mktemp("mosaics")
    demo = run("demo.py")
    processor = demo["build_processor"](48)
    for thing in (processor, demo["build_model"](processor)):
        thing.save_pretrained(folder / "demo")
    size = ("--steps", "2", "--batch_size", "4", "--questions", "8")
    run("mosaics.py", "--model", str(folder / "demo"), "--output_dir", str(folder), *size)
    return folder


class TestMosaics:
    def test_reports_before_and_after(self, folder):
        metrics = json.loads((folder / "metrics.json").read_text())
        assert metrics["chance"] == {"pointing_accuracy": 25.0}
        assert metrics["before"].keys() == metrics["after"].keys()
        assert len(metrics["after"]) == 4

    def test_words_are_found_with_the_checkpoint(self, run, folder, tmp_path, capsys):
        arguments = ("--model", str(folder / "model"), "--output", str(tmp_path / "found.png"))
        run("ground.py", *arguments, "--emoji", "red heart", "rocket", "dog", "--text", "Rocket and dog")
        match, *found, _ = capsys.readouterr().out.splitlines()
        assert match.endswith("% match: Rocket and dog")
        assert [line.split(": ")[1] for line in found] == ["Rocket and dog", "Rocket", "and", "dog"]
        assert sum(line.startswith(" 100%") for line in found) == 1
        assert Image.open(tmp_path / "found.png").width > 400

    def test_texts_are_found_in_a_file(self, run, folder, tmp_path, capsys):
        image = tmp_path / "photo.png"
        Image.new("RGB", (50, 30), "red").save(image)
        arguments = ("--model", str(folder / "model"), "--output", str(tmp_path / "found.png"))
        run("ground.py", *arguments, "--image", str(image), "--text", "red", "blue heart", "--layer", "1")
        lines = capsys.readouterr().out.splitlines()
        assert [line.split(": ")[-1] for line in lines[:4]] == ["red", "blue heart"] * 2

    def test_boxes_are_where_the_pictures_are(self, run):
        colors = ["red", "lime", "blue", "black", "yellow"]
        mosaic = run("mosaics.py")["mosaic"]
        for count, size in ((1, (48, 48)), (2, (96, 48)), (4, (96, 96)), (5, (144, 96))):
            images = [Image.new("RGB", (64, 64), color) for color in colors[:count]]
            canvas, boxes = mosaic(images)
            assert canvas.size == size
            for image, box in zip(images, boxes, strict=True):
                assert canvas.crop(box).getcolors() == [(48 * 48, image.getpixel((0, 0)))]

    def test_says_which_emoji_there_is_not(self, run):
        with pytest.raises(ValueError, match="There is no emoji 'no such thing' by noto"):
            run("ground.py", "--emoji", "no such thing", "--text", "a")
