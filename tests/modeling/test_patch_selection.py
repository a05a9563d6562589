# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Patch selection: against slow loops, written formulas and the model without it; and that no text leaks by it."""

import copy
import json
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch._dynamo.utils import counters
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel

from modeling_sacl import (
    SaclConfig,
    SaclForPreTraining,
    SaclFusionModel,
    SaclModel,
    SaclVisionConfig,
    SaclVisionModel,
    patch_relevance,
    select_patches,
)
from modeling_sacl.patch_selection_sacl import number_to_keep

from . import test_modeling
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


BATCH = 4
WIDTH = 48


def vision_options(**options) -> dict:
    """Four layers and 16 patches. The 2nd and 3rd layer select: 12 of 16, then 10 of 13 with the fused one."""
    return {
        "hidden_size": WIDTH,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 50,
        "image_size": 32,
        "patch_size": 8,
        "patch_keep_rate": 0.7,
        **options,
    }


def whole_config(**options) -> SaclConfig:
    """Towers of one width, as a selection by text needs them; the options are those of the image tower."""
    return SaclConfig(
        text_config={
            "model_type": "bert",
            "hidden_size": WIDTH,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 37,
            "vocab_size": 99,
            "max_position_embeddings": 64,
        },
        vision_config=vision_options(**options),
        fusion_encoder_config={"num_hidden_layers": 2},
        projection_dim=20,
    )


def random_tower(dtype: torch.dtype = torch.float32, **options) -> SaclVisionModel:
    return stir(build(SaclVisionModel, SaclVisionConfig(**vision_options(**options)))).to(dtype)


def random_images(size: tuple[int, int] = (32, 32), dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(BATCH, 3, *size, generator=torch.Generator().manual_seed(0)).to(dtype)


def random_texts(count: int = BATCH, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(5)).to(dtype)


# ------------------------------------------------------------------------------------------------- slow but obvious


def slow_relevance(query: torch.Tensor, keys: torch.Tensor) -> list[float]:
    """Of one row: query `(num_heads, head_dim)`, keys `(num_heads, num_patches, head_dim)`."""
    num_heads, num_patches, head_dim = keys.shape
    scores = [0.0] * num_patches
    for head in range(num_heads):
        exponentials = [
            math.exp(sum(query[head, d].item() * keys[head, j, d].item() for d in range(head_dim)) / head_dim**0.5)
            for j in range(num_patches)
        ]
        for j in range(num_patches):
            scores[j] += exponentials[j] / sum(exponentials) / num_heads
    return scores


def slow_selection(
    tokens: list[torch.Tensor], scores: list[float], num_kept: int, fusion_token: bool
) -> tuple[list[torch.Tensor], list[int]]:
    """Of one row, token by token; the first one is the class token."""
    patches = tokens[1:]
    ranking = sorted(range(len(patches)), key=lambda j: -scores[j])
    kept, dropped = sorted(ranking[:num_kept]), ranking[num_kept:]
    selected = [tokens[0]] + [patches[j] for j in kept]
    if dropped and fusion_token:
        total = sum(scores[j] for j in dropped)
        selected.append(sum(scores[j] / total * patches[j] for j in dropped))
    return selected, kept


def slow_attention(layer: nn.Module, tokens: list[torch.Tensor]) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The tokens after attention and residual, and the keys by head, token and dimension."""
    attention = layer.self_attention
    normed = [layer.self_attention_layer_norm(token) for token in tokens]
    queries, keys, values = (
        torch.stack([project(token).view(-1, attention.head_dim) for token in normed], dim=1)
        for project in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    attended = []
    for position, token in enumerate(tokens):
        heads = []
        for head in range(len(keys)):
            weights = torch.softmax(keys[head] @ queries[head, position] / attention.head_dim**0.5, dim=0)
            heads.append(weights @ values[head])
        attended.append(token + attention.o_proj(torch.cat(heads)))
    return attended, keys


@torch.no_grad()
def slow_tower(
    model: SaclVisionModel, image: torch.Tensor, rates: dict[int, float], text_state: torch.Tensor | None = None
) -> tuple[torch.Tensor, list[list[int]]]:
    """One image through the tower, token by token: the output tokens, and the places kept by each layer."""
    tokens = list(model.pre_layer_norm(model.embeddings(image[None], interpolate_pos_encoding=True))[0])
    places, all_kept = list(range(len(tokens) - 1)), []
    for number, layer in enumerate(model.layers, start=1):
        class_token = layer.self_attention_layer_norm(tokens[0])
        tokens, keys = slow_attention(layer, tokens)
        if number in rates:
            query = layer.self_attention.q_proj(class_token if text_state is None else text_state)
            scores = slow_relevance(query.view(len(keys), -1), keys[:, 1:])
            num_kept = math.ceil(Fraction(str(rates[number])) * len(scores))
            before = len(tokens)
            tokens, kept = slow_selection(tokens, scores, num_kept, model.config.patch_fusion_token)
            places = [places[j] for j in kept]
            all_kept.append(list(places))
            if num_kept + 1 < before and model.config.patch_fusion_token:
                places.append(-1)
        tokens = [token + layer.mlp(layer.mlp_layer_norm(token)) for token in tokens]
    return torch.stack([model.post_layer_norm(token) for token in tokens]), all_kept


def assert_equals_slow_tower(model, images, rates, tolerance, text_states=None, image_index=None) -> None:
    arguments = {} if text_states is None else {"text_states": text_states, "image_index": image_index}
    with torch.no_grad():
        output = model(images, interpolate_pos_encoding=True, **arguments)
    pairs = range(len(images)) if image_index is None else image_index.tolist()
    assert len(output.last_hidden_state) == len(pairs)
    for row, image in enumerate(pairs):
        state = None if text_states is None else text_states[row]
        expected, kept = slow_tower(model, images[image], rates, state)
        assert [places[row].tolist() for places in output.kept_patches] == kept
        assert (output.last_hidden_state[row] - expected).abs().max() <= tolerance


# ---------------------------------------------------------------------------------------------- functions of tensors


class TestNumberToKeep:
    @settings(deadline=None, max_examples=300, derandomize=True, database=None)
    @given(st.integers(1, 2000), st.decimals("0.001", 1, places=3), st.sampled_from([0, 0.5, 1]))
    def test_is_the_ceiling_in_spite_of_rounding(self, num_patches, rate, share):
        effective = 1 - Fraction(share) * (1 - Fraction(rate))
        kept = number_to_keep(num_patches, 1 - share * (1 - float(rate)))
        assert kept == math.ceil(effective * num_patches)

    def test_keeps_at_least_one_and_at_most_all(self):
        assert number_to_keep(5, 1e-9) == 1
        assert number_to_keep(5, 1.0) == 5

    def test_example_runs(self):
        assert run_examples(number_to_keep) > 1


class TestPatchRelevance:
    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
    def test_equals_the_loop(self, dtype, tolerance):
        torch.manual_seed(0)
        query, keys = torch.randn(3, 2, 1, 5, dtype=dtype), 2 * torch.randn(3, 2, 7, 5, dtype=dtype)
        scores = patch_relevance(query, keys)
        assert scores.dtype == dtype
        for row in range(3):
            expected = torch.tensor(slow_relevance(query[row, :, 0], keys[row]), dtype=dtype)
            assert (scores[row] - expected).abs().max() <= tolerance
        assert (scores.sum(dim=1) - 1).abs().max() <= tolerance

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_gives_full_scores(self, dtype):
        torch.manual_seed(0)
        query, keys = torch.randn(2, 3, 1, 8).to(dtype), torch.randn(2, 3, 300, 8).to(dtype)
        scores = patch_relevance(query, keys)
        assert scores.dtype == torch.float32
        assert (scores - patch_relevance(query.float(), keys.float())).abs().max() <= 1e-3
        assert (scores.sum(dim=1) - 1).abs().max() <= 1e-6

    def test_example_runs(self):
        assert run_examples(patch_relevance) > 1


class TestSelectPatches:
    @settings(deadline=None, max_examples=60, derandomize=True, database=None)
    @given(
        num_patches=st.integers(1, 9),
        share=st.floats(0, 1),
        fusion_token=st.booleans(),
        dtype=st.sampled_from([torch.float32, torch.float64]),
        seed=st.integers(0, 1000),
    )
    def test_equals_the_loop(self, num_patches, share, fusion_token, dtype, seed):
        generator = torch.Generator().manual_seed(seed)
        tokens = torch.randn(3, 1 + num_patches, 5, generator=generator).to(dtype)
        scores = torch.randn(3, num_patches, generator=generator).to(dtype).softmax(dim=1)
        num_kept = max(1, round(share * num_patches))
        selected, kept = select_patches(tokens, scores, num_kept, fusion_token)
        for row in range(3):
            expected, expected_kept = slow_selection(list(tokens[row]), scores[row].tolist(), num_kept, fusion_token)
            assert kept[row].tolist() == expected_kept
            tolerance = 1e-6 if dtype == torch.float32 else 1e-14
            torch.testing.assert_close(selected[row], torch.stack(expected), rtol=0, atol=tolerance)
        assert torch.equal(selected[:, 0], tokens[:, 0])

    def test_all_kept_is_returned_as_it_is(self):
        tokens, scores = torch.randn(2, 6, 3), torch.rand(2, 5)
        selected, kept = select_patches(tokens, scores, 5)
        assert selected is tokens
        assert kept.tolist() == [[0, 1, 2, 3, 4]] * 2

    def test_gradient_is_that_of_the_formula(self):
        torch.manual_seed(0)
        tokens = torch.randn(2, 7, 3, dtype=torch.float64, requires_grad=True)
        scores = torch.rand(2, 6, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda tokens, scores: select_patches(tokens, scores, 3)[0], (tokens, scores))

    def test_gradient_reaches_everything_that_is_fused_and_nothing_that_is_lost(self):
        torch.manual_seed(0)
        for fusion_token in (True, False):
            tokens, scores = torch.randn(2, 7, 3, requires_grad=True), torch.rand(2, 6, requires_grad=True)
            selected, kept = select_patches(tokens, scores, 3, fusion_token)
            (selected * torch.randn(selected.shape)).sum().backward()
            is_kept = torch.zeros(2, 6, dtype=torch.bool).scatter(1, kept, True)
            reached = tokens.grad[:, 1:].abs().sum(dim=2) > 0
            assert torch.equal(reached, torch.ones_like(is_kept) if fusion_token else is_kept)
            assert (tokens.grad[:, 0] != 0).all()
            if fusion_token:
                assert torch.equal(scores.grad != 0, ~is_kept)

    def test_scores_that_vanish_give_a_plain_mean(self):
        tokens = torch.randn(1, 5, 3, requires_grad=True)
        scores = torch.tensor([[1.0, 0.0, 0.0, 0.0]], requires_grad=True)
        selected, _ = select_patches(tokens, scores, 1)
        torch.testing.assert_close(selected[0, -1], tokens[0, 2:].mean(dim=0))
        selected.sum().backward()
        assert tokens.grad.isfinite().all()
        assert scores.grad.isfinite().all()

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_keeps_the_dtype(self, dtype):
        tokens = torch.randn(2, 7, 3).to(dtype)
        selected, _ = select_patches(tokens, torch.rand(2, 6), 3)
        assert selected.dtype == dtype
        assert selected.isfinite().all()

    def test_wrong_shapes_raise(self):
        with pytest.raises(ValueError, match=r"\(2, 6\) are of 6 patch tokens.*\(2, 7, 'hidden_size'\).*\(2, 6, 3\)"):
            select_patches(torch.randn(2, 6, 3), torch.rand(2, 6), 3)
        for num_kept in (0, 7):
            with pytest.raises(ValueError, match=rf"between 1 and the number of patches \(6\), got {num_kept}"):
                select_patches(torch.randn(2, 7, 3), torch.rand(2, 6), num_kept)

    def test_example_runs(self):
        assert run_examples(select_patches) > 1


# ------------------------------------------------------------------------------------------------------- image tower

# Keep rates by layer, and the options that ask for them.
SETTINGS = {
    "default_layers": ({2: 0.7, 3: 0.7}, {}),
    "one_layer": ({1: 0.5}, {"patch_keep_rate": 0.5, "patch_selection_layers": [1]}),
    "last_layer": ({4: 0.5}, {"patch_keep_rate": 0.5, "patch_selection_layers": [4]}),
    "rate_of_each_layer": (
        {1: 0.9, 2: 1.0, 4: 0.3},
        {"patch_keep_rate": [0.9, 1.0, 0.3], "patch_selection_layers": [1, 2, 4]},
    ),
    "all_kept_first": ({1: 1, 3: 0.5}, {"patch_keep_rate": [1, 0.5], "patch_selection_layers": [1, 3]}),
    "one_patch_left": ({1: 0.01, 2: 0.01}, {"patch_keep_rate": 0.01, "patch_selection_layers": [1, 2]}),
    "without_fusion": ({2: 0.5, 3: 0.5}, {"patch_keep_rate": 0.5, "patch_fusion_token": False}),
}


class TestTowerAgainstTheLoop:
    @pytest.mark.parametrize(("rates", "options"), SETTINGS.values(), ids=SETTINGS)
    def test_guided_by_the_image(self, rates, options):
        model = random_tower(torch.float64, **options)
        assert_equals_slow_tower(model, random_images(dtype=torch.float64), rates, tolerance=1e-12)

    @pytest.mark.parametrize(("rates", "options"), SETTINGS.values(), ids=SETTINGS)
    def test_guided_by_texts(self, rates, options):
        model = random_tower(torch.float64, patch_selection_guide="text", **options)
        assert_equals_slow_tower(
            model,
            random_images(dtype=torch.float64),
            rates,
            tolerance=1e-12,
            text_states=random_texts(6, torch.float64),
            image_index=torch.tensor([3, 0, 0, 1, 0, 2]),
        )

    def test_in_single_precision(self):
        assert_equals_slow_tower(random_tower(), random_images(), {2: 0.7, 3: 0.7}, tolerance=2e-6)

    @pytest.mark.parametrize("size", [(64, 64), (16, 8), (40, 24)])
    @pytest.mark.parametrize("guide", ["image", "text"])
    def test_with_images_of_another_size(self, size, guide):
        model = random_tower(torch.float64, patch_selection_guide=guide, pre_layernorm=True)
        text_states = random_texts(dtype=torch.float64) if guide == "text" else None
        images = random_images(size, torch.float64)[:2]
        text_states = None if text_states is None else text_states[:2]
        assert_equals_slow_tower(model, images, {2: 0.7, 3: 0.7}, tolerance=1e-12, text_states=text_states)


class TestVisionModelGuidedByTheImage(ModelTests):
    model_class = SaclVisionModel

    @pytest.fixture
    def config(self):
        return SaclVisionConfig(**vision_options())

    @pytest.fixture
    def inputs(self):
        return {"pixel_values": random_images()}


class TestVisionModelGuidedByTexts(ModelTests):
    model_class = SaclVisionModel

    @pytest.fixture
    def config(self):
        return SaclVisionConfig(**vision_options(patch_selection_guide="text"))

    @pytest.fixture
    def inputs(self):
        return {
            "pixel_values": random_images(),
            "text_states": random_texts(6),
            "image_index": torch.tensor([0, 3, 0, 1, 2, 2]),
        }


class TestTower:
    @pytest.mark.parametrize("guide", ["image", "text"])
    def test_keeping_everything_is_no_selection_to_the_last_bit(self, guide):
        plain = random_tower(patch_keep_rate=1.0)(random_images())
        assert plain.kept_patches is plain.shared_states is None
        for rate in (1, 1.0, [1.0, 1.0]):
            output = random_tower(patch_keep_rate=rate, patch_selection_guide=guide)(random_images())
            assert_same(output, plain)

    def test_tells_what_it_kept(self):
        output = random_tower()(random_images())
        first, second = output.kept_patches
        assert first.shape == (BATCH, 12)
        assert second.shape == (BATCH, 10)
        assert first.dtype == second.dtype == torch.int64
        assert output.last_hidden_state.shape == (BATCH, 1 + 10 + 1, WIDTH)
        for row in range(BATCH):
            assert sorted(set(first[row].tolist())) == first[row].tolist()
            assert set(second[row].tolist()) <= {*first[row].tolist(), -1}

    def test_tells_of_fused_tokens_that_stay(self):
        # All 13 tokens that the 2nd layer leaves, the fused one among them, stay in the 3rd.
        output = random_tower(patch_keep_rate=[0.7, 1.0])(random_images())
        first, second = output.kept_patches
        assert torch.equal(second[:, :-1], first)
        assert (second[:, -1] == -1).all()

    def test_records_hidden_states_and_attentions(self):
        model = random_tower()
        model.set_attn_implementation("eager")
        output = model(random_images(), output_hidden_states=True, output_attentions=True)
        assert [state.shape[1] for state in output.hidden_states] == [17, 17, 14, 12, 12]
        assert [attention.shape[1:] for attention in output.attentions] == [
            (4, 17, 17),
            (4, 17, 17),
            (4, 14, 14),
            (4, 12, 12),
        ]
        assert torch.equal(model.post_layer_norm(output.hidden_states[-1]), output.last_hidden_state)

    def test_pre_layer_norm_and_no_biases(self):
        model = random_tower(pre_layernorm=True, patch_bias=False, attention_bias=False)
        assert model(random_images()).last_hidden_state.isfinite().all()

    def test_position_of_an_image_in_the_batch_does_not_matter(self):
        model, images = random_tower(), random_images()
        expected, output = model(images), model(images.flip(0))
        assert_same(output.last_hidden_state.flip(0), expected.last_hidden_state, tolerance=1e-5)
        assert torch.equal(output.kept_patches[1].flip(0), expected.kept_patches[1])

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    @pytest.mark.parametrize("guide", ["image", "text"])
    def test_half_precision(self, dtype, guide):
        model = random_tower(dtype, patch_selection_guide=guide)
        texts = {"text_states": random_texts(dtype=dtype)} if guide == "text" else {}
        output = model(random_images(dtype=dtype), **texts)
        assert output.last_hidden_state.dtype == dtype
        assert output.last_hidden_state.isfinite().all()

    @pytest.mark.parametrize("use_reentrant", [True, False])
    @pytest.mark.parametrize("guide", ["image", "text"])
    def test_both_kinds_of_checkpointing_change_nothing(self, use_reentrant, guide):
        model = random_tower(patch_selection_guide=guide).train()
        images, texts = random_images().requires_grad_(), random_texts().requires_grad_()
        wanted = [images, *model.parameters()] + ([texts] if guide == "text" else [])

        def gradients():
            output = model(images)
            loss = output.last_hidden_state.square().mean()
            if guide == "text":
                again = model(shared_states=output.shared_states, text_states=texts)
                loss = loss + again.last_hidden_state.square().mean()
            return torch.autograd.grad(loss, wanted) if not use_reentrant else backward(loss)

        def backward(loss):  # Reentrant checkpoints know no `autograd.grad`.
            for tensor in wanted:
                tensor.grad = None
            loss.backward()
            return [tensor.grad for tensor in wanted]

        expected = gradients()
        model.activation_checkpointing_enable({"use_reentrant": use_reentrant})
        assert_same(tuple(gradients()), tuple(expected), tolerance=1e-7)

    @pytest.mark.parametrize("guide", ["image", "text"])
    def test_gradient_of_every_parameter_is_that_of_differences(self, guide):
        # Nothing is detached on the way to the scores: neither keys nor queries, neither image nor text.
        model = random_tower(torch.float64, patch_selection_guide=guide)
        images, texts = random_images(dtype=torch.float64), random_texts(dtype=torch.float64).requires_grad_()
        weights = torch.randn(BATCH, 12, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

        def value() -> torch.Tensor:
            options = {"text_states": texts} if guide == "text" else {}
            return (model(images, **options).last_hidden_state * weights).sum()

        named = dict(model.named_parameters(), **({"texts": texts} if guide == "text" else {}))
        gradients = torch.autograd.grad(value(), list(named.values()))
        for (name, tensor), gradient in zip(named.items(), gradients, strict=True):
            step = 1e-5 * torch.randn(tensor.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
            with torch.no_grad():
                tensor += step
                above = value()
                tensor -= 2 * step
                below = value()
                tensor += step
            expected = ((above - below) / 2).item()
            assert (gradient * step).sum().item() == pytest.approx(expected, rel=1e-4, abs=1e-9), name

    def test_gradient_reaches_all_patches_and_the_text(self):
        model = random_tower(patch_selection_guide="text")
        images, texts = random_images().requires_grad_(), random_texts().requires_grad_()
        # Of the class token alone, in whose way to the output all the others are.
        model(images, text_states=texts).pooler_output.square().sum().backward()
        patches = images.grad.unflatten(2, (4, 8)).unflatten(4, (4, 8)).abs().sum(dim=(1, 3, 5))
        assert (patches > 0).all()
        assert (texts.grad.abs().sum(dim=1) > 0).all()


class TestShare:
    @pytest.mark.parametrize("guide", ["image", "text"])
    def test_share_of_nothing_is_no_selection_to_the_last_bit(self, guide):
        model = random_tower(patch_selection_guide=guide)
        model.patch_selection_share = 0.0
        output = model(random_images())
        plain = random_tower(patch_keep_rate=1.0)(random_images())
        assert torch.equal(output.last_hidden_state, plain.last_hidden_state)
        assert output.shared_states is None
        everything = torch.arange(16).expand(BATCH, -1)
        assert all(torch.equal(places, everything) for places in output.kept_patches)

    @pytest.mark.parametrize(("share", "rate"), [(0.5, [0.75, 0.9]), (0.2, [0.9, 0.96]), (1.0, [0.5, 0.8])])
    def test_share_scales_each_rate(self, share, rate):
        model = random_tower(patch_keep_rate=[0.5, 0.8])
        model.patch_selection_share = share
        assert_same(model(random_images()), random_tower(patch_keep_rate=rate)(random_images()))

    def test_share_without_selection_does_nothing(self):
        model = random_tower(patch_keep_rate=1.0)
        expected = model(random_images())
        model.patch_selection_share = 0.3
        assert_same(model(random_images()), expected)

    def test_share_is_neither_weight_nor_configuration(self, tmp_path):
        model = random_tower()
        model.patch_selection_share = 0.5
        assert copy.deepcopy(model).patch_selection_share == 0.5
        model.save_pretrained(tmp_path)
        assert "share" not in (tmp_path / "config.json").read_text()
        assert SaclVisionModel.from_pretrained(tmp_path).patch_selection_share == 1.0

    def test_texts_see_the_same_where_nothing_is_dropped(self):
        model = random_tower(patch_selection_guide="text")
        model.patch_selection_share = 0.0
        index = torch.tensor([1, 1, 3])
        output = model(random_images(), text_states=random_texts(3), image_index=index)
        assert torch.equal(output.last_hidden_state, model(random_images()).last_hidden_state[index])
        assert [len(places) for places in output.kept_patches] == [3, 3]

    @pytest.mark.parametrize("share", [-0.1, 1.5, math.nan])
    def test_impossible_share_raises(self, share):
        model = random_tower()
        model.patch_selection_share = share
        with pytest.raises(ValueError, match=r"`patch_selection_share` must be in \[0, 1\], got"):
            model(random_images())


class TestTexts:
    """The image tower that texts guide: what is shared between them, and what is not."""

    @pytest.fixture
    def model(self):
        return random_tower(patch_selection_guide="text")

    def test_without_texts_the_image_guides(self, model):
        output, expected = model(random_images()), random_tower()(random_images())
        assert output.keys() == {*expected.keys(), "shared_states"}
        assert_same({name: output[name] for name in expected}, expected)

    @pytest.mark.parametrize("index", [None, [2, 2, 0, 1, 3, 0]])
    def test_shared_states_save_work_and_change_nothing(self, model, index):
        index = None if index is None else torch.tensor(index)
        texts = random_texts(BATCH if index is None else len(index))
        states = model(random_images()).shared_states
        output = model(shared_states=states, text_states=texts, image_index=index)
        assert output.shared_states is None
        assert_same(output, model(random_images(), text_states=texts, image_index=index))

    def test_each_text_chooses_its_own_patches(self, model):
        index = torch.zeros(6, dtype=torch.long)
        output = model(random_images(), text_states=random_texts(6), image_index=index)
        assert len({tuple(row.tolist()) for row in output.kept_patches[0]}) > 1
        one_by_one = [model(random_images()[:1], text_states=random_texts(6)[row : row + 1]) for row in range(6)]
        together = torch.cat([single.last_hidden_state for single in one_by_one])
        assert_same(output.last_hidden_state, together, tolerance=1e-5)

    def test_what_does_not_depend_on_texts_is_computed_once(self, model):
        rows = {}
        for number, layer in enumerate(model.layers):
            for name in ("q_proj", "k_proj"):
                getattr(layer.self_attention, name).register_forward_hook(
                    lambda module, args, output, key=(number, name): rows.setdefault(key, []).append(len(args[0]))
                )
        states = model(random_images()).shared_states
        model(shared_states=states, text_states=random_texts(6), image_index=torch.zeros(6, dtype=torch.long))
        assert rows[0, "k_proj"] == rows[1, "k_proj"] == [BATCH]
        assert rows[2, "k_proj"] == [BATCH, 6]
        assert rows[0, "q_proj"] == [BATCH]
        # Attention, the image's choice, the texts' choice.
        assert rows[1, "q_proj"] == [BATCH, BATCH, 6]

    def test_wrong_inputs_raise(self, model):
        images, texts = random_images(), random_texts()
        states = model(images).shared_states
        with pytest.raises(ValueError, match="`pixel_values`, or `shared_states`.*one of the two"):
            model()
        with pytest.raises(ValueError, match="`pixel_values`, or `shared_states`.*one of the two"):
            model(images, shared_states=states, text_states=texts)
        with pytest.raises(ValueError, match="give their `text_states`"):
            model(shared_states=states)
        with pytest.raises(ValueError, match="give their `text_states`"):
            model(images, image_index=torch.tensor([0]))
        with pytest.raises(ValueError, match=r"\(num_texts, hidden_size\).*48; got \(4, 32\)"):
            model(images, text_states=torch.zeros(4, 32))
        with pytest.raises(ValueError, match=r"\(num_texts, hidden_size\).*48; got \(4, 7, 48\)"):
            model(images, text_states=torch.zeros(4, 7, 48))
        with pytest.raises(ValueError, match="3 texts and 4 images: pass `image_index`"):
            model(images, text_states=texts[:3])
        with pytest.raises(ValueError, match=r'the image chooses its patches.*`set_patch_selection\(guide="text"\)`'):
            random_tower()(images, text_states=texts)
        model.patch_selection_share = 0.0
        with pytest.raises(ValueError, match="`shared_states` go on where patches are dropped"):
            model(shared_states=states, text_states=texts)


# ------------------------------------------------------------------------------------------------------- operations


def tower_flops(config: SaclVisionConfig, rates: dict[int, float], batch_size: int, num_images: int | None = None):
    """
    Multiplications and additions of the image tower. With `num_images`, it is that of `batch_size` texts which choose
    from so many images: what comes before their first choice is computed once per image.
    """
    width, depth = config.hidden_size, config.num_hidden_layers
    num_patches = (config.image_size // config.patch_size) ** 2
    rows = batch_size if num_images is None else num_images
    total = rows * 2 * num_patches * width * config.num_channels * config.patch_size**2
    for layer in range(1, depth + 1):
        tokens = 1 + num_patches
        projections = 4 * 2 * tokens * width**2
        attention = 2 * 2 * tokens**2 * width
        total += rows * (projections + attention)
        if layer in rates and (kept := math.ceil(Fraction(str(rates[layer])) * num_patches)) < num_patches:
            rows = batch_size
            query, scores, fusion = 2 * width**2, 2 * num_patches * width, 2 * num_patches * width
            if not config.patch_fusion_token:
                fusion = 0
            total += rows * (query + scores + fusion)
            num_patches = kept + config.patch_fusion_token
        total += rows * 2 * 2 * (1 + num_patches) * width * config.intermediate_size
    return total


def counted_flops(model: nn.Module, **inputs) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(**inputs)
    return counter.get_total_flops()


class TestOperations:
    @pytest.mark.parametrize(("rates", "options"), SETTINGS.values(), ids=SETTINGS)
    @pytest.mark.parametrize("image_size", [32, 48])
    def test_are_those_of_the_formula(self, rates, options, image_size):
        config = SaclVisionConfig(**vision_options(image_size=image_size, **options))
        model = build(SaclVisionModel, config, attn_implementation="eager")
        images = torch.zeros(3, 3, image_size, image_size)
        assert counted_flops(model, pixel_values=images) == tower_flops(config, rates, batch_size=3)

    @pytest.mark.parametrize(("rates", "options"), SETTINGS.values(), ids=SETTINGS)
    def test_are_those_of_the_formula_with_texts(self, rates, options):
        config = SaclVisionConfig(**vision_options(patch_selection_guide="text", **options))
        model = build(SaclVisionModel, config, attn_implementation="eager")
        inputs = {"pixel_values": torch.zeros(2, 3, 32, 32), "text_states": random_texts(5)}
        index = torch.tensor([0, 1, 1, 0, 0])
        expected = tower_flops(config, rates, batch_size=5, num_images=2)
        assert counted_flops(model, **inputs, image_index=index) == expected

    @pytest.mark.parametrize(
        ("image_size", "layers", "rate", "saved"),
        [(256, [5, 10], 0.7, 0.24), (256, [3, 6, 9], 0.7, 0.40), (384, [5, 10], 0.5, 0.38)],
    )
    def test_of_the_published_tower(self, image_size, layers, rate, saved):
        config = SaclVisionConfig(image_size=image_size, patch_keep_rate=rate, patch_selection_layers=layers)
        with torch.device("meta"):
            model = SaclVisionModel._from_config(config, attn_implementation="eager")
            images = torch.zeros(1, 3, image_size, image_size)
        counted = counted_flops(model, pixel_values=images)
        assert counted == tower_flops(config, dict.fromkeys(layers, rate), batch_size=1)
        assert 1 - counted / tower_flops(config, {}, batch_size=1) == pytest.approx(saved, abs=0.01)


class TestCompiled:
    @pytest.fixture(autouse=True)
    def fresh(self):
        torch._dynamo.reset()
        counters.clear()

    @pytest.mark.parametrize("guide", ["image", "text"])
    @pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=pytest.mark.slow)])
    def test_one_graph_for_all_batch_sizes(self, guide, backend):
        model = random_tower(patch_selection_guide=guide)
        compiled = torch.compile(model, backend=backend, fullgraph=True)
        graphs = []
        with torch.no_grad():
            for batch_size in (2, 3, 4, 7, 5):
                inputs = {"pixel_values": torch.randn(batch_size, 3, 32, 32)}
                if guide == "text":
                    inputs["text_states"] = random_texts(batch_size + 2)
                    inputs["image_index"] = torch.arange(batch_size + 2) % batch_size
                assert_same(compiled(**inputs), model(**inputs), tolerance=1e-6)
                graphs.append(counters["stats"]["unique_graphs"])
        # As always: the first size, then any size.
        assert graphs == [1, 2, 2, 2, 2]

    @pytest.mark.slow
    def test_gradients_are_the_same(self):
        model, images = random_tower(), random_images()
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        gradients, expected = (
            torch.autograd.grad(function(images).last_hidden_state.square().mean(), list(model.parameters()))
            for function in (compiled, model)
        )
        assert_same(gradients, expected, tolerance=1e-6)


# ------------------------------------------------------------------------------------------------------ whole models


class TestModelGuidedByTexts(TextTowerTests, ModelTests):
    model_class = SaclModel

    @pytest.fixture
    def config(self):
        return whole_config(patch_selection_guide="text")

    @pytest.fixture
    def inputs(self, config):
        return random_batch(config)

    def loss(self, model, inputs):
        """The fusion encoder is above the forward's outputs: its parameters learn through `get_fusion_features`."""
        weights = torch.randn(BATCH, 7, WIDTH, generator=torch.Generator().manual_seed(0))
        fused = model.get_fusion_features(**inputs).last_hidden_state
        return self.run(model, inputs, return_loss=True).loss + (weights * fused).mean()


class TestPreTrainingGuidedByTexts(test_modeling.TestSaclForPreTraining):
    """Everything that is asked of pre-training: matching and masked words one pair at a time, above all."""

    @pytest.fixture
    def config(self):
        return whole_config(patch_selection_guide="text")


class TestPreTrainingGuidedByImages(test_modeling.TestSaclForPreTraining):
    @pytest.fixture
    def config(self):
        return whole_config()


class TestFusion:
    @pytest.mark.parametrize("guide", ["image", "text"])
    @pytest.mark.parametrize("index", [None, [1, 0, 0, 2]])
    def test_features_are_the_towers_fused(self, guide, index):
        config = whole_config(patch_selection_guide=guide)
        model = stir(build(SaclModel, config))
        inputs, index = random_batch(config), None if index is None else torch.tensor(index)
        texts = model.text_model(inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state
        pairs = range(BATCH) if index is None else index.tolist()
        options = [{"text_states": texts[row : row + 1, 0]} if guide == "text" else {} for row in range(BATCH)]
        images = torch.cat(
            [
                model.vision_model(inputs["pixel_values"][image : image + 1], **options[row]).last_hidden_state
                for row, image in enumerate(pairs)
            ]
        )
        expected = model.fusion_model(texts, images, attention_mask=inputs["attention_mask"]).last_hidden_state
        features = model.get_fusion_features(**inputs, image_index=index).last_hidden_state
        assert_same(features, expected, tolerance=1e-5)
        vision_outputs = model.get_image_features(inputs["pixel_values"])
        fused = model.fuse(texts, vision_outputs, inputs["attention_mask"], index).last_hidden_state
        assert_same(fused, expected, tolerance=1e-5)

    def test_features_by_text_do_not_compute_the_choice_of_the_image(self):
        config = whole_config(patch_selection_guide="text")
        model, rows = build(SaclModel, config), []
        model.vision_model.layers[-1].register_forward_hook(lambda module, args, output: rows.append(len(args[0])))
        model.get_fusion_features(**random_batch(config))
        assert rows == [BATCH]

    @pytest.mark.parametrize("share", [0.0, 1.0])
    def test_images_that_choose_are_projected_once(self, share):
        # Guided by texts, each text has tokens of its own, unless nothing is dropped.
        for guide, expected in (("image", 2), ("text", 2 if share == 0 else BATCH)):
            config = whole_config(patch_selection_guide=guide)
            model, rows = build(SaclModel, config), []
            model.vision_model.patch_selection_share = share
            model.fusion_model.layers[0].cross_attention.k_proj.register_forward_hook(
                lambda module, args, output, rows=rows: rows.append(len(args[0]))
            )
            inputs = random_batch(config)
            texts = model.get_text_features(inputs["input_ids"]).last_hidden_state
            images = model.get_image_features(inputs["pixel_values"][:2])
            model.fuse(texts, images, image_index=torch.tensor([0, 1, 1, 1]))
            assert rows == [expected]

    def test_fuse_as_tuple_and_with_unknown_argument(self):
        config = whole_config(patch_selection_guide="text")
        model, inputs = build(SaclModel, config), random_batch(config)
        texts = model.get_text_features(inputs["input_ids"]).last_hidden_state
        images = model.get_image_features(inputs["pixel_values"])
        as_tuple = model.fuse(texts, images, return_dict=False)
        assert isinstance(as_tuple, tuple)
        assert torch.equal(as_tuple[0], model.fuse(texts, images).last_hidden_state)
        with pytest.raises(TypeError, match="has no argument `position_idz`"):
            model.fuse(texts, images, position_idz=None)


class TestNothingLeaks:
    """Guided by texts: what is contrasted knows nothing of the text, and masked words nothing of the words."""

    @pytest.fixture
    def model(self):
        return stir(build(SaclForPreTraining, whole_config(patch_selection_guide="text")))

    @pytest.fixture
    def inputs(self, model):
        return random_masked_batch(model.config)

    @staticmethod
    def run(model, inputs, **options):
        torch.manual_seed(0)
        with torch.no_grad():
            return model(**inputs, **options)

    def test_embeddings_of_images_know_nothing_of_texts(self, model, inputs):
        before = self.run(model, inputs)
        changed = {**inputs, **{name: inputs[name].flip(1) for name in ("input_ids", "mlm_input_ids")}}
        after = self.run(model, changed)
        assert torch.equal(after.image_embeds, before.image_embeds)
        assert not torch.allclose(after.text_embeds, before.text_embeds)
        # The positive pairs: their logits come from the text and from the patches that it chose.
        assert not torch.allclose(after.itm_logits[:BATCH], before.itm_logits[:BATCH])
        assert not torch.allclose(after.mlm_logits, before.mlm_logits)

        plain = {name: inputs[name] for name in ("input_ids", "attention_mask", "pixel_values")}
        embeds = model.sacl(**plain).image_embeds
        assert torch.equal(embeds, model.sacl(**{**plain, "input_ids": changed["input_ids"]}).image_embeds)
        assert torch.equal(embeds, before.image_embeds)

    @pytest.mark.parametrize("with_itm", [False, True])
    def test_masked_words_stay_hidden(self, model, inputs, with_itm):
        before = self.run(model, inputs, with_itm=with_itm)
        words = (inputs["input_ids"].gather(1, inputs["mlm_positions"]) + 1).clamp(5, 98)
        changed = {**inputs, "input_ids": inputs["input_ids"].scatter(1, inputs["mlm_positions"], words)}
        after = self.run(model, changed, with_itm=with_itm)
        assert not torch.equal(after.text_embeds, before.text_embeds)
        assert torch.equal(after.mlm_logits, before.mlm_logits)

    def test_patches_are_chosen_by_the_text_of_the_row(self, model, inputs, monkeypatch):
        asked = []
        forward = type(model.sacl.vision_model).forward

        def recorded(self, *args, **kwargs):
            if kwargs.get("text_states") is not None:
                asked.append((kwargs["text_states"], kwargs["image_index"]))
            return forward(self, *args, **kwargs)

        monkeypatch.setattr(type(model.sacl.vision_model), "forward", recorded)
        read = []
        model.sacl.fusion_model.register_forward_hook(lambda module, args, output: read.append(args[0]))
        self.run(model, inputs)
        ((texts, image_index),), (rows,) = asked, read
        assert len(texts) == len(image_index) == 4 * BATCH  # three kinds of pairs to match, and the masked texts
        assert torch.equal(texts, rows[:, 0])

    def test_gradient_reaches_the_text_tower_through_the_choice(self, model, inputs):
        states = model.sacl.get_image_features(inputs["pixel_values"]).shared_states
        texts = model.sacl.get_text_features(inputs["input_ids"]).last_hidden_state
        tokens = model.sacl.vision_model(shared_states=states, text_states=texts[:, 0]).last_hidden_state
        tokens.square().mean().backward()
        assert model.get_input_embeddings().weight.grad.abs().sum() > 0


# --------------------------------------------------------------------------------------------- setting and checkpoints

IMPOSSIBLE = {
    "rate_above_1": ({"patch_keep_rate": 1.5}, r"`patch_keep_rate` must be in \(0, 1\].*got 1.5"),
    "rate_of_0": ({"patch_keep_rate": 0}, r"`patch_keep_rate` must be in \(0, 1\].*got 0"),
    "rate_in_a_list": ({"patch_keep_rate": [0.5, -1.0]}, r"`patch_keep_rate` must be in \(0, 1\].*got \[0.5, -1.0\]"),
    "rates_too_few": ({"patch_keep_rate": [0.5]}, r"1 values for the 2 `patch_selection_layers` \[2, 3\]"),
    "rates_too_many": (
        {"patch_keep_rate": [0.5, 0.5], "patch_selection_layers": [1]},
        r"2 values for the 1 `patch_selection_layers` \[1\]: give one for each",
    ),
    "layer_0": ({"patch_selection_layers": [0, 2]}, r"between 1 and `num_hidden_layers` \(4\).*got \[0, 2\]"),
    "layer_beyond": ({"patch_selection_layers": [2, 5]}, r"between 1 and `num_hidden_layers` \(4\).*got \[2, 5\]"),
    "layer_twice": ({"patch_selection_layers": [2, 2]}, r"each once and in ascending order, got \[2, 2\]"),
    "layers_in_disorder": ({"patch_selection_layers": [3, 2]}, r"ascending order, got \[3, 2\]"),
    "no_layers": ({"patch_selection_layers": []}, r"got \[\]; for no selection set `patch_keep_rate=1.0`"),
    "guide": ({"patch_selection_guide": "txt"}, "`patch_selection_guide` must be one of 'image', 'text', got 'txt'"),
}


class TestSetting:
    @pytest.mark.parametrize(("options", "message"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
    def test_impossible_setting_names_the_value(self, options, message):
        with pytest.raises(ValueError, match=message):
            SaclVisionConfig(**vision_options(**options))
        model = random_tower()
        before = model.config.to_dict()
        setter = {name.replace("patch_selection_", "").replace("patch_", ""): value for name, value in options.items()}
        with pytest.raises(ValueError, match=message):
            model.set_patch_selection(**setter)
        assert model.config.to_dict() == before

    @pytest.mark.parametrize(
        ("depth", "layers"), [(12, [5, 10]), (24, [10, 20]), (6, [3, 5]), (4, [2, 3]), (2, [1, 2]), (1, [1])]
    )
    def test_default_layers_scale_with_the_depth(self, depth, layers):
        assert SaclVisionConfig(num_hidden_layers=depth).resolved_patch_selection_layers == layers

    def test_off_by_default(self):
        config = SaclVisionConfig()
        assert config.patch_keep_rate == 1.0
        assert not config.selects_patches
        assert not SaclVisionConfig(patch_selection_guide="text").selects_patches_by_text

    def test_text_as_guide_needs_towers_of_one_width(self, tiny_config, tmp_path):
        message = r'`hidden_size` of the text tower \(32\).*image tower \(48\).*patch_selection_guide="image"'
        model = build(SaclForPreTraining, tiny_config)
        model.set_patch_selection(guide="text")  # Nothing is selected yet.
        with pytest.raises(ValueError, match=message):
            model.set_patch_selection(keep_rate=0.7)
        assert model.config.vision_config.patch_keep_rate == 1.0
        model.set_patch_selection(keep_rate=0.7, guide="image")
        model.save_pretrained(tmp_path)
        with pytest.raises(ValueError, match=message):
            SaclModel.from_pretrained(tmp_path, vision_config={"patch_selection_guide": "text"})
        tower = vision_options(patch_selection_guide="text")
        with pytest.raises(ValueError, match=message):
            SaclConfig(text_config=tiny_config.text_config, vision_config=tower)

    @pytest.mark.parametrize("model_class", [SaclModel, SaclForPreTraining])
    def test_setter_is_the_same_as_the_configuration(self, model_class, tmp_path):
        options = {"patch_keep_rate": [0.5, 0.75], "patch_selection_layers": [1, 3], "patch_fusion_token": False}
        expected = stir(build(model_class, whole_config(patch_selection_guide="text", **options)))
        model = stir(build(model_class, whole_config(patch_keep_rate=1.0)))
        model.set_patch_selection(keep_rate=[0.5, 0.75], layers=[1, 3], guide="text", fusion_token=False)
        inputs = random_batch(model.config)
        with torch.no_grad():
            same = expected.base_model.get_fusion_features(**inputs)
            assert_same(model.base_model.get_fusion_features(**inputs), same)
            model.save_pretrained(tmp_path)
            loaded = model_class.from_pretrained(tmp_path)
            assert_same(loaded.base_model.get_fusion_features(**inputs), same)
        assert loaded.config.vision_config.patch_keep_rate == [0.5, 0.75]

    def test_setter_leaves_what_is_not_given(self):
        model = random_tower()
        model.set_patch_selection(layers=[1, 4])
        assert model.config.patch_keep_rate == 0.7
        model.set_patch_selection(keep_rate=0.5, fusion_token=False)
        assert model.config.patch_selection_layers == [1, 4]
        model.set_patch_selection(layers=None)
        assert model.config.resolved_patch_selection_layers == [2, 3]
        assert model(random_images()).last_hidden_state.shape == (BATCH, 1 + 4, WIDTH)
        model.set_patch_selection(keep_rate=1.0)
        assert_same(model(random_images()), random_tower(patch_keep_rate=1.0)(random_images()))

    def test_setter_needs_an_image_tower(self):
        model = build(SaclFusionModel, whole_config().fusion_encoder_config)
        with pytest.raises(TypeError, match="`SaclFusionModel` has no image tower"):
            model.set_patch_selection(keep_rate=0.5)

    def test_options_in_from_pretrained_keep_the_rest(self, tmp_path):
        # Sizes that are nowhere the default: had the options replaced the saved ones, no weight would fit.
        model = stir(build(SaclForPreTraining, whole_config(patch_keep_rate=1.0)))
        model.save_pretrained(tmp_path)
        for load in (SaclForPreTraining.from_pretrained, SaclModel.from_pretrained, AutoModel.from_pretrained):
            loaded = load(tmp_path, vision_config={"patch_keep_rate": 0.7, "patch_selection_guide": "text"})
            config = loaded.config.vision_config
            assert (config.patch_keep_rate, config.patch_selection_guide) == (0.7, "text")
            assert (config.hidden_size, config.num_hidden_layers, config.intermediate_size) == (WIDTH, 4, 50)
            assert_same(loaded.base_model.state_dict(), model.sacl.state_dict())
            assert len(loaded.base_model.get_image_features(random_images()).kept_patches) == 2
        with pytest.raises(ValueError, match=r"`patch_keep_rate` must be in \(0, 1\]"):
            SaclModel.from_pretrained(tmp_path, vision_config={"patch_keep_rate": 7})

    def test_needs_no_other_weights(self, tmp_path):
        assert random_tower().state_dict().keys() == random_tower(patch_keep_rate=1.0).state_dict().keys()

    def test_checkpoint_of_before_loads_without_selection(self, tmp_path):
        model = stir(build(SaclModel, whole_config(patch_keep_rate=1.0)))
        model.save_pretrained(tmp_path)
        saved = json.loads((tmp_path / "config.json").read_text())
        for name in [name for name in saved["vision_config"] if name.startswith("patch_") and name != "patch_size"]:
            if name != "patch_bias":
                del saved["vision_config"][name]
        (tmp_path / "config.json").write_text(json.dumps(saved))
        inputs = random_batch(model.config)
        with torch.no_grad():
            assert_same(SaclModel.from_pretrained(tmp_path)(**inputs), model(**inputs))

    def test_code_travels_with_a_checkpoint(self, tmp_path):
        build(SaclModel, whole_config()).save_pretrained(tmp_path)
        assert (tmp_path / "patch_selection_sacl.py").exists()

    def test_setting_that_became_impossible_builds_no_model(self):
        config = SaclVisionConfig(**vision_options())
        config.patch_keep_rate = 1.5
        with pytest.raises(ValueError, match=r"`patch_keep_rate` must be in \(0, 1\]"):
            SaclVisionModel(config)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("guide", ["image", "text"])
def test_backends_keep_the_same_patches(backend, guide):
    model = stir(build(SaclVisionModel, SaclVisionConfig(**vision_options(patch_selection_guide=guide))))
    model.set_attn_implementation(backend)
    texts = {"text_states": random_texts()} if guide == "text" else {}
    expected = random_tower(patch_selection_guide=guide)(random_images(), **texts)
    assert_same(model(random_images(), **texts).kept_patches, expected.kept_patches)
