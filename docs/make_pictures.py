# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Draws the pictures of `docs/concepts/`: the weights of a real batch, the schedules, and the parts of the model.

    make demo && python docs/make_pictures.py --model runs/demo/model

The pictures in this repository are of the model of seed 42 of `python benchmarks/demo.py --seeds 42 43 44`, which is
what `make demo` trains. Needs matplotlib.
"""

import argparse
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from PIL import Image
from transformers import AutoModel, AutoProcessor, PreTrainedModel, ProcessorMixin


ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "examples"))

from emoji import load_emoji  # noqa: E402

from modeling_sacl import regulation_weights  # noqa: E402
from modeling_sacl.loss_sacl import find_positives  # noqa: E402
from trainer.data import pair_ids_tensor, to_rgb  # noqa: E402
from trainer.sacl_config import GUIDE_SCHEDULES  # noqa: E402


# On a ground of their own, so that dark pages show them as light ones do.
GROUND, INK, SOFT, ACCENT, SECOND = "#f7f8f8", "#24292f", "#8b949e", "#00796b", "#b26a00"
STRENGTHS = (0.0, 0.5, 1.0, 2.0)


class Batch(NamedTuple):
    """A batch of emoji and what a model says of it."""

    images: list[Image.Image]
    captions: list[str]
    # [image, text]; True where the text is of another emoji.
    cosines: torch.Tensor
    negatives: torch.Tensor


@torch.inference_mode()
def embed_batch(model: PreTrainedModel, processor: ProcessorMixin, size: int, seed: int) -> Batch:
    """The first pairs of the training split in the order of a seed, with the model's cosines."""
    pairs = load_emoji("train").shuffle(seed=seed).select(range(size))
    images, captions = [to_rgb(image) for image in pairs["image"]], list(pairs["caption"])
    outputs = model(**processor(images=images, text=captions, return_tensors="pt"))
    positives = find_positives(pair_ids_tensor(pairs["emoji_id"]))
    return Batch(images, captions, outputs.image_embeds @ outputs.text_embeds.T, ~positives)


def new_figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained", facecolor=GROUND)


def quiet(axis: Axes) -> Axes:
    """No frame but the two lines that are read."""
    axis.set_facecolor(GROUND)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(SOFT)
    axis.tick_params(colors=INK, labelsize=8)
    return axis


def blank(axis: Axes) -> Axes:
    axis.set_axis_off()
    return axis


def save(figure: Figure, path: Path) -> None:
    """Few colours in few bytes."""
    figure.savefig(path, dpi=144)
    Image.open(path).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)


# A batch ---------------------------------------------------------------------------------------------------------


def most_similar_negative(batch: Batch) -> int:
    """The image whose most similar negative is the most similar of all."""
    return int(batch.cosines.masked_fill(~batch.negatives, -torch.inf).amax(dim=1).argmax())


def spread(order: Sequence[int], first: int, others: int) -> list[int]:
    """The first few, and others evenly over the rest, the last included."""
    rest = order[first:]
    return [*order[:first], *(rest[round((number + 1) * (len(rest) - 1) / others)] for number in range(others))]


def draw_false_negatives(batch: Batch, path: Path, *, nearest: int = 4, others: int = 4) -> None:
    """One anchor and a few of its negatives: each with its weight, beside the 1 that InfoNCE gives it."""
    anchor = most_similar_negative(batch)
    weights = regulation_weights(batch.cosines, negative_mask=batch.negatives)[anchor]
    order = [i for i in batch.cosines[anchor].argsort(descending=True).tolist() if batch.negatives[anchor, i]]
    shown = spread(order, nearest, others)

    figure = new_figure(8, 4.1)
    left, right = figure.subfigures(1, 2, width_ratios=[1, 3.4])
    axis = blank(left.subplots())
    axis.imshow(batch.images[anchor])
    axis.set_title("anchor", fontsize=9, color=SOFT)
    caption = "\n".join(textwrap.wrap(batch.captions[anchor], 20))
    axis.text(0.5, -0.06, caption, ha="center", va="top", fontsize=9, color=INK, transform=axis.transAxes)

    rows = right.subplots(len(shown), 3, width_ratios=[0.5, 2.7, 2.4], squeeze=False)
    top = max(1.0, float(weights[shown].max()))
    for (thumbnail, text, bar), row in zip(rows, shown, strict=True):
        blank(thumbnail).imshow(batch.images[row])
        words = "\n".join(textwrap.wrap(batch.captions[row], 32)[:2])
        blank(text).text(0, 0.5, words, ha="left", va="center", fontsize=8.5, color=INK, transform=text.transAxes)
        draw_weight(blank(bar), float(weights[row]), top)
    rows[0, 1].set_title("negatives of the batch", fontsize=9, color=SOFT, loc="left")
    rows[0, 2].set_title("weight (dashed: 1, as in InfoNCE)", fontsize=9, color=SOFT, loc="left")
    save(figure, path)


def draw_weight(axis: Axes, weight: float, top: float) -> None:
    axis.barh(0, weight, height=0.5, color=ACCENT if weight < 1 else SOFT)
    axis.axvline(1, color=INK, linewidth=1, linestyle=(0, (3, 3)))
    end = max(weight, 1.0) if weight > 0.8 else weight  # Clear of the dashed line.
    axis.text(end + 0.03 * top, 0, f"{weight:.2f}", va="center", fontsize=8.5, color=INK)
    axis.set(xlim=(0, top * 1.3), ylim=(-0.5, 0.5))


def draw_weights(batch: Batch, path: Path) -> None:
    """The weight against the similarity for several strengths, over the negatives of one anchor."""
    anchor = most_similar_negative(batch)
    cosines, order = batch.cosines[anchor][batch.negatives[anchor]].sort()
    figure = new_figure(7, 4.2)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3.2, 1])
    for strength in STRENGTHS:
        weights = regulation_weights(batch.cosines, strength=strength, negative_mask=batch.negatives)[anchor]
        line = weights[batch.negatives[anchor]][order]
        color = INK if strength == 0 else ACCENT
        quiet(above).plot(cosines, line, color=color, alpha=1 if strength in (0, 1) else 0.55, linewidth=1.6)
        label = {0.0: "0: InfoNCE", 1.0: "1: the paper"}.get(strength, f"{strength:g}")
        end = (float(cosines[-1]) + 0.015, float(line[-1]))
        above.annotate(label, end, fontsize=8.5, color=color, va="center", annotation_clip=False)
    above.set_xlim(right=float(cosines[-1]) + 0.2)
    above.set_ylabel("weight", fontsize=9)
    above.set_ylim(bottom=0)
    quiet(below).hist(cosines.tolist(), bins=40, color=SOFT)
    below.set_ylabel("negatives", fontsize=9)
    below.set_xlabel("cosine of the anchor's image with the negative's text", fontsize=9)
    save(figure, path)


# Schedules -------------------------------------------------------------------------------------------------------


def draw_schedules(path: Path) -> None:
    """The guide's share over the training, and the strength where there is no guide."""
    progress = [number / 200 for number in range(201)]
    figure = new_figure(8, 2.7)
    left, right = figure.subplots(1, 2, sharey=True)
    for (name, schedule), style in zip(GUIDE_SCHEDULES.items(), ("-", "--", ":"), strict=True):
        quiet(left).plot(progress, [schedule(p) for p in progress], style, color=ACCENT, linewidth=1.8, label=name)
    left.set_title("with a guide: its share", fontsize=10, color=INK)
    left.legend(fontsize=8, frameon=False)
    for name, warmup, color in (("regulation_strength", 0.1, ACCENT), ("distillation_weight", 0.05, SECOND)):
        final = 1.0 if name == "regulation_strength" else 0.4
        values = [final * min(1.0, p / warmup) for p in progress]
        quiet(right).plot(progress, values, color=color, linewidth=1.8, label=name)
    right.set_title("without: the defaults", fontsize=10, color=INK)
    right.legend(fontsize=8, frameon=False, loc="center right")
    for axis in (left, right):
        axis.set_xlabel("share of the training", fontsize=9)
        axis.set_ylim(-0.03, 1.08)
    save(figure, path)


# The model -------------------------------------------------------------------------------------------------------


def box(axis: Axes, x: float, y: float, width: float, text: str, *, color: str = ACCENT, height: float = 0.8) -> None:
    """A box with its middle at x, y."""
    corner = (x - width / 2, y - height / 2)
    style = "round,pad=0,rounding_size=0.12"
    axis.add_patch(FancyBboxPatch(corner, width, height, boxstyle=style, facecolor="white", edgecolor=color, lw=1.3))
    axis.text(x, y, text, ha="center", va="center", fontsize=8.5, color=INK, linespacing=1.35)


def arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axis.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=9, color=SOFT, linewidth=1.1))


def draw_model(path: Path) -> None:
    """Towers, embeddings, fusion encoder and heads, from below upwards."""
    figure = new_figure(8, 5)
    axis = blank(figure.subplots())
    axis.set(xlim=(0, 10), ylim=(0, 6.6))
    box(axis, 1.8, 0.45, 2.2, "image")
    box(axis, 8.2, 0.45, 2.2, "text")
    box(axis, 1.8, 1.85, 3.2, "image tower: vision transformer\nmay drop patches (TRIPS)", height=0.95)
    box(axis, 8.2, 1.85, 3.2, "text tower:\nany encoder of AutoModel", height=0.95)
    box(axis, 5.0, 3.45, 3.6, "fusion encoder: text looks at\nitself, then at the image", height=0.95)
    box(axis, 1.2, 3.45, 1.9, "image_embeds", color=SECOND, height=0.7)
    box(axis, 8.8, 3.45, 1.9, "text_embeds", color=SECOND, height=0.7)
    box(axis, 3.9, 4.85, 1.9, "matching (ITM)", color=SECOND, height=0.7)
    box(axis, 6.1, 4.85, 2.1, "masked words (MLM),\nanswers, classes", color=SECOND, height=0.85)
    box(axis, 5.0, 6.15, 9.5, "contrast (ITC): cosine / temperature, negatives regulated", color=SECOND, height=0.65)
    for x in (1.8, 8.2):
        arrow(axis, (x, 0.87), (x, 1.35))
    arrow(axis, (1.4, 2.35), (1.2, 3.07))
    arrow(axis, (8.6, 2.35), (8.8, 3.07))
    arrow(axis, (2.6, 2.35), (3.9, 2.95))
    arrow(axis, (7.4, 2.35), (6.1, 2.95))
    arrow(axis, (4.6, 3.95), (4.0, 4.47))
    arrow(axis, (5.4, 3.95), (6.0, 4.4))
    for x in (1.2, 8.8):
        arrow(axis, (x, 3.82), (x, 5.8))
    save(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="runs/demo/model", help="folder or Hub id of a SACL model")
    parser.add_argument("--batch_size", type=int, default=512, help="pairs in the batch that is drawn")
    parser.add_argument("--seed", type=int, default=0, help="which batch")
    parser.add_argument("--output_dir", type=Path, default=ROOT / "docs" / "pictures", help="where to write")
    args = parser.parse_args()

    model, processor = AutoModel.from_pretrained(args.model).eval(), AutoProcessor.from_pretrained(args.model)
    batch = embed_batch(model, processor, args.batch_size, args.seed)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    draw_false_negatives(batch, args.output_dir / "false_negatives.png")
    draw_weights(batch, args.output_dir / "weights.png")
    draw_schedules(args.output_dir / "schedules.png")
    draw_model(args.output_dir / "model.png")


if __name__ == "__main__":
    main()
