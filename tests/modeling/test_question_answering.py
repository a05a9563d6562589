# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""`SaclForQuestionAnswering`: its decoder against loops, its loss, generation, ranking, and where it starts from."""

import copy
import os
import subprocess
import sys

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForVisualQuestionAnswering,
    DynamicCache,
    EncoderDecoderCache,
    GenerationConfig,
    Trainer,
    TrainingArguments,
)
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from modeling_sacl import SaclConfig, SaclForPreTraining, SaclForQuestionAnswering, SaclModel
from tests.without_the_package import WITHOUT_THE_PACKAGE

from . import test_modeling
from .common import CPU_BACKENDS, ModelTests, TextTowerTests, assert_same, build, random_batch, stir


BATCH, ANSWERS, LENGTH = 4, 3, 5
START, END = 2, 3
NOTHING = -100


def random_answers(vocab_size: int, lengths: list[int], seed: int = 0) -> list[list[int]]:
    """Answers of so many words, between the tokens that mark beginning and end."""
    generator = torch.Generator().manual_seed(seed)
    return [[START, *torch.randint(5, vocab_size, (n,), generator=generator).tolist(), END] for n in lengths]


def padded(answers: list[list[int]], filler: int = NOTHING, length: int | None = None) -> torch.Tensor:
    length = length or max(map(len, answers))
    return torch.tensor([answer + [filler] * (length - len(answer)) for answer in answers])


def answer_list(answers: list[list[int]], filler: int = 0) -> dict[str, torch.Tensor]:
    """As a tokenizer gives them, for `rank_answers`."""
    masks = [[1] * len(answer) for answer in answers]
    return {"answer_input_ids": padded(answers, filler), "answer_attention_mask": padded(masks, 0)}


@pytest.fixture
def questions(tiny_config):
    return random_batch(tiny_config, BATCH)


def answering(config: SaclConfig, **kwargs) -> SaclForQuestionAnswering:
    """A model that has been told how answers begin and end, of weights large enough for answers to differ."""
    model = stir(build(SaclForQuestionAnswering, config, **kwargs), std=0.3)
    model.generation_config.update(decoder_start_token_id=START, eos_token_id=END, max_new_tokens=6)
    return model


# ---------------------------------------------------------------------------------------------------- slow references


@torch.no_grad()
def reference_logits(model: SaclForQuestionAnswering, question: torch.Tensor, answer: list[int]) -> torch.Tensor:
    """Scores after each token of one answer to one question, given without padding: one head and token at a time."""
    decoder = model.answer_decoder
    config = decoder.config

    def attend(attention, tokens, others):
        query, key, value = attention.q_proj(tokens), attention.k_proj(others), attention.v_proj(others)
        size = config.hidden_size // config.num_attention_heads
        read = torch.zeros(len(tokens), config.hidden_size)
        for head in range(config.num_attention_heads):
            part = slice(head * size, (head + 1) * size)
            for row in range(len(tokens)):
                # Its own tokens up to itself; those of a question all.
                seen = row + 1 if others is tokens else len(others)
                weights = (key[:seen, part] @ query[row, part] / size**0.5).softmax(dim=0)
                read[row, part] = weights @ value[:seen, part]
        return attention.o_proj(read)

    states = model.get_input_embeddings().weight[answer] + decoder.position_embedding.weight[: len(answer)]
    states = decoder.embedding_projection(decoder.embedding_layer_norm(states))
    for layer in decoder.layers:
        states = layer.self_attention_layer_norm(states + attend(layer.self_attention, states, states))
        states = layer.cross_attention_layer_norm(states + attend(layer.cross_attention, states, question))
        states = layer.mlp_layer_norm(states + layer.mlp.fc2(layer.mlp.activation_fn(layer.mlp.fc1(states))))
    return model.mlm_head(states)


def fused_questions(model: SaclForQuestionAnswering, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Each question on its own, without padding."""
    rows = []
    for row, length in enumerate(inputs["attention_mask"].sum(dim=1).tolist()):
        features = model.sacl.get_fusion_features(
            inputs["input_ids"][row : row + 1, :length], inputs["pixel_values"][row : row + 1]
        )
        rows.append(features.last_hidden_state[0].detach())
    return rows


def reference_likelihood(model, question: torch.Tensor, answer: list[int]) -> float:
    scores = reference_logits(model, question, answer).log_softmax(dim=-1)
    return sum(scores[place, token].item() for place, token in enumerate(answer[1:]))


# ------------------------------------------------------------------------------------------------------------- tests


class TestSaclForQuestionAnswering(TextTowerTests, ModelTests):
    model_class = SaclForQuestionAnswering
    without_gradient = ("sacl.text_projection", "sacl.visual_projection", "sacl.logit_scale")

    @pytest.fixture
    def inputs(self, config):
        # Of 3, 1, 2 and 3 answers.
        answers = random_answers(99, [1, 3, 2, 1, 2, 3, 1, 2, 3])
        labels = torch.full((BATCH, ANSWERS, LENGTH), NOTHING)
        for (row, place), answer in zip(
            [(0, 0), (0, 1), (0, 2), (1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2)], answers, strict=True
        ):
            labels[row, place, : len(answer)] = torch.tensor(answer)
        weights = torch.rand(BATCH, ANSWERS, generator=torch.Generator().manual_seed(1))
        return {**random_batch(config), "labels": labels, "answer_weights": weights}

    def test_logits_and_loss_equal_a_loop_over_answers_and_tokens(self, config, inputs):
        for backend in CPU_BACKENDS:
            model = stir(build(SaclForQuestionAnswering, config, attn_implementation=backend), std=0.2)
            output = model(**inputs)
            expected, number = 0.0, 0
            for row, question in enumerate(fused_questions(model, inputs)):
                for place in range(ANSWERS):
                    answer = [token for token in inputs["labels"][row, place].tolist() if token != NOTHING]
                    if not answer:
                        continue
                    logits = reference_logits(model, question, answer)
                    assert_same(output.logits[number, : len(answer) - 1], logits[:-1], tolerance=1e-4)
                    likelihood = reference_likelihood(model, question, answer)
                    expected -= inputs["answer_weights"][row, place].item() * likelihood / BATCH
                    number += 1
            assert output.logits.shape == (number, LENGTH - 1, 99)
            assert output.loss.item() == pytest.approx(expected, rel=1e-5)

    def test_one_answer_each(self, config, inputs):
        model = stir(build(SaclForQuestionAnswering, config))
        labels, weights = inputs.pop("labels")[:, 0], inputs.pop("answer_weights")[:, 0]
        one = model(**inputs, labels=labels, answer_weights=weights)
        assert_same(one, model(**inputs, labels=labels[:, None], answer_weights=weights[:, None]))
        # Without weights every answer counts 1.
        assert_same(model(**inputs, labels=labels), model(**inputs, labels=labels, answer_weights=torch.ones(BATCH)))

    def test_answers_on_their_own_add_up(self, config, inputs):
        model = stir(build(SaclForQuestionAnswering, config))
        labels, weights = inputs.pop("labels"), inputs.pop("answer_weights")
        losses = [
            model(
                **self.row(inputs, row), labels=labels[row : row + 1, place], answer_weights=weights[None, row, place]
            )
            for row in range(BATCH)
            for place in range(ANSWERS)
            if labels[row, place].amax() > 0
        ]
        together = model(**inputs, labels=labels, answer_weights=weights).loss
        assert together.item() == pytest.approx(sum(output.loss.item() for output in losses) / BATCH, rel=1e-5)

    @staticmethod
    def row(inputs, number):
        return {name: value[number : number + 1] for name, value in inputs.items()}

    def test_padding_of_answers_changes_nothing(self, config, inputs):
        model = stir(build(SaclForQuestionAnswering, config))
        longer = nn.functional.pad(inputs["labels"], (0, 3, 0, 2), value=NOTHING)
        more_weights = nn.functional.pad(inputs["answer_weights"], (0, 2), value=7.0)
        output = model(**{**inputs, "labels": longer, "answer_weights": more_weights})
        expected = model(**inputs)
        assert output.loss.item() == pytest.approx(expected.loss.item(), rel=1e-6)
        assert_same(output.logits[:, : LENGTH - 1], expected.logits, tolerance=1e-5)

    def test_padding_of_questions_is_not_looked_at(self, config, inputs):
        for backend in CPU_BACKENDS:
            model = stir(build(SaclForQuestionAnswering, config, attn_implementation=backend))
            expected = model(**inputs)
            row = 2  # the shortest
            length = int(inputs["attention_mask"][row].sum())
            inputs_without = self.row(inputs, row)
            for name in ("input_ids", "attention_mask"):
                inputs_without[name] = inputs_without[name][:, :length]
            first = int((inputs["labels"][:row, :, 0] != NOTHING).sum())
            output = model(**inputs_without)
            assert_same(output.logits, expected.logits[first : first + 2], tolerance=1e-5)

    def test_other_attention_of_the_model_leaves_the_decoder_with_sdpa(self, config, inputs, monkeypatch):
        expected = stir(build(SaclForQuestionAnswering, config))(**inputs).logits
        monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "another", ALL_ATTENTION_FUNCTIONS["sdpa"])
        monkeypatch.setitem(
            ALL_MASK_ATTENTION_FUNCTIONS._global_mapping, "another", ALL_MASK_ATTENTION_FUNCTIONS["sdpa"]
        )
        built = stir(build(SaclForQuestionAnswering, config, attn_implementation="another"))
        changed = stir(build(SaclForQuestionAnswering, config, attn_implementation="eager"))
        assert changed.answer_decoder.config._attn_implementation == "eager"
        changed.set_attn_implementation("another")
        for model in (built, changed):
            assert model.sacl.fusion_model.config._attn_implementation == "another"
            assert model.answer_decoder.config._attn_implementation == "sdpa"
            assert_same(model(**inputs).logits, expected, tolerance=1e-5)

    def test_records_hidden_states_and_attentions(self, config, inputs):
        model = stir(build(SaclForQuestionAnswering, config, attn_implementation="eager"))
        output = model(**inputs, output_hidden_states=True, output_attentions=True)
        assert [state.shape for state in output.decoder_hidden_states] == [(9, LENGTH - 1, 32)] * 3
        assert [state.shape for state in output.decoder_attentions] == [(9, 2, LENGTH - 1, LENGTH - 1)] * 2
        assert [state.shape for state in output.cross_attentions] == [(9, 2, LENGTH - 1, 7)] * 2
        for attention in output.decoder_attentions:
            assert attention.triu(1).count_nonzero() == 0
        # Answer 4 is to question 2, whose last two tokens are padding.
        for attention in output.cross_attentions:
            assert attention[4, :, :, -2:].count_nonzero() == 0
            assert (attention.sum(dim=-1) - 1).abs().max() < 1e-5

    @pytest.mark.parametrize("guide", ["image", "text"])
    def test_with_patch_selection(self, config, inputs, guide, tmp_path):
        if guide == "text":
            config = SaclConfig(
                text_config=config.text_config,
                vision_config={**config.vision_config.to_dict(), "hidden_size": 32},
                projection_dim=20,
            )
        model = answering(config)
        everything = model(**inputs).loss
        model.set_patch_selection(keep_rate=0.5, layers=[1], guide=guide)
        output = model(**inputs)
        assert output.loss.item() != everything.item()
        features = model.sacl.get_fusion_features(
            inputs["input_ids"], inputs["pixel_values"], attention_mask=inputs["attention_mask"]
        )
        rest = {name: inputs[name] for name in ("attention_mask", "labels", "answer_weights")}
        assert torch.equal(model(**rest, encoder_outputs=features).loss, output.loss)
        model.save_pretrained(tmp_path)
        assert torch.equal(SaclForQuestionAnswering.from_pretrained(tmp_path)(**inputs).loss, output.loss)

    def test_depth_of_the_decoder(self, config):
        assert len(build(SaclForQuestionAnswering, config).answer_decoder.layers) == 2
        config.num_answer_decoder_layers = 3
        model = build(SaclForQuestionAnswering, config)
        assert len(model.answer_decoder.layers) == 3
        assert len(model.sacl.fusion_model.layers) == 2
        with pytest.raises(ValueError, match="`num_answer_decoder_layers` must be at least 1, got 0"):
            SaclConfig(num_answer_decoder_layers=0)

    def test_configuration_of_the_caller_stays_as_it_is(self, config):
        before = config.to_dict()
        model = SaclForQuestionAnswering(config)
        assert config.to_dict() == before
        assert model.config.is_encoder_decoder
        assert SaclForPreTraining(model.config).config.text_config.vocab_size == 99

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"labels": None}, "`labels`.*`decoder_input_ids`.*`generate` and `rank_answers`"),
            ({"decoder_input_ids": torch.full((BATCH, 1), START)}, "one of the two"),
            ({"input_ids": None}, "`input_ids` and its image `pixel_values`"),
            ({"pixel_values": None}, "`input_ids` and its image `pixel_values`"),
            ({"labels": torch.full((3, 2, 4), START)}, r"`batch_size` of 4.*got \(3, 2, 4\)"),
            ({"labels": torch.full((BATCH, 1), START)}, r"at least 2 tokens, got \(4, 1\)"),
            ({"labels": torch.full((BATCH, 2, LENGTH), NOTHING)}, r"`answer_weights`.*\(4, 2\), got \(4, 3\)"),
            ({"labels": torch.full((BATCH, ANSWERS, LENGTH), NOTHING)}, "no answer"),
            ({"labels": torch.full((BATCH, ANSWERS, 70), START)}, "at most 64 tokens, got 69"),
        ],
    )
    def test_impossible_inputs_raise(self, config, inputs, change, message):
        with pytest.raises(ValueError, match=message):
            build(SaclForQuestionAnswering, config)(**{**inputs, **change})

    def test_autocast_keeps_the_loss_in_full_precision(self, config, inputs):
        model = build(SaclForQuestionAnswering, config)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = model(**inputs)
        assert output.loss.dtype == output.logits.dtype == torch.float32
        assert output.loss.isfinite()

    def test_learns_answers_by_heart(self, config, inputs):
        for inner in (config.text_config, config.fusion_encoder_config):
            for name in ("hidden_dropout", "hidden_dropout_prob", "attention_dropout", "attention_probs_dropout_prob"):
                if hasattr(inner, name):
                    setattr(inner, name, 0.0)
        model = build(SaclForQuestionAnswering, config).train()
        labels, _ = inputs.pop("labels")[:, 0], inputs.pop("answer_weights")
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(60):
            loss = model(**inputs, labels=labels).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval().generation_config.update(decoder_start_token_id=START, eos_token_id=END)
        written = model.generate(**inputs, max_new_tokens=LENGTH)
        expected = labels.clamp(min=0)
        assert torch.equal(written, expected[:, : written.shape[1]])
        _, rows = model.rank_answers(
            **inputs, **answer_list([[token for token in row if token != NOTHING] for row in labels.tolist()])
        )
        assert rows[:, 0].tolist() == list(range(BATCH))

    def test_stock_trainer_makes_the_loss_fall(self, config, inputs, tmp_path):
        inputs["labels"], _ = inputs["labels"][:, 0], inputs.pop("answer_weights")
        # Every step sees the same four questions twice.
        rows = [{name: value[number % BATCH] for name, value in inputs.items()} for number in range(2 * BATCH)]
        arguments = TrainingArguments(
            str(tmp_path),
            use_cpu=True,
            max_steps=40,
            per_device_train_batch_size=BATCH,
            gradient_accumulation_steps=2,
            learning_rate=5e-3,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        model = build(SaclForQuestionAnswering, config)
        first = model(**inputs).loss.item()
        trainer = Trainer(model, arguments, train_dataset=rows, eval_dataset=rows[:3])
        assert trainer.label_names == ["labels"]
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        # The loss of a forward, up to dropout: two that are accumulated are averaged, not summed.
        assert losses[0] == pytest.approx(first, rel=0.2)
        assert losses[-1] < losses[0] / 2
        three = {name: value[:3] for name, value in inputs.items()}
        assert trainer.evaluate()["eval_loss"] == pytest.approx(model.eval()(**three).loss.item(), rel=1e-4)


class TestGeneration:
    @pytest.fixture
    def model(self, tiny_config):
        return answering(tiny_config)

    @pytest.mark.parametrize("backend", CPU_BACKENDS)
    def test_greedy_answers_are_those_of_a_loop(self, tiny_config, questions, backend):
        model = answering(tiny_config, attn_implementation=backend)
        written = model.generate(**questions)
        for row, question in enumerate(fused_questions(model, questions)):
            answer = [START]
            while len(answer) < 7 and answer[-1] != END:
                answer.append(int(reference_logits(model, question, answer)[-1].argmax()))
            assert written[row, : len(answer)].tolist() == answer
            assert not written[row, len(answer) :].any()  # padding, whose token is 0

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"num_beams": 3},
            {"num_beams": 4, "num_return_sequences": 2, "length_penalty": 0.5},
            {"do_sample": True, "num_return_sequences": 3},
            {"do_sample": True, "top_k": 5, "num_beams": 2},
        ],
        ids=str,
    )
    def test_the_cache_changes_nothing(self, model, questions, options):
        answers = []
        for use_cache in (True, False):
            torch.manual_seed(0)
            answers.append(
                model.generate(
                    **questions, **options, use_cache=use_cache, output_logits=True, return_dict_in_generate=True
                )
            )
        cached, plain = answers
        assert cached.past_key_values is not None
        assert plain.past_key_values is None
        assert torch.equal(cached.sequences, plain.sequences)
        assert len(cached.sequences) == BATCH * options.get("num_return_sequences", 1)
        assert_same(cached.logits, plain.logits, tolerance=1e-4)

    def test_the_cache_spares_what_was_computed(self, model, questions):
        lengths, projected = [], []
        layer = model.answer_decoder.layers[1]
        layer.self_attention.q_proj.register_forward_hook(lambda module, args, output: lengths.append(output.shape[1]))
        layer.cross_attention.k_proj.register_forward_hook(lambda module, args, output: projected.append(1))
        encoded = []
        model.sacl.fusion_model.register_forward_hook(lambda module, args, output: encoded.append(1))
        model.generate(**questions, num_beams=2, min_new_tokens=5)
        assert len(lengths) >= 5
        assert set(lengths) == {1}
        assert len(projected) == len(encoded) == 1

    def test_beams_find_what_is_more_likely(self, model, questions):
        """With as many beams as words, two steps of beam search are the exhaustive search."""
        options = {"max_new_tokens": 2, "min_new_tokens": 2, "length_penalty": 0.0, "early_stopping": False}
        found = model.generate(**questions, **options, num_beams=99, return_dict_in_generate=True, output_scores=True)
        for row, question in enumerate(fused_questions(model, questions)):
            likelihoods = {}
            # A `min_new_tokens` of 2 lets no answer end before.
            words = [token for token in range(99) if token != END]
            first = reference_logits(model, question, [START])[0].log_softmax(dim=-1)
            for token in words:
                second = reference_logits(model, question, [START, token])[1].log_softmax(dim=-1)
                likelihoods |= {(token, other): (first[token] + second[other]).item() for other in words}
            best = max(likelihoods, key=likelihoods.get)
            assert tuple(found.sequences[row, 1:].tolist()) == best
            assert found.sequences_scores[row].item() == pytest.approx(likelihoods[best], abs=1e-3)

    def test_a_question_alone_is_answered_as_in_a_batch(self, model, questions):
        together = model.generate(**questions, min_new_tokens=4)
        for row in range(BATCH):
            length = int(questions["attention_mask"][row].sum())
            alone = model.generate(
                questions["input_ids"][row : row + 1, :length],
                questions["pixel_values"][row : row + 1],
                min_new_tokens=4,
            )
            assert torch.equal(alone[0], together[row, : alone.shape[1]])

    def test_from_encoded_questions(self, model, questions):
        features = model.sacl.get_fusion_features(**questions)
        before = features.last_hidden_state.clone()
        for options in ({}, {"num_beams": 2}):
            given = model.generate(encoder_outputs=features, attention_mask=questions["attention_mask"], **options)
            assert torch.equal(given, model.generate(**questions, **options))
        assert torch.equal(features.last_hidden_state, before)

    def test_goes_on_from_a_beginning(self, model, questions):
        begun = torch.tensor([[START, 7, 9]] * BATCH)
        written = model.generate(**questions, decoder_input_ids=begun)
        assert torch.equal(written[:, :3], begun)
        assert torch.equal(written, model.generate(**questions, decoder_input_ids=begun, use_cache=False))

    def test_in_half_precision(self, model, questions):
        model.to(torch.bfloat16)
        questions["pixel_values"] = questions["pixel_values"].bfloat16()
        assert model.generate(**questions).shape[0] == BATCH

    def test_forward_with_a_cache_goes_on(self, model, questions):
        tokens = padded(random_answers(99, [4] * BATCH), 0)
        whole = model(**questions, decoder_input_ids=tokens).logits
        start = model(**questions, decoder_input_ids=tokens[:, :2], use_cache=True)
        assert_same(start.logits, whole[:, :2], tolerance=1e-5)
        # Several tokens at once after those that were.
        rest = model(**questions, decoder_input_ids=tokens[:, 2:], past_key_values=start.past_key_values)
        assert_same(rest.logits, whole[:, 2:], tolerance=1e-4)

    def test_without_knowing_how_answers_end_raises(self, tiny_config, questions):
        model = build(SaclForQuestionAnswering, tiny_config)
        message = "text tower, of type `bert`.*decoder_start_token_id=tokenizer.cls_token_id"
        with pytest.raises(ValueError, match=message):
            model.generate(**questions)
        with pytest.raises(ValueError, match=message):
            model.generate(**questions, decoder_start_token_id=START)
        with pytest.raises(ValueError, match=message):
            model.generate(**questions, eos_token_id=END)
        options = {"decoder_start_token_id": START, "eos_token_id": END, "max_new_tokens": 4}
        expected = model.generate(**questions, **options)
        assert torch.equal(model.generate(**questions, generation_config=GenerationConfig(**options)), expected)
        model.generation_config.update(**options)
        assert torch.equal(model.generate(**questions), expected)

    def test_the_text_tower_can_say_how_answers_end(self, tiny_config, questions, tmp_path):
        tiny_config.text_config.bos_token_id, tiny_config.text_config.eos_token_id = START, END
        model = stir(build(SaclForQuestionAnswering, tiny_config), std=0.3)
        written = model.generate(**questions, max_new_tokens=4)
        assert (written[:, 0] == START).all()
        # What the model is told stays with it.
        model.generation_config.eos_token_id = 9
        model.save_pretrained(tmp_path)
        assert SaclForQuestionAnswering.from_pretrained(tmp_path).generation_config.eos_token_id == 9

    def test_other_caches(self, model, questions):
        expected = model.generate(**questions)
        assert torch.equal(model.generate(**questions, cache_implementation="dynamic"), expected)
        own = EncoderDecoderCache(DynamicCache(), DynamicCache())
        assert torch.equal(model.generate(**questions, past_key_values=own), expected)
        assert own.get_seq_length() > 0
        with pytest.raises(ValueError, match="`cache_implementation` must be 'dynamic'.*'static'"):
            model.generate(**questions, cache_implementation="static")

    def test_misspelt_option_raises(self, model, questions):
        with pytest.raises(ValueError, match="num_beans"):
            model.generate(**questions, num_beans=3)


class TestRanking:
    # Answers that begin alike, one of a single word twice, and one that has no word.
    LENGTHS = [1, 2, 3, 1, 4, 2, 2, 3, 1, 0, 5, 1]

    @pytest.fixture
    def answers(self) -> list[list[int]]:
        answers = random_answers(99, self.LENGTHS)
        for number in (2, 5, 7):
            answers[number][1] = answers[1][1]
        return answers

    @pytest.fixture
    def model(self, tiny_config):
        return answering(tiny_config)

    def test_the_whole_list_equals_a_loop(self, model, questions, answers):
        scores, rows = model.rank_answers(**questions, **answer_list(answers), k=len(answers))
        assert scores.shape == rows.shape == (BATCH, len(answers))
        assert scores.dtype == torch.float32
        for row, question in enumerate(fused_questions(model, questions)):
            expected = [reference_likelihood(model, question, answer) for answer in answers]
            assert rows[row].tolist() == sorted(range(len(answers)), key=lambda number: -expected[number])
            assert scores[row].tolist() == pytest.approx(sorted(expected, reverse=True), abs=1e-4)

    @pytest.mark.parametrize("k", [1, 3, 7])
    def test_two_stages(self, model, questions, answers, k):
        scores, rows = model.rank_answers(**questions, **answer_list(answers), k=k)
        whole_scores, whole_rows = model.rank_answers(**questions, **answer_list(answers), k=len(answers))
        assert rows.shape == (BATCH, k)
        best_inside = 0
        for row, question in enumerate(fused_questions(model, questions)):
            first = reference_logits(model, question, [START])[0]
            chosen = sorted(range(len(answers)), key=lambda number: -first[answers[number][1]].item())
            limit = first[answers[chosen[k - 1]][1]]
            # Answers with the same first token as the last that was chosen may stand in for it.
            assert all(first[answers[number][1]] >= limit for number in rows[row].tolist())
            order = whole_rows[row].tolist()
            assert rows[row].tolist() == sorted(rows[row].tolist(), key=order.index)
            for score, number in zip(scores[row].tolist(), rows[row].tolist(), strict=True):
                assert score == pytest.approx(whole_scores[row, order.index(number)].item(), abs=1e-4)
            best_inside += order[0] in rows[row].tolist()
            assert (rows[row, 0] == order[0]) == (order[0] in rows[row].tolist())
        if k == 7:
            assert best_inside > 0

    @pytest.mark.parametrize("chunk_size", [1, 5, 10_000])
    def test_chunks_change_nothing(self, model, questions, answers, chunk_size):
        expected = model.rank_answers(**questions, **answer_list(answers), k=9)
        actual = model.rank_answers(**questions, **answer_list(answers), k=9, chunk_size=chunk_size)
        assert torch.equal(actual[1], expected[1])
        assert_same(actual[0], expected[0], tolerance=1e-4)

    def test_memory_is_bounded_and_the_question_encoded_once(self, model, questions, answers):
        decoded, encoded = [], []
        model.answer_decoder.register_forward_pre_hook(
            lambda module, args, kwargs: decoded.append(args[0].shape[:2]), with_kwargs=True
        )
        model.sacl.fusion_model.register_forward_hook(lambda module, args, output: encoded.append(1))
        model.rank_answers(**questions, **answer_list(answers), k=9, chunk_size=12)
        assert len(encoded) == 1
        assert decoded[0] == (BATCH, 1)
        assert [rows for rows, _ in decoded[1:]] == [12, 12, 12]
        # No longer than the answers of the chunk, whose last token is not read.
        assert max(length for _, length in decoded[1:]) <= 6

    @pytest.mark.parametrize("backend", CPU_BACKENDS)
    def test_one_question_alone(self, tiny_config, questions, answers, backend):
        model = answering(tiny_config, attn_implementation=backend)
        scores, rows = model.rank_answers(**questions, **answer_list(answers))
        for row in range(BATCH):
            alone = {name: value[row : row + 1] for name, value in questions.items()}
            alone_scores, alone_rows = model.rank_answers(**alone, **answer_list(answers))
            assert torch.equal(alone_rows[0], rows[row])
            assert_same(alone_scores[0], scores[row], tolerance=1e-4)

    def test_padding_of_the_list_changes_nothing(self, model, questions, answers):
        tokens = answer_list(answers)
        longer = {name: nn.functional.pad(value, (0, 4), value=0) for name, value in tokens.items()}
        longer["answer_input_ids"][longer["answer_attention_mask"] == 0] = 77
        assert_same(model.rank_answers(**questions, **longer), model.rank_answers(**questions, **tokens))

    def test_likelihood_is_that_of_the_loss(self, model, questions, answers):
        scores, rows = model.rank_answers(**questions, **answer_list(answers))
        for place in (0, 5):
            labels = padded([answers[row] for row in rows[:, place].tolist()])
            loss = model(**questions, labels=labels).loss.item()
            assert loss == pytest.approx(-scores[:, place].mean().item(), rel=1e-5)

    def test_from_encoded_questions(self, model, questions, answers):
        features = model.sacl.get_fusion_features(**questions)
        given = model.rank_answers(
            encoder_outputs=features, attention_mask=questions["attention_mask"], **answer_list(answers)
        )
        assert_same(given, model.rank_answers(**questions, **answer_list(answers)))

    def test_in_half_precision(self, model, questions, answers):
        expected, _ = model.rank_answers(**questions, **answer_list(answers))
        model.to(torch.bfloat16)
        scores, _ = model.rank_answers(**questions, **answer_list(answers))
        assert scores.dtype == torch.float32
        assert (scores - expected).abs().max() < 0.1 * expected.abs().max()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"k": 0}, "`k` must be at least 1, got 0"),
            ({"chunk_size": 0}, "`chunk_size` must be at least 1, got 0"),
            ({"answer_input_ids": torch.tensor([START, 5])}, r"\(num_answers, length\), got \(2,\)"),
            ({"answer_attention_mask": torch.ones(2, 2)}, r"got \(12, 7\) and \(2, 2\)"),
        ],
    )
    def test_impossible_options_raise(self, model, questions, answers, options, message):
        with pytest.raises(ValueError, match=message):
            model.rank_answers(**{**questions, **answer_list(answers), **options})

    def test_wrong_list_raises(self, model, questions, answers):
        tokens = answer_list(answers)
        left = {name: value.flip(1) for name, value in tokens.items()}
        with pytest.raises(ValueError, match="padded on the right"):
            model.rank_answers(**questions, **left)
        tokens["answer_input_ids"][0, 0] = 7
        with pytest.raises(ValueError, match="begin with the same special token"):
            model.rank_answers(**questions, **tokens)


class TestStart:
    """What the decoder is before it has learned anything."""

    @pytest.fixture
    def pretrained(self, tiny_config, tmp_path):
        model = stir(build(SaclForPreTraining, tiny_config))
        model.save_pretrained(tmp_path / "pretrained")
        return model

    @pytest.fixture
    def started(self, pretrained, tmp_path):
        torch.manual_seed(3)
        return SaclForQuestionAnswering.from_pretrained(tmp_path / "pretrained")

    def test_fusion_encoder_and_head_of_pre_training(self, pretrained, started):
        assert_same(started.sacl.state_dict(), pretrained.sacl.state_dict())
        assert_same(started.mlm_head.state_dict(), pretrained.mlm_head.state_dict())
        assert started.mlm_head.decoder.weight is started.get_input_embeddings().weight
        decoder, fusion = started.answer_decoder.layers.state_dict(), pretrained.sacl.fusion_model.layers.state_dict()
        assert decoder.keys() == fusion.keys()
        for name, value in decoder.items():
            # Towers of two widths: the decoder looks at other tokens than the fusion encoder does.
            is_new = name.endswith(("cross_attention.k_proj.weight", "cross_attention.v_proj.weight"))
            assert torch.equal(value, fusion[name]) != is_new, name
            assert value.isfinite().all()

    def test_towers_of_one_width_start_it_all(self, tiny_config, tmp_path):
        config = SaclConfig(
            text_config=tiny_config.text_config,
            vision_config={**tiny_config.vision_config.to_dict(), "hidden_size": 32},
            fusion_encoder_config={"num_hidden_layers": 2},
            num_answer_decoder_layers=3,
        )
        pretrained = stir(build(SaclForPreTraining, config))
        pretrained.save_pretrained(tmp_path)
        started = SaclForQuestionAnswering.from_pretrained(tmp_path)
        for index in range(2):
            assert_same(
                started.answer_decoder.layers[index].state_dict(),
                pretrained.sacl.fusion_model.layers[index].state_dict(),
            )
        # The third has none to start as.
        assert started.answer_decoder.layers[2].mlp.fc1.bias.count_nonzero() == 0

    def test_words_of_an_answer_are_those_of_the_text_tower(self, pretrained, started):
        tokens = torch.tensor([[START, 17, 23, END]])
        expected = pretrained.sacl.text_model.embeddings(tokens)
        embeds = started.answer_decoder.embed(started.get_input_embeddings()(tokens), past_length=0)
        assert_same(embeds, expected, tolerance=1e-6)

    def test_a_model_without_heads_starts_it_too(self, tiny_config, tmp_path):
        model = stir(build(SaclModel, tiny_config))
        model.save_pretrained(tmp_path)
        started, report = SaclForQuestionAnswering.from_pretrained(tmp_path, output_loading_info=True)
        assert {key.split(".")[0] for key in report["missing_keys"]} == {"mlm_head", "answer_decoder"}
        assert torch.equal(
            started.answer_decoder.layers[0].mlp.fc1.weight, model.fusion_model.layers[0].mlp.fc1.weight
        )
        assert started.mlm_head.dense.bias.count_nonzero() == 0

    def test_trained_decoder_is_kept(self, tiny_config, tmp_path):
        model = stir(build(SaclForQuestionAnswering, tiny_config))
        model.save_pretrained(tmp_path)
        loaded, report = SaclForQuestionAnswering.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(report.values()), report
        assert_same(loaded.state_dict(), model.state_dict())

    def test_other_models_read_its_checkpoint(self, tiny_config, questions, tmp_path):
        model = stir(build(SaclForQuestionAnswering, tiny_config))
        model.save_pretrained(tmp_path)
        assert_same(SaclModel.from_pretrained(tmp_path).state_dict(), model.sacl.state_dict())
        other = SaclForPreTraining.from_pretrained(tmp_path)
        assert_same(other.mlm_head.state_dict(), model.mlm_head.state_dict())
        assert other(**questions).loss is None

    def test_from_published_towers(self, tiny_config):
        from transformers import BertConfig, BertForMaskedLM, CLIPVisionConfig, CLIPVisionModel

        sizes = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 37}
        text = stir(BertForMaskedLM(BertConfig(vocab_size=99, num_hidden_layers=4, **sizes)))
        vision = CLIPVisionModel(CLIPVisionConfig(image_size=32, patch_size=8, num_hidden_layers=2, **sizes))
        model = SaclForQuestionAnswering.from_vision_text_pretrained(vision, text)
        assert torch.equal(model.mlm_head.dense.weight, text.cls.predictions.transform.dense.weight)
        for index, layer in enumerate(text.bert.encoder.layer[2:]):
            assert torch.equal(
                model.answer_decoder.layers[index].self_attention.q_proj.weight, layer.attention.self.query.weight
            )


class TestAutoClass:
    @pytest.mark.parametrize("model_class", [SaclForQuestionAnswering, SaclForPreTraining])
    def test_loads_by_the_auto_class(self, model_class, tiny_config, questions, tmp_path):
        model = stir(build(model_class, tiny_config))
        model.save_pretrained(tmp_path)
        loaded = AutoModelForVisualQuestionAnswering.from_pretrained(tmp_path)
        assert type(loaded) is SaclForQuestionAnswering
        assert not loaded.training
        assert type(AutoModelForVisualQuestionAnswering.from_config(tiny_config)) is SaclForQuestionAnswering

    def test_loads_where_the_package_is_not_installed(self, tiny_config, questions, tmp_path):
        model = answering(tiny_config)
        model.save_pretrained(tmp_path / "model")
        torch.save((questions, model.generate(**questions, num_beams=2)), tmp_path / "expected.pt")
        script = (
            "import torch\n"
            "from transformers import AutoModelForVisualQuestionAnswering\n"
            "model = AutoModelForVisualQuestionAnswering.from_pretrained('model', trust_remote_code=True)\n"
            "assert type(model).__module__.startswith('transformers_modules.')\n"
            "questions, expected = torch.load('expected.pt')\n"
            "assert torch.equal(model.generate(**questions, num_beams=2), expected)\n"
            "model.save_pretrained('again')\n"
        )
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        done = subprocess.run(
            [sys.executable, "-I", "-c", WITHOUT_THE_PACKAGE + script],
            cwd=tmp_path,
            env={**environment, "HF_MODULES_CACHE": str(tmp_path / "modules")},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        again = SaclForQuestionAnswering.from_pretrained(tmp_path / "again")
        assert_same(again.state_dict(), model.state_dict())


class TestFamiliesOfTextTowers:
    config = test_modeling.TestTextTowers.config

    def test_works_from_start_to_answer(self, config, tmp_path):
        pretrained = stir(build(SaclForPreTraining, copy.deepcopy(config)))
        pretrained.save_pretrained(tmp_path / "pretrained")
        model = SaclForQuestionAnswering.from_pretrained(tmp_path / "pretrained")
        assert model.mlm_head.decoder.weight is model.get_input_embeddings().weight
        questions = random_batch(config)
        labels = padded(random_answers(99, [2, 1, 3, 2]))
        model(**questions, labels=labels).loss.backward()
        assert not [
            name
            for name, parameter in model.named_parameters()
            if parameter.grad is None and not name.startswith(TestSaclForQuestionAnswering.without_gradient)
        ]
        model.generation_config.update(decoder_start_token_id=START, eos_token_id=END, max_new_tokens=5)
        written = model.generate(**questions)
        assert torch.equal(written, model.generate(**questions, use_cache=False))
        model.save_pretrained(tmp_path / "model")
        loaded, report = SaclForQuestionAnswering.from_pretrained(tmp_path / "model", output_loading_info=True)
        assert not any(report.values()), report
        assert torch.equal(loaded.generate(**questions), written)
        loaded.resize_token_embeddings(105)
        assert loaded.mlm_head.decoder.weight is loaded.get_input_embeddings().weight
        assert loaded(**questions, labels=labels).logits.shape[-1] == 105

    def test_words_of_an_answer_start_as_those_of_the_text_tower(self, config, request, tmp_path):
        family = request.node.callspec.params["config"]
        model = stir(build(SaclForPreTraining, config))
        model.save_pretrained(tmp_path)
        started = SaclForQuestionAnswering.from_pretrained(tmp_path)
        tokens = torch.tensor([[START, 17, 23, END]])
        embeds = started.answer_decoder.embed(started.get_input_embeddings()(tokens), past_length=0)
        assert embeds.shape == (1, 4, 32)
        # Families with learned absolute positions and a width of their own.
        if family in ("bert", "roberta", "xlm-roberta", "camembert", "electra", "mpnet", "distilbert"):
            text_model = model.sacl.text_model
            expected = text_model.embeddings(input_ids=tokens)
            if family == "electra":
                expected = text_model.embeddings_project(expected)
            assert_same(embeds, expected, tolerance=1e-6)
