# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Image-text retrieval: embeddings that find, and a matching head that looks twice.

The head is ALBEF's (Li et al., NeurIPS 2021, [arXiv 2107.07651](https://huggingface.co/papers/2107.07651)); SACL fine-
tunes it with its own similarity as guide (Jiang et al., ACL 2023,
[arXiv 2305.04474](https://huggingface.co/papers/2305.04474)).
"""

from dataclasses import dataclass, field

import torch
from torch import nn
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.generic import can_return_tuple

from .configuration_sacl import SaclConfig
from .loss_sacl import (
    contrastive_logits,
    find_positives,
    full_precision,
    log_regulation_weights,
    similarity_regulated_contrastive_loss,
)
from .modeling_sacl import SaclModel, SaclPreTrainedModel, SaclVisionOutput, _reject_unknown_arguments


@dataclass
class SaclForImageTextRetrievalOutput(ModelOutput):
    r"""
    Output of [`SaclForImageTextRetrieval`].

    Args:
        loss (`torch.Tensor`, scalar, *optional*, returned when `return_loss=True`):
            The sum of the two losses below.
        itc_loss (`torch.Tensor`, scalar, *optional*, returned when `return_loss=True`):
            Similarity-regulated image-text contrastive loss.
        itm_loss (`torch.Tensor`, scalar, *optional*, returned with `with_itm=True`):
            Image-text matching loss over the positives and the hard negatives that exist.
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
    """

    loss: torch.Tensor | None = None
    itc_loss: torch.Tensor | None = None
    itm_loss: torch.Tensor | None = None
    image_embeds: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None
    logit_scale: torch.Tensor | None = None
    logit_bias: torch.Tensor | None = None
    itm_logits: torch.Tensor | None = None
    itm_labels: torch.Tensor | None = None


def sample_hard_negatives(
    logits: torch.Tensor,
    positive_mask: torch.Tensor,
    log_weights: torch.Tensor | None = None,
    hard_share: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""
    Draws one hard negative for every anchor: a candidate that is not a positive, with the probability that the
    contrastive softmax gives it (ALBEF, section 3.2), so that the most confusing are drawn most often.

        p_ij = share * softmax_j(logits_ij + log w_ij) + (1 - share) / number of negatives of i

    Args:
        logits (`torch.Tensor` of shape `(num_anchors, num_candidates)`):
            Scaled cosines.
        positive_mask (`torch.Tensor` of shape `(num_anchors, num_candidates)`, bool):
            Candidates that must never be drawn: they carry the anchor's own pair id.
        log_weights (`torch.Tensor` of shape `(num_anchors, num_candidates)`, *optional*):
            Regulation of the draw. A false negative is confusing *because* it matches; weighted down by its
            similarity, it is not labelled "no match" either.
        hard_share (`float`, *optional*, defaults to 1.0):
            Probability, in [0, 1], that a draw is hard; it is otherwise even. A fusion encoder that cannot yet tell
            any two images apart learns nothing from the most confusing ones.

    Returns:
        Two `torch.Tensor` of shape `(num_anchors,)`: the index drawn (int64), and whether the anchor has a negative at
        all (bool). Where it has none, the index means nothing but is in range; where the logits are not finite, any
        negative is drawn.

    Raises:
        ValueError: if `hard_share` is out of its range.
    """
    if not 0.0 <= hard_share <= 1.0:
        raise ValueError(f"`hard_share` is a probability, in [0, 1], got {hard_share}.")
    scores = logits.detach().float()
    if log_weights is not None:
        scores = scores + log_weights
    has_negative = ~positive_mask.all(dim=-1)
    hard = scores.masked_fill(positive_mask, -torch.inf).softmax(dim=-1)
    even = (~positive_mask | ~has_negative[:, None]).to(hard.dtype)
    even = even / even.sum(dim=-1, keepdim=True)
    # `multinomial` fails on a row of NaN, which is what the softmax makes of no negative and of logits not finite.
    hard = torch.where(hard.isfinite().all(dim=-1, keepdim=True), hard, even)
    return even.lerp(hard, hard_share).multinomial(1).squeeze(1), has_negative


@dataclass
class FusionRows:
    """What goes through the fusion encoder in one pass: texts, the images they look at, and the tokens to read."""

    text_tokens: list[torch.Tensor] = field(default_factory=list)
    image_index: list[torch.Tensor] = field(default_factory=list)
    attention_masks: list[torch.Tensor | None] = field(default_factory=list)
    positions: list[torch.Tensor] = field(default_factory=list)

    def add(
        self,
        text_tokens: torch.Tensor,
        image_index: torch.Tensor,
        attention_mask: torch.Tensor | None,
        positions: torch.Tensor,
    ) -> None:
        self.text_tokens.append(text_tokens)
        self.image_index.append(image_index)
        self.attention_masks.append(attention_mask)
        self.positions.append(positions)

    def fuse(self, model: SaclModel, vision_outputs: SaclVisionOutput, **kwargs) -> list[torch.Tensor]:
        """The tokens that each `add` asked for, of shape `(rows, num_positions, hidden_size)`."""
        widths = [positions.shape[1] for positions in self.positions]
        padded = [
            nn.functional.pad(positions, (0, max(widths) - width))
            for positions, width in zip(self.positions, widths, strict=True)
        ]
        fused = model.fuse(
            torch.cat(self.text_tokens),
            vision_outputs,
            attention_mask=None if self.attention_masks[0] is None else torch.cat(self.attention_masks),
            image_index=torch.cat(self.image_index),
            output_positions=torch.cat(padded),
            return_dict=True,
            **kwargs,
        ).last_hidden_state
        parts = fused.split([len(index) for index in self.image_index])
        return [part[:, :width] for part, width in zip(parts, widths, strict=True)]


class SaclForImageTextRetrieval(SaclPreTrainedModel):
    r"""
    SACL with the head of image-text matching (ITM): the embeddings find candidates by cosine, and the head, which sees
    image and text together, puts the best of them in order ([`evaluate_retrieval`] with `rerank_top_k`). Fine-tuning
    is by contrast (ITC) and matching on hard negatives from the batch; [`SaclTrainer`] with `mlm_weight=0` and no
    guide, or with `return_loss=True` the stock [`Trainer`].

    Args:
        config ([`SaclConfig`]).

    Example:

    ```python
    >>> from modeling_sacl import SaclForImageTextRetrieval

    >>> model = SaclForImageTextRetrieval.from_pretrained("user/sacl-model")  # of pre-training, say
    >>> image = model.sacl.get_image_features(pixel_values)
    >>> texts = model.sacl.get_text_features(input_ids, attention_mask=attention_mask).last_hidden_state
    >>> first_image = input_ids.new_zeros(len(input_ids))
    >>> match = model.match(texts, image, attention_mask, image_index=first_image).softmax(dim=-1)[:, 1]
    ```
    """

    def __init__(self, config: SaclConfig):
        super().__init__(config)
        self.sacl = SaclModel(config)
        self.itm_head = nn.Linear(config.fusion_encoder_config.hidden_size, 2)
        self.post_init()

    def match(
        self,
        text_tokens: torch.Tensor,
        vision_outputs: SaclVisionOutput,
        attention_mask: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
        image_key_values: tuple[tuple[torch.Tensor, torch.Tensor], ...] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        r"""
        Whether texts describe images, from what the towers gave.

        Args:
            text_tokens (`torch.Tensor` of shape `(batch_size, length, hidden_size)`):
                `last_hidden_state` of [`~SaclModel.get_text_features`].
            vision_outputs ([`SaclVisionOutput`]):
                Output of [`~SaclModel.get_image_features`].
            attention_mask (`torch.Tensor` of shape `(batch_size, length)`, *optional*).
            image_index (`torch.Tensor` of shape `(batch_size,)`, int64, *optional*):
                The image of each text; defaults to text i and image i.
            image_key_values (`tuple`, *optional*):
                What [`~SaclModel.project_images`] made of `vision_outputs`, for images that meet many texts.

        Returns:
            `torch.Tensor` of shape `(batch_size, 2)`, float32: scores of "no match" and "match".
        """
        fused = self.sacl.fuse(
            text_tokens,
            vision_outputs,
            attention_mask,
            image_index,
            output_positions=torch.zeros(len(text_tokens), 1, dtype=torch.long, device=text_tokens.device),
            image_key_values=image_key_values,
            return_dict=True,
            **kwargs,
        )
        return full_precision(self.itm_head(fused.last_hidden_state[:, 0]))

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor,
        pixel_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        pair_ids: torch.Tensor | None = None,
        with_itm: bool = True,
        hard_negative_strength: float = 0.0,
        hard_negative_similarity: torch.Tensor | None = None,
        hard_negative_share: float = 1.0,
        num_extra_texts: int = 0,
        num_extra_images: int = 0,
        return_loss: bool | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SaclForImageTextRetrievalOutput:
        r"""
        Args:
            input_ids (`torch.Tensor` of shape `(batch_size, length)`, int64):
                Text i belongs to image i; behind these may be others (see `num_extra_texts`).
            pixel_values (`torch.Tensor` of shape `(batch_size, num_channels, height, width)`).
            attention_mask (`torch.Tensor` of shape `(batch_size, length)`, *optional*).
            pair_ids (`torch.Tensor` of shape `(batch_size,)`, int64, *optional*):
                Rows with equal ids are positives of one another, never negatives. Defaults to every row its own pair.
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
            [`SaclForImageTextRetrievalOutput`]
        """
        _reject_unknown_arguments(self, kwargs)
        outputs = SaclForImageTextRetrievalOutput()
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
            (matched,) = rows.fuse(self.sacl, vision_outputs, **kwargs)
            self._judge_matching(outputs, matched)
        if return_loss:
            self._add_losses(outputs, pair_ids, num_pairs)
        return outputs

    # The steps of the forward, which pre-training shares.

    def _embed(
        self,
        outputs: SaclForImageTextRetrievalOutput,
        input_ids: torch.Tensor,
        pixel_values: torch.Tensor,
        attention_mask: torch.Tensor | None,
        interpolate_pos_encoding: bool,
        num_extra_texts: int = 0,
        num_extra_images: int = 0,
    ) -> tuple[SaclVisionOutput, ModelOutput]:
        """Both towers; the embeddings go into the outputs."""
        if len(input_ids) - num_extra_texts != len(pixel_values) - num_extra_images:
            extra_texts, extra_images = (
                f", {number} of them extra," if number else "" for number in (num_extra_texts, num_extra_images)
            )
            raise ValueError(
                f"Text i belongs to image i, but there are {len(input_ids)} texts{extra_texts} and "
                f"{len(pixel_values)} images{extra_images.rstrip(',')}."
            )
        vision_outputs = self.sacl.get_image_features(pixel_values, interpolate_pos_encoding=interpolate_pos_encoding)
        text_outputs = self.sacl.get_text_features(input_ids, attention_mask=attention_mask)
        outputs.image_embeds = nn.functional.normalize(vision_outputs.pooler_output, dim=-1)
        outputs.text_embeds = nn.functional.normalize(text_outputs.pooler_output, dim=-1)
        outputs.logit_scale = self.sacl.logit_scale.exp()
        if self.sacl.logit_bias is not None:
            # A copy: a sharded parameter is whole in the forward alone.
            outputs.logit_bias = self.sacl.logit_bias.clone()
        return vision_outputs, text_outputs

    def _add_matching(
        self,
        rows: FusionRows,
        text_outputs: ModelOutput,
        attention_mask: torch.Tensor | None,
        text_index: torch.Tensor,
        image_index: torch.Tensor,
    ) -> None:
        """Texts with the images that they are matched with, to be read at the first token."""
        rows.add(
            text_outputs.last_hidden_state[text_index],
            image_index,
            None if attention_mask is None else attention_mask[text_index],
            positions=text_index.new_zeros(len(text_index), 1),
        )

    def _judge_matching(self, outputs: SaclForImageTextRetrievalOutput, matched: torch.Tensor) -> None:
        outputs.itm_logits = full_precision(self.itm_head(matched[:, 0]))
        outputs.itm_loss = nn.functional.cross_entropy(outputs.itm_logits, outputs.itm_labels)

    def _add_losses(
        self, outputs: SaclForImageTextRetrievalOutput, pair_ids: torch.Tensor | None, num_pairs: int
    ) -> None:
        """The contrastive loss, and the sum of all that there are."""
        image_embeds, text_embeds = outputs.image_embeds[:num_pairs], outputs.text_embeds[:num_pairs]
        outputs.itc_loss = similarity_regulated_contrastive_loss(
            image_embeds, text_embeds, outputs.logit_scale, pair_ids=pair_ids
        )
        parts = (outputs.itc_loss, outputs.itm_loss, outputs.get("mlm_loss"))
        outputs.loss = torch.stack([part for part in parts if part is not None]).sum()

    def _match_with_hard_negatives(
        self,
        outputs: SaclForImageTextRetrievalOutput,
        pair_ids: torch.Tensor | None,
        strength: float,
        similarity: torch.Tensor | None,
        hard_share: float,
        num_pairs: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Texts and images to match: the pairs, then images with wrong texts, texts with wrong images. Labels too."""
        image_embeds, text_embeds = outputs.image_embeds[:num_pairs], outputs.text_embeds[:num_pairs]
        batch = torch.arange(num_pairs, device=text_embeds.device)
        positive_mask = find_positives(batch if pair_ids is None else pair_ids)
        logits = contrastive_logits(image_embeds.detach(), text_embeds.detach(), outputs.logit_scale.detach())
        if similarity is not None and similarity.shape != logits.shape:
            raise ValueError(
                f"`hard_negative_similarity` must have the shape (batch_size, batch_size) = {tuple(logits.shape)}, "
                f"got {tuple(similarity.shape)}."
            )
        cosines = logits / outputs.logit_scale.detach() if similarity is None else similarity
        negative_texts, image_has_negative = sample_hard_negatives(
            logits,
            positive_mask,
            log_regulation_weights(cosines, strength=strength, negative_mask=~positive_mask),
            hard_share,
        )
        negative_images, text_has_negative = sample_hard_negatives(
            logits.T,
            positive_mask.T,
            log_regulation_weights(cosines.T, strength=strength, negative_mask=~positive_mask.T),
            hard_share,
        )
        has_negative = torch.cat([image_has_negative, text_has_negative])
        outputs.itm_labels = torch.cat([torch.ones_like(batch), torch.where(has_negative, 0, -100)])
        return torch.cat([batch, negative_texts, batch]), torch.cat([batch, batch, negative_images])


__all__ = [
    "FusionRows",
    "SaclForImageTextRetrieval",
    "SaclForImageTextRetrievalOutput",
    "sample_hard_negatives",
]
