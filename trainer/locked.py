# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Locked towers: what is frozen need not be computed again in every epoch.

Locked-image tuning (Zhai et al., 2022, "LiT", [arXiv 2111.07991](https://huggingface.co/papers/2111.07991)) keeps a
pre-trained image tower as it is and teaches a text tower to read it: what the tower knows of images is worth more than
what it would learn from the pairs at hand. A locked tower says the same of a pair in every epoch, so it can be asked
once: its features become columns of the data set, and in training they answer in its place.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import datasets
import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import logging

from .data.collator import TOWER_COLUMNS
from .data.pairs import clean_captions
from .data.transforms import ImageDecodingError, decode_image
from .embedding import dual_encoder, evaluation_mode, feature_encoder, text_options
from .features import add_features, encode_readable, fingerprint_of


logger = logging.get_logger(__name__)

# What a contrast needs only to be scaled: alone, it teaches nothing.
_SCALARS = ("logit_scale", "logit_bias")

# Cached and computed embeddings are compared on so many pairs, taken from so many at the beginning of the data set.
_COMPARED, _LOOKED_AT = 4, 32


@dataclass(frozen=True)
class _Tower:
    """Where the dual encoders of transformers keep a tower, and what they do with what it says."""

    module: str
    projection: str
    method: str
    column: str


TOWERS = {
    "vision": _Tower("vision_model", "visual_projection", "get_image_features", TOWER_COLUMNS["vision"]),
    "text": _Tower("text_model", "text_projection", "get_text_features", TOWER_COLUMNS["text"]),
}


# Locking ---------------------------------------------------------------------------------------------------------


def lock_towers(model: nn.Module, *, vision: bool = False, text: bool = False) -> None:
    """
    Freezes towers of a dual encoder, adapters inside them included, and keeps them in evaluation mode, whatever mode
    the model is put into: what does not learn has no use for dropout. Projections, temperature, fusion encoder and
    heads go on learning. A tower whose parameters are made to require gradients again is as it was before.

    Args:
        model (`nn.Module`):
            A dual encoder with `vision_model` and `text_model`; also one with heads, or under adapters.
        vision (`bool`, *optional*, defaults to `False`):
            Whether to lock the image tower.
        text (`bool`, *optional*, defaults to `False`):
            Whether to lock the text tower.

    Raises:
        ValueError: if the model has no such tower, or if nothing would be left to train.
    """
    names = [name for name, locked in (("vision", vision), ("text", text)) if locked]
    towers = [_tower_of(model, name) for name in names]
    frozen = {id(parameter) for tower in towers for parameter in tower.parameters()}
    learning = [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and id(parameter) not in frozen and name.split(".")[-1] not in _SCALARS
    ]
    if names and not learning:
        encoder = dual_encoder(model)
        has_projections = all(hasattr(encoder, tower.projection) for tower in TOWERS.values())
        reason = "" if has_projections else f" `{type(encoder).__name__}` has no projections beside its towers."
        raise ValueError(
            f"With {' and '.join(f'`lock_{name}`' for name in names)} nothing is left to train but the temperature."
            f"{reason} Leave one tower unlocked."
        )
    for tower in towers:
        tower.requires_grad_(False).eval()
        # On the instance, so that it goes where the tower goes, the teacher's copy included.
        vars(tower)["train"] = partial(_train_unless_locked, tower)


def _tower_of(model: nn.Module, name: str) -> nn.Module:
    encoder = dual_encoder(model)
    tower = getattr(encoder, TOWERS[name].module, None)
    if not isinstance(tower, nn.Module):
        raise ValueError(
            f"`{type(encoder).__name__}` has no `{TOWERS[name].module}` that could be locked (`lock_{name}`) or asked "
            "for features. Freeze what you want frozen with `requires_grad_(False)` instead."
        )
    return tower


def _train_unless_locked(tower: nn.Module, mode: bool = True) -> nn.Module:
    """`nn.Module.train` of a locked tower: evaluation mode for as long as nothing in it learns."""
    learns = any(parameter.requires_grad for parameter in tower.parameters())
    return type(tower).train(tower, mode and learns)


# Asking a tower once ---------------------------------------------------------------------------------------------


class _TowerEncoder:
    """What one tower hands to its projection, for rows of pairs: an encoder as [`add_features`] takes it."""

    def __init__(self, model: nn.Module, processor: Any, name: str, max_length: int | None):
        self.model = model
        self.processor = processor
        self.name = name
        self.tower = _tower_of(model, name)
        self.options = text_options(model, processor, max_length) if name == "text" else {}
        self.columns = (TOWERS[name].column,)
        self._embed = feature_encoder(model, TOWERS[name].method)

    @torch.inference_mode()
    def encode(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        with evaluation_mode(self.model):
            if self.name == "vision":
                images = [row["image"] for row in rows]
                features = encode_readable(images, self._encode_images, "The image tower")
            else:
                captions = [clean_captions(row.get("captions"), row.get("caption")) or [""] for row in rows]
                features = self._encode_texts([texts[0] for texts in captions])
        return {self.columns[0]: features}

    def _encode_images(self, pictures: list[Any]) -> torch.Tensor:
        return self._features(self.processor(images=pictures, return_tensors="pt"))

    def _encode_texts(self, texts: list[str]) -> torch.Tensor:
        return self._features(self.processor(text=texts, return_tensors="pt", **self.options)).float().cpu()

    def _features(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        """What the projection is given while the model embeds; without a projection, what the tower returns."""
        seen: list[Any] = []
        projection = getattr(dual_encoder(self.model), TOWERS[self.name].projection, None)
        if isinstance(projection, nn.Module):
            hook = projection.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        else:
            hook = self.tower.register_forward_hook(
                lambda _, given, output: seen.append(getattr(output, "pooler_output", None))
            )
        try:
            self._embed(inputs)
        finally:
            hook.remove()
        if len(seen) != 1 or not isinstance(seen[0], torch.Tensor) or seen[0].ndim != 2:
            raise ValueError(
                f"The {self.name} tower of `{type(self.model).__name__}` cannot be cached: it does not hand one "
                "vector for each pair to its projection. Set `cache_locked_towers=False`."
            )
        return seen[0]

    def fingerprint(self) -> str:
        return fingerprint_of(self.tower, getattr(self.tower, "config", None), self.processor, self.options)


def add_tower_features(
    dataset: datasets.Dataset,
    model: nn.Module,
    processor: Any,
    *,
    vision: bool = True,
    text: bool = True,
    max_length: int | None = None,
    batch_size: int = 64,
    cache_dir: str | os.PathLike | None = None,
    show_progress: bool = True,
) -> datasets.Dataset:
    r"""
    Writes what the towers of a dual encoder say of every pair as columns of the data set, once. Training with these
    towers locked ([`SaclTrainingArguments`]: `lock_vision`, `lock_text`, `cache_locked_towers`) then neither computes
    them nor decodes an image: an epoch costs little more than what is left to learn.

    A feature is what the tower hands to its projection: one vector, of the image as the processor prepares it, without
    augmentation. An interrupted call goes on where it stopped, and a repeated one reads what is there (see
    [`add_features`]).

    Args:
        dataset ([`~datasets.Dataset`]):
            Pairs as [`load_pairs`] gives them.
        model ([`PreTrainedModel`]):
            A dual encoder with `vision_model` and `text_model`; also one with heads, or under adapters.
        processor ([`ProcessorMixin`]):
            Called with `images=` and with `text=`.
        vision (`bool`, *optional*, defaults to `True`):
            Whether to ask the image tower.
        text (`bool`, *optional*, defaults to `True`):
            Whether to ask the text tower. Only for pairs of one caption each: a pair of several trains on one of them
            at a time, which one feature cannot stand for.
        max_length (`int`, *optional*):
            Longer captions are cut to so many tokens: the `max_length` of the collator, if it has one. By default what
            the processor, tokenizer or model allows.
        batch_size (`int`, *optional*, defaults to 64):
            Pairs per forward pass.
        cache_dir (`str` or `os.PathLike`, *optional*):
            Where features are kept. Defaults to a folder in the cache of `datasets`.
        show_progress (`bool`, *optional*, defaults to `True`):
            Whether to show a progress bar.

    Returns:
        [`~datasets.Dataset`]: the data set with `vision_tower_features`, `text_tower_features` or both: lists of
        float32, as long as the input of the projection. Columns that are there already stay as they are.

    Raises:
        ValueError: if the data set has no length or no rows, if the model lacks a tower, or if with `text` a pair has
            several captions.

    Example:

    ```python
    >>> from transformers import AutoModel, AutoProcessor
    >>> from trainer import SaclTrainer, SaclTrainingArguments, add_tower_features, load_pairs

    >>> model = AutoModel.from_pretrained("openai/clip-vit-base-patch32")
    >>> processor = AutoProcessor.from_pretrained("openai/clip-vit-base-patch32")
    >>> pairs = add_tower_features(load_pairs("user/catalogue", split="train"), model, processor, text=False)
    >>> args = SaclTrainingArguments("lit", lock_vision=True, cache_locked_towers=True)
    >>> SaclTrainer(model, args, train_dataset=pairs, processing_class=processor).train()
    ```

    Source: Zhai et al., CVPR 2022 ([arXiv 2111.07991](https://huggingface.co/papers/2111.07991)), who precompute the
    locked tower's embeddings too.
    """
    names = [name for name, wanted in (("vision", vision), ("text", text)) if wanted]
    names = [name for name in names if TOWERS[name].column not in (getattr(dataset, "column_names", None) or ())]
    encoders = {name: _TowerEncoder(model, processor, name, max_length) for name in names}
    if "text" in names and isinstance(dataset, datasets.Dataset):
        _check_single_captions(dataset)
    parts = [dataset]
    for name, encoder in encoders.items():
        # Each of the data set as it was given: features of one tower do not depend on whether the other is cached.
        with_features = add_features(
            dataset,
            encoder,
            name=f"{name} tower features",
            batch_size=batch_size,
            cache_dir=cache_dir,
            show_progress=show_progress,
        )
        parts.append(with_features.select_columns(list(encoder.columns)))
    return datasets.concatenate_datasets(parts, axis=1) if encoders else dataset


def _check_single_captions(dataset: datasets.Dataset) -> None:
    names = [name for name in ("captions", "caption") if name in dataset.column_names]
    if "captions" not in names:
        return
    number = 0
    for batch in dataset.select_columns(names).with_format(None).iter(batch_size=1000):
        for values in zip(*batch.values(), strict=True):
            captions = clean_captions(*values)
            if len(captions) > 1:
                raise ValueError(
                    f"Row {number} has {len(captions)} captions, of which training takes another one each time: one "
                    "feature of the text tower cannot stand for them. Give each caption a row of its own, with the "
                    "`pair_id` of its image, or cache the image tower alone (`lock_text=False`, `text=False`)."
                )
            number += 1


def without_tower_features(dataset: Any, keep: Sequence[str] = ()) -> Any:
    """The data set without columns of tower features, but for those of the towers to `keep`."""
    kept = {TOWERS[name].column for name in keep}
    there = getattr(dataset, "column_names", None) or ()
    columns = [column for column in TOWER_COLUMNS.values() if column in there and column not in kept]
    return dataset.remove_columns(columns) if columns else dataset


# Answering in training -------------------------------------------------------------------------------------------


@contextmanager
def cached_towers(model: nn.Module, batch: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """
    Inside, the towers of which the batch has features answer with these instead of computing: the model's own forward
    runs as ever, hooks and all.

    Args:
        model (`nn.Module`):
            The model that is going to be called, unwrapped.
        batch (`Mapping[str, Any]`):
            As [`PairCollator`] makes it.

    Returns:
        `dict[str, Any]`: the batch to call the model with: where there are no pixels, features stand in for them.
    """
    batch = dict(batch)
    with ExitStack() as answering:
        for tower in TOWERS.values():
            if tower.column in batch:
                module = getattr(dual_encoder(model), tower.module)
                answering.enter_context(_answering(module, batch[tower.column]))
        if TOWER_COLUMNS["vision"] in batch:
            # Not read by anyone; some models insist on being given images.
            batch["pixel_values"] = batch[TOWER_COLUMNS["vision"]]
        yield batch


@contextmanager
def _answering(tower: nn.Module, features: torch.Tensor) -> Iterator[None]:
    features = features.to(_dtype_of(tower))

    def forward(*args: Any, **kwargs: Any) -> BaseModelOutputWithPooling:
        # Models take the pooled output, or the first token.
        return BaseModelOutputWithPooling(last_hidden_state=features[:, None], pooler_output=features)

    instance = vars(tower)  # where a forward of its own may lie already, put there by another library
    before = instance.get("forward")
    instance["forward"] = forward
    try:
        yield
    finally:
        del instance["forward"]
        if before is not None:
            instance["forward"] = before


def _dtype_of(module: nn.Module) -> torch.dtype:
    return next((weight.dtype for weight in module.parameters() if weight.is_floating_point()), torch.float32)


# Before training -------------------------------------------------------------------------------------------------


def check_cacheable(args: Any, forward_arguments: set[str]) -> None:
    """
    Checks, before anything is computed, that one vector of each tower is all that the losses need.

    Args:
        args ([`SaclTrainingArguments`]):
            The weights of the losses, and whether towers are cached.
        forward_arguments (`set[str]`):
            What the model's forward takes, which says which heads it has.

    Raises:
        ValueError: if losses of a fusion encoder, which reads every token of both towers, are to be trained, or if one
            process drives several GPUs, among which features would not be divided.
    """
    if args.cache_locked_towers and args.n_gpu > 1:
        raise ValueError(
            f"`cache_locked_towers` needs a process for each of the {args.n_gpu} GPUs: start the training with "
            "`accelerate launch` or `torchrun`."
        )
    weights = {"itm_weight": "with_itm", "mlm_weight": "mlm_input_ids"}
    needed = [weight for weight, name in weights.items() if getattr(args, weight) > 0 and name in forward_arguments]
    if args.cache_locked_towers and needed:
        raise ValueError(
            f"`cache_locked_towers` keeps one vector of each image and text, but with "
            f"{' and '.join(f'`{weight}={getattr(args, weight)}`' for weight in needed)} the fusion encoder reads "
            f"all their tokens. Set {' and '.join(f'`{weight}=0`' for weight in needed)}, or "
            "`cache_locked_towers=False`."
        )


def cache_locked_towers(
    dataset: Any,
    model: nn.Module,
    args: Any,
    *,
    processor: Any,
    collator: Callable[[list[dict]], dict[str, torch.Tensor]],
    embed: Callable[[dict[str, torch.Tensor]], tuple[torch.Tensor, torch.Tensor]],
    show_progress: bool = True,
) -> Any:
    """
    The training pairs with the features of the towers that are locked and cached, and of no others: features of a
    tower that learns would be out of date. With features of their images, they are without the images.

    Args:
        dataset ([`~datasets.Dataset`]):
            The training pairs.
        model (`nn.Module`):
            The model, with its towers locked.
        args ([`SaclTrainingArguments`]):
            Say which towers are locked and whether to cache them.
        processor ([`ProcessorMixin`]):
            What prepares images and texts.
        collator ([`PairCollator`]):
            Makes batches, without chance.
        embed (`Callable`):
            From a batch to the embeddings of images and texts, L2-normalised.
        show_progress (`bool`, *optional*, defaults to `True`):
            Whether to show progress bars.

    Raises:
        ValueError: if the features do not give the embeddings that the towers give.
    """
    cached = [name for name in TOWERS if args.cache_locked_towers and getattr(args, f"lock_{name}")]
    dataset = without_tower_features(dataset, keep=cached)
    if dataset is None or not cached:
        return dataset
    if processor is None:
        raise ValueError("`cache_locked_towers` asks the towers with the model's processor: pass `processing_class`.")
    dataset = add_tower_features(
        dataset,
        model,
        processor,
        vision="vision" in cached,
        text="text" in cached,
        max_length=getattr(collator, "max_length", None),
        batch_size=args.eval_batch_size,
        show_progress=show_progress,
    )
    verify_tower_features(dataset, model, collator, embed)
    if "vision" in cached and "image" in dataset.column_names:
        dataset = dataset.remove_columns("image")  # What is not decoded need not be read either.
    return dataset


@torch.no_grad()
def verify_tower_features(
    dataset: datasets.Dataset,
    model: nn.Module,
    collator: Callable[[list[dict]], dict[str, torch.Tensor]],
    embed: Callable[[dict[str, torch.Tensor]], tuple[torch.Tensor, torch.Tensor]],
) -> None:
    """
    Compares, on a few pairs, the embeddings that come of the features with those that the towers give. That finds
    features of other weights, of another preprocessing or length of text, and models whose towers cannot be cached.

    Args:
        dataset ([`~datasets.Dataset`]):
            Pairs with features.
        model (`nn.Module`):
            The model that `embed` calls.
        collator ([`PairCollator`]):
            Makes batches, without chance.
        embed (`Callable`):
            From a batch to the embeddings of images and texts, L2-normalised.

    Raises:
        ValueError: if they differ by more than 1e-4 (for a model in half precision, by more than its rounding).
    """
    columns = [column for column in TOWER_COLUMNS.values() if column in dataset.column_names]
    rows = [row for row in dataset.select(range(min(_LOOKED_AT, len(dataset)))) if _is_comparable(row, columns)]
    rows = rows[:_COMPARED]
    if not rows:
        logger.warning(
            f"None of the first {_LOOKED_AT} pairs has an image that can be read, so their tower features are taken "
            "on trust."
        )
        return
    from_cache = collator(rows)
    ignored = [column for column in columns if column not in from_cache]
    if ignored:
        raise ValueError(
            f"The data collator leaves out {' and '.join(map(repr, ignored))}, so locked towers would be computed all "
            "the same. Use a `PairCollator`, or set `cache_locked_towers=False`."
        )
    computed = collator([{name: value for name, value in row.items() if name not in columns} for row in rows])
    with evaluation_mode(model):
        pairs = zip(embed(from_cache), embed(computed), strict=True)
        distances = [float((ours - theirs).abs().max()) for ours, theirs in pairs]
    if not max(distances) <= max(1e-4, 4 * torch.finfo(_dtype_of(model)).eps):
        raise ValueError(
            f"With {' and '.join(f'`{column}`' for column in columns)} the embeddings of the first images and texts "
            f"are off by {distances[0]:.2g} and {distances[1]:.2g}. Either these columns were made with other "
            "weights, another processor or another `max_length`: remove them, and they are made anew. Or more than "
            f"one vector of a tower of `{type(model).__name__}` is used: set `cache_locked_towers=False`."
        )


def _is_comparable(row: Mapping[str, Any], columns: Sequence[str]) -> bool:
    """Whether a pair can be embedded both ways."""
    try:
        decode_image(row.get("image") or {"bytes": None, "path": None})
    except ImageDecodingError:
        return False
    finite = all(torch.as_tensor(row[column]).isfinite().all() for column in columns)
    return finite and bool(clean_captions(row.get("captions"), row.get("caption")))
