# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""What the benchmark writes: a page, its tables as CSV, and its figures as SVG."""

import csv
import math
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib
import torch
from analyses import Analysis, Point
from comparison import QUERY_METRICS, REFERENCES, SCALARS, Row
from evaluation import DIRECTIONS
from methods import METHODS, TRIALS
from records import VALIDATION, Records
from statistics_of_runs import Difference
from towers import load_emoji


matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402


SHOWN = (
    "text_to_image_recall@1",
    "text_to_image_recall@10",
    "text_to_image_ndcg@10",
    "image_to_text_recall@1",
    "image_to_text_ndcg@10",
    "auc",
)
SIGNIFICANT = 0.05
PACKAGES = ("torch", "transformers", "datasets", "accelerate", "timm")


def short(metric: str) -> str:
    """`text_to_image_recall@1` as a table's head has it."""
    return metric.replace("text_to_image_", "T→I ").replace("image_to_text_", "I→T ").replace("ndcg", "nDCG")


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation."""
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation}"


def marks(row: Row, metric: str) -> str:
    """One sign per reference, infonce first: significantly better, worse, or neither."""
    signs = []
    for reference in REFERENCES:
        if (reference, metric) not in row.differences:
            signs.append("·")
        elif row.corrected[reference, metric] >= SIGNIFICANT:
            signs.append("=")
        else:
            signs.append("▲" if row.differences[reference, metric].mean > 0 else "▼")
    return "".join(signs)


def comparison_table(rows: Sequence[Row], split: str) -> list[str]:
    """A Markdown table of one split."""
    of_split = [row for row in rows if row.split == split]
    base = next((row.seconds for row in of_split if row.method == "infonce"), of_split[0].seconds)
    lines = [
        "| objective | guide | " + " | ".join(map(short, SHOWN)) + " | time |",
        "|---|---|" + "---:|" * (len(SHOWN) + 1),
    ]
    for row in of_split:
        cells = [
            spread(row.values[metric]) + (f" {marks(row, metric)}" if metric in QUERY_METRICS else "")
            for metric in SHOWN
        ]
        guide = METHODS[row.method].run.guide or ""
        lines.append(f"| {row.method} | {guide} | " + " | ".join(cells) + f" | {row.seconds / base:.2f} |")
    return lines


def write_csv(file: Path, head: Sequence[str], lines: Sequence[Sequence[Any]]) -> None:
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(head)
        writer.writerows(lines)


def write_comparison(rows: Sequence[Row], folder: Path) -> None:
    """Every number of the comparison, and a figure of what is won and lost."""
    head = ["split", "objective", "settings", "metric", "mean", "standard_deviation", "seeds", "processor_seconds"]
    for reference in REFERENCES:
        head += [f"{name}_{reference}" for name in ("difference", "low", "high", "p_holm")]
    lines = []
    for row in rows:
        for metric in (*QUERY_METRICS, *SCALARS):
            values = row.values[metric]
            deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
            line = [row.split, row.method, _in_words(row.settings), metric]
            line += [f"{statistics.mean(values):.3f}", f"{deviation:.3f}", len(values), f"{row.seconds:.1f}"]
            for reference in REFERENCES:
                difference = row.differences.get((reference, metric))
                if difference is None:
                    line += ["", "", "", ""]
                else:
                    line += [f"{number:.3f}" for number in difference[:3]]
                    line.append(f"{row.corrected[reference, metric]:.4f}")
            lines.append(line)
    write_csv(folder / "comparison.csv", head, lines)
    for split in dict.fromkeys(row.split for row in rows):
        draw_differences([row for row in rows if row.split == split], folder / f"differences_{split}.svg")


def _in_words(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items())


def draw_differences(rows: Sequence[Row], file: Path) -> None:
    """Recall@1 and nDCG@10 against InfoNCE, with intervals."""
    compared = [row for row in rows if row.method != "infonce"]
    figure, axes = plt.subplots(1, 4, figsize=(12, 0.28 * len(compared) + 1.3), sharey=True, layout="constrained")
    metrics = [f"{direction}_{name}" for direction in DIRECTIONS for name in ("recall@1", "ndcg@10")]
    for axis, metric in zip(axes, metrics, strict=True):
        limit = _limit([row.differences["infonce", metric] for row in compared])
        for place, row in enumerate(compared):
            difference = row.differences["infonce", metric]
            certain = row.corrected["infonce", metric] < SIGNIFICANT
            color = ("tab:green" if difference.mean > 0 else "tab:red") if certain else "gray"
            if abs(difference.mean) > limit:
                axis.plot(
                    math.copysign(limit, difference.mean), place, ">" if difference.mean > 0 else "<", color=color
                )
                continue
            axis.plot([difference.low, difference.high], [place, place], color=color)
            axis.plot(difference.mean, place, "o", color=color, markersize=4)
        axis.set_xlim(-1.05 * limit, 1.05 * limit)
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set_title(short(metric), fontsize=9)
        axis.tick_params(labelsize=8)
    axes[0].set_yticks(range(len(compared)), [row.method for row in compared])
    axes[0].invert_yaxis()
    figure.supxlabel("difference from infonce, in points", fontsize=9)
    save_figure(figure, file)


def _limit(differences: Sequence[Difference]) -> float:
    """The farthest end of an interval, but for differences so large that no other could be seen beside them."""
    ends = [max(-difference.low, difference.high) for difference in differences if abs(difference.mean) < 20]
    return max([1.0, *ends])


def write_analysis(analysis: Analysis, points: Sequence[Point], folder: Path) -> list[str]:
    """The figure and the CSV of an analysis; its table in Markdown."""
    metrics = ("text_to_image_recall@1", "text_to_image_ndcg@10", "image_to_text_recall@1", "image_to_text_ndcg@10")
    removed = any("filtered_negatives" in log for point in points for log in point.logs)
    lines = [
        f"| curve | {analysis.axis} | "
        + " | ".join(map(short, (*metrics, "auc")))
        + (" | removed |" if removed else " |"),
        "|---|---:|" + "---:|" * (len(metrics) + 1 + removed),
    ]
    for point in points:
        cells = [spread([seed[metric] for seed in point.metrics]) for metric in (*metrics, "auc")]
        if removed:
            shares = [100 * log["filtered_negatives"] for log in point.logs if "filtered_negatives" in log]
            cells.append(f"{statistics.mean(shares):.1f} %" if shares else "")
        lines.append(f"| {point.curve} | {point.place} | " + " | ".join(cells) + " |")
    write_csv(
        folder / f"{analysis.name}.csv",
        ["curve", analysis.axis, "metric", "mean", "standard_deviation", "seeds"],
        [
            [
                point.curve,
                point.place,
                metric,
                f"{statistics.mean(values):.3f}",
                f"{statistics.stdev(values):.3f}",
                len(values),
            ]
            for point in points
            for metric in point.metrics[0]
            if len(values := [seed[metric] for seed in point.metrics]) > 1
        ],
    )
    draw_curves(analysis, points, folder / f"{analysis.name}.svg")
    return lines


def draw_curves(analysis: Analysis, points: Sequence[Point], file: Path) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    places, curves = list(dict.fromkeys(point.place for point in points)), {point.curve: None for point in points}
    numeric = all(isinstance(place, (int, float)) for place in places)
    for axis, metric in zip(axes, ("text_to_image_recall@1", "text_to_image_ndcg@10"), strict=True):
        for number, curve in enumerate(curves):
            of_curve = [point for point in points if point.curve == curve]
            values = [[seed[metric] for seed in point.metrics] for point in of_curve]
            # Side by side where places are names, or one would hide the other.
            aside = 0.12 * (number - (len(curves) - 1) / 2)
            axis.errorbar(
                [point.place if numeric else places.index(point.place) + aside for point in of_curve],
                [statistics.mean(value) for value in values],
                [statistics.stdev(value) if len(value) > 1 else 0.0 for value in values],
                marker="o",
                markersize=4,
                capsize=2,
                label=curve,
                linestyle="-" if numeric else "",
            )
        if analysis.logarithmic:
            axis.set_xscale("log", base=2)
            axis.set_xticks(sorted(places), sorted(places))
        elif not numeric:
            axis.set_xticks(range(len(places)), places)
        axis.set_title(short(metric), fontsize=9)
        axis.set_xlabel(analysis.axis, fontsize=9)
        axis.tick_params(labelsize=8)
    axes[1].legend(fontsize=7)
    save_figure(figure, file)


def draw_weights(weights: Mapping[float, Mapping[str, torch.Tensor]], file: Path) -> None:
    """Histograms of the regulation weights by what the negatives are (the paper's figures 3b and 7)."""
    figure, axes = plt.subplots(1, len(weights), figsize=(4.5 * len(weights), 3), layout="constrained")
    for axis, (strength, kinds) in zip(axes, weights.items(), strict=True):
        limit = max(values.quantile(0.999).item() for values in _sampled(kinds))
        for kind, values in kinds.items():
            axis.hist(
                values.clamp(max=limit).numpy(), bins=60, range=(0, limit), density=True, histtype="step", label=kind
            )
        axis.set_title(f"strength {strength:g}", fontsize=9)
        axis.set_xlabel("weight", fontsize=9)
        axis.tick_params(labelsize=8)
    axes[0].legend(fontsize=7)
    save_figure(figure, file)


def _sampled(kinds: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    """`quantile` takes no more than 16 million numbers."""
    return [values[:: max(1, len(values) // 1_000_000)] for values in kinds.values()]


def draw_retrievals(found: Mapping[str, Mapping[str, Any]], split: str, file: Path, queries: int = 6) -> None:
    """The five pictures that texts find first (the paper's figure 5). The texts are drawn by chance, once for all."""
    emoji = load_emoji(split)
    texts = list(dict(zip(emoji["caption"], emoji["emoji_id"], strict=True)).items())
    chosen = sorted(torch.randperm(len(texts), generator=torch.Generator().manual_seed(0))[:queries].tolist())
    # A narrow empty column parts the methods.
    widths = ([1.0] * 5 + [0.25]) * len(found)
    size = (sum(widths), 1.25 * queries)
    figure, axes = plt.subplots(queries, len(widths), figsize=size, gridspec_kw={"width_ratios": widths})
    for axis in axes[:, 5::6].flat:
        axis.axis("off")
    for line, query in enumerate(chosen):
        name, identity = texts[query]
        for block, (method, result) in enumerate(found.items()):
            for place, row in enumerate(result[split]["found"][query]):
                axis = axes[line, 6 * block + place]
                axis.imshow(emoji[row]["image"])
                axis.set_xticks([])
                axis.set_yticks([])
                right = emoji[row]["emoji_id"] == identity
                for side in axis.spines.values():
                    side.set_color("tab:green" if right else "lightgray")
                    side.set_linewidth(2.5 if right else 0.5)
                if line == 0 and place == 2:
                    axis.set_title(method, fontsize=9)
        axes[line, 0].set_ylabel("\n".join(_folded(name, 18)), fontsize=7, rotation=0, ha="right", va="center")
    figure.subplots_adjust(left=0.1, right=0.99, top=0.93, bottom=0.01, wspace=0.05, hspace=0.08)
    save_figure(figure, file)


def _folded(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        lines[-1:] = [f"{lines[-1]} {word}".strip()] if len(lines[-1]) + len(word) < width else [lines[-1], word]
    return [line for line in lines if line]


def save_figure(figure: Any, file: Path) -> None:
    # The same figure is the same file: no date, no random ids.
    with plt.rc_context({"svg.hashsalt": file.stem}):
        figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None, dpi=110)
    plt.close(figure)


def origin(command: str, seeds: Sequence[int], records: Records) -> list[str]:
    """Which command, seeds, machine and versions the numbers are of, and how much work they were."""
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return [
        f"Written by `{command}`: seeds {', '.join(map(str, seeds))}; {records.jobs} trainings of one thread side by "
        f"side on {os.cpu_count()} cores ({_processor()}), {len(records.used)} in all, of "
        f"{sum(records.used.values()) / 3600:.1f} hours of processor time. "
        f"Python {platform.python_version()}, {packages}.",
        f"Each objective chose among {TRIALS} settings by `{VALIDATION}`.",
    ]


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
