# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""What patch selection saves: operations, time and peak memory against the same model with all patches, as a file.

    python benchmarks/patch_selection.py --quick                        # a tiny model, in a minute: does it work?
    python benchmarks/patch_selection.py --threads 2                    # the whole table, on an idle machine: hours
    python benchmarks/patch_selection.py --works step --sizes 256 --results patch_selection_256     # a part of it
    python benchmarks/patch_selection.py --counts_only                  # operations of all settings, in minutes

Three works, by a model of random weights in the shapes of ALBEF (the defaults of SaclConfig), in float32:

    tower    images through the image tower, without gradient: what embedding a collection costs;
    step     a training step of SaclForPreTraining: the teacher's embeddings and masked words without gradient, as the
             trainer asks for them, then forward and backward of contrast, matching and masked words, no optimiser;
    rerank   one image with many texts, both towers and fusion, without gradient.

A setting is layers, guide and keep rate. An image that guides has one row of tokens, whatever the texts. A text that
guides chooses tokens of its own, so that from the first selection on the image tower has a row for each text: three
for each pair that is matched, one for its masked words, and one for the contrast, which no text may touch. "step" and
"rerank" show what that costs; "tower" is the same for both guides.

Operations are counted, not measured: multiplications and additions of matrix products and convolutions, with eager
attention. Times are of all settings in turn, the unpruned one first in each round, after a round without a clock. Each
peak is measured in a process of its own, as the highest resident memory less what was resident before: weights, inputs
and libraries do not count, activations and gradients do. Needs Linux, and for the default sizes about 16 GB of memory.
Writes benchmarks/results/patch_selection.md, or what `--results` names.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from common import forget_peak, in_process, resident, table, write_results
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from transformers.initialization import no_init_weights

from modeling_sacl import SaclConfig, SaclForPreTraining, SaclVisionModel


UNPRUNED = {"layers": None, "guide": "image", "keep_rate": 1.0}
# As deep as the published model, so that the same layers can select.
TINY = {"hidden_size": 48, "num_attention_heads": 4, "intermediate_size": 96}
HEAD = ["pixels", "layers", "guide", "keep rate", "GFLOPs", "ratio", "time", "ratio (of each round)", "peak", "ratio"]


# ----------------------------------------------------------------------------------------------------------- works


def model_config(shape: dict) -> SaclConfig:
    """The published shapes, or tiny ones of the same depth."""
    text, vision = {"model_type": "bert", "num_hidden_layers": 6}, {"image_size": shape["size"]}
    if shape["quick"]:
        text, vision = {**text, **TINY, "vocab_size": 500}, {**vision, **TINY}
    return SaclConfig(text_config=text, vision_config=vision)


def random_inputs(config: SaclConfig, shape: dict, num_images: int, num_texts: int) -> dict[str, torch.Tensor]:
    """Images and texts, and of the texts a copy in which some words are masked."""
    size = config.vision_config.image_size
    words = torch.randint(5, config.text_config.vocab_size, (num_texts, shape["length"]))
    positions = torch.arange(1, 1 + shape["masked"]).expand(num_texts, -1)
    return {
        "input_ids": words,
        "pixel_values": torch.randn(num_images, 3, size, size),
        "mlm_input_ids": words.scatter(1, positions, 4),
        "mlm_positions": positions,
        "mlm_labels": words.gather(1, positions),
    }


# The models whose setting counts, and what does the work once.
Work = tuple[list[nn.Module], Callable[[], object]]


def tower(config: SaclConfig, shape: dict) -> Work:
    """Images through the image tower."""
    model = SaclVisionModel(config.vision_config).eval()
    images = random_inputs(config, shape, shape["batch_size"], num_texts=1)["pixel_values"]
    return [model], torch.no_grad()(lambda: model(images))


def step(config: SaclConfig, shape: dict) -> Work:
    """Teacher, forward, backward."""
    model, teacher = SaclForPreTraining(config).train(), SaclForPreTraining(config).eval().requires_grad_(False)
    inputs = random_inputs(config, shape, shape["batch_size"], shape["batch_size"])

    def run() -> None:
        model.zero_grad()
        targets = teacher(**inputs, with_itm=False)
        similarity = targets.image_embeds @ targets.text_embeds.T
        model(**inputs, hard_negative_similarity=similarity, return_loss=True).loss.backward()

    return [model, teacher], run


def rerank(config: SaclConfig, shape: dict) -> Work:
    """One image with many texts."""
    model = SaclForPreTraining(config).eval()
    inputs = random_inputs(config, shape, 1, shape["texts"])
    first_image = torch.zeros(shape["texts"], dtype=torch.long)

    def run() -> torch.Tensor:
        fused = model.sacl.get_fusion_features(inputs["input_ids"], inputs["pixel_values"], image_index=first_image)
        return model.itm_head(fused.last_hidden_state[:, 0])

    return [model], torch.no_grad()(run)


WORKS: dict[str, Callable[[SaclConfig, dict], Work]] = {"tower": tower, "step": step, "rerank": rerank}


def prepare(work: str, shape: dict, attention: str = "sdpa") -> tuple[Callable[[dict], None], Callable[[], object]]:
    """Builds the models of a work: a function that sets the selection, and one that does the work once."""
    config = model_config(shape)
    config._attn_implementation = attention
    torch.manual_seed(0)
    models, run = WORKS[work](config, shape)

    def choose(setting: dict) -> None:
        for model in models:
            model.set_patch_selection(**setting)

    return choose, run


# ---------------------------------------------------------------------------------------------------- measurements


def count_operations(work: str, shape: dict, settings: list[dict]) -> list[int]:
    """Of each setting, from shapes alone."""
    counts = []
    with FakeTensorMode(), no_init_weights():
        # The counter knows nothing of the products inside a fused kernel.
        choose, run = prepare(work, shape, attention="eager")
        for setting in settings:
            choose(setting)
            with FlopCounterMode(display=False) as counter:
                run()
            counts.append(counter.get_total_flops())
    return counts


def measure_times(work: str, shape: dict, settings: list[dict], repeats: int) -> list[list[float]]:
    """Seconds of each setting in each round."""
    choose, run = prepare(work, shape)
    seconds: list[list[float]] = [[] for _ in settings]
    for _ in range(1 + repeats):
        for setting, measured in zip(settings, seconds, strict=True):
            choose(setting)
            start = time.perf_counter()
            run()
            measured.append(time.perf_counter() - start)
    return [measured[1:] for measured in seconds]


def peak(work: str, shape: dict, setting: dict) -> dict:
    """The peak memory of the work in this process."""
    # First a tiny model, for what libraries allocate once.
    for measured in ({**shape, "quick": True, "size": 32}, shape):
        choose, run = prepare(work, measured)
        choose(setting)
        forget_peak()
        before = resident("VmRSS")
        run()
    return {"peak": resident("VmHWM") - before}


def peak_in_process(work: str, shape: dict, setting: dict) -> int:
    """The same, as a process of its own finds it."""
    asked = json.dumps({"work": work, "shape": shape, "setting": setting})
    return in_process(__file__, "--peak_of", asked, "--threads", f"{torch.get_num_threads()}")["peak"]


def measure(work: str, shape: dict, settings: list[dict], args: argparse.Namespace) -> list[list[str]]:
    """A row of cells for each setting; the first one is what the others are compared with."""
    operations = count_operations(work, shape, settings)
    if not args.counts_only:
        seconds = measure_times(work, shape, settings, args.repeats)
        peaks = [peak_in_process(work, shape, setting) for setting in settings]
    rows = []
    for number, setting in enumerate(settings):
        row = [
            f"{shape['size']}",
            ", ".join(map(str, setting["layers"] or ["none"])),
            setting["guide"] if number else "",
            f"{setting['keep_rate']:g}",
            f"{operations[number] / 1e9:,.1f}",
            f"{operations[number] / operations[0]:.3f}",
        ]
        if not args.counts_only:
            ratios = [new / old for new, old in zip(seconds[number], seconds[0], strict=True)]
            row += [
                f"{1000 * statistics.median(seconds[number]):,.0f} ms",
                f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
                f"{peaks[number] / 2**20:,.0f} MiB",
                f"{peaks[number] / peaks[0]:.2f}",
            ]
        print(work, " | ".join(row), flush=True)
        rows.append(row)
    return rows


# ------------------------------------------------------------------------------------------------------------ file


def settings_of(work: str, args: argparse.Namespace) -> list[dict]:
    """The unpruned setting, then all that differ from it and from one another in this work."""
    guides = ["image"] if work == "tower" else args.guides
    return [UNPRUNED] + [
        {"layers": layers, "guide": guide, "keep_rate": rate}
        for layers in args.layers
        for guide in guides
        for rate in args.keep_rates
    ]


def parse_arguments() -> argparse.Namespace:
    def numbers(text: str) -> list[int]:
        return [int(number) for number in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--works", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--sizes", nargs="+", type=int, default=[224, 256, 384], help="pixels of the images")
    parser.add_argument(
        "--layers", nargs="+", type=numbers, default=[[5, 10], [3, 6, 9]], help="that select: 5,10 3,6,9"
    )
    parser.add_argument("--guides", nargs="+", choices=("image", "text"), default=["image", "text"])
    parser.add_argument("--keep_rates", nargs="+", type=float, default=[0.9, 0.7, 0.5, 0.3], help="to compare with 1")
    parser.add_argument("--counts_only", action="store_true", help="neither time nor peak; a file of its own")
    parser.add_argument("--batch_size", type=int, default=8, help="images of the tower, pairs of the step")
    parser.add_argument("--texts", type=int, default=32, help="that are re-ranked for one image")
    parser.add_argument("--length", type=int, default=30, help="tokens of a text")
    parser.add_argument("--masked", type=int, default=4, help="masked tokens of a text")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of the clock")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--results", help="name of the file, so that a part does not take the place of the whole")
    parser.add_argument("--quick", action="store_true", help="a tiny model, one size, one keep rate, two rounds")
    parser.add_argument("--peak_of", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.quick:
        args.sizes, args.keep_rates, args.repeats, args.texts = [64], [0.7], 2, 4
    return args


def main() -> None:
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    if args.peak_of:
        print(json.dumps(peak(**args.peak_of)))
        return
    titles = {
        "tower": f"Image tower, {args.batch_size} images",
        "step": f"Training step, {args.batch_size} pairs, {args.length} tokens, {args.masked} masked",
        "rerank": f"Re-ranking, one image with {args.texts} texts of {args.length} tokens",
    }
    head = HEAD[:6] if args.counts_only else HEAD
    clock = ""
    if not args.counts_only:
        clock = (
            f"Time: the median of {args.repeats} rounds, all settings in turn. Peak: the highest resident memory less "
            "that before the work, in a process of its own; weights and inputs do not count, activations and "
            "gradients do. "
        )
    lines = [
        f"Random weights, {'a tiny model' if args.quick else 'shapes of ALBEF'}, float32. Guide: who ranks the "
        "patches; a text that guides has image tokens of its own. GFLOPs: counted, multiplications and additions. "
        f"{clock}"
        "Ratios are to the same model with all patches. `--help` says what each work is.",
    ]
    for work in args.works:
        rows = []
        for size in args.sizes:
            shape = {name: getattr(args, name) for name in ("batch_size", "texts", "length", "masked", "quick")}
            rows += measure(work, {**shape, "size": size}, settings_of(work, args), args)
        lines += ["", f"## {titles[work]}", "", *table(head, rows, text_columns=3)]
    # Counts of all settings stand beside times of some.
    name = args.results or ("patch_selection_operations" if args.counts_only else "patch_selection")
    write_results(f"{name}.py", "Patch selection", lines, args.threads)


if __name__ == "__main__":
    main()
