# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The second track: once the heads are trained, the image tower learns with them, from pixels."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from model import Heads
from towers import UNLOCKED_IMAGE_SIZE, image_tower, load_features, load_images, prepare_pixels
from training import FeatureCollator, Run, fit, make_arguments, train, training_pairs

from trainer import SaclTrainer


BATCH_SIZE = 128
STEPS = 60
# A tenth of what is usual for heads, and of that a half: a tower that knows ImageNet has something to lose.
LEARNING_RATE, VISION_LEARNING_RATE = 2e-4, 1e-4


class UnlockedHeads(Heads):
    """[`Heads`] on the features of an image tower that learns; the statistics of its batch norms stay as they are."""

    def __init__(self, heads: Heads):
        super().__init__(heads.config)
        self.load_state_dict(heads.state_dict())
        self.vision_model = image_tower().to(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> "UnlockedHeads":
        super().train(mode)
        self.vision_model.eval()
        return self

    def get_image_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Embeddings of uint8 pictures of shape `(images, 3, height, width)`."""
        return super().get_image_features(self.vision_model(prepare_pixels(pixel_values, UNLOCKED_IMAGE_SIZE)))


def train_unlocked(run: Run, folder: Path) -> tuple[UnlockedHeads, dict[str, Any]]:
    """Heads on locked towers first, as in the first track; then heads and image tower."""
    heads, _ = train(run, folder, UNLOCKED_IMAGE_SIZE)
    features = load_features("train", folder / "features", UNLOCKED_IMAGE_SIZE)
    model = UnlockedHeads(heads)
    further = replace(run, batch_size=BATCH_SIZE, examples=BATCH_SIZE * min(STEPS, run.steps))
    pairs = training_pairs(run, features, folder)
    rates = {"learning_rate": LEARNING_RATE, "vision_learning_rate": VISION_LEARNING_RATE}
    trainer = SaclTrainer(
        model=model,
        args=make_arguments(further, len(pairs), folder, **rates),
        train_dataset=pairs,
        data_collator=FeatureCollator({**features, "images": load_images("train")}),
    )
    return model, fit(trainer)
