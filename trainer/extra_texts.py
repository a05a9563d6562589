# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Texts beyond the pairs' own, such as hard negatives: embedded in the same forward as the texts of the pairs."""

from collections.abc import Collection, Mapping

import torch
from transformers.utils import ModelOutput

from .distributed import gather
from .objectives import ExtraTexts, TextFeatures


# What a text is to any text tower, as far as the tower takes it.
_TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")

# Where they come from.
EXTRA_TEXTS_HINTS = {
    "negative": "`PairCollator(processor, negative_caption=swap_words)` makes them.",
    "further": "`PairCollator(processor, captions_per_image=2)` draws them.",
}


def with_extra_texts(
    inputs: dict[str, torch.Tensor], kind: str, forward_arguments: Collection[str], hint: str
) -> tuple[dict[str, torch.Tensor], int]:
    r"""
    The batch with its further texts below the texts of the pairs, so that one forward embeds them all.

    Args:
        inputs (`dict[str, torch.Tensor]`):
            A batch. Beside each input of the text tower, say `input_ids` of shape `(pairs, length)`, it has that of
            the further texts under `kind` and the same name, `negative_input_ids`, of shape `(pairs, texts, length)`,
            or of the same shape for one text for each pair.
        kind (`str`):
            What the names of the further texts begin with.
        forward_arguments (`Collection[str]`):
            What the model takes.
        hint (`str`):
            Where such texts come from, for the error.

    Returns:
        `tuple[dict[str, torch.Tensor], int]`: the batch, and how many further texts each pair has.

    Raises:
        ValueError: if the batch has no further texts, or they do not fit to the texts of the pairs.
    """
    further = {name: f"{kind}_{name}" for name in inputs if name in forward_arguments and f"{kind}_{name}" in inputs}
    missing = [name for name in _TEXT_INPUTS if name in inputs and name in forward_arguments and name not in further]
    if not further or missing:
        raise ValueError(
            f"The batch has no {' and '.join(f'`{kind}_{name}`' for name in missing or _TEXT_INPUTS[:1])}, and the "
            f"objective compares with these texts too. {hint}"
        )
    joined, counts = dict(inputs), set()
    for name, other in further.items():
        own, extra = inputs[name], inputs[other]
        extra = extra[:, None] if extra.dim() == own.dim() else extra
        if len(extra) != len(own) or extra.shape[2:] != own.shape[1:]:
            raise ValueError(
                f"`{other}` must have a text like those of `{name}` for each of its rows, shape "
                f"{tuple(own.shape[:1])} + (texts,) + {tuple(own.shape[1:])}, got {tuple(inputs[other].shape)}."
            )
        counts.add(extra.shape[1])
        joined[name] = torch.cat([own, extra.flatten(0, 1).to(own.dtype)])
    if len(counts) > 1:
        raise ValueError(f"{', '.join(map(repr, further.values()))} differ in how many texts a pair has: {counts}.")
    return joined, counts.pop()


def part_texts(outputs: ModelOutput, pairs: int) -> ModelOutput:
    """The output with the embeddings of the further texts in a place of their own, `(pairs, texts, dim)`."""
    embeds = outputs["text_embeds"]
    outputs["text_embeds"] = embeds[:pairs]
    outputs["extra_text_embeds"] = embeds[pairs:].unflatten(0, (pairs, -1))
    return outputs


def compare_extra_texts(
    embeds: torch.Tensor, inputs: Mapping[str, torch.Tensor], kind: str, counts: list[int], local: bool
) -> ExtraTexts:
    r"""
    The further texts of all processes.

    Args:
        embeds (`torch.Tensor` of shape `(pairs, texts, dim)`):
            Of this process, L2-normalised.
        inputs (`dict[str, torch.Tensor]`):
            The batch. With `caption_ids` of shape `(pairs,)`, and those of the further texts under `kind`, a text that
            is the caption of any pair in any process does not count.
        kind (`str`):
            What the names of the further texts begin with.
        counts (`list[int]`):
            How many pairs each process has.
        local (`bool`):
            Whether the anchors are the pairs of this process alone.
    """
    counted = torch.ones(embeds.shape[:2], dtype=torch.bool, device=embeds.device)
    if f"{kind}_caption_ids" in inputs:
        captions = gather(inputs["caption_ids"], counts)
        counted = ~torch.isin(inputs[f"{kind}_caption_ids"].view(embeds.shape[:2]), captions)
    own = TextFeatures(embeds, counted)
    everywhere = TextFeatures(gather(embeds, counts), gather(counted.to(torch.uint8), counts).bool())
    return ExtraTexts(own if local else everywhere, everywhere)
