# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Re-ranking the texts of an image: keys and values once for all of them, against once for each, as a file.

    python benchmarks/rerank.py --quick                      # a tiny model, in seconds: does it work?
    python benchmarks/rerank.py --threads 2                  # the shapes of ALBEF at 384 pixels

The second stage of retrieval as ALBEF evaluates it: the fusion encoder reads one image with its k best texts, and the
matching head scores each. *Plain* is the published way: the tokens of the image are repeated for each text, and every
layer computes keys and values of each copy. *Cached* is that of `match_pairs`: keys and values once for the image
(counted in the time), whose copies are never made. Both start from the tokens of the towers, by a model of random
weights in float32 without gradient. Times are of both in turn, after a round without a clock; each peak is measured in
a process of its own, as the highest resident memory less what was resident before. Needs Linux. Writes
benchmarks/results/rerank.md.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from common import forget_peak, in_process, resident, table, write_results
from torch.utils.flop_counter import FlopCounterMode

from modeling_sacl import SaclConfig, SaclForImageTextRetrieval


TINY = {"hidden_size": 48, "num_attention_heads": 4, "intermediate_size": 96, "num_hidden_layers": 2}


def build(args: argparse.Namespace) -> SaclForImageTextRetrieval:
    text, vision = {"model_type": "bert", "num_hidden_layers": 6}, {"image_size": args.size}
    if args.quick:
        text, vision = {**text, **TINY, "vocab_size": 500}, {**vision, **TINY}
    torch.manual_seed(0)
    return SaclForImageTextRetrieval(SaclConfig(text_config=text, vision_config=vision)).eval()


def ways(args: argparse.Namespace, num_texts: int) -> dict[str, Callable[[], torch.Tensor]]:
    """From the tokens of one image and its texts to their scores."""
    model = build(args)
    with torch.no_grad():
        image = model.sacl.get_image_features(torch.randn(1, 3, args.size, args.size))
        words = torch.randint(5, model.config.text_config.vocab_size, (num_texts, args.length))
        texts = model.sacl.get_text_features(words).last_hidden_state
    first_image = torch.zeros(num_texts, dtype=torch.long)

    @torch.no_grad()
    def plain() -> torch.Tensor:
        copies = image.last_hidden_state.repeat(num_texts, 1, 1)
        fused = model.sacl.fusion_model(texts, copies, return_dict=True)
        return model.itm_head(fused.last_hidden_state[:, 0])

    @torch.no_grad()
    def cached() -> torch.Tensor:
        return model.match(texts, image, None, first_image, image_key_values=model.sacl.project_images(image))

    return {"plain": plain, "cached": cached}


def operations(run: Callable[[], torch.Tensor]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def measure_times(runs: dict[str, Callable[[], torch.Tensor]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each way in each round."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(1 + repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: measured[1:] for name, measured in seconds.items()}


def peak(args: argparse.Namespace, name: str, num_texts: int) -> dict:
    """The peak memory of one way in this process, after one text for what libraries allocate once."""
    for count in (1, num_texts):
        run = ways(args, count)[name]
        forget_peak()
        before = resident("VmRSS")
        run()
    return {"peak": resident("VmHWM") - before}


def measure(args: argparse.Namespace, num_texts: int) -> list[list[str]]:
    runs = ways(args, num_texts)
    scores = {name: run() for name, run in runs.items()}
    difference = (scores["plain"] - scores["cached"]).abs().max().item()
    seconds = measure_times(runs, args.repeats)
    speedups = [old / new for old, new in zip(seconds["plain"], seconds["cached"], strict=True)]
    rows = []
    for name, run in runs.items():
        command = [
            "--peak_of",
            json.dumps([name, num_texts]),
            "--size",
            f"{args.size}",
            "--threads",
            f"{args.threads}",
        ]
        found = in_process(__file__, *command, *(["--quick"] if args.quick else []))
        row = [
            f"{num_texts}",
            name,
            f"{operations(run) / 1e9:,.1f}",
            f"{1000 * statistics.median(seconds[name]):,.0f} ms",
        ]
        faster = f"{statistics.median(speedups):.2f} ({min(speedups):.2f} to {max(speedups):.2f})"
        row += ["" if name == "plain" else faster, f"{found['peak'] / 2**20:,.0f} MiB"]
        row += ["" if name == "plain" else f"{difference:.1e}"]
        print(" | ".join(row), flush=True)
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=384, help="pixels of the image")
    parser.add_argument("--texts", type=int, nargs="+", default=[16, 128, 256], help="that meet the image")
    parser.add_argument("--length", type=int, default=30, help="tokens of a text")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of the clock")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="a tiny model, 8 texts, two rounds")
    parser.add_argument("--peak_of", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.quick:
        args.size, args.texts, args.repeats = 64, [8], 2
    torch.set_num_threads(args.threads)
    if args.peak_of:
        print(json.dumps(peak(args, *args.peak_of)))
        return
    head = ["texts", "way", "GFLOPs", "time", "faster (of each round)", "peak", "largest difference of scores"]
    rows = [row for count in args.texts for row in measure(args, count)]
    lines = [
        f"One image at {args.size} pixels with its texts of {args.length} tokens, from the tokens of the towers to "
        f"the scores. Random weights, {'a tiny model' if args.quick else 'shapes of ALBEF'}, float32. "
        f"Time: the median of {args.repeats} rounds, both ways in turn. Peak: the highest resident memory less that "
        "before, in a process of its own. `--help` says what each way is.",
        "",
        *table(head, rows, text_columns=2),
    ]
    write_results(__file__, "Re-ranking", lines, args.threads)


if __name__ == "__main__":
    main()
