# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Fine-tunes SACL to tell whether an image entails a sentence, contradicts it or leaves it open, as in SNLI-VE.

    python examples/finetune_classification.py --output_dir runs/classification
    python examples/finetune_classification.py --output_dir runs/classification --model runs/pretrain

asks about people among the embedded emoji: their annotations say whether a sentence about skin tone and gender holds,
and where they say nothing, it is open. Every sentence occurs as often with each label, so that the text alone tells
nothing; the test pictures show emoji that are not in the training data. It prints the accuracy beside that of the
commonest label. Without `--model` a small model learns from random weights. Any option of TrainingArguments can be
given too; training is by the stock `Trainer`.

On SNLI-VE (https://github.com/necla-ml/SNLI-VE) or any other pairs with a label, as JSON files of rows with `image` (a
path below `--image_dir`), `sentence` and `label`. SACL's paper has no recipe for it; ALBEF's, from which it starts, is
5 epochs at 384 pixels, 256 pairs a step, at a learning rate of 2e-5:

    accelerate launch --num_processes 8 examples/finetune_classification.py --model user/sacl-model \\
        --train_file ve_train.json --test_file ve_test.json --image_dir flickr30k-images --image_size 384 \\
        --output_dir sacl-ve --num_train_epochs 5 --per_device_train_batch_size 32 --learning_rate 2e-5 \\
        --weight_decay 0.02 --use_cpu False --bf16 True --dataloader_num_workers 8
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import load_dataset
from demo import build_model, build_processor
from emoji import load_emoji
from transformers import AutoProcessor, HfArgumentParser, Trainer, TrainingArguments, logging, set_seed

from modeling_sacl import SaclForImageTextClassification, SaclProcessor
from trainer import ImageTextClassificationCollator


Rows = Sequence[Mapping[str, Any]]

TONES = ("light", "medium-light", "medium", "medium-dark", "dark")
ENTAILMENT = ("entailment", "neutral", "contradiction")


@dataclass
class Arguments(TrainingArguments):
    """[`TrainingArguments`] with the values that learn most about the emoji in two minutes on two cores."""

    output_dir: str = field(default="runs/classification", metadata={"help": "Where the model is written."})
    model: str | None = field(default=None, metadata={"help": "Folder or Hub id of a pre-trained model."})
    train_file: str | None = field(default=None, metadata={"help": "JSON file to learn from, in place of the emoji."})
    test_file: str | None = field(default=None, metadata={"help": "JSON file to test on."})
    image_dir: str = field(default=".", metadata={"help": "Folder of the images that the files name."})
    image_size: int | None = field(default=None, metadata={"help": "Pixels, if other than in pre-training."})
    vision_learning_rate: float | None = field(default=None, metadata={"help": "Learning rate of the image tower."})
    num_train_epochs: float = field(default=8)
    per_device_train_batch_size: int = field(default=64)
    per_device_eval_batch_size: int = field(default=128)
    learning_rate: float = field(default=5e-4)
    weight_decay: float = field(default=0.05)
    lr_scheduler_type: str = field(default="cosine")
    warmup_steps: float = field(default=0.1)
    logging_steps: float = field(default=50)
    save_strategy: str = field(default="no")
    report_to: str = field(default="none")
    remove_unused_columns: bool = field(default=False)
    dataloader_pin_memory: bool = field(default=torch.cuda.is_available())
    use_cpu: bool = field(default=not torch.cuda.is_available())
    bf16: bool = field(default=torch.cuda.is_available() or torch.cpu._is_avx512_bf16_supported())


def judge(row: Mapping[str, Any], tone: int | None, gender: str | None) -> str:
    """What the picture of a person or a hand says of a skin tone and a gender, each of which may not be asked for."""
    asked = [(row[name], wanted) for name, wanted in (("tone", tone), ("gender", gender)) if wanted is not None]
    if any(shown and shown != wanted for shown, wanted in asked):
        return "contradiction"
    return "entailment" if all(shown for shown, _ in asked) else "neutral"


def emoji_rows(split: str, size: int, seed: int) -> Rows:
    """About `size` rows; every sentence as often with each label, with pictures drawn at random."""
    people = [row for row in load_emoji(split) if row["group"] == "people-body" and row["gender"] != "man+woman"]
    genders = {None: "somebody", "woman": "a woman", "man": "a man"}
    questions = [(tone, gender) for tone in (None, 1, 2, 3, 4, 5) for gender in genders if tone or gender]
    chance = random.Random(seed)
    rows = []
    for tone, gender in questions:
        sentence = genders[gender] + (f" with {TONES[tone - 1]} skin tone" if tone else "")
        for label in ENTAILMENT:
            pictures = [row["image"] for row in people if judge(row, tone, gender) == label]
            chosen = chance.choices(pictures, k=size // (len(questions) * len(ENTAILMENT)))
            rows += [{"image": image, "sentence": sentence, "label": label} for image in chosen]
    return rows


def read_rows(file: str, image_dir: str) -> Rows:
    """Rows of a JSON file, with the whole path in `image` or `images`."""

    def locate(row: dict) -> dict:
        if "images" in row:
            return {"images": [str(Path(image_dir) / name) for name in row["images"]]}
        return {"image": str(Path(image_dir) / row["image"])}

    return load_dataset("json", data_files=file, split="train").map(locate)


def load_model(model_class: type, args: Arguments, labels: Sequence[str]) -> tuple[Any, SaclProcessor]:
    """A model with a new classifier for the labels, and the processor that belongs to it."""
    label2id = {label: number for number, label in enumerate(labels)}
    names = {"label2id": label2id, "id2label": {number: label for label, number in label2id.items()}}
    if args.model is None:
        processor = build_processor(image_size=48)
        config = build_model(processor).config
        config.update(names)
        # As in the towers: in 128 dimensions the usual 0.02 carries next to no signal.
        config.initializer_range = config.text_config.initializer_range
        model = model_class(config)
    else:
        processor = AutoProcessor.from_pretrained(args.model)
        model = model_class.from_pretrained(args.model, **names)
    if args.image_size is not None:
        processor.image_processor.size = {"height": args.image_size, "width": args.image_size}
        model.set_image_size(args.image_size)
    if args.use_cpu:
        # With few image tokens and short texts, CPUs are faster without the fused attention kernels.
        model.set_attn_implementation("eager")
    return model, processor


def build_optimizer(model: torch.nn.Module, args: Arguments) -> torch.optim.Optimizer | None:
    """AdamW with a learning rate of its own for the image tower; nothing if there is one for all."""
    if args.vision_learning_rate is None:
        return None
    vision = list(model.sacl.vision_model.parameters())
    others = set(model.parameters()) - set(vision)
    groups = [{"params": vision, "lr": args.vision_learning_rate}, {"params": list(others)}]
    return torch.optim.AdamW(groups, lr=args.learning_rate, weight_decay=args.weight_decay)


def fine_tune(model, processor: SaclProcessor, collator, train: Rows, test: Rows, args: Arguments) -> None:
    """Trains, saves, and prints how often the model is right about the test rows."""
    print(f"{len(train):,} rows to learn from, {model.num_parameters():,} parameters")
    trainer = Trainer(
        model,
        args,
        data_collator=collator,
        train_dataset=train,
        processing_class=processor,
        optimizers=(build_optimizer(model, args), None),
    )
    trainer.train()
    trainer.save_model()
    trainer.data_collator = collator.for_evaluation()
    found = trainer.predict(test)
    if trainer.is_world_process_zero():
        right = (found.predictions.argmax(axis=-1) == found.label_ids).mean()
        commonest = Counter(found.label_ids.tolist()).most_common(1)[0][1] / len(found.label_ids)
        print(f"\nOf {len(found.label_ids):,} test rows {100 * right:.1f} % are right (commonest label: ", end="")
        print(f"{100 * commonest:.1f} %). The model is in {args.output_dir}")


def main() -> None:
    logging.set_verbosity_warning()
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    set_seed(args.seed)
    if args.train_file is None:
        labels, train, test = ENTAILMENT, emoji_rows("train", 5000, args.seed), emoji_rows("validation", 2000, 0)
    else:
        train, test = (read_rows(file, args.image_dir) for file in (args.train_file, args.test_file))
        labels = sorted(set(train["label"]))
    model, processor = load_model(SaclForImageTextClassification, args, labels)
    collator = ImageTextClassificationCollator(processor, label2id=model.config.label2id)
    # Emoji are on white.
    collator = collator.for_training(**({"fill": 255, "min_scale": 0.6} if args.train_file is None else {}))
    fine_tune(model, processor, collator, train, test, args)


if __name__ == "__main__":
    main()
