# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""What patch selection costs in quality: the demonstration with and without it, over several seeds, as a file.

    python benchmarks/patch_selection_quality.py --seeds 42 43 44 --jobs 2

Trains examples/demo.py, with 36 patches an image, once for each variant and seed: with all patches, with the image as
guide, with the text as guide (TRIPS as published), and the latter without the fused token. Then the models that were
trained with all patches select in inference only. Retrieval is by cosine, for which the image always chooses; what the
text chooses is seen by the fusion encoder, so the loss of the masked words on the validation pairs stands beside. A
run that is already in the output folder is not repeated. Options that this script does not know go to the
demonstration. Writes benchmarks/results/patch_selection_quality.md.
"""

import argparse
import os
import statistics
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from common import table, write_results
from demo import ROOT, SPLITS, run
from transformers import AutoModelForPreTraining, AutoProcessor

import modeling_sacl  # noqa: F401  (registers the Auto classes)
from trainer import evaluate_retrieval


sys.path.insert(0, str(ROOT / "examples"))
from emoji import EmojiRelevance, emoji_pairs  # noqa: E402


VARIANTS = {
    "all patches": {},
    "image guides": {"guide": "image"},
    "text guides": {"guide": "text"},
    "text guides, no fused token": {"guide": "text", "token": "false"},
}
METRICS = {
    "t2i recall@10": "text_to_image_recall@10",
    "i2t recall@10": "image_to_text_recall@10",
    "t2i nDCG@10": "text_to_image_ndcg@10",
}


def options_of(
    guide: str | None = None,
    token: str = "true",  # noqa: S107 (a token of the image, no secret)
    *,
    keep_rate: float,
) -> list[str]:
    """The demonstration's options for a variant."""
    if guide is None:
        return []
    return ["--patch_keep_rate", f"{keep_rate}", "--patch_selection_guide", guide, "--patch_fusion_token", token]


def spread(values: list[float], digits: int = 1) -> str:
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


def quality(result: dict, split: str) -> list[float]:
    return [result[split][metric] for metric in METRICS.values()]


def select_in_inference(folder: Path, keep_rate: float) -> dict:
    """Retrieval of a model that never saw a patch dropped."""
    model = AutoModelForPreTraining.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    model.set_patch_selection(keep_rate=keep_rate)
    found = {}
    for split in SPLITS:
        pairs = emoji_pairs(split)
        found[split] = evaluate_retrieval(
            model, pairs, processor, batch_size=256, relevance=EmojiRelevance(pairs), show_progress=False
        )
    return found


def columns_of(results: list[dict]) -> list[list[float]]:
    """Each metric of each split, a value for each seed; last the loss of the masked words, if it is there."""
    columns = [
        [quality(result.get("trained", result), split)[number] for result in results]
        for split in SPLITS
        for number in range(len(METRICS))
    ]
    if "validation" in results[0]:
        columns.append([result["validation"]["eval_mlm_loss"] for result in results])
    return columns


def row_of(name: str, results: list[dict]) -> list[str]:
    """Mean and deviation over the seeds."""
    return [name, *(spread(values, digits=1 + 2 * (place == 6)) for place, values in enumerate(columns_of(results)))]


def difference_row(name: str, results: list[dict], others: list[dict]) -> list[str]:
    """The mean difference to others of the same seed, the smallest and the largest."""
    cells = []
    for place, (values, theirs) in enumerate(zip(columns_of(results), columns_of(others), strict=True)):
        gaps = [value - other for value, other in zip(values, theirs, strict=True)]
        digits = 1 + 2 * (place == 6)
        cells.append(f"{statistics.mean(gaps):+.{digits}f} ({min(gaps):+.{digits}f} to {max(gaps):+.{digits}f})")
    return [name, *cells]


def run_all(variants: dict[str, dict], args: argparse.Namespace, options: list[str]) -> dict[str, list[dict]]:
    """The reports of all runs, seed after seed, so that an interrupted benchmark has whole seeds."""
    with ThreadPoolExecutor(args.jobs) as pool:
        pending: dict[tuple[str, int], Callable] = {}
        for seed in args.seeds:
            for name, variant in variants.items():
                chosen = options_of(**variant, keep_rate=args.keep_rate) + options
                folder_name = name.replace(",", "").replace(" ", "_")
                pending[name, seed] = pool.submit(run, folder_name, seed, args.output_dir, args.jobs, chosen).result
        return {name: [pending[name, seed]() for seed in args.seeds] for name in variants}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    parser.add_argument("--keep_rate", type=float, default=0.7, help="of the layers that select")
    parser.add_argument("--inference_rates", type=float, nargs="+", default=[0.9, 0.7, 0.5, 0.3])
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side, which share the processor's cores")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--output_dir", type=Path, default=ROOT / "runs" / "patch_selection_quality")
    args, options = parser.parse_known_args()
    options = ["--patch_size", "8", "--num_train_epochs", f"{args.epochs}", "--eval_strategy", "no", *options]

    runs = run_all(VARIANTS, args, options)
    head = ["variant"] + [f"{split.removeprefix('test_')}: {name}" for split in SPLITS for name in METRICS]
    head.append("masked words: loss")
    trained = [row_of(name, results) for name, results in runs.items()]
    unpruned = runs["all patches"]
    differences = [difference_row(name, results, unpruned) for name, results in list(runs.items())[1:]]
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // args.jobs))
    folders = [args.output_dir / f"all_patches-{seed}" / "model" for seed in args.seeds]
    inference = [
        row_of(f"keep rate {rate:g}", [select_in_inference(folder, rate) for folder in folders])
        for rate in args.inference_rates
    ]
    lines = [
        f"The emoji demonstration with 36 patches an image, {args.epochs} epoch(s), selection in the layers 2 and 3 "
        f"of 4, seeds {', '.join(map(str, args.seeds))}: mean ± standard deviation. Recall and nDCG in percent, every "
        "vendor's picture as a correct answer; loss of the masked words on the validation pairs.",
        "",
        f"## Trained with selection, keep rate {args.keep_rate:g}",
        "",
        *table(head, trained),
        "",
        "Difference to all patches, of runs of the same seed: the mean, the lowest and the highest.",
        "",
        *table(head, differences),
        "",
        "## Trained with all patches, selecting in inference only, guided by the image",
        "",
        *table(head[:-1], [trained[0][:-1], *inference]),
    ]
    write_results(__file__, "Quality of patch selection", lines, max(1, (os.cpu_count() or 1) // args.jobs))


if __name__ == "__main__":
    main()
