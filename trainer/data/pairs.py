# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Sources of image-text pairs as data sets with three columns: `image`, `caption` or `captions`, and `pair_id`."""

import hashlib
import os
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar, cast

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.compute as pc
import torch
import xxhash
from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    Image,
    IterableDataset,
    IterableDatasetDict,
    LargeList,
    List,
    Value,
    concatenate_datasets,
)
from transformers.utils import logging

from ..text import without_secrets
from .locating import ImageLocator
from .sources import PairDataset, Source, open_source, select_split


logger = logging.get_logger(__name__)

AnyDataset = TypeVar("AnyDataset", Dataset, DatasetDict, IterableDataset, IterableDatasetDict)

# The names under which data sets keep their captions, the likeliest first. Only the first that exists is taken.
CAPTION_COLUMNS = ("captions", "caption", "text", "texts", "sentences", "sentence", "txt", "alt_text", "description")

NO_IMAGE = "no image"
NO_CAPTION = "no caption"
NO_PAIR_ID = "no pair id"

# How columns of texts that lead to images are called elsewhere.
_IMAGE_COLUMNS = ("url", "image_url", "image_path", "file_name", "filepath", "filename", "path", "jpg", "png", "webp")


# Identity of a pair ----------------------------------------------------------------------------------------------


def hash_63_bits(*parts: bytes) -> int:
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return int.from_bytes(digest.digest(), "little") & (2**63 - 1)


def pair_ids_tensor(ids: Iterable[Any]) -> torch.Tensor:
    """
    Turns the identifiers of pairs into numbers that tensors can hold.

    Integers stay as they are. A string becomes a 63-bit BLAKE2b hash, which is the same in every process and every run
    (Python's own `hash` is not), so that features kept in a queue are recognised after a restart and on other ranks.

    Args:
        ids (iterable of `int` or `str`):
            One identifier per pair.

    Returns:
        `torch.Tensor`: int64 of shape `[pairs]`.

    Raises:
        ValueError: An identifier is neither an integer of 64 bits nor a string.

    Example:

    ```python
    >>> from trainer.data import pair_ids_tensor

    >>> pair_ids_tensor([7, "000000391895"])
    tensor([                  7, 2181188226364411839])
    ```
    """
    numbers = []
    for identifier in ids:
        if isinstance(identifier, (torch.Tensor, np.ndarray)) and identifier.ndim == 0:
            identifier = identifier.item()
        if isinstance(identifier, str):
            numbers.append(hash_63_bits(identifier.encode()))
        elif isinstance(identifier, (int, np.integer)) and not isinstance(identifier, bool):
            if not -(2**63) <= identifier < 2**63:
                raise ValueError(f"The pair id {identifier} does not fit into 64 bits; pass it as a string.")
            numbers.append(int(identifier))
        else:
            raise ValueError(
                f"A pair id has to be an integer or a string, got {identifier!r} ({type(identifier).__name__})."
            )
    return torch.tensor(numbers, dtype=torch.int64)


def _is_visible(text: str) -> bool:
    """Whether there is more than blanks, control characters, and what only steers other characters."""
    return any(unicodedata.category(character) not in ("Cc", "Cf", "Zs", "Zl", "Zp") for character in text)


def clean_captions(*values: Any) -> list[str]:
    """
    Collects the usable captions among `values`: strings, lists of strings, and `None`.

    Empty and blank captions, those of invisible characters alone among them, and repetitions are left out; the rest
    keeps its order and its wording.

    Raises:
        ValueError: A value is something else.
    """
    captions: dict[str, str] = {}
    for value in values:
        for caption in value if isinstance(value, (list, tuple, np.ndarray)) else [value]:
            if caption is not None and not isinstance(caption, str):
                raise ValueError(f"A caption has to be a string, got {caption!r} ({type(caption).__name__}).")
            if caption is not None and _is_visible(caption):
                captions.setdefault(caption.strip(), caption)
    return list(captions.values())


def content_pair_id(row: Mapping[str, Any]) -> int:
    """
    Derives the identifier of a pair from what it shows and says, for rows that have neither an id nor a fixed place.

    Args:
        row (mapping):
            A row with `image` (undecoded where possible: hashing an encoded file is the cheapest) and `caption` or
            `captions`.

    Returns:
        `int`: 63 bits; equal for equal pairs, in every process and every run.
    """
    image = row.get("image")
    if isinstance(image, Mapping):
        image = image.get("path") if image.get("bytes") is None else image["bytes"]
    if isinstance(image, PIL.Image.Image):
        parts = [f"{image.mode} {image.size}".encode(), xxhash.xxh3_128_digest(image.tobytes())]
    elif isinstance(image, bytes):
        # Many times as fast as BLAKE2b, which would take a tenth of the time that a PNG file takes to be decoded.
        parts = [xxhash.xxh3_128_digest(image)]
    else:
        parts = [str(image).encode()]
    captions = clean_captions(row.get("captions"), row.get("caption"))
    return hash_63_bits(*parts, *(caption.encode("utf-8", "surrogatepass") for caption in captions))


# Small helpers on columns ----------------------------------------------------------------------------------------


def _is_text(feature: Any) -> bool:
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string", "string_view", "null")


def _is_texts(feature: Any) -> bool:
    return isinstance(feature, (List, LargeList)) and _is_text(feature.feature)


def _is_caption(feature: Any) -> bool:
    return _is_text(feature) or _is_texts(feature)


def _is_image(feature: Any) -> bool:
    """Whether the column holds pictures, or something that `Image` reads: paths, bytes, or both."""
    if isinstance(feature, Value):
        return feature.dtype in ("string", "large_string", "binary", "large_binary", "null")
    if isinstance(feature, Mapping):
        return bool(feature) and set(feature) <= {"bytes", "path"}
    return isinstance(feature, Image)


def _is_pair_id(feature: Any) -> bool:
    if isinstance(feature, ClassLabel):
        return True
    return isinstance(feature, Value) and ("int" in feature.dtype or _is_text(feature))


def _features(dataset: Dataset | IterableDataset) -> Features:
    """The features of a data set; those of a stream that does not know them are read off its first rows."""
    if dataset.features is not None:
        return dataset.features
    head = list(cast(IterableDataset, dataset).take(16))
    if not head:
        raise ValueError("The data set has no rows.")
    return Dataset.from_list(head).features


def _undecoded_column(dataset: AnyDataset, column: str) -> AnyDataset:
    """Reads a column of any kind that `Image` understands as undecoded images."""
    if isinstance(dataset, IterableDataset):
        # Undoes the threaded decoding that `load_dataset` sets up for remote streams, too.
        dataset = dataset.decode(False)
    return dataset.cast_column(column, Image(decode=False))


def undecoded(dataset: AnyDataset, image_column: str = "image") -> AnyDataset:
    """
    Makes a data set return its images as `{"bytes": ..., "path": ...}` instead of decoding them.

    A data set that decodes raises at the first broken file, from inside the data loader. Undecoded, the broken file
    reaches [`PairCollator`], which leaves that pair out and counts it. Nothing is copied.

    Args:
        dataset (`Dataset`, `DatasetDict`, `IterableDataset` or `IterableDatasetDict`):
            The data set. It is returned as it is if `image_column` is not an image column, or if a transform is set on
            it (`with_transform`), which expects decoded images.
        image_column (`str`, *optional*, defaults to `"image"`):
            Name of the column.

    Returns:
        A data set of the same type, rows and columns.

    Example:

    ```python
    >>> from trainer.data import undecoded

    >>> undecoded(dataset)[0]["image"].keys()
    dict_keys(['bytes', 'path'])
    ```
    """
    if isinstance(dataset, (DatasetDict, IterableDatasetDict)):
        return type(dataset)({name: undecoded(part, image_column) for name, part in dataset.items()})
    features = dataset.features
    if features is None or not isinstance(features.get(image_column), Image) or not features[image_column].decode:
        return dataset
    if isinstance(dataset, Dataset) and dataset.format["type"] == "custom":
        return dataset
    return _undecoded_column(dataset, image_column)


def _add_content_pair_id(row: dict[str, Any]) -> dict[str, Any]:
    return {"pair_id": content_pair_id(row)}


def with_pair_ids(dataset: AnyDataset) -> AnyDataset:
    """
    Adds the column `pair_id` where it is missing.

    The objective needs it: a pair that comes back from the feature queue, or stands in the batch twice, has to be
    recognised as the anchor's own and must not be pushed away as a negative.

    In a `Dataset` the id is the number of the row. Rows of a stream have no number that survives shuffling and
    sharding (each worker and each rank would count from 0, and different pairs would share ids), so there the id is a
    hash of the encoded image and its captions.

    Args:
        dataset (`Dataset`, `DatasetDict`, `IterableDataset` or `IterableDatasetDict`):
            A data set with the columns `image` and `caption` or `captions`.

    Returns:
        A data set of the same type; the same object if it has the column.

    Example:

    ```python
    >>> from trainer.data import with_pair_ids

    >>> with_pair_ids(dataset)[41]["pair_id"]
    41
    ```
    """
    if isinstance(dataset, (DatasetDict, IterableDatasetDict)):
        return type(dataset)({name: with_pair_ids(part) for name, part in dataset.items()})
    if isinstance(dataset, Dataset):
        if "pair_id" in dataset.column_names:
            return dataset
        return dataset.add_column("pair_id", np.arange(len(dataset)), feature=Value("int64"))
    features = _features(dataset)
    if "pair_id" in features:
        return dataset
    known = dataset.features is not None
    if known and isinstance(features.get("image"), Image):
        dataset = _undecoded_column(dataset, "image")
    # Features are set by `cast` and not given to `map`, whose output would then never be decoded.
    dataset = dataset.map(_add_content_pair_id)
    return dataset.cast(Features({**features, "pair_id": Value("int64")})) if known else dataset


# Columns ---------------------------------------------------------------------------------------------------------


def _is_by_language(feature: Any) -> bool:
    """Whether the column holds captions by their language: `{"en": "a bus", "de": ["ein Bus", "der Bus"]}`."""
    return (
        isinstance(feature, Mapping) and bool(feature) and all(_is_text(f) or _is_texts(f) for f in feature.values())
    )


def _find_caption_columns(
    features: Features, caption_columns: str | Sequence[str] | None, languages: Sequence[str]
) -> list[str]:
    if caption_columns is None:
        names = [_likeliest_caption_column(features, by_language=bool(languages))]
    else:
        names = [caption_columns] if isinstance(caption_columns, str) else list(dict.fromkeys(caption_columns))
    if not names:
        raise ValueError("`caption_columns` is empty; name one column or more, or leave it out.")
    for name in names:
        _check_caption_column(features, name, bool(languages))
    known = [code for name in names if _is_by_language(features[name]) for code in features[name]]
    for language in languages:
        if language not in known:
            listing = ", ".join(map(repr, known)) or "not told apart"
            raise ValueError(f"There are no captions in {language!r}: the languages are {listing}.")
    return names


def _likeliest_caption_column(features: Features, by_language: bool) -> str:
    fits = _is_by_language if by_language else _is_caption
    for name in CAPTION_COLUMNS:
        if fits(features.get(name)):
            return name
    listing = ", ".join(f"`{name}`" for name in features)
    if by_language:
        raise ValueError(
            f"`language` chooses in a column that holds captions by their language; there is none among {listing}."
        )
    raise ValueError(
        f"Found no column with captions among {listing}. Name it with `caption_columns=...`; a column of strings "
        "or of lists of strings will do, and several can be given."
    )


def _check_caption_column(features: Features, name: str, has_language: bool) -> None:
    if name not in features:
        listing = ", ".join(f"`{name}`" for name in features)
        raise ValueError(f"`caption_columns` names {name!r}, which is not among the columns {listing}.")
    by_language = _is_by_language(features[name])
    if by_language and not has_language:
        raise ValueError(
            f"The caption column `{name}` holds captions in several languages ({', '.join(features[name])}): choose "
            "with `language=...`."
        )
    if not by_language and not _is_caption(features[name]):
        raise ValueError(
            f"The caption column `{name}` has to hold strings or lists of strings, got {features[name]}. Turn it "
            "into strings with `dataset.map` first."
        )


class _Layout:
    """Where the standard columns come from. Made and checked once per split, before any row is read."""

    def __init__(
        self,
        features: Features,
        image_column: str,
        caption_columns: str | Sequence[str] | None,
        pair_id_column: str | None,
        keep_columns: Sequence[str],
        languages: Sequence[str] = (),
        prompt: str | None = None,
        locate: ImageLocator | None = None,
    ):
        listing = ", ".join(f"`{name}`" for name in features)
        if image_column not in features:
            pictures = [name for name, feature in features.items() if isinstance(feature, Image)]
            pictures += [name for name in _IMAGE_COLUMNS if name in features]
            hint = f" `{pictures[0]}` holds images: pass `image_column={pictures[0]!r}`." if pictures else ""
            raise ValueError(
                f"There is no image column {image_column!r} among {listing}; name it with `image_column=...`.{hint}"
            )
        if not _is_image(features[image_column]):
            raise ValueError(
                f"The column `{image_column}` has to hold images, paths or bytes, got {features[image_column]}; name "
                "another with `image_column=...`."
            )
        if pair_id_column is None and "pair_id" in features:
            pair_id_column = "pair_id"
        if pair_id_column is not None and pair_id_column not in features:
            raise ValueError(f"`pair_id_column` names {pair_id_column!r}, which is not among the columns {listing}.")
        if image_column == pair_id_column:
            raise ValueError(f"The column {image_column!r} cannot be the image and the pair id as well.")
        if pair_id_column is not None and not _is_pair_id(features[pair_id_column]):
            raise ValueError(
                f"Pair ids have to be integers or strings; the column `{pair_id_column}` holds "
                f"{features[pair_id_column]}."
            )
        self.image = image_column
        self.captions = _find_caption_columns(features, caption_columns, languages)
        self.languages = tuple(languages)
        self.prompt = prompt
        self.locate = locate
        if image_column in self.captions:
            raise ValueError(f"The column {image_column!r} cannot be the image and the caption as well.")
        self.pair_id = pair_id_column
        single = len(self.captions) == 1 and _is_text(features[self.captions[0]])
        self.caption_name = "caption" if single else "captions"
        self.sources = {"image": self.image, self.caption_name: self.captions[0], "pair_id": self.pair_id}

        keep_columns = [keep_columns] if isinstance(keep_columns, str) else list(dict.fromkeys(keep_columns))
        self.keep = []
        for name in keep_columns:
            if name not in features:
                raise ValueError(f"`keep_columns` names {name!r}, which is not among the columns {listing}.")
            if name == image_column != "image":
                raise ValueError(f"`keep_columns` names {name!r}, which is the image column and becomes `image`.")
            if name not in self.sources:
                self.keep.append(name)
            elif self.sources[name] != name:
                raise ValueError(
                    f"`keep_columns` names {name!r}, but the result has a column of this name that comes from "
                    f"{self.sources[name] or 'the row numbers'!r}; rename it with `dataset.rename_column` first."
                )
        # `mode` is the user's wish and stays; everything else about the image column is ours.
        picture = features[image_column]
        self.image_feature = Image(mode=picture.mode) if isinstance(picture, Image) else Image()
        self.caption_feature = Value("string") if single else List(Value("string"))
        self.pair_id_feature = Value("int64") if self.pair_id is None else features[self.pair_id]
        self.keep_features = {name: features[name] for name in self.keep}

    def read_captions(self, values: Iterable[Any]) -> list[str]:
        """The captions of a row, from the values of its caption columns."""
        chosen: list[Any] = []
        for value in values:
            chosen.extend([value.get(code) for code in self.languages] if isinstance(value, Mapping) else [value])
        captions = clean_captions(*chosen)
        return captions if self.prompt is None else [self.prompt.format(caption=caption) for caption in captions]

    @property
    def makes_captions(self) -> bool:
        """Whether captions are more than a column under another name."""
        return len(self.captions) > 1 or bool(self.languages) or self.prompt is not None

    @property
    def features(self) -> Features:
        """Those of the result."""
        return Features(
            {
                "image": self.image_feature,
                self.caption_name: self.caption_feature,
                "pair_id": self.pair_id_feature,
                **self.keep_features,
            }
        )


def _read_captions(batch: dict[str, list[Any]], layout: _Layout) -> dict[str, list[Any]]:
    rows = zip(*(batch[name] for name in layout.captions), strict=True)
    captions: list[Any] = [layout.read_captions(values) for values in rows]
    if layout.caption_name == "caption":
        captions = [found[0] if found else None for found in captions]
    return {layout.caption_name: captions}


def _locate_batch(batch: dict[str, list[Any]], column: str, locate: ImageLocator) -> dict[str, list[Any]]:
    return {"image": [locate(image) for image in batch[column]]}


def _moves_images(column: pa.ChunkedArray, locate: ImageLocator) -> bool:
    """Whether an undecoded column has a path that is written otherwise, or no path at all. Reads no image."""
    paths = column.combine_chunks().field("path").filter(pc.is_null(pc.struct_field(column, "bytes")).combine_chunks())
    return any(locate(path)["path"] != path for path in paths.drop_null().to_pylist())


def _without_image(column: pa.ChunkedArray) -> np.ndarray:
    """Which rows of an undecoded image column hold nothing. Reads validity bits, not images."""
    nothing = pc.and_(pc.is_null(pc.struct_field(column, "bytes")), pc.is_null(pc.struct_field(column, "path")))
    return pc.or_(pc.is_null(column), nothing).to_numpy()


def _standard_dataset(dataset: Dataset, layout: _Layout, label: str) -> Dataset:
    if len(dataset) == 0:
        raise ValueError(f"{label} has no rows.")
    dataset = _undecoded_column(dataset.with_format(None), layout.image)

    # One pass over everything but the pictures: which rows are usable, and do the captions need cleaning?
    names = list(dict.fromkeys([layout.image, *layout.captions, *([layout.pair_id] if layout.pair_id else [])]))
    keep, needs_cleaning, needs_locating = [], layout.makes_captions, False
    reasons: Counter[str] = Counter()
    for table in dataset.select_columns(names).with_format("arrow").iter(batch_size=1000):
        no_image = _without_image(table[layout.image])
        raw = [table[name].to_pylist() for name in layout.captions]
        cleaned = [layout.read_captions(values) for values in zip(*raw, strict=True)]
        if layout.locate is not None:
            needs_locating |= _moves_images(table[layout.image], layout.locate)
        no_caption = np.array([not captions for captions in cleaned])
        no_id = np.zeros(len(table), dtype=bool)
        if layout.pair_id is not None:
            no_id = pc.is_null(table[layout.pair_id]).to_numpy()
        usable = ~(no_image | no_caption | no_id)
        if layout.caption_name == "captions" and not needs_cleaning:
            needs_cleaning = any(ok and new != old for ok, new, old in zip(usable, cleaned, raw[0], strict=True))
        reasons[NO_IMAGE] += int(no_image.sum())
        reasons[NO_CAPTION] += int((no_caption & ~no_image).sum())
        reasons[NO_PAIR_ID] += int((no_id & ~no_image & ~no_caption).sum())
        keep.append(usable)
    kept = np.flatnonzero(np.concatenate(keep))
    if len(kept) < len(dataset):
        why = ", ".join(f"{count} with {reason}" for reason, count in reasons.items() if count)
        if len(kept) == 0:
            raise ValueError(
                f"{label} has no usable pair: of {len(dataset)} rows, {why}. Is `image_column={layout.image!r}` "
                f"right, and are the captions in {', '.join(map(repr, layout.captions))}?"
            )
        logger.warning(f"{label}: {len(dataset) - len(kept)} of {len(dataset)} rows are left out ({why}).")

    # Columns are renamed where that is enough. Only what has to be made anew is made, and pictures are never copied.
    made: dict[str, Dataset] = {}
    if needs_locating:
        made["image"] = dataset.select_columns([layout.image]).map(
            partial(_locate_batch, column=layout.image, locate=cast(ImageLocator, layout.locate)),
            batched=True,
            batch_size=100,
            remove_columns=[layout.image],
            features=Features({"image": Image(decode=False)}),
            desc="Finding images",
        )
    if needs_cleaning:
        made[layout.caption_name] = dataset.select_columns(layout.captions).map(
            partial(_read_captions, layout=layout),
            batched=True,
            remove_columns=layout.captions,
            features=Features({layout.caption_name: layout.caption_feature}),
            desc="Collecting captions",
        )
    elif layout.captions[0] in layout.keep:
        made[layout.caption_name] = dataset.select_columns([layout.captions[0]])
    if layout.pair_id is None:
        made["pair_id"] = Dataset.from_dict(
            {"pair_id": np.arange(len(dataset))}, features=Features({"pair_id": Value("int64")})
        )
    elif layout.pair_id in layout.keep or layout.pair_id in layout.captions:
        made["pair_id"] = dataset.select_columns([layout.pair_id])
    taken = {source: name for name, source in layout.sources.items() if name not in made}
    result = dataset.select_columns([*taken, *layout.keep]).rename_columns(
        {source: name for source, name in taken.items() if source != name}
    )
    if made:
        parts = [
            part.rename_column(part.column_names[0], name) if part.column_names[0] != name else part
            for name, part in made.items()
        ]
        result = concatenate_datasets([result, *parts], axis=1, split=dataset.split)
    if len(kept) < len(dataset):
        result = result.select(kept)
    result = result.select_columns(list(layout.features))
    return result.cast_column("image", layout.image_feature)


class _StandardRows:
    """
    The same for a few rows of a stream at a time. Those without an image or a caption are not left out here, where
    nobody would learn how many they are, but by the collator, which counts them.
    """

    def __init__(self, layout: _Layout, label: str):
        self.layout = layout
        self.label = label
        self.reported = False

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        result: dict[str, list[Any]] = {name: [] for name in self.layout.features}
        for values in zip(*batch.values(), strict=True):
            row = dict(zip(batch, values, strict=True))
            if self.layout.locate is not None:
                row[self.layout.image] = self.layout.locate(row[self.layout.image])
            captions = self.layout.read_captions(row[name] for name in self.layout.captions)
            if self.layout.pair_id is not None and row[self.layout.pair_id] is None:
                self._report_missing_id()
                continue
            for name, value in self._standard(row, captions).items():
                result[name].append(value)
        return result

    def _report_missing_id(self) -> None:
        if not self.reported:
            self.reported = True
            logger.warning(f"{self.label}: rows with {NO_PAIR_ID} are left out as they are met.")

    def _standard(self, row: dict[str, Any], captions: list[str]) -> dict[str, Any]:
        image = row[self.layout.image]
        caption = captions[0] if captions else None
        identifier = (
            content_pair_id({"image": image, "captions": captions})
            if self.layout.pair_id is None
            else row[self.layout.pair_id]
        )
        return {
            "image": image,
            self.layout.caption_name: caption if self.layout.caption_name == "caption" else captions,
            "pair_id": identifier,
            **{name: row[name] for name in self.layout.keep},
        }


def _standard_stream(dataset: IterableDataset, layout: _Layout, features: Features, label: str) -> IterableDataset:
    if dataset.features is None:
        dataset = dataset.cast(features)
    stream = _undecoded_column(dataset, layout.image).map(
        _StandardRows(layout, label),
        batched=True,
        batch_size=16,
        remove_columns=list(features),
    )
    # Features are set by `cast` and not given to `map`, whose output would then never be decoded.
    return stream.cast(layout.features)


# Loading ---------------------------------------------------------------------------------------------------------


def load_pairs(
    source: str | os.PathLike | Sequence[str | os.PathLike] | PairDataset,
    *,
    split: str | None = None,
    image_column: str = "image",
    caption_columns: str | Sequence[str] | None = None,
    pair_id_column: str | None = None,
    keep_columns: Sequence[str] = (),
    language: str | Sequence[str] | None = None,
    prompt: str | None = None,
    image_root: str | os.PathLike | None = None,
    column_names: Sequence[str] | None = None,
    name: str | None = None,
    data_files: str | Sequence[str] | Mapping[str, Any] | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike | None = None,
    storage_options: Mapping[str, Any] | None = None,
    streaming: bool = False,
    follow_links: bool = False,
) -> PairDataset:
    """
    Opens image-text pairs, wherever they are, as a data set with the columns that the rest of this library reads:
    `image`, `caption` (one string per row) or `captions` (a list of strings), and `pair_id`.

    No image is decoded or copied here. Rows without an image or without a usable caption are left out, and the log
    says how many and why. In a stream, which is read only later, they stay, with `None` in the place of what is
    missing: the collator leaves them out and counts them, as it does with images that cannot be read.

    Args:
        source (`str`, `os.PathLike`, sequence of them, or a data set):
            One of

            - the id of a data set on the Hub,
            - a folder that [`~datasets.load_dataset`] reads: images with a `metadata.jsonl`, `metadata.csv` or
              `metadata.parquet`, Parquet files, a data set with its card; or one written by `save_to_disk`,
            - a file: Parquet, JSON lines, CSV, TSV or Arrow, with images as bytes, as paths below the folder of the
              file (see `image_root`), as web addresses, which are fetched when a batch is made ([`fetch_image`]), or
              in base64; a TSV of captions and addresses alone (Conceptual Captions) needs no names of columns,
            - tar files, or a folder of them, in the format of WebDataset and img2dataset: `0001.jpg`, `0001.txt` and
              `0001.json` in a row are a pair. The texts and numbers of the JSON are columns,
            - a JSON file with a list of `{"image", "caption", "image_id"}`, ALBEF's annotations, where `caption` may
              be a list; `image_id`, or else the path of the image, says which rows belong together,
            - the JSON file of COCO or Flickr30k in Karpathy's format (see [`load_karpathy`]),
            - several files of one format: a list of them, a pattern (`"part-*.parquet"`), or braces
              (`"{0000..0131}.tar"`). Each is a shard of a stream,
            - each of these files, or a folder, on an object store that `fsspec` knows: `"s3://bucket/pairs/"`,
            - a data set that is open already (`Dataset`, `DatasetDict`, `IterableDataset`, `IterableDatasetDict`). An
              output format set on it is removed.
        split (`str`, *optional*):
            The split to load, also with slicing (`"train[:1%]"`) where `datasets` does the loading. Without it, all
            splits are returned; a file has just one.
        image_column (`str`, *optional*, defaults to `"image"`):
            The column with the images, or with their paths or bytes.
        caption_columns (`str` or sequence of `str`, *optional*):
            The columns with captions, of strings or of lists of strings. One column of strings gives `caption`;
            otherwise all captions of a row are put together in `captions`, without empty ones and repetitions. If
            unset, the first of `captions`, `caption`, `text`, `texts`, `sentences`, `sentence`, `txt`, `alt_text` and
            `description` that exists.
        pair_id_column (`str`, *optional*):
            The column that says which rows belong together, integers or strings. Rows of one id are never each
            other's negatives: name the column of image ids if the same image stands in several rows, once per
            caption. If unset, the column `pair_id` if there is one, else the number of the row in the source (for a
            stream: a hash of the pair, see [`with_pair_ids`]).
        keep_columns (sequence of `str`, *optional*):
            Further columns to keep, under their own names.
        language (`str` or sequence of `str`, *optional*):
            Of a column that holds captions by their language (`{"en": "a bus", "de": "ein Bus"}`), those to take. (If
            each language has a column, name the columns in `caption_columns`.)
        prompt (`str`, *optional*):
            What each caption becomes, such as `"a photo of a {caption}"`, where captions are names of things.
        image_root (`str` or `os.PathLike`, *optional*):
            The folder, or its URL, below which the paths of images lie; by default that of the file. A path that leads
            elsewhere is an error.
        column_names (sequence of `str`, *optional*):
            The columns of a TSV or CSV without a first line of names.
        name (`str`, *optional*):
            Configuration of the data set, as in `load_dataset`.
        data_files (`str`, sequence or mapping, *optional*):
            Files within `source`, as in `load_dataset`; a mapping assigns them to splits.
        revision (`str`, *optional*):
            Branch, tag or commit on the Hub. Pin it in anything that should give the same numbers next year.
        token (`str` or `bool`, *optional*):
            Token for private data sets on the Hub.
        cache_dir (`str` or `os.PathLike`, *optional*):
            Where `datasets` keeps what it prepares.
        storage_options (mapping, *optional*):
            What `fsspec` needs to reach an object store, such as `{"endpoint_url": ...}`. Images that a list names
            are read later, with what the environment says.
        streaming (`bool`, *optional*, defaults to `False`):
            Whether to read rows as they are needed instead of preparing the data set on disk first.
        follow_links (`bool`, *optional*, defaults to `False`):
            Whether a local folder may have links to what is outside of it. In a stranger's folder, they name files of
            yours.

    Returns:
        `Dataset`, `DatasetDict`, `IterableDataset` or `IterableDatasetDict`: What `source` and `split` make of it,
        with the standard columns and `keep_columns`. Applied to its own result, `load_pairs` changes nothing.

    Raises:
        FileNotFoundError: `source` looks like a local path and does not exist.
        ValueError: A column is missing, ambiguous or of the wrong type, there is no such split, the path of an image
            or a link leads out of its folder, or not one row is usable. The message names the columns and the
            argument to use. (A stream finds out about its rows only while it is read.)

    Example:

    ```python
    >>> from trainer.data import load_pairs

    >>> dataset = load_pairs("path/to/image_folder", split="train", caption_columns=["title", "alt_text"])
    >>> dataset[0]
    {'image': <PIL.JpegImagePlugin.JpegImageFile ...>, 'captions': ['Red bus', 'a bus in the rain'], 'pair_id': 0}
    >>> stream = load_pairs("s3://bucket/laion/{00000..00999}.tar", streaming=True)
    ```
    """
    languages = [language] if isinstance(language, str) else list(language or ())
    _check_prompt(prompt)
    load_arguments = {
        "name": name,
        "data_files": data_files,
        "revision": revision,
        "token": token,
        "cache_dir": None if cache_dir is None else os.fspath(cache_dir),
    }
    dataset: PairDataset
    locate: ImageLocator | None
    usual_image_column = "image"
    if isinstance(source, (Dataset, DatasetDict, IterableDataset, IterableDatasetDict)):
        only_to_open = {
            "streaming": streaming,
            "follow_links": follow_links,
            "column_names": column_names,
            "storage_options": storage_options,
        }
        given = [key for key, value in load_arguments.items() if value is not None]
        given += [key for key, value in only_to_open.items() if value]
        if given:
            raise ValueError(f"`{given[0]}` says how to open a source, but `source` is an open data set.")
        dataset, label = select_split(source, split), "The data set"
        locate = ImageLocator(image_root, trusted=True, follow_links=True)
    else:
        opened = open_source(
            Source(
                _names(source),
                split,
                streaming,
                None if image_root is None else os.fspath(image_root),
                None if column_names is None else tuple(column_names),
                storage_options or {},
                load_arguments,
                follow_links,
            )
        )
        dataset, locate = opened.dataset, opened.locate
        label = repr(without_secrets(_names(source)[0]))
        pair_id_column = pair_id_column or opened.pair_id_column
        usual_image_column = opened.image_column

    def standard(part: Dataset | IterableDataset, label: str) -> Dataset | IterableDataset:
        if isinstance(part, Dataset) and part.format["type"] == "custom":
            raise ValueError(
                f"{label} has a transform set on it (`with_transform`), and `load_pairs` reads the columns below it. "
                "Call `load_pairs` first and set the transform on its result."
            )
        features = _features(part)
        is_usual = image_column == "image" and "image" not in features and usual_image_column in features
        images = usual_image_column if is_usual else image_column
        layout = _Layout(features, images, caption_columns, pair_id_column, keep_columns, languages, prompt, locate)
        if isinstance(part, Dataset):
            return _standard_dataset(part, layout, label)
        return _standard_stream(part, layout, features, label)

    if isinstance(dataset, (DatasetDict, IterableDatasetDict)):
        return type(dataset)({key: standard(part, f"{label}, split {key!r}") for key, part in dataset.items()})
    return standard(dataset, label)


def _names(source: Any) -> tuple[str, ...]:
    """The source as texts, where it is one path or several."""
    paths = [source] if isinstance(source, (str, os.PathLike)) else source
    if not isinstance(paths, Sequence) or not paths or not all(isinstance(path, (str, os.PathLike)) for path in paths):
        raise ValueError(
            "`source` has to be a path, several, the id of a data set on the Hub or a data set, got "
            f"{type(source).__name__}."
        )
    return tuple(os.fspath(path) for path in paths)


def _check_prompt(prompt: str | None) -> None:
    if prompt is None:
        return
    fields = [name for _, name, _, _ in string.Formatter().parse(prompt) if name is not None]
    if fields != ["caption"]:
        raise ValueError(f"`prompt` has to contain {{caption}}, once, and nothing else in braces; got {prompt!r}.")
