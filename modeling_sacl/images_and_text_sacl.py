# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Statements about two images, as in NLVR2 (Suhr et al., ACL 2019,
[arXiv 1811.00491](https://huggingface.co/papers/1811.00491)).

The fusion encoder looks at both as in SACL (Jiang et al., ACL 2023,
[arXiv 2305.04474](https://huggingface.co/papers/2305.04474)).
"""

import torch
from torch import nn
from transformers import initialization as init
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import OutputRecorder

from .classification_sacl import SaclClassificationHead, SaclClassifierOutput, SaclForImageTextClassification
from .configuration_sacl import SaclConfig, SaclFusionConfig
from .modeling_sacl import SaclAttention, SaclFusionLayer, SaclFusionModel, SaclModel, SaclPreTrainedModel


class SaclImageMerge(nn.Linear):
    """What a text saw in two images, side by side, mapped back to the width of one; at first their average."""

    def __init__(self, hidden_size: int):
        super().__init__(2 * hidden_size, hidden_size)


class SaclTwoImageFusionLayer(SaclFusionLayer):
    """
    A fusion layer with a block of cross-attention for each of two images. What the blocks saw is averaged, or with
    `merges` mapped by weights that are learned, before the residual connection.
    """

    def __init__(self, config: SaclFusionConfig, merges: bool):
        super().__init__(config)
        self.second_cross_attention = SaclAttention(config, key_value_size=config.encoder_hidden_size)
        self.merge = SaclImageMerge(config.hidden_size) if merges else None

    def project_image(self, image_hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of pairs of images, of shape `(num_pairs, 2, num_heads, num_tokens, head_dim)`."""
        if image_hidden_states.ndim != 4 or image_hidden_states.shape[1] != 2:
            raise ValueError(
                "This fusion encoder looks at two images: their tokens must have the shape (num_pairs, 2, num_tokens, "
                f"hidden_size), got {tuple(image_hidden_states.shape)}."
            )
        first, second = image_hidden_states.unbind(dim=1)
        keys, values = zip(
            self.cross_attention.project_key_value(first),
            self.second_cross_attention.project_key_value(second),
            strict=True,
        )
        return torch.stack(keys, dim=1), torch.stack(values, dim=1)

    def _look_at_image(
        self,
        hidden_states: torch.Tensor,
        image_states: torch.Tensor | tuple[torch.Tensor, torch.Tensor],
        image_index: torch.Tensor | None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        key, value = self.project_image(image_states) if torch.is_tensor(image_states) else image_states
        if image_index is not None and len(key) > 1:
            key, value = key.index_select(0, image_index), value.index_select(0, image_index)
        first, _ = self.cross_attention(hidden_states, None, (key[:, 0], value[:, 0]), **kwargs)
        second, _ = self.second_cross_attention(hidden_states, None, (key[:, 1], value[:, 1]), **kwargs)
        if self.merge is None:
            return (first + second) / 2
        return self.merge(torch.cat([first, second], dim=-1))


class SaclTwoImageFusionModel(SaclFusionModel):
    r"""
    The fusion encoder over two images: like [`SaclFusionModel`], but `encoder_hidden_states` are of shape
    `(num_pairs, 2, num_tokens, encoder_hidden_size)`, and `image_index` names pairs of images. The lower half of the
    layers averages what a text sees in the two, the upper half (and the one in the middle) merges it by learned
    weights.

    Of a checkpoint of [`SaclFusionModel`], both blocks of a layer start as the one that it has, and the merge as the
    average: it is then the same in which order the images come.

    Args:
        config ([`SaclFusionConfig`]).
    """

    _no_split_modules = [*SaclFusionModel._no_split_modules, "SaclTwoImageFusionLayer"]
    _starts_as = {"second_cross_attention.": "cross_attention."}
    _can_record_outputs = {
        **SaclFusionModel._can_record_outputs,
        "cross_attentions": [
            OutputRecorder(SaclAttention, index=1, layer_name=name)
            for name in ("cross_attention", "second_cross_attention")
        ],
    }

    def __init__(self, config: SaclFusionConfig):
        # Not its parent's, which would build layers for one image.
        SaclPreTrainedModel.__init__(self, config)
        depth = config.num_hidden_layers
        self.layers = nn.ModuleList(
            [SaclTwoImageFusionLayer(config, merges=number >= depth // 2) for number in range(depth)]
        )
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, SaclImageMerge):
            half = torch.eye(module.out_features, dtype=module.weight.dtype, device=module.weight.device) / 2
            init.copy_(module.weight, torch.cat([half, half], dim=1))


class SaclForImagesAndTextClassification(SaclForImageTextClassification):
    r"""
    SACL with a classifier over a text and two images: whether a statement about them is true (NLVR2). Each layer of
    the fusion encoder has a block of cross-attention for each image, see [`SaclTwoImageFusionModel`]. The stock
    [`Trainer`] trains it, with [`ImagesAndTextClassificationCollator`].

    Of a checkpoint of pre-training, the second block of each layer starts as the first and the merge of the two as
    their average; only the classifier starts at random.

    Args:
        config ([`SaclConfig`]):
            Labels and `problem_type` as in [`SaclForImageTextClassification`]; two labels unless it says otherwise.

    Example:

    ```python
    >>> from modeling_sacl import SaclForImagesAndTextClassification

    >>> model = SaclForImagesAndTextClassification.from_pretrained("user/sacl-model")  # of pre-training, say
    >>> inputs = processor(text=["both show a dog"], images=[left_image, right_image], return_tensors="pt")
    >>> inputs["pixel_values"] = inputs["pixel_values"][None]  # two images for each text
    >>> is_true = model(**inputs).logits.argmax(dim=-1)
    ```
    """

    _auto_class = None
    _no_split_modules = SaclTwoImageFusionModel._no_split_modules
    _starts_as = SaclTwoImageFusionModel._starts_as
    _images_of_a_text = (2,)

    def __init__(self, config: SaclConfig):
        # Not its parent's, which would draw its weights before there are all.
        SaclPreTrainedModel.__init__(self, config)
        self.sacl = SaclModel(config)
        self.sacl.fusion_model = SaclTwoImageFusionModel._from_config(config.fusion_encoder_config, dtype=None)
        self.classifier = SaclClassificationHead(config)
        self.loss_type = "ForSequenceClassification"
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor,
        pixel_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SaclClassifierOutput:
        r"""
        Args:
            input_ids (`torch.Tensor` of shape `(batch_size, length)`, int64).
            pixel_values (`torch.Tensor` of shape `(batch_size, 2, num_channels, height, width)`):
                The first and the second image of each text.
            attention_mask (`torch.Tensor` of shape `(batch_size, length)`, *optional*).
            labels (`torch.Tensor`, *optional*):
                As in [`SaclForImageTextClassification`].
            interpolate_pos_encoding (`bool`, *optional*, defaults to `False`):
                Whether images of another size than the configured one are accepted.

        Returns:
            [`SaclClassifierOutput`]
        """
        return super().forward(
            input_ids, pixel_values, attention_mask, labels, interpolate_pos_encoding, return_dict=True, **kwargs
        )


__all__ = [
    "SaclForImagesAndTextClassification",
    "SaclImageMerge",
    "SaclTwoImageFusionLayer",
    "SaclTwoImageFusionModel",
]
