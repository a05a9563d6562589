# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The comparison: settings by validation, one look at the test splits, and how sure each difference is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from evaluation import CUTOFFS, DIRECTIONS, summarize
from methods import SEEDS, Method
from records import TEST_SPLITS, VALIDATION, Records, Request
from statistics_of_runs import Difference, PairedBootstrap, holm
from towers import load_emoji


REFERENCES = ("infonce", "albef")
QUERY_METRICS = tuple(
    f"{direction}_{metric}" for direction in DIRECTIONS for metric in (*(f"recall@{k}" for k in CUTOFFS), "ndcg@10")
)
SCALARS = ("auc", "alignment", "image_uniformity", "text_uniformity", "modality_gap")


@dataclass
class Row:
    """
    One objective in one split.

    Args:
        method (`str`), split (`str`), settings (mapping):
            What was run, with the settings that validation has chosen.
        values (`dict[str, list[float]]`):
            Each metric, a number per seed.
        differences (`dict[tuple[str, str], Difference]`):
            By reference and metric; absent for the reference itself.
        corrected (`dict[tuple[str, str], float]`):
            The probabilities of `differences`, corrected by Holm for the number of objectives.
        seconds (`float`):
            The median processor time of a training.
    """

    method: str
    split: str
    settings: Mapping[str, Any]
    values: dict[str, list[float]]
    differences: dict[tuple[str, str], Difference]
    corrected: dict[tuple[str, str], float]
    seconds: float


def choose_settings(records: Records, methods: Sequence[Method]) -> dict[str, Mapping[str, Any]]:
    """For each method the settings of its grid that are best on validation."""
    requests = [Request(run) for method in methods for run in method.trials()]
    results = iter(records.get(requests, "choosing settings"))
    chosen = {}
    for method in methods:
        scores = [selection_score(next(results)["splits"][VALIDATION]) for _ in method.grid]
        chosen[method.name] = method.grid[int(np.argmax(scores))]
    return chosen


def selection_score(result: Mapping[str, Any]) -> float:
    """What validation chooses by: the mean of recall@1 and nDCG@10, of both directions."""
    metrics = summarize(result)
    return float(
        np.mean([metrics[f"{direction}_{name}"] for direction in DIRECTIONS for name in ("recall@1", "ndcg@10")])
    )


def compare(
    records: Records,
    methods: Sequence[Method],
    chosen: Mapping[str, Mapping[str, Any]],
    seeds: Sequence[int] = SEEDS,
    unlocked: bool = False,
) -> tuple[list[Row], dict[str, dict[str, Any]]]:
    """All methods with the chosen settings on all splits, and what the first seed of each has found."""
    splits = (VALIDATION, *TEST_SPLITS)
    requests = [
        Request(method.with_settings(chosen[method.name], seed), splits, unlocked)
        for method in methods
        for seed in seeds
    ]
    results = records.get(requests, "second track" if unlocked else "comparing objectives")
    of_method = {
        method.name: results[number * len(seeds) : (number + 1) * len(seeds)] for number, method in enumerate(methods)
    }
    rows = [row for split in splits for row in _rows(split, of_method, chosen)]
    for row in rows:
        row.seconds = float(np.median([result["processor_seconds"] for result in of_method[row.method]]))
    return rows, {name: results[0]["splits"] for name, results in of_method.items()}


def _rows(
    split: str, of_method: Mapping[str, list[dict[str, Any]]], chosen: Mapping[str, Mapping[str, Any]]
) -> list[Row]:
    by_query = {
        name: {metric: per_query([r["splits"][split] for r in results], metric) for metric in QUERY_METRICS}
        for name, results in of_method.items()
    }
    num_seeds = len(next(iter(of_method.values())))
    bootstraps = {
        direction: PairedBootstrap(concepts, num_seeds) for direction, concepts in query_concepts(split).items()
    }
    rows = {}
    for name, results in of_method.items():
        values = {metric: [100 * float(seed.mean()) for seed in by_query[name][metric]] for metric in QUERY_METRICS}
        values |= {scalar: [result["splits"][split][scalar] for result in results] for scalar in SCALARS}
        rows[name] = Row(name, split, chosen[name], values, {}, {}, 0.0)
    for reference in REFERENCES:
        for metric in QUERY_METRICS if reference in rows else ():
            others = [name for name in rows if name != reference]
            differences = [
                bootstraps[metric.rsplit("_", 1)[0]].compare(
                    100 * by_query[name][metric], 100 * by_query[reference][metric]
                )
                for name in others
            ]
            corrected = holm([difference.p_value for difference in differences])
            for name, difference, p_value in zip(others, differences, corrected, strict=True):
                rows[name].differences[reference, metric] = difference
                rows[name].corrected[reference, metric] = p_value
    return list(rows.values())


def per_query(results: Sequence[Mapping[str, Any]], metric: str) -> np.ndarray:
    """A metric of each query, in [0, 1], of shape `(seeds, queries)`."""
    direction, name = metric.rsplit("_", 1)
    if name == "ndcg@10":
        return np.array([result[direction]["ndcg"] for result in results])
    return (np.array([result[direction]["ranks"] for result in results]) <= int(name.split("@")[1])).astype(float)


def query_concepts(split: str) -> dict[str, list[str]]:
    """The concept (`base_id`) of each query, for both directions."""
    emoji = load_emoji(split)
    names = dict(zip(emoji["emoji_id"], emoji["base_id"], strict=True))
    return {"image_to_text": emoji["base_id"], "text_to_image": list(names.values())}
