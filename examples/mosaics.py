# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Teaches a model to find coloured shapes in mosaics of four, by telling it which are there and never where.

    python examples/mosaics.py --model runs/demo/model --output_dir runs/mosaics

Starts from the model of `examples/demo.py`, which knows single emoji, and trains its matching head: texts name one or
two emoji of a mosaic, and every other text has a name that is not in it. Then it is asked for one name at a time, and
counted how often the map of the name is highest on the right one of the four. Some names, such as "purple heart", it
has never seen, in pictures or in words. Takes about ten minutes of one CPU core.
In the output folder: model/ (for `examples/ground.py`) and metrics.json.
"""

import argparse
import json
from pathlib import Path
from random import Random

import torch
from emoji import SPLITS, load_emoji
from PIL import Image
from torch import nn
from transformers import AutoProcessor, set_seed
from transformers.utils import logging

from modeling_sacl import SaclForPreTraining
from trainer import chance_grounding_metrics, evaluate_grounding


COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "brown", "black", "white")
SHAPES = ("heart", "circle", "square")
# Pixels along the side of an emoji in a mosaic: what the model of the demonstration was trained on.
SIDE = 48
TEXTS_PER_MOSAIC = 4

Pictures = dict[str, list[Image.Image]]


def colored_shapes(split: str) -> Pictures:
    """The pictures, by several vendors, of each name that is a colour and a shape."""
    pictures: Pictures = {}
    for row in load_emoji(split):
        words = row["caption"].replace(" large ", " ").split()
        if len(words) == 2 and words[0] in COLORS and words[1] in SHAPES:
            pictures.setdefault(" ".join(words), []).append(row["image"].convert("RGB"))
    return pictures


def find_emoji(name: str, vendor: str = "noto") -> Image.Image:
    """The picture of an emoji, in whatever split it is."""
    for split in SPLITS:
        dataset = load_emoji(split)
        for number, found in enumerate(zip(dataset["caption"], dataset["vendor"], strict=True)):
            if found == (name, vendor):
                return dataset[number]["image"].convert("RGB")
    raise ValueError(f"There is no emoji {name!r} by {vendor}: see the column `caption` of the data set.")


def mosaic(images: list[Image.Image]) -> tuple[Image.Image, list[list[int]]]:
    """Pictures in rows that form a square, and the box of each."""
    columns = next(side for side in range(1, len(images) + 1) if side**2 >= len(images))
    canvas = Image.new("RGB", (SIDE * columns, SIDE * -(-len(images) // columns)), "white")
    boxes = []
    for number, image in enumerate(images):
        left, upper = SIDE * (number % columns), SIDE * (number // columns)
        canvas.paste(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC), (left, upper))
        boxes.append([left, upper, left + SIDE, upper + SIDE])
    return canvas, boxes


def draw_lesson(pictures: Pictures, random: Random) -> tuple[Image.Image, list[str], list[int]]:
    """A mosaic, texts that name one or two of its emoji, and which of them are true."""
    names = random.sample(sorted(pictures), 4)
    others = sorted(set(pictures) - set(names))
    labels = [number % 2 for number in range(TEXTS_PER_MOSAIC)]
    texts = []
    for is_true in labels:
        said = random.sample(names, random.choice((1, 2)))
        if not is_true:
            said[random.randrange(len(said))] = random.choice(others)
        texts.append(" and ".join(said))
    return mosaic([random.choice(pictures[name]) for name in names])[0], texts, labels


def draw_questions(
    asked: Pictures, pictures: Pictures, count: int, random: Random, shared_word: int | None = None
) -> list[dict]:
    """
    Rows for [`evaluate_grounding`]: a name, and a mosaic of its picture and three others, of which exactly one has the
    same colour (`shared_word` 0) or the same shape (1), if that is asked for.
    """
    rows = []
    for number in range(count):
        name = sorted(asked)[number % len(asked)]
        others = sorted(set(pictures) - {name})
        if shared_word is None:
            others = random.sample(others, 3)
        else:
            alike = [other for other in others if other.split()[shared_word] == name.split()[shared_word]]
            others = [random.choice(alike), *random.sample(sorted(set(others) - set(alike)), 2)]
        images = [random.choice(asked[name]), *(random.choice(pictures[other]) for other in others)]
        order = random.sample(range(4), 4)
        image, boxes = mosaic([images[place] for place in order])
        rows.append({"image": image, "caption": name, "boxes": [boxes[order.index(0)]]})
    return rows


def train(model: SaclForPreTraining, processor, pictures: Pictures, args: argparse.Namespace) -> None:
    random = Random(args.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, args.learning_rate, total_steps=args.steps, pct_start=0.1
    )
    image_index = torch.arange(args.batch_size).repeat_interleave(TEXTS_PER_MOSAIC)
    right = 0.0
    model.train()
    for step in range(1, args.steps + 1):
        images, texts, labels = zip(*(draw_lesson(pictures, random) for _ in range(args.batch_size)), strict=True)
        inputs = processor(images=list(images), text=sum(texts, []), return_tensors="pt")
        labels = torch.tensor(sum(labels, []))
        # The towers know images of a quarter of the size.
        fused = model.sacl.get_fusion_features(**inputs, image_index=image_index, interpolate_pos_encoding=True)
        logits = model.itm_head(fused.last_hidden_state[:, 0])
        nn.functional.cross_entropy(logits, labels).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        right += (logits.argmax(dim=1) == labels).double().mean().item()
        if step % 50 == 0:
            print(f"step {step:4}: {2 * right:.1f} % of the last 50 steps' texts matched rightly")
            right = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="runs/demo/model", help="folder of the demonstration's model")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/mosaics"), help="where to write")
    parser.add_argument("--steps", type=int, default=500, help="training steps")
    parser.add_argument("--batch_size", type=int, default=48, help=f"mosaics a step, {TEXTS_PER_MOSAIC} texts each")
    parser.add_argument("--learning_rate", type=float, default=5e-4, help="the highest, after a tenth of the steps")
    parser.add_argument("--questions", type=int, default=400, help="how many questions to ask of each kind")
    parser.add_argument("--seed", type=int, default=42, help="seed of weights and mosaics")
    args = parser.parse_args()

    logging.set_verbosity_error()  # That the second layer is new is meant.
    set_seed(args.seed)
    # In the last layer words have no maps: there must be two.
    without_dropout = {"hidden_dropout": 0.0, "attention_dropout": 0.0}
    model = SaclForPreTraining.from_pretrained(
        args.model,
        text_config={"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
        fusion_encoder_config={"num_hidden_layers": 2, **without_dropout},
        attn_implementation="eager",
    )
    processor = AutoProcessor.from_pretrained(args.model)
    processor.image_processor.size = {"height": 2 * SIDE, "width": 2 * SIDE}

    trained, unseen = colored_shapes("train"), colored_shapes("test_unseen_concept")
    print(f"{len(trained)} names to learn. Never seen: {', '.join(sorted(unseen))}")
    questions = {
        "names trained on": draw_questions(trained, trained, args.questions, Random(args.seed + 1)),
        "with another of that colour": draw_questions(trained, trained, args.questions, Random(args.seed + 2), 0),
        "with another of that shape": draw_questions(trained, trained, args.questions, Random(args.seed + 3), 1),
        "names never seen": draw_questions(unseen, trained, args.questions, Random(args.seed + 4)),
    }

    def measure() -> dict[str, dict[str, float]]:
        return {
            kind: evaluate_grounding(model, rows, processor, batch_size=50, show_progress=False)
            for kind, rows in questions.items()
        }

    before = measure()
    train(model, processor, trained, args)
    after = measure()
    model.save_pretrained(args.output_dir / "model")
    processor.save_pretrained(args.output_dir / "model")
    chance = chance_grounding_metrics(questions["names never seen"])
    report = {"seed": args.seed, "steps": args.steps, "chance": chance, "before": before, "after": after}
    (args.output_dir / "metrics.json").write_text(json.dumps(report, indent=2))

    print(f"\nPointing accuracy in percent; by chance {chance['pointing_accuracy']:.1f}")
    print(f"{'':28}{'before':>8}{'after':>8}")
    for name, metrics in after.items():
        print(f"{name:28}{before[name]['pointing_accuracy']:8.1f}{metrics['pointing_accuracy']:8.1f}")
    print(f"\nLook at it: python examples/ground.py --model {args.output_dir}/model \\")
    print('    --emoji "red heart" "blue heart" "blue square" "dog" --text "blue heart" "blue square"')


if __name__ == "__main__":
    main()
