# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Classification of an image and a text together: visual entailment, and whatever else has a label for a pair.

The head is ALBEF's (Li et al., NeurIPS 2021, [arXiv 2107.07651](https://huggingface.co/papers/2107.07651)).
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithCrossAttentions, SequenceClassifierOutput
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple

from .configuration_sacl import SaclConfig
from .loss_sacl import full_precision
from .modeling_sacl import SaclModel, SaclPreTrainedModel, _reject_unknown_arguments


@dataclass
class SaclClassifierOutput(SequenceClassifierOutput):
    r"""
    Output of [`SaclForImageTextClassification`] and [`SaclForImagesAndTextClassification`].

    Args:
        loss (`torch.Tensor`, scalar, *optional*, returned when `labels` are given):
            Cross-entropy, squared error or binary cross-entropy, by the configuration's `problem_type`.
        logits (`torch.Tensor` of shape `(batch_size, num_labels)`):
            Scores of the labels, float32 or more.
        hidden_states (`tuple` of `torch.Tensor`, *optional*, returned with `output_hidden_states=True`):
            Of the fusion encoder: the text tower's tokens and the output of each layer; of the last layer the first
            token's alone, which is all that is computed there.
        attentions (`tuple` of `torch.Tensor`, *optional*, returned with `output_attentions=True`):
            Of each fusion layer, the attention of text tokens to text tokens; of the last layer the first token's.
        cross_attentions (`tuple` of `torch.Tensor`, *optional*, returned with `output_attentions=True`):
            Of each fusion layer, the attention of text tokens to image tokens; of the last layer the first token's.
            With two images there are two for each layer, to the first image and to the second.
    """

    cross_attentions: tuple[torch.Tensor, ...] | None = None


class SaclClassificationHead(nn.Module):
    """A hidden layer, and the scores of the labels."""

    def __init__(self, config: SaclConfig):
        super().__init__()
        hidden_size = config.fusion_encoder_config.hidden_size
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.activation_fn = nn.ReLU()
        self.out_proj = nn.Linear(hidden_size, config.num_labels)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.out_proj(self.activation_fn(self.dense(hidden_states)))


class SaclForImageTextClassification(SaclPreTrainedModel):
    r"""
    SACL with a classifier on the first token of the fusion encoder, which has read text and image: for visual
    entailment (SNLI-VE, three labels) and any other classification or regression of pairs. The loss is that of
    `transformers`' sequence classification; the stock [`Trainer`] trains it, with [`ImageTextClassificationCollator`].

    Projections and temperature of the contrast stay in the checkpoint, but have no part in the loss.

    Args:
        config ([`SaclConfig`]):
            Its `num_labels`, or `id2label` and `label2id`, name the labels, and its `problem_type`
            (`"single_label_classification"`, `"multi_label_classification"`, `"regression"`) says which loss is
            meant; left out, it follows from the number of labels and the dtype of the first.

    Example:

    ```python
    >>> from modeling_sacl import SaclForImageTextClassification

    >>> model = SaclForImageTextClassification.from_pretrained(
    ...     "user/sacl-model",  # of pre-training, say
    ...     id2label={0: "entailment", 1: "neutral", 2: "contradiction"},
    ...     label2id={"entailment": 0, "neutral": 1, "contradiction": 2},
    ... )
    >>> inputs = processor(text=["two dogs run on a beach"], images=[image], return_tensors="pt")
    >>> label = model.config.id2label[model(**inputs).logits.argmax(dim=-1).item()]
    ```
    """

    _auto_class: str | None = "AutoModelForSequenceClassification"
    # The loss is a mean over the batch, whatever the problem type: `Trainer` scales it for gradient accumulation.
    accepts_loss_kwargs = False
    # How many images a text has: the dimensions of `pixel_values` between the batch and the channels.
    _images_of_a_text: tuple[int, ...] = ()

    def __init__(self, config: SaclConfig):
        super().__init__(config)
        self.sacl = SaclModel(config)
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
            input_ids (`torch.Tensor` of shape `(batch_size, length)`, int64):
                Text i belongs to image i.
            pixel_values (`torch.Tensor` of shape `(batch_size, num_channels, height, width)`).
            attention_mask (`torch.Tensor` of shape `(batch_size, length)`, *optional*).
            labels (`torch.Tensor`, *optional*):
                For one label of several, int64 of shape `(batch_size,)`, with -100 where there is none; for several at
                once, float32 of shape `(batch_size, num_labels)`; for regression, float32 of either shape.
            interpolate_pos_encoding (`bool`, *optional*, defaults to `False`):
                Whether images of another size than the configured one are accepted.

        Returns:
            [`SaclClassifierOutput`]
        """
        _reject_unknown_arguments(self, kwargs)
        self._check_images(input_ids, pixel_values)
        fused = self._fuse(input_ids, pixel_values, attention_mask, interpolate_pos_encoding, **kwargs)
        logits = full_precision(self.classifier(fused.last_hidden_state[:, 0]))
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config, **kwargs)
        return SaclClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=fused.hidden_states,
            attentions=fused.attentions,
            cross_attentions=fused.cross_attentions,
        )

    def _check_images(self, input_ids: torch.Tensor, pixel_values: torch.Tensor) -> None:
        expected = (len(input_ids), *self._images_of_a_text)
        if pixel_values.shape[:-3] != expected:
            raise ValueError(
                f"For {len(input_ids)} texts `pixel_values` must have the shape "
                f"({', '.join(map(str, expected))}, num_channels, height, width), got {tuple(pixel_values.shape)}."
            )

    def _fuse(
        self,
        input_ids: torch.Tensor,
        pixel_values: torch.Tensor,
        attention_mask: torch.Tensor | None,
        interpolate_pos_encoding: bool,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithCrossAttentions:
        """Texts and images, each in one pass of its tower, read at the first token."""
        text_tokens = self.sacl.get_text_features(input_ids, attention_mask=attention_mask).last_hidden_state
        images = pixel_values.flatten(0, -4)
        options = {}
        if self.config.vision_config.selects_patches_by_text:
            # Straight to the patches of each text: the image's own choice would be computed for nothing.
            options["text_states"] = text_tokens[:, 0].repeat_interleave(len(images) // len(text_tokens), dim=0)
        vision_outputs = self.sacl.vision_model(images, interpolate_pos_encoding, return_dict=True, **options)
        vision_outputs.last_hidden_state = vision_outputs.last_hidden_state.unflatten(0, pixel_values.shape[:-3])
        return self.sacl.fuse(
            text_tokens,
            vision_outputs,
            attention_mask,
            output_positions=input_ids.new_zeros(len(input_ids), 1),
            return_dict=True,
            **kwargs,
        )


__all__ = ["SaclClassificationHead", "SaclClassifierOutput", "SaclForImageTextClassification"]
