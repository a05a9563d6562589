# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Embeddings as columns of a data set: computed once by any dual encoder, kept on disk, ready to be searched."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import datasets
import numpy as np
import PIL.Image
import torch
import xxhash
from datasets.table import concat_tables
from torch import nn
from transformers.utils import logging

from ..data.pairs import clean_captions
from ..data.transforms import ImageDecodingError, decode_image
from ..distributed import world_size
from ..embedding import dual_encoder, evaluation_mode, feature_encoder, text_options
from ..features import add_features, fingerprint_of


logger = logging.get_logger(__name__)

IMAGE_EMBEDS, TEXT_EMBEDS = EMBEDS = ("image_embeds", "text_embeds")

# Rows whose embeddings are in memory at a time: 100 MB at 256 dimensions.
ROWS_AT_A_TIME = 100_000


class Embedder:
    """A dual encoder with its processor: normalised float32 embeddings, on the CPU, of pictures and of texts."""

    def __init__(self, model: nn.Module, processor: Any, max_length: int | None = None):
        self.model = model
        self.processor = processor
        self.options = text_options(model, processor, max_length)
        self._encode_images = feature_encoder(model, "get_image_features")
        self._encode_texts = feature_encoder(model, "get_text_features")

    def images(self, pictures: Sequence[PIL.Image.Image]) -> torch.Tensor:
        with torch.inference_mode(), evaluation_mode(self.model):
            return self._encode_images(self.image_inputs(pictures)).float().cpu()

    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        with torch.inference_mode(), evaluation_mode(self.model):
            return self._encode_texts(self.text_inputs(texts)).float().cpu()

    def image_inputs(self, pictures: Sequence[PIL.Image.Image]) -> Mapping[str, torch.Tensor]:
        return self.processor(images=list(pictures), return_tensors="pt")

    def text_inputs(self, texts: Sequence[str]) -> Mapping[str, torch.Tensor]:
        return self.processor(text=list(texts), return_tensors="pt", **self.options)


class RowEncoder:
    """Embeds rows as [`rows_to_embed`] gives them: an encoder as [`add_features`] takes it."""

    def __init__(self, embedder: Embedder, columns: Sequence[str], on_error: str):
        self.embedder = embedder
        self.columns = tuple(columns)
        self.on_error = on_error

    def encode(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        features = {}
        if IMAGE_EMBEDS in self.columns:
            pictures = self._usable(rows, _picture_of)
            features[IMAGE_EMBEDS] = _spread(pictures, len(rows), self.embedder.images, PIL.Image.new("RGB", (64, 64)))
        if TEXT_EMBEDS in self.columns:
            texts = self._usable(rows, lambda row: first_caption(row["caption"]))
            features[TEXT_EMBEDS] = _spread(texts, len(rows), self.embedder.texts, "a")
        return features

    def _usable(self, rows: Sequence[Mapping[str, Any]], read: Callable[[Mapping[str, Any]], Any]) -> dict[int, Any]:
        """What is read of the rows of which something can be."""
        usable = {}
        for number, row in enumerate(rows):
            try:
                usable[number] = read(row)
            except _UnusableRow as reason:
                if self.on_error == "raise":
                    raise ValueError(
                        f"Row {row['row']} cannot be embedded: {reason}. What has been embedded before is kept; "
                        '`on_error="skip"` leaves such rows out.'
                    ) from reason
        return usable

    def fingerprint(self) -> str:
        model = dual_encoder(self.embedder.model)
        return fingerprint_of(
            model, getattr(model, "config", None), self.embedder.processor, self.embedder.options, self.columns
        )


class _UnusableRow(Exception):
    """Of this row there is no embedding; the message says why."""


def _picture_of(row: Mapping[str, Any]) -> PIL.Image.Image:
    try:
        return decode_image(row["image"] or {"bytes": None, "path": None})
    except ImageDecodingError as error:
        raise _UnusableRow(f"its image cannot be read ({error})") from error


def first_caption(value: Any) -> str:
    """The caption that stands for a row: the first that is not blank."""
    captions = clean_captions(value)
    if not captions:
        raise _UnusableRow("it has no caption")
    return captions[0]


def _spread(
    items: Mapping[int, Any], count: int, embed: Callable[[list[Any]], torch.Tensor], anything: Any
) -> torch.Tensor:
    """Embeddings in the places of their items, NaN in the others; `anything` tells how wide they are if need be."""
    embeds = embed(list(items.values()) or [anything])
    spread = torch.full((count, embeds.shape[1]), torch.nan)
    spread[list(items)] = embeds[: len(items)]
    return spread


def rows_to_embed(dataset: datasets.Dataset, image_column: str | None, caption_column: str | None) -> datasets.Dataset:
    """The data set with nothing but `image`, `caption` and the number of the row, as [`RowEncoder`] reads it."""
    named = ((image_column, "image"), (caption_column, "caption"))
    names = {column: name for column, name in named if column is not None}
    rows = dataset.select_columns(list(names)).rename_columns(names)
    return rows.add_column("row", np.arange(len(rows)))


def resolve_columns(
    dataset: datasets.Dataset, image_column: str, caption_column: str | None
) -> tuple[str | None, str | None]:
    """The columns of images and captions. What is named must be there; what is not named need not."""
    there = dataset.column_names
    for argument, column, default in (
        ("image_column", image_column, "image"),
        ("caption_column", caption_column, None),
    ):
        if column != default and column not in there:
            raise ValueError(f"The data set has no column {column!r}, only {sorted(there)}: set `{argument}`.")
    captions = [column for column in ("captions", "caption") if column in there]
    return (
        image_column if image_column in there else None,
        caption_column or (captions[0] if captions else None),
    )


def embed_dataset(
    model: nn.Module,
    dataset: datasets.Dataset,
    processor: Any,
    *,
    image_column: str = "image",
    caption_column: str | None = None,
    images: bool = True,
    texts: bool = True,
    max_length: int | None = None,
    batch_size: int = 64,
    on_error: str = "raise",
    cache_dir: str | os.PathLike | None = None,
    show_progress: bool = True,
) -> datasets.Dataset:
    r"""
    Writes the embeddings of images and captions as columns of the data set, once.

    Embeddings are written to disk a few thousand rows at a time. An interrupted call goes on where it stopped, and a
    repeated one reads what is there, as long as data set, model and processor are the same. Several processes share
    the work where they share the folder: start them with `accelerate launch` or `torchrun`, have each create
    [`~accelerate.PartialState`] and call this; each gets the whole result. A data set that was filtered or shuffled is
    copied once into the cache of `datasets`, as columns can only be added to rows that lie in their order.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Any model with `get_image_features` and `get_text_features`: [`SaclModel`], with or without heads,
            [`~transformers.CLIPModel`], [`~transformers.SiglipModel`], ...
        dataset ([`~datasets.Dataset`]):
            Rows with images, captions or both.
        processor ([`~transformers.ProcessorMixin`]):
            Called with `images=` and with `text=`.
        image_column (`str`, *optional*, defaults to `"image"`):
            Name of the image column.
        caption_column (`str`, *optional*):
            Name of the caption column. By default `"captions"` if there is one, else `"caption"`. A row of several
            captions is embedded by the first of them, which is also the one that a matching head reads; to find an
            image by each of them, give each a row.
        images (`bool`, *optional*, defaults to `True`):
            Whether to embed images, if there are any.
        texts (`bool`, *optional*, defaults to `True`):
            Whether to embed captions, if there are any.
        max_length (`int`, *optional*):
            Longer captions are cut to so many tokens. By default what the processor, tokenizer or model allows.
        batch_size (`int`, *optional*, defaults to 64):
            Rows per forward pass.
        on_error (`str`, *optional*, defaults to `"raise"`):
            What becomes of a row whose image cannot be read or that has no caption: `"raise"` stops there and names
            the row, `"skip"` leaves it out and says at the end how many were.
        cache_dir (`str` or `os.PathLike`, *optional*):
            Where embeddings are kept. Defaults to a folder in the cache of `datasets`.
        show_progress (`bool`, *optional*, defaults to `True`):
            Whether to show a progress bar.

    Returns:
        [`~datasets.Dataset`]: the data set, without an output format, with `image_embeds`, `text_embeds` or both:
        L2-normalised float32 lists of one length.

    Raises:
        `ValueError`: if the data set is none of rows, has no rows or none that can be embedded, if it has neither
        column or one of embeddings already, if a row cannot be embedded, or if several processes do not know of each
        other.
        `TypeError`: if the model has no `get_image_features` or `get_text_features`.

    Example:

    ```python
    >>> from datasets import load_dataset
    >>> from transformers import AutoModel, AutoProcessor
    >>> from trainer import embed_dataset

    >>> model = AutoModel.from_pretrained("openai/clip-vit-base-patch32")
    >>> processor = AutoProcessor.from_pretrained("openai/clip-vit-base-patch32")
    >>> photos = embed_dataset(model, load_dataset("imagefolder", data_dir="photos", split="train"), processor)
    >>> photos.features["image_embeds"]
    List(Value('float32'), length=512)
    ```
    """
    if not isinstance(dataset, datasets.Dataset):
        raise ValueError(
            f"Embeddings are kept beside a `datasets.Dataset`, not a `{type(dataset).__name__}`: pass one split, or "
            "save the stream to disk first."
        )
    if on_error not in ("raise", "skip"):
        raise ValueError(f'`on_error` is "raise" or "skip", got {on_error!r}.')
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and world_size() == 1:
        raise ValueError(
            "Several processes were started but do not know of each other, so each would embed every row: create an "
            "`accelerate.PartialState()` first."
        )
    image_column_found, caption_column_found = resolve_columns(dataset, image_column, caption_column)
    image_column_found = image_column_found if images else None
    caption_column_found = caption_column_found if texts else None
    columns = [
        name
        for name, column in zip(EMBEDS, (image_column_found, caption_column_found), strict=True)
        if column is not None
    ]
    if not columns:
        raise ValueError(
            f"The data set has neither images nor captions that were asked for, only {dataset.column_names}: set "
            "`image_column` or `caption_column`."
        )
    if there := [column for column in columns if column in dataset.column_names]:
        raise ValueError(
            f"The data set has {' and '.join(map(repr, there))} already, perhaps of another model: `remove_columns` "
            "first to embed anew."
        )
    if len(dataset) == 0:
        raise ValueError("The data set has no rows: nothing can be embedded.")

    dataset = dataset.with_format(None)
    if dataset._indices is not None:
        dataset = dataset.flatten_indices()
    encoder = RowEncoder(Embedder(model, processor, max_length), columns, on_error)
    embedded = add_features(
        rows_to_embed(dataset, image_column_found, caption_column_found),
        encoder,
        name="embeddings",
        batch_size=batch_size,
        cache_dir=cache_dir,
        show_progress=show_progress,
    )
    embeds = _of_one_length(embedded, columns)
    missing = _missing(embeds)
    embedded = datasets.concatenate_datasets([dataset, embeds], axis=1)
    if not missing.any():
        return embedded
    first = ", ".join(map(str, np.flatnonzero(missing)[:5])) + (", ..." if missing.sum() > 5 else "")
    if missing.all() or on_error == "raise":
        raise ValueError(
            f"{missing.sum()} of {len(missing)} rows cannot be embedded ({first}): their image cannot be read, they "
            "have no caption, or the model gives numbers that are not finite."
        )
    logger.warning(f"{missing.sum()} of {len(missing)} rows could not be embedded and are left out: {first}.")
    return embedded.select(np.flatnonzero(~missing))


def _of_one_length(embedded: datasets.Dataset, columns: Sequence[str]) -> datasets.Dataset:
    """The columns of embeddings alone, in a type that says how long their lists are; nothing is copied."""
    first = embedded.select_columns(list(columns))[0]
    features = datasets.Features(
        {column: datasets.List(datasets.Value("float32"), length=len(first[column])) for column in columns}
    )
    files = [table for row in embedded.data.blocks for table in row if table.column_names == list(columns)]
    table = concat_tables([file.cast(features.arrow_schema) for file in files])
    return datasets.Dataset(table, info=datasets.DatasetInfo(features=features))


def _missing(embeds: datasets.Dataset) -> np.ndarray:
    """Which rows lack an embedding."""
    parts = zip(*(batches(embeds, column) for column in embeds.column_names), strict=True)
    return np.concatenate([np.any([~np.isfinite(part).all(axis=1) for part in both], axis=0) for both in parts])


def batches(dataset: datasets.Dataset, column: str, start: int = 0) -> Iterator[np.ndarray]:
    """A column of embeddings as matrices of a number of rows that fits into memory."""
    rows = dataset.with_format("numpy", columns=[column])
    for first in range(start, len(dataset), ROWS_AT_A_TIME):
        matrix = rows[first : first + ROWS_AT_A_TIME][column]
        if not isinstance(matrix, np.ndarray) or matrix.ndim != 2 or matrix.dtype == object:
            raise ValueError(f"`{column}` must have lists of numbers of one length: make it with `embed_dataset`.")
        yield np.ascontiguousarray(matrix, dtype=np.float32)


def digest_of(dataset: datasets.Dataset, column: str) -> str:
    """A hash of all embeddings of a column, in their order."""
    digest = xxhash.xxh3_128()
    for matrix in batches(dataset, column):
        digest.update(matrix.data)
    return digest.hexdigest()
