# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Visual question answering: a decoder above the fusion encoder, which writes answers or ranks those of a list.

The head is ALBEF's (Li et al., NeurIPS 2021, section 4, [arXiv 2107.07651](https://huggingface.co/papers/2107.07651)),
and SACL is evaluated with it (Jiang et al., ACL 2023, [arXiv 2305.04474](https://huggingface.co/papers/2305.04474)).
"""

import copy
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn
from transformers import Cache, DynamicCache, EncoderDecoderCache, GenerationMixin
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPastAndCrossAttentions
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration_sacl import SaclConfig, SaclFusionConfig
from .loss_sacl import full_precision
from .modeling_sacl import (
    SaclAttention,
    SaclFusionLayer,
    SaclModel,
    SaclPreTrainedModel,
    _reject_unknown_arguments,
)
from .pretraining_sacl import SaclWithMaskedLanguageHead


# The longest answer in tokens, where the text tower does not read less.
_MAX_ANSWER_LENGTH = 512


@dataclass
class SaclForQuestionAnsweringOutput(ModelOutput):
    r"""
    Output of [`SaclForQuestionAnswering`], with the names of an encoder-decoder's.

    Args:
        loss (`torch.Tensor`, scalar, *optional*, returned when `labels` are given):
            The negative log-likelihood of the answers, each times its weight, summed for each question and averaged
            over the questions.
        logits (`torch.Tensor`):
            Scores of the vocabulary, in float32. With `labels`, of shape `(num_answers, length - 1, vocab_size)`, for
            the tokens after the first of every answer that there is, question by question; with `decoder_input_ids`,
            of shape `(batch_size, length, vocab_size)`, for the token after each.
        past_key_values ([`EncoderDecoderCache`], *optional*, returned with `use_cache=True`):
            What the decoder has computed of the tokens so far and of the question.
        decoder_hidden_states (`tuple` of `torch.Tensor`, *optional*, returned with `output_hidden_states=True`):
            The input of the decoder's first layer and the output of each.
        decoder_attentions (`tuple` of `torch.Tensor`, *optional*, returned with `output_attentions=True`):
            The attention of the answer's tokens to one another, for each layer of the decoder.
        cross_attentions (`tuple` of `torch.Tensor`, *optional*, returned with `output_attentions=True`):
            Their attention to the tokens of the question.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    past_key_values: Cache | None = None
    decoder_hidden_states: tuple[torch.Tensor, ...] | None = None
    decoder_attentions: tuple[torch.Tensor, ...] | None = None
    cross_attentions: tuple[torch.Tensor, ...] | None = None


# ---------------------------------------------------------------------------------------------------------- decoder


class SaclCausalAttention(SaclAttention):
    """Attention of tokens to themselves and those before them, which a cache may hold."""

    def __init__(self, config: SaclFusionConfig, layer_index: int):
        super().__init__(config)
        self.is_causal = True
        self.layer_index = layer_index

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        key_value: tuple[torch.Tensor, torch.Tensor] | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        question_mask: torch.Tensor | None = None,  # of the layer's other attention, which has the same keywords
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        key_value = self.project_key_value(hidden_states) if key_value is None else key_value
        if past_key_values is not None:
            key_value = past_key_values.self_attention_cache.update(*key_value, self.layer_index)
        return super().forward(hidden_states, attention_mask, key_value, **kwargs)


class SaclAnswerLayer(SaclFusionLayer):
    """A fusion layer that reads from left to right, and looks at a question where others look at an image."""

    def __init__(self, config: SaclFusionConfig, layer_index: int):
        super().__init__(config)
        self.self_attention = SaclCausalAttention(config, layer_index)
        self.layer_index = layer_index

    def _look_at_image(
        self,
        hidden_states: torch.Tensor,
        image_states: torch.Tensor | tuple[torch.Tensor, torch.Tensor],
        image_index: torch.Tensor | None,
        past_key_values: EncoderDecoderCache | None = None,
        question_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        if past_key_values is not None and past_key_values.is_updated.get(self.layer_index):
            cached = past_key_values.cross_attention_cache.layers[self.layer_index]
            key, value = cached.keys, cached.values
        else:
            key, value = self.project_image(image_states) if torch.is_tensor(image_states) else image_states
            if image_index is not None:
                key, value = key.index_select(0, image_index), value.index_select(0, image_index)
            if past_key_values is not None:
                key, value = past_key_values.cross_attention_cache.update(key, value, self.layer_index)
                past_key_values.is_updated[self.layer_index] = True
        # Tokens look each for itself: the answers of a question line up as one, in place of copies of its keys.
        rows = hidden_states.reshape(len(key), -1, hidden_states.shape[-1])
        return self.cross_attention(rows, question_mask, (key, value), **kwargs)[0].view_as(hidden_states)


class SaclAnswerDecoder(SaclPreTrainedModel):
    r"""
    The decoder: tokens of an answer attend to those before them, and to the tokens of a question that has seen its
    image. Flash and flex attention have no form for questions of different lengths beside answers of another; where
    the model uses them, the decoder, whose rows are short, uses SDPA.

    Args:
        config ([`SaclFusionConfig`]):
            Its `encoder_hidden_size` is the width of the question's tokens.
        embedding_size (`int`):
            Width of the word embeddings.
        max_length (`int`):
            The longest answer in tokens.
        vocab_size (`int`, *optional*):
            Number of the decoder's own word embeddings; without it, the words are another's.
    """

    config: SaclFusionConfig
    base_model_prefix = "answer_decoder"
    main_input_name = "inputs_embeds"
    input_modalities = ("text",)
    _no_split_modules = ["SaclAnswerLayer"]
    _can_record_outputs = {
        "hidden_states": SaclAnswerLayer,
        "attentions": OutputRecorder(SaclAttention, index=1, layer_name="self_attention"),
        "cross_attentions": OutputRecorder(SaclAttention, index=1, layer_name="cross_attention"),
    }

    def __init__(self, config: SaclFusionConfig, embedding_size: int, max_length: int, vocab_size: int | None = None):
        super().__init__(config)
        self.word_embedding = None if vocab_size is None else nn.Embedding(vocab_size, embedding_size)
        self.position_embedding = nn.Embedding(max_length, embedding_size)
        self.embedding_layer_norm = nn.LayerNorm(embedding_size, eps=config.layer_norm_eps)
        self.embedding_projection = (
            nn.Identity() if embedding_size == config.hidden_size else nn.Linear(embedding_size, config.hidden_size)
        )
        self.layers = nn.ModuleList([SaclAnswerLayer(config, index) for index in range(config.num_hidden_layers)])
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.post_init()

    def get_correct_attn_implementation(self, requested_attention: str | None, is_init_check: bool = False) -> str:
        if requested_attention not in (None, "eager"):
            requested_attention = "sdpa"
        return super().get_correct_attn_implementation(requested_attention, is_init_check)

    def embed(self, word_embeds: torch.Tensor, past_length: int) -> torch.Tensor:
        """Words at their positions, of which the first comes after `past_length` others."""
        max_length, length = self.position_embedding.num_embeddings, past_length + word_embeds.shape[1]
        if length > max_length:
            raise ValueError(
                f"An answer has at most {max_length} tokens, got {length}: cut it to `max_length` tokens."
            )
        positions = torch.arange(past_length, length, device=word_embeds.device)
        embeds = self.embedding_layer_norm(word_embeds + self.position_embedding(positions))
        return self.embedding_projection(self.dropout(embeds))

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        inputs_embeds: torch.Tensor,
        question_states: torch.Tensor,
        question_mask: torch.Tensor | None = None,
        question_index: torch.Tensor | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        r"""
        Args:
            inputs_embeds (`torch.Tensor` of shape `(num_answers, length, embedding_size)`):
                Word embeddings of the answers' tokens. Padding comes after them, where they do not see it.
            question_states (`torch.Tensor` of shape `(num_questions, question_length, encoder_hidden_size)`):
                Output tokens of the fusion encoder.
            question_mask (`torch.Tensor` of shape `(num_questions, question_length)`, *optional*):
                1 at the tokens of a question, 0 at padding.
            question_index (`torch.Tensor` of shape `(num_answers,)`, int64, *optional*):
                The question of each answer. By default all questions have equally many answers, one after another.
            past_key_values ([`EncoderDecoderCache`], *optional*):
                What was computed of the tokens before these; these are added to it.

        Returns:
            [`BaseModelOutputWithPastAndCrossAttentions`]: `last_hidden_state` of shape `(num_answers, length,
            hidden_size)`.
        """
        _reject_unknown_arguments(self, kwargs)
        past_length = 0 if past_key_values is None else int(past_key_values.get_seq_length())
        hidden_states = self.embed(inputs_embeds, past_length)
        causal_mask = create_causal_mask(
            config=self.config,
            inputs_embeds=hidden_states,
            attention_mask=None,
            past_key_values=None if past_key_values is None else past_key_values.self_attention_cache,
        )
        if question_mask is not None:
            # The same for every token that looks, however many there are.
            question_mask = create_bidirectional_mask(
                config=self.config, inputs_embeds=question_states, attention_mask=question_mask
            )
        if question_mask is not None:
            question_mask = question_mask[:, :, :1]
            if question_index is not None:
                question_mask = question_mask.index_select(0, question_index)
        for layer in self.layers:
            hidden_states = layer(
                hidden_states,
                causal_mask,
                question_states,
                question_index,
                past_key_values=past_key_values,
                question_mask=question_mask,
                **kwargs,
            )
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=hidden_states, past_key_values=past_key_values
        )


# ------------------------------------------------------------------------------------------------------------- head


class SaclForQuestionAnswering(SaclWithMaskedLanguageHead, GenerationMixin):
    r"""
    SACL with a decoder that answers questions about images. The fusion encoder reads the question with the image in
    view, and the decoder writes the answer with the fused question in view: [`~SaclForQuestionAnswering.generate`], or
    [`~SaclForQuestionAnswering.rank_answers`] where the answers to choose from are known.

    The decoder's words are the text tower's, and it predicts them by the masked-language head of pre-training. In a
    checkpoint that has no decoder, its layers start as those of the fusion encoder, and its positions as the text
    tower's. Projections of another shape start at random: keys and values of the cross-attention, where the towers
    differ in width.

    With `labels` the model trains under the stock [`Trainer`]. `config.num_answer_decoder_layers` says how deep the
    decoder is; with `config.share_answer_word_embeddings=False` it has words of its own, which start as the text
    tower's.

    Args:
        config ([`SaclConfig`]).

    Example:

    ```python
    >>> from transformers import AutoModelForVisualQuestionAnswering, AutoProcessor

    >>> model = AutoModelForVisualQuestionAnswering.from_pretrained("user/sacl-vqa")
    >>> processor = AutoProcessor.from_pretrained("user/sacl-vqa")
    >>> answer = model.generate(**processor(text="what color is the bus?", images=image, return_tensors="pt"))
    >>> processor.batch_decode(answer, skip_special_tokens=True)
    ['red']
    ```
    """

    _auto_class = "AutoModelForVisualQuestionAnswering"
    _starts_as = {"answer_decoder.": "sacl.fusion_model."}
    # The loss is a mean over questions, whatever the number of labels in the batches of a step.
    accepts_loss_kwargs = False

    def __init__(self, config: SaclConfig):
        # Generation goes by this mark. On a copy: the same configuration may be that of a model without decoder.
        config = copy.deepcopy(config)
        config.is_encoder_decoder = True
        super().__init__(config)
        self.sacl = SaclModel(config)
        decoder_config = copy.deepcopy(config.fusion_encoder_config)
        decoder_config.encoder_hidden_size = decoder_config.hidden_size
        if config.num_answer_decoder_layers is not None:
            decoder_config.num_hidden_layers = config.num_answer_decoder_layers
        max_length = getattr(config.text_config, "max_position_embeddings", None) or _MAX_ANSWER_LENGTH
        self.answer_decoder = SaclAnswerDecoder._from_config(
            decoder_config,
            dtype=None,
            embedding_size=self.get_input_embeddings().embedding_dim,
            max_length=min(max_length, _MAX_ANSWER_LENGTH),
            vocab_size=None if config.share_answer_word_embeddings else config.text_config.vocab_size,
        )
        self._add_mlm_head()
        self.post_init()

    def _predicted_word_embeddings(self) -> nn.Embedding:
        own = self.answer_decoder.word_embedding
        return self.get_input_embeddings() if own is None else own

    def resize_token_embeddings(
        self,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        mean_resizing: bool = True,
    ) -> nn.Embedding:
        """Like [`~PreTrainedModel.resize_token_embeddings`], for the decoder's own words too, where it has some."""
        decoder = self.answer_decoder
        if decoder.word_embedding is not None:
            decoder.word_embedding = self._get_resized_embeddings(
                decoder.word_embedding, new_num_tokens, pad_to_multiple_of, mean_resizing
            )
        return super().resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)

    @torch.no_grad()
    def _start_copies(self, names: Iterable[str]) -> None:
        names = list(names)
        super()._start_copies(names)
        if "answer_decoder.word_embedding.weight" in names:
            self.answer_decoder.word_embedding.weight.copy_(self.get_input_embeddings().weight)
        if "answer_decoder.position_embedding.weight" not in names:
            return
        # The embeddings of BERT and its relatives.
        embeddings, decoder = getattr(self.sacl.text_model, "embeddings", None), self.answer_decoder
        source, types = (getattr(embeddings, f"{kind}_embeddings", None) for kind in ("position", "token_type"))
        target = decoder.position_embedding.weight
        if not isinstance(source, nn.Embedding) or source.embedding_dim != target.shape[1]:
            return
        # RoBERTa and others begin to count after the place of padding.
        positions = source.weight[0 if source.padding_idx is None else source.padding_idx + 1 :][: len(target)]
        target[: len(positions)] = positions if types is None else positions + types.weight[0]
        decoder.embedding_layer_norm.load_state_dict(embeddings.LayerNorm.state_dict())
        projection = getattr(self.sacl.text_model, "embeddings_project", None)  # ELECTRA's, of narrow embeddings
        if projection is not None:
            decoder.embedding_projection.load_state_dict(projection.state_dict())

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        answer_weights: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        encoder_outputs: ModelOutput | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        use_cache: bool | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SaclForQuestionAnsweringOutput:
        r"""
        Args:
            input_ids (`torch.Tensor` of shape `(batch_size, question_length)`, int64):
                Question i is about image i.
            pixel_values (`torch.Tensor` of shape `(batch_size, num_channels, height, width)`).
            attention_mask (`torch.Tensor` of shape `(batch_size, question_length)`, *optional*).
            labels (`torch.Tensor` of shape `(batch_size, num_answers, length)` or `(batch_size, length)`, int64):
                Answers to learn, as the tokenizer gives them: from its first special token to its last; -100 at
                padding, and all through where a question has fewer answers than others.
            answer_weights (`torch.Tensor` of shape `(batch_size, num_answers)` or `(batch_size,)`, *optional*):
                What each answer counts in the loss, say the share of people who gave it. Defaults to 1.
            decoder_input_ids (`torch.Tensor` of shape `(batch_size, length)`, int64, *optional*):
                Instead of `labels`, the beginning of one answer to each question.
            encoder_outputs (`ModelOutput`, *optional*):
                Instead of `input_ids` and `pixel_values`, what [`~SaclModel.get_fusion_features`] made of them.
            past_key_values ([`EncoderDecoderCache`], *optional*):
                What was computed of the tokens before `decoder_input_ids`.
            use_cache (`bool`, *optional*):
                Whether to return `past_key_values`.
            interpolate_pos_encoding (`bool`, *optional*, defaults to `False`):
                Whether images of another size than the configured one are accepted.

        Returns:
            [`SaclForQuestionAnsweringOutput`]
        """
        _reject_unknown_arguments(self, kwargs)
        if (labels is None) == (decoder_input_ids is None):
            raise ValueError(
                "The forward takes answers to learn as `labels`, or the beginnings of some as `decoder_input_ids`: "
                "one of the two. To have questions answered there are `generate` and `rank_answers`."
            )
        question_states = self._read_questions(
            input_ids, pixel_values, attention_mask, encoder_outputs, interpolate_pos_encoding
        )
        targets = weights = question_index = None
        if labels is not None:
            decoder_input_ids, targets, weights, question_index = _arrange_answers(
                labels, answer_weights, num_questions=len(question_states)
            )
        if use_cache and past_key_values is None:
            past_key_values = EncoderDecoderCache(DynamicCache(), DynamicCache())
        decoded = self._decode(
            decoder_input_ids, question_states, attention_mask, question_index, past_key_values, **kwargs
        )
        outputs = SaclForQuestionAnsweringOutput(
            logits=full_precision(self.mlm_head(decoded.last_hidden_state)),
            past_key_values=decoded.past_key_values,
            decoder_hidden_states=decoded.hidden_states,
            decoder_attentions=decoded.attentions,
            cross_attentions=decoded.cross_attentions,
        )
        if labels is not None:
            losses = nn.functional.cross_entropy(outputs.logits.transpose(1, 2), targets, reduction="none")
            outputs.loss = (weights * losses.sum(dim=1)).sum() / len(question_states)
        return outputs

    @torch.no_grad()
    def generate(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        encoder_outputs: ModelOutput | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs,
    ) -> torch.Tensor | ModelOutput:
        r"""
        Writes an answer to each question, by [`~GenerationMixin.generate`].

        Args:
            input_ids (`torch.Tensor` of shape `(batch_size, question_length)`, int64).
            pixel_values (`torch.Tensor` of shape `(batch_size, num_channels, height, width)`).
            attention_mask (`torch.Tensor` of shape `(batch_size, question_length)`, *optional*).
            encoder_outputs (`ModelOutput`, *optional*):
                Instead of `input_ids` and `pixel_values`, what [`~SaclModel.get_fusion_features`] made of them.
            interpolate_pos_encoding (`bool`, *optional*, defaults to `False`):
                Whether images of another size than the configured one are accepted.
            kwargs:
                Options of [`GenerationConfig`], such as `max_new_tokens`, `num_beams` or `do_sample`, and arguments of
                [`~GenerationMixin.generate`].

        Returns:
            `torch.Tensor` of shape `(batch_size * num_return_sequences, length)`, or a [`ModelOutput`] with
            `return_dict_in_generate=True`: the tokens of the answers, with those that mark beginning and end.

        Raises:
            ValueError: if nothing says with which tokens answers begin and end. The configuration of RoBERTa and
                others does; with BERT, `model.generation_config` has to be told once, and is saved with the model.
        """
        settings = kwargs.get("generation_config") or self.generation_config

        def setting(name: str):
            value = kwargs[name] if name in kwargs else getattr(settings, name, None)
            return getattr(self.generation_config, name) if value is None else value

        if setting("eos_token_id") is None or setting("decoder_start_token_id") is setting("bos_token_id") is None:
            raise ValueError(
                f"The configuration of the text tower, of type `{self.config.text_config.model_type}`, does not say "
                "with which tokens a text begins and ends. Tell it once, and it is saved with the model: "
                "`model.generation_config.update(decoder_start_token_id=tokenizer.cls_token_id, "
                "eos_token_id=tokenizer.sep_token_id)`."
            )
        if setting("cache_implementation") not in (None, "dynamic"):
            raise ValueError(
                f"The decoder's cache grows with the answer: `cache_implementation` must be 'dynamic' or left out, "
                f"got {setting('cache_implementation')!r}."
            )
        kwargs.pop("cache_implementation", None)
        if setting("use_cache") is not False and kwargs.get("past_key_values") is None:
            # The one that is made otherwise has the layers of the text tower.
            kwargs["past_key_values"] = EncoderDecoderCache(DynamicCache(), DynamicCache())
        question_states = self._read_questions(
            input_ids, pixel_values, attention_mask, encoder_outputs, interpolate_pos_encoding
        )
        return super().generate(
            attention_mask=attention_mask,
            encoder_outputs=BaseModelOutput(last_hidden_state=question_states),
            **kwargs,
        )

    @torch.no_grad()
    def rank_answers(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        *,
        answer_input_ids: torch.Tensor,
        answer_attention_mask: torch.Tensor,
        k: int = 128,
        chunk_size: int = 256,
        encoder_outputs: ModelOutput | None = None,
        interpolate_pos_encoding: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        r"""
        Finds in a list the most likely answers to each question, in ALBEF's two stages: the `k` answers whose first
        token is the most likely, then the likelihood of these as a whole. With `k` as large as the list, that is the
        likelihood of every answer. (ALBEF's own code counts the first token twice in the second stage; here, as in
        BLIP, it counts once.)

        Args:
            input_ids (`torch.Tensor` of shape `(batch_size, question_length)`, int64).
            pixel_values (`torch.Tensor` of shape `(batch_size, num_channels, height, width)`).
            attention_mask (`torch.Tensor` of shape `(batch_size, question_length)`, *optional*).
            answer_input_ids (`torch.Tensor` of shape `(num_answers, length)`, int64):
                The list, as the tokenizer gives it: every answer from its first special token to its last, padded on
                the right.
            answer_attention_mask (`torch.Tensor` of shape `(num_answers, length)`).
            k (`int`, *optional*, defaults to 128):
                How many answers reach the second stage.
            chunk_size (`int`, *optional*, defaults to 256):
                Answers that are decoded at a time, though at least one for each question. It bounds the memory: each
                takes as many numbers as it has tokens times the size of the vocabulary.
            encoder_outputs (`ModelOutput`, *optional*):
                Instead of `input_ids` and `pixel_values`, what [`~SaclModel.get_fusion_features`] made of them.
            interpolate_pos_encoding (`bool`, *optional*, defaults to `False`):
                Whether images of another size than the configured one are accepted.

        Returns:
            Two `torch.Tensor` of shape `(batch_size, min(k, num_answers))`, best first: log-likelihoods in float32,
            and the rows of the answers in the list.

        Example:

        ```python
        >>> answers = ["yes", "no", "a red bus"]
        >>> tokens = processor(text=answers, return_tensors="pt")
        >>> scores, rows = model.rank_answers(
        ...     **processor(text="what is it?", images=image, return_tensors="pt"),
        ...     answer_input_ids=tokens.input_ids,
        ...     answer_attention_mask=tokens.attention_mask,
        ... )
        >>> answers[rows[0, 0]]
        'a red bus'
        ```
        """
        _check_answer_list(answer_input_ids, answer_attention_mask)
        for name, value in (("k", k), ("chunk_size", chunk_size)):
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        question_states = self._read_questions(
            input_ids, pixel_values, attention_mask, encoder_outputs, interpolate_pos_encoding
        )
        num_questions = len(question_states)
        start = answer_input_ids[:1, :1].expand(num_questions, 1)
        decoded = self._decode(start, question_states, attention_mask).last_hidden_state[:, 0]
        first_scores = full_precision(self.mlm_head(decoded))[:, answer_input_ids[:, 1]]
        rows = first_scores.topk(min(k, len(answer_input_ids)), dim=1).indices

        scores = []
        for chunk in rows.split(max(1, chunk_size // num_questions), dim=1):
            answers, mask = answer_input_ids[chunk.flatten()], answer_attention_mask[chunk.flatten()].bool()
            longest = int(mask.sum(dim=1).max())
            answers, is_predicted = answers[:, :longest], mask[:, 1:longest]
            decoded = self._decode(answers[:, :-1], question_states, attention_mask).last_hidden_state
            losses = nn.functional.cross_entropy(
                full_precision(self.mlm_head(decoded[is_predicted])), answers[:, 1:][is_predicted], reduction="none"
            )
            by_token = losses.new_zeros(is_predicted.shape).masked_scatter(is_predicted, -losses)
            scores.append(by_token.sum(dim=1).view_as(chunk))
        ranked, order = torch.cat(scores, dim=1).sort(dim=1, descending=True, stable=True)
        return ranked, rows.gather(1, order)

    def _read_questions(
        self,
        input_ids: torch.Tensor | None,
        pixel_values: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        encoder_outputs: ModelOutput | None,
        interpolate_pos_encoding: bool,
    ) -> torch.Tensor:
        """The tokens of the questions after they have looked at their images."""
        if encoder_outputs is not None:
            return encoder_outputs[0]
        if input_ids is None or pixel_values is None:
            raise ValueError(
                "A question needs `input_ids` and its image `pixel_values`; or `encoder_outputs`, what "
                "`model.sacl.get_fusion_features` made of them."
            )
        return self.sacl.get_fusion_features(
            input_ids,
            pixel_values,
            attention_mask=attention_mask,
            interpolate_pos_encoding=interpolate_pos_encoding,
            return_dict=True,
        ).last_hidden_state

    def _decode(
        self,
        decoder_input_ids: torch.Tensor,
        question_states: torch.Tensor,
        attention_mask: torch.Tensor | None,
        question_index: torch.Tensor | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        return self.answer_decoder(
            self._predicted_word_embeddings()(decoder_input_ids),
            question_states,
            question_mask=attention_mask,
            question_index=question_index,
            past_key_values=past_key_values,
            return_dict=True,
            **kwargs,
        )


def _arrange_answers(
    labels: torch.Tensor, weights: torch.Tensor | None, num_questions: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of the answers that there are: the tokens read, the tokens to predict, the weight, and the question."""
    if labels.ndim not in (2, 3) or len(labels) != num_questions or labels.shape[-1] < 2:
        raise ValueError(
            f"`labels` must have the shape (batch_size, num_answers, length) or (batch_size, length), with a "
            f"`batch_size` of {num_questions} and at least 2 tokens, got {tuple(labels.shape)}."
        )
    if weights is None:
        weights = torch.ones(labels.shape[:-1], device=labels.device)
    if weights.shape != labels.shape[:-1]:
        raise ValueError(
            f"`answer_weights` must have a number for each answer, so the shape {tuple(labels.shape[:-1])}, got "
            f"{tuple(weights.shape)}."
        )
    # Padding is never decoded: of questions in a batch, one may have ten answers and the others one.
    labels, weights = labels.view(num_questions, -1, labels.shape[-1]), weights.view(num_questions, -1)
    question_index, place = (labels[:, :, 1:] != -100).any(dim=-1).nonzero(as_tuple=True)
    if not len(place):
        raise ValueError("`labels` hold no answer: every token after the first of each is -100.")
    labels = labels[question_index, place]
    return labels[:, :-1].clamp(min=0), labels[:, 1:], weights[question_index, place].float(), question_index


def _check_answer_list(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> None:
    if input_ids.ndim != 2 or input_ids.shape != attention_mask.shape or not len(input_ids):
        raise ValueError(
            "`answer_input_ids` and `answer_attention_mask` must have the shape (num_answers, length), got "
            f"{tuple(input_ids.shape)} and {tuple(attention_mask.shape)}."
        )
    if input_ids.shape[1] < 2 or not attention_mask[:, :2].all() or (input_ids[:, 0] != input_ids[0, 0]).any():
        raise ValueError(
            "Every answer of the list must begin with the same special token, another token after it, and be padded "
            "on the right: tokenize with special tokens and `padding_side='right'`."
        )


__all__ = ["SaclAnswerDecoder", "SaclForQuestionAnswering", "SaclForQuestionAnsweringOutput"]
