# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Pictures of a run and its model: curves, what a text finds, which patches of an image are looked at, and for which
word.

They need matplotlib (`pip install sacl[demo]`).
"""

import os
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import PIL.Image
import torch
from transformers import PreTrainedModel, ProcessorMixin


if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
            label = _label(name, names)
            axis.plot(steps, values, label=label, marker="." if len(steps) < 20 else None, linewidth=1.4)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.ticklabel_format(axis="y", useOffset=False)
        axis.grid(alpha=0.3)
        if len(names) > 1:
            axis.legend(fontsize=7, frameon=False)
    for axis in axes[len(panels) :]:
        axis.axis("off")
    figure.savefig(path, dpi=120)


def _label(name: str, names: Sequence[str]) -> str:
    if f"eval_{name}" in names:
        return "training"
    if name.removeprefix("eval_") in names and name.startswith("eval_"):
        return "validation"
    for prefix in ("eval_", "regulation_weight_"):
        name = name.removeprefix(prefix)
    return {"p5": "5th percentile", "min": "minimum"}.get(name, name.replace("_recall@10", "").replace("_", " "))


def plot_weight_histogram(
    weights: Sequence[float] | torch.Tensor, path: str | os.PathLike, *, title: str | None = None
) -> None:
    """
    Draws how the regulation weights of negatives are spread: how many are spared, and how much.

    A line stands at 1, where InfoNCE has all of them, and another at the 5th percentile, above which 95 % of the
    negatives lie.

    Args:
        weights (`list[float]` or `torch.Tensor`):
            The weights of negatives, as [`regulation_weights`] gives them without the zeros of the positives; or
            evenly spaced quantiles of them.
        path (`str` or `os.PathLike`):
            Where to write the picture; its ending gives the format (`.png`, `.svg`).
        title (`str`, *optional*):
            Heading of the picture.

    Raises:
        ValueError: if there is no weight, or one that is negative or not finite.

    Example:

    ```python
    >>> weights = regulation_weights(text_embeds @ image_embeds.T)
    >>> plot_weight_histogram(weights[weights > 0], "weights.png")
    ```
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    values = torch.as_tensor(weights).detach().flatten().double().cpu()
    if not len(values) or not values.isfinite().all() or values.min() < 0:
        raise ValueError(f"There must be weights, finite and at least 0, to draw; got {weights!r}.")
    lowest, fifth = values.min().item(), values.quantile(0.05).item()

    figure = Figure(figsize=(6.4, 2.9), layout="constrained")
    axis = figure.subplots()
    low, high = min(lowest, 1.0), max(values.max().item(), 1.0)
    margin = 0.03 * max(high - low, 0.1)
    axis.hist(
        values.numpy(),
        bins=40,
        range=(low - margin, high + margin),
        weights=torch.full_like(values, 1 / len(values)).numpy(),
        color="#4c78a8",
        edgecolor="white",
        linewidth=0.4,
    )
    axis.axvline(1.0, color="#57606a", linewidth=1.2, linestyle="--", label="1: InfoNCE, every negative alike")
    axis.axvline(fifth, color="#e45756", linewidth=1.2, label=f"{fifth:.2f}: 5 % of the negatives weigh less")
    axis.set_xlabel(f"weight of a negative (lowest {lowest:.2f}; lower is spared more)", fontsize=9)
    axis.set_ylabel("share of negatives", fontsize=9)
    axis.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    axis.set_xlim(low - margin, high + margin)
    axis.tick_params(labelsize=8)
    axis.grid(axis="y", alpha=0.3)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    axis.legend(fontsize=8, frameon=False, loc="upper right")
    if title:
        axis.set_title(title, fontsize=10, parse_math=False)
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
        row[0].text(
            0.98,
            0.5,
            # Wrapped here: what matplotlib wraps, it reads as formulas.
            textwrap.fill(query, 44, max_lines=4, placeholder=" …"),
            ha="right",
            va="center",
            fontsize=9,
            parse_math=False,
            transform=row[0].transAxes,
        )
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
        figure.suptitle(title, fontsize=10, parse_math=False)
    figure.savefig(path, dpi=90)


def plot_grounding(
    image: PIL.Image.Image,
    words: Sequence[str],
    maps: Sequence[torch.Tensor],
    path: str | os.PathLike,
    *,
    title: str | None = None,
) -> None:
    """
    Draws an image, and beside it once for each word, where the word is found: the rest is dimmed.

    Every word has a scale of its own, since its map says where and not how much. How high it is at its highest, beside
    the highest of all words, is written below it: a word of a few percent is found nowhere, however bright a spot.

    Args:
        image (`PIL.Image.Image`):
            The image.
        words (`list[str]`):
            The words, or whatever has maps, such as the text.
        maps (`torch.Tensor` of shape `(num_words, grid_height, grid_width)`, or a `list` of maps):
            For each word a map over the whole image of values that are at least 0: `word_maps` of a [`Grounding`].
        path (`str` or `os.PathLike`):
            Where to write the picture; its ending gives the format (`.png`, `.svg`).
        title (`str`, *optional*):
            Heading of the picture.

    Raises:
        ValueError: if there is no word, or not one map for each.

    Example:

    ```python
    >>> grounding = ground_text(model, processor, image, "a red bus")
    >>> plot_grounding(image, grounding.words, grounding.word_maps, "words.png")
    ```
    """
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

    if not len(words) or len(words) != len(maps):
        raise ValueError(f"There must be words and a map for each, got {len(words)} words and {len(maps)} maps.")
    # A veil over the image, clear where a map is high.
    veil = torch.zeros(256, 4)
    veil[:, 3] = torch.linspace(0.85, 0, 256)

    columns = min(6, 1 + len(words))
    rows = -(-(1 + len(words)) // columns)
    figure = Figure(figsize=(1.6 * columns, 2 * rows + (0.3 if title else 0)), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis in axes:
        axis.set(xticks=[], yticks=[])
        for spine in axis.spines.values():
            spine.set_visible(False)
    for axis in axes[: 1 + len(words)]:
        axis.imshow(image)
    peaks = [float(map.max()) for map in maps]
    highest = max(peaks) or 1.0
    for axis, word, map, peak in zip(axes[1:], words, maps, peaks, strict=False):
        axis.imshow(
            map.float().cpu().numpy(),
            cmap=ListedColormap(veil.numpy()),
            extent=axis.get_images()[0].get_extent(),
            interpolation="bicubic",
            interpolation_stage="data",
            vmin=0,
            vmax=peak or 1.0,
        )
        axis.set_title(word, fontsize=10, parse_math=False)
        axis.set_xlabel(f"{peak / highest:.0%}", fontsize=8, color="gray")
    if title:
        figure.suptitle(title, fontsize=10, parse_math=False)
    figure.savefig(path, dpi=120)


@torch.no_grad()
def visualize_patch_selection(
    model: PreTrainedModel, processor: ProcessorMixin, image: PIL.Image.Image, text: str | None = None
) -> "Figure":
    """
    Draws an image as the model sees it, and beside it which of its patches each selection layer keeps: the others are
    dimmed.

    Args:
        model ([`SaclModel`] or one with heads):
            A model that selects patches, in evaluation mode.
        processor ([`SaclProcessor`]):
            Its processor.
        image (`PIL.Image.Image`):
            The image.
        text (`str`, *optional*):
            The text that chooses the patches, for a model with `patch_selection_guide="text"`. Without it the image's
            own class token chooses.

    Returns:
        `matplotlib.figure.Figure`: to be shown or saved.

    Raises:
        ValueError: if the model selects no patches, or has a text that cannot choose.

    Example:

    ```python
    >>> model.set_patch_selection(keep_rate=0.7, guide="text")
    >>> visualize_patch_selection(model, processor, image, "a red bus").savefig("patches.png")
    ```
    """
    from matplotlib.figure import Figure

    tower = model.base_model.vision_model
    if not tower.config.selects_patches:
        raise ValueError("The model keeps all patches: let it select, by `model.set_patch_selection(keep_rate=0.7)`.")
    if text is not None and tower.config.patch_selection_guide != "text":
        raise ValueError(
            "A text was given, but the image chooses its patches: leave the text out, or let it choose by "
            '`model.set_patch_selection(guide="text")`.'
        )
    pixel_values = processor(images=image, return_tensors="pt")["pixel_values"].to(tower.device, tower.dtype)
    guide = {}
    if text is not None:
        tokens = processor(text=text, return_tensors="pt").to(tower.device)
        guide["text_states"] = model.base_model.get_text_features(**tokens).last_hidden_state[:, 0]
    kept_patches = tower(pixel_values, interpolate_pos_encoding=True, **guide).kept_patches

    pixels, patch_size = _undo_normalization(pixel_values[0], processor.image_processor), tower.config.patch_size
    rows, columns = pixels.shape[0] // patch_size, pixels.shape[1] // patch_size
    panels = {"image": pixels}
    for layer, (places,) in zip(tower.config.resolved_patch_selection_layers, kept_patches, strict=True):
        places = places[places >= 0].cpu()  # A fused token of an earlier selection has no place.
        brightness = torch.full((rows * columns,), 0.2).index_fill(0, places, 1.0).view(rows, columns, 1)
        brightness = brightness.repeat_interleave(patch_size, 0).repeat_interleave(patch_size, 1)
        panels[f"layer {layer}: {len(places)} of {rows * columns} patches"] = pixels * brightness

    figure = Figure(figsize=(3 * len(panels), 3.4 if text is None else 3.7), layout="constrained")
    for axis, (title, panel) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        axis.imshow(panel.numpy())
        axis.set_title(title, fontsize=10)
        axis.axis("off")
    if text is not None:
        figure.suptitle(text, fontsize=11, parse_math=False)
    return figure


def _undo_normalization(pixel_values: torch.Tensor, image_processor: Any) -> torch.Tensor:
    """The image, of shape `(height, width, num_channels)` and in [0, 1], that became `pixel_values`."""
    pixels = pixel_values.float().cpu()
    if image_processor.do_normalize:
        mean, std = torch.tensor(image_processor.image_mean), torch.tensor(image_processor.image_std)
        pixels = pixels * std.view(-1, 1, 1) + mean.view(-1, 1, 1)
    return pixels.clamp(0, 1).permute(1, 2, 0)
