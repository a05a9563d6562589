# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Randomness of rows that depends on the row and the epoch alone."""

import copy
import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from .pairs import hash_63_bits


# The column in which a row carries its seed to the collator.
ROW_SEED = "__row_seed__"


def rows_of(dataset: Any, indices: list[int]) -> list[Mapping[str, Any]]:
    """Some rows of a data set, at once where it can."""
    if hasattr(dataset, "__getitems__"):
        return dataset.__getitems__(indices)
    return [dataset[index] for index in indices]


class SeededPairs(torch.utils.data.Dataset):
    """
    A data set whose rows carry a seed, made of the run's seed, the epoch and the row's number.

    Which caption of a row is drawn, and how its image is augmented, then depends neither on the order in which batches
    are prepared, nor on how many are prepared in advance, nor on the number of data-loader workers: a resumed run sees
    exactly the batches that the uninterrupted one would have seen.

    Args:
        dataset: any data set with a length and rows that are mappings.
        seed (`int`): the seed of the run.
    """

    def __init__(self, dataset: Any, seed: int):
        self.dataset = dataset
        self.seed = seed
        # Shared memory: workers that outlive an epoch see the next one.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def start_epoch(self, epoch: int) -> None:
        """Draws anew from here on, as in this epoch."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        epoch = int(self._epoch)
        return [
            {**row, ROW_SEED: hash_63_bits(f"{self.seed} {epoch} {index}".encode())}
            for index, row in zip(indices, rows_of(self.dataset, indices), strict=True)
        ]


class SeededStream(torch.utils.data.IterableDataset):
    """
    A stream whose rows carry a seed, and which begins anew whenever it ends.

    Rows of a stream have no number that holds for every number of workers and processes. So the seed of a row is made
    of the run's seed, the number of the pass, and the row's pair id and captions: the same row draws the same in the
    same pass, wherever it is read. (Rows that agree in all of these draw alike.)

    That the passes follow one another within the stream, and not from outside, lets a resumed run find its place by
    counting batches. What holds: a run that is resumed with as many workers sees exactly the batches that the
    uninterrupted one would have seen, as long as the stream itself gives the same rows in the same order; `shuffle` of
    `datasets` does, and shuffles anew in every pass. With another number of workers the rows draw as before, but come
    in another order. What was already seen is read and prepared again before training goes on. No batch is smaller
    for being the last of a pass: the next pass fills it up.

    Args:
        dataset ([`~datasets.IterableDataset`] or `torch.utils.data.IterableDataset`): rows that are mappings.
        seed (`int`): the seed of the run.

    Example:

    ```python
    >>> stream = SeededStream(load_pairs("user/catalogue", split="train", streaming=True), seed=42)
    >>> next(iter(stream)).keys()
    dict_keys(['image', 'caption', 'pair_id', '__row_seed__'])
    ```
    """

    def __init__(self, dataset: Any, seed: int):
        self.dataset = dataset
        self.seed = seed

    def __iter__(self) -> Iterator[dict[str, Any]]:
        dataset = self.dataset
        reshuffles = hasattr(dataset, "set_epoch")
        if reshuffles and torch.utils.data.get_worker_info() is not None:
            # `datasets` keep the number of the pass in memory that workers share, but they need not be in the same.
            dataset = copy.deepcopy(dataset)
        for number in itertools.count():
            if reshuffles:
                dataset.set_epoch(number)
            is_empty = True
            for row in dataset:
                is_empty = False
                yield {**row, ROW_SEED: self._seed(row, number)}
            if is_empty:  # A worker without a share of the stream.
                return

    def _seed(self, row: Mapping[str, Any], number: int) -> int:
        content = [row.get(name) for name in ("pair_id", "caption", "captions")]
        return hash_63_bits(f"{self.seed} {number}".encode(), repr(content).encode())


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Draws inside come from `seed`, and leave torch's global generator as it was; `None` changes nothing."""
    if seed is None:
        yield
        return
    # Not `torch.manual_seed`, which would reset the accelerators' generators too.
    generator = torch.default_generator
    state = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(state)
