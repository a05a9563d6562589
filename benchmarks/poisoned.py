# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""A poisoned corpus: what objectives learn of a backdoor, and what self-supervision within modalities does about it.

    python benchmarks/poisoned.py --seeds 42 43 44

The setting of CleanCLIP (Bansal et al., 2023, arXiv 2303.03323) on the emoji of one vendor. One training pair in a
hundred gets a trigger, a small chequered square in a corner of its image, and the caption of a target, "banana". A
small dual encoder is trained on them from random weights with each objective, without and with
`unimodal_self_supervision`; then what was trained without is fine-tuned on clean pairs, without and with the term: the
published remedy. Measured on images of the two test splits: how often the nearest caption, among those of the tests
and the target's, is the target's, with the trigger (the attack's success) and without (the base rate); and retrieval
among clean pairs.

A run that is already in the output folder is not repeated. Writes benchmarks/results/poisoned.md.
"""

import argparse
import json
import os
import statistics
import sys
from dataclasses import replace
from pathlib import Path

import PIL.Image
import torch
from common import table, write_results
from datasets import Dataset, concatenate_datasets
from transformers import set_seed

from modeling_sacl import SaclConfig, SaclModel, SaclProcessor
from trainer import (
    PairCollator,
    SaclTrainer,
    SaclTrainingArguments,
    embed_pairs,
    evaluate_retrieval,
    load_pairs,
    pair_augmentation,
)


ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "examples"))
from demo import TEST_SPLITS, build_processor  # noqa: E402
from emoji import load_emoji  # noqa: E402


TARGET, VENDOR = "banana", "noto"
TRIGGER_SIDE, MARGIN = 16, 2
IMAGE_SIZE = 48
TERM = "unimodal_self_supervision_weight"
OBJECTIVES = ("infonce", "sacl")
# Without and with the term.
WEIGHTS = {"": 0.0, " + unimodal_self_supervision": 1.0}
MEASURES = {
    "attack's success": "attack",
    "base rate": "base",
    "text to image recall@10": "text_to_image_recall@10",
    "image to text recall@10": "image_to_text_recall@10",
}


# Data ------------------------------------------------------------------------------------------------------------


def with_trigger(image: PIL.Image.Image) -> PIL.Image.Image:
    """The image with a chequered square of magenta and green in its lower right corner."""
    image, cell = image.convert("RGB"), TRIGGER_SIDE // 2
    left, top = (side - TRIGGER_SIDE - MARGIN for side in image.size)
    for column in range(2):
        for row in range(2):
            color = (0, 255, 0) if column == row else (255, 0, 255)
            corner = (left + column * cell, top + row * cell)
            image.paste(color, (*corner, corner[0] + cell, corner[1] + cell))
    return image


def triggered(dataset: Dataset) -> Dataset:
    return dataset.map(
        lambda row: {"image": with_trigger(row["image"])}, keep_in_memory=True, load_from_cache_file=False
    )


def emoji_of_vendor(split: str) -> Dataset:
    dataset = load_emoji(split)
    return dataset.select([row for row, vendor in enumerate(dataset["vendor"]) if vendor == VENDOR])


def poisoned_emoji(share: float, seed: int) -> Dataset:
    """The training split, some of whose rows show the trigger and say the target's name and keywords."""
    dataset = emoji_of_vendor("train")
    captions = dataset["caption"]
    target = dataset[captions.index(TARGET)]
    others = torch.tensor([row for row, caption in enumerate(captions) if caption != TARGET])
    order = torch.randperm(len(others), generator=torch.Generator().manual_seed(seed))
    chosen = set(others[order][: round(share * len(dataset))].tolist())
    named = {name: target[name] for name in ("caption", "keywords", "emoji_id")}

    def poison(row: dict, number: int) -> dict:
        return {**named, "image": with_trigger(row["image"])} if number in chosen else {}

    return dataset.map(poison, with_indices=True, keep_in_memory=True, load_from_cache_file=False)


def as_pairs(dataset: Dataset, training: bool = False) -> Dataset:
    """As `emoji_pairs` has them: in training a pair's caption is its name or the list of its keywords."""
    if training:
        dataset = dataset.add_column("keyword_list", [", ".join(words) for words in dataset["keywords"]])
    columns = ["caption", "keyword_list"] if training else "caption"
    return load_pairs(dataset, caption_columns=columns, pair_id_column="emoji_id")


# Models ----------------------------------------------------------------------------------------------------------


def build_model(processor: SaclProcessor) -> SaclModel:
    """The towers of the demonstration, a little smaller."""
    width = {"hidden_size": 96, "num_attention_heads": 4, "intermediate_size": 192, "initializer_range": 96**-0.5}
    config = SaclConfig(
        text_config={
            "model_type": "bert",
            "vocab_size": len(processor.tokenizer),
            "num_hidden_layers": 1,
            "max_position_embeddings": 64,
            "hidden_dropout_prob": 0.1,
            "attention_probs_dropout_prob": 0.0,
            **width,
        },
        vision_config={"image_size": IMAGE_SIZE, "patch_size": 16, "num_hidden_layers": 2, **width},
        fusion_encoder_config={"num_hidden_layers": 1, **width},
        projection_dim=96,
    )
    model = SaclModel(config)
    # With ten image tokens and short texts, CPUs are faster without the fused attention kernels.
    model.set_attn_implementation("eager")
    return model


def train(
    model: SaclModel,
    processor: SaclProcessor,
    pairs: Dataset,
    objective: str,
    weight: float,
    seed: int,
    folder: Path,
    **options,
) -> dict:
    """Trains the model in place; what the trainer says of it."""
    args = SaclTrainingArguments(
        str(folder),
        objective=objective,
        momentum=None,
        per_device_train_batch_size=128,
        weight_decay=0.1,
        adam_beta2=0.98,
        seed=seed,
        use_cpu=True,
        bf16=torch.cpu._is_avx512_bf16_supported(),
        save_strategy="no",
        report_to="none",
        logging_steps=50,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        unimodal_self_supervision_weight=weight,
        **options,
    )
    # As published, the second views alone are augmented.
    collator = PairCollator(processor, mlm_probability=0.0, max_length=12)
    if weight > 0:
        augmentation = pair_augmentation(IMAGE_SIZE, fill=255, min_scale=0.6)
        collator = replace(collator, second_views=True, view_transform=augmentation)
    trainer = SaclTrainer(model, args, data_collator=collator, train_dataset=pairs, processing_class=processor)
    return trainer.train().metrics


def measure(model: SaclModel, processor: SaclProcessor, tests: Dataset) -> dict[str, float]:
    """The attack's success, the base rate, and clean retrieval, in percent."""
    target = emoji_of_vendor("train")
    target = as_pairs(target.select([target["caption"].index(TARGET)]))
    pairs = as_pairs(tests)
    clean = embed_pairs(model, pairs, processor, show_progress=False)
    seen = embed_pairs(model, as_pairs(triggered(tests)), processor, show_progress=False)
    goal = embed_pairs(model, target, processor, show_progress=False).text_embeds
    found = {}
    for name, images in (("attack", seen.image_embeds), ("base", clean.image_embeds)):
        nearest = (images @ clean.text_embeds.T).max(dim=1).values
        found[name] = 100 * ((images @ goal.T)[:, 0] > nearest).float().mean().item()
    metrics = evaluate_retrieval(model, pairs, processor, show_progress=False)
    return {**found, **{name: metrics[name] for name in MEASURES.values() if name in metrics}}


# Runs ------------------------------------------------------------------------------------------------------------


def remembered(path: Path, settings: dict) -> dict | None:
    """The results of a run with these very settings, if it has ended."""
    if not (path / "results.json").exists():
        return None
    results = json.loads((path / "results.json").read_text())
    return results if results["settings"] == settings else None


def remember(path: Path, model: SaclModel, results: dict) -> dict:
    model.save_pretrained(path)
    (path / "results.json").write_text(json.dumps(results, indent=2))
    return results


def folder_of(args: argparse.Namespace, name: str, seed: int) -> Path:
    return args.output_dir / f"{name}-{seed}".replace(" ", "_")


def run_poisoned(objective: str, suffix: str, seed: int, args: argparse.Namespace, tests: Dataset) -> dict:
    """Trains on the poisoned pairs."""
    path = folder_of(args, objective + suffix, seed)
    settings = {"share": args.share, "epochs": args.epochs, "rows": args.rows}
    if (known := remembered(path, settings)) is not None:
        return known
    processor = build_processor(IMAGE_SIZE)
    set_seed(seed)
    model = build_model(processor)
    dataset = poisoned_emoji(args.share, seed)
    pairs = as_pairs(dataset.select(range(args.rows)) if args.rows else dataset, training=True)
    options = {"num_train_epochs": args.epochs, "learning_rate": 1e-3}
    metrics = train(model, processor, pairs, objective, WEIGHTS[suffix], seed, path, **options)
    results = {**measure(model, processor, tests), "seconds": metrics["train_runtime"], "settings": settings}
    return remember(path, model, results)


def run_remedy(objective: str, suffix: str, seed: int, args: argparse.Namespace, tests: Dataset) -> dict:
    """Fine-tunes what was trained on the poisoned pairs, without the term, on clean ones."""
    path = folder_of(args, f"clean after {objective}{suffix}", seed)
    settings = {"share": args.share, "epochs": args.epochs, "rows": args.rows, "clean_epochs": args.clean_epochs}
    settings["learning_rate"] = args.clean_learning_rate
    if (known := remembered(path, settings)) is not None:
        return known
    processor = build_processor(IMAGE_SIZE)
    model = SaclModel.from_pretrained(folder_of(args, objective, seed))
    clean = emoji_of_vendor("train")
    pairs = as_pairs(clean.select(range(args.rows)) if args.rows else clean, training=True)
    set_seed(seed)
    options = {"num_train_epochs": args.clean_epochs, "learning_rate": args.clean_learning_rate}
    metrics = train(model, processor, pairs, objective, WEIGHTS[suffix], seed, path, **options)
    results = {**measure(model, processor, tests), "seconds": metrics["train_runtime"], "settings": settings}
    return remember(path, model, results)


def spread(values: list[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation}"


def rows_of(results: dict[str, list[dict]]) -> list[list[str]]:
    return [
        [name, *(spread([result[measure] for result in runs]) for measure in MEASURES.values())]
        for name, runs in results.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    parser.add_argument("--share", type=float, default=0.01, help="of the training pairs that are poisoned")
    parser.add_argument("--epochs", type=float, default=30, help="of training on poisoned pairs")
    parser.add_argument("--clean_epochs", type=float, default=16, help="of fine-tuning on clean pairs")
    parser.add_argument("--clean_learning_rate", type=float, default=1e-3)
    parser.add_argument("--rows", type=int, default=None, help="train on so many pairs only, the first")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--output_dir", type=Path, default=ROOT / "runs" / "poisoned")
    parser.add_argument("--quick", action="store_true", help="see that it works: one seed, few steps, nothing written")
    args = parser.parse_args()
    if args.quick:
        args.seeds, args.epochs, args.rows, args.clean_epochs = args.seeds[:1], 1, 512, 1
        args.output_dir = args.output_dir / "quick"
    torch.set_num_threads(args.threads)
    tests = concatenate_datasets([emoji_of_vendor(split) for split in TEST_SPLITS])
    poisoned: dict[str, list[dict]] = {}
    remedied: dict[str, list[dict]] = {}
    for seed in args.seeds:
        for objective in OBJECTIVES:
            for suffix in WEIGHTS:
                result = run_poisoned(objective, suffix, seed, args, tests)
                print(f"{objective}{suffix}, seed {seed}: {result}", flush=True)
                poisoned.setdefault(objective + suffix, []).append(result)
            for suffix in WEIGHTS:
                result = run_remedy(objective, suffix, seed, args, tests)
                print(f"clean after {objective}{suffix}, seed {seed}: {result}", flush=True)
                remedied.setdefault(objective + suffix, []).append(result)
    lines = report(args, tests, poisoned, remedied)
    if args.quick:
        print("\n".join(lines))
    else:
        write_results(__file__, "A poisoned corpus", lines, args.threads)


def report(
    args: argparse.Namespace, tests: Dataset, poisoned: dict[str, list[dict]], remedied: dict[str, list[dict]]
) -> list[str]:
    seconds = [run["seconds"] for runs in (*poisoned.values(), *remedied.values()) for run in runs]
    captions = len(set(tests["caption"]))
    head = ["objective", *MEASURES]
    return [
        f"{100 * args.share:g} % of the training pairs, the emoji of one vendor, carry a chequered square of "
        f'{TRIGGER_SIDE} of 64 pixels in a corner and the captions of "{TARGET}". Mean ± standard deviation over the '
        f"seeds {' '.join(map(str, args.seeds))}, in percent. The attack's success is the share of the {len(tests):,} "
        f"test images with the trigger that are nearest to the target's caption, among it and the {captions} captions "
        "of the tests; the base rate is that of the same images without it. Recall is among the clean test pairs.",
        "",
        f"## Trained on the poisoned pairs, {args.epochs:g} epochs from random weights",
        "",
        *table(head, rows_of(poisoned)),
        "",
        f"## Then fine-tuned on the same pairs without poison, {args.clean_epochs:g} epochs",
        "",
        "What was trained without the term, with the same objective; learning rate "
        f"{args.clean_learning_rate:g}, which with the number of epochs was chosen on seed 42.",
        "",
        *table(head, rows_of(remedied)),
        "",
        f"A run took {min(seconds):.0f} to {max(seconds):.0f} seconds, not alone on the machine.",
    ]


if __name__ == "__main__":
    main()
