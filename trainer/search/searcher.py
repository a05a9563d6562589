# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Searching a data set of images and captions by text, by image, and by both."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import PIL.Image
import torch
import xxhash
from torch import nn
from transformers.utils import logging

from ..data.pairs import undecoded
from ..data.transforms import ImageDecodingError, decode_image
from ..evaluation.reranking import find_matching_model, match_pairs
from ..paths import check_saved_dataset, read_json
from .embed import (
    EMBEDS,
    IMAGE_EMBEDS,
    TEXT_EMBEDS,
    Embedder,
    RowEncoder,
    batches,
    digest_of,
    embed_dataset,
    first_caption,
    resolve_columns,
)
from .engines import FaissEngine, SearchEngine


logger = logging.get_logger(__name__)

SETTINGS = "searcher.json"

# So many rows are embedded anew to see whether embeddings are the model's, and so alike they have to be: half
# precision moves an embedding by less, other weights or pixels by more.
_COMPARED, _ALIKE = 4, 0.99


class SearchResult(NamedTuple):
    """
    One thing found.

    Args:
        row (`int`):
            Its row in the searcher's `dataset`.
        score (`float`):
            How well it fits: the cosine, or what the method that returned it says.
    """

    row: int
    score: float


class SaclSearcher:
    r"""
    Finds images by text, texts by image, images by image, and images by an image with a text that says what should be
    different. For any dual encoder; with a matching head, what is found can be looked at a second time.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Any model with `get_image_features` and `get_text_features`. `rerank_top_k` needs a matching
            head too: [`SaclForImageTextRetrieval`], [`SaclForPreTraining`].
        processor ([`~transformers.ProcessorMixin`]):
            Called with `images=` and with `text=`.
        dataset ([`~datasets.Dataset`]):
            Rows with `image_embeds`, `text_embeds` or both, from [`embed_dataset`]; without, they are embedded here.
        image_column (`str`, *optional*, defaults to `"image"`):
            Name of the image column.
        caption_column (`str`, *optional*):
            Name of the caption column. By default `"captions"` if there is one, else `"caption"`.
        string_factory (`str`, *optional*):
            Which FAISS index (see [`FaissEngine`]): exact by default, `"HNSW32"` is approximate and faster.
        engine (`Callable[[str], SearchEngine]`, *optional*):
            What searches in place of FAISS. Called with a name for each column of embeddings, which is another one
            for other embeddings: `partial(LanceEngine, "s3://bucket/photos")`. An engine that holds the embeddings
            already is taken as it is, one that holds the first of them gets the rest.
        max_length (`int`, *optional*):
            Longer texts are cut to so many tokens. By default what the processor, tokenizer or model allows.
        batch_size (`int`, *optional*, defaults to 64):
            Queries, or candidates that are looked at again, per forward pass.
        show_progress (`bool`, *optional*, defaults to `True`):
            Whether to show a progress bar while embedding.

    Attributes:
        dataset ([`~datasets.Dataset`]): the rows that results count.
        engines (`dict[str, SearchEngine]`): by column of embeddings.

    Raises:
        `ImportError`: if FAISS is needed and not installed.
        `ValueError`: if embeddings are not normalised, or not those of this model: a few are computed anew.

    Example:

    ```python
    >>> searcher = SaclSearcher(model, processor, photos)
    >>> found = searcher.search_images("two dogs on a beach", k=3)
    >>> found[0]
    SearchResult(row=1704, score=0.31)
    >>> searcher.rows(found)[0]["image"].show()
    >>> searcher.save_pretrained("photos-index")
    ```
    """

    def __init__(
        self,
        model: nn.Module,
        processor: Any,
        dataset: datasets.Dataset,
        *,
        image_column: str = "image",
        caption_column: str | None = None,
        string_factory: str | None = None,
        engine: Callable[[str], SearchEngine] | None = None,
        max_length: int | None = None,
        batch_size: int = 64,
        show_progress: bool = True,
    ):
        if engine is not None and string_factory is not None:
            raise ValueError(f"`string_factory={string_factory!r}` is for FAISS: leave it out, or `engine`.")
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
        if engine is None:
            FaissEngine(string_factory)  # What is not installed is missed before everything is embedded.
        self.model = model
        self.processor = processor
        self.max_length = max_length
        self.batch_size = batch_size
        self._embedder = Embedder(model, processor, max_length)
        is_embedded = isinstance(dataset, datasets.Dataset) and any(name in dataset.column_names for name in EMBEDS)
        if is_embedded and len(dataset) == 0:
            raise ValueError("The data set has no rows: there is nothing to search.")
        if not is_embedded:
            dataset = embed_dataset(
                model,
                dataset,
                processor,
                image_column=image_column,
                caption_column=caption_column,
                max_length=max_length,
                batch_size=batch_size,
                show_progress=show_progress,
            )
        self.dataset = dataset
        self.image_column, self.caption_column = resolve_columns(dataset, image_column, caption_column)
        self._content = undecoded(dataset.with_format(None), image_column)
        if is_embedded:
            self._check_model()
        self.engines: dict[str, SearchEngine] = {}
        for column in EMBEDS:
            if column in dataset.column_names:
                name = f"{column}_{digest_of(dataset, column)}"
                self.engines[column] = FaissEngine(string_factory) if engine is None else engine(name)
                self._fill(self.engines[column], column)

    # Searching -------------------------------------------------------------------------------------------------------

    def search_images(
        self, text: str | Sequence[str], k: int = 10, *, rerank_top_k: int = 0
    ) -> list[SearchResult] | list[list[SearchResult]]:
        """
        Images that a text describes.

        Args:
            text (`str` or sequence of `str`):
                What to look for. Several texts are embedded in batches and searched in one call.
            k (`int`, *optional*, defaults to 10):
                How many to find, at most as many as there are.
            rerank_top_k (`int`, *optional*, defaults to 0):
                So many candidates, `k` or more, are put in order by the matching head, each for a pass of its image
                through the image tower. The score is then the probability that text and image match, in the order that
                [`evaluate_retrieval`] measures as `itm`.

        Returns:
            `list[SearchResult]`, best first: row and cosine. For a sequence of texts a list of such lists.

        Raises:
            `ValueError`: if a text is blank, `k` below 1, or images were not embedded.
            `TypeError`: if the model cannot re-rank.

        Example:

        ```python
        >>> for row, score in searcher.search_images("two dogs on a beach", k=3):
        ...     print(f"{score:.2f}", searcher.dataset[row]["caption"])
        ```
        """
        texts, is_one = self._texts(text)
        found = self._search(IMAGE_EMBEDS, self._embed_texts(texts), k, rerank_top_k)
        if rerank_top_k:
            found = [
                self._rerank(results, k, [query], self._pictures_of(results))
                for query, results in zip(texts, found, strict=True)
            ]
        return found[0] if is_one else found

    def search_texts(
        self, image: Any, k: int = 10, *, rerank_top_k: int = 0
    ) -> list[SearchResult] | list[list[SearchResult]]:
        """
        Captions that describe an image.

        Args:
            image (`PIL.Image.Image`, `str` or `os.PathLike`, or a list of these):
                What to look for, as [`decode_image`] takes it. Several images are embedded in batches and searched in
                one call.
            k (`int`, *optional*, defaults to 10):
                How many to find, at most as many as there are.
            rerank_top_k (`int`, *optional*, defaults to 0):
                So many candidates, `k` or more, are put in order by the matching head. The score is then the
                probability that text and image match, in the order that [`evaluate_retrieval`] measures as `itm`.

        Returns:
            `list[SearchResult]`, best first: row and cosine. For a list of images a list of such lists.

        Raises:
            `ValueError`: if an image cannot be read, `k` is below 1, or captions were not embedded.
            `TypeError`: if the model cannot re-rank.

        Example:

        ```python
        >>> searcher.dataset[searcher.search_texts("holiday.jpg", k=1)[0].row]["caption"]
        'two dogs on a beach'
        ```
        """
        pictures, is_one = self._pictures(image)
        found = self._search(TEXT_EMBEDS, self._embed_pictures(pictures), k, rerank_top_k)
        if rerank_top_k:
            found = [
                self._rerank(results, k, self._captions_of(results), [query])
                for query, results in zip(pictures, found, strict=True)
            ]
        return found[0] if is_one else found

    def search_similar_images(self, image: Any, k: int = 10) -> list[SearchResult] | list[list[SearchResult]]:
        """
        Images that resemble an image. One that is in the data set finds itself.

        Args:
            image (`PIL.Image.Image`, `str` or `os.PathLike`, or a list of these):
                What to look for, as [`decode_image`] takes it.
            k (`int`, *optional*, defaults to 10):
                How many to find, at most as many as there are.

        Returns:
            `list[SearchResult]`, best first: row and cosine. For a list of images a list of such lists.

        Raises:
            `ValueError`: if an image cannot be read, `k` is below 1, or images were not embedded.

        Example:

        ```python
        >>> [row for row, _ in searcher.search_similar_images(photos[7]["image"], k=3)]
        [7, 1704, 12]
        ```
        """
        pictures, is_one = self._pictures(image)
        found = self._search(IMAGE_EMBEDS, self._embed_pictures(pictures), k)
        return found[0] if is_one else found

    def search_composed(
        self,
        image: Any,
        text: str | Sequence[str],
        k: int = 10,
        *,
        text_weight: float = 0.5,
        rerank_top_k: int = 0,
    ) -> list[SearchResult] | list[list[SearchResult]]:
        r"""
        Images like this one, but as the text says: a photo of a dress, and "in red".

        Candidates are nearest to `normalize((1 - text_weight) * image + text_weight * text)`, the sum of the two
        embeddings. With `rerank_top_k`, the best of them are put in order by

            probability that the text matches the candidate, by the matching head
            + cosine of the candidate with the image asked with

        This is zero-shot: no model was trained to compose, and neither the weights of the sum nor those of the order
        were fitted to anything.

        Args:
            image (`PIL.Image.Image`, `str` or `os.PathLike`, or a list of these):
                What it should be like, as [`decode_image`] takes it.
            text (`str` or sequence of `str`):
                What it should show; for a list of images, a text for each.
            k (`int`, *optional*, defaults to 10):
                How many to find, at most as many as there are.
            text_weight (`float`, *optional*, defaults to 0.5):
                From 0, the image alone, to 1, the text alone.
            rerank_top_k (`int`, *optional*, defaults to 0):
                So many candidates, `k` or more, are put in order as above.

        Returns:
            `list[SearchResult]`, best first: row and cosine with the sum, or the score above. For a list of images a
            list of such lists.

        Raises:
            `ValueError`: if an image cannot be read, a text is blank, their numbers differ, `k` is below 1,
            `text_weight` out of range, or images were not embedded.
            `TypeError`: if the model cannot re-rank.

        Example:

        ```python
        >>> searcher.search_composed("dress.jpg", "in red, with long sleeves", k=3, text_weight=0.4)
        ```
        """
        if not 0 <= text_weight <= 1:
            raise ValueError(f"`text_weight` is a share, from 0 to 1, got {text_weight}.")
        pictures, is_one = self._pictures(image)
        texts, is_one_text = self._texts(text)
        if is_one != is_one_text or len(pictures) != len(texts):
            raise ValueError(
                f"Each image needs a text, but there are {len(pictures)} images and {len(texts)} texts: pass one of "
                "each, or two lists of one length."
            )
        by_image, by_text = self._embed_pictures(pictures), self._embed_texts(texts)
        both = nn.functional.normalize(
            (1 - text_weight) * torch.from_numpy(by_image) + text_weight * torch.from_numpy(by_text), dim=-1
        )
        found = self._search(IMAGE_EMBEDS, both.numpy(), k, rerank_top_k)
        if rerank_top_k:
            found = [
                self._rerank(results, k, [query], self._pictures_of(results), self._cosines(results, embed))
                for query, embed, results in zip(texts, by_image, found, strict=True)
            ]
        return found[0] if is_one else found

    def rows(self, results: Sequence[SearchResult]) -> list[dict[str, Any]]:
        """
        What was found.

        Args:
            results (sequence of [`SearchResult`]):
                As a search returned them for one query.

        Returns:
            `list[dict]`: their rows of the data set, without the embeddings.

        Example:

        ```python
        >>> [row["caption"] for row in searcher.rows(searcher.search_images("two dogs on a beach", k=2))]
        ['two dogs on a beach', 'a dog runs through the surf']
        ```
        """
        content = self.dataset.with_format(None).remove_columns(list(self.engines))
        return [content[result.row] for result in results]

    # Keeping ---------------------------------------------------------------------------------------------------------

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """
        Writes data set, embeddings and indexes into a folder. The model is not saved, only what it is called; what an
        engine other than FAISS holds stays where it is.

        Args:
            folder (`str` or `os.PathLike`):
                Where to. What an earlier call wrote there is replaced.

        Raises:
            `ValueError`: if the searcher was read from there.

        Example:

        ```python
        >>> searcher.save_pretrained("photos-index")
        >>> searcher = SaclSearcher.from_pretrained("photos-index", model, processor)
        ```
        """
        folder = Path(folder)
        sources = {Path(file["filename"]).resolve().parent for file in self.dataset.cache_files}
        if (folder / "dataset").resolve() in sources:
            raise ValueError(f"The data set was read from {folder}, where it cannot be replaced: save it elsewhere.")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / SETTINGS).unlink(missing_ok=True)  # Written last: without it, the folder is not taken for whole.
        self.dataset.save_to_disk(str(folder / "dataset"))
        columns = {}
        for column, engine in self.engines.items():
            file = _index_file(folder, column)
            if isinstance(engine, FaissEngine):
                engine.save(file)
            columns[column] = {
                "dim": int(next(batches(self.dataset.select([0]), column)).shape[1]),
                "embeddings": digest_of(self.dataset, column),
                "index": _digest_of_file(file) if isinstance(engine, FaissEngine) else None,
            }
        settings = {
            "model": _name_of(self.model),
            "rows": len(self.dataset),
            "image_column": self.image_column,
            "caption_column": self.caption_column,
            "max_length": self.max_length,
            "columns": columns,
        }
        (folder / SETTINGS).write_text(json.dumps(settings, indent=2), encoding="utf-8")

    @classmethod
    def from_pretrained(
        cls,
        folder: str | os.PathLike,
        model: nn.Module,
        processor: Any,
        *,
        engine: Callable[[str], SearchEngine] | None = None,
        batch_size: int = 64,
    ) -> "SaclSearcher":
        """
        Reads what [`~SaclSearcher.save_pretrained`] wrote, and checks that data set, indexes and model belong
        together: every embedding and every index is the one that was saved, and a few rows, embedded anew, are where
        they were.

        Args:
            folder (`str` or `os.PathLike`):
                Where from.
            model ([`~transformers.PreTrainedModel`]):
                The model that embedded the data set; in another precision if need be.
            processor ([`~transformers.ProcessorMixin`]):
                Its processor.
            engine (`Callable[[str], SearchEngine]`, *optional*):
                What searches, as for [`SaclSearcher`]. Needed if FAISS did not.
            batch_size (`int`, *optional*, defaults to 64):
                Queries, or candidates that are looked at again, per forward pass.

        Returns:
            [`SaclSearcher`]: the searcher.

        Raises:
            `FileNotFoundError`: if there is no searcher in the folder, or not all of it.
            `ValueError`: if what is there does not belong together, or not to the model.

        Example:

        ```python
        >>> searcher = SaclSearcher.from_pretrained("photos-index", model, processor)
        ```
        """
        folder = Path(folder)
        settings = read_settings(folder)
        check_saved_dataset(folder / "dataset")
        dataset = datasets.load_from_disk(str(folder / "dataset"))
        columns = [column for column in EMBEDS if column in dataset.column_names]
        if len(dataset) != settings["rows"] or set(columns) != set(settings["columns"]):
            raise ValueError(
                f"The data set in {folder} has {len(dataset)} rows with {columns}, but {settings['rows']} with "
                f"{[*settings['columns']]} were saved: make the searcher anew from it."
            )

        def checked(name: str) -> SearchEngine:
            """The engine for these embeddings, if they are those that were saved."""
            column, digest = name.rsplit("_", 1)
            saved = settings["columns"][column]
            if digest != saved["embeddings"]:
                raise ValueError(
                    f"The `{column}` in {folder} are not those that were saved, so their index is stale: make the "
                    "searcher anew from the data set."
                )
            if engine is None:
                return _load_index(_index_file(folder, column), saved, len(dataset))
            return engine(name)

        try:
            return cls(
                model,
                processor,
                dataset,
                image_column=settings["image_column"] or "image",
                caption_column=settings["caption_column"],
                engine=checked,
                max_length=settings["max_length"],
                batch_size=batch_size,
            )
        except _OtherModel as error:
            raise ValueError(f"{error} What is in {folder} was embedded by {settings['model']!r}.") from error

    # Parts -----------------------------------------------------------------------------------------------------------

    def _fill(self, engine: SearchEngine, column: str) -> None:
        """Gives the engine the embeddings that it lacks."""
        start = len(engine)
        if start > len(self.dataset):
            raise ValueError(f"The engine has {start} `{column}`, but the data set only {len(self.dataset)} rows.")
        for embeds in batches(self.dataset, column, start):
            lengths = np.linalg.norm(embeds, axis=1)
            wrong = np.flatnonzero(~(np.abs(lengths - 1) < 0.01))
            if len(wrong):
                raise ValueError(
                    f"`{column}` must be L2-normalised, but row {start + wrong[0]} has length "
                    f"{lengths[wrong[0]]:.4g}: make them with `embed_dataset`."
                )
            engine.add(embeds, np.arange(start, start + len(embeds)))
            start += len(embeds)

    def _check_model(self) -> None:
        """Embeds a few rows anew: embeddings of another model, or of other preprocessing, find nothing."""
        sources = {IMAGE_EMBEDS: self.image_column, TEXT_EMBEDS: self.caption_column}
        columns = [column for column in EMBEDS if column in self.dataset.column_names]
        numbers = np.unique(np.linspace(0, len(self.dataset) - 1, _COMPARED).astype(int))
        rows = [
            {"image": row.get(self.image_column), "caption": row.get(self.caption_column)}
            for row in self._content.select(numbers)
        ]
        known = [column for column in columns if sources[column] is not None]
        made = RowEncoder(self._embedder, known, on_error="skip").encode(rows)
        dim = self._embedder.texts(["a"]).shape[1]
        cosines = torch.empty(0)
        for column in columns:
            stored = torch.from_numpy(next(batches(self.dataset.select(numbers), column)))
            if stored.shape[1] != dim:
                raise _OtherModel(
                    f"`{column}` has {stored.shape[1]} dimensions and `{type(self.model).__name__}` gives {dim}: the "
                    "data set was embedded by another model."
                )
            if column in made:
                cosines = torch.cat([cosines, (stored * made[column]).sum(dim=-1)])
        cosines = cosines[~cosines.isnan()]  # of rows that cannot be read any more
        if len(cosines) and not cosines.min() >= _ALIKE:
            raise _OtherModel(
                "The embeddings are not what this model, processor and `max_length` give: embedded anew, a row has a "
                f"cosine of {cosines.min():.3f} with what is stored. Embed the data set with this model, or search "
                "with the one that did."
            )
        if not len(cosines):
            logger.warning("No row of the data set can be embedded anew: its embeddings are taken on trust.")

    def _search(self, column: str, queries: np.ndarray, k: int, rerank_top_k: int = 0) -> list[list[SearchResult]]:
        """The best for each query, all queries in one call."""
        if k < 1:
            raise ValueError(f"`k` must be at least 1, got {k}.")
        if rerank_top_k:
            find_matching_model(self.model)
            if rerank_top_k < k:
                raise ValueError(f"`rerank_top_k` is 0 or at least `k` ({k}), got {rerank_top_k}.")
        if column not in self.engines:
            raise ValueError(
                f"There are no `{column}` to search, only {' and '.join(self.engines)}: `embed_dataset` makes them."
            )
        if not len(queries):
            return []
        engine = self.engines[column]
        scores, rows = engine.search(queries, min(max(k, rerank_top_k), len(engine)))
        return [
            [SearchResult(int(row), float(score)) for row, score in zip(*found, strict=True) if row >= 0]
            for found in zip(rows, scores, strict=True)
        ]

    def _rerank(
        self,
        results: Sequence[SearchResult],
        k: int,
        texts: Sequence[str],
        pictures: Iterable[PIL.Image.Image],
        added: np.ndarray | float = 0.0,
    ) -> list[SearchResult]:
        """By the probability of a match and what is added to it; one text with all pictures, or one with all texts."""
        log_odds = match_pairs(
            self.model,
            pictures,
            texts,
            [torch.arange(len(texts))] * (len(results) // len(texts)),
            self.processor,
            batch_size=self.batch_size,
            max_length=self.max_length,
            show_progress=False,
        )
        scores = torch.cat(log_odds).double().sigmoid().numpy() + added
        best = np.argsort(-scores, kind="stable")[:k]
        return [SearchResult(results[number].row, float(scores[number])) for number in best]

    def _cosines(self, results: Sequence[SearchResult], embed: np.ndarray) -> np.ndarray:
        """Of an embedding with the images found."""
        return next(batches(self.dataset.select([row for row, _ in results]), IMAGE_EMBEDS)) @ embed

    def _pictures_of(self, results: Sequence[SearchResult]) -> Iterator[PIL.Image.Image]:
        if self.image_column is None:
            raise ValueError("`rerank_top_k` reads the images again, and the data set has none: name `image_column`.")
        return (_picture(self._content[row][self.image_column], f"of row {row}") for row, _ in results)

    def _captions_of(self, results: Sequence[SearchResult]) -> list[str]:
        if self.caption_column is None:
            raise ValueError(
                "`rerank_top_k` reads the captions again, and the data set has none: name `caption_column`."
            )
        return [first_caption(self._content[row][self.caption_column]) for row, _ in results]

    def _texts(self, text: str | Sequence[str]) -> tuple[list[str], bool]:
        texts = [text] if isinstance(text, str) else list(text)
        for query in texts:
            if not isinstance(query, str) or not query.strip():
                raise ValueError(f"A text to search by has to say something, got {query!r}.")
        return texts, isinstance(text, str)

    def _pictures(self, image: Any) -> tuple[list[PIL.Image.Image], bool]:
        is_one = not isinstance(image, (list, tuple))
        images = [image] if is_one else image
        return [_picture(each, "to search by") for each in images], is_one

    def _embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        return self._embed(texts, self._embedder.texts)

    def _embed_pictures(self, pictures: Sequence[PIL.Image.Image]) -> np.ndarray:
        return self._embed(pictures, self._embedder.images)

    def _embed(self, queries: Sequence[Any], embed: Callable[[Sequence[Any]], torch.Tensor]) -> np.ndarray:
        starts = range(0, len(queries), self.batch_size)
        parts = [embed(queries[start : start + self.batch_size]).numpy() for start in starts]
        return np.concatenate(parts) if parts else np.empty((0, 0), dtype=np.float32)


class _OtherModel(ValueError):
    """The embeddings are not those of the model."""


def _picture(image: Any, which: str) -> PIL.Image.Image:
    try:
        return decode_image(image)
    except ImageDecodingError as error:
        raise ValueError(f"The image {which} cannot be read: {error}") from error


def _name_of(model: nn.Module) -> str:
    return getattr(getattr(model, "config", None), "name_or_path", "") or type(model).__name__


def _index_file(folder: Path, column: str) -> Path:
    return folder / f"{column}.faiss"


def read_settings(folder: str | os.PathLike) -> dict[str, Any]:
    """
    What [`SaclSearcher.save_pretrained`] says of the data set and the indexes beside it.

    Args:
        folder (`str` or `os.PathLike`): Where it was saved.

    Raises:
        FileNotFoundError: if it was not saved there to its end.
        ValueError: if the file says something else.
    """
    file = Path(folder, SETTINGS)
    if not file.is_file():
        raise FileNotFoundError(f"There is no {SETTINGS} in {folder}: a searcher was not saved there to its end.")
    settings = read_json(file)
    known = {"rows": int, "model": str, "image_column": str | None, "caption_column": str | None, "columns": dict}
    for name, kind in {**known, "max_length": int | None}.items():
        if not isinstance(settings, dict) or name not in settings or not isinstance(settings[name], kind):
            raise ValueError(f"{file} was not written by `SaclSearcher.save_pretrained`: there is no such `{name}`.")
    for column, saved in settings["columns"].items():
        if not isinstance(saved, dict) or {"dim", "embeddings", "index"} - saved.keys():
            raise ValueError(f"{file} was not written by `SaclSearcher.save_pretrained`: look at {column!r:.100}.")
    return settings


def _load_index(file: Path, saved: dict[str, Any], num_rows: int) -> FaissEngine:
    if saved["index"] is None:
        raise ValueError(f"{file.parent} was searched by an engine other than FAISS: pass it as `engine`.")
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: make the searcher anew from its data set.")
    # First: FAISS trusts what it reads.
    if _digest_of_file(file) != saved["index"]:
        raise ValueError(f"{file} is stale: it is not the index that was saved. Make the searcher anew.")
    engine = FaissEngine.load(file)
    if len(engine) != num_rows or engine.faiss_index.d != saved["dim"]:
        raise ValueError(
            f"{file} is stale: it has {len(engine)} embeddings of {engine.faiss_index.d} dimensions, the data set "
            f"{num_rows} of {saved['dim']}. Make the searcher anew from its data set."
        )
    return engine


def _digest_of_file(file: Path) -> str:
    digest = xxhash.xxh3_128()
    with open(file, "rb") as content:
        while block := content.read(1 << 24):
            digest.update(block)
    return digest.hexdigest()
