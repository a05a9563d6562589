# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""More rows than pairs in one forward: what terms want embedded too stands behind the pairs and is taken off again.

The model is called once in a step, since the hooks of DDP and FSDP, and whoever compiles it, count on that. A model
that matches or masks is told how many rows are extra, and leaves these alone.
"""

from collections.abc import Mapping
from typing import Any

import torch


# What stands behind the pairs, in this order, and under which prefix in a batch: second views, then mixtures.
VIEW, MIXED = "view_", "mixed_"

# Which inputs stand for the rows of which embeddings.
_EMBEDS = {"image_embeds": "pixel_values", "text_embeds": "input_ids"}


def append_rows(inputs: Mapping[str, Any], prefixes: tuple[str, ...]) -> dict[str, Any]:
    """
    A batch as the model is called with it: the rows of `view_pixel_values` behind those of `pixel_values`, and so on.

    Args:
        inputs (`Mapping[str, torch.Tensor]`): the batch.
        prefixes (`tuple[str, ...]`): which further rows are wanted; the others are left out.

    Raises:
        ValueError: if further rows have nothing to stand behind, differ from it in shape, or lack their mask.
    """
    widened = {name: value for name, value in inputs.items() if not name.startswith((VIEW, MIXED))}
    for prefix in prefixes:
        further = {name.removeprefix(prefix): rows for name, rows in inputs.items() if name.startswith(prefix)}
        if "input_ids" in further and "attention_mask" in inputs and "attention_mask" not in further:
            raise ValueError(
                f"The batch has `{prefix}input_ids` and `attention_mask`, but no `{prefix}attention_mask`."
            )
        for name, rows in further.items():
            ours = widened.get(name)
            if ours is None or ours.shape[1:] != rows.shape[1:]:
                shape = None if ours is None else tuple(ours.shape)
                raise ValueError(
                    f"The rows of `{prefix}{name}`, of shape {tuple(rows.shape)}, go through the model behind those "
                    f"of `{name}`, so they have to be like these (shape {shape}): pad texts to one length."
                )
            widened[name] = torch.cat([ours, rows.to(ours.dtype)])
    return widened


def extra_rows(inputs: Mapping[str, Any]) -> dict[str, int]:
    """How many texts and images of a batch belong to no pair, as models with heads are told."""
    pairs = len(inputs["pair_ids"])
    named = {"num_extra_texts": inputs.get("input_ids"), "num_extra_images": inputs.get("pixel_values")}
    return {name: len(rows) - pairs for name, rows in named.items() if rows is not None}


def take_rows_off(outputs: Any, inputs: Mapping[str, Any], prefixes: tuple[str, ...]) -> Any:
    """The outputs without further rows; what they have for those as `view_image_embeds` and so on beside them."""
    for embeds, source in _EMBEDS.items():
        kept = [prefix for prefix in prefixes if f"{prefix}{source}" in inputs]
        sizes = [len(inputs[f"{prefix}{source}"]) for prefix in kept]
        own, *further = outputs[embeds].split([len(outputs[embeds]) - sum(sizes), *sizes])
        outputs[embeds] = own
        for prefix, part in zip(kept, further, strict=True):
            outputs[f"{prefix}{embeds}"] = part
    return outputs


__all__ = ["MIXED", "VIEW", "append_rows", "extra_rows", "take_rows_off"]
