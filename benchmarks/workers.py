# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""What a worker of a data loader costs before its first row, and what its batches cost on their way, as a file.

    python benchmarks/workers.py

Start-up: the processor time that a worker has used, and the seconds that have gone by, when it is given its first row;
by `fork` (it is a copy of the process that made it), by `spawn` (a new Python, which imports what the data set and the
collator need) and by `forkserver` (a copy of a new Python, which imports the same unless that was done before it was
copied). The way: the processor time of both sides for a batch made in a worker, beside the same batch made in place,
with pixels normalised by the worker (float32), or left as they are (uint8) and normalised where they are used.
Writes benchmarks/results/workers.md.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import PIL.Image
import torch
from common import in_process, table, write_results
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.utils.data import DataLoader, Dataset
from transformers import BlipImageProcessor, PreTrainedTokenizerFast

from modeling_sacl import SaclProcessor
from trainer.data import PairCollator


# What `set_forkserver_preload` is told: what the workers of this benchmark need.
PRELOADED = ["trainer.data", "modeling_sacl", "transformers.models.blip.image_processing_blip"]
STARTS = {
    "fork": ("fork", []),
    "forkserver": ("forkserver", []),
    "forkserver, told what to import": ("forkserver", PRELOADED),
    "spawn": ("spawn", []),
}


def make_collator(size: int) -> PairCollator:
    padding, unknown, *_ = words = ("[PAD]", "[UNK]", "a", "red", "bus")
    vocabulary = {word: number for number, word in enumerate(words)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token=padding, unk_token=unknown)
    image_processor = BlipImageProcessor(size={"height": size, "width": size})
    return PairCollator(SaclProcessor(image_processor, tokenizer), mlm_probability=0.0, max_length=30)


class Pictures(Dataset):
    """Pairs that cost next to nothing to read: what is left is making the batch, and its way."""

    def __init__(self, count: int, size: int):
        pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
        self.picture = PIL.Image.fromarray(pixels)
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self.picture, "caption": "a red bus", "pair_id": index}


class Timed:
    """A collator whose batches say how much processor time their process had used before and after them."""

    def __init__(self, collator: PairCollator):
        self.collator = collator

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        before = time.process_time()
        batch = self.collator(rows)
        return {**batch, "before": before, "after": time.process_time()}


def start(method: str) -> dict:
    """Processor time and seconds until the first two workers have their first row."""
    name, preloaded = STARTS[method]
    if preloaded:
        multiprocessing.set_forkserver_preload(preloaded)
    found = []
    for _ in range(2):
        begin = time.perf_counter()
        loader = DataLoader(
            Pictures(1, 64), collate_fn=Timed(make_collator(64)), num_workers=1, multiprocessing_context=name
        )
        processor = next(iter(loader))["before"]
        found.append({"processor": processor, "seconds": time.perf_counter() - begin})
    return {"first": found[0], "second": found[1]}


def way(normalize: bool, num_workers: int, batch_size: int, size: int, num_batches: int) -> float:
    """Milliseconds of processor time for a batch, of worker and main process, after the first two."""
    collator = replace(make_collator(size), normalize=normalize)
    rows = Pictures(batch_size * num_batches, size)
    loader = DataLoader(
        rows,
        batch_size=batch_size,
        collate_fn=Timed(collator),
        num_workers=num_workers,
        multiprocessing_context="fork" if num_workers else None,
    )
    worker, main = [], []
    for batch in loader:
        collator.normalized(batch)
        worker.append(batch["after"])
        main.append(time.process_time())
    total = main[-1] - main[1]
    if num_workers:
        total += worker[-1] - worker[1]
    return 1000 * total / (num_batches - 2)


def spread(values: Sequence[float], digits: int = 1) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def start_rows(rounds: int) -> list[list[str]]:
    found: dict[str, list[dict]] = {method: [] for method in STARTS}
    for _ in range(rounds):
        for method, values in found.items():
            values.append(in_process(__file__, "--start", method))
    return [
        [method]
        + [
            f"{spread([value[worker][clock] for value in values])} s"
            for worker in ("first", "second")
            for clock in ("processor", "seconds")
        ]
        for method, values in found.items()
    ]


def way_rows(rounds: int, batch_size: int, size: int, num_batches: int) -> list[list[str]]:
    settings = {
        "in place, float32": (True, 0),
        "in a worker, float32": (True, 1),
        "in a worker, uint8": (False, 1),
    }
    found: dict[str, list[float]] = {name: [] for name in settings}
    for _ in range(rounds):
        for name, setting in settings.items():
            found[name].append(way(*setting, batch_size, size, num_batches))
    count = batch_size * 3 * size * size / 1e6
    return [
        [name, f"{count * (4 if settings[name][0] else 1):.1f} MB", f"{spread(values)} ms"]
        for name, values in found.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batches", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--start", choices=STARTS, help="measure this in this process, and print it")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.start is not None:
        print(json.dumps(start(args.start)))
        return

    load = os.getloadavg()[0]
    starts = start_rows(args.rounds)
    ways = way_rows(args.rounds, args.batch_size, args.size, args.batches)
    lines = [
        f"Medians of {args.rounds} rounds, with the smallest and the largest. The load average of the machine went "
        f"from {load:.1f} to {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors: seconds are those of a busy "
        "machine, processor times nearly those of an idle one.",
        "",
        "Until a worker is given its first row:",
        "",
        *table(
            ["start", "first worker, processor", "first worker, seconds", "second, processor", "second, seconds"],
            starts,
        ),
        "",
        f"Processor time for a batch of {args.batch_size} pictures of {args.size} px, which are not read, decoded or "
        "resized: it is the batch and its way to the main process that cost.",
        "",
        *table(["made", "pixels", "processor"], ways),
    ]
    write_results(__file__, "Workers of data loaders", lines, threads=1)


if __name__ == "__main__":
    main()
