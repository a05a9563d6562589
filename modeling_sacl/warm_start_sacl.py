# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Published image and text checkpoints as the start of a SACL model: which weight goes where."""

import copy
import re
from dataclasses import dataclass, field

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, PreTrainedConfig, PreTrainedModel

from .configuration_sacl import SaclVisionConfig


Weights = dict[str, torch.Tensor]
Renaming = list[tuple[str, str]]

# Regular expressions over the names of the published models' weights; the first that matches renames.
_CLIP_TO_SACL: Renaming = [
    (r"embeddings\.class_embedding", r"embeddings.class_embedding"),
    (r"embeddings\.patch_embedding\.(.+)", r"embeddings.patch_embedding.\1"),
    (r"embeddings\.position_embedding\.weight", r"embeddings.position_embedding"),
    (r"pre_layrnorm\.(.+)", r"pre_layer_norm.\1"),
    (r"post_layernorm\.(.+)", r"post_layer_norm.\1"),
    (r"encoder\.layers\.(\d+)\.self_attn\.out_proj\.(.+)", r"layers.\1.self_attention.o_proj.\2"),
    (r"encoder\.layers\.(\d+)\.self_attn\.(.+)", r"layers.\1.self_attention.\2"),
    (r"encoder\.layers\.(\d+)\.layer_norm1\.(.+)", r"layers.\1.self_attention_layer_norm.\2"),
    (r"encoder\.layers\.(\d+)\.layer_norm2\.(.+)", r"layers.\1.mlp_layer_norm.\2"),
    (r"encoder\.layers\.(\d+)\.mlp\.(.+)", r"layers.\1.mlp.\2"),
]
_VIT_TO_SACL: Renaming = [
    (r"embeddings\.cls_token", r"embeddings.class_embedding"),
    (r"embeddings\.patch_embeddings\.projection\.(.+)", r"embeddings.patch_embedding.\1"),
    (r"embeddings\.position_embeddings", r"embeddings.position_embedding"),
    (r"layernorm\.(.+)", r"post_layer_norm.\1"),
    (r"layers\.(\d+)\.attention\.(.+)", r"layers.\1.self_attention.\2"),
    (r"layers\.(\d+)\.layernorm_before\.(.+)", r"layers.\1.self_attention_layer_norm.\2"),
    (r"layers\.(\d+)\.layernorm_after\.(.+)", r"layers.\1.mlp_layer_norm.\2"),
    (r"layers\.(\d+)\.mlp\.(.+)", r"layers.\1.mlp.\2"),
]
_BERT_LAYER_TO_FUSION: Renaming = [
    (r"attention\.self\.query\.(.+)", r"self_attention.q_proj.\1"),
    (r"attention\.self\.key\.(.+)", r"self_attention.k_proj.\1"),
    (r"attention\.self\.value\.(.+)", r"self_attention.v_proj.\1"),
    (r"attention\.output\.dense\.(.+)", r"self_attention.o_proj.\1"),
    (r"attention\.output\.LayerNorm\.(.+)", r"self_attention_layer_norm.\1"),
    (r"intermediate\.dense\.(.+)", r"mlp.fc1.\1"),
    (r"output\.dense\.(.+)", r"mlp.fc2.\1"),
    (r"output\.LayerNorm\.(.+)", r"mlp_layer_norm.\1"),
]
_MASKED_LANGUAGE_HEAD: Renaming = [
    (r"cls\.predictions\.transform\.dense\.(.+)", r"dense.\1"),
    (r"cls\.predictions\.transform\.LayerNorm\.(.+)", r"layer_norm.\1"),
    (r"cls\.predictions\.decoder\.weight", r"decoder.weight"),
    (r"cls\.predictions\.bias", r"decoder.bias"),
    (r"lm_head\.dense\.(.+)", r"dense.\1"),
    (r"lm_head\.layer_norm\.(.+)", r"layer_norm.\1"),
    (r"lm_head\.decoder\.weight", r"decoder.weight"),
    (r"lm_head\.bias", r"decoder.bias"),
    (r"generator_predictions\.dense\.(.+)", r"dense.\1"),
    (r"generator_predictions\.LayerNorm\.(.+)", r"layer_norm.\1"),
    (r"generator_lm_head\.weight", r"decoder.weight"),
    (r"generator_lm_head\.bias", r"decoder.bias"),
]


def new_name(name: str, renaming: Renaming) -> str | None:
    """What a weight is called here; `None` if no pattern matches."""
    for pattern, replacement in renaming:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, replacement, name)
    return None


def _rename(weights: Weights, renaming: Renaming) -> Weights:
    """The weights whose name matches, under their new names; the others are left out."""
    renamed = {new_name(name, renaming): weight for name, weight in weights.items()}
    return {name: weight for name, weight in renamed.items() if name is not None}


@dataclass
class PretrainedTowers:
    """
    The parts that a SACL model can take over from published checkpoints: the image tower, and a BERT split in two.

    Read the public page of this at [`~SaclPreTrainedModel.from_vision_text_pretrained`].
    """

    source_vision_config: SaclVisionConfig
    vision_config: SaclVisionConfig
    vision_weights: Weights
    text_config: PreTrainedConfig
    text_weights: Weights
    fusion_options: dict
    fusion_weights: Weights
    mlm_weights: Weights = field(default_factory=dict)

    @classmethod
    def load(
        cls,
        vision: str | PreTrainedModel,
        text: str | PreTrainedModel,
        *,
        num_text_layers: int | None,
        num_fusion_layers: int | None,
        image_size: int | None,
    ) -> "PretrainedTowers":
        source_vision_config, vision_weights = _load_vision(vision)
        vision_config = copy.deepcopy(source_vision_config)
        if image_size is not None:
            vision_config = SaclVisionConfig.from_dict({**source_vision_config.to_dict(), "image_size": image_size})

        text_config, text_weights, mlm_weights = _load_text(text)
        total = text_config.num_hidden_layers
        num_text_layers = total // 2 if num_text_layers is None else num_text_layers
        num_fusion_layers = total - num_text_layers if num_fusion_layers is None else num_fusion_layers
        if num_text_layers < 1 or num_fusion_layers < 1 or max(num_text_layers, num_fusion_layers) > total:
            raise ValueError(
                f"Cannot take {num_text_layers} text layers and {num_fusion_layers} fusion layers out of a text "
                f"checkpoint of {total} layers: each tower needs between 1 and {total}."
            )
        layers = [
            {
                name.removeprefix(prefix): weight
                for name, weight in text_weights.items()
                if name.startswith(prefix := f"encoder.layer.{index}.")
            }
            for index in range(total)
        ]
        fusion_weights = {
            f"layers.{index}.{name}": weight
            for index, layer in enumerate(layers[total - num_fusion_layers :])
            for name, weight in _rename(layer, _BERT_LAYER_TO_FUSION).items()
        }
        text_config = copy.deepcopy(text_config)
        text_config.num_hidden_layers = num_text_layers
        dropped = tuple(f"encoder.layer.{index}." for index in range(num_text_layers, total)) + ("pooler.",)
        return cls(
            source_vision_config=source_vision_config,
            vision_config=vision_config,
            vision_weights=vision_weights,
            text_config=text_config,
            text_weights={name: weight for name, weight in text_weights.items() if not name.startswith(dropped)},
            fusion_options={"num_hidden_layers": num_fusion_layers},
            fusion_weights=fusion_weights,
            mlm_weights=mlm_weights,
        )

    def config_options(self) -> dict:
        """What [`SaclConfig`] needs to make a model that these towers fit."""
        return {
            "vision_config": self.vision_config,
            "text_config": self.text_config,
            "fusion_encoder_config": self.fusion_options,
        }

    @torch.no_grad()
    def copy_into(self, model: PreTrainedModel) -> None:
        """Copies the weights into a model made from [`~PretrainedTowers.config_options`]; the rest stays as it is."""
        base = model.base_model
        embeddings = base.vision_model.embeddings
        source = type(embeddings)(self.source_vision_config)
        prefix = "embeddings."
        source.load_state_dict(
            {name.removeprefix(prefix): w for name, w in self.vision_weights.items() if name.startswith(prefix)}
        )
        positions = source.interpolate_positions(embeddings.grid_size, embeddings.grid_size)
        base.vision_model.load_state_dict({**self.vision_weights, "embeddings.position_embedding": positions})
        base.text_model.load_state_dict(self.text_weights)
        _load_all_but(base.fusion_model, self.fusion_weights, missing="cross_attention")
        if self.mlm_weights and hasattr(model, "mlm_head"):
            _load_all_but(model.mlm_head, self.mlm_weights, missing="decoder.weight")


def _load_all_but(module: nn.Module, weights: Weights, missing: str) -> None:
    """Loads weights in which only names with `missing` in them may be absent."""
    result = module.load_state_dict(weights, strict=False)
    absent = [name for name in result.missing_keys if missing not in name]
    if absent or result.unexpected_keys:
        raise ValueError(
            f"The checkpoint does not fit {type(module).__name__}: missing {absent}, unexpected "
            f"{result.unexpected_keys}."
        )


def _load_vision(vision: str | PreTrainedModel) -> tuple[SaclVisionConfig, Weights]:
    """Configuration and weights, in our names, of a published image tower."""
    name = vision if isinstance(vision, str) else type(vision).__name__
    if isinstance(vision, str):
        vision = AutoModel.from_pretrained(vision, trust_remote_code=False)
    tower = vision.base_model
    tower = getattr(tower, "vision_model", tower)
    config = tower.config
    if config.model_type == "clip_vision_model":
        weights = _rename(tower.state_dict(), _CLIP_TO_SACL)
        flavour = {
            "pre_layernorm": True,
            "patch_bias": False,
            "hidden_dropout": 0.0,
            "attention_dropout": config.attention_dropout,
        }
    elif config.model_type == "vit":
        weights = _rename(tower.state_dict(), _VIT_TO_SACL)
        flavour = {
            "hidden_dropout": config.hidden_dropout_prob,
            "attention_dropout": config.attention_probs_dropout_prob,
            "attention_bias": config.qkv_bias,
        }
    else:
        raise ValueError(
            f"The image tower cannot start from `{name}` of type `{config.model_type}`: give a CLIP or ViT checkpoint "
            "(undistilled DeiT is published as ViT; distilled DeiT has a token that this tower has no place for)."
        )
    weights["embeddings.class_embedding"] = weights["embeddings.class_embedding"].flatten()
    weights["embeddings.position_embedding"] = weights["embeddings.position_embedding"].reshape(
        1, -1, config.hidden_size
    )
    shape = {
        key: getattr(config, key)
        for key in (
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_channels",
            "image_size",
            "patch_size",
            "hidden_act",
            "layer_norm_eps",
            "initializer_range",
        )
    }
    return SaclVisionConfig(**shape, **flavour), weights


def _load_text(text: str | PreTrainedModel) -> tuple[PreTrainedConfig, Weights, Weights]:
    """Configuration, weights of the encoder, and of the masked-language head (our names; empty if there is none)."""
    untrained_head = False
    if isinstance(text, str):
        name, model_type = text, AutoConfig.from_pretrained(text, trust_remote_code=False).model_type
        if model_type in AutoModelForMaskedLM._model_mapping._model_mapping:
            text, report = AutoModelForMaskedLM.from_pretrained(
                text, output_loading_info=True, trust_remote_code=False
            )
            untrained_head = any(key.startswith(("cls.", "lm_head.", "generator_")) for key in report["missing_keys"])
        else:
            text = AutoModel.from_pretrained(text, trust_remote_code=False)
    else:
        name = type(text).__name__
    encoder = text.base_model
    weights = encoder.state_dict()
    if not any(key.startswith("encoder.layer.0.attention.self.query") for key in weights):
        raise ValueError(
            f"The text checkpoint `{name}` of type `{encoder.config.model_type}` has no BERT layers to split into "
            "text tower and fusion encoder: give BERT, MiniLM, RoBERTa, XLM-R, CamemBERT or ELECTRA, or build the "
            "model from a `SaclConfig` with any encoder as `text_config`."
        )
    if encoder.config.is_decoder:
        raise ValueError(f"The text checkpoint `{name}` is a decoder; the text tower must be an encoder.")
    head = {} if untrained_head else _rename(text.state_dict(), _MASKED_LANGUAGE_HEAD)
    return encoder.config, weights, head
