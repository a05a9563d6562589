# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Measures the emoji data set: the numbers in its card are what this script prints.

    python examples/data/measure_emoji.py

Two tables. The first counts every split. The second tells how often a random training batch holds (partial) false
negatives: the share of anchors for which at least one *other* row of the batch shows a related picture. It is given
twice: exactly (the expectation over all batches, drawn without replacement) and sampled (mean and standard deviation
over `--num_batches` random batches), so that the spread of a single batch is visible.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd


SPLITS = ("train", "validation", "test_unseen_concept", "test_unseen_composition")
COLUMNS = ["vendor", "subgroup", "base_id", "emoji_id", "tone", "gender"]


def relations(rows: pd.DataFrame) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """For every kind of false negative `(shared, same)`: two rows are one if `shared` agrees and `same` does not."""
    row, emoji, base = np.arange(len(rows)), pd.factorize(rows["emoji_id"])[0], pd.factorize(rows["base_id"])[0]
    subgroup = pd.factorize(rows["subgroup"])[0]
    without_flags = np.where(rows["subgroup"] == "country-flag", subgroup.max() + 1 + row, subgroup)
    return {
        "the same emoji, drawn by another vendor": (emoji, row),
        "the same base in another tone or gender": (base, emoji),
        "the same base, either way": (base, row),
        "the same subgroup": (subgroup, row),
        "the same subgroup, country flags not counted": (without_flags, row),
    }


def related_rows(shared: np.ndarray, same: np.ndarray) -> np.ndarray:
    """The number of rows that are related to each row."""
    sizes = [np.unique(key, return_inverse=True, return_counts=True)[1:] for key in (shared, same)]
    in_shared, in_same = (counts[inverse] for inverse, counts in sizes)
    return in_shared - in_same


def expected_rate(shared: np.ndarray, same: np.ndarray, batch_size: int) -> float:
    """The share of anchors with at least one related row in their batch, in expectation over all batches."""
    others, related = len(shared) - 1, related_rows(shared, same)
    # P(none of the batch_size - 1 companions is related) = prod_i (others - related - i) / (others - i)
    draws = np.arange(batch_size - 1)
    misses = np.clip(others - related[:, None] - draws, 0, None) / (others - draws)
    return float(1 - misses.prod(axis=1).mean())


def sampled_rates(
    shared: np.ndarray, same: np.ndarray, batch_size: int, num_batches: int, generator: np.random.Generator
) -> np.ndarray:
    """The same share, one value per random batch."""
    batches = (generator.choice(len(shared), batch_size, replace=False) for _ in range(num_batches))
    return np.array([(related_rows(shared[batch], same[batch]) > 0).mean() for batch in batches])


def main() -> None:
    """Prints both tables as Markdown."""
    parser = argparse.ArgumentParser(description="Measure the emoji data set.")
    parser.add_argument("--data_dir", type=Path, default=Path(__file__).parent / "emoji")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--num_batches", type=int, default=1000, help="random batches per sampled rate")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    splits = {}
    for name in SPLITS:
        files = sorted(args.data_dir.glob(f"{name}-*.parquet"))
        if not files:
            parser.error(f"no file {name}-*.parquet in {args.data_dir}")
        splits[name] = pd.concat([pd.read_parquet(file, columns=COLUMNS) for file in files])

    header = "split rows noto twemoji fluent emoji_id base_id subgroups toned gendered".split()
    print("|", " | ".join(header), "|")
    print("|---" * len(header) + "|")
    for name, rows in {**splits, "all": pd.concat(splits.values())}.items():
        vendors = rows["vendor"].value_counts()
        distinct = [rows[column].nunique() for column in ("emoji_id", "base_id", "subgroup")]
        variants = [(rows["tone"] > 0).sum(), (rows["gender"] != "").sum()]
        counts = [len(rows), vendors["noto"], vendors["twemoji"], vendors["fluent"], *distinct, *variants]
        print(f"| {name} |", " | ".join(f"{count:,}" for count in counts), "|")

    print(f"\ntrain, {args.num_batches:,} batches per sampled rate, seed {args.seed}\n")
    print("| anchors with an in-batch negative of | batch size | expected | sampled, mean ± standard deviation |")
    print("|---|---|---|---|")
    generator = np.random.default_rng(args.seed)
    for meaning, (shared, same) in relations(splits["train"]).items():
        for batch_size in args.batch_sizes:
            expected = 100 * expected_rate(shared, same, batch_size)
            sampled = 100 * sampled_rates(shared, same, batch_size, args.num_batches, generator)
            print(f"| {meaning} | {batch_size} | {expected:.1f} % | {sampled.mean():.1f} ± {sampled.std():.1f} % |")


if __name__ == "__main__":
    main()
