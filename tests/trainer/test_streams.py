# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Streams over processes and workers: every pair once in a pass, before and after a stop, by as many or by others."""

import itertools
import os
import signal
from collections import Counter
from contextlib import nullcontext

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from accelerate import PartialState
from datasets import Dataset, IterableDataset, concatenate_datasets
from datasets.distributed import split_dataset_by_node

from trainer.data import SeededStream
from trainer.data.seeding import ROW_SEED
from trainer.data.streams import PLACE

from .processes import free_port


BATCH = 4


def rows_of(shards):
    for shard, count in shards:
        for row in range(count):
            yield {"pair_id": 1000 * shard + row, "caption": f"{shard} {row}"}


def make_dataset(lengths, buffer_size=None):
    """A stream of shards of these lengths, which know nothing of each other."""
    shards = list(enumerate(lengths))
    dataset = IterableDataset.from_generator(rows_of, gen_kwargs={"shards": shards})
    return dataset if buffer_size is None else dataset.shuffle(seed=7, buffer_size=buffer_size)


def collate(rows):
    return {"pair_ids": [row["pair_id"] for row in rows], "seeds": [row[ROW_SEED] for row in rows]}


class Process:
    """What one process does in a training: it reads batches, keeps their places, and asks for the state."""

    def __init__(self, dataset, rank=0, world_size=1, workers=0, **options):
        self.stream = SeededStream(dataset, 3, rank=rank, world_size=world_size, **options)
        self.workers = workers
        self.used = 0

    def resume(self, state, used):
        self.stream.load_state_dict(state)
        self.used = used
        self.stream.go_on(self.workers, used, BATCH)
        return self

    def start(self):
        loader = torch.utils.data.DataLoader(
            self.stream,
            batch_size=BATCH,
            num_workers=self.workers,
            collate_fn=self.stream.with_places(collate),
            multiprocessing_context="fork" if self.workers else None,
        )
        # As the trainer throws them away.
        self.batches = itertools.islice(loader, self.used, None)
        return self

    def read(self, count):
        found = []
        for batch in itertools.islice(self.batches, count):
            self.stream.note(batch)
            found.append(batch)
        return found


def run(processes, steps):
    """Batches of all processes, step by step; the states of all together, as in a checkpoint."""
    found = [process.read(steps) for process in processes]
    together = {}
    for process in processes:
        together.update(process.stream._places)
    for process in processes:
        process.stream._places = dict(together)
    return [batch for batches in zip(*found, strict=True) for batch in batches], processes[0].stream.state_dict()


def make_world(world, workers, dataset, state=None, used=0, **options):
    processes = [Process(dataset, rank, world, workers, **options) for rank in range(world)]
    return [(process if state is None else process.resume(state, used)).start() for process in processes]


def pair_ids(batches):
    return [identifier for batch in batches for identifier in batch["pair_ids"]]


def assert_passes(batches, lengths):
    """Of each pass, which a seed tells apart, no pair comes twice; and no pair is a pass behind what it should be."""
    seen = Counter(zip(pair_ids(batches), (seed for batch in batches for seed in batch["seeds"]), strict=True))
    assert set(seen.values()) == {1}
    times = Counter(identifier for identifier, _ in seen)
    assert times.keys() == {row["pair_id"] for row in rows_of(enumerate(lengths))}
    return times


LENGTHS = {"even": [12] * 8, "uneven": [5, 9, 1, 12, 3, 0, 7], "fewer than readers": [24, 20], "one": [50]}


class TestSplitting:
    @pytest.mark.parametrize("shards_at_once", [1, 3])
    @pytest.mark.parametrize("buffer_size", [None, 5])
    @pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
    def test_every_pair_is_read_once_in_each_pass(self, lengths, buffer_size, shards_at_once):
        """Four readers, without worker processes: what each yields until the first pass and the second are over."""
        stream = SeededStream(
            make_dataset(lengths, buffer_size), 3, shuffle_shards=True, shards_at_once=shards_at_once
        )
        passes = [Counter(), Counter()]
        for reader in range(4):
            seeds = {stream._seed({"pair_id": 0}, number): number for number in range(9)}
            assert len(seeds) == 9
            # Enough for each reader to leave the second pass behind.
            for row in itertools.islice(stream._read(reader, 4), 3 * sum(lengths)):
                for number in (0, 1):
                    passes[number][row["pair_id"]] += row[ROW_SEED] == stream._seed(row, number)
        expected = {row["pair_id"]: 1 for row in rows_of(enumerate(lengths))}
        assert passes == [expected, expected]

    def test_readers_end_a_pass_together_where_shards_are_alike(self):
        stream = SeededStream(make_dataset([12] * 8), 3)
        readers = [list(itertools.islice(stream._read(reader, 4), 48)) for reader in range(4)]
        for half in (slice(0, 24), slice(24, 48)):
            ids = [row["pair_id"] for rows in readers for row in rows[half]]
            assert len(ids) == len(set(ids)) == 96

    def test_uneven_shards_are_seen_as_often_as_others_in_the_long_run(self):
        """Three shards, two readers: by shards alone, one of them would have two and the other one, forever."""
        stream = SeededStream(make_dataset([10] * 3), 3)
        times = Counter(
            row["pair_id"] for reader in range(2) for row in itertools.islice(stream._read(reader, 2), 150)
        )
        assert set(times.values()) == {10}

    def test_a_pass_has_an_order_of_its_own(self):
        ordered, shuffled, again = (
            [row["pair_id"] for row in itertools.islice(SeededStream(make_dataset([3] * 8), 3, **options), 72)]
            for options in ({}, {"shuffle_shards": True}, {"shuffle_shards": True})
        )
        passes = [tuple(shuffled[start : start + 24]) for start in (0, 24, 48)]
        assert ordered == sorted(ordered[:24]) * 3
        assert all(sorted(each) == ordered[:24] for each in passes)
        assert len({*passes, tuple(ordered[:24])}) == 4
        assert again == shuffled

    def test_several_shards_at_once_take_turns(self):
        stream = SeededStream(make_dataset([3] * 4), 3, shards_at_once=2)
        ids = [row["pair_id"] for row in itertools.islice(stream, 12)]
        assert ids == [0, 1000, 1, 1001, 2, 1002, 2000, 3000, 2001, 3001, 2002, 3002]

    def test_no_two_shards_are_shuffled_alike(self):
        stream = SeededStream(make_dataset([30] * 3, buffer_size=30), 3)
        ids = [row["pair_id"] % 1000 for row in itertools.islice(stream, 180)]
        orders = {tuple(ids[start : start + 30]) for start in range(0, 180, 30)}
        assert len(orders) == 6
        assert all(sorted(order) == list(range(30)) for order in orders)

    def test_a_stream_that_is_split_already_is_refused(self):
        dataset = split_dataset_by_node(make_dataset([1, 2]), rank=0, world_size=2)
        with pytest.raises(ValueError, match="split by node already"):
            SeededStream(dataset, 0, rank=0, world_size=2)

    @pytest.mark.parametrize("parts", [1, 2])
    def test_a_shuffle_without_a_seed_is_refused_where_it_would_lose_pairs(self, parts, caplog):
        unseeded = concatenate_datasets([make_dataset([3] * 8), make_dataset([3] * 8).shuffle(buffer_size=2)][-parts:])
        with pytest.raises(ValueError, match=r"without a seed .*others by none.*shuffle\(seed=42"):
            SeededStream(unseeded.map(lambda row: row), 0, rank=0, world_size=2)
        SeededStream(unseeded, 0)
        assert caplog.text.count("shuffled without a seed") == 1
        for seed in (0, 2**63 - 1):
            SeededStream(make_dataset([3] * 8).shuffle(seed=seed, buffer_size=2), 0, rank=0, world_size=2)
        assert caplog.text.count("shuffled without a seed") == 1

    @pytest.mark.parametrize("options", [{"rank": 2, "world_size": 2}, {"shards_at_once": 0}])
    def test_bad_arguments_raise(self, options):
        with pytest.raises(ValueError, match="rank|shards_at_once"):
            SeededStream(make_dataset([1]), 0, **options)

    def test_an_empty_stream_ends(self):
        assert list(SeededStream(make_dataset([0, 0]), 0)) == []


class Foreign(torch.utils.data.IterableDataset):
    """A stream that is not of `datasets` and splits itself over workers, as torch asks of it."""

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        yield from ({"pair_id": number, "caption": str(number)} for number in range(first, 48, step))


class TestGoingOn:
    @pytest.mark.parametrize("stop", [1, 4, 7, 12])
    @pytest.mark.parametrize("buffer_size", [None, 5])
    @pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
    def test_as_if_nothing_had_happened(self, lengths, buffer_size, stop):
        """Stopped twice, the second time with the state of a run that was resumed itself."""
        dataset = make_dataset(lengths, buffer_size)
        for options in ({}, {"shards_at_once": 3, "shuffle_shards": True}):
            whole, _ = run(make_world(2, 0, dataset, **options), 20)
            first, state = run(make_world(2, 0, dataset, **options), stop)
            second, state = run(make_world(2, 0, dataset, state, stop, **options), 3)
            third, _ = run(make_world(2, 0, dataset, state, stop + 3, **options), 17 - stop)
            assert first + second + third == whole

    @pytest.mark.parametrize("stop", [3, 8])
    def test_with_workers(self, stop):
        dataset = make_dataset(LENGTHS["uneven"], 5)
        whole, _ = run(make_world(2, 2, dataset), 14)
        first, state = run(make_world(2, 2, dataset), stop)
        second, _ = run(make_world(2, 2, dataset, state, stop), 14 - stop)
        assert first + second == whole
        assert_passes(whole, LENGTHS["uneven"])

    @pytest.mark.parametrize(("before", "after"), [((1, 0), (2, 0)), ((3, 0), (1, 0)), ((2, 0), (3, 0))])
    @pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
    def test_among_others_no_pair_is_lost_or_comes_twice(self, lengths, before, after):
        dataset, options = make_dataset(lengths, 5), {"shards_at_once": 2, "shuffle_shards": True}
        first, state = run(make_world(*before, dataset, **options), 5)
        second, state = run(make_world(*after, dataset, state, 5, **options), 2)
        third, _ = run(make_world(*before, dataset, state, 7, **options), 80)
        times = assert_passes(first + second + third, lengths)
        # Readers of large shards fall behind those of small ones, by chance, and never for long.
        assert max(times.values()) - min(times.values()) <= 0.15 * max(times.values()) + 2

    def test_what_was_read_is_not_read_again(self):
        """Only the shard that was being read is read from its beginning."""
        opened = []

        def read(shards):
            opened.extend(shards)
            yield from rows_of([(shard, 8) for shard in shards])

        dataset = IterableDataset.from_generator(read, gen_kwargs={"shards": list(range(10))})
        first, state = run(make_world(1, 0, dataset), 9)
        assert opened == [0, 1, 2, 3, 4]
        opened.clear()
        second, _ = run(make_world(1, 0, dataset, state, 9), 2)
        assert opened == [4, 5]
        assert pair_ids(first + second) == [row["pair_id"] for row in rows_of([(n, 8) for n in range(6)])][:44]

    def test_a_stream_of_others(self):
        """Processes take turns row by row; its workers are its own affair."""
        first, state = run(make_world(2, 2, Foreign()), 3)
        second, _ = run(make_world(2, 2, Foreign(), state, 3), 3)
        whole, _ = run(make_world(2, 2, Foreign()), 6)
        assert first + second == whole
        assert sorted(pair_ids(whole)) == list(range(48))
        with pytest.raises(ValueError, match="as many"):
            Process(Foreign(), 0, 2, 0).resume(state, 3)

    def test_other_data_are_refused(self):
        _, state = run(make_world(1, 0, make_dataset([5, 5])), 1)
        with pytest.raises(ValueError, match=r"2 shards.*3"):
            SeededStream(make_dataset([5, 5, 5]), 3).load_state_dict(state)

    def test_nothing_to_go_on_with(self):
        stream = SeededStream(make_dataset([5, 5]), 3)
        assert stream.state_dict() == {}
        stream.load_state_dict({})
        stream.go_on(0, 5, BATCH)
        assert PLACE in next(iter(stream)) and next(iter(stream))[PLACE] is not None


def take_part(rank, port, folder, state):
    """One of two processes with two workers, which reads until it is killed, or from where a checkpoint says."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    PartialState._reset_state()  # that of the tests before, from which this process was forked
    PartialState(cpu=True)
    dataset = Dataset.load_from_disk(os.path.join(folder, "pairs")).to_iterable_dataset(num_shards=8)
    process = Process(dataset.shuffle(seed=1, buffer_size=4), rank, 2, workers=2)
    if state is not None:
        process.resume(torch.load(os.path.join(folder, state), weights_only=True)["state"], used=5)
    process.start()
    batches = process.read(5 if state is None else 7)
    reached = process.stream.state_dict()  # asks the other process
    torch.save({"batches": batches, "state": reached}, os.path.join(folder, f"{state} {rank}.pt"))
    dist.barrier()
    if state is None:
        process.read(3)  # after the checkpoint: lost with the process
        dist.barrier()
        os.kill(os.getpid(), signal.SIGKILL)
    dist.destroy_process_group()


class TestTwoProcessesWithTwoWorkers:
    def test_every_pair_once_in_an_epoch_before_and_after_a_kill(self, tmp_path):
        """96 pairs, 2 processes with 2 workers, batches of 4: an epoch has 12 steps, 5 of them before the kill."""
        rows = [{"pair_id": number, "caption": str(number)} for number in range(96)]
        Dataset.from_list(rows).save_to_disk(str(tmp_path / "pairs"))
        found = []
        for state in (None, "None 0.pt"):
            killed = pytest.raises(mp.ProcessExitedException, match="SIGKILL") if state is None else nullcontext()
            with killed:
                mp.start_processes(take_part, args=(free_port(), str(tmp_path), state), nprocs=2, start_method="fork")
            parts = [torch.load(tmp_path / f"{state} {rank}.pt", weights_only=True) for rank in range(2)]
            assert parts[0]["state"].keys() == parts[1]["state"].keys() == {"listed", "starts", "shape"}
            assert all(torch.equal(parts[0]["state"][name], parts[1]["state"][name]) for name in parts[0]["state"])
            found += pair_ids([batch for part in parts for batch in part["batches"]])
        assert sorted(found) == list(range(96))
