# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""What the page asks of model and data: searches, groundings, kept patches, negatives. Nothing of the page itself."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple, cast

import numpy as np
import PIL.Image
from datasets import Dataset
from torch import nn
from transformers.utils import logging

from hub_cards.pictures import visualize_patch_selection
from trainer.data import ImageDecodingError, clean_captions, decode_image, pair_ids_tensor, undecoded
from trainer.embedding import dual_encoder, evaluation_mode, text_options
from trainer.evaluation import Grounding, ground_text, ground_texts
from trainer.evaluation.reranking import find_matching_model
from trainer.search import SaclSearcher, SearchResult, embed_dataset

from .negatives import NegativesOfAnchor, explain_negatives


logger = logging.get_logger(__name__)

EMBEDS = ("image_embeds", "text_embeds")
# So many candidates are looked at again by the matching head.
RERANKED = 32
# Larger batches make a page that nobody reads, and batches of two have one negative with weight 1.
MIN_BATCH, MAX_BATCH = 3, 256


class Refusal(ValueError):
    """What was asked cannot be answered; the message says why, to whoever sits in front of the page."""


class Batch(NamedTuple):
    """
    A batch around an anchor and how the loss weighs it.

    Args:
        rows (`list[int]`):
            The rows of the batch; the first is the anchor.
        directions (`dict[str, NegativesOfAnchor]`):
            What [`explain_negatives`] says, by place in `rows`.
    """

    rows: list[int]
    directions: dict[str, NegativesOfAnchor]


class Panel(NamedTuple):
    """A picture with what is written below it."""

    title: str
    picture: PIL.Image.Image


class Backend:
    """
    A model, its processor and an indexed data set. What they cannot do is in `lacking`, by the name of the tab, with
    the reason.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Any dual encoder.
        processor ([`~transformers.ProcessorMixin`]):
            Its processor.
        dataset ([`~datasets.Dataset`]):
            Rows with images, captions or both; with embeddings from [`embed_dataset`], or they are made here, and rows
            that cannot be embedded are left out.
        image_column (`str`, *optional*, defaults to `"image"`):
            Name of the image column.
        caption_column (`str`, *optional*):
            Name of the caption column. By default `"captions"` if there is one, else `"caption"`.
        batch_size (`int`, *optional*, defaults to 64):
            Rows per forward pass.
        cache_dir (`str` or `os.PathLike`, *optional*):
            Where embeddings are kept.
        show_progress (`bool`, *optional*, defaults to `True`):
            Whether to show a progress bar while embedding.
    """

    def __init__(
        self,
        model: nn.Module,
        processor: Any,
        dataset: Dataset,
        *,
        image_column: str = "image",
        caption_column: str | None = None,
        batch_size: int = 64,
        cache_dir: str | os.PathLike | None = None,
        show_progress: bool = True,
    ):
        columns: dict[str, Any] = {"image_column": image_column, "caption_column": caption_column}
        if not set(EMBEDS) & set(dataset.column_names):
            dataset = embed_dataset(
                model,
                dataset,
                processor,
                **columns,
                batch_size=batch_size,
                on_error="skip",
                cache_dir=cache_dir,
                show_progress=show_progress,
            )
        self.model = model
        self.processor = processor
        self.searcher = SaclSearcher(model, processor, dataset, **columns, batch_size=batch_size)
        self.dataset = self.searcher.dataset
        self.image_column = self.searcher.image_column
        self.caption_column = self.searcher.caption_column
        self.max_tokens = text_options(model, processor, None).get("max_length")
        self._content = undecoded(self.dataset.with_format(None), image_column)
        self._embeds = self.dataset.with_format("torch", columns=[*self.searcher.engines])
        self.lacking = {name: reason for name, reason in self._reasons().items() if reason}
        # Pictures are shown again and again, and small ones take no room.
        self.thumbnail = lru_cache(maxsize=2048)(self._thumbnail)

    def _reasons(self) -> dict[str, str | None]:
        """For each thing that one could ask for, why it cannot be had, if it cannot."""
        indexed = self.searcher.engines
        no_images = (
            None if EMBEDS[0] in indexed and self.image_column else "The data set has no images to be searched."
        )
        no_texts = None if EMBEDS[1] in indexed and self.caption_column else "The data set has no captions."
        too_few = f"A batch takes {MIN_BATCH} pairs or more, and the data set has {len(self)}."
        return {
            "find images": no_images,
            "find texts": no_texts,
            "compose": no_images,
            "rerank": _reason_of(TypeError, lambda: find_matching_model(self.model)),
            "ground": None
            if hasattr(dual_encoder(self.model), "fusion_model") and hasattr(self.model, "itm_head")
            else _reason_of(TypeError, lambda: ground_texts(self.model, self.processor, [], [])),
            "patches": None
            if hasattr(getattr(self.model, "base_model", None), "vision_model")
            and hasattr(self.model, "set_patch_selection")
            else f"`{type(self.model).__name__}` cannot select patches: that takes the image tower of a SACL model.",
            "negatives": no_images or no_texts or (too_few if len(self) < MIN_BATCH else None),
        }

    # Rows ------------------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.dataset)

    def caption(self, row: int) -> str:
        """The caption that stands for a row; empty if it has none."""
        captions = clean_captions(self._content[row][self.caption_column]) if self.caption_column else []
        return captions[0].strip() if captions else ""

    def picture(self, row: int) -> PIL.Image.Image | None:
        """The picture of a row, if it has one that can be read."""
        if self.image_column is None:
            return None
        try:
            return decode_image(self._content[row][self.image_column] or {"bytes": None, "path": None})
        except ImageDecodingError:
            return None

    def _thumbnail(self, row: int, side: int) -> PIL.Image.Image | None:
        picture = self.picture(row)
        if picture is not None:
            picture = picture.copy()
            picture.thumbnail((side, side))
        return picture

    def spread_rows(self, count: int) -> list[int]:
        """A few rows, evenly spread over the data set."""
        return np.unique(np.linspace(0, len(self) - 1, min(count, len(self))).astype(int)).tolist()

    def random_row(self) -> int:
        """Any row."""
        return int(np.random.default_rng().integers(len(self)))

    # Searching -------------------------------------------------------------------------------------------------------

    def find_images(self, text: str, k: int, rerank: bool = False) -> list[SearchResult]:
        """Images that a text describes."""
        self._require("find images", *(["rerank"] if rerank else []))
        found = self.searcher.search_images(self._text(text), self._count(k), rerank_top_k=_depth(k, rerank))
        return cast(list[SearchResult], found)

    def find_texts(self, picture: Any, k: int, rerank: bool = False) -> list[SearchResult]:
        """Captions that describe a picture."""
        self._require("find texts", *(["rerank"] if rerank else []))
        found = self.searcher.search_texts(self._picture(picture), self._count(k), rerank_top_k=_depth(k, rerank))
        return cast(list[SearchResult], found)

    def find_composed(
        self, picture: Any, text: str, k: int, text_weight: float = 0.5, rerank: bool = False
    ) -> list[SearchResult]:
        """Images like this one, but as the text says; without a text, images like this one."""
        self._require("compose", *(["rerank"] if rerank else []))
        picture = self._picture(picture)
        if (text or "").strip():
            found = self.searcher.search_composed(
                picture, self._text(text), self._count(k), text_weight=text_weight, rerank_top_k=_depth(k, rerank)
            )
        else:
            found = self.searcher.search_similar_images(picture, self._count(k))
        return cast(list[SearchResult], found)

    def text_note(self, text: str) -> str | None:
        """What there is to say of a text that is longer than the model reads."""
        tokenizer = getattr(self.processor, "tokenizer", self.processor)
        count = len(tokenizer(text.strip(), verbose=False)["input_ids"])
        if self.max_tokens is None or count <= self.max_tokens:
            return None
        return f"The text has {count} tokens, and the model reads the first {self.max_tokens}: the rest was left out."

    # Looking into the model ------------------------------------------------------------------------------------------

    def ground(self, picture: Any, text: str) -> tuple[PIL.Image.Image, Grounding]:
        """Where in a picture each word of a text is."""
        self._require("ground")
        picture = self._picture(picture)
        return picture, ground_text(self.model, self.processor, picture, self._text(text))

    def kept_patches(self, picture: Any, keep_rate: float, text: str | None = None) -> list[Panel]:
        """The picture as the model sees it, and for each layer that selects patches those that it keeps."""
        self._require("patches")
        picture = self._picture(picture)
        text = None if text is None else self._text(text)
        if not 0 < keep_rate < 1:
            raise Refusal(f"Of the patches a share between 0 and 1 can be kept, not {keep_rate}.")
        with evaluation_mode(self.model), self._selecting_patches(keep_rate, "image" if text is None else "text"):
            figure = visualize_patch_selection(self.model, self.processor, picture, text)
        return [Panel(axis.get_title(), _as_picture(axis.get_images()[0].get_array())) for axis in figure.axes]

    @contextmanager
    def _selecting_patches(self, keep_rate: float, guide: str) -> Iterator[None]:
        """The model selects patches inside; outside it is as it was."""
        model: Any = self.model
        config = model.base_model.vision_model.config
        before = {"keep_rate": config.patch_keep_rate, "guide": config.patch_selection_guide}
        model.set_patch_selection(keep_rate=keep_rate, guide=guide)
        try:
            yield
        finally:
            model.set_patch_selection(**before)

    def negatives(self, anchor: int, batch_size: int, strength: float, seed: int = 0) -> Batch:
        """A batch of an anchor and rows drawn at random, and the weight of every negative in it."""
        self._require("negatives")
        anchor, batch_size, seed = (_whole(value) for value in (anchor, batch_size, seed))
        if not 0 <= anchor < len(self):
            raise Refusal(f"There is no row {anchor}: rows are counted from 0 to {len(self) - 1}.")
        largest = min(MAX_BATCH, len(self))
        if not MIN_BATCH <= batch_size <= largest:
            raise Refusal(f"A batch can have {MIN_BATCH} to {largest} pairs here, not {batch_size}.")
        others = np.delete(np.arange(len(self)), anchor)
        drawn = np.random.default_rng(abs(seed)).choice(others, batch_size - 1, replace=False)
        rows = [anchor, *drawn.tolist()]
        embeds = self._embeds[rows]
        pair_ids = pair_ids_tensor(self._content[rows]["pair_id"]) if "pair_id" in self.dataset.column_names else None
        directions = explain_negatives(
            embeds["image_embeds"], embeds["text_embeds"], strength=float(strength), pair_ids=pair_ids
        )
        return Batch(rows, directions)

    # Questions, checked ----------------------------------------------------------------------------------------------

    def _require(self, *names: str) -> None:
        for name in names:
            if name in self.lacking:
                raise Refusal(self.lacking[name])

    def _text(self, text: str | None) -> str:
        if not (text or "").strip():
            raise Refusal("Write what to look for: the text is empty.")
        return text.strip()

    def _picture(self, picture: Any) -> PIL.Image.Image:
        if picture is None:
            raise Refusal("Choose a picture first: upload one, or take one of those below.")
        try:
            return decode_image(picture)
        except (ImageDecodingError, TypeError) as error:
            logger.info(f"A picture was refused: {error}")
            raise Refusal(
                "This file cannot be read as a picture. Is it a whole PNG, JPEG, WebP or GIF of a usual size?"
            ) from error

    def _count(self, k: int) -> int:
        return max(1, min(_whole(k), len(self)))


def _reason_of(kind: type[Exception], attempt: Callable[[], Any]) -> str | None:
    """Why something fails, if it does."""
    try:
        attempt()
    except kind as error:
        return str(error)
    return None


def _depth(k: int, rerank: bool) -> int:
    return max(RERANKED, _whole(k)) if rerank else 0


def _whole(number: Any) -> int:
    try:
        whole = int(number)
    except (TypeError, ValueError, OverflowError):
        raise Refusal(f"A whole number is needed, got {number!r}.") from None
    if whole != number:
        raise Refusal(f"A whole number is needed, got {number!r}.")
    return whole


def _as_picture(pixels: Any) -> PIL.Image.Image:
    """Of an array of colours in [0, 1]."""
    return PIL.Image.fromarray((np.asarray(pixels) * 255).round().clip(0, 255).astype(np.uint8))
