# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Pictures of a run: its curves, and what a text finds. They need matplotlib (`pip install sacl[demo]`)."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import PIL.Image


# One panel each; a panel without any of its curves in the log is left out.
_PANELS: dict[str, tuple[str, ...]] = {
    "loss": ("loss", "eval_loss"),
    "contrast": ("itc_loss", "eval_itc_loss"),
    "matching": ("itm_loss", "eval_itm_loss"),
    "masked language": ("mlm_loss", "eval_mlm_loss"),
    "matching accuracy": ("itm_accuracy", "eval_itm_accuracy"),
    "regulation weights of negatives": ("regulation_weight_mean", "regulation_weight_p5", "regulation_weight_min"),
    "temperature": ("temperature",),
    "recall@10 (%)": ("eval_text_to_image_recall@10", "eval_image_to_text_recall@10"),
}
_CORRECT, _WRONG, _PARTLY = "#1a7f37", "#cf222e", "#bf8700"


def plot_training_curves(log_history: Sequence[Mapping[str, Any]], path: str | os.PathLike) -> None:
    """
    Draws the curves of a run, one panel for each component of the loss and each kind of metric.

    Args:
        log_history (`list[dict]`):
            `trainer.state.log_history`.
        path (`str` or `os.PathLike`):
            Where to write the picture; its ending gives the format (`.png`, `.svg`).

    Raises:
        ValueError: if the log has no curve to draw.

    Example:

    ```python
    >>> plot_training_curves(trainer.state.log_history, "curves.png")
    ```
    """
    from matplotlib.figure import Figure

    series = {
        name: [(entry["step"], entry[name]) for entry in log_history if name in entry]
        for names in _PANELS.values()
        for name in names
    }
    panels = {title: [name for name in names if series[name]] for title, names in _PANELS.items()}
    panels = {title: names for title, names in panels.items() if names}
    if not panels:
        raise ValueError("The log holds no loss and no metric: nothing to draw. Was the model trained with logging?")

    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.6 * columns, 2.7 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis, (title, names) in zip(axes, panels.items(), strict=False):
        for name in names:
            steps, values = zip(*series[name], strict=True)
            label = "validation" if name in ("eval_" + names[0], "eval_loss") else name.removeprefix("eval_")
            axis.plot(steps, values, label=label, marker="." if len(steps) < 20 else None, linewidth=1.4)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
        if len(names) > 1:
            axis.legend(fontsize=7, frameon=False)
    for axis in axes[len(panels) :]:
        axis.axis("off")
    figure.savefig(path, dpi=120)


def plot_retrieval_grid(
    queries: Sequence[str],
    images: Sequence[Sequence[PIL.Image.Image]],
    path: str | os.PathLike,
    *,
    grades: Sequence[Sequence[float]] | None = None,
    title: str | None = None,
) -> None:
    """
    Draws what texts found: a row for each query, its best images from left to right.

    Args:
        queries (`list[str]`):
            The texts.
        images (`list[list[PIL.Image.Image]]`):
            For each query its images, best first.
        path (`str` or `os.PathLike`):
            Where to write the picture; its ending gives the format (`.png`, `.svg`).
        grades (`list[list[float]]`, *optional*):
            The relevance of each image in [0, 1]: the frame is green at 1, red at 0 and amber between.
        title (`str`, *optional*):
            Heading of the picture.

    Example:

    ```python
    >>> plot_retrieval_grid(["a red heart"], [[best, second, third]], "found.png", grades=[[1.0, 0.25, 0.0]])
    ```
    """
    from matplotlib.figure import Figure

    columns = max(len(row) for row in images)
    figure = Figure(figsize=(3.4 + 0.9 * columns, 0.95 * len(queries) + (0.4 if title else 0)), layout="constrained")
    axes = figure.subplots(
        len(queries), columns + 1, squeeze=False, gridspec_kw={"width_ratios": [3.6, *[1] * columns]}
    )
    for number, (query, found, row) in enumerate(zip(queries, images, axes, strict=True)):
        row[0].text(0.98, 0.5, query, ha="right", va="center", fontsize=9, wrap=True, transform=row[0].transAxes)
        for axis in row:
            axis.set(xticks=[], yticks=[])
            for spine in axis.spines.values():
                spine.set_visible(False)
        for rank, (axis, image) in enumerate(zip(row[1:], found, strict=False)):
            axis.imshow(image)
            if grades is not None:
                grade = grades[number][rank]
                color = _CORRECT if grade == 1 else _WRONG if grade == 0 else _PARTLY
                for spine in axis.spines.values():
                    spine.set(visible=True, color=color, linewidth=2)
    if title:
        figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=90)
