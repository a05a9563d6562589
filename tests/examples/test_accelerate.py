# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The configurations for `accelerate launch` are read by the installed accelerate, and name layers that exist."""

from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from transformers.models.bert import modeling_bert

import modeling_sacl.modeling_sacl
from modeling_sacl import SaclConfig


FOLDER = Path(__file__).parents[2] / "examples" / "accelerate"


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.yaml")), ids=lambda file: file.name)
class TestConfigurations:
    def test_accelerate_reads_it(self, file):
        config = load_config_from_file(str(file))
        assert config.num_processes == 8 and config.mixed_precision == "bf16"

    def test_says_how_it_is_launched(self, file):
        assert f"accelerate launch --config_file examples/accelerate/{file.name}" in file.read_text()


def test_sliced_layers_exist():
    config = load_config_from_file(str(FOLDER / "fsdp2.yaml"))
    assert SaclConfig().text_config.model_type == "bert"
    for name in config.fsdp_config["fsdp_transformer_layer_cls_to_wrap"].split(","):
        assert hasattr(modeling_sacl.modeling_sacl, name) or hasattr(modeling_bert, name), name
