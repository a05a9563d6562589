# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The demonstration from its command line, two steps long, and searching with what it leaves behind."""

import json

import pytest
import torch
from transformers import AutoModel, AutoModelForPreTraining, AutoProcessor

import modeling_sacl  # noqa: F401  (registers the Auto classes)

from .scripts import run, run_here


PICTURES = ("curves.png", "found_test_unseen_composition.png", "found_test_unseen_concept.png")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The folder and the printed words of a demonstration."""
    folder = tmp_path_factory.mktemp("demo")
    printed = run(
        "demo.py", "--output_dir", str(folder), "--max_steps", "2", "--eval_strategy", "no", "--logging_steps", "1"
    )
    return folder, printed


class TestDemo:
    def test_prints_a_table_and_how_to_load(self, demo):
        folder, printed = demo
        for name in ("chance", "untrained", "trained"):
            assert printed.count(f" {name} ") == 2
        assert f'AutoModel.from_pretrained("{folder}/model"' in printed

    def test_metrics_hold_every_stage(self, demo):
        metrics = json.loads((demo[0] / "metrics.json").read_text())
        for stage in ("untrained", "trained"):
            for split in ("test_unseen_composition", "test_unseen_concept"):
                assert 0 <= metrics[stage][split]["text_to_image_recall@10"] <= 100
        # Three pictures of 668 are right for most texts: a little above 10 of 668.
        assert 3 < metrics["chance"]["test_unseen_concept"]["text_to_image_recall@10"] < 6

    def test_pictures_are_drawn(self, demo):
        assert all((demo[0] / name).stat().st_size > 10_000 for name in PICTURES)

    def test_checkpoint_loads_and_has_no_training_state(self, demo):
        model_dir = demo[0] / "model"
        processor = AutoProcessor.from_pretrained(model_dir)
        model, heads = AutoModel.from_pretrained(model_dir), AutoModelForPreTraining.from_pretrained(model_dir)
        inputs = processor(text=["red heart"], return_tensors="pt")
        with torch.inference_mode():
            ours, theirs = (m.get_text_features(**inputs).pooler_output for m in (model, heads.sacl))
        assert torch.equal(ours, theirs)
        assert not list(model_dir.glob("*training_state*"))

    def test_search_finds_with_the_checkpoint(self, demo, tmp_path):
        output = tmp_path / "found.png"
        queries = ["a yellow face", "flag"]
        printed = run_here(
            "search.py", "--model", str(demo[0] / "model"), "--query", *queries, "-k", "4", "--output", str(output)
        )
        assert output.stat().st_size > 1_000
        assert all(query in printed.splitlines() for query in queries)
        assert len([line for line in printed.splitlines() if line.startswith("  ")]) == 8
