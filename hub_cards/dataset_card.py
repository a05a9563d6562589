# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The card of a data set of image-text pairs: columns, splits, and how often a negative is false in it."""

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, Features, Image

from .rendering import render_sections
from .sections import update_card


_SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "n>1B")
_BATCH_SIZES = (64, 256)


@dataclass
class SplitFacts:
    """
    What was counted in a split.

    Args:
        rows (`int`): Its rows.
        distinct (`dict[str, int]`): How many different values each column of text or of ids has.
        words (`tuple[int, int, int]`, *optional*): The fewest, the median and the most words of a caption.
        shared (`dict[str, dict[int, float]]`):
            For a column, by batch size, the expected percentage of rows that meet another row of the same value in a
            random batch.
    """

    rows: int
    distinct: dict[str, int] = field(default_factory=dict)
    words: tuple[int, int, int] | None = None
    shared: dict[str, dict[int, float]] = field(default_factory=dict)


@dataclass
class DatasetCardFacts:
    """
    What a data set's card says. What is absent is not mentioned, or stands there as a question to a person.

    Args:
        name (`str`): What the data set is called.
        description (`str`): Markdown: what it is, how it came about. A person had better write it into the card.
        repo_id (`str`, *optional*): Its Hub id, for the snippet.
        license (`str`, *optional*): The Hub's name of its licence, `"other"` with a `license_name`.
        license_name, license_details (`str`, *optional*): The licence in words.
        language, task_categories, tags (`list[str]`): As in the front matter.
        homepage (`str`, *optional*): Where the data came from.
        citation (`str`): BibTeX.
        columns (`dict[str, tuple[str, str]]`): Type and meaning of each column.
        splits (`dict[str, SplitFacts]`): What was counted in each split.
    """

    name: str
    description: str = ""
    repo_id: str | None = None
    license: str | None = None
    license_name: str | None = None
    license_details: str | None = None
    language: list[str] = field(default_factory=list)
    task_categories: list[str] = field(default_factory=lambda: ["zero-shot-image-classification", "image-to-text"])
    tags: list[str] = field(default_factory=lambda: ["image-text-pairs", "image-text-retrieval"])
    homepage: str | None = None
    citation: str = ""
    columns: dict[str, tuple[str, str]] = field(default_factory=dict)
    splits: dict[str, SplitFacts] = field(default_factory=dict)


# What the columns of pairs mean in this library.
_MEANINGS = {
    "image": "the image",
    "caption": "a text that describes it",
    "captions": "texts that describe it",
    "pair_id": "rows with the same one belong together: each other's positives",
    "license": "the licence of this row",
}


def describe_dataset(
    dataset: Dataset | DatasetDict, name: str, *, meanings: Mapping[str, str] | None = None, **facts: Any
) -> DatasetCardFacts:
    """
    Counts what a card says of pairs: columns, rows, captions, and how often a random batch holds a false negative.

    Args:
        dataset ([`~datasets.Dataset`] or [`~datasets.DatasetDict`]):
            The pairs. Images are not decoded.
        name (`str`):
            What the data set is called.
        meanings (`dict[str, str]`, *optional*):
            What columns mean, by name.
        facts (`Any`):
            Further fields of [`DatasetCardFacts`], such as `license` and `language`.

    Returns:
        [`DatasetCardFacts`]

    Raises:
        TypeError: for a stream, or a field that the facts do not have.
        ValueError: if there are no rows, or no column of that name to have a meaning.

    Example:

    ```python
    >>> from hub_cards import describe_dataset, write_dataset_card

    >>> facts = describe_dataset(load_pairs("photos"), "Photos", license="cc-by-4.0", language=["en"])
    >>> write_dataset_card("photos", facts)
    PosixPath('photos/README.md')
    ```
    """
    if not isinstance(dataset, (Dataset, DatasetDict)):
        raise TypeError(f"A `Dataset` or `DatasetDict` can be counted, got `{type(dataset).__name__}`: load it whole.")
    splits = dict(dataset) if isinstance(dataset, DatasetDict) else {str(dataset.split or "train"): dataset}
    if not any(len(split) for split in splits.values()):
        raise ValueError("The data set has no rows: there is nothing to describe.")
    features: Features = next(iter(splits.values())).features
    told = {**_MEANINGS, **(meanings or {})}
    if unknown := sorted(set(meanings or {}) - set(features)):
        raise ValueError(f"There are no columns {unknown} to have a meaning, only {sorted(features)}.")
    info = next(iter(splits.values())).info
    known = {"license": info.license or None, "homepage": info.homepage or None, "citation": info.citation or ""}
    return DatasetCardFacts(
        name=name,
        columns={column: (_type_name(feature), told.get(column, "")) for column, feature in features.items()},
        splits={split: _count(rows) for split, rows in splits.items()},
        **{**known, **facts},
    )


def _type_name(feature: Any) -> str:
    if isinstance(feature, Image):
        return "image"
    if inner := getattr(feature, "feature", None):
        return f"list of {_type_name(inner)}s"
    return str(getattr(feature, "dtype", type(feature).__name__))


def _count(split: Dataset) -> SplitFacts:
    facts = SplitFacts(rows=len(split))
    texts = next((name for name in ("caption", "captions") if name in split.column_names), None)
    for name in dict.fromkeys(filter(None, (texts, "pair_id"))):
        if name not in split.column_names or not len(split):
            continue
        values = split[name][:]
        if name == "captions":
            values = [text for row in values for text in row or []]
        counts = Counter(values)
        facts.distinct[name] = len(counts)
        # Several captions of one image are no negatives of one another, and would have to be told apart.
        if len(counts) < len(values) and name != "captions":
            facts.shared[name] = {size: _expected_share(counts, size) for size in _BATCH_SIZES if size <= len(split)}
        if name == texts:
            lengths = sorted(len(str(text).split()) for text in values)
            facts.words = (lengths[0], lengths[len(lengths) // 2], lengths[-1]) if lengths else None
    return facts


def _expected_share(counts: Counter, batch_size: int) -> float:
    """
    The percentage of rows that meet one of the same value in a random batch of different rows, exactly: of n rows, m
    have the value, and the rest of the batch is drawn from the n - 1 other rows.
    """
    total = sum(counts.values())
    expected = 0.0
    for times, num_values in Counter(counts.values()).items():
        nobody = 1.0
        for drawn in range(batch_size - 1):
            nobody *= max(0, total - times - drawn) / (total - 1 - drawn)
        expected += times * num_values / total * (1 - nobody)
    return 100 * expected


def write_dataset_card(folder: str | os.PathLike, facts: DatasetCardFacts) -> Path:
    """
    Writes the card of a data set, or writes anew what is generated of it; what a person has written stays.

    Args:
        folder (`str` or `os.PathLike`):
            The folder of the data set. Parquet files named `SPLIT-*.parquet` in it, or in `data/`, are its splits.
        facts ([`DatasetCardFacts`]):
            What is known of it ([`describe_dataset`]).

    Returns:
        `Path`: the card.

    Raises:
        CardError: a `ValueError`, if the present card cannot be read. It is left as it is.

    Example:

    ```python
    >>> from hub_cards import describe_dataset, write_dataset_card

    >>> write_dataset_card("photos", describe_dataset(load_pairs("photos"), "Photos", license="cc-by-4.0"))
    PosixPath('photos/README.md')
    ```
    """
    sections = render_sections(
        "dataset_card.md.jinja",
        facts=facts,
        name=facts.repo_id or f"path/of/{Path(folder).resolve().name}",
        first_split=next(iter(facts.splits), "train"),
        columns=list(dict.fromkeys(name for split in facts.splits.values() for name in split.shared)),
        has_meanings=any(meaning for _, meaning in facts.columns.values()),
    )
    return update_card(folder, _metadata(Path(folder), facts), sections)


def _metadata(folder: Path, facts: DatasetCardFacts) -> dict[str, Any]:
    rows = sum(split.rows for split in facts.splits.values())
    metadata: dict[str, Any] = {
        "pretty_name": facts.name,
        "language": facts.language,
        "license": facts.license,
        "license_name": facts.license_name,
        "task_categories": facts.task_categories,
        "size_categories": [_SIZES[min(max(0, len(str(rows)) - 3), len(_SIZES) - 1)]] if rows else None,
        "tags": facts.tags,
        "configs": _configs(folder, facts),
    }
    return {key: value for key, value in metadata.items() if value}


def _configs(folder: Path, facts: DatasetCardFacts) -> list[dict[str, Any]] | None:
    """Where the files of each split are, if all have some: without, the Hub guesses."""
    files = []
    for split in facts.splits:
        place = next((place for place in ("", "data/") if any(folder.glob(f"{place}{split}-*.parquet"))), None)
        if place is None:
            return None
        files.append({"split": split, "path": f"{place}{split}-*.parquet"})
    return [{"config_name": "default", "data_files": files}] if files else None
