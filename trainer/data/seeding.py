# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Randomness of rows that depends on the row and the epoch alone."""

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
