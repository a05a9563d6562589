# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""How sure a difference between two objectives is: a paired bootstrap over concepts and seeds, corrected by Holm."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


REPETITIONS = 10_000


class Difference(NamedTuple):
    """
    Of two objectives in one metric: the mean difference, its 95 % interval, and the probability of one at least as far
    from 0 if there were none.
    """

    mean: float
    low: float
    high: float
    p_value: float


class PairedBootstrap:
    """
    Compares objectives query by query and seed by seed.

    Both the seeds and the concepts are drawn anew, with replacement. Queries of one concept (an emoji in all its
    tones, drawn by three vendors) are drawn together: they are easy or hard together, and taken one by one they would
    make the interval too narrow. All comparisons share the draws.

    Args:
        clusters (sequence of `str`):
            The concept of each query.
        num_seeds (`int`):
            How many trainings each objective has.
        repetitions (`int`, *optional*, defaults to 10000), seed (`int`, *optional*, defaults to 0):
            Of the draws.
    """

    def __init__(self, clusters: Sequence[str], num_seeds: int, repetitions: int = REPETITIONS, seed: int = 0):
        names, self._codes = np.unique(np.asarray(clusters), return_inverse=True)
        generator = np.random.default_rng(seed)
        # A draw is a number of times for each concept and each seed: a resampled mean is a ratio of weighted sums.
        self._concepts = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=repetitions)
        self._seeds = generator.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=repetitions)
        self._queries = num_seeds * (self._concepts @ np.bincount(self._codes))

    def compare(self, ours: np.ndarray, theirs: np.ndarray) -> Difference:
        """
        What a metric says of each query, arrays of shape `(seeds, queries)`, as the difference of ours minus theirs.
        """
        difference = ours - theirs
        sums = np.stack([np.bincount(self._codes, weights=row) for row in difference])
        means = ((self._seeds @ sums) * self._concepts).sum(axis=1) / self._queries
        low, high = np.quantile(means, [0.025, 0.975])
        beyond = 1 + min((means <= 0).sum(), (means >= 0).sum())
        return Difference(difference.mean(), low, high, min(1.0, 2 * beyond / (len(means) + 1)))


def holm(p_values: Sequence[float]) -> list[float]:
    """
    Probabilities corrected for their number (Holm, 1979): each is raised as if it were the smallest of those that are
    left, and is never below a smaller one's.
    """
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = highest
    return corrected
