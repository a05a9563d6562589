# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Time of a query among many embeddings: FAISS exact and approximate, and one matrix product, as a file.

    python benchmarks/search.py

Random unit vectors, seeded: all directions alike, which is the worst case of an approximate index, and around centres,
as embeddings of things of some kinds lie. Only the search is timed, not the model that embeds the query. Writes
benchmarks/results/search.md.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable

import faiss
import numpy as np
import torch
from common import table, write_results

from trainer import FaissEngine


THREADS = (1, 2)
COLUMNS = {
    (name, threads, clock): f"{title}, {threads} thread{'s' * (threads > 1)}{suffix}"
    for name, title in (("alone", "alone"), ("batch", "in a batch"))
    for threads, clock, suffix in (
        (1, time.process_time, " (processor)"),
        (1, time.perf_counter, ""),
        (2, time.perf_counter, ""),
    )
}
NUM_CENTRES, SPREAD = 1_000, 1.0


def unit_vectors(count: int, dim: int, generator: np.random.Generator, centres: np.ndarray | None) -> np.ndarray:
    """Directions alike, or around centres: as far from them, on average, as the centres are from one another."""
    vectors = generator.standard_normal((count, dim), dtype=np.float32)
    if centres is not None:
        vectors = centres[generator.integers(len(centres), size=count)] + SPREAD * vectors
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def product(embeds: np.ndarray) -> Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]:
    """The simplest search: all cosines, and the best of them."""
    matrix = torch.from_numpy(embeds).T

    def search(queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        best = (torch.from_numpy(queries) @ matrix).topk(k)
        return best.values.numpy(), best.indices.numpy()

    return search


def milliseconds(
    search: Callable[[np.ndarray], object], batches: list[np.ndarray], clock: Callable[[], float]
) -> float:
    """The median time of a call, after one that does not count."""
    search(batches[-1])
    seconds = []
    for batch in batches:
        start = clock()
        search(batch)
        seconds.append(clock() - start)
    return 1000 * statistics.median(seconds)


def cells(
    search: Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]], queries: np.ndarray, k: int, repeats: int
) -> list[str]:
    """
    Time of a query, alone and among others. Alone each comes after another one, so that what it reads is not there
    already from the time before.
    """
    one_by_one, together = [*queries[:, None]] * repeats, [queries] * repeats
    found = {}
    for threads in THREADS:
        faiss.omp_set_num_threads(threads)
        torch.set_num_threads(threads)
        for name, batches in (("alone", one_by_one), ("batch", together)):
            for clock in (time.process_time, time.perf_counter) if threads == 1 else (time.perf_counter,):
                value = milliseconds(lambda batch: search(batch, k), batches, clock) / len(batches[0])
                found[name, threads, clock] = f"{value:.2f} ms"
    return [found[column] for column in COLUMNS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000, help="embeddings that are searched")
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--queries", type=int, default=100, help="queries of a batch")
    parser.add_argument("-k", type=int, default=10)
    parser.add_argument("--factory", default="HNSW32", help="the approximate index")
    parser.add_argument("--ef", type=int, nargs="+", default=[16, 128, 512], help="values of efSearch")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    load, rows, builds = os.getloadavg()[0], [], []
    for kind in ("alike", "around centres"):
        generator = np.random.default_rng(args.seed)
        centres = None if kind == "alike" else generator.standard_normal((NUM_CENTRES, args.dim), dtype=np.float32)
        embeds, queries = (unit_vectors(count, args.dim, generator, centres) for count in (args.count, args.queries))
        rows.append([kind, "one product (torch)", "1.000", *cells(product(embeds), queries, args.k, args.repeats)])
        flat = FaissEngine()
        flat.add(embeds, np.arange(len(embeds)))
        rows.append([kind, "exact (FAISS)", "1.000", *cells(flat.search, queries, args.k, args.repeats)])
        print(rows[-2:], flush=True)
        exact = flat.search(queries, args.k)[1]

        faiss.omp_set_num_threads(max(THREADS))
        start = time.process_time()
        approximate = FaissEngine(args.factory)
        approximate.add(embeds, np.arange(len(embeds)))
        builds.append(f"{time.process_time() - start:.0f} s")
        for ef in args.ef:
            approximate.faiss_index.hnsw.efSearch = ef
            found = approximate.search(queries, args.k)[1]
            recall = (
                np.mean([len(set(ours) & set(theirs)) for ours, theirs in zip(found, exact, strict=True)]) / args.k
            )
            times = cells(approximate.search, queries, args.k, args.repeats)
            rows.append([kind, f"{args.factory}, efSearch {ef}", f"{recall:.3f}", *times])
            print(rows[-1], flush=True)

    head = ["embeddings", "search", f"recall@{args.k}", *COLUMNS.values()]
    lines = [
        f"Milliseconds a query, `k={args.k}`, among {args.count:,} unit vectors of {args.dim} float32 numbers. Alone: "
        f"the median of {args.queries} queries in turn, {args.repeats} times. In a batch: these queries in one call, "
        f"divided by their number, the median of {args.repeats}. Processor: the time that a processor worked on it, "
        "about the time on an idle machine; the load average of this one went from "
        f"{load:.1f} to {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors. Alike: all directions have the same "
        "probability, so that the nearest are hardly nearer than others, the worst case of an approximate index. "
        f"Around centres: {NUM_CENTRES:,} of them, with a noise as large as they are. Building {args.factory} took "
        f"{' and '.join(builds)} of processor time. Embedding the query is not in these times. FAISS "
        f"{faiss.__version__}.",
        "",
        *table(head, rows, text_columns=2),
    ]
    write_results(__file__, "Searching", lines, max(THREADS))


if __name__ == "__main__":
    main()
