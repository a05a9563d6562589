# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The SACL model: an image tower and a text tower, aligned by contrast, and a fusion encoder above them.

The structure is ALBEF's (Li et al., NeurIPS 2021, [arXiv 2107.07651](https://huggingface.co/papers/2107.07651)), on
which SACL builds (Jiang et al., ACL 2023, [arXiv 2305.04474](https://huggingface.co/papers/2305.04474)).
"""

import copy
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithCrossAttentions, BaseModelOutputWithPooling
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_MAPPING,
)
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration_sacl import SaclConfig, SaclFusionConfig, SaclVisionConfig
from .loss_sacl import contrastive_logits, similarity_regulated_contrastive_loss
from .patch_selection_sacl import number_to_keep, patch_relevance, select_patches, take_tokens
from .warm_start_sacl import PretrainedTowers


_FORWARDED_ARGUMENTS = {"output_attentions", "output_hidden_states", "num_items_in_batch"}
_UNCHANGED: Any = object()


def _reject_unknown_arguments(module: nn.Module, kwargs: dict) -> None:
    """`**kwargs` carries the output switches down to the towers; a misspelt argument must not vanish in it."""
    unknown = sorted(set(kwargs) - _FORWARDED_ARGUMENTS)
    if unknown:
        accepted = [name for name in inspect.signature(module.forward).parameters if name != "kwargs"]
        raise TypeError(
            f"`{type(module).__name__}` has no argument {', '.join(f'`{name}`' for name in unknown)}. It takes "
            f"{', '.join(accepted + sorted(_FORWARDED_ARGUMENTS))}."
        )


@dataclass
class SaclVisionOutput(BaseModelOutputWithPooling):
    r"""
    Output of [`SaclVisionModel`].

    Args:
        last_hidden_state (`torch.Tensor` of shape `(batch_size, num_tokens, hidden_size)`):
            The tokens after the final layer norm: `1 + num_patches`, fewer with patch selection. Where texts choose
            the patches, there is a row for each text.
        pooler_output (`torch.Tensor` of shape `(batch_size, hidden_size)`):
            The first of them; of [`SaclModel.get_image_features`], its projection.
        hidden_states (`tuple` of `torch.Tensor`, *optional*, returned with `output_hidden_states=True`):
            The input of the first layer and the output of each.
        attentions (`tuple` of `torch.Tensor`, *optional*, returned with `output_attentions=True`):
            The attention of each layer.
        kept_patches (`tuple` of `torch.Tensor` of shape `(batch_size, num_kept)`, int64, *optional*):
            For each layer that selects patches, which places of the image's grid, counted row by row, it keeps; -1
            stands for the fused token of an earlier selection.
        shared_states (`tuple` of two `torch.Tensor`, *optional*, returned with `patch_selection_guide="text"`):
            What does not depend on the text: the tokens and the keys with which the first layer that drops patches
            makes its choice. Given back to [`SaclVisionModel`] with texts, under the same setting, it goes on from
            there.
    """

    kept_patches: tuple[torch.Tensor, ...] | None = None
    shared_states: tuple[torch.Tensor, torch.Tensor] | None = None


@dataclass
class SaclOutput(ModelOutput):
    r"""
    Output of [`SaclModel`], with the names of CLIP's.

    Args:
        loss (`torch.Tensor`, scalar, *optional*, returned when `return_loss=True`):
            The similarity-regulated contrastive loss of the batch.
        logits_per_image (`torch.Tensor` of shape `(image_batch_size, text_batch_size)`):
            Cosines of images with texts, divided by the temperature, plus the bias if the model has one.
        logits_per_text (`torch.Tensor` of shape `(text_batch_size, image_batch_size)`):
            The transpose of `logits_per_image`.
        text_embeds (`torch.Tensor` of shape `(text_batch_size, projection_dim)`):
            L2-normalised text embeddings.
        image_embeds (`torch.Tensor` of shape `(image_batch_size, projection_dim)`):
            L2-normalised image embeddings.
        text_model_output ([`BaseModelOutputWithPooling`]):
            Output of the text tower; its `pooler_output` is the projected first token.
        vision_model_output ([`SaclVisionOutput`]):
            Output of the image tower; its `pooler_output` is the projected first token.
    """

    loss: torch.Tensor | None = None
    logits_per_image: torch.Tensor | None = None
    logits_per_text: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None
    image_embeds: torch.Tensor | None = None
    text_model_output: BaseModelOutputWithPooling | None = None
    vision_model_output: SaclVisionOutput | None = None

    def to_tuple(self) -> tuple[Any, ...]:
        return tuple(value.to_tuple() if isinstance(value, ModelOutput) else value for value in self.values())


# ---------------------------------------------------------------------------------------------------------- layers


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    attention = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        attention = attention + attention_mask
    attention = nn.functional.softmax(attention, dim=-1, dtype=torch.float32).to(query.dtype)
    attention = nn.functional.dropout(attention, p=dropout, training=module.training)
    return torch.matmul(attention, value).transpose(1, 2).contiguous(), attention


class SaclAttention(nn.Module):
    """
    Bidirectional multi-head attention: of the tokens to themselves, or to what `key_value` holds, a row for each or
    one row for all.
    """

    def __init__(self, config: SaclVisionConfig | SaclFusionConfig, key_value_size: int | None = None):
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        # SDPA takes a missing mask for a causal one unless told otherwise.
        self.is_causal = False

        key_value_size = config.hidden_size if key_value_size is None else key_value_size
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.attention_bias)
        self.k_proj = nn.Linear(key_value_size, config.hidden_size, bias=config.attention_bias)
        self.v_proj = nn.Linear(key_value_size, config.hidden_size, bias=config.attention_bias)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def _split_heads(self, states: torch.Tensor) -> torch.Tensor:
        return states.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def project_query(self, states: torch.Tensor) -> torch.Tensor:
        return self._split_heads(self.q_proj(states))

    def project_key_value(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self._split_heads(self.k_proj(states)), self._split_heads(self.v_proj(states))

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        key_value: tuple[torch.Tensor, torch.Tensor] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        query = self.project_query(hidden_states)
        key, value = self.project_key_value(hidden_states) if key_value is None else key_value
        num_rows = len(query)
        one_for_all = attention_mask is None and len(key) == 1 < num_rows
        if one_for_all:
            # The queries of all rows line up as those of one, in place of copies of the keys for each row.
            query = query.transpose(0, 1).flatten(1, 2)[None]
        attention_interface: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        output, attention = attention_interface(
            self,
            query,
            key,
            value,
            attention_mask,
            scaling=self.scaling,
            dropout=self.config.attention_dropout if self.training else 0.0,
            **kwargs,
        )
        if one_for_all:
            output = output[0].unflatten(0, (num_rows, -1))
            attention = attention if attention is None else attention[0].unflatten(1, (num_rows, -1)).transpose(0, 1)
        return self.o_proj(output.flatten(2)), attention


class SaclMLP(nn.Module):
    def __init__(self, config: SaclVisionConfig | SaclFusionConfig):
        super().__init__()
        self.activation_fn = ACT2FN[config.hidden_act]
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation_fn(self.fc1(hidden_states)))


class SaclVisionEmbeddings(nn.Module):
    """Patches, a class token before them, and learned positions."""

    def __init__(self, config: SaclVisionConfig):
        super().__init__()
        self.config = config
        self.grid_size = config.image_size // config.patch_size
        self.class_embedding = nn.Parameter(torch.zeros(config.hidden_size))
        self.patch_embedding = nn.Conv2d(
            config.num_channels,
            config.hidden_size,
            kernel_size=config.patch_size,
            stride=config.patch_size,
            bias=config.patch_bias,
        )
        self.position_embedding = nn.Parameter(torch.zeros(1, self.grid_size**2 + 1, config.hidden_size))
        self.dropout = nn.Dropout(config.hidden_dropout)

    def interpolate_positions(self, height: int, width: int) -> torch.Tensor:
        """The positions of a grid of `height` by `width` patches, resampled (bicubic) from those learned."""
        if height == width == self.grid_size:
            return self.position_embedding
        class_position, patch_positions = self.position_embedding[:, :1], self.position_embedding[:, 1:]
        grid = patch_positions.transpose(1, 2).unflatten(2, (self.grid_size, self.grid_size))
        grid = nn.functional.interpolate(grid.float(), size=(height, width), mode="bicubic", align_corners=False)
        return torch.cat([class_position, grid.flatten(2).transpose(1, 2).to(class_position.dtype)], dim=1)

    @torch.no_grad()
    def resize_positions(self, grid_size: int) -> None:
        """Resamples the learned positions to a square grid of `grid_size` patches a side."""
        trained = self.position_embedding.requires_grad
        self.position_embedding = nn.Parameter(self.interpolate_positions(grid_size, grid_size).clone(), trained)
        self.grid_size = grid_size

    def forward(self, pixel_values: torch.Tensor, interpolate_pos_encoding: bool = False) -> torch.Tensor:
        _, channels, height, width = pixel_values.shape
        size, patch_size = self.config.image_size, self.config.patch_size
        if channels != self.config.num_channels:
            raise ValueError(f"`pixel_values` must have {self.config.num_channels} channels, got {channels}.")
        if not interpolate_pos_encoding and (height, width) != (size, size):
            raise ValueError(
                f"The image tower expects images of {size} x {size} pixels, got {height} x {width}: resize them, or "
                "pass `interpolate_pos_encoding=True`."
            )
        patches = self.patch_embedding(pixel_values.to(self.patch_embedding.weight.dtype))
        patches = patches.flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_embedding.expand(len(patches), 1, -1), patches], dim=1)
        positions = self.interpolate_positions(height // patch_size, width // patch_size)
        return self.dropout(tokens + positions)


class SaclVisionLayer(GradientCheckpointingLayer):
    """
    Pre-norm transformer layer. Between attention and feed-forward it can drop patch tokens: those that matter least to
    its own class token, or to that of a text (Jiang et al., EMNLP 2022).
    """

    def __init__(self, config: SaclVisionConfig):
        super().__init__()
        self.self_attention_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attention = SaclAttention(config)
        self.mlp_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = SaclMLP(config)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(
        self,
        hidden_states: torch.Tensor,
        keys: torch.Tensor | None = None,
        text_states: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
        *,
        num_kept: int | None = None,
        fusion_token: bool = True,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        The new hidden states. With `num_kept` also: the patch tokens kept, and, from before the selection, the hidden
        states and keys; given back as `hidden_states` and `keys`, they save the attention to the next texts.
        """
        if keys is None:
            normed = self.self_attention_layer_norm(hidden_states)
            keys, values = self.self_attention.project_key_value(normed)
            attended, _ = self.self_attention(normed, None, (keys, values), **kwargs)
            hidden_states = hidden_states + self.dropout(attended)
        if num_kept is None:
            return self._feed_forward(hidden_states)

        before = hidden_states, keys
        if image_index is not None:
            hidden_states, keys = hidden_states[image_index], keys[image_index]
        guide = normed[:, 0] if text_states is None else text_states
        scores = patch_relevance(self.self_attention.project_query(guide[:, None]), keys[:, :, 1:])
        hidden_states, kept = select_patches(hidden_states, scores, num_kept, fusion_token)
        return self._feed_forward(hidden_states), kept, *before

    def _feed_forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states + self.dropout(self.mlp(self.mlp_layer_norm(hidden_states)))


class SaclFusionLayer(GradientCheckpointingLayer):
    """Post-norm transformer layer as in BERT, with cross-attention to the image between attention and feed-forward."""

    def __init__(self, config: SaclFusionConfig):
        super().__init__()
        self.self_attention = SaclAttention(config)
        self.self_attention_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.cross_attention = SaclAttention(config, key_value_size=config.encoder_hidden_size)
        self.cross_attention_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = SaclMLP(config)
        self.mlp_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None,
        image_states: torch.Tensor | tuple[torch.Tensor, torch.Tensor],
        image_index: torch.Tensor | None = None,
        output_positions: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        key_value = None
        if output_positions is not None:
            # All tokens are looked at, but only those asked for look.
            key_value = self.self_attention.project_key_value(hidden_states)
            hidden_states = take_tokens(hidden_states, output_positions)
            if attention_mask is not None:
                # It is of padding alone, and so the same for every token that looks.
                attention_mask = attention_mask[:, :, :1].expand(-1, -1, output_positions.shape[1], -1)
        attended, _ = self.self_attention(hidden_states, attention_mask, key_value, **kwargs)
        hidden_states = self.self_attention_layer_norm(hidden_states + self.dropout(attended))

        attended = self._look_at_image(hidden_states, image_states, image_index, **kwargs)
        hidden_states = self.cross_attention_layer_norm(hidden_states + self.dropout(attended))

        return self.mlp_layer_norm(hidden_states + self.dropout(self.mlp(hidden_states)))

    def project_image(self, image_hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of images, which are the same for every text."""
        return self.cross_attention.project_key_value(image_hidden_states)

    def _look_at_image(
        self,
        hidden_states: torch.Tensor,
        image_states: torch.Tensor | tuple[torch.Tensor, torch.Tensor],
        image_index: torch.Tensor | None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        # Projected once per image, however many texts look at it.
        key, value = self.project_image(image_states) if torch.is_tensor(image_states) else image_states
        if image_index is not None and len(key) > 1:
            # Not by brackets, whose backward adds up what the texts of one image want number by number.
            key, value = key.index_select(0, image_index), value.index_select(0, image_index)
        return self.cross_attention(hidden_states, None, (key, value), **kwargs)[0]


# ---------------------------------------------------------------------------------------------------------- towers


class SaclPreTrainedModel(PreTrainedModel):
    """Weight initialisation, loading and saving, common to all SACL models."""

    config: SaclConfig
    base_model_prefix = "sacl"
    input_modalities: tuple[str, ...] = ("image", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = ["SaclVisionEmbeddings", "SaclVisionLayer", "SaclFusionLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    # Checkpoints are a SaclModel with heads on top; leaving out those of another class is what the user asked for.
    _keys_to_ignore_on_load_unexpected = [
        r"^(itm_head|mlm_head|classifier|answer_decoder)\.",
        r"\.(second_cross_attention|merge)\.",
    ]
    # What starts as a copy where a checkpoint does not have it: part of the name of a parameter, that of the original.
    _starts_as: dict[str, str] = {}

    def __init__(self, config, *args, **kwargs):
        config.validate_architecture()  # It may have changed since it was built.
        super().__init__(config, *args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, SaclVisionEmbeddings):
            init.trunc_normal_(module.class_embedding, std=self.config.initializer_range)
            init.trunc_normal_(module.position_embedding, std=self.config.initializer_range)
        elif isinstance(module, SaclModel):
            init.constant_(module.logit_scale, self.config.logit_scale_init_value)
            if module.logit_bias is not None:
                init.constant_(module.logit_bias, self.config.logit_bias_init_value)

    def set_patch_selection(
        self,
        *,
        keep_rate: float | list[float] = _UNCHANGED,
        layers: list[int] | None = _UNCHANGED,
        guide: str = _UNCHANGED,
        fusion_token: bool = _UNCHANGED,
    ) -> None:
        r"""
        Changes how the image tower selects patches, which needs no other weights. It is written into the
        configuration, and so into what is saved. What is not given stays.

        Args:
            keep_rate (`float` or `list[float]`, *optional*):
                Share of the patch tokens that a selection keeps, one for all layers or one for each; 1.0 is no
                selection.
            layers (`list[int]`, *optional*):
                The layers that select, counted from 1; `None` for the default of [`SaclVisionConfig`].
            guide (`str`, *optional*):
                What ranks the patches, `"image"` or `"text"`.
            fusion_token (`bool`, *optional*):
                Whether the dropped patch tokens are fused into one.

        Raises:
            TypeError: if the model has no image tower.
            ValueError: for a setting that [`SaclVisionConfig`] or [`SaclConfig`] refuses; the model stays as it was.

        Example:

        ```python
        >>> from modeling_sacl import SaclForPreTraining

        >>> model = SaclForPreTraining.from_pretrained("user/sacl-model")
        >>> model.set_patch_selection(keep_rate=0.7, guide="text")
        ```
        """
        given = {
            "patch_keep_rate": keep_rate,
            "patch_selection_layers": layers,
            "patch_selection_guide": guide,
            "patch_fusion_token": fusion_token,
        }
        # First on a copy, so that an error leaves nothing half done.
        for config in (copy.deepcopy(self.config), self.config):
            vision_config = getattr(config, "vision_config", config)
            # Not by its class, of which there can be several when the code comes with the checkpoint.
            if not hasattr(vision_config, "patch_selection_guide"):
                raise TypeError(f"`{type(self).__name__}` has no image tower, so no patches to select.")
            for name, value in given.items():
                if value is not _UNCHANGED:
                    setattr(vision_config, name, value)
            vision_config.validate_architecture()
            config.validate_architecture()

    def set_image_size(self, image_size: int) -> None:
        r"""
        Prepares the image tower for images of another size: its learned positions are resampled (bicubic), as ALBEF
        and SACL do between pre-training at 256 pixels and fine-tuning at 384. It is written into the configuration,
        and so into what is saved; the image processor's size is to be changed too.

        Args:
            image_size (`int`):
                Height and width of the images in pixels, a multiple of the patch size.

        Raises:
            TypeError: if the model has no image tower.
            ValueError: for a size that [`SaclVisionConfig`] refuses; the model stays as it was.

        Example:

        ```python
        >>> model.set_image_size(384)
        >>> processor.image_processor.size = {"height": 384, "width": 384}
        ```
        """
        embeddings = next((module for module in self.modules() if isinstance(module, SaclVisionEmbeddings)), None)
        if embeddings is None:
            raise TypeError(f"`{type(self).__name__}` has no image tower, so no images to resize.")
        # First on a copy, so that an error leaves nothing half done.
        for config in (copy.deepcopy(embeddings.config), embeddings.config):
            config.image_size = image_size
            config.validate_architecture()
        embeddings.resize_positions(image_size // embeddings.config.patch_size)

    @classmethod
    def from_pretrained(cls, *args, output_loading_info: bool = False, **kwargs):
        model, report = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        model._start_copies(report["missing_keys"])
        return (model, report) if output_loading_info else model

    @torch.no_grad()
    def _start_copies(self, names: Iterable[str]) -> None:
        """Gives parameters that were not loaded the values of those they start as, where they have the same shape."""
        parameters = self.state_dict(keep_vars=True)
        for name in names:
            for part, original in self._starts_as.items():
                source = parameters.get(name.replace(part, original)) if part in name else None
                if source is not None and source.shape == parameters[name].shape:
                    parameters[name].copy_(source)

    @classmethod
    def from_vision_text_pretrained(
        cls,
        vision: str | PreTrainedModel,
        text: str | PreTrainedModel,
        *,
        num_text_layers: int | None = None,
        num_fusion_layers: int | None = None,
        image_size: int | None = None,
        **config_kwargs,
    ):
        r"""
        Starts a SACL model from published towers, as ALBEF and SACL do: a CLIP or ViT checkpoint becomes the image
        tower, and a BERT-like checkpoint is split into the text tower (its first layers) and the fusion encoder (its
        last ones, whose new cross-attention starts at random). A masked-language head takes over that of the
        checkpoint, where it has one. What the towers do not contain, projections and heads, starts at random.

        Args:
            vision (`str` or [`PreTrainedModel`]):
                Folder, Hub id or model: CLIP, ViT or undistilled DeiT.
            text (`str` or [`PreTrainedModel`]):
                Folder, Hub id or model: BERT and what shares its layers (MiniLM, RoBERTa, XLM-R, CamemBERT, ELECTRA).
            num_text_layers (`int`, *optional*):
                Layers of the text tower; defaults to the first half of the checkpoint.
            num_fusion_layers (`int`, *optional*):
                Layers of the fusion encoder; defaults to all that remain.
            image_size (`int`, *optional*):
                Height and width of the images, if other than the checkpoint's; the positions are resampled.
            config_kwargs:
                Options of [`SaclConfig`], e.g. `projection_dim`.

        Returns:
            The model, in evaluation mode like one from [`~PreTrainedModel.from_pretrained`].

        Raises:
            ValueError: for a checkpoint of another family, or a split that asks for more layers than there are.

        Example:

        ```python
        >>> from modeling_sacl import SaclForPreTraining

        >>> model = SaclForPreTraining.from_vision_text_pretrained(
        ...     "openai/clip-vit-base-patch16", "google-bert/bert-base-uncased", image_size=256
        ... )
        ```
        """
        towers = PretrainedTowers.load(
            vision,
            text,
            num_text_layers=num_text_layers,
            num_fusion_layers=num_fusion_layers,
            image_size=image_size,
        )
        model = cls(SaclConfig(**towers.config_options(), **config_kwargs))
        towers.copy_into(model)
        model._start_copies(model.state_dict())
        return model.eval()


class SaclVisionModel(SaclPreTrainedModel):
    r"""
    The image tower: a vision transformer whose first output token stands for the whole image. Its configuration can
    make some layers drop the patches that matter least; `patch_selection_share`, an attribute between 0 (drop nothing)
    and 1 (as configured, the default) that is not saved, lets a schedule approach the configured keep rates.

    Args:
        config ([`SaclVisionConfig`]).
    """

    config: SaclVisionConfig
    base_model_prefix = "vision_model"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    _can_record_outputs = {"hidden_states": SaclVisionLayer, "attentions": SaclAttention}

    def __init__(self, config: SaclVisionConfig):
        super().__init__(config)
        self.patch_selection_share = 1.0
        self.embeddings = SaclVisionEmbeddings(config)
        self.pre_layer_norm = (
            nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) if config.pre_layernorm else nn.Identity()
        )
        self.layers = nn.ModuleList([SaclVisionLayer(config) for _ in range(config.num_hidden_layers)])
        self.post_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.patch_embedding

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        text_states: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
        shared_states: tuple[torch.Tensor, torch.Tensor] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SaclVisionOutput:
        r"""
        Args:
            pixel_values (`torch.Tensor` of shape `(num_images, num_channels, height, width)`, *optional*):
                Images as the processor returns them. Needed unless `shared_states` are given.
            interpolate_pos_encoding (`bool`, *optional*, defaults to `False`):
                Whether images of another size than the configured one are accepted; their positions are resampled.
            text_states (`torch.Tensor` of shape `(num_texts, hidden_size)`, *optional*):
                First token of each text, from the text tower: with `patch_selection_guide="text"` it chooses the
                patches of its image, and the output has a row for each text. Without it the image chooses.
            image_index (`torch.Tensor` of shape `(num_texts,)`, int64, *optional*):
                The image of each text; defaults to text i and image i.
            shared_states (`tuple` of two `torch.Tensor`, *optional*):
                Instead of `pixel_values`, for texts: those of the output that this model gave for the images. What
                comes before the first selection is the same for all texts, and is not computed again.

        Returns:
            [`SaclVisionOutput`]
        """
        _reject_unknown_arguments(self, kwargs)
        self._check_inputs(pixel_values, text_states, image_index, shared_states)
        if shared_states is None:
            hidden_states, keys = self.pre_layer_norm(self.embeddings(pixel_values, interpolate_pos_encoding)), None
        else:
            hidden_states, keys = shared_states
        num_patches = hidden_states.shape[1] - 1
        plan = self._plan_selection(num_patches)
        if keys is not None and not plan:
            raise ValueError("`shared_states` go on where patches are dropped, and now no layer drops any.")

        kept, before_first = {}, None
        for number, layer in enumerate(self.layers):
            if number in plan:
                hidden_states, kept[number], *before = layer(
                    hidden_states,
                    keys,
                    text_states,
                    image_index,
                    num_kept=plan[number],
                    fusion_token=self.config.patch_fusion_token,
                    **kwargs,
                )
                before_first = before_first or tuple(before)
                # From the first selection on there is a row for each text.
                keys = image_index = None
            elif keys is None:  # Otherwise the shared states are from a layer further on.
                hidden_states = layer(hidden_states, **kwargs)
        if image_index is not None:  # Nothing was dropped: all texts see the same of an image.
            hidden_states = hidden_states[image_index]
        hidden_states = self.post_layer_norm(hidden_states)
        return SaclVisionOutput(
            last_hidden_state=hidden_states,
            pooler_output=hidden_states[:, 0],
            kept_patches=self._trace_patches(kept, hidden_states, num_patches),
            shared_states=before_first if text_states is None and self.config.selects_patches_by_text else None,
        )

    def _check_inputs(
        self,
        pixel_values: torch.Tensor | None,
        text_states: torch.Tensor | None,
        image_index: torch.Tensor | None,
        shared_states: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> None:
        if (pixel_values is None) == (shared_states is None):
            raise ValueError(
                "The image tower takes `pixel_values`, or `shared_states` of an output that it gave for them: one of "
                "the two."
            )
        if text_states is None:
            if shared_states is not None or image_index is not None:
                raise ValueError(
                    "`shared_states` and `image_index` are for texts that choose patches: give their `text_states`."
                )
            return
        if self.config.patch_selection_guide != "text":
            raise ValueError(
                "`text_states` were given, but the image chooses its patches: let the texts choose by "
                '`set_patch_selection(guide="text")`.'
            )
        if text_states.ndim != 2 or text_states.shape[1] != self.config.hidden_size:
            raise ValueError(
                "`text_states` are the first token of each text, of shape (num_texts, hidden_size) with a "
                f"`hidden_size` of {self.config.hidden_size}; got {tuple(text_states.shape)}."
            )
        num_images = len(pixel_values if shared_states is None else shared_states[0])
        if image_index is None and num_images != len(text_states):
            raise ValueError(
                f"There are {len(text_states)} texts and {num_images} images: pass `image_index` to say which text "
                "chooses from which image."
            )

    def _plan_selection(self, num_patches: int) -> dict[int, int]:
        """The layers that drop patch tokens, counted from 0, and how many each keeps."""
        share = self.patch_selection_share
        if not 0 <= share <= 1:
            raise ValueError(f"`patch_selection_share` must be in [0, 1], got {share}.")
        plan = {}
        layers, rates = self.config.resolved_patch_selection_layers, self.config.resolved_patch_keep_rates
        for layer, rate in zip(layers, rates, strict=True):
            num_kept = number_to_keep(num_patches, 1 - share * (1 - rate))
            if num_kept < num_patches:
                plan[layer - 1] = num_kept
                num_patches = num_kept + self.config.patch_fusion_token
        return plan

    def _trace_patches(
        self, kept: dict[int, torch.Tensor], hidden_states: torch.Tensor, num_patches: int
    ) -> tuple[torch.Tensor, ...] | None:
        """For each selection layer, where in the image the tokens come from that it keeps; -1 is a fused token."""
        if not self.config.selects_patches:
            return None
        places = torch.arange(num_patches, device=hidden_states.device).expand(len(hidden_states), -1)
        traced = []
        for layer in self.config.resolved_patch_selection_layers:
            drops = layer - 1 in kept
            if drops:
                places = places.gather(1, kept[layer - 1].to(places.device))  # Layers can be on several devices.
            traced.append(places)
            if drops and self.config.patch_fusion_token:
                places = nn.functional.pad(places, (0, 1), value=-1)
        return tuple(traced)


class SaclFusionModel(SaclPreTrainedModel):
    r"""
    The fusion encoder: text tokens attend to one another, in both directions, and to the tokens of an image.

    Args:
        config ([`SaclFusionConfig`]).
    """

    config: SaclFusionConfig
    base_model_prefix = "fusion_model"
    main_input_name = "inputs_embeds"
    _can_record_outputs = {
        "hidden_states": SaclFusionLayer,
        "attentions": OutputRecorder(SaclAttention, index=1, layer_name="self_attention"),
        "cross_attentions": OutputRecorder(SaclAttention, index=1, layer_name="cross_attention"),
    }

    def __init__(self, config: SaclFusionConfig):
        super().__init__(config)
        self.layers = nn.ModuleList([SaclFusionLayer(config) for _ in range(config.num_hidden_layers)])
        self.post_init()

    def project_images(self, encoder_hidden_states: torch.Tensor) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
        r"""
        What every layer looks up of images, for those that are to meet texts more than once.

        Args:
            encoder_hidden_states (`torch.Tensor` of shape `(num_images, num_tokens, encoder_hidden_size)`):
                Output tokens of the image tower.

        Returns:
            `tuple`: for each layer keys and values, of shape `(num_images, num_heads, num_tokens, head_dim)`. Of one
            image at 384 pixels in the shapes of ALBEF they take 21 MB in float32: keep those of few.
        """
        return tuple(layer.project_image(encoder_hidden_states) for layer in self.layers)  # type: ignore[operator]

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        inputs_embeds: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
        output_positions: torch.Tensor | None = None,
        image_key_values: tuple[tuple[torch.Tensor, torch.Tensor], ...] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithCrossAttentions:
        r"""
        Args:
            inputs_embeds (`torch.Tensor` of shape `(batch_size, length, hidden_size)`):
                Output tokens of the text tower.
            encoder_hidden_states (`torch.Tensor`, *optional*):
                Output tokens of the image tower, of shape `(num_images, num_tokens, encoder_hidden_size)`. Needed
                unless `image_key_values` are given.
            attention_mask (`torch.Tensor` of shape `(batch_size, length)`, *optional*):
                1 at the tokens of the text, 0 at padding.
            image_index (`torch.Tensor` of shape `(batch_size,)`, int64, *optional*):
                The image that each text looks at; defaults to text i and image i. Keys and values are computed once
                per image, so that one image with many texts costs no more than it has to.
            output_positions (`torch.Tensor` of shape `(batch_size, num_positions)`, int64, *optional*):
                The tokens whose output is wanted; defaults to all. The last layer is computed for them alone.
            image_key_values (`tuple`, *optional*):
                Instead of `encoder_hidden_states`, what [`~SaclFusionModel.project_images`] made of them.

        Returns:
            [`BaseModelOutputWithCrossAttentions`]: `last_hidden_state` of shape `(batch_size, length, hidden_size)`,
            or `(batch_size, num_positions, hidden_size)`.
        """
        _reject_unknown_arguments(self, kwargs)
        if (encoder_hidden_states is None) == (image_key_values is None):
            raise ValueError("Texts look at `encoder_hidden_states` or at `image_key_values`: give one of them.")
        images = [encoder_hidden_states] * len(self.layers) if image_key_values is None else image_key_values
        num_images = len(images[0] if image_key_values is None else images[0][0])
        if image_index is None and num_images != len(inputs_embeds):
            raise ValueError(
                f"There are {len(inputs_embeds)} texts and {num_images} images: pass `image_index` to say which text "
                "looks at which image."
            )
        attention_mask = create_bidirectional_mask(
            config=self.config, inputs_embeds=inputs_embeds, attention_mask=attention_mask
        )
        hidden_states = inputs_embeds
        *first_layers, last_layer = self.layers
        for layer, image_states in zip(first_layers, images, strict=False):
            hidden_states = layer(hidden_states, attention_mask, image_states, image_index, **kwargs)
        # Others have masks of their own, that are not cut to some queries: flash attention's, flex attention's.
        inside = self.config._attn_implementation in ("eager", "sdpa")
        hidden_states = last_layer(
            hidden_states,
            attention_mask,
            images[-1],
            image_index,
            output_positions if inside else None,
            **kwargs,
        )
        if output_positions is not None and not inside:
            hidden_states = take_tokens(hidden_states, output_positions)
        return BaseModelOutputWithCrossAttentions(last_hidden_state=hidden_states)


def _build_text_model(config) -> PreTrainedModel:
    """Any encoder, without the pooler that BERT's relatives carry and nothing here would train."""
    name = config.model_type
    if type(config) not in MODEL_MAPPING:
        raise ValueError(f"`AutoModel` knows no text tower of type `{name}`: give a text encoder such as BERT.")
    causal_only = name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and name not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if (causal_only or name == "clip_text_model") and not getattr(config, "use_bidirectional_attention", False):
        raise ValueError(
            f"A text tower of type `{name}` reads from left to right, so that its first token, which stands for the "
            "whole text, sees none of it: give an encoder such as BERT."
        )
    model_class = MODEL_MAPPING[type(config)]
    takes_pooler = "add_pooling_layer" in inspect.signature(model_class.__init__).parameters
    options = {"add_pooling_layer": False} if takes_pooler else {}
    # No dtype of its own, such as that of the checkpoint the configuration is from: it has that of the whole model.
    return AutoModel.from_config(config, dtype=None, **options)


class SaclModel(SaclPreTrainedModel):
    r"""
    Image tower, text tower and fusion encoder. The forward answers like [`CLIPModel`]'s, so that code and pipelines
    written for CLIP run on it; [`~SaclModel.get_fusion_features`] gives the fused tokens of image and text.

    Args:
        config ([`SaclConfig`]).

    Example:

    ```python
    >>> import torch
    >>> from transformers import AutoModel, AutoProcessor

    >>> model = AutoModel.from_pretrained("user/sacl-model")
    >>> processor = AutoProcessor.from_pretrained("user/sacl-model")
    >>> inputs = processor(text=["a red bus", "a cat"], images=image, return_tensors="pt")
    >>> with torch.inference_mode():
    ...     probabilities = model(**inputs).logits_per_image.softmax(dim=-1)
    ```
    """

    _auto_class = "AutoModel"

    def __init__(self, config: SaclConfig):
        super().__init__(config)
        self.text_model = _build_text_model(config.text_config)
        self.vision_model = SaclVisionModel._from_config(config.vision_config, dtype=None)
        self.fusion_model = SaclFusionModel._from_config(config.fusion_encoder_config, dtype=None)
        self.text_projection = nn.Linear(config.text_config.hidden_size, config.projection_dim)
        self.visual_projection = nn.Linear(config.vision_config.hidden_size, config.projection_dim)
        self.logit_scale = nn.Parameter(torch.tensor(float(config.logit_scale_init_value)))
        bias = config.logit_bias_init_value
        self.logit_bias = None if bias is None else nn.Parameter(torch.tensor(float(bias)))
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.text_model.set_input_embeddings(value)

    @can_return_tuple
    def get_text_features(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        r"""
        Args:
            input_ids (`torch.Tensor` of shape `(batch_size, length)`, int64).
            attention_mask (`torch.Tensor` of shape `(batch_size, length)`, *optional*).
            token_type_ids (`torch.Tensor` of shape `(batch_size, length)`, *optional*):
                For text towers that have segments; left to their default when not given.

        Returns:
            [`BaseModelOutputWithPooling`]: the text tower's tokens, and as `pooler_output` of shape `(batch_size,
            projection_dim)` the projected first token (not yet L2-normalised, as in CLIP).
        """
        _reject_unknown_arguments(self, kwargs)
        segments = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        outputs = self.text_model(
            input_ids=input_ids, attention_mask=attention_mask, return_dict=True, **segments, **kwargs
        )
        return BaseModelOutputWithPooling(
            last_hidden_state=outputs.last_hidden_state,
            pooler_output=self.text_projection(outputs.last_hidden_state[:, 0]),
            hidden_states=outputs.get("hidden_states"),
            attentions=outputs.get("attentions"),
        )

    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        interpolate_pos_encoding: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SaclVisionOutput:
        r"""
        Args:
            pixel_values (`torch.Tensor` of shape `(batch_size, num_channels, height, width)`).
            interpolate_pos_encoding (`bool`, *optional*, defaults to `False`):
                Whether images of another size than the configured one are accepted.

        Returns:
            [`SaclVisionOutput`]: the image tower's tokens, and as `pooler_output` of shape `(batch_size,
            projection_dim)` the projected first token (not yet L2-normalised, as in CLIP). Where patches are selected,
            the image alone selects them here.
        """
        _reject_unknown_arguments(self, kwargs)
        outputs = self.vision_model(
            pixel_values, interpolate_pos_encoding=interpolate_pos_encoding, return_dict=True, **kwargs
        )
        outputs.pooler_output = self.visual_projection(outputs.pooler_output)
        return outputs

    @can_return_tuple
    def get_fusion_features(
        self,
        input_ids: torch.Tensor,
        pixel_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithCrossAttentions:
        r"""
        The tokens of each text after they have looked at its image; at the patches that the text has chosen, with
        `patch_selection_guide="text"`.

        Args:
            input_ids (`torch.Tensor` of shape `(batch_size, length)`, int64).
            pixel_values (`torch.Tensor` of shape `(num_images, num_channels, height, width)`).
            attention_mask (`torch.Tensor` of shape `(batch_size, length)`, *optional*).
            image_index (`torch.Tensor` of shape `(batch_size,)`, int64, *optional*):
                The image of each text; defaults to text i and image i.
            interpolate_pos_encoding (`bool`, *optional*, defaults to `False`).

        Returns:
            [`BaseModelOutputWithCrossAttentions`]: `last_hidden_state` of shape `(batch_size, length, hidden_size)`;
            its first token stands for the pair.
        """
        _reject_unknown_arguments(self, kwargs)
        text_tokens = self.get_text_features(input_ids, attention_mask=attention_mask).last_hidden_state
        options = {}
        if self.config.vision_config.selects_patches_by_text:
            # Straight to the patches of each text: the image's own choice would be computed for nothing.
            options = {"text_states": text_tokens[:, 0], "image_index": image_index}
            image_index = None
        vision_outputs = self.vision_model(pixel_values, interpolate_pos_encoding, return_dict=True, **options)
        return self.fuse(text_tokens, vision_outputs, attention_mask, image_index, **kwargs)

    @can_return_tuple
    def fuse(
        self,
        text_tokens: torch.Tensor,
        vision_outputs: SaclVisionOutput,
        attention_mask: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
        output_positions: torch.Tensor | None = None,
        image_key_values: tuple[tuple[torch.Tensor, torch.Tensor], ...] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithCrossAttentions:
        r"""
        The fusion encoder on what the towers gave, for whoever has it already: one image with many texts, say. With
        `patch_selection_guide="text"` every text reads the patches that it has chosen itself; so no row can betray by
        its patches which text belongs to the image, nor which words are masked.

        Args:
            text_tokens (`torch.Tensor` of shape `(batch_size, length, hidden_size)`):
                `last_hidden_state` of [`~SaclModel.get_text_features`].
            vision_outputs ([`SaclVisionOutput`]):
                Output of [`~SaclModel.get_image_features`].
            attention_mask (`torch.Tensor` of shape `(batch_size, length)`, *optional*).
            image_index (`torch.Tensor` of shape `(batch_size,)`, int64, *optional*):
                The image of each text; defaults to text i and image i.
            output_positions (`torch.Tensor` of shape `(batch_size, num_positions)`, int64, *optional*):
                The tokens whose output is wanted; defaults to all.
            image_key_values (`tuple`, *optional*):
                What [`~SaclModel.project_images`] made of `vision_outputs`, for images that meet many texts.

        Returns:
            [`BaseModelOutputWithCrossAttentions`]: `last_hidden_state` of shape `(batch_size, length, hidden_size)`,
            or `(batch_size, num_positions, hidden_size)`.

        Example:

        ```python
        >>> image = model.get_image_features(pixel_values)
        >>> texts = model.get_text_features(input_ids, attention_mask=attention_mask).last_hidden_state
        >>> first_image = input_ids.new_zeros(len(input_ids))
        >>> fused = model.fuse(texts, image, attention_mask, image_index=first_image).last_hidden_state
        ```
        """
        _reject_unknown_arguments(self, kwargs)
        if vision_outputs.shared_states is not None:
            vision_outputs = self.vision_model(
                text_states=text_tokens[:, 0],
                image_index=image_index,
                shared_states=vision_outputs.shared_states,
                return_dict=True,
            )
            image_index = image_key_values = None
        return self.fusion_model(
            text_tokens,
            vision_outputs.last_hidden_state if image_key_values is None else None,
            attention_mask=attention_mask,
            image_index=image_index,
            output_positions=output_positions,
            image_key_values=image_key_values,
            return_dict=True,
            **kwargs,
        )

    def project_images(self, vision_outputs: SaclVisionOutput) -> tuple[tuple[torch.Tensor, torch.Tensor], ...] | None:
        r"""
        What the layers of the fusion encoder look up of images, computed once for all texts to come.

        Args:
            vision_outputs ([`SaclVisionOutput`]):
                Output of [`~SaclModel.get_image_features`].

        Returns:
            `tuple`: the `image_key_values` of [`~SaclModel.fuse`]; `None` where each text chooses its own patches, so
            that nothing can be computed before.
        """
        if vision_outputs.shared_states is not None:
            return None
        return self.fusion_model.project_images(vision_outputs.last_hidden_state)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        pair_ids: torch.Tensor | None = None,
        return_loss: bool | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SaclOutput:
        r"""
        Args:
            input_ids (`torch.Tensor` of shape `(text_batch_size, length)`, int64).
            pixel_values (`torch.Tensor` of shape `(image_batch_size, num_channels, height, width)`).
            attention_mask (`torch.Tensor` of shape `(text_batch_size, length)`, *optional*).
            token_type_ids (`torch.Tensor` of shape `(text_batch_size, length)`, *optional*).
            pair_ids (`torch.Tensor` of shape `(batch_size,)`, int64, *optional*):
                With `return_loss`: rows with equal ids are positives of one another.
            return_loss (`bool`, *optional*):
                Whether to return the similarity-regulated contrastive loss, which needs as many images as texts.
            interpolate_pos_encoding (`bool`, *optional*, defaults to `False`):
                Whether images of another size than the configured one are accepted.

        Returns:
            [`SaclOutput`]
        """
        _reject_unknown_arguments(self, kwargs)
        if input_ids is None or pixel_values is None:
            raise ValueError(
                "`input_ids` and `pixel_values` are both needed; for texts or images alone there are "
                "`get_text_features` and `get_image_features`."
            )
        vision_outputs = self.get_image_features(
            pixel_values, interpolate_pos_encoding=interpolate_pos_encoding, **kwargs
        )
        text_outputs = self.get_text_features(
            input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids, **kwargs
        )
        image_embeds = nn.functional.normalize(vision_outputs.pooler_output, dim=-1)
        text_embeds = nn.functional.normalize(text_outputs.pooler_output, dim=-1)
        logit_scale = self.logit_scale.exp()
        logits_per_image = contrastive_logits(image_embeds, text_embeds, logit_scale)
        if self.logit_bias is not None:
            logits_per_image = logits_per_image + self.logit_bias

        loss = None
        if return_loss:
            loss = similarity_regulated_contrastive_loss(image_embeds, text_embeds, logit_scale, pair_ids=pair_ids)
        return SaclOutput(
            loss=loss,
            logits_per_image=logits_per_image,
            logits_per_text=logits_per_image.T,
            text_embeds=text_embeds,
            image_embeds=image_embeds,
            text_model_output=text_outputs,
            vision_model_output=vision_outputs,
        )


__all__ = [
    "SaclFusionModel",
    "SaclModel",
    "SaclOutput",
    "SaclPreTrainedModel",
    "SaclVisionModel",
    "SaclVisionOutput",
]
