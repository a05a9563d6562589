# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The model classes: what all of them must do (`ModelTests`), and what is special to each."""

import copy
import socket

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch.nn.functional import cross_entropy, normalize
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import modeling_sacl.retrieval_sacl as retrieval
from modeling_sacl import (
    SaclConfig,
    SaclForPreTraining,
    SaclFusionConfig,
    SaclFusionModel,
    SaclModel,
    SaclVisionConfig,
    SaclVisionModel,
    similarity_regulated_contrastive_loss,
)
from modeling_sacl.loss_sacl import find_positives, log_regulation_weights
from modeling_sacl.retrieval_sacl import sample_hard_negatives

from .common import (
    CPU_BACKENDS,
    ModelTests,
    TextTowerTests,
    assert_same,
    build,
    random_batch,
    random_masked_batch,
    run_examples,
    stir,
)


PATCHES, LENGTH, BATCH = 17, 7, 4


def shapes(states: tuple[torch.Tensor, ...]) -> list[tuple[int, ...]]:
    return [tuple(state.shape) for state in states]


# ------------------------------------------------------------------------------------------------------------ towers


class TestSaclVisionModel(ModelTests):
    model_class = SaclVisionModel

    @pytest.fixture
    def config(self, tiny_config):
        return tiny_config.vision_config

    @pytest.fixture
    def inputs(self, tiny_config):
        return {"pixel_values": random_batch(tiny_config)["pixel_values"]}

    def test_output_shapes(self, config, inputs):
        output = build(SaclVisionModel, config)(**inputs)
        assert output.last_hidden_state.shape == (BATCH, PATCHES, 48)
        assert torch.equal(output.pooler_output, output.last_hidden_state[:, 0])

    def test_records_hidden_states_and_attentions(self, config, inputs):
        model = stir(build(SaclVisionModel, config, attn_implementation="eager"))
        output = model(**inputs, output_hidden_states=True, output_attentions=True)
        assert shapes(output.hidden_states) == [(BATCH, PATCHES, 48)] * 3
        assert shapes(output.attentions) == [(BATCH, 4, PATCHES, PATCHES)] * 2
        for attention in output.attentions:
            assert (attention.sum(dim=-1) - 1).abs().max() < 1e-5
        # As in CLIP: the last one is still before the final layer norm.
        assert torch.equal(model.post_layer_norm(output.hidden_states[-1]), output.last_hidden_state)

    def test_records_nothing_unasked(self, config, inputs):
        output = build(SaclVisionModel, config)(**inputs)
        assert output.hidden_states is None
        assert output.attentions is None

    def test_interpolation_at_the_own_size_changes_nothing(self, config, inputs):
        model = stir(build(SaclVisionModel, config))
        assert_same(model(**inputs, interpolate_pos_encoding=True), model(**inputs))

    @pytest.mark.parametrize("size", [64, 16])
    def test_another_image_size_for_good(self, config, size, tmp_path):
        model = stir(build(SaclVisionModel, config))
        pixel_values = torch.randn(2, 3, size, size)
        expected = model(pixel_values, interpolate_pos_encoding=True)
        model.set_image_size(size)
        assert_same(model(pixel_values), expected)
        with pytest.raises(ValueError, match=f"expects images of {size} x {size} pixels"):
            model(torch.randn(2, 3, 32, 32))
        model.save_pretrained(tmp_path)
        assert_same(SaclVisionModel.from_pretrained(tmp_path)(pixel_values), expected)

    def test_impossible_image_size_changes_nothing(self, config, inputs):
        model = build(SaclVisionModel, config)
        expected = model(**inputs)
        with pytest.raises(ValueError, match="multiple of `patch_size`"):
            model.set_image_size(33)
        assert model.config.image_size == 32
        assert_same(model(**inputs), expected)

    @pytest.mark.parametrize("size", [(64, 64), (16, 16), (40, 24)])
    def test_interpolation_to_another_size(self, config, size):
        model = build(SaclVisionModel, config)
        output = model(torch.randn(2, 3, *size), interpolate_pos_encoding=True)
        assert output.last_hidden_state.shape == (2, 1 + size[0] * size[1] // 64, 48)
        assert output.last_hidden_state.isfinite().all()

    def test_interpolated_positions_keep_their_places(self, config):
        # A horizontal ramp stays a horizontal ramp: rows and columns are not exchanged.
        embeddings = build(SaclVisionModel, config).embeddings
        ramp = torch.arange(4.0).repeat(4, 1).flatten()[None, :, None].expand(1, 16, 48)
        with torch.no_grad():
            embeddings.position_embedding[:, 1:] = ramp
        grid = embeddings.interpolate_positions(3, 8)[0, 1:, 0].view(3, 8)
        assert torch.allclose(grid, grid[:1].expand(3, 8), atol=1e-5)
        assert (grid[0, 1:] > grid[0, :-1]).all()

    @pytest.mark.parametrize("size", [(64, 64), (32, 40)])
    def test_wrong_size_raises(self, config, size):
        with pytest.raises(ValueError, match=f"32 x 32 pixels, got {size[0]} x {size[1]}.*interpolate_pos_encoding"):
            build(SaclVisionModel, config)(torch.randn(2, 3, *size))

    def test_wrong_channels_raise(self, config):
        with pytest.raises(ValueError, match="3 channels, got 1"):
            build(SaclVisionModel, config)(torch.randn(2, 1, 32, 32))

    def test_pre_layer_norm_and_missing_biases_are_parts_of_the_model(self, config):
        config.pre_layernorm, config.patch_bias, config.attention_bias = True, False, False
        names = set(dict(build(SaclVisionModel, config).named_parameters()))
        assert "pre_layer_norm.weight" in names
        assert "embeddings.patch_embedding.bias" not in names
        assert "layers.0.self_attention.q_proj.bias" not in names
        assert "layers.0.self_attention.o_proj.bias" in names

    def test_position_of_an_image_in_the_batch_does_not_matter(self, config, inputs):
        model = stir(build(SaclVisionModel, config))
        output = model(**inputs).pooler_output
        assert_same(model(inputs["pixel_values"].flip(0)).pooler_output.flip(0), output, tolerance=1e-5)


class TestSaclFusionModel(ModelTests):
    model_class = SaclFusionModel

    @pytest.fixture
    def config(self, tiny_config):
        return tiny_config.fusion_encoder_config

    @pytest.fixture
    def inputs(self, tiny_config):
        generator = torch.Generator().manual_seed(0)
        return {
            "inputs_embeds": torch.randn(BATCH, LENGTH, 32, generator=generator),
            "encoder_hidden_states": torch.randn(BATCH, PATCHES, 48, generator=generator),
            "attention_mask": random_batch(tiny_config)["attention_mask"],
        }

    def test_records_hidden_states_and_attentions(self, config, inputs):
        model = build(SaclFusionModel, config, attn_implementation="eager")
        output = model(**inputs, output_hidden_states=True, output_attentions=True)
        assert shapes(output.hidden_states) == [(BATCH, LENGTH, 32)] * 3
        assert torch.equal(output.hidden_states[0], inputs["inputs_embeds"])
        assert torch.equal(output.hidden_states[-1], output.last_hidden_state)
        assert shapes(output.attentions) == [(BATCH, 2, LENGTH, LENGTH)] * 2
        assert shapes(output.cross_attentions) == [(BATCH, 2, LENGTH, PATCHES)] * 2
        padding = inputs["attention_mask"] == 0
        for attention in output.attentions:
            assert (attention.transpose(1, 3)[padding] == 0).all(), "attention to padding"

    def test_attention_is_bidirectional(self, config, inputs):
        for backend in ("eager", "sdpa"):
            model = stir(build(SaclFusionModel, config, attn_implementation=backend))
            inputs["attention_mask"] = None
            before = model(**inputs).last_hidden_state
            inputs["inputs_embeds"] = inputs["inputs_embeds"].clone()
            inputs["inputs_embeds"][:, -1] += 1
            change = (model(**inputs).last_hidden_state - before).abs().amax(dim=-1)
            assert (change[:, 0] > 1e-4).all(), "the first token does not see the last"
            inputs["inputs_embeds"][:, -1] -= 1

    def test_every_token_sees_every_patch(self, config, inputs):
        model = stir(build(SaclFusionModel, config))
        before = model(**inputs).last_hidden_state
        inputs["encoder_hidden_states"] = inputs["encoder_hidden_states"].clone()
        inputs["encoder_hidden_states"][:, -1] += 1
        assert ((model(**inputs).last_hidden_state - before).abs().amax(dim=-1) > 1e-4).all()

    def test_image_index_says_who_looks_at_what(self, config, inputs):
        model = stir(build(SaclFusionModel, config))
        index = torch.tensor([2, 2, 0, 1])
        output = model(**inputs, image_index=index).last_hidden_state
        inputs["encoder_hidden_states"] = inputs["encoder_hidden_states"][index]
        assert_same(output, model(**inputs).last_hidden_state, tolerance=1e-6)

    def test_images_are_projected_once(self, config, inputs):
        model = build(SaclFusionModel, config)
        rows = []
        model.layers[0].cross_attention.k_proj.register_forward_hook(
            lambda module, args, output: rows.append(len(args[0]))
        )
        inputs["encoder_hidden_states"] = inputs["encoder_hidden_states"][:1]
        model(**inputs, image_index=torch.zeros(BATCH, dtype=torch.long))
        assert rows == [1]

    @pytest.mark.parametrize("num_positions", [1, 3, LENGTH + 2])
    @pytest.mark.parametrize("masked", [True, False])
    @pytest.mark.parametrize("backend", [*CPU_BACKENDS, "another"])
    def test_output_positions_are_those_tokens_of_the_full_output(
        self, config, inputs, num_positions, masked, backend, monkeypatch
    ):
        # Another backend stands for flash attention and flex attention, whose masks cannot be cut.
        monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "another", ALL_ATTENTION_FUNCTIONS["sdpa"])
        monkeypatch.setitem(
            ALL_MASK_ATTENTION_FUNCTIONS._global_mapping, "another", ALL_MASK_ATTENTION_FUNCTIONS["sdpa"]
        )
        model = stir(build(SaclFusionModel, config, attn_implementation=backend))
        generator = torch.Generator().manual_seed(1)
        positions = torch.randint(0, LENGTH, (BATCH, num_positions), generator=generator)
        if not masked:
            inputs["attention_mask"] = None
        some = model(**inputs, output_positions=positions).last_hidden_state
        full = model(**inputs).last_hidden_state
        expected = torch.stack([full[row, positions[row]] for row in range(BATCH)])
        assert_same(some, expected, tolerance=1e-6)
        weights = torch.randn(some.shape, generator=generator)
        gradients, expected_gradients = (
            torch.autograd.grad((weights * output).mean(), list(model.parameters())) for output in (some, expected)
        )
        assert_same(gradients, expected_gradients, tolerance=1e-6)

    def test_unequal_numbers_without_index_raise(self, config, inputs):
        inputs["encoder_hidden_states"] = inputs["encoder_hidden_states"][:3]
        with pytest.raises(ValueError, match="4 texts and 3 images: pass `image_index`"):
            build(SaclFusionModel, config)(**inputs)


# ------------------------------------------------------------------------------------------------------ dual encoder


class TestSaclModel(TextTowerTests, ModelTests):
    model_class = SaclModel

    @pytest.fixture
    def inputs(self, config):
        return random_batch(config)

    def loss(self, model, inputs):
        """The fusion encoder is above the forward's outputs: its parameters learn through `get_fusion_features`."""
        weights = torch.randn(BATCH, LENGTH, 32, generator=torch.Generator().manual_seed(0))
        fused = model.get_fusion_features(**inputs).last_hidden_state
        return self.run(model, inputs, return_loss=True).loss + (weights * fused).mean()

    def test_answers_like_clip(self, config, inputs):
        model = stir(build(SaclModel, config))
        output = model(**inputs)
        for embeds in (output.image_embeds, output.text_embeds):
            assert embeds.shape == (BATCH, 20)
            assert (embeds.norm(dim=-1) - 1).abs().max() < 1e-6
        expected = model.logit_scale.exp() * output.image_embeds @ output.text_embeds.T
        assert (output.logits_per_image - expected).abs().max() <= 1e-6
        assert torch.equal(output.logits_per_text, output.logits_per_image.T)
        assert output.loss is None
        assert list(output) == [
            "logits_per_image",
            "logits_per_text",
            "text_embeds",
            "image_embeds",
            "text_model_output",
            "vision_model_output",
        ]

    def test_features_are_the_embeddings_before_normalisation(self, config, inputs):
        model = stir(build(SaclModel, config))
        output = model(**inputs)
        images = model.get_image_features(inputs["pixel_values"])
        texts = model.get_text_features(inputs["input_ids"], attention_mask=inputs["attention_mask"])
        for features, embeds in ((images, output.image_embeds), (texts, output.text_embeds)):
            assert torch.equal(normalize(features.pooler_output, dim=-1), embeds)
            assert (features.pooler_output.norm(dim=-1) - 1).abs().max() > 1e-3
        assert torch.equal(images.pooler_output, model.visual_projection(images.last_hidden_state[:, 0]))
        assert torch.equal(texts.pooler_output, model.text_projection(texts.last_hidden_state[:, 0]))
        assert_same(output.vision_model_output, images)
        assert_same(output.text_model_output, texts)

    def test_any_number_of_images_meets_any_number_of_texts(self, config, inputs):
        model = build(SaclModel, config)
        inputs["pixel_values"] = inputs["pixel_values"][:1]
        output = model(**inputs)
        assert output.logits_per_image.shape == (1, BATCH)
        assert output.logits_per_text.shape == (BATCH, 1)
        with pytest.raises(ValueError, match=r"\(1, 20\) and \(4, 20\)"):
            model(**inputs, return_loss=True)

    def test_loss_is_the_regulated_one(self, config, inputs):
        model = stir(build(SaclModel, config))
        for pair_ids in (None, torch.tensor([0, 1, 0, 2])):
            output = model(**inputs, return_loss=True, pair_ids=pair_ids)
            expected = similarity_regulated_contrastive_loss(
                output.image_embeds, output.text_embeds, model.logit_scale.exp(), pair_ids=pair_ids
            )
            assert torch.equal(output.loss, expected)

    def test_logit_scale_starts_at_the_configured_value(self, config):
        config.logit_scale_init_value = 1.5
        assert build(SaclModel, config).logit_scale.item() == 1.5
        assert SaclConfig().logit_scale_init_value == pytest.approx(-torch.tensor(0.07).log().item(), abs=1e-6)

    def test_records_hidden_states_and_attentions_of_both_towers(self, config, inputs):
        model = build(SaclModel, config, attn_implementation="eager")
        output = model(**inputs, output_hidden_states=True, output_attentions=True)
        assert shapes(output.vision_model_output.hidden_states) == [(BATCH, PATCHES, 48)] * 3
        assert shapes(output.vision_model_output.attentions) == [(BATCH, 4, PATCHES, PATCHES)] * 2
        assert shapes(output.text_model_output.hidden_states) == [(BATCH, LENGTH, 32)] * 3
        assert shapes(output.text_model_output.attentions) == [(BATCH, 2, LENGTH, LENGTH)] * 2

    def test_records_the_fusion_encoder(self, config, inputs):
        model = build(SaclModel, config, attn_implementation="eager")
        output = model.get_fusion_features(**inputs, output_hidden_states=True, output_attentions=True)
        assert shapes(output.hidden_states) == [(BATCH, LENGTH, 32)] * 3
        assert shapes(output.attentions) == [(BATCH, 2, LENGTH, LENGTH)] * 2
        assert shapes(output.cross_attentions) == [(BATCH, 2, LENGTH, PATCHES)] * 2

    def test_fusion_features_are_the_two_towers_fused(self, config, inputs):
        model = stir(build(SaclModel, config))
        index = torch.tensor([1, 0, 0, 2])
        output = model.get_fusion_features(**inputs, image_index=index).last_hidden_state
        texts = model.text_model(inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state
        images = model.vision_model(inputs["pixel_values"]).last_hidden_state
        expected = model.fusion_model(texts, images[index], attention_mask=inputs["attention_mask"]).last_hidden_state
        assert_same(output, expected, tolerance=1e-6)

    def test_features_as_tuples(self, config, inputs):
        model = build(SaclModel, config)
        texts = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
        images = {"pixel_values": inputs["pixel_values"]}
        for method, arguments in (
            (model.get_text_features, texts),
            (model.get_image_features, images),
            (model.get_fusion_features, inputs),
        ):
            as_tuple = method(**arguments, return_dict=False)
            assert isinstance(as_tuple, tuple)
            assert torch.equal(as_tuple[0], method(**arguments).last_hidden_state)
            with pytest.raises(TypeError, match="has no argument `position_idz`"):
                method(**arguments, position_idz=None)

    def test_token_types_reach_the_text_tower(self, config, inputs):
        model = stir(build(SaclModel, config))
        without = model(**inputs).text_embeds
        assert torch.equal(model(**inputs, token_type_ids=torch.zeros_like(inputs["input_ids"])).text_embeds, without)
        ones = model(**inputs, token_type_ids=torch.ones_like(inputs["input_ids"])).text_embeds
        assert not torch.allclose(ones, without)

    def test_another_image_size_is_saved(self, config, inputs, tmp_path):
        model = stir(build(SaclModel, config))
        model.set_image_size(64)
        inputs["pixel_values"] = torch.randn(len(inputs["input_ids"]), 3, 64, 64)
        model.save_pretrained(tmp_path)
        loaded = SaclModel.from_pretrained(tmp_path)
        assert loaded.config.vision_config.image_size == 64
        with torch.no_grad():
            assert_same(loaded(**inputs), model(**inputs))
        with pytest.raises(TypeError, match="`SaclFusionModel` has no image tower"):
            model.fusion_model.set_image_size(64)

    def test_larger_images_with_interpolation(self, config, inputs):
        model = build(SaclModel, config)
        inputs["pixel_values"] = torch.randn(BATCH, 3, 48, 48)
        assert model(**inputs, interpolate_pos_encoding=True).image_embeds.shape == (BATCH, 20)
        assert model.get_fusion_features(**inputs, interpolate_pos_encoding=True).last_hidden_state.isfinite().all()
        with pytest.raises(ValueError, match="48 x 48"):
            model(**inputs)

    @pytest.mark.parametrize("missing", ["input_ids", "pixel_values"])
    def test_missing_modality_raises(self, config, inputs, missing):
        del inputs[missing]
        with pytest.raises(ValueError, match="`get_text_features` and `get_image_features`"):
            build(SaclModel, config)(**inputs)

    def test_text_tower_has_no_untrained_pooler(self, config):
        assert not [name for name in build(SaclModel, config).state_dict() if "pooler" in name]

    def test_construction_neither_downloads_nor_prints(self, config, capfd, monkeypatch):
        monkeypatch.setattr(socket.socket, "connect", lambda *args: pytest.fail("a connection was opened"))
        build(SaclForPreTraining, config)
        captured = capfd.readouterr()
        assert captured.out == captured.err == ""


# ------------------------------------------------------------------------------------------------------ pre-training


def random_pair_ids(size: int, kinds: int, seed: int) -> torch.Tensor:
    return torch.randint(0, kinds, (size,), generator=torch.Generator().manual_seed(seed))


class TestHardNegatives:
    @settings(deadline=None, max_examples=100, derandomize=True, database=None)
    @given(
        size=st.integers(1, 12),
        kinds=st.integers(1, 12),
        seed=st.integers(0, 10_000),
        scale=st.sampled_from([0.0, 1.0, 1000.0, 1e30]),
        strength=st.sampled_from([0.0, 1.0, 50.0]),
        broken=st.sampled_from([None, torch.nan, torch.inf, -torch.inf]),
    )
    def test_never_a_row_of_the_own_pair(self, size, kinds, seed, scale, strength, broken):
        positive = find_positives(random_pair_ids(size, kinds, seed))
        generator = torch.Generator().manual_seed(seed)
        cosines = 2 * torch.rand(size, size, generator=generator) - 1
        logits = scale * cosines
        if broken is not None:
            logits[seed % size] = broken
        weights = log_regulation_weights(cosines, strength=strength, negative_mask=~positive)
        for _ in range(5):
            index, has_negative = sample_hard_negatives(logits, positive, weights)
            assert index.dtype == torch.int64
            assert ((0 <= index) & (index < size)).all()
            assert torch.equal(has_negative, (~positive).any(dim=1))
            drawn = positive.gather(1, index[:, None]).squeeze(1)
            assert not drawn[has_negative].any()

    def test_draw_follows_the_softmax(self):
        torch.manual_seed(0)
        draws = 40_000
        logits = torch.tensor([2.0, 0.0, 1.0, -1.0, 3.0])
        positive = torch.tensor([False, False, True, False, False])
        index, _ = sample_hard_negatives(logits.expand(draws, 5), positive.expand(draws, 5))
        expected = logits.masked_fill(positive, -torch.inf).softmax(0)
        assert_frequencies(index, expected)

    def test_regulation_lowers_the_draw_of_similar_negatives(self):
        torch.manual_seed(0)
        draws = 40_000
        logits = torch.tensor([0.0, 2.0, 1.0, 0.5])
        cosines = torch.tensor([1.0, 0.9, 0.1, -0.5])
        positive = torch.tensor([True, False, False, False])
        weights = log_regulation_weights(cosines[None], strength=2.0, negative_mask=~positive[None])
        index, _ = sample_hard_negatives(logits.expand(draws, 4), positive.expand(draws, 4), weights.expand(draws, 4))
        plain = logits.masked_fill(positive, -torch.inf).softmax(0)
        regulated = (plain * (-2.0 * cosines).exp()).masked_fill(positive, 0)
        regulated = regulated / regulated.sum()
        assert_frequencies(index, regulated)
        assert regulated[1] < plain[1] / 2

    @pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
    def test_a_share_is_drawn_hard_and_the_rest_evenly(self, share):
        torch.manual_seed(0)
        draws = 40_000
        logits = torch.tensor([2.0, 0.0, 1.0, -1.0, 3.0])
        positive = torch.tensor([False, False, True, False, False])
        index, _ = sample_hard_negatives(logits.expand(draws, 5), positive.expand(draws, 5), hard_share=share)
        hard = logits.masked_fill(positive, -torch.inf).softmax(0)
        assert_frequencies(index, share * hard + (1 - share) * torch.tensor([0.25, 0.25, 0.0, 0.25, 0.25]))

    @pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
    def test_a_share_out_of_range_is_named(self, share):
        with pytest.raises(ValueError, match=rf"hard_share.*{share}"):
            sample_hard_negatives(torch.zeros(2, 2), torch.eye(2, dtype=torch.bool), hard_share=share)

    def test_draw_carries_no_gradient(self):
        logits = torch.randn(3, 3, requires_grad=True)
        index, has_negative = sample_hard_negatives(logits, torch.eye(3, dtype=torch.bool))
        assert not index.requires_grad
        assert not has_negative.requires_grad


def assert_frequencies(index: torch.Tensor, expected: torch.Tensor) -> None:
    """Chi-square, with five deviations of it as the limit; the impossible never happens."""
    counts = index.bincount(minlength=len(expected)).float()
    possible = expected > 0
    assert counts[~possible].sum() == 0
    means = len(index) * expected[possible]
    chi_square = ((counts[possible] - means) ** 2 / means).sum().item()
    freedom = int(possible.sum()) - 1
    assert chi_square < freedom + 5 * (2 * freedom) ** 0.5, (counts, means)


class TestSaclForPreTraining(TextTowerTests, ModelTests):
    model_class = SaclForPreTraining

    @pytest.fixture
    def inputs(self, config):
        return random_masked_batch(config)

    def loss(self, model, inputs):
        return self.run(model, inputs, return_loss=True).loss

    @pytest.fixture
    def draws(self, monkeypatch):
        """What was drawn as hard negatives: texts for images, then images for texts."""
        drawn = []

        def recorded(*args, **kwargs):
            result = sample_hard_negatives(*args, **kwargs)
            drawn.append(result[0])
            return result

        monkeypatch.setattr(retrieval, "sample_hard_negatives", recorded)
        return drawn

    # ---------------------------------------------------------------------------------------------------- matching

    def test_matching_equals_one_pair_at_a_time(self, config, inputs, draws):
        model = stir(build(SaclForPreTraining, config))
        output = self.run(model, inputs)
        texts_of_images, images_of_texts = draws
        pairs = [(row, row) for row in range(BATCH)]
        pairs += [(int(texts_of_images[row]), row) for row in range(BATCH)]
        pairs += [(row, int(images_of_texts[row])) for row in range(BATCH)]
        assert output.itm_labels.tolist() == [1] * BATCH + [0] * 2 * BATCH
        assert output.itm_logits.shape == (3 * BATCH, 2)
        for (text, image), logits in zip(pairs, output.itm_logits, strict=True):
            length = int(inputs["attention_mask"][text].sum())
            fused = model.sacl.get_fusion_features(
                inputs["input_ids"][text : text + 1, :length], inputs["pixel_values"][image : image + 1]
            )
            expected = model.itm_head(fused.last_hidden_state[0, 0])
            assert (logits - expected).abs().max() <= 1e-5
        expected_loss = cross_entropy(output.itm_logits, output.itm_labels)
        assert abs(output.itm_loss.item() - expected_loss.item()) <= 1e-6

    def test_matching_without_mask(self, config, inputs):
        model = stir(build(SaclForPreTraining, config))
        full = {**inputs, "attention_mask": torch.ones_like(inputs["attention_mask"])}
        without = {name: value for name, value in inputs.items() if name != "attention_mask"}
        assert_same(self.run(model, without), self.run(model, full), tolerance=1e-6)

    def test_pairs_of_one_id_are_never_matched_as_negatives(self, config, draws):
        model = build(SaclForPreTraining, config)
        inputs = random_batch(config, batch_size=6)
        for seed in range(10):
            pair_ids = random_pair_ids(6, 3, seed)
            output = model(**inputs, pair_ids=pair_ids)
            texts_of_images, images_of_texts = draws[-2:]
            some = (pair_ids[:, None] != pair_ids).any(dim=1)
            assert (pair_ids[texts_of_images] != pair_ids)[some].all()
            assert (pair_ids[images_of_texts] != pair_ids)[some].all()
            expected = torch.cat([torch.ones(6), torch.where(some, 0, -100), torch.where(some, 0, -100)])
            assert torch.equal(output.itm_labels, expected.long())

    @pytest.mark.parametrize("batch_size", [1, 3])
    def test_without_any_negative_only_the_pairs_count(self, config, batch_size):
        model = stir(build(SaclForPreTraining, config))
        inputs = random_batch(config, batch_size=batch_size)
        output = model(**inputs, pair_ids=torch.zeros(batch_size, dtype=torch.long), return_loss=True)
        assert output.itm_labels.tolist() == [1] * batch_size + [-100] * 2 * batch_size
        expected = cross_entropy(output.itm_logits[:batch_size], torch.ones(batch_size, dtype=torch.long))
        assert output.itm_loss.item() == pytest.approx(expected.item(), abs=1e-6)
        output.loss.backward()
        assert all(value.grad.isfinite().all() for value in model.parameters() if value.grad is not None)

    def test_some_pairs_without_negatives(self, config):
        # Of three pairs two share an id: all have a negative. Of two that share it, none has.
        output = build(SaclForPreTraining, config)(
            **random_batch(config, batch_size=3), pair_ids=torch.tensor([5, 5, 6])
        )
        assert output.itm_labels.tolist() == [1] * 3 + [0] * 6

    def test_saturated_temperature(self, config, inputs):
        model = build(SaclForPreTraining, config)
        with torch.no_grad():
            model.sacl.logit_scale.fill_(torch.tensor(1000.0).log())
        output = self.run(model, inputs, return_loss=True)
        assert output.loss.isfinite()
        output.loss.backward()
        assert all(value.grad.isfinite().all() for value in model.parameters() if value.grad is not None)

    def test_nan_is_reported_by_the_loss_not_by_a_crash(self, config, inputs):
        model = build(SaclForPreTraining, config)
        inputs["pixel_values"][1] = torch.nan
        output = self.run(model, inputs, return_loss=True)
        assert output.loss.isnan()
        assert output.itc_loss.isnan()
        assert output.itm_loss.isnan()

    def test_regulated_draw_avoids_what_resembles_the_anchor(self, config, inputs, draws):
        similarity = 2 * torch.rand(BATCH, BATCH, generator=torch.Generator().manual_seed(3)) - 1
        model = build(SaclForPreTraining, config)
        with torch.no_grad():
            model.sacl.logit_scale.fill_(0.0)
        # At this strength the draw is certain: it falls on the least similar of the negatives.
        self.run(model, inputs, hard_negative_strength=1e4, hard_negative_similarity=similarity)
        least = similarity.masked_fill(torch.eye(BATCH, dtype=torch.bool), torch.inf)
        assert torch.equal(draws[0], least.argmin(dim=1))
        assert torch.equal(draws[1], least.argmin(dim=0))

    def test_regulated_draw_uses_the_own_similarity_by_default(self, config, inputs, draws):
        model = stir(build(SaclForPreTraining, config))
        with torch.no_grad():
            model.sacl.logit_scale.fill_(0.5)
        output = self.run(model, inputs, hard_negative_strength=1e6)
        cosines = (output.image_embeds @ output.text_embeds.T).detach()
        least = cosines.masked_fill(torch.eye(BATCH, dtype=torch.bool), torch.inf)
        assert torch.equal(draws[0], least.argmin(dim=1))
        assert torch.equal(draws[1], least.argmin(dim=0))

    def test_wrong_similarity_shape_raises(self, config, inputs):
        with pytest.raises(ValueError, match=r"`hard_negative_similarity`.*\(4, 4\), got \(3, 3\)"):
            build(SaclForPreTraining, config)(
                **inputs, hard_negative_strength=1.0, hard_negative_similarity=torch.zeros(3, 3)
            )

    # -------------------------------------------------------------------------------------------- masked language

    def test_masked_logits_equal_the_full_computation(self, config, inputs):
        model = stir(build(SaclForPreTraining, config))
        output = self.run(model, inputs)
        fused = model.sacl.get_fusion_features(
            inputs["mlm_input_ids"], inputs["pixel_values"], attention_mask=inputs["attention_mask"]
        )
        full = model.mlm_head(fused.last_hidden_state)
        assert output.mlm_logits.shape == (BATCH, 2, 99)
        for row in range(BATCH):
            for column, position in enumerate(inputs["mlm_positions"][row]):
                assert (output.mlm_logits[row, column] - full[row, position]).abs().max() <= 1e-5

    def test_masked_loss_is_the_mean_over_masked_positions(self, config, inputs):
        model = stir(build(SaclForPreTraining, config))
        output = self.run(model, inputs)
        rows = [
            (output.mlm_logits[row, column], label)
            for row in range(BATCH)
            for column, label in enumerate(inputs["mlm_labels"][row])
            if label != -100
        ]
        assert len(rows) == 2 * BATCH - 1
        expected = cross_entropy(
            torch.stack([logits for logits, _ in rows]), torch.stack([label for _, label in rows])
        )
        assert abs(output.mlm_loss.item() - expected.item()) <= 1e-6

    def test_nothing_masked_is_loss_zero(self, config, inputs):
        model = build(SaclForPreTraining, config)
        inputs["mlm_labels"] = torch.full_like(inputs["mlm_labels"], -100)
        output = self.run(model, inputs, return_loss=True)
        assert output.mlm_loss.item() == 0
        output.loss.backward()
        assert all(value.grad.isfinite().all() for value in model.parameters() if value.grad is not None)

    def test_no_masked_positions_at_all(self, config, inputs):
        model = build(SaclForPreTraining, config)
        inputs["mlm_positions"], inputs["mlm_labels"] = inputs["mlm_positions"][:, :0], inputs["mlm_labels"][:, :0]
        output = self.run(model, inputs, return_loss=True)
        assert output.mlm_logits.shape == (BATCH, 0, 99)
        assert output.mlm_loss.item() == 0
        assert output.loss.isfinite()

    def test_positions_without_labels_give_logits_only(self, config, inputs):
        del inputs["mlm_labels"]
        output = self.run(build(SaclForPreTraining, config), inputs)
        assert output.mlm_logits is not None
        assert output.mlm_loss is None

    @pytest.mark.parametrize("missing", [("mlm_positions",), ("mlm_input_ids",), ("mlm_input_ids", "mlm_positions")])
    def test_half_of_the_masked_inputs_raises(self, config, inputs, missing):
        for name in missing:
            del inputs[name]
        with pytest.raises(ValueError, match="`mlm_input_ids` and `mlm_positions`"):
            build(SaclForPreTraining, config)(**inputs)

    # -------------------------------------------------------------------------------------------------------- losses

    def test_loss_is_the_sum_of_its_parts(self, config, inputs):
        model = stir(build(SaclForPreTraining, config))
        for pair_ids in (None, torch.tensor([0, 1, 0, 2])):
            output = self.run(model, inputs, return_loss=True, pair_ids=pair_ids)
            expected = similarity_regulated_contrastive_loss(
                output.image_embeds, output.text_embeds, output.logit_scale, pair_ids=pair_ids
            )
            assert torch.equal(output.itc_loss, expected)
            assert output.loss.item() == pytest.approx(
                output.itc_loss.item() + output.itm_loss.item() + output.mlm_loss.item(), abs=1e-6
            )

    def test_parts_can_be_left_out(self, config, inputs):
        model = build(SaclForPreTraining, config)
        plain = {name: inputs[name] for name in ("input_ids", "attention_mask", "pixel_values")}
        output = model(**plain, with_itm=False, return_loss=True)
        assert output.itm_loss is output.itm_logits is output.itm_labels is None
        assert output.mlm_loss is output.mlm_logits is None
        assert torch.equal(output.loss, output.itc_loss)
        output = model(**inputs, with_itm=False, return_loss=True)
        assert output.itm_loss is None
        assert output.loss.item() == pytest.approx(output.itc_loss.item() + output.mlm_loss.item(), abs=1e-6)
        output = model(**plain)
        assert output.loss is output.itc_loss is None
        assert output.itm_loss is not None

    def test_embeddings_are_those_of_the_dual_encoder(self, config, inputs):
        model = stir(build(SaclForPreTraining, config))
        output = self.run(model, inputs)
        plain = {name: inputs[name] for name in ("input_ids", "attention_mask", "pixel_values")}
        expected = model.sacl(**plain)
        assert torch.equal(output.image_embeds, expected.image_embeds)
        assert torch.equal(output.text_embeds, expected.text_embeds)
        assert torch.equal(output.logit_scale, model.sacl.logit_scale.exp())

    def test_unequal_numbers_of_images_and_texts_raise(self, config, inputs):
        inputs["pixel_values"] = inputs["pixel_values"][:3]
        with pytest.raises(ValueError, match="4 texts and 3 images"):
            build(SaclForPreTraining, config)(**inputs)

    def test_autocast_keeps_losses_in_full_precision(self, config, inputs):
        model = build(SaclForPreTraining, config)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = self.run(model, inputs, return_loss=True)
        for loss in (output.loss, output.itc_loss, output.itm_loss, output.mlm_loss):
            assert loss.dtype == torch.float32
            assert loss.isfinite()

    def test_learns_a_batch_by_heart(self, config, inputs):
        for inner in (config.text_config, config.fusion_encoder_config):
            for name in ("hidden_dropout", "hidden_dropout_prob", "attention_dropout", "attention_probs_dropout_prob"):
                if hasattr(inner, name):
                    setattr(inner, name, 0.0)
        model = build(SaclForPreTraining, config).train()
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        losses = []
        for _ in range(40):
            output = model(**inputs, return_loss=True)
            optimizer.zero_grad()
            output.loss.backward()
            optimizer.step()
            losses.append(output.loss.item())
        assert losses[-1] < losses[0] / 3


# ------------------------------------------------------------------------------------------- families of text towers


COMMON = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 37,
    "vocab_size": 99,
    "max_position_embeddings": 64,
}
TEXT_TOWERS = {
    "bert": {},
    "roberta": {"pad_token_id": 1},
    "xlm-roberta": {"pad_token_id": 1},
    "camembert": {"pad_token_id": 1},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 37},
    "electra": {"embedding_size": 16},
    "albert": {"embedding_size": 16},
    "mpnet": {},
    "deberta-v2": {},
    "modernbert": {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3},
    "nomic_bert": {},
}


class TestTextTowers:
    @pytest.fixture(params=TEXT_TOWERS)
    def config(self, request, tiny_config):
        options = {"model_type": request.param, **COMMON, **TEXT_TOWERS[request.param]}
        if request.param == "distilbert":
            options = {name: value for name, value in options.items() if name not in list(COMMON)[:4]}
        return SaclConfig(
            text_config=options,
            vision_config=tiny_config.vision_config,
            fusion_encoder_config={"num_hidden_layers": 1},
            projection_dim=20,
        )

    @staticmethod
    def assert_tied(model):
        assert model.mlm_head.decoder.weight is model.get_input_embeddings().weight

    def test_works_from_loss_to_folder(self, config, tmp_path):
        model = stir(build(SaclForPreTraining, config))
        self.assert_tied(model)
        inputs = random_masked_batch(config)

        torch.manual_seed(0)
        output = model(**inputs, return_loss=True)
        output.loss.backward()
        missing = [name for name, value in model.named_parameters() if value.grad is None]
        assert missing == []

        # The first token stands for the text: it must have read the others.
        changed = inputs["input_ids"].clone()
        changed[:, 2] = (changed[:, 2] + 1).clamp(5, 98)
        with torch.no_grad():
            other = model.sacl.get_text_features(changed, attention_mask=inputs["attention_mask"]).pooler_output
            features = model.sacl.get_text_features(**{k: inputs[k] for k in ("input_ids", "attention_mask")})
            assert ((other - features.pooler_output).abs().amax(dim=-1) > 1e-5).all()
            # Row 2 is the shortest: two tokens of padding.
            alone = model.sacl.get_text_features(inputs["input_ids"][2:3, :-2]).pooler_output
            assert (alone - features.pooler_output[2:3]).abs().max() <= 1e-5

        model.save_pretrained(tmp_path)
        loaded, report = SaclForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(report.values()), report
        self.assert_tied(loaded)
        torch.manual_seed(0)
        with torch.no_grad():
            assert_same(loaded(**inputs, return_loss=True), output)

        loaded.resize_token_embeddings(105)
        self.assert_tied(loaded)
        assert loaded.config.text_config.vocab_size == 105
        assert loaded.mlm_head.decoder.weight.shape == (105, loaded.get_input_embeddings().embedding_dim)
        assert loaded.mlm_head.decoder.bias.shape == (105,)
        assert loaded(**inputs).mlm_logits.shape == (BATCH, 2, 105)

    def test_fusion_encoder_continues_the_text_tower(self, config):
        fusion, text = config.fusion_encoder_config, config.text_config
        assert fusion.hidden_size == text.hidden_size == 32
        assert fusion.num_attention_heads == text.num_attention_heads
        assert fusion.encoder_hidden_size == 48

    def test_tied_weights_are_saved_once(self, config, tmp_path):
        model = build(SaclForPreTraining, config)
        model.save_pretrained(tmp_path)
        with safe_open(tmp_path / "model.safetensors", "pt") as file:
            names = set(file.keys())
        assert "mlm_head.decoder.weight" not in names


class TestUntiedHead:
    def test_head_of_its_own(self, tiny_config, tmp_path):
        tiny_config.tie_word_embeddings = False
        model = stir(build(SaclForPreTraining, tiny_config))
        decoder, embeddings = model.mlm_head.decoder.weight, model.get_input_embeddings().weight
        assert decoder is not embeddings
        model.save_pretrained(tmp_path)
        loaded = SaclForPreTraining.from_pretrained(tmp_path)
        assert torch.equal(loaded.mlm_head.decoder.weight, decoder)
        assert not torch.equal(loaded.mlm_head.decoder.weight, loaded.get_input_embeddings().weight)


# ----------------------------------------------------------------------------------------------------- configuration


def text(**options) -> dict:
    return {"model_type": "bert", **COMMON, **options}


IMPOSSIBLE = {
    "heads": (lambda: SaclVisionConfig(hidden_size=50), r"`hidden_size` \(50\).*`num_attention_heads` \(12\)"),
    "fusion_heads": (lambda: SaclFusionConfig(hidden_size=50), r"`hidden_size` \(50\).*\(12\)"),
    "patches": (lambda: SaclVisionConfig(image_size=250), r"`image_size` \(250\).*`patch_size` \(16\)"),
    "patch_of_nothing": (lambda: SaclVisionConfig(patch_size=0), "`patch_size` must be at least 1, got 0"),
    "no_heads": (lambda: SaclVisionConfig(num_attention_heads=0), "`num_attention_heads`.*got 0"),
    "negative_width": (lambda: SaclVisionConfig(hidden_size=-12), "`hidden_size`.*got -12"),
    "no_layers": (lambda: SaclFusionConfig(num_hidden_layers=0), "`num_hidden_layers`.*got 0"),
    "dropout": (lambda: SaclVisionConfig(hidden_dropout=1.5), r"`hidden_dropout`.*\[0, 1\).*1.5"),
    "projection": (lambda: SaclConfig(projection_dim=0), "`projection_dim`.*got 0"),
    "fusion_width": (
        lambda: SaclConfig(fusion_encoder_config={"hidden_size": 384}),
        r"`hidden_size` \(384\).*text tower.*\(768\)",
    ),
    "cross_attention_width": (
        lambda: SaclConfig(fusion_encoder_config={"encoder_hidden_size": 384}),
        r"`encoder_hidden_size` \(384\).*image tower \(768\)",
    ),
    "inner_dict": (lambda: SaclConfig(vision_config={"image_size": 250}), r"`image_size` \(250\)"),
    "decoder": (lambda: SaclConfig(text_config=text(is_decoder=True)), "must be an encoder.*`is_decoder=False`"),
    "encoder_decoder": (lambda: SaclConfig(text_config={"model_type": "t5"}), "`t5` is an encoder-decoder"),
    "image_tower_as_text": (lambda: SaclConfig(text_config={"model_type": "vit"}), "`vit` has no `vocab_size`"),
    "dual_encoder_as_text": (lambda: SaclConfig(text_config={"model_type": "clip"}), "`clip` has no `vocab_size`"),
    "unknown_text_tower": (lambda: SaclConfig(text_config={"model_type": "brt"}), "brt"),
}


class TestConfig:
    @pytest.mark.parametrize("impossible", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
    def test_impossible_setting_names_the_value(self, impossible):
        function, message = impossible
        with pytest.raises(ValueError, match=message):
            function()

    @pytest.mark.parametrize("model_type", ["gpt2", "clip_text_model", "siglip_text_model"])
    def test_text_tower_whose_first_token_cannot_stand_for_the_text(self, model_type, tiny_config):
        config = SaclConfig(text_config={"model_type": model_type}, vision_config=tiny_config.vision_config)
        with pytest.raises(ValueError, match=f"`{model_type}`.*such as BERT"):
            SaclModel(config)

    def test_became_impossible_later_is_not_saved(self, tiny_config, tmp_path):
        tiny_config.vision_config.patch_size = 7
        with pytest.raises(Exception, match=r"`image_size` \(32\).*`patch_size` \(7\)"):
            tiny_config.vision_config.save_pretrained(tmp_path)

    @pytest.mark.parametrize("key", ["text_config", "vision_config", "fusion_encoder_config"])
    def test_wrong_type_raises(self, key):
        with pytest.raises(Exception, match=f"{key}"):
            SaclConfig(**{key: "google-bert/bert-base-uncased"})

    def test_misspelt_option_of_a_tower_raises(self):
        with pytest.raises(TypeError, match="`SaclVisionConfig` has no option `image_siz`. Did you mean `image_size`"):
            SaclConfig(vision_config={"image_siz": 224})
        with pytest.raises(TypeError, match="`SaclFusionConfig` has no option `num_layers`"):
            SaclConfig(fusion_encoder_config={"num_layers": 3})

    def test_unlike_anything_lists_the_options(self):
        with pytest.raises(TypeError, match="`SaclConfig` has no option `xyz`. It has: .*projection_dim") as error:
            SaclConfig(xyz=1)
        assert "sub_configs_defaults" not in str(error.value)

    def test_defaults_are_the_published_base_model(self):
        config = SaclConfig()
        assert config.text_config.model_type == "bert"
        assert config.text_config.num_hidden_layers == config.fusion_encoder_config.num_hidden_layers == 6
        assert config.vision_config.num_hidden_layers == 12
        assert config.vision_config.image_size == 256
        assert config.projection_dim == 256
        assert config.fusion_encoder_config.to_dict() == SaclFusionConfig().to_dict()

    def test_fusion_encoder_takes_over_the_text_tower(self):
        config = SaclConfig(
            text_config=text(hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.2, hidden_act="relu"),
            fusion_encoder_config={"num_hidden_layers": 3, "attention_dropout": 0.0},
        )
        fusion = config.fusion_encoder_config
        assert (fusion.hidden_size, fusion.intermediate_size, fusion.num_attention_heads) == (32, 37, 2)
        assert (fusion.hidden_dropout, fusion.attention_dropout) == (0.3, 0.0)
        assert (fusion.hidden_act, fusion.num_hidden_layers) == ("relu", 3)

    def test_towers_as_objects_equal_towers_as_dicts(self, tiny_config):
        towers = {key: getattr(tiny_config, key) for key in tiny_config.sub_configs}
        as_objects = SaclConfig(**copy.deepcopy(towers), projection_dim=20)
        as_dicts = SaclConfig(**{key: tower.to_dict() for key, tower in towers.items()}, projection_dim=20)
        assert as_objects.to_dict() == as_dicts.to_dict() == tiny_config.to_dict()

    def test_given_dicts_are_not_changed(self):
        options = {"text_config": text(), "fusion_encoder_config": {"num_hidden_layers": 1}}
        before = copy.deepcopy(options)
        SaclConfig(**options)
        assert options == before

    def test_text_tower_without_type_is_bert(self):
        options = text()
        del options["model_type"]
        assert SaclConfig(text_config=options).text_config.model_type == "bert"

    @pytest.mark.parametrize("documented", [SaclConfig, SaclVisionConfig])
    def test_example_runs(self, documented):
        assert run_examples(documented) > 1
