# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""One optimisation step at ALBEF's shapes: time, FLOPs and peak memory, with each switch of the trainer on and off.

    python benchmarks/train_step.py --threads 2

ViT-B/16 at 256 px, texts of 30 tokens of which 4 are masked, 6 + 6 text layers, embeddings of 256 dimensions, a queue
of 65,536 pairs, momentum teacher and AdamW, in float32; random weights and inputs, since what is measured does not
depend on them. A step is forward, teacher's forward, backward, optimiser, teacher's update and queue.

"as published" computes what ALBEF's code computes, with the modules of this library: the fusion encoder is called for
the pairs, for the negatives and for the masked texts, keys and values of an image are projected in each of these
calls, the last layer is computed for all tokens, and the masked-language heads of model and teacher are too. The other
rows are steps of `SaclTrainer`, with one switch changed.

Each measurement is a process of its own. Times come in rounds over all rows, so that the machine's bad minutes hit all
alike: the median over rounds, and its ratio to the first row with the smallest and largest of a round. FLOPs count
forward, teacher, backward and what checkpointing and gradient caching compute twice. Peak: the highest resident memory
of a step less that before the model was made, so without libraries; models, optimiser and queue count. For it alone,
freed memory is given back at once (MALLOC_MMAP_THRESHOLD_), since what the allocator keeps for later is not in use.
Writes benchmarks/results/train_step.md. Needs Linux and 12 GB of memory.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable

import torch
from common import forget_peak, in_process, resident, table, write_results
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from modeling_sacl import SaclConfig, SaclForPreTraining
from trainer import SaclTrainer, SaclTrainingArguments


LENGTH, MASKED, QUEUE = 30, 4, 65_536

# Options of `SaclTrainingArguments`, by the name of the row. The published step has the first ones.
SETTINGS: dict[str, dict] = {
    "as published": {"objective": "albef"},
    "ours": {"objective": "albef"},
    "ours, SACL's weights": {"objective": "sacl"},
    "ours, loss in blocks": {"objective": "sacl", "loss_block_size": 1024},
    "ours, activation checkpointing": {"objective": "albef", "activation_checkpointing": True},
    "ours, gradient caching by 2": {"objective": "albef", "contrastive_chunk_size": 2},
    "ours, teacher in bfloat16": {"objective": "albef", "teacher_bf16": True},
    "ours, all in bfloat16": {"objective": "albef", "bf16": True},
    "ours, without teacher": {"objective": "sacl", "momentum": None},
}


def make_batch(batch_size: int, vocab_size: int) -> dict[str, torch.Tensor]:
    """A batch as the collator makes it."""
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(1000, vocab_size, (batch_size, LENGTH), generator=generator)
    positions = torch.rand(batch_size, LENGTH, generator=generator).argsort(dim=1)[:, :MASKED]
    return {
        "pixel_values": torch.randn(batch_size, 3, 256, 256, generator=generator),
        "input_ids": input_ids,
        "attention_mask": torch.ones(batch_size, LENGTH, dtype=torch.int64),
        "pair_ids": torch.arange(batch_size),
        "mlm_input_ids": input_ids.scatter(1, positions, 103),
        "mlm_positions": positions,
        "mlm_labels": input_ids.gather(1, positions),
    }


class PublishedTrainer(SaclTrainer):
    """The step of ALBEF's published code, `ALBEF.forward` in `models/model_pretrain.py`."""

    def _ask_teacher(self, inputs):
        model = self.teacher.model
        with torch.no_grad():
            images, _, image_embeds, text_embeds = unimodal(model, inputs)
            return {
                "image_embeds": image_embeds,
                "text_embeds": text_embeds,
                "mlm_logits": masked_words(model, images, inputs),
            }

    def _ask_model(self, model, inputs, teacher_outputs):
        images, texts, image_embeds, text_embeds = unimodal(model, inputs)
        batch_size, mask = len(images), inputs["attention_mask"]
        fuse = model.sacl.fusion_model
        pairs = fuse(texts, images, attention_mask=mask).last_hidden_state[:, 0]
        others = torch.arange(batch_size).roll(1)  # which negatives costs nothing to say
        negatives = fuse(
            torch.cat([texts, texts[others]]),
            torch.cat([images[others], images]),
            attention_mask=torch.cat([mask, mask]),
        ).last_hidden_state[:, 0]
        itm_labels = torch.tensor([1] * batch_size + [0] * 2 * batch_size)
        mlm_logits = masked_words(model, images, inputs)
        labels = torch.full_like(inputs["input_ids"], -100)
        inputs["mlm_labels"] = labels.scatter(1, inputs["mlm_positions"], inputs["mlm_labels"][:, :MASKED])
        return {
            "image_embeds": image_embeds,
            "text_embeds": text_embeds,
            "logit_scale": model.sacl.logit_scale.exp(),
            "itm_loss": nn.functional.cross_entropy(model.itm_head(torch.cat([pairs, negatives])), itm_labels),
            "mlm_logits": mlm_logits,
            "mlm_loss": nn.functional.cross_entropy(mlm_logits.flatten(0, 1), inputs["mlm_labels"].flatten()),
        }


def unimodal(model: SaclForPreTraining, inputs: dict) -> tuple[torch.Tensor, ...]:
    """Tokens of images and texts, and their normalised embeddings."""
    images = model.sacl.get_image_features(inputs["pixel_values"])
    texts = model.sacl.get_text_features(inputs["input_ids"], attention_mask=inputs["attention_mask"])
    embeds = (nn.functional.normalize(outputs.pooler_output, dim=-1) for outputs in (images, texts))
    return images.last_hidden_state, texts.last_hidden_state, *embeds


def masked_words(model: SaclForPreTraining, images: torch.Tensor, inputs: dict) -> torch.Tensor:
    """Scores of the vocabulary at all tokens, masked or not."""
    texts = model.sacl.get_text_features(inputs["mlm_input_ids"], attention_mask=inputs["attention_mask"])
    fused = model.sacl.fusion_model(texts.last_hidden_state, images, attention_mask=inputs["attention_mask"])
    return model.mlm_head(fused.last_hidden_state)


def make_trainer(name: str, folder: str, config: SaclConfig) -> SaclTrainer:
    """A trainer in the midst of training: schedules at their end, the queue full."""
    torch.manual_seed(0)
    arguments = {"queue_size": QUEUE, "regulation_warmup": 0, "distillation_warmup": 0, **SETTINGS[name]}
    trainer_class = PublishedTrainer if name == "as published" else SaclTrainer
    trainer = trainer_class(
        SaclForPreTraining(config),
        SaclTrainingArguments(folder, use_cpu=True, report_to="none", **arguments),
        data_collator=lambda rows: rows,
    )
    if trainer.queue is not None:
        embeds = nn.functional.normalize(torch.randn(2, QUEUE, trainer.model.config.projection_dim), dim=-1)
        trainer.queue.enqueue(*embeds, torch.arange(10**6, 10**6 + QUEUE))
    if trainer.args.activation_checkpointing:
        trainer.model.activation_checkpointing_enable()
    trainer.current_gradient_accumulation_steps = 1
    trainer.model, trainer.optimizer = trainer.accelerator.prepare(trainer.model, trainer.create_optimizer())
    return trainer


def step_of(trainer: SaclTrainer, batch: dict[str, torch.Tensor]) -> Callable[[], None]:
    def step() -> None:
        trainer.training_step(trainer.model, dict(batch))
        trainer.optimizer.step()
        trainer.after_optimizer_step()
        trainer.model.zero_grad()

    return step


def measure(name: str, batch_size: int, steps: int) -> dict:
    """Seconds of a step, its FLOPs for each pair, and the peak of its memory."""
    size = {"hidden_size": 24, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 24}
    tiny = SaclConfig(text_config={**size, "num_hidden_layers": 1}, vision_config=size)
    with tempfile.TemporaryDirectory() as folder:
        small = make_trainer(name, folder, tiny)
        step_of(small, make_batch(2, tiny.text_config.vocab_size))()  # what libraries allocate once
        del small
        before = resident("VmRSS")
        trainer = make_trainer(name, folder, SaclConfig())
        step = step_of(trainer, make_batch(batch_size, trainer.model.config.text_config.vocab_size))
        with FlopCounterMode(display=False) as counter:
            step()  # not timed: the optimiser makes its state in the first
        forget_peak()
        seconds = []
        for _ in range(steps):
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
        peak = resident("VmHWM") - before
    flops = counter.get_total_flops() / batch_size
    return {"seconds": statistics.median(seconds), "peak": peak, "flops": flops}


def measure_peak(name: str, command: list[str]) -> int:
    """The peak with an allocator that gives back what is free."""
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(2**20)
    try:
        return in_process(__file__, "--only", name, *command)["peak"]
    finally:
        del os.environ["MALLOC_MMAP_THRESHOLD_"]


def row(name: str, rounds: list[dict[str, dict]], peaks: dict[str, int]) -> list[str]:
    """The cells of a row: medians over the rounds, and ratios to the first row."""
    first = next(iter(peaks))
    seconds = [measured[name]["seconds"] for measured in rounds]
    ratios = [measured[name]["seconds"] / measured[first]["seconds"] for measured in rounds]
    flops = [rounds[0][of]["flops"] for of in (name, first)]
    return [
        name,
        f"{flops[0] / 1e9:.1f}",
        f"{flops[0] / flops[1]:.2f}",
        f"{statistics.median(seconds):.1f}",
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
        f"{peaks[name] / 1e9:.2f}",
        f"{peaks[name] / peaks[first]:.2f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=1, help="timed in each process, after one that is not")
    parser.add_argument("--rounds", type=int, default=3, help="processes for each row")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rows", nargs="+", choices=SETTINGS, default=list(SETTINGS), metavar="ROW")
    parser.add_argument("--only", choices=SETTINGS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.only:
        print(json.dumps(measure(args.only, args.batch_size, args.steps)))
        return

    shared = [f"--{name}={getattr(args, name)}" for name in ("batch_size", "steps", "threads")]
    rounds: list[dict[str, dict]] = []
    for number in range(args.rounds):
        rounds.append({})
        for name in args.rows:
            rounds[-1][name] = in_process(__file__, "--only", name, *shared)
            print(f"round {number + 1}, {name}: {rounds[-1][name]}", flush=True)
    peaks = {name: measure_peak(name, shared) for name in args.rows}
    head = ["step", "GFLOP / pair", "ratio", "seconds", "ratio", "peak GB", "ratio"]
    lines = [
        f"ALBEF's shapes, batches of {args.batch_size}, float32 where not said otherwise; medians of {args.rounds} "
        f"processes with {args.steps} timed step{'s' * (args.steps > 1)} each. The docstring of the script says what "
        "is in a row.",
        "",
        *table(head, [row(name, rounds, peaks) for name in args.rows]),
    ]
    write_results(__file__, "One step of training", lines, args.threads)


if __name__ == "__main__":
    main()
