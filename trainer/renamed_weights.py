# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Checkpoints of models whose weights are saved under other names than they have in memory."""

import os
from pathlib import Path

from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import logging


logger = logging.get_logger(__name__)


def load_renamed_weights(model: nn.Module, folder: str | os.PathLike) -> None:
    """
    Loads the weights of a checkpoint if they are saved under other names than the model's own.

    Since transformers 5, some towers (ViT) are saved under the names of earlier releases. `from_pretrained` knows
    both; [`Trainer`] knows one, warns of missing keys, and goes on with the weights that it had.

    Args:
        model (`nn.Module`):
            The model, after [`Trainer`] has loaded the checkpoint. Adapters are saved by other means: left alone.
        folder (`str` or `os.PathLike`):
            The checkpoint.
    """
    saved = _saved_names(folder)
    if not isinstance(model, PreTrainedModel) or saved <= model.state_dict().keys():
        return
    restored = type(model).from_pretrained(folder, dtype=model.dtype)
    model.load_state_dict(restored.state_dict())
    logger.warning(
        f"All weights of {folder} are loaded: the keys that were reported as missing and unexpected are the names "
        f"under which `{type(model).__name__}` is saved."
    )


def _saved_names(folder: str | os.PathLike) -> set[str]:
    """The names of the weights in a checkpoint, sharded or not. Reads headers only."""
    names: set[str] = set()
    for path in Path(folder).glob("model*.safetensors"):
        with safe_open(path, "pt") as file:
            names |= set(file.keys())
    return names
