# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Fine-tuning for labels from its command lines: entailment, and statements about two images, emoji and JSON files."""

import json
import sys
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image
from transformers import AutoProcessor

from modeling_sacl import SaclForImagesAndTextClassification, SaclForImageTextClassification


ROOT = Path(__file__).parents[2]


@pytest.fixture
def examples(monkeypatch):
    """The scripts as modules, which see some pictures of each split."""
    monkeypatch.syspath_prepend(ROOT / "examples")
    import finetune_classification
    import finetune_nlvr2

    load = finetune_nlvr2.load_emoji
    for module in (finetune_classification, finetune_nlvr2):
        monkeypatch.setattr(
            module, "load_emoji", lambda split: (emoji := load(split)).select(range(0, len(emoji), len(emoji) // 300))
        )
    return finetune_classification, finetune_nlvr2


def run(module, monkeypatch, folder, *arguments: str) -> None:
    make_rows = module.emoji_rows
    monkeypatch.setattr(module, "emoji_rows", lambda split, size, seed: make_rows(split, min(size, 408), seed))
    options = ("--max_steps", "2", "--per_device_train_batch_size", "8", "--disable_tqdm", "True", "--bf16", "False")
    monkeypatch.setattr(sys, "argv", [module.__file__, "--output_dir", str(folder), *options, *arguments])
    module.main()


def labels_of(rows) -> dict[str, Counter]:
    """How often each sentence has each label."""
    counts: dict[str, Counter] = {}
    for row in rows:
        counts.setdefault(row["sentence"], Counter())[row["label"]] += 1
    return counts


class TestEntailment:
    def test_a_sentence_alone_tells_nothing(self, examples):
        counts = labels_of(examples[0].emoji_rows("train", 510, seed=0))
        assert len(counts) == 17
        assert all(len(labels) == 3 and len(set(labels.values())) == 1 for labels in counts.values())

    def test_trains_reports_and_saves(self, examples, monkeypatch, tmp_path, capsys):
        run(examples[0], monkeypatch, tmp_path)
        assert "commonest label: 33.3 %" in capsys.readouterr().out
        model = SaclForImageTextClassification.from_pretrained(tmp_path)
        assert model.config.label2id == {label: number for number, label in enumerate(examples[0].ENTAILMENT)}


class TestStatements:
    def test_a_statement_alone_tells_nothing(self, examples):
        counts = labels_of(examples[1].emoji_rows("train", 600, seed=0))
        assert all(labels["True"] == labels["False"] for labels in counts.values())
        assert {"a flag on the left", "food on both sides"} <= set(counts)

    @pytest.mark.parametrize("seed", range(3))
    def test_labels_are_what_the_annotations_say(self, examples, seed):
        """Read from the sentence, as a person would, and from the captions' own words where they say it."""
        module = examples[1]
        emoji = module.load_emoji("train")
        pictures = list(emoji["image"])
        row_of = {picture.tobytes(): row for picture, row in zip(pictures, emoji.remove_columns("image"), strict=True)}
        for row in module.emoji_rows("train", 200, seed):
            left, right = (row_of[picture.tobytes()] for picture in row["images"])
            assert (row["label"] == "True") == self.holds(module.PROPERTIES, row["sentence"], left, right)

    @staticmethod
    def holds(properties, sentence, left, right) -> bool:
        if sentence.endswith("on both sides"):
            shown = properties[sentence.removesuffix(" on both sides")]
            return shown(left) and shown(right)
        for part in sentence.split(" and "):
            name, side = part.rsplit(" on the ", 1)
            if not properties[name](left if side == "left" else right):
                return False
        return True

    def test_trains_reports_and_saves(self, examples, monkeypatch, tmp_path, capsys):
        run(examples[1], monkeypatch, tmp_path)
        assert "commonest label: 50.0 %" in capsys.readouterr().out
        model = SaclForImagesAndTextClassification.from_pretrained(tmp_path)
        assert model.config.label2id == {"False": 0, "True": 1}

    def test_files_of_nlvr2(self, examples, monkeypatch, tmp_path, capsys):
        names = [f"{number}.png" for number in range(4)]
        for number, name in enumerate(names):
            Image.new("RGB", (40, 30), (60 * number, 0, 0)).save(tmp_path / name)
        rows = [
            {"images": names[start : start + 2], "sentence": "both are red", "label": str(start > 0)}
            for start in range(3)
        ]
        (tmp_path / "rows.json").write_text("\n".join(map(json.dumps, rows)))
        files = [f"--{split}_file={tmp_path / 'rows.json'}" for split in ("train", "test")]
        options = (f"--image_dir={tmp_path}", "--image_size", "24", "--vision_learning_rate", "1e-5")
        run(examples[1], monkeypatch, tmp_path / "model", *files, *options)
        assert "Of 3 test rows" in capsys.readouterr().out
        assert AutoProcessor.from_pretrained(tmp_path / "model").image_processor.size == {"height": 24, "width": 24}
