# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""What the processes of data-parallel training tell each other in one step: counted, and as a formula.

    python benchmarks/communication.py

Trains a small dual encoder with momentum teacher and queue on 2 and on 4 processes (gloo, CPU) and counts what is
handed to each collective: by the gathers of this library, and by DistributedDataParallel. Beside it stands what the
formula says, which is then evaluated for the shapes of the paper's model on up to 512 processes. Writes
benchmarks/results/communication.md.

With `b` pairs per process, `N` processes, embeddings of `d` float32 numbers and `P` trained parameters, a process
receives in a step, if collectives run in rings,

    features     (N - 1) * b * 2 * 4 d       of the model, and as much again of the teacher, of images and of texts
    pair ids     (N - 1) * b * 8             with the model's features, and again with the teacher's
    gradients    2 (N - 1) / N * N b * 2 * 4 d   of the model's features, summed over processes
    weights      2 (N - 1) / N * 4 P         the gradient of every parameter, whatever the loss

and the queue nothing: it is filled with what has been gathered.
"""

import argparse
import json
import os
import socket
import tempfile
from collections import Counter
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from common import table, write_results
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.utils.data import Dataset
from transformers import TrainerCallback

from modeling_sacl import SaclConfig, SaclModel
from trainer import SaclTrainer, SaclTrainingArguments


STEPS = 4
KINDS = ("features", "pair ids", "gradients of features", "gradients of weights")
# The paper's model: parameters that a step trains, and the width of its embeddings.
PAPER_PARAMETERS, PAPER_DIM = 210_000_000, 256


class RandomPairs(Dataset):
    """Pairs in the form that the collator gives, so that nothing but the step is measured."""

    column_names = ("pixel_values", "input_ids", "pair_id")

    def __len__(self) -> int:
        return 4096

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(number)
        return {
            "pixel_values": torch.randn(3, 32, 32, generator=generator),
            "input_ids": torch.randint(5, 99, (8,), generator=generator),
            "pair_ids": torch.tensor(number),
        }


def collate(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


class CountWeights(TrainerCallback):
    """Counts what DistributedDataParallel sends, which it does behind Python's back."""

    def __init__(self, counts: Counter):
        self.counts = counts

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.trainer.model_wrapped.register_comm_hook(None, self.hook)

    def hook(self, state, bucket):
        self.counts["gradients of weights"] += bucket.buffer().nbytes
        return allreduce_hook(None, bucket)


def count_collectives(counts: Counter) -> None:
    """Counts what this library hands to collectives, by what it is."""
    all_gather, all_reduce = dist.all_gather, dist.all_reduce

    def counted_gather(parts, tensor, *args, **kwargs):
        # Single numbers, of metrics and of batch sizes, are not worth a line.
        if tensor.numel() > 1:
            counts["features" if tensor.dim() == 2 else "pair ids"] += tensor.nbytes
        return all_gather(parts, tensor, *args, **kwargs)

    def counted_reduce(tensor, *args, **kwargs):
        # The hook below comes by here too, with its flat buckets.
        if tensor.dim() == 2:
            counts["gradients of features"] += tensor.nbytes
        return all_reduce(tensor, *args, **kwargs)

    dist.all_gather, dist.all_reduce = counted_gather, counted_reduce


def work(rank: int, world: int, port: int, batch_size: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=world)
    counts: Counter = Counter()
    size = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    config = SaclConfig(
        text_config={**size, "vocab_size": 99},
        vision_config={**size, "image_size": 32, "patch_size": 8},
        fusion_encoder_config={"num_hidden_layers": 1},
    )
    watch = CountWeights(counts)
    model = SaclModel(config)
    model.fusion_model.requires_grad_(False)
    trainer = SaclTrainer(
        model,
        SaclTrainingArguments(
            folder,
            use_cpu=True,
            ddp_backend="gloo",
            max_steps=STEPS,
            per_device_train_batch_size=batch_size,
            queue_size=1024,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            logging_strategy="no",
        ),
        data_collator=collate,
        callbacks=[watch],
    )
    watch.trainer = trainer
    trainer.train_dataset = RandomPairs()
    trainer.get_train_dataloader = lambda: trainer.accelerator.prepare(
        torch.utils.data.DataLoader(RandomPairs(), batch_size=batch_size, collate_fn=collate)
    )
    count_collectives(counts)
    trainer.train()
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    if rank == 0:
        result = {"counts": {name: value / STEPS for name, value in counts.items()}, "parameters": trained}
        Path(folder, "counts.json").write_text(json.dumps(result))
    dist.destroy_process_group()


def handed_over(batch_size: int, world: int, dim: int, parameters: int) -> dict[str, float]:
    """What one process hands to the collectives in a step, in bytes."""
    return {
        "features": 2 * batch_size * 2 * 4 * dim,
        "pair ids": 2 * batch_size * 8,
        "gradients of features": world * batch_size * 2 * 4 * dim,
        "gradients of weights": 4 * parameters,
    }


def received(batch_size: int, world: int, dim: int, parameters: int) -> dict[str, float]:
    """What one process receives for it, if collectives run in rings, in bytes."""
    given = handed_over(batch_size, world, dim, parameters)
    ring = {"features": world - 1, "pair ids": world - 1}
    return {kind: ring.get(kind, 2 * (world - 1) / world) * value for kind, value in given.items()}


def measure(world: int, batch_size: int) -> dict:
    with tempfile.TemporaryDirectory() as folder, socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        server.close()
        mp.spawn(work, args=(world, port, batch_size, folder), nprocs=world)
        return json.loads(Path(folder, "counts.json").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, nargs="+", default=[2, 4], help="numbers of processes to count on")
    parser.add_argument("--batch_size", type=int, default=16, help="pairs per process, in what is counted")
    parser.add_argument("--paper_batch_size", type=int, default=64, help="pairs per process, in what is extrapolated")
    args = parser.parse_args()
    rows = []
    for world in args.worlds:
        found = measure(world, args.batch_size)
        expected = handed_over(args.batch_size, world, 256, found["parameters"])
        for kind in KINDS:
            rows.append([f"{world}", kind, f"{found['counts'].get(kind, 0):,.0f}", f"{expected[kind]:,.0f}"])
    scaled = []
    for world in (2, 4, 8, 64, 512):
        cost = received(args.paper_batch_size, world, PAPER_DIM, PAPER_PARAMETERS)
        contrast = sum(cost.values()) - cost["gradients of weights"]
        scaled.append(
            [
                f"{world}",
                f"{world * args.paper_batch_size:,}",
                *(f"{cost[kind] / 1e6:,.2f}" for kind in KINDS),
                f"{100 * contrast / sum(cost.values()):.1f} %",
            ]
        )
    lines = [
        f"Counted: bytes that a process hands to collectives in one step, the mean of {STEPS} steps with "
        f"{args.batch_size} pairs per process, momentum teacher and queue; beside it the formula.",
        "",
        *table(["processes", "what", "counted", "formula"], rows, text_columns=2),
        "",
        "Extrapolated by the formulas in the docstring of the script, not measured: MB (1e6 bytes) that a process "
        f"receives in one step of the paper's model ({PAPER_PARAMETERS / 1e6:.0f}M trained parameters, embeddings of "
        f"{PAPER_DIM}), {args.paper_batch_size} pairs per process, float32, collectives in rings. The last column is "
        "the share of everything that is not the gradient of the weights, which any data-parallel training pays.",
        "",
        *table(["processes", "global batch", *KINDS, "share of contrast"], scaled),
    ]
    write_results(__file__, "Communication of one step", lines, threads=1)


if __name__ == "__main__":
    main()
