# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Streams of pairs that are split over processes and workers, never end, and go on where they were interrupted."""

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import datasets
import fsspec.asyn
import numpy as np
import torch
from accelerate.utils import gather_object
from transformers.utils import logging

from .pairs import hash_63_bits
from .seeding import ROW_SEED


logger = logging.get_logger(__name__)

# The column in which a row says how far its reader has come, and the entry of a batch that says so of its last row.
PLACE = "__stream_place__"

_ROWS_AT_ONCE = 16


class _Visit(NamedTuple):
    """A reading of a shard, or of every so-manieth row of it: which one of all, and how many rows to pass over."""

    number: int
    offset: int = 0


@dataclass(frozen=True)
class _Plan:
    """What one reader reads: first what is listed, then visit `start` and every `step`-th after it, without end."""

    listed: tuple[_Visit, ...]
    start: int
    step: int

    def __iter__(self) -> Iterator[_Visit]:
        yield from self.listed
        yield from map(_Visit, itertools.count(self.start, self.step))

    def after(self, taken: int, unfinished: Sequence[_Visit]) -> "_Plan":
        """What is left of it when so many visits were begun, and some of these are unfinished."""
        begun = max(0, taken - len(self.listed))
        return _Plan((*unfinished, *self.listed[taken:]), self.start + begun * self.step, self.step)


class SeededStream(torch.utils.data.IterableDataset):
    """
    A stream without end, split over processes and data-loader workers, that can go on where a checkpoint has left it.
    Each row carries a seed, made of the run's seed, the number of the pass, and the row's pair id and captions: the
    same row draws the same in the same pass, wherever it is read. (Rows that agree in all of these draw alike.)

    **Who reads what.** Every worker of every process is a reader. The shards of all passes through the data stand in
    one endless list: those of each pass in their own order, or shuffled anew (`shuffle_shards`). Reader `r` of `n`
    takes entry `r`, `r + n`, `r + 2n` ... and reads each to its end. So

    - each pair is read once in every pass, by one reader, for any number of shards, processes and workers;
    - no reader waits for another, no row is dropped or repeated to fill a batch, and none reads what another uses;
    - readers are never further apart than a shard in the number of shards that they have read. If shards are of one
      size and a multiple of the readers, a pass ends for all of them together; otherwise those that are done begin the
      next pass while others finish this one. Shuffle the shards if their sizes differ, so that it is not always the
      same reader that has the large ones.

    Where there are fewer shards than readers, `ceil(readers / shards)` readers share a shard: each reads all of it and
    keeps every so-manieth row. Have at least as many shards as readers, so that nothing is read twice:
    `dataset.reshard()` splits Parquet files by their row groups.

    **Resuming.** Checkpoints hold, for every reader, which shards it was reading and at which row (`state_dict`). It
    goes on there exactly, with the same batches, if there are as many processes and workers as before. It reads from
    the beginning of those shards alone; nothing is decoded or augmented a second time. With another number of
    processes or workers, what is left of each pass is dealt out among the new readers: still no pair is lost or seen
    twice, but batches are composed otherwise. The stream itself has to give the same rows in the same order, so seed
    whatever shuffles it: `dataset.shuffle(seed=42, buffer_size=1000)`, whose buffer shuffles within a shard, anew in
    each pass.

    Args:
        dataset ([`~datasets.IterableDataset`] or `torch.utils.data.IterableDataset`):
            Rows that are mappings. One that is not of `datasets` has no shards that could be told apart: its own
            `__iter__` has to split it over workers (`torch.utils.data.get_worker_info`), processes take turns row by
            row, and it is resumed with as many of both.
        seed (`int`): The seed of the run.
        rank (`int`, *optional*, defaults to 0): The number of this process.
        world_size (`int`, *optional*, defaults to 1): The number of processes.
        shuffle_shards (`bool`, *optional*, defaults to `False`):
            Whether the shards come in another order in every pass, drawn from the seed.
        shards_at_once (`int`, *optional*, defaults to 1):
            From how many shards a reader takes turns, so that neighbours in a batch are not neighbours in a shard.
            Each has a shuffle buffer of its own, if there is one.

    Raises:
        ValueError: if the data set is split by node already, if several processes would each shuffle it by a seed of
            their own, or if an argument is out of its range.

    Example:

    ```python
    >>> stream = SeededStream(load_pairs("user/catalogue", split="train", streaming=True), seed=42)
    >>> next(iter(stream)).keys()
    dict_keys(['image', 'caption', 'pair_id', '__row_seed__', '__stream_place__'])
    ```
    """

    def __init__(
        self,
        dataset: Any,
        seed: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        shuffle_shards: bool = False,
        shards_at_once: int = 1,
    ):
        if not 0 <= rank < world_size:
            raise ValueError(f"`rank` counts from 0 up to `world_size` ({world_size}) without it, got {rank}.")
        if shards_at_once < 1:
            raise ValueError(f"`shards_at_once` has to be at least 1, got {shards_at_once}.")
        self._has_shards = isinstance(dataset, datasets.IterableDataset)
        if world_size > 1 and self._has_shards and dataset._distributed is not None:
            raise ValueError(
                "The stream is split by node already (`split_dataset_by_node`), and would be split a second time. "
                "Pass the whole stream: its shards are split over processes and workers here."
            )
        if self._has_shards and _has_no_seed(dataset._ex_iterable):
            _complain_of_no_seed(world_size)
        self.dataset = dataset
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.shuffle_shards = shuffle_shards
        self.shards_at_once = shards_at_once
        self.num_shards = dataset.num_shards if self._has_shards else 1
        # How many batches, and of how many rows, a data loader will throw away because a resumed run counts them.
        self._counted_batches, self._batch_size = 0, 1
        # What the readers of this process have said last, and what all of them were given to read, if not all.
        self._places: dict[int, tuple[int, ...]] = {}
        self._plans: list[_Plan] | None = None
        self._pieces: int | None = None

    # ---------------------------------------------------------------------------------------------- reading

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = torch.utils.data.get_worker_info()
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        if worker is not None:
            fsspec.asyn.reset_lock()  # A forked process inherits a lock and not the thread that would release it.
        for _ in range(len(range(number, self._counted_batches, workers)) * self._batch_size):
            yield {PLACE: None}
        yield from self._read(self.rank * workers + number, self.world_size * workers)

    def _read(self, reader: int, readers: int) -> Iterator[dict[str, Any]]:
        pieces = self._pieces or self._count_pieces(readers)
        visits = enumerate(self._plan(reader, readers))
        taken, upcoming = next(visits)
        reading: deque[tuple[_Visit, Iterator[tuple[int, dict[str, Any]]]]] = deque()
        fruitless = 0
        while fruitless <= self.num_shards * pieces:
            # Not beyond the end of a pass, as long as something of it is left.
            while len(reading) < self.shards_at_once and (
                not reading or self._pass_of(upcoming, pieces) == self._pass_of(reading[0][0], pieces)
            ):
                reading.append((upcoming, self._rows(upcoming, pieces)))
                taken, upcoming = next(visits)
            visit, rows = reading.popleft()
            found = next(rows, None)
            if found is None:
                fruitless += 1
                continue
            fruitless = 0
            position, row = found
            reading.append((visit._replace(offset=position + 1), rows))
            seed = self._seed(row, self._pass_of(visit, pieces))
            place = (reader, readers, taken, *itertools.chain.from_iterable(visit for visit, _ in reading))
            yield {**row, ROW_SEED: seed, PLACE: place}

    def _plan(self, reader: int, readers: int) -> _Plan:
        if self._plans is not None:
            return self._plans[reader]
        return _Plan((), *self._beginning(reader, readers))

    def _beginning(self, reader: int, readers: int) -> tuple[int, int]:
        """The first visit of a reader, and the distance to its next one."""
        if self._has_shards:
            return reader, readers
        return reader // (readers // self.world_size), self.world_size

    def _count_pieces(self, readers: int) -> int:
        """Among how many readers a shard is shared."""
        return -(-readers // self.num_shards) if self._has_shards else self.world_size

    def _pass_of(self, visit: _Visit, pieces: int) -> int:
        return visit.number // (self.num_shards * pieces)

    def _rows(self, visit: _Visit, pieces: int) -> Iterator[tuple[int, dict[str, Any]]]:
        """The rows of a visit, with their numbers in the shard."""
        number, place = divmod(visit.number, self.num_shards * pieces)
        shard, piece = divmod(self._order(number, pieces)[place], pieces)
        rows = enumerate(self._shard(number, shard))
        return (found for found in itertools.islice(rows, visit.offset, None) if found[0] % pieces == piece)

    def _order(self, number: int, pieces: int) -> Sequence[int]:
        """Shards, and their pieces, in the order of a pass."""
        if not self.shuffle_shards or not self._has_shards:
            return range(self.num_shards * pieces)
        order = np.random.default_rng([self.seed & (2**63 - 1), number]).permutation(self.num_shards)
        return [shard * pieces + piece for shard in order.tolist() for piece in range(pieces)]

    def _shard(self, number: int, shard: int) -> Iterator[dict[str, Any]]:
        if not self._has_shards:
            if hasattr(self.dataset, "set_epoch"):
                self.dataset.set_epoch(number)
            yield from self.dataset
            return
        part = self.dataset.shard(num_shards=self.num_shards, index=shard)
        # No two readings shuffle their buffers alike.
        part.set_epoch(number * self.num_shards + shard)
        # Not its `__iter__`, which in a worker would look for a share of the shard.
        for batch in part.iter(batch_size=_ROWS_AT_ONCE):
            for values in zip(*batch.values(), strict=True):
                yield dict(zip(batch, values, strict=True))

    def _seed(self, row: Mapping[str, Any], number: int) -> int:
        content = [row.get(name) for name in ("pair_id", "caption", "captions")]
        return hash_63_bits(f"{self.seed} {number}".encode(), repr(content).encode())

    # ----------------------------------------------------------------------------------- stopping, going on

    def with_places(self, collator: Callable[[list[dict]], Any]) -> Callable[[list[dict]], Any]:
        """The collator, whose batches say under [`PLACE`] how far their reader has come."""
        return partial(_collate, collator)

    def note(self, batch: dict[str, Any]) -> None:
        """Takes the place out of a batch that is about to be used, and keeps it for the next checkpoint."""
        place = batch.pop(PLACE)
        self._places[place[0]] = place

    def state_dict(self) -> dict[str, torch.Tensor]:
        """
        What each reader of each process has left to read. All processes have to ask for it.

        Returns:
            `dict[str, torch.Tensor]`: int64: `listed`, `[visits, 3]`, with reader, visit and row; `starts`,
            `[readers, 2]`, see above; `shape`: shards, pieces of each, processes. Empty before the first batch.
        """
        places = {place[0]: place for place in gather_object(list(self._places.values()))}
        if not places:
            return {}
        readers = next(iter(places.values()))[1]
        plans = [self._remaining(places.get(reader), reader, readers) for reader in range(readers)]
        listed = [(reader, *visit) for reader, plan in enumerate(plans) for visit in plan.listed]
        return {
            "listed": torch.tensor(listed, dtype=torch.int64).view(-1, 3),
            "starts": torch.tensor([(plan.start, plan.step) for plan in plans]),
            "shape": torch.tensor([self.num_shards, self._pieces or self._count_pieces(readers), self.world_size]),
        }

    def _remaining(self, place: tuple[int, ...] | None, reader: int, readers: int) -> _Plan:
        plan = self._plan(reader, readers)
        if place is None:
            return plan
        taken, visits = place[2], place[3:]
        return plan.after(taken, [_Visit(*pair) for pair in zip(visits[::2], visits[1::2], strict=True)])

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """
        Takes over the state of a checkpoint.

        Args:
            state (`dict[str, torch.Tensor]`): What `state_dict` has returned; if empty, nothing changes.

        Raises:
            ValueError: if the stream has another number of shards than the one whose state it is.
        """
        self._places, self._plans, self._pieces = {}, None, None
        if not state:
            return
        num_shards, self._pieces, world_size = state["shape"].tolist()
        if num_shards != self.num_shards or (not self._has_shards and world_size != self.world_size):
            raise ValueError(
                f"The checkpoint is of a stream of {num_shards} shards in {world_size} processes, this one has "
                f"{self.num_shards} in {self.world_size}. Resume with the same data (and for a stream that is not of "
                "`datasets` as many processes), or begin them anew with `ignore_data_skip=True`."
            )
        listed: list[list[_Visit]] = [[] for _ in state["starts"]]
        for reader, *visit in state["listed"].tolist():
            listed[reader].append(_Visit(*visit))
        self._plans = [
            _Plan(tuple(visits), *beginning)
            for visits, beginning in zip(listed, state["starts"].tolist(), strict=True)
        ]

    def go_on(self, num_workers: int, counted_batches: int, batch_size: int) -> None:
        """
        Makes a stream whose state was loaded ready for a data loader that begins to count where the interrupted one
        has stopped: in place of the batches that were seen already come empty ones, to be thrown away.

        Args:
            num_workers (`int`): The number of workers of the data loader in each process.
            counted_batches (`int`): How many batches are going to be thrown away.
            batch_size (`int`): The number of rows in each.

        Raises:
            ValueError: if a stream that is not of `datasets` is read by another number of workers than before.
        """
        if self._plans is None:
            return
        self._counted_batches, self._batch_size = counted_batches, batch_size
        readers = self.world_size * max(num_workers, 1)
        if readers != len(self._plans):
            if not self._has_shards:
                raise ValueError(
                    f"The stream was read by {len(self._plans) // self.world_size} workers in each process, and is no "
                    f"`datasets.IterableDataset` that could be split anew: set as many, not {num_workers}."
                )
            self._plans = _deal(self._plans, readers)

    def begin_anew(self) -> None:
        """Forgets the state that was loaded."""
        self.load_state_dict({})


def _has_no_seed(iterable: Any) -> bool:
    """Whether a stream of `datasets` is shuffled by what the operating system drew in this process."""
    bits = getattr(getattr(iterable, "generator", None), "bit_generator", None)
    entropy = getattr(getattr(bits, "seed_seq", None), "entropy", None)
    # That has 128 bits, and a seed that was given has 64 at most.
    if isinstance(entropy, int) and entropy >= 2**64:
        return True
    parts = [*getattr(iterable, "ex_iterables", ()), getattr(iterable, "ex_iterable", None)]
    return any(_has_no_seed(part) for part in parts if part is not None)


def _complain_of_no_seed(world_size: int) -> None:
    problem = "The stream is shuffled without a seed (`dataset.shuffle(...)`)"
    remedy = "Pass one, the same everywhere: `dataset.shuffle(seed=42, buffer_size=1000)`."
    if world_size > 1:
        raise ValueError(
            f"{problem}, so that each process would have an order of its own: some pairs would be read by several of "
            f"them, and others by none. {remedy}"
        )
    logger.warning(
        f"{problem}, so that a resumed run will read another order: pairs are lost, others repeated. {remedy}"
    )


def _collate(collator: Callable[[list[dict]], Any], rows: list[dict[str, Any]]) -> Any:
    if rows[-1][PLACE] is None:
        return {PLACE: None}
    batch = collator(rows)
    batch[PLACE] = rows[-1][PLACE]
    return batch


def _deal(plans: Sequence[_Plan], readers: int) -> list[_Plan]:
    """What is left for some readers, dealt out anew among others: the earliest visits first."""
    end = max(plan.start for plan in plans)
    left = [visit for plan in plans for visit in plan.listed]
    for plan in plans:
        left.extend(map(_Visit, range(plan.start, end, plan.step)))
    # Of what comes later nobody has begun anything.
    left.sort()
    return [_Plan(tuple(left[reader::readers]), end + reader, readers) for reader in range(readers)]
