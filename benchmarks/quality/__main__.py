# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Does regulation help, when, and against whom: every objective on the emoji pairs, with pre-trained towers.

    pip install --no-deps -r benchmarks/quality/requirements.txt
    python benchmarks/quality

Writes docs/benchmark: a page, tables as CSV and figures as SVG. Two locked towers (EfficientNet-Lite0, MiniLM) give
features, which are computed once; what is trained are two heads, by SaclTrainer. Each objective chooses among four
settings on the validation split with one seed, is then trained with five others, and evaluated once on the test
splits. What has been run is kept in the folder of runs and not repeated, so that an interrupted benchmark goes on
where it stopped.

The comparison of all objectives is always made; `--parts` says what else.

`--quick` does everything with three steps where the benchmark has hundreds and an eighth of the pairs, to see that it
works: its numbers say nothing.
"""

import argparse
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import towers
import transformers
import unlocked
from analyses import ANALYSIS_SEEDS, analyses, first_look, information_of_negatives, weights_by_grade
from comparison import choose_settings, compare
from evaluation import summarize
from methods import METHODS, OURS, SEEDS
from page import (
    INFORMATION,
    RETRIEVALS,
    SECOND_TRACK,
    TITLES,
    WEIGHTS,
    first_look_table,
    information_table,
    write_page,
)
from records import TEST_SPLITS, VALIDATION, Records, Request
from report import comparison_table, draw_retrievals, draw_weights, write_analysis, write_comparison
from towers import ROOT, UNLOCKED_IMAGE_SIZE, load_features, load_swapped_names
from training import trained_guide


PARTS = ("threshold", "strength", "guide", "data", "batch", "adversarial", "long", "unlocked")
# The rows of the second track and the columns of the pictures; and the curves of the analyses.
FOLLOWED = ("infonce", "albef", "sacl", OURS)
CURVES = ("infonce", "sacl", OURS)

# For `--quick`: everything happens, and nothing is learned.
QUICK_STEPS, QUICK_IMAGE_SIZE, QUICK_STRIDE = 3, 32, 8

Chosen = Mapping[str, Mapping[str, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python benchmarks/quality", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--objectives", nargs="+", default=list(METHODS), metavar="NAME", help="only these rows")
    parser.add_argument("--seeds", type=int, nargs="+", help=f"default: {' '.join(map(str, SEEDS))}, two if quick")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="trainings side by side (default: the cores)")
    parser.add_argument(
        "--parts", nargs="*", choices=PARTS, default=list(PARTS), help="beside the comparison (default: all of them)"
    )
    parser.add_argument("--quick", action="store_true", help="a few steps of everything, in minutes")
    parser.add_argument("--folder", type=Path, help="of features and runs (default: runs/quality)")
    parser.add_argument("--output_dir", type=Path, help="default: docs/benchmark, or the folder of runs if quick")
    args = parser.parse_args()
    if unknown := [name for name in args.objectives if name not in METHODS]:
        parser.error(f"there is no {unknown[0]!r} among {', '.join(map(repr, METHODS))}")
    seeds = args.seeds or (SEEDS[:2] if args.quick else SEEDS)
    folder = args.folder or ROOT / "runs" / ("quality-quick" if args.quick else "quality")
    output = args.output_dir or (folder / "page" if args.quick else ROOT / "docs" / "benchmark")
    if args.quick:
        towers.IMAGE_SIZE, towers.STRIDE = QUICK_IMAGE_SIZE, QUICK_STRIDE
    transformers.utils.logging.set_verbosity_error()
    started = time.time()
    output.mkdir(parents=True, exist_ok=True)

    records = Records(folder, args.jobs, steps=QUICK_STEPS if args.quick else None)
    compared = [METHODS[name] for name in args.objectives]
    prepare(records, args.parts)
    chosen = choose_settings(records, compared)
    rows, found = compare(records, compared, chosen, seeds)
    write_comparison(rows, output)
    sections: dict[str, list[str]] = {}
    if "unlocked" in args.parts:
        sections |= second_track(records, chosen, seeds)
    analysis_seeds = ANALYSIS_SEEDS[:1] if args.quick else ANALYSIS_SEEDS
    sections |= analyse(records, chosen, args.parts, output, analysis_seeds)
    sections |= look_closer(records, {name: found[name] for name in FOLLOWED if name in found}, output)
    command = shlex.join(["python", "benchmarks/quality", *sys.argv[1:]])
    write_page(output, rows, sections, command=command, seeds=seeds, records=records)
    print(f"{output / 'index.md'} after {(time.time() - started) / 60:.0f} minutes")


def prepare(records: Records, parts: Sequence[str]) -> None:
    """What several runs need: features, and the guide. Here, since runs side by side would each compute it."""
    for split in ("train", VALIDATION, *TEST_SPLITS):
        load_features(split, records.folder / "features")
    load_swapped_names(records.folder / "features")
    if "unlocked" in parts:
        load_features("train", records.folder / "features", UNLOCKED_IMAGE_SIZE)
    trained_guide(records.folder, records.examples)


def second_track(records: Records, chosen: Chosen, seeds: Sequence[int]) -> dict[str, list[str]]:
    """The image tower unlocked, for a few objectives."""
    followed = [METHODS[name] for name in FOLLOWED if name in chosen]
    rows, _ = compare(records, followed, chosen, seeds, unlocked=True)
    lines = [SECOND_TRACK.format(steps=unlocked.STEPS, batch_size=unlocked.BATCH_SIZE)]
    for split in TEST_SPLITS:
        lines += ["", f"### {TITLES[split]}, image tower unlocked", "", *comparison_table(rows, split)]
    return {"The second track: the image tower learns too": lines}


def analyse(
    records: Records, chosen: Chosen, parts: Sequence[str], output: Path, seeds: Sequence[int]
) -> dict[str, list[str]]:
    """The paper's analyses: figures and CSV into the folder, tables for the page."""
    sections = {}
    known = {analysis.name: analysis for analysis in analyses(chosen, [name for name in CURVES if name in chosen])}
    for analysis in (known[part] for part in parts if part in known):
        lines = write_analysis(analysis, analysis.points(records, seeds), output)
        sections[analysis.title] = [f"![{analysis.title}]({analysis.name}.svg)", "", analysis.text, "", *lines]
    if "long" not in parts:
        return sections
    looks = first_look()
    requests = [Request(replace(run, seed=seed)) for run in looks.values() for seed in seeds]
    results = iter(records.get(requests, "long trainings"))
    long = {name: [summarize(next(results)["splits"][VALIDATION]) for _ in seeds] for name in looks}
    sections["Long trainings: 1,500 steps"] = first_look_table(long)
    return sections


def look_closer(records: Records, found: Mapping[str, Any], output: Path) -> dict[str, list[str]]:
    """Weights, retrievals, and the identity of the paper's appendix A.3."""
    draw_weights(weights_by_grade(records.folder), output / "weights.svg")
    sections = {"Weights by what the negatives are": ["![Histograms of the weights](weights.svg)", "", WEIGHTS]}
    for split in TEST_SPLITS:
        draw_retrievals(found, split, output / f"retrievals_{split}.png")
    sections["What texts find first"] = [
        RETRIEVALS,
        *(f"\n![What texts find, {TITLES[split].lower()}](retrievals_{split}.png)" for split in TEST_SPLITS),
    ]
    information = information_of_negatives(records.folder, examples=records.examples)
    sections["The information of negatives"] = [INFORMATION, "", *information_table(information)]
    return sections


if __name__ == "__main__":
    main()
