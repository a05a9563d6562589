# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The pointing game: does the highest point of an attention or saliency map lie on the object?"""

import math
from collections.abc import Hashable, Sequence
from typing import Any

import datasets
import evaluate
import numpy as np


_DESCRIPTION = """\
The pointing game asks of a map over an image, such as the attention of a word or the saliency of a class, whether its
highest point lies on the object that it is about. That is given as a point in pixels, the object as boxes.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list[list[float]]` of shape `(num_points, 2)`):
        The point `[x, y]` in pixels where each map is highest.
    references (`list[list[float]]` of shape `(num_points, 4)` or `list[list[list[float]]]`):
        The box `[x0, y0, x1, y1]` in pixels of what each map is about, or several boxes for each, any of which will
        do. The edges belong to a box. One call has either one box for each point or a list of boxes for each.
    labels (`list[str]` or `list[int]` of shape `(num_points,)`, *optional*):
        What each map is about, in the order in which the points were added.
    tolerance (`float`, *optional*, defaults to 0):
        How far from a box, in pixels and as the crow flies, a point still hits. The paper allows 15, because maps are
        coarser than the image.

Returns:
    `dict[str, float | dict]`:

    - `accuracy`: percent of the points that hit.
    - `accuracy_by_label`, with `labels`: the same for each label.
    - `mean_label_accuracy`, with `labels`: the mean over the labels, each with the same weight, as in the paper.

Raises:
    `ValueError`: if there are no points, one is without a box, a number is missing or not finite, a box ends before it
    begins, `tolerance` is negative, or the number of labels is not that of the points.

Examples:

    The second point is 3 pixels right of its box and 4 below: 5 away.

    >>> import evaluate
    >>> pointing_game = evaluate.load("path/to/pointing_game")
    >>> points, boxes = [[12, 30], [103, 54]], [[10, 10, 40, 60], [20, 20, 100, 50]]
    >>> pointing_game.compute(predictions=points, references=boxes)
    {'accuracy': 50.0}
    >>> pointing_game.compute(predictions=points, references=boxes, tolerance=5)
    {'accuracy': 100.0}

    Two maps of dogs and one of a cat, with one or two boxes:

    >>> pointing_game.compute(
    ...     predictions=[[5, 5], [90, 90], [50, 5]],
    ...     references=[[[0, 0, 10, 10]], [[0, 0, 10, 10], [80, 80, 99, 99]], [[60, 0, 70, 10]]],
    ...     labels=["dog", "dog", "cat"],
    ... )["mean_label_accuracy"]
    50.0
"""

_CITATION = """\
@article{zhang2018top,
  title={Top-Down Neural Attention by Excitation Backprop},
  author={Zhang, Jianming and Bargal, Sarah Adel and Lin, Zhe and Brandt, Jonathan and Shen, Xiaohui and
          Sclaroff, Stan},
  journal={International Journal of Computer Vision},
  volume={126},
  number={10},
  pages={1084--1102},
  year={2018}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class PointingGame(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        numbers = datasets.Sequence(datasets.Value("float64"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=[
                datasets.Features({"predictions": numbers, "references": datasets.Sequence(numbers)}),
                datasets.Features({"predictions": numbers, "references": numbers}),
            ],
            license="Apache License 2.0",
            reference_urls=["https://arxiv.org/abs/1608.00507"],
        )

    def _compute(
        self,
        predictions: Sequence[Sequence[float]],
        references: Sequence[Any],
        labels: Sequence[Hashable] | None = None,
        tolerance: float = 0.0,
    ) -> dict[str, float | dict[Hashable, float]]:
        if not 0 <= tolerance < math.inf:
            raise ValueError(f"`tolerance` must be a number of pixels, at least 0, got {tolerance}.")
        hits = np.array(
            [
                _distance(row, point, boxes) <= tolerance
                for row, (point, boxes) in enumerate(zip(predictions, references, strict=True))
            ]
        )
        results: dict[str, float | dict[Hashable, float]] = {"accuracy": 100.0 * float(hits.mean())}
        if labels is not None:
            labels = labels.tolist() if hasattr(labels, "tolist") else list(labels)
            if len(labels) != len(hits):
                raise ValueError(
                    f"`labels` has {len(labels)} entries for {len(hits)} points: pass one for each of `predictions`, "
                    "those of earlier `add_batch` calls included."
                )
            groups: dict[Hashable, list[bool]] = {}
            for label, hit in zip(labels, hits.tolist(), strict=True):
                groups.setdefault(label, []).append(hit)
            by_label = {label: 100.0 * sum(group) / len(group) for label, group in groups.items()}
            results["accuracy_by_label"] = by_label
            results["mean_label_accuracy"] = sum(by_label.values()) / len(by_label)
        return results


def _distance(row: int, point: Any, boxes: Any) -> float:
    """From a point to the nearest of its boxes; 0 inside."""
    point = np.array(point, dtype=np.float64)
    if point.shape != (2,) or not np.isfinite(point).all():
        raise ValueError(f"Row {row} of `predictions` is {point.tolist()}: it must be a point [x, y] in pixels.")
    if not boxes:
        raise ValueError(f"Row {row} of `references` has no box: leave out images that do not show what is asked for.")
    boxes = boxes if isinstance(boxes[0], list) else [boxes]
    corners = [np.array(box, dtype=np.float64) for box in boxes]
    for box in corners:
        if box.shape != (4,) or not np.isfinite(box).all() or (box[2:] < box[:2]).any():
            raise ValueError(
                f"Row {row} of `references` has the box {box.tolist()}: it must be [x0, y0, x1, y1] in pixels with "
                "x0 <= x1 and y0 <= y1. Of [x, y, width, height] make [x, y, x + width, y + height]."
            )
    return min(float(np.hypot(*np.maximum(0.0, np.maximum(box[:2] - point, point - box[2:])))) for box in corners)
