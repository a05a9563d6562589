# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The demonstration over several seeds and objectives: mean, spread, and the machine, as a file.

    python benchmarks/demo.py --seeds 42 43 44

Runs examples/demo.py once for each objective and seed and writes benchmarks/results/demo.md and demo.json. A run that
is already in the output folder is not repeated. Options that this script does not know go to the demonstration.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

from common import RESULTS, processor_name


ROOT = Path(__file__).parent.parent
SPLITS = ("test_unseen_composition", "test_unseen_concept")
METRICS = ("text_to_image_recall@10", "image_to_text_recall@10", "text_to_image_recall@1", "text_to_image_ndcg@10")


def run(name: str, seed: int, folder: Path, jobs: int, options: list[str]) -> dict:
    """The metrics of one run of the demonstration with these options, from its folder if it is there."""
    output_dir = folder / f"{name}-{seed}"
    if not (output_dir / "metrics.json").exists():
        command = [sys.executable, str(ROOT / "examples" / "demo.py"), "--output_dir", str(output_dir)]
        command += ["--seed", str(seed), *options]
        print("$", " ".join(command), flush=True)
        threads = max(1, (os.cpu_count() or 1) // jobs)
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads)}
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, env=environment)
    return json.loads((output_dir / "metrics.json").read_text())


def table(runs: dict[str, list[dict]]) -> list[str]:
    """A Markdown row for each split and objective, as mean ± standard deviation over the seeds."""
    lines = ["| split | model | " + " | ".join(METRICS) + " |", "|---" * (2 + len(METRICS)) + "|"]
    for split in SPLITS:
        first = next(iter(runs.values()))[0]
        for name in ("chance", "untrained"):
            cells = [f"{first[name][split][metric]:.1f}" if metric in first[name][split] else "" for metric in METRICS]
            lines.append(f"| {split} | {name} | " + " | ".join(cells) + " |")
        for objective, results in runs.items():
            cells = []
            for metric in METRICS:
                values = [result["trained"][split][metric] for result in results]
                spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
                cells.append(f"{statistics.mean(values):.1f}{spread}")
            lines.append(f"| {split} | {objective} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    parser.add_argument("--objectives", nargs="+", default=["sacl"])
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side, which share the processor's cores")
    parser.add_argument("--output_dir", type=Path, default=ROOT / "runs" / "benchmark_demo")
    args, options = parser.parse_known_args()

    with ThreadPoolExecutor(args.jobs) as pool:
        pending = {
            objective: [
                pool.submit(run, objective, seed, args.output_dir, args.jobs, ["--objective", objective, *options])
                for seed in args.seeds
            ]
            for objective in args.objectives
        }
        runs = {objective: [future.result() for future in futures] for objective, futures in pending.items()}
    minutes = [result["train"]["train_runtime"] / 60 for results in runs.values() for result in results]
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "datasets", "accelerate"))
    seeds = " ".join(map(str, args.seeds))
    command = ["python benchmarks/demo.py --seeds", seeds, "--objectives", *args.objectives, "--jobs", str(args.jobs)]
    command += options
    lines = [
        "# The demonstration",
        "",
        f"Written by `{' '.join(command)}`.",
        "",
        f"Mean ± standard deviation over the seeds {seeds}; recall and nDCG in percent, every vendor's pictures as",
        "correct answers. *untrained* is the first seed's model before training, *chance* the exact expectation of a",
        "random ranking.",
        "",
        *table(runs),
        "",
        f"Training took {min(minutes):.1f} to {max(minutes):.1f} minutes a run, up to {args.jobs} side by side, on "
        f"{os.cpu_count()} cores of {processor_name()}.",
        f"Python {platform.python_version()}, {packages}.",
        "",
    ]
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "demo.md").write_text("\n".join(lines))
    (RESULTS / "demo.json").write_text(json.dumps({"seeds": args.seeds, "runs": runs}, indent=1))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
