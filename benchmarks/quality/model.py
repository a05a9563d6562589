# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The model of the benchmark: a head of two layers on the features of each locked tower."""

import math

import torch
from torch import nn
from towers import IMAGE_DIM, TEXT_DIM
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput


class HeadsConfig(PreTrainedConfig):
    """Widths of the heads, and where the temperature starts; `sigmoid` starts it as SigLIP does, with a bias."""

    model_type = "benchmark_heads"
    hidden_size: int = 256
    projection_dim: int = 256
    dropout: float = 0.3
    sigmoid: bool = False


class Heads(PreTrainedModel):
    """
    A dual encoder over the features of towers, which stand where pixels and tokens do elsewhere.

    Args:
        config (`HeadsConfig`):
            The widths.
    """

    config_class = HeadsConfig
    config: HeadsConfig

    def __init__(self, config: HeadsConfig):
        super().__init__(config)
        self.image_head = _head(IMAGE_DIM, config)
        self.text_head = _head(TEXT_DIM, config)
        # SigLIP (Zhai et al., 2023, section 3): t' = log 10, b = -10.
        self.logit_scale = nn.Parameter(torch.tensor(math.log(10 if config.sigmoid else 1 / 0.07)))
        if config.sigmoid:
            self.logit_bias = nn.Parameter(torch.tensor(-10.0))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """As torch has them."""

    def get_image_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(self.image_head(pixel_values), dim=-1)

    def get_text_features(self, input_ids: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(self.text_head(input_ids), dim=-1)

    def forward(self, pixel_values: torch.Tensor, input_ids: torch.Tensor) -> ModelOutput:
        """Embeddings of images from `(images, 1280)`, of texts from `(texts, 384)`."""
        output = ModelOutput(
            image_embeds=self.get_image_features(pixel_values),
            text_embeds=self.get_text_features(input_ids),
            logit_scale=self.logit_scale.exp(),
        )
        if self.config.sigmoid:
            output["logit_bias"] = self.logit_bias
        return output


def _head(width: int, config: HeadsConfig) -> nn.Module:
    return nn.Sequential(
        nn.LayerNorm(width, elementwise_affine=False),
        nn.Linear(width, config.hidden_size),
        nn.GELU(),
        nn.Dropout(config.dropout),
        nn.Linear(config.hidden_size, config.projection_dim),
    )
