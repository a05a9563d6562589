# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Pre-training: contrast, matching, and masked words, in one pass of each part of the model.

The tasks are ALBEF's (Li et al., NeurIPS 2021, [arXiv 2107.07651](https://huggingface.co/papers/2107.07651)); the
contrast is SACL's (Jiang et al., ACL 2023, [arXiv 2305.04474](https://huggingface.co/papers/2305.04474)).
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple

from .configuration_sacl import SaclConfig
from .loss_sacl import full_precision
from .modeling_sacl import SaclModel, SaclPreTrainedModel, _reject_unknown_arguments
from .retrieval_sacl import FusionRows, SaclForImageTextRetrieval, SaclForImageTextRetrievalOutput


@dataclass
class SaclForPreTrainingOutput(SaclForImageTextRetrievalOutput):
    r"""
    Output of [`SaclForPreTraining`].

    Args:
        loss (`torch.Tensor`, scalar, *optional*, returned when `return_loss=True`):
            The sum of the three losses below.
        itc_loss (`torch.Tensor`, scalar, *optional*, returned when `return_loss=True`):
            Similarity-regulated image-text contrastive loss.
        itm_loss (`torch.Tensor`, scalar, *optional*, returned with `with_itm=True`):
            Image-text matching loss over the positives and the hard negatives that exist.
        mlm_loss (`torch.Tensor`, scalar, *optional*, returned when `mlm_labels` are given):
            Masked language modeling loss over the masked positions.
        image_embeds (`torch.Tensor` of shape `(batch_size, projection_dim)`):
            L2-normalised image embeddings.
        text_embeds (`torch.Tensor` of shape `(batch_size, projection_dim)`):
            L2-normalised text embeddings.
        logit_scale (`torch.Tensor`, scalar):
            The inverse of the temperature.
        logit_bias (`torch.Tensor`, scalar, *optional*, returned if the model has one):
            The bias of a sigmoid loss.
        itm_logits (`torch.Tensor` of shape `(3 * batch_size, 2)`, *optional*, returned with `with_itm=True`):
            Scores of "no match" and "match" for the pairs, then every image with a hard negative text, then every text
            with a hard negative image.
        itm_labels (`torch.Tensor` of shape `(3 * batch_size,)`, *optional*, returned with `with_itm=True`):
            1 for the pairs, 0 for the negatives, -100 where a pair has no negative in the batch.
        mlm_logits (`torch.Tensor` of shape `(batch_size, masked, vocab_size)`, *optional*, with `mlm_input_ids`):
            Scores of the vocabulary at `mlm_positions`.
    """

    mlm_loss: torch.Tensor | None = None
    mlm_logits: torch.Tensor | None = None


class SaclMaskedLanguageHead(nn.Module):
    """BERT's prediction head: a transform, then the word embeddings as output layer."""

    def __init__(self, config: SaclConfig, embedding_size: int):
        super().__init__()
        fusion_config = config.fusion_encoder_config
        self.dense = nn.Linear(fusion_config.hidden_size, embedding_size)
        self.activation_fn = ACT2FN[fusion_config.hidden_act]
        self.layer_norm = nn.LayerNorm(embedding_size, eps=fusion_config.layer_norm_eps)
        self.decoder = nn.Linear(embedding_size, config.text_config.vocab_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.layer_norm(self.activation_fn(self.dense(hidden_states))))


class SaclWithMaskedLanguageHead(SaclPreTrainedModel):
    """A model whose `mlm_head` predicts with word embeddings, those of its text tower by default."""

    def _predicted_word_embeddings(self) -> nn.Embedding:
        return self.get_input_embeddings()

    def _add_mlm_head(self) -> None:
        word_embeddings = self._predicted_word_embeddings()
        self.mlm_head = SaclMaskedLanguageHead(self.config, embedding_size=word_embeddings.embedding_dim)
        # Where the word embeddings are depends on the text tower's family.
        name = next(name for name, module in self.named_modules() if module is word_embeddings)
        self._tied_weights_keys = {"mlm_head.decoder.weight": f"{name}.weight"}
        if self.config.tie_word_embeddings:
            self._keys_to_ignore_on_save = set(self._tied_weights_keys)

    def get_output_embeddings(self) -> nn.Module:
        return self.mlm_head.decoder

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        self.mlm_head.decoder = new_embeddings


class SaclForPreTraining(SaclWithMaskedLanguageHead, SaclForImageTextRetrieval):
    r"""
    SACL with the heads of pre-training: image-text contrast (ITC), image-text matching (ITM) on hard negatives from
    the batch, and masked language modeling (MLM) with the image in view. ITM and MLM share one pass through the
    fusion encoder, and the MLM head runs on the masked positions only.

    [`SaclTrainer`] adds what lives beside the model: momentum teacher, queue, schedules. With `return_loss=True` the
    model also trains alone, under the stock [`Trainer`].

    Args:
        config ([`SaclConfig`]).
    """

    _auto_class = "AutoModelForPreTraining"

    def __init__(self, config: SaclConfig):
        # Not its parent's, which would draw its weights before there are all.
        SaclPreTrainedModel.__init__(self, config)
        self.sacl = SaclModel(config)
        self.itm_head = nn.Linear(config.fusion_encoder_config.hidden_size, 2)
        self._add_mlm_head()
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor,
        pixel_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        pair_ids: torch.Tensor | None = None,
        mlm_input_ids: torch.Tensor | None = None,
        mlm_positions: torch.Tensor | None = None,
        mlm_labels: torch.Tensor | None = None,
        with_itm: bool = True,
        hard_negative_strength: float = 0.0,
        hard_negative_similarity: torch.Tensor | None = None,
        hard_negative_share: float = 1.0,
        num_extra_texts: int = 0,
        num_extra_images: int = 0,
        return_loss: bool | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SaclForPreTrainingOutput:
        r"""
        Args:
            input_ids (`torch.Tensor` of shape `(batch_size, length)`, int64):
                Text i belongs to image i; behind these may be others (see `num_extra_texts`).
            pixel_values (`torch.Tensor` of shape `(batch_size, num_channels, height, width)`).
            attention_mask (`torch.Tensor` of shape `(batch_size, length)`, *optional*).
            pair_ids (`torch.Tensor` of shape `(batch_size,)`, int64, *optional*):
                Rows with equal ids are positives of one another, never negatives. Defaults to every row its own pair.
            mlm_input_ids (`torch.Tensor` of shape `(batch_size, length)`, int64, *optional*):
                A masked copy of `input_ids`. Without it there is no MLM.
            mlm_positions (`torch.Tensor` of shape `(batch_size, masked)`, int64, *optional*):
                The positions to predict; rows with fewer are padded with any position.
            mlm_labels (`torch.Tensor` of shape `(batch_size, masked)`, int64, *optional*):
                The original tokens at `mlm_positions`; -100 where padded.
            with_itm (`bool`, *optional*, defaults to `True`):
                Whether to compute ITM.
            hard_negative_strength (`float`, *optional*, defaults to 0.0):
                Regulation of the hard negatives' draw: at 0 they are drawn as in ALBEF, above it those that resemble
                the anchor are drawn less.
            hard_negative_similarity (`torch.Tensor` of shape `(batch_size, batch_size)`, *optional*):
                Cosines of images with texts that regulate the draw; defaults to the model's own.
            hard_negative_share (`float`, *optional*, defaults to 1.0):
                Probability, in [0, 1], that a negative is drawn hard, and not evenly ([`sample_hard_negatives`]).
            num_extra_texts (`int`, *optional*, defaults to 0):
                How many of the texts, the last ones, belong to no image: they are embedded and no more.
            num_extra_images (`int`, *optional*, defaults to 0):
                How many of the images, the last ones, belong to no text.
            return_loss (`bool`, *optional*):
                Whether to return the contrastive loss and the sum of all losses.
            interpolate_pos_encoding (`bool`, *optional*, defaults to `False`):
                Whether images of another size than the configured one are accepted.

        Returns:
            [`SaclForPreTrainingOutput`]
        """
        _reject_unknown_arguments(self, kwargs)
        if (mlm_input_ids is None) != (mlm_positions is None) or (mlm_labels is not None and mlm_input_ids is None):
            raise ValueError(
                "Masked language modeling needs `mlm_input_ids` and `mlm_positions`, and for its loss `mlm_labels`: "
                "give the first two together or none of the three."
            )
        outputs = SaclForPreTrainingOutput()
        rows, num_pairs = FusionRows(), len(input_ids) - num_extra_texts
        vision_outputs, text_outputs = self._embed(
            outputs,
            input_ids,
            pixel_values,
            attention_mask,
            interpolate_pos_encoding,
            num_extra_texts,
            num_extra_images,
        )
        if with_itm:
            pairs = self._match_with_hard_negatives(
                outputs, pair_ids, hard_negative_strength, hard_negative_similarity, hard_negative_share, num_pairs
            )
            self._add_matching(rows, text_outputs, attention_mask, *pairs)
        if mlm_input_ids is not None:
            batch = torch.arange(len(mlm_input_ids), device=input_ids.device)
            own_mask = None if attention_mask is None else attention_mask[: len(batch)]
            masked_outputs = self.sacl.get_text_features(mlm_input_ids, attention_mask=own_mask)
            rows.add(masked_outputs.last_hidden_state, batch, own_mask, positions=mlm_positions)
        fused = rows.fuse(self.sacl, vision_outputs, **kwargs) if rows.positions else []
        if with_itm:
            self._judge_matching(outputs, fused[0])
        if mlm_input_ids is not None:
            outputs.mlm_logits = full_precision(self.mlm_head(fused[-1]))
            if mlm_labels is not None:
                losses = nn.functional.cross_entropy(
                    outputs.mlm_logits.flatten(0, 1), mlm_labels.flatten(), reduction="sum"
                )
                outputs.mlm_loss = losses / (mlm_labels != -100).sum().clamp(min=1)
        if return_loss:
            self._add_losses(outputs, pair_ids, num_pairs)
        return outputs


__all__ = [
    "SaclForPreTraining",
    "SaclForPreTrainingOutput",
    "SaclMaskedLanguageHead",
    "SaclWithMaskedLanguageHead",
]
