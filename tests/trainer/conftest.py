# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""What the trainer's tests share: pairs of coloured shapes and their captions, tiny models, and a trainer of both."""

import pytest
import torch
from datasets import Dataset, Features, Image, Value
from PIL import Image as PILImage
from PIL import ImageDraw
from transformers import set_seed

from modeling_sacl import SaclConfig, SaclForPreTraining
from trainer import PairCollator, SaclTrainer, SaclTrainingArguments


COLORS = ("red", "green", "blue")
SHAPES = {
    "bus": lambda draw, color: draw.rectangle((2, 10, 29, 21), fill=color),
    "cat": lambda draw, color: draw.ellipse((5, 5, 26, 26), fill=color),
    "dog": lambda draw, color: draw.polygon([(16, 3), (3, 28), (28, 28)], fill=color),
    "house": lambda draw, color: draw.rectangle((9, 2, 22, 29), fill=color),
}


def draw_shape(color: str, shape: str) -> PILImage.Image:
    image = PILImage.new("RGB", (32, 32), "white")
    SHAPES[shape](ImageDraw.Draw(image), color)
    return image


@pytest.fixture(scope="session")
def pairs() -> Dataset:
    """Twelve pairs: three colours of four shapes."""
    names = [(color, shape) for shape in SHAPES for color in COLORS]
    columns = {
        "image": [draw_shape(*name) for name in names],
        "caption": [f"a {color} {shape}" for color, shape in names],
        "pair_id": range(100, 100 + len(names)),
    }
    features = Features({"image": Image(), "caption": Value("string"), "pair_id": Value("int64")})
    return Dataset.from_dict(columns, features=features)


@pytest.fixture
def without_dropout(tiny_config) -> SaclConfig:
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        setattr(tiny_config.text_config, name, 0.0)
    for name in ("hidden_dropout", "attention_dropout"):
        setattr(tiny_config.fusion_encoder_config, name, 0.0)
    return tiny_config


@pytest.fixture
def make_model(without_dropout):
    """A tiny model without dropout, the same one for the same seed."""

    def make(model_class=SaclForPreTraining, seed=0):
        set_seed(seed)
        return model_class(without_dropout)

    return make


@pytest.fixture
def plain_collator(tiny_processor) -> PairCollator:
    """No chance: no augmentation, the first caption, masks that depend on the text alone."""
    return PairCollator(tiny_processor).for_evaluation()


@pytest.fixture
def make_arguments(tmp_path):
    """Arguments for a few steps on the CPU that log every step and write nothing unless asked to."""

    def make(**options):
        defaults = {
            "output_dir": str(tmp_path / "run"),
            "use_cpu": True,
            "per_device_train_batch_size": 6,
            "per_device_eval_batch_size": 8,
            "max_steps": 2,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "learning_rate": 1e-3,
        }
        return SaclTrainingArguments(**{**defaults, **options})

    return make


@pytest.fixture
def make_trainer(make_model, make_arguments, tiny_processor, plain_collator, pairs):
    """A trainer without chance in its data; further keywords are training arguments."""

    def make(model=None, *, trainer_options=None, **arguments):
        options = {"data_collator": plain_collator, "train_dataset": pairs, "processing_class": tiny_processor}
        return SaclTrainer(
            model=make_model() if model is None else model,
            args=make_arguments(**arguments),
            **{**options, **(trainer_options or {})},
        )

    return make


@pytest.fixture
def batch(plain_collator, pairs) -> dict[str, torch.Tensor]:
    """Six pairs as the collator gives them."""
    return plain_collator([pairs[index] for index in range(6)])
