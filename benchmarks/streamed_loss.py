# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The streamed contrastive loss against the plain one: peak memory and time of forward and backward, as a file.

    python benchmarks/streamed_loss.py --threads 1

Random unit vectors in float32, one direction of the loss, gradients by anchors, batch candidates and scale. Each peak
is measured in a process of its own, as the highest resident memory less what was resident before the call: inputs and
libraries do not count, gradients do. Times are taken in one process, the two losses in turn. Needs Linux, and for the
default sizes about 14 GB of memory. Writes benchmarks/results/streamed_loss.md.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from common import forget_peak, in_process, resident, table, write_results
from torch.nn.functional import normalize

from modeling_sacl.loss_sacl import (
    contrastive_logits,
    find_positives,
    log_regulation_weights,
    weighted_contrastive_loss,
)
from modeling_sacl.streamed_loss_sacl import DEFAULT_BLOCK_SIZE, streamed_contrastive_loss


IMPLEMENTATIONS = ("plain", "streamed")


def inputs(batch_size: int, queue_size: int, dim: int) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Anchors, candidates of the batch and scale, all with gradient; and a queue without."""
    generator = torch.Generator().manual_seed(0)
    anchors, candidates = (normalize(torch.randn(batch_size, dim, generator=generator), dim=-1) for _ in range(2))
    queue = torch.randn(queue_size, dim, generator=generator)
    queue /= queue.norm(dim=-1, keepdim=True)
    tensors = [anchors, candidates, torch.tensor(1 / 0.07)]
    return [tensor.requires_grad_() for tensor in tensors], queue


def plain(tensors: list[torch.Tensor], queue: torch.Tensor, strength: float, block_size: int) -> torch.Tensor:
    """As an objective computes it, with the whole matrix."""
    anchors, candidates, scale = tensors
    if len(queue):
        candidates = torch.cat([candidates, queue])
    positives = find_positives(torch.arange(len(anchors)), torch.arange(len(candidates)))
    logits = contrastive_logits(anchors, candidates, scale)
    log_weights = None
    if strength > 0:
        similarity = contrastive_logits(anchors.detach(), candidates.detach())
        log_weights = log_regulation_weights(similarity, strength=strength, negative_mask=~positives)
    return weighted_contrastive_loss(logits, positives, log_weights=log_weights)


def streamed(tensors: list[torch.Tensor], queue: torch.Tensor, strength: float, block_size: int) -> torch.Tensor:
    """The same, tile by tile."""
    anchors, candidates, scale = tensors
    return streamed_contrastive_loss(
        anchors,
        (candidates, queue) if len(queue) else candidates,
        scale,
        pair_ids=torch.arange(len(anchors)),
        candidate_pair_ids=torch.arange(len(candidates) + len(queue)),
        strength=strength,
        block_size=block_size,
    )


LOSSES: dict[str, Callable[..., torch.Tensor]] = {"plain": plain, "streamed": streamed}


def peak(implementation: str, setting: dict) -> dict:
    """The peak memory of one forward and backward, in this process."""
    tensors, queue = inputs(setting["batch_size"], setting["queue_size"], setting["dim"])
    options = setting["strength"], setting["block_size"]
    LOSSES[implementation](*inputs(64, 0, setting["dim"]), *options).backward()  # what libraries allocate once
    forget_peak()
    before = resident("VmRSS")
    LOSSES[implementation](tensors, queue, *options).backward()
    return {"peak": resident("VmHWM") - before}


def times(setting: dict) -> dict:
    """Seconds of forward and backward of each, in turn, and how far their results are apart."""
    tensors, queue = inputs(setting["batch_size"], setting["queue_size"], setting["dim"])
    seconds: dict[str, list[float]] = {name: [] for name in IMPLEMENTATIONS}
    results = {}
    for _ in range(setting["repeats"]):
        for name in IMPLEMENTATIONS:
            start = time.perf_counter()
            loss = LOSSES[name](tensors, queue, setting["strength"], setting["block_size"])
            gradients = torch.autograd.grad(loss, tensors)
            seconds[name].append(time.perf_counter() - start)
            results[name] = [loss.detach(), *gradients]
            del loss, gradients
    apart = [
        ((streamed - plain).abs().max() / plain.abs().max()).item()
        for plain, streamed in zip(results["plain"], results["streamed"], strict=True)
    ]
    return {"seconds": seconds, "apart": max(apart)}


def measure(setting: dict) -> list[str]:
    """The cells of a row."""
    given = json.dumps(setting)
    peaks = [in_process(__file__, "--peak_of", name, "--setting", given)["peak"] for name in IMPLEMENTATIONS]
    timed = in_process(__file__, "--setting", given)
    medians = [statistics.median(timed["seconds"][name]) for name in IMPLEMENTATIONS]
    paired = [new / old for old, new in zip(*(timed["seconds"][name] for name in IMPLEMENTATIONS), strict=True)]
    row = [
        f"{setting['batch_size']:,} x {setting['batch_size'] + setting['queue_size']:,}",
        f"{setting['strength']:g}",
        *(f"{value / 2**20:,.0f} MiB" for value in peaks),
        f"{100 * peaks[1] / peaks[0]:.1f} %",
        *(f"{value:.2f} s" for value in medians),
        f"{medians[1] / medians[0]:.2f} ({min(paired):.2f} to {max(paired):.2f})",
        f"{timed['apart']:.0e}",
    ]
    print(" | ".join(row), flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch_size", type=int, default=16_384, help="of the loss without a queue")
    parser.add_argument("--queue_size", type=int, default=1_048_576)
    parser.add_argument("--queue_batch_size", type=int, default=256, help="of the loss with the queue")
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--block_size", type=int, default=DEFAULT_BLOCK_SIZE)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--setting", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--peak_of", choices=IMPLEMENTATIONS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.setting:
        torch.set_num_threads(args.setting["threads"])
        print(json.dumps(peak(args.peak_of, args.setting) if args.peak_of else times(args.setting)))
        return

    shared = {name: getattr(args, name) for name in ("dim", "block_size", "repeats", "threads")}
    rows = [
        measure({"batch_size": batch_size, "queue_size": queue_size, "strength": strength, **shared})
        for batch_size, queue_size in ((args.batch_size, 0), (args.queue_batch_size, args.queue_size))
        for strength in (1.0, 0.0)
    ]
    head = ["anchors x candidates", "strength", "plain peak", "streamed peak", "ratio"]
    head += ["plain time", "streamed time", "ratio (of each pair)", "difference"]
    lines = [
        f"Forward and backward of one direction, float32, width {args.dim}, blocks of {args.block_size:,}. Peak: the "
        "highest resident memory less that before the call, in a process of its own; inputs and queue do not count, "
        f"gradients do. Time: the median of {args.repeats} runs, plain and streamed in turn. Difference: the largest "
        "of loss and gradients, relative to the largest number of each. Strength 0 is InfoNCE, for which the plain "
        "loss computes no weights either.",
        "",
        *table(head, rows, text_columns=2),
    ]
    write_results(__file__, "The streamed contrastive loss", lines, args.threads)


if __name__ == "__main__":
    main()
