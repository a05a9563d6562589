# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The two sides of a data set, embedded by any dual encoder, each distinct image and text once."""

import hashlib
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn
from transformers.utils import logging

from ..data.pairs import clean_captions
from ..data.transforms import ImageDecodingError, decode_image
from ..embedding import evaluation_mode, feature_encoder, text_options


logger = logging.get_logger(__name__)

T = TypeVar("T")


class PairEmbeddings(NamedTuple):
    """
    The two sides of a data set, embedded.

    Args:
        image_embeds (`torch.FloatTensor` of shape `(num_images, dim)`):
            L2-normalised embeddings of the distinct images.
        image_ids (`torch.LongTensor` of shape `(num_images,)`):
            The pair each image belongs to. An image and a text match if and only if their ids are equal.
        text_embeds (`torch.FloatTensor` of shape `(num_texts, dim)`):
            L2-normalised embeddings of the distinct texts.
        text_ids (`torch.LongTensor` of shape `(num_texts,)`):
            The pair each text belongs to.
        image_rows (`torch.LongTensor` of shape `(num_images,)`):
            The row of the data set that each image was first seen in.
        text_rows (`torch.LongTensor` of shape `(num_texts,)`):
            The row of the data set that each text was first seen in.
        texts (`tuple[str, ...]`):
            The words of each text.
    """

    image_embeds: torch.Tensor
    image_ids: torch.Tensor
    text_embeds: torch.Tensor
    text_ids: torch.Tensor
    image_rows: torch.Tensor
    text_rows: torch.Tensor
    texts: tuple[str, ...] = ()


def embed_pairs(
    model: nn.Module,
    dataset: Iterable[Mapping[str, Any]],
    processor: Callable[..., Any],
    *,
    batch_size: int = 64,
    image_column: str = "image",
    caption_column: str | None = None,
    pair_id_column: str | None = "pair_id",
    max_length: int | None = None,
    on_error: str = "raise",
    show_progress: bool = True,
) -> PairEmbeddings:
    r"""
    Embeds the images and the captions of a data set with a dual encoder, each distinct one once.

    Rows of one pair may repeat an image (one row per caption) or a caption (one row per image): an image with the same
    pixels and the same pair id is one image, a caption with the same words and the same pair id is one caption. The
    data set is read once, from front to back, and only one batch of images is in memory at a time.

    The model runs in evaluation mode, without gradient, in its own dtype on its own device and under whatever autocast
    the caller has opened; afterwards every module is back in the mode it was in. Captions are padded as the
    processor says, else to the longest of the batch (SigLIP: to the full length, as it was trained).

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Any model with `get_image_features` and `get_text_features`: [`SaclModel`], [`~transformers.CLIPModel`],
            [`~transformers.SiglipModel`], [`~transformers.VisionTextDualEncoderModel`], ...
        dataset (`Iterable[Mapping[str, Any]]`):
            A [`~datasets.Dataset`] or anything that yields rows. An image is a PIL image, a caption a string or a list
            of strings, a pair id an integer or a string.
        processor ([`~transformers.ProcessorMixin`]):
            Called with `images=` and with `text=`.
        batch_size (`int`, *optional*, defaults to 64):
            Images or captions per forward pass.
        image_column (`str`, *optional*, defaults to `"image"`):
            Name of the image column.
        caption_column (`str`, *optional*):
            Name of the caption column. By default `"captions"` if there is one, else `"caption"`.
        pair_id_column (`str`, *optional*, defaults to `"pair_id"`):
            Name of the column that says what belongs together. With `None`, or if there is no column `"pair_id"`,
            every row is a pair of its own.
        max_length (`int`, *optional*):
            Longer captions are cut to so many tokens. By default what the processor, tokenizer or model allows.
        on_error (`str`, *optional*, defaults to `"raise"`):
            What to do about rows whose image cannot be read or that have no caption: `"raise"`, or `"skip"`, which
            leaves them out and warns.
        show_progress (`bool`, *optional*, defaults to `True`):
            Whether to show progress bars.

    Returns:
        [`PairEmbeddings`]: embeddings in float32 (float64 for a float64 model) on the model's device, with ids and
        row numbers. String ids are numbered in the order in which they appear.

    Raises:
        `ValueError`: if the data set is empty, or a column is missing or holds something else than described. The
            message names row and column.
        `TypeError`: if the model has no `get_image_features` or `get_text_features`.

    Example:

    ```python
    >>> from datasets import load_dataset
    >>> from transformers import AutoModel, AutoProcessor

    >>> model = AutoModel.from_pretrained("openai/clip-vit-base-patch32")
    >>> processor = AutoProcessor.from_pretrained("openai/clip-vit-base-patch32")
    >>> dataset = load_dataset("imagefolder", data_dir="photos", split="train")
    >>> embeddings = embed_pairs(model, dataset, processor)
    >>> embeddings.image_embeds.shape
    torch.Size([5000, 512])
    ```
    """
    if operator.index(batch_size) < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
    if on_error not in ("raise", "skip"):
        raise ValueError(f'`on_error` is "raise" or "skip", got {on_error!r}.')
    encode_images, encode_texts = (
        feature_encoder(model, "get_image_features"),
        feature_encoder(model, "get_text_features"),
    )
    options = text_options(model, processor, max_length)

    image_keys: dict[tuple[bytes, int | str], int] = {}  # (pixels, pair) -> row
    text_keys: dict[tuple[str, int | str], int] = {}  # (words, pair) -> row
    left_out: list[str] = []

    def distinct_images() -> Iterator[Any]:
        """Reads the data set; yields the images that are new, notes the captions that are new."""
        columns: tuple[str, str, str | None] | None = None
        for row_number, row in enumerate(progress(dataset, "Embedding images", show_progress)):
            columns = columns or _resolve_columns(row, image_column, caption_column, pair_id_column)
            pair_id = row_number if columns[2] is None else _pair_id(row[columns[2]], row_number)
            try:
                captions = _captions(row[columns[1]], row_number, columns[1], visible=on_error == "skip")
                image = _rgb_image(row[columns[0]], row_number, columns[0])
            except _UnusableRow as error:
                if on_error == "raise":
                    raise
                left_out.append(str(error))
                continue
            for caption in captions:
                text_keys.setdefault((caption, pair_id), row_number)
            pixels = hashlib.blake2b(image.tobytes(), digest_size=16, key=str(image.size).encode()).digest()
            if image_keys.setdefault((pixels, pair_id), row_number) == row_number:
                yield image

    with evaluation_mode(model), torch.inference_mode():
        image_batches = [
            encode_images(processor(images=images, return_tensors="pt"))
            for images in batched(distinct_images(), batch_size)
        ]
        if left_out:
            logger.warning(f"{len(left_out)} rows are left out, the first of them because: {left_out[0]}")
        if not image_batches:
            why = f"no row that can be read. {left_out[0]}" if left_out else "no rows: nothing can be embedded."
            raise ValueError(f"The data set has {why}")
        # The same words under several pair ids are embedded once, so that their similarities are equal to the bit.
        texts = list(dict.fromkeys(text for text, _ in text_keys))
        if not texts:
            raise ValueError("The data set has no captions: nothing can be embedded.")
        text_bar = progress(range(0, len(texts), batch_size), "Embedding texts", show_progress)
        text_batches = [
            encode_texts(processor(text=texts[start : start + batch_size], return_tensors="pt", **options))
            for start in text_bar
        ]

    # Outside of inference mode: ordinary tensors, which may be changed in place or meet autograd.
    image_embeds, text_embeds = torch.cat(image_batches), torch.cat(text_batches)
    device = image_embeds.device
    positions = {text: position for position, text in enumerate(texts)}
    text_embeds = text_embeds[torch.tensor([positions[text] for text, _ in text_keys], device=device)]
    image_ids, text_ids = _integer_ids([pair for _, pair in image_keys], [pair for _, pair in text_keys])
    return PairEmbeddings(
        image_embeds=image_embeds,
        image_ids=image_ids.to(device),
        text_embeds=text_embeds,
        text_ids=text_ids.to(device),
        image_rows=torch.tensor(list(image_keys.values()), device=device),
        text_rows=torch.tensor(list(text_keys.values()), device=device),
        texts=tuple(text for text, _ in text_keys),
    )


def _resolve_columns(
    row: Mapping[str, Any], image_column: str, caption_column: str | None, pair_id_column: str | None
) -> tuple[str, str, str | None]:
    if caption_column is None:
        caption_column = "captions" if "captions" in row else "caption"
    if pair_id_column == "pair_id" and "pair_id" not in row:
        pair_id_column = None
    for argument, column in (
        ("image_column", image_column),
        ("caption_column", caption_column),
        ("pair_id_column", pair_id_column),
    ):
        if column is not None and column not in row:
            raise ValueError(f"The data set has no column {column!r}, only {sorted(row)}: set `{argument}`.")
    return image_column, caption_column, pair_id_column


def read_images(
    dataset: Iterable[Mapping[str, Any]], rows: Sequence[int], image_column: str = "image"
) -> Iterator[Any]:
    """The images of some rows, which are given in rising order, one after another."""
    found: Iterable[tuple[int, Mapping[str, Any]]]
    if hasattr(dataset, "select"):
        found = zip(rows, dataset.select(rows), strict=True)
    else:
        wanted = set(rows)
        found = ((number, row) for number, row in enumerate(dataset) if number in wanted)
    for number, row in found:
        yield _rgb_image(row[image_column], number, image_column)


class _UnusableRow(ValueError):
    """A row that cannot be embedded; the message names it."""


def _rgb_image(value: Any, row_number: int, column: str) -> Any:
    try:
        return decode_image({"bytes": None, "path": None} if value is None else value)
    except ImageDecodingError as error:
        raise _UnusableRow(f"The image of row {row_number} cannot be read (column {column!r}): {error}") from error
    except TypeError as error:
        raise ValueError(f"The image of row {row_number} cannot be read (column {column!r}): {error}") from error


def _captions(value: Any, row_number: int, column: str, visible: bool) -> list[str]:
    """The captions of a row; only those with something to read, if so asked."""
    problem = (
        f"The caption of row {row_number} must be a string or a list of strings, got {value!r} (column {column!r})."
    )
    captions = [value] if value is None or isinstance(value, str) else value
    if not isinstance(captions, (list, tuple)) or not all(isinstance(text, str | None) for text in captions):
        raise ValueError(problem)
    usable = clean_captions(captions) if visible else list(captions)
    if (captions and not usable) or None in usable:
        raise _UnusableRow(problem)
    return usable


def _pair_id(value: Any, row_number: int) -> int | str:
    if isinstance(value, str):
        return value
    try:
        return operator.index(value)
    except TypeError:
        raise ValueError(f"The pair id of row {row_number} must be an integer or a string, got {value!r}.") from None


def _integer_ids(*sides: list[int | str]) -> tuple[torch.Tensor, ...]:
    pairs = list(dict.fromkeys(pair for side in sides for pair in side))
    if len({isinstance(pair, str) for pair in pairs}) > 1:
        raise ValueError("Pair ids must be all integers or all strings, but the data set has both.")
    if not isinstance(pairs[0], str):
        return tuple(torch.tensor(side, dtype=torch.long) for side in sides)
    codes = {pair: code for code, pair in enumerate(pairs)}
    return tuple(torch.tensor([codes[pair] for pair in side], dtype=torch.long) for side in sides)


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def progress(items: Iterable[T], description: str, show: bool, total: int | None = None) -> Iterable[T]:
    if total is None and isinstance(items, Sized):
        total = len(items)
    return logging.tqdm(items, desc=description, total=total, disable=not show)
