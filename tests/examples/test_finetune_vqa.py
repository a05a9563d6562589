# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Fine-tuning for questions from its command line, on a few pictures: emoji, and files of VQA v2."""

import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoModelForVisualQuestionAnswering, AutoProcessor


ROOT = Path(__file__).parents[2]


@pytest.fixture
def finetune_vqa(monkeypatch):
    """The script as a module, which sees the first pictures of each split."""
    monkeypatch.syspath_prepend(ROOT / "examples")
    import finetune_vqa

    load = finetune_vqa.load_emoji
    monkeypatch.setattr(finetune_vqa, "load_emoji", lambda split: load(split).select(range(0, 200, 5)))
    return finetune_vqa


def run(module, monkeypatch, folder, *arguments: str) -> None:
    options = ("--max_steps", "2", "--per_device_train_batch_size", "8", "--disable_tqdm", "True", "--bf16", "False")
    monkeypatch.setattr(sys, "argv", ["finetune_vqa.py", "--output_dir", str(folder), *options, *arguments])
    module.main()


class TestEmoji:
    def test_questions_have_the_answers_of_the_annotations(self, finetune_vqa):
        rows = finetune_vqa.emoji_questions("test_unseen_concept")
        kinds = [row["question_type"] for row in rows]
        assert all(kinds.count(kind) == 40 for kind in ("tone", "vendor", "group", "people"))
        assert 0 < kinds.count("gender") < 40
        found = finetune_vqa.load_emoji("test_unseen_concept")
        tones = [row["answer"] for row in rows if row["question_type"] == "tone"]
        for tone, caption in zip(tones, found["caption"], strict=True):
            assert tone == "none" or f"{tone} skin tone" in caption
        assert set(tones) > {"none"}
        genders = {row["answer"] for row in rows if row["question_type"] == "gender"}
        assert genders <= {"man", "woman"}

    def test_trains_reports_and_saves(self, finetune_vqa, monkeypatch, tmp_path, capsys):
        run(finetune_vqa, monkeypatch, tmp_path / "first")
        printed = capsys.readouterr().out
        for split in ("test_unseen_composition", "test_unseen_concept"):
            assert split in printed
        for kind in (*finetune_vqa.QUESTIONS, "all"):
            assert printed.count(f"  {kind} ") == 2
        model = AutoModelForVisualQuestionAnswering.from_pretrained(tmp_path / "first")
        processor = AutoProcessor.from_pretrained(tmp_path / "first")
        inputs = processor(text="who drew it?", images=Image.new("RGB", (48, 48)), return_tensors="pt")
        assert model.generate(**inputs)[0, 0] == processor.tokenizer.cls_token_id
        # And on from there, with a rate of its own for the image tower.
        run(
            finetune_vqa, monkeypatch, tmp_path / "second", "--model", str(tmp_path / "first"),
            "--vision_learning_rate", "1e-12",
        )  # fmt: skip
        again = AutoModelForVisualQuestionAnswering.from_pretrained(tmp_path / "second")
        for name in ("vision_model", "text_model"):
            ours, before = (getattr(part.sacl, name).state_dict() for part in (again, model))
            same = [torch.allclose(ours[key], before[key], atol=1e-7) for key in before]
            assert all(same) == (name == "vision_model")


class TestVqaFiles:
    def test_learns_from_files_of_vqa(self, finetune_vqa, monkeypatch, tmp_path, capsys):
        folder = tmp_path / "vqa"
        for subtype in ("train2014", "val2014"):
            (folder / subtype).mkdir(parents=True)
            for number in range(9):
                Image.new("RGB", (60, 40), (25 * number, 0, 0)).save(
                    folder / subtype / f"COCO_{subtype}_{number:012d}.jpg"
                )
            asked = [{"image_id": n, "question_id": n, "question": "is it red?"} for n in range(9)]
            answered = [
                {
                    "question_id": n,
                    "question_type": "is it",
                    "answer_type": "yes/no",
                    "answers": [{"answer": "no"}] * 9 + [{"answer": "yes"}],
                }
                for n in range(9)
            ]
            (folder / f"v2_OpenEnded_mscoco_{subtype}_questions.json").write_text(
                json.dumps({"data_subtype": subtype, "questions": asked})
            )
            (folder / f"v2_mscoco_{subtype}_annotations.json").write_text(json.dumps({"annotations": answered}))
        run(finetune_vqa, monkeypatch, tmp_path / "model", "--vqa_dir", str(folder))
        printed = capsys.readouterr().out
        assert "9 questions, 1 answers to choose from" in printed
        assert "val2014: 100.00, {'yes/no': 100.0}" in printed
