# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The training scripts from their command lines, one step long: what they write loads, what they say is there."""

import pytest
from peft import PeftModel
from transformers import AutoModel, AutoProcessor, CLIPModel

from modeling_sacl import SaclForImageTextRetrieval, SaclForPreTraining

from .scripts import EXAMPLES, run, run_here


ONE_STEP = (
    "--max_steps",
    "1",
    "--logging_steps",
    "1",
    "--per_device_train_batch_size",
    "16",
    "--disable_tqdm",
    "True",
)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrain")
    printed = run("pretrain.py", "--output_dir", str(folder), *ONE_STEP, "--eval_strategy", "no")
    return folder, printed


@pytest.fixture
def few_pairs(monkeypatch):
    """The scripts that run in this process see every eighth picture of each split."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import emoji

    load = emoji.load_emoji

    def load_few(*arguments):
        rows = load(*arguments)
        return rows.select(range(0, len(rows), 8))

    monkeypatch.setattr(emoji, "load_emoji", load_few)


def test_pretrain(pretrained):
    folder, printed = pretrained
    assert "8,072 pairs" in printed
    for name in ("itc_loss", "itm_loss", "mlm_loss", "text_to_image_recall@10"):
        assert name in printed
    _, report = SaclForPreTraining.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert AutoProcessor.from_pretrained(folder).image_processor.size["height"] == 48


def test_finetune_retrieval(pretrained, few_pairs, tmp_path):
    options = ("--model", str(pretrained[0]), "--output_dir", str(tmp_path), "--rerank_top_k", "10")
    printed = run_here("finetune_retrieval.py", *options, "--image_size", "24", *ONE_STEP)
    assert printed.count("ITM + ITC") == 4 and "Before: test_unseen_concept" in printed and "After" in printed
    model = SaclForImageTextRetrieval.from_pretrained(tmp_path)
    assert model.config.vision_config.image_size == 24
    assert AutoProcessor.from_pretrained(tmp_path).image_processor.size == {"height": 24, "width": 24}


def test_lora(pretrained, few_pairs, tmp_path):
    printed = run_here("lora.py", "--model", str(pretrained[0]), "--output_dir", str(tmp_path), *ONE_STEP)
    assert "parameters are trained" in printed and "The adapters are in" in printed
    assert (tmp_path / "adapter_model.safetensors").exists()
    PeftModel.from_pretrained(AutoModel.from_pretrained(pretrained[0]), tmp_path)


def test_finetune_clip(few_pairs, tmp_path):
    printed = run_here("finetune_clip_with_sacl.py", "--output_dir", str(tmp_path), *ONE_STEP)
    assert "CLIPModel" in printed and "test_unseen_concept, 84 pictures" in printed
    CLIPModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("script", ["finetune_retrieval.py", "lora.py"])
def test_without_a_model_it_says_how_to_get_one(script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="run `python examples/pretrain.py` first"):
        run_here(script, "--output_dir", str(tmp_path))
