# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""How the embeddings of images and texts lie in their shared space: alignment, uniformity, and the gap between."""

import math
import operator
from collections.abc import Iterator, Sequence
from typing import Any

import datasets
import evaluate
import numpy as np


_DESCRIPTION = """\
How the embeddings of images and of their texts lie on the sphere that they share: how near the two of a pair are
(alignment), how evenly each side is spread (uniformity), how far the two sides are from each other (modality gap), and
how well a linear classifier tells them apart (linear separability).
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list[list[float]]` of shape `(num_pairs, dim)`):
        L2-normalised embeddings of the images.
    references (`list[list[float]]` of shape `(num_pairs, dim)`):
        L2-normalised embeddings of the texts: row `i` belongs to row `i` of `predictions`.
    alpha (`float`, *optional*, defaults to 2):
        The power of the distance in `alignment`.
    t (`float`, *optional*, defaults to 2):
        How quickly the potential between two points in `uniformity` falls with their distance.
    ridge (`float`, *optional*, defaults to 1e-3):
        The penalty of the linear classifier, in units of the mean variance of the embeddings' coordinates.
    seed (`int`, *optional*, defaults to 0):
        Which half of the pairs the linear classifier is fitted to.
    chunk_size (`int`, *optional*, defaults to 1024):
        Side of the largest block of distances held in memory. It does not change the results.

Returns:
    `dict[str, float]`:

    - `alignment`: the mean over the pairs of `||image - text||^alpha`. Lower is better aligned; between 0 and 4 for
      `alpha = 2`.
    - `image_uniformity`, `text_uniformity`: `log mean exp(-t ||x - y||^2)` over all pairs of rows of one side. Lower
      is more evenly spread; 0 if all are the same point.
    - `modality_gap`: the distance between the mean image and the mean text embedding; between 0 and 2.
    - `linear_separability`: percent of the images and texts of one half of the pairs (the smaller one) that a linear
      classifier, fitted to the other half, takes for what they are. 50 if it cannot tell, 100 if they lie apart. The
      classifier is ridge regression on +1 for an image and -1 for a text, solved in closed form.

Raises:
    `ValueError`: if there are fewer than two pairs, the two sides differ in width, an embedding is not finite or not
    normalised, or a setting is out of range.

Examples:

    Two pairs on a circle. Image and text are sqrt(0.8) apart in both pairs, the images sqrt(2), the texts sqrt(0.08),
    and the means (0.5, 0.5) and (0.7, 0.7) sqrt(0.08).

    >>> import evaluate
    >>> contrastive_gap = evaluate.load("path/to/contrastive_gap")
    >>> results = contrastive_gap.compute(
    ...     predictions=[[1.0, 0.0], [0.0, 1.0]], references=[[0.6, 0.8], [0.8, 0.6]]
    ... )
    >>> names = ["alignment", "image_uniformity", "text_uniformity", "modality_gap"]
    >>> [round(results[name], 4) for name in names]
    [0.8, -4.0, -0.16, 0.2828]

    Points on two opposite halves of a circle lie apart, whatever half of them the classifier has seen.

    >>> import numpy as np
    >>> angles = np.linspace(-1, 1, 50)
    >>> images = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    >>> contrastive_gap.compute(predictions=images, references=-images)["linear_separability"]
    100.0
"""

_CITATION = """\
@inproceedings{wang2020understanding,
  title={Understanding Contrastive Representation Learning through Alignment and Uniformity on the Hypersphere},
  author={Wang, Tongzhou and Isola, Phillip},
  booktitle={Proceedings of the 37th International Conference on Machine Learning (ICML)},
  year={2020}
}
@inproceedings{liang2022mind,
  title={Mind the Gap: Understanding the Modality Gap in Multi-modal Contrastive Representation Learning},
  author={Liang, Weixin and Zhang, Yuhui and Kwon, Yongchan and Yeung, Serena and Zou, James},
  booktitle={Advances in Neural Information Processing Systems (NeurIPS)},
  year={2022}
}
@article{fahim2024its,
  title={It's Not a Modality Gap: Characterizing and Addressing the Contrastive Gap},
  author={Fahim, Abrar and Murphy, Alex and Fyshe, Alona},
  journal={arXiv preprint arXiv:2405.18570},
  year={2024}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class ContrastiveGap(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        row = datasets.Sequence(datasets.Value("float64"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": row, "references": row}),
            license="Apache License 2.0",
            reference_urls=[
                "https://arxiv.org/abs/2005.10242",
                "https://arxiv.org/abs/2203.02053",
                "https://arxiv.org/abs/2405.18570",
            ],
        )

    def _compute(
        self,
        predictions: Sequence[Sequence[float]],
        references: Sequence[Sequence[float]],
        alpha: float = 2.0,
        t: float = 2.0,
        ridge: float = 1e-3,
        seed: int = 0,
        chunk_size: int = 1024,
    ) -> dict[str, float]:
        for name, value in (("alpha", alpha), ("t", t), ("ridge", ridge)):
            if not 0 < value < math.inf:
                raise ValueError(f"`{name}` must be a positive number, got {value}.")
        if operator.index(chunk_size) < 1:
            raise ValueError(f"`chunk_size` must be at least 1, got {chunk_size}.")
        if operator.index(seed) < 0:
            raise ValueError(f"`seed` must be at least 0, got {seed}.")
        images, texts = _check_embeddings("predictions", predictions), _check_embeddings("references", references)
        if images.shape[1] != texts.shape[1]:
            raise ValueError(
                f"`predictions` have {images.shape[1]} dimensions and `references` {texts.shape[1]}: pass embeddings "
                "of one shared space."
            )
        return {
            "alignment": float((np.linalg.norm(images - texts, axis=1) ** alpha).mean()),
            "image_uniformity": _uniformity(images, t, chunk_size),
            "text_uniformity": _uniformity(texts, t, chunk_size),
            "modality_gap": float(np.linalg.norm(images.mean(axis=0) - texts.mean(axis=0))),
            "linear_separability": _linear_separability(images, texts, ridge, seed),
        }


def _check_embeddings(name: str, rows: Sequence[Any]) -> np.ndarray:
    if len(rows) < 2:
        raise ValueError(f"`{name}` has {len(rows)} rows: at least two pairs are needed.")
    widths = [0 if row is None else len(row) for row in rows]
    if widths[0] == 0 or len(set(widths)) > 1:
        raise ValueError(
            f"`{name}` has rows of {sorted(set(widths))} numbers: all embeddings must have the same dimension, which "
            "is at least 1."
        )
    embeds = np.array(rows, dtype=np.float64)  # None, which is how Arrow writes a missing number, becomes NaN
    norms = np.linalg.norm(embeds, axis=1)
    bad = ~np.isfinite(norms)
    if bad.any():
        raise ValueError(f"Row {bad.argmax()} of `{name}` has a number that is missing or not finite.")
    # Loose enough for bfloat16, tight enough to notice that normalising was forgotten.
    bad = np.abs(norms - 1.0) > 0.01
    if bad.any():
        raise ValueError(
            f"`{name}` must be L2-normalised, but row {bad.argmax()} has length {norms[bad][0]:.4g}: divide each row "
            "by its length first."
        )
    return embeds


def _uniformity(embeds: np.ndarray, t: float, chunk_size: int) -> float:
    """Sums of exponentials are kept as logarithms, which do not vanish however large `t` is."""
    total = -math.inf
    for exponents in _exponents(embeds, t, chunk_size):
        largest = exponents.max(initial=-math.inf)
        if largest > -math.inf:
            total = np.logaddexp(total, largest + np.log(np.exp(exponents - largest).sum()))
    return float(total - math.log(len(embeds) * (len(embeds) - 1)))


def _exponents(embeds: np.ndarray, t: float, chunk_size: int) -> Iterator[np.ndarray]:
    """`-t ||x - y||^2` in blocks of at most `chunk_size * chunk_size`; -inf for a row with itself."""
    squares = (embeds**2).sum(axis=1)
    starts = range(0, len(embeds), chunk_size)
    for i in starts:
        for j in starts:
            rows, columns = slice(i, i + chunk_size), slice(j, j + chunk_size)
            distances = squares[rows, None] + squares[None, columns] - 2 * embeds[rows] @ embeds[columns].T
            exponents = -t * np.maximum(distances, 0.0)
            if i == j:
                np.fill_diagonal(exponents, -math.inf)
            yield exponents


def _linear_separability(images: np.ndarray, texts: np.ndarray, ridge: float, seed: int) -> float:
    order = np.random.default_rng(seed).permutation(len(images))
    # Both of a pair are on the same side: what the classifier has seen of one says nothing of the other.
    test, train = np.split(order, [len(order) // 2])
    seen = np.concatenate([images[train], texts[train]])
    middle = seen.mean(axis=0)
    covariance = (seen - middle).T @ (seen - middle) / len(seen)
    penalty = ridge * max(np.trace(covariance) / len(covariance), np.finfo(np.float64).tiny)
    covariance[np.diag_indices_from(covariance)] += penalty
    # As many images as texts: their targets +1 and -1 have mean 0, so the intercept is where the middle is.
    direction = np.linalg.solve(covariance, (images[train] - texts[train]).mean(axis=0) / 2)
    right = ((images[test] - middle) @ direction > 0).sum() + ((texts[test] - middle) @ direction <= 0).sum()
    return 100.0 * float(right) / (2 * len(test))
