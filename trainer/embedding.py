# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Embeddings by any dual encoder: from what its processor returns to normalised features."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


# A tokenizer that knows no limit reports int(1e30).
_UNLIMITED = 10**6


def dual_encoder(model: nn.Module) -> nn.Module:
    """What embeds images and texts, below adapters and below heads such as those of `SaclForPreTraining`."""
    get_base_model = getattr(model, "get_base_model", None)
    unwrapped = get_base_model() if callable(get_base_model) else model
    embeds = hasattr(unwrapped, "get_image_features") or hasattr(unwrapped, "get_text_features")
    return unwrapped if embeds else getattr(unwrapped, "base_model", unwrapped)


def feature_encoder(model: nn.Module, method_name: str) -> Callable[[Mapping[str, Any]], torch.Tensor]:
    """From what the processor returns to normalised embeddings, on the model's device and in its dtype."""
    method = getattr(dual_encoder(model), method_name, None)
    if not callable(method):
        raise TypeError(
            f"{type(model).__name__} has no `{method_name}`: pass a dual encoder such as `CLIPModel`, unwrapped from "
            "`DistributedDataParallel`."
        )
    parameters = inspect.signature(method).parameters
    anything = all(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters.values())
    weight = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))

    def encode(inputs: Mapping[str, Any]) -> torch.Tensor:
        # Tokenizers of other families add inputs, such as `token_type_ids`, that not every text tower knows.
        arguments = {
            name: value.to(weight.device, weight.dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
            if anything or name in parameters
        }
        output = method(**arguments)
        features = getattr(output, "pooler_output", output)  # a plain tensor before transformers 5
        if not isinstance(features, torch.Tensor) or features.ndim != 2:
            found = tuple(features.shape) if isinstance(features, torch.Tensor) else type(output).__name__
            raise TypeError(
                f"`{type(model).__name__}.{method_name}` must return a tensor of shape (batch, dim) or an output with "
                f"such a `pooler_output`, got {found}."
            )
        features = features if features.dtype == torch.float64 else features.float()
        return nn.functional.normalize(features, dim=-1)

    return encode


def text_options(model: nn.Module | None, processor: Any, max_length: int | None) -> dict[str, Any]:
    """How captions are padded and cut: as asked, else as the processor declares, else as the model allows."""
    declared = getattr(processor, "text_kwargs", None) or {}
    config = getattr(model, "config", None)
    text_config = getattr(config, "text_config", None)
    # SigLIP reads the last position and takes no mask: it was trained with padding to the full length.
    full_length = str(getattr(text_config or config, "model_type", "")).startswith("siglip")
    options = {"padding": declared.get("padding", "max_length" if full_length else True)}
    limit = declared.get("max_length") if max_length is None else max_length
    if limit is None:
        limit = getattr(getattr(processor, "tokenizer", processor), "model_max_length", None)
    if limit is None or limit > _UNLIMITED:
        limit = getattr(text_config, "max_position_embeddings", None)
    return options if limit is None else {**options, "truncation": True, "max_length": limit}


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; outside every module is as it was, frozen parts included."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
