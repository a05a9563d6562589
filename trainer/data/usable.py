# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Batches that keep their size: a pair that cannot be used gives its place to another, and is reported."""

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, Self

import torch

from .pairs import hash_63_bits
from .remote import fetched
from .seeding import ROW_SEED, rows_of
from .streams import PLACE


# Under this name a batch carries what was left out in its favour.
SKIPPED_PAIRS = "skipped_pairs"

# As many unusable pairs one after another are no longer the fault of single pairs.
MAX_UNUSABLE_IN_A_ROW = 1000

_NUM_EXAMPLES = 3

_ROWS_AT_ONCE = 16

# What follows a `?` in an address may be a signature that opens it.
_ADDRESS = re.compile(r"(\w+://[^\s?]*)\?[^\s)]*")


class UnusablePair(Exception):
    """A pair that is left out of its batch: the reason under which it is counted, and the details."""

    def __init__(self, reason: str, details: str = ""):
        super().__init__(reason, details)
        self.reason = reason
        self.details = details

    def __str__(self) -> str:
        return f"{self.reason} ({self.details})" if self.details else self.reason


class SkippedPair(NamedTuple):
    """
    A pair that was left out.

    Args:
        pair_id (`int` or `str`, *optional*):
            What its row says.
        reason (`str`):
            Under which it is counted: `"unreadable image"`, `"no caption"`, ...
        details (`str`):
            What exactly was wrong, for people.
        image (`str`, *optional*):
            The path of its image, where there is one.
    """

    pair_id: int | str | None
    reason: str
    details: str = ""
    image: str | None = None

    @classmethod
    def of(cls, row: Mapping[str, Any], problem: UnusablePair) -> Self:
        """The pair in this row, left out for this problem."""
        identifier = row.get("pair_id")
        identifier = getattr(identifier, "item", lambda: identifier)()
        return cls(
            pair_id=identifier if isinstance(identifier, (int, str)) else None,
            reason=problem.reason,
            details=_ADDRESS.sub(r"\1?...", problem.details),
            image=_path_of(row.get("image")),
        )


def _path_of(image: Any) -> str | None:
    path = image.get("path") if isinstance(image, Mapping) else getattr(image, "filename", image)
    if not isinstance(path, str) or not path:
        return None
    return path.split("?")[0] if "://" in path else path


def summary(skipped: Iterable[SkippedPair], limit: int = 5) -> str:
    """The commonest reasons, each with its count, some ids, and what was wrong with the first of them."""
    pairs: dict[str, list[SkippedPair]] = {}
    for pair in skipped:
        pairs.setdefault(pair.reason, []).append(pair)
    counts = Counter({reason: len(found) for reason, found in pairs.items()}).most_common(limit)
    return "; ".join(f"{count} with {reason} ({_examples(pairs[reason])})" for reason, count in counts)


def _examples(pairs: Sequence[SkippedPair]) -> str:
    identifiers = list(dict.fromkeys(repr(pair.pair_id) for pair in pairs if pair.pair_id is not None))
    named = f"pair{'s' * (len(identifiers) > 1)} {', '.join(identifiers[:_NUM_EXAMPLES])}" if identifiers else "no id"
    return f"{named}{', ...' * (len(identifiers) > _NUM_EXAMPLES)}{': ' * bool(pairs[0].details)}{pairs[0].details}"


class ReadRow(dict):
    """
    A row with what a collator has read of it, so that it is not read again.

    Args:
        row (mapping): The row.
        parts (`tuple`): What was read.
    """

    def __init__(self, row: Mapping[str, Any], parts: tuple[Any, ...]):
        super().__init__(row)
        self.parts = parts
        self.skipped: list[SkippedPair] = []
        self._row = dict(row)

    def is_current(self) -> bool:
        """Whether the row still is as it was read: a collator on top of another may have changed it."""
        return self.keys() == self._row.keys() and all(self[name] is value for name, value in self._row.items())


class RowReader(Protocol):
    """A collator that can be asked for a single row: `PairCollator`, and what is built like it."""

    def read(self, row: Mapping[str, Any]) -> ReadRow:
        """What a batch needs of a row, or an [`UnusablePair`]."""
        ...


class UsablePairs(torch.utils.data.Dataset):
    """
    A data set whose rows have been read and found usable. In the place of one that is not comes another row, drawn
    from the whole data set: by the seed of the row that it replaces ([`SeededPairs`]), or else its number. So batches
    keep their size, and neither the number of workers nor an interruption changes what is in them.

    Rows are read where they are fetched, in the workers of a data loader. What was left out travels with the batch.

    Args:
        dataset:
            Any data set with a length and rows that are mappings.
        collator ([`PairCollator`]):
            What reads the rows, and makes batches of them in the same data loader.
        fill (`bool`, *optional*, defaults to `True`):
            Whether to put others in the place of unusable rows. If not, as in an evaluation, which is of these pairs
            and no others, batches shrink; but one that would be empty still gets a single row.
        report (`bool`, *optional*, defaults to `True`):
            Whether batches say what was left out.

    Raises:
        ValueError: When rows are fetched, if 1000 one after another are unusable.

    Example:

    ```python
    >>> from torch.utils.data import DataLoader
    >>> from trainer.data import PairCollator, SeededPairs, UsablePairs

    >>> collator = PairCollator(processor)
    >>> loader = DataLoader(UsablePairs(SeededPairs(dataset, seed=42), collator), batch_size=8, collate_fn=collator)
    >>> {len(batch["pair_ids"]) for batch in loader}
    {8}
    ```
    """

    def __init__(self, dataset: Any, collator: RowReader, fill: bool = True, report: bool = True):
        self.dataset = dataset
        self.collator = collator
        self.fill = fill
        self.report = report

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> ReadRow:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[ReadRow]:
        usable: list[ReadRow] = []
        skipped: list[SkippedPair] = []
        left_out: list[tuple[int, Mapping[str, Any]]] = []
        for index, row in zip(indices, fetched(rows_of(self.dataset, indices)), strict=True):
            try:
                usable.append(self.collator.read(row))
            except UnusablePair as problem:
                skipped.append(SkippedPair.of(row, problem))
                left_out.append((index, row))
                if self.fill:
                    usable.append(self._replacement(index, row, skipped))
        if not usable and left_out:
            usable.append(self._replacement(*left_out[0], skipped))
        if self.report:
            usable[0].skipped = skipped
        return usable

    def _replacement(self, index: int, row: Mapping[str, Any], skipped: list[SkippedPair]) -> ReadRow:
        """A usable row in the place of this one; others that are met are added to `skipped`."""
        seed, start = row.get(ROW_SEED, index), len(skipped) - 1
        for attempt in itertools.count(1):
            number = hash_63_bits(f"{seed} {attempt}".encode())
            (other,) = fetched(rows_of(self.dataset, [number % len(self.dataset)]))
            if ROW_SEED in row:
                other = {**other, ROW_SEED: number}
            try:
                return self.collator.read(other)
            except UnusablePair as problem:
                skipped.append(SkippedPair.of(other, problem))
                _check_progress(skipped[start:])
        raise AssertionError("unreachable")


class UsableStream(torch.utils.data.IterableDataset):
    """
    A stream whose rows have been read and found usable; those that are not are passed over, and reported by the next
    that is. Batches keep their size.

    Args:
        dataset (`torch.utils.data.IterableDataset` or [`~datasets.IterableDataset`]):
            Rows that are mappings.
        collator ([`PairCollator`]):
            What reads the rows, and makes batches of them in the same data loader.
        report (`bool`, *optional*, defaults to `True`):
            Whether batches say what was left out.

    Raises:
        ValueError: When rows are fetched, if 1000 one after another are unusable.
    """

    def __init__(self, dataset: Any, collator: RowReader, report: bool = True):
        self.dataset = dataset
        self.collator = collator
        self.report = report

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        skipped: list[SkippedPair] = []
        for row in self._fetched_rows():
            if row.get(PLACE, 0) is None:  # In the place of one that a resumed run has seen.
                yield row
                continue
            try:
                usable = self.collator.read(row)
            except UnusablePair as problem:
                skipped.append(SkippedPair.of(row, problem))
                _check_progress(skipped)
                continue
            if self.report:
                usable.skipped = skipped
            skipped = []
            yield usable

    def _fetched_rows(self) -> Iterator[Mapping[str, Any]]:
        """Images at addresses are fetched several at a time."""
        rows = iter(self.dataset)
        while some := list(itertools.islice(rows, _ROWS_AT_ONCE)):
            yield from fetched(some)


def _check_progress(skipped: Sequence[SkippedPair]) -> None:
    if len(skipped) >= MAX_UNUSABLE_IN_A_ROW:
        raise ValueError(
            f"{len(skipped)} pairs one after another cannot be used: {summary(skipped)}. Are the paths and the column "
            "names right?"
        )


def usable_rows(dataset: Any, collator: Any, *, fill: bool = True, report: bool = True) -> Any:
    """The data set as [`UsablePairs`] or [`UsableStream`]; as it is, if the collator cannot be asked for a row."""
    if not callable(getattr(collator, "read", None)):
        return dataset
    if isinstance(dataset, torch.utils.data.IterableDataset):
        return UsableStream(dataset, collator, report)
    return UsablePairs(dataset, collator, fill, report) if hasattr(dataset, "__len__") else dataset


def skipped_in(rows: Sequence[Mapping[str, Any]]) -> list[SkippedPair]:
    """What was left out in favour of these rows."""
    return [pair for row in rows if isinstance(row, ReadRow) for pair in row.skipped]
