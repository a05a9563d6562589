# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Grounding: maps against finite differences through a fusion encoder of our own, what the call leaves behind, words,
a model that was trained to know where things are, and points and boxes by hand."""

import math
from pathlib import Path

import evaluate
import pytest
import torch
from datasets import Dataset, Features, Image, Value
from peft import LoraConfig, get_peft_model
from PIL import Image as PILImage
from torch import nn
from torch.nn import functional as F
from transformers import BlipImageProcessor, CLIPImageProcessor, set_seed

from modeling_sacl import SaclConfig, SaclForImageTextRetrieval, SaclForPreTraining, SaclModel, SaclProcessor
from trainer.evaluation import (
    best_point,
    chance_grounding_metrics,
    evaluate_grounding,
    ground_text,
    ground_texts,
    grounding,
    heat_map,
    score_boxes,
)


TEXTS = ["a red bus on the house .", "this cat", "two blue dogs sits"]


def noise(size: tuple[int, int] = (32, 32), seed: int = 0) -> PILImage.Image:
    generator = torch.Generator().manual_seed(seed)
    return PILImage.fromarray(torch.randint(256, (*size, 3), generator=generator, dtype=torch.uint8).numpy())


IMAGES = [noise(seed=seed) for seed in range(3)]


@pytest.fixture
def make_model(tiny_config):
    """A model with weights that all differ from where they start, three fusion layers, and towers of one width."""

    def make(**vision_options) -> SaclForPreTraining:
        set_seed(0)
        config = SaclConfig(
            text_config=tiny_config.text_config,
            vision_config={**tiny_config.vision_config.to_dict(), "hidden_size": 32, **vision_options},
            fusion_encoder_config={"num_hidden_layers": 3, "hidden_dropout": 0.3, "attention_dropout": 0.3},
        )
        model = SaclForPreTraining(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape))
        return model.eval()

    return make


@pytest.fixture
def model(make_model) -> SaclForPreTraining:
    return make_model()


# --------------------------------------------------------------------------------------------------------------------
# A reference that shares nothing with the library but the weights
# --------------------------------------------------------------------------------------------------------------------


def linear(weights, name, states):
    return states @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def layer_norm(weights, name, states, eps):
    return F.layer_norm(states, states.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], eps)


def attend(weights, name, queries, keys, num_heads, replacement=None):
    """One attention of one sample, head by head; `replacement` stands in for the probabilities."""
    query, key, value = (
        linear(weights, f"{name}.{projection}_proj", states)
        for projection, states in (("q", queries), ("k", keys), ("v", keys))
    )
    dim = query.shape[1] // num_heads
    probabilities, outputs = [], []
    for head in range(num_heads):
        part = slice(head * dim, (head + 1) * dim)
        scores = query[:, part] @ key[:, part].T / math.sqrt(dim)
        probabilities.append(scores.softmax(dim=1) if replacement is None else replacement[head])
        outputs.append(probabilities[-1] @ value[:, part])
    return linear(weights, f"{name}.o_proj", torch.cat(outputs, dim=1)), torch.stack(probabilities)


def match_score(model, text_tokens, image_tokens, layer=None, replacement=None):
    """The logit of "match", and the cross-attention of every layer; that of `layer` can be replaced."""
    config = model.config.fusion_encoder_config
    states, seen = text_tokens, []
    for number in range(config.num_hidden_layers):
        weights = {
            name.removeprefix(f"sacl.fusion_model.layers.{number}."): value
            for name, value in model.state_dict().items()
            if name.startswith(f"sacl.fusion_model.layers.{number}.")
        }
        eps, heads = config.layer_norm_eps, config.num_attention_heads
        attended, _ = attend(weights, "self_attention", states, states, heads)
        states = layer_norm(weights, "self_attention_layer_norm", states + attended, eps)
        here = replacement if number + 1 == layer else None
        attended, probabilities = attend(weights, "cross_attention", states, image_tokens, heads, here)
        seen.append(probabilities)
        states = layer_norm(weights, "cross_attention_layer_norm", states + attended, eps)
        hidden = F.gelu(linear(weights, "mlp.fc1", states))
        states = layer_norm(weights, "mlp_layer_norm", states + linear(weights, "mlp.fc2", hidden), eps)
    return linear(model.state_dict(), "itm_head", states[0])[1], seen


@torch.no_grad()
def reference_token_maps(model, processor, image, text, layer, step=1e-5):
    """Grad-CAM of one pair by finite differences: for each token a value for each image token but the first."""
    inputs = processor(text=[text], images=[image], return_tensors="pt")
    (text_tokens,) = model.sacl.get_text_features(inputs["input_ids"]).last_hidden_state
    (image_tokens,) = model.sacl.get_image_features(inputs["pixel_values"]).last_hidden_state
    attention = match_score(model, text_tokens, image_tokens)[1][layer - 1]
    heads, length, num_tokens = attention.shape
    maps = torch.zeros(length, num_tokens - 1, dtype=torch.float64)
    for token in range(length):
        for place in range(1, num_tokens):
            for head in range(heads):
                scores = []
                for sign in (1, -1):
                    changed = attention.clone()
                    changed[head, token, place] += sign * step
                    scores.append(match_score(model, text_tokens, image_tokens, layer, changed)[0])
                gradient = (scores[0] - scores[1]) / (2 * step)
                maps[token, place - 1] += attention[head, token, place] * max(gradient, 0) / heads
    return maps


class TestMaps:
    @pytest.mark.parametrize("layer", [1, 2, 3])
    def test_are_those_of_finite_differences(self, model, tiny_processor, layer):
        model.double()
        expected = reference_token_maps(model, tiny_processor, IMAGES[0], "a red bus .", layer).view(-1, 4, 4)
        found = ground_text(model, tiny_processor, IMAGES[0], "a red bus .", layer=layer)
        assert found.words == ["a", "red", "bus", "."]
        assert found.word_maps.shape == (4, 4, 4)
        assert found.word_maps.dtype == found.text_map.dtype == torch.float32
        scale = expected.max()
        assert scale > 1e-4
        # The tokens of the words are between those of the beginning and the end.
        assert (found.word_maps - expected[1:-1]).abs().max() < 1e-5 * scale
        assert (found.text_map - expected.mean(dim=0)).abs().max() < 1e-5 * scale

    def test_default_layer_is_the_middle_as_in_albef(self, model, tiny_processor):
        found = ground_text(model, tiny_processor, IMAGES[0], TEXTS[0])
        expected = ground_text(model, tiny_processor, IMAGES[0], TEXTS[0], layer=1)
        assert torch.equal(found.word_maps, expected.word_maps)
        model.sacl.fusion_model.layers.extend(list(model.sacl.fusion_model.layers))
        assert len(model.sacl.fusion_model.layers) == 6
        found = ground_text(model, tiny_processor, IMAGES[0], TEXTS[0])
        expected = ground_text(model, tiny_processor, IMAGES[0], TEXTS[0], layer=3)
        assert torch.equal(found.word_maps, expected.word_maps)

    def test_probability_is_that_of_the_head(self, model, tiny_processor):
        inputs = tiny_processor(text=[TEXTS[0]], images=[IMAGES[0]], return_tensors="pt")
        fused = model.sacl.get_fusion_features(**inputs).last_hidden_state
        expected = model.itm_head(fused[:, 0]).softmax(dim=1)[0, 1].item()
        assert ground_text(model, tiny_processor, IMAGES[0], TEXTS[0]).match_probability == pytest.approx(expected)

    @pytest.mark.parametrize("selection", [None, "image", "text"])
    def test_of_a_batch_are_those_of_each_alone(self, make_model, tiny_processor, selection):
        options = {} if selection is None else {"patch_keep_rate": 0.5, "patch_selection_guide": selection}
        model = make_model(**options)
        together = ground_texts(model, tiny_processor, IMAGES, TEXTS)
        for found, image, text in zip(together, IMAGES, TEXTS, strict=True):
            alone = ground_text(model, tiny_processor, image, text)
            assert found.words == alone.words
            torch.testing.assert_close(found.word_maps, alone.word_maps, rtol=1e-4, atol=1e-8)
            torch.testing.assert_close(found.text_map, alone.text_map, rtol=1e-4, atol=1e-8)
            assert found.match_probability == pytest.approx(alone.match_probability, rel=1e-4)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("layer", [1, 2, 3])
    def test_are_finite_and_nowhere_negative(self, model, tiny_processor, dtype, layer):
        exact = ground_texts(model, tiny_processor, IMAGES, TEXTS, layer=layer)
        for found, right in zip(
            ground_texts(model.to(dtype), tiny_processor, IMAGES, TEXTS, layer=layer), exact, strict=True
        ):
            for maps, expected in ((found.word_maps, right.word_maps), (found.text_map, right.text_map)):
                assert maps.dtype == torch.float32
                assert maps.isfinite().all() and (maps >= 0).all()
                assert (maps - expected).abs().max() <= 0.1 * right.text_map.max()
            assert found.text_map.max() > 0

    def test_words_have_none_in_the_last_layer(self, model, tiny_processor, caplog):
        grounding.logger.warning_once.cache_clear()
        rows = [{"image": IMAGES[0], "caption": TEXTS[0], "boxes": [[0, 0, 9, 9]]}]
        evaluate_grounding(model, rows, tiny_processor, layer=3, show_progress=False)
        ground_text(model, tiny_processor, IMAGES[0], TEXTS[0], layer=2)
        assert not caplog.records
        found = ground_text(model, tiny_processor, IMAGES[0], TEXTS[0], layer=3)
        assert "Layer 3 is the last of the fusion encoder" in caplog.text
        assert found.word_maps.count_nonzero() == 0
        assert found.text_map.max() > 0

    def test_of_images_of_another_size(self, model, tiny_tokenizer):
        processor = SaclProcessor(BlipImageProcessor(size={"height": 40, "width": 72}), tiny_tokenizer)
        found = ground_text(model, processor, noise((50, 90)), TEXTS[0])
        assert found.text_map.shape == (5, 9)
        assert found.word_maps.shape == (7, 5, 9)

    def test_of_a_model_for_retrieval(self, model, tiny_processor, tmp_path):
        expected = ground_text(model, tiny_processor, IMAGES[0], TEXTS[0])
        model.save_pretrained(tmp_path)
        retrieval = SaclForImageTextRetrieval.from_pretrained(tmp_path)
        found = ground_text(retrieval, tiny_processor, IMAGES[0], TEXTS[0])
        torch.testing.assert_close(found.word_maps, expected.word_maps)

    def test_of_adapted_models(self, model, tiny_processor):
        expected = ground_text(model, tiny_processor, IMAGES[0], TEXTS[0])
        adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj", "v_proj"]))
        found = ground_text(adapted, tiny_processor, IMAGES[0], TEXTS[0])
        torch.testing.assert_close(found.word_maps, expected.word_maps, rtol=1e-4, atol=1e-8)


class TestPatchSelection:
    def test_that_drops_nothing_changes_nothing(self, make_model, tiny_processor):
        model = make_model()
        expected = ground_texts(model, tiny_processor, IMAGES, TEXTS)
        for guide in ("image", "text"):
            model.set_patch_selection(keep_rate=0.5, guide=guide)
            model.sacl.vision_model.patch_selection_share = 0.0
            for found, right in zip(ground_texts(model, tiny_processor, IMAGES, TEXTS), expected, strict=True):
                torch.testing.assert_close(found.word_maps, right.word_maps)
                torch.testing.assert_close(found.text_map, right.text_map)

    @pytest.mark.parametrize("fusion_token", [True, False])
    @pytest.mark.parametrize("guide", ["image", "text"])
    @pytest.mark.parametrize("rates", [(0.5, 0.5), (0.5, 1.0), (0.75, 0.25)])
    def test_puts_what_is_kept_in_its_place(self, make_model, tiny_processor, guide, fusion_token, rates):
        model = make_model(
            patch_keep_rate=list(rates),
            patch_selection_layers=[1, 2],
            patch_selection_guide=guide,
            patch_fusion_token=fusion_token,
        ).double()
        text, sacl = "a red bus", model.sacl
        inputs = tiny_processor(text=[text], images=[IMAGES[0]], return_tensors="pt")
        with torch.no_grad():
            text_tokens = sacl.get_text_features(inputs["input_ids"]).last_hidden_state
            chooser = {"text_states": text_tokens[:, 0]} if guide == "text" else {}
            vision = sacl.vision_model(inputs["pixel_values"], **chooser)
            image_tokens = vision.last_hidden_state
            attention = match_score(model, text_tokens[0], image_tokens[0])[1][0].requires_grad_()
        (score, _) = match_score(model, text_tokens[0], image_tokens[0], 1, attention)
        gradient = torch.autograd.grad(score, attention)[0]
        by_token = (attention * gradient.clamp(min=0)).mean(dim=0)
        expected = torch.zeros(len(by_token), 16, dtype=torch.float64)
        places = vision.kept_patches[-1][0].tolist()
        for number, place in enumerate(places):
            if place >= 0:
                expected[:, place] = by_token[:, 1 + number].detach()

        found = ground_text(model, tiny_processor, IMAGES[0], text)
        torch.testing.assert_close(found.word_maps.flatten(1).double(), expected[1:-1], rtol=1e-4, atol=1e-9)
        kept = [place for place in places if place >= 0]
        assert 0 < len(kept) < 16
        dropped = [place for place in range(16) if place not in kept]
        assert found.text_map.flatten()[dropped].count_nonzero() == 0


class TestLeavesTheModelAlone:
    @pytest.mark.parametrize("implementation", ["eager", "sdpa"])
    def test_attention_is_what_it_was(self, model, tiny_processor, implementation):
        model.set_attn_implementation("eager")
        expected = ground_text(model, tiny_processor, IMAGES[0], TEXTS[0])
        model.set_attn_implementation(implementation)
        found = ground_text(model, tiny_processor, IMAGES[0], TEXTS[0])
        torch.testing.assert_close(found.word_maps, expected.word_maps, rtol=1e-4, atol=1e-8)
        for module in (model, model.sacl.fusion_model, model.sacl.vision_model, model.sacl.text_model):
            assert module.config._attn_implementation == implementation

    def test_all_is_as_it_was_after_an_error_too(self, model, tiny_processor, monkeypatch):
        model.set_attn_implementation("sdpa")
        model.train()
        model.sacl.vision_model.eval()
        before = {name: module.training for name, module in model.named_modules()}

        def fail(*args, **kwargs):
            raise RuntimeError("in the middle")

        with monkeypatch.context() as patched:
            patched.setattr(model.itm_head, "forward", fail)
            with pytest.raises(RuntimeError, match="in the middle"):
                ground_text(model, tiny_processor, IMAGES[0], TEXTS[0])
        assert {name: module.training for name, module in model.named_modules()} == before
        assert model.sacl.fusion_model.config._attn_implementation == "sdpa"

        found = ground_text(model, tiny_processor, IMAGES[0], TEXTS[0])
        assert {name: module.training for name, module in model.named_modules()} == before
        # In training mode there would be dropout, and not twice the same.
        assert torch.equal(found.word_maps, ground_text(model.eval(), tiny_processor, IMAGES[0], TEXTS[0]).word_maps)

    def test_gradients_are_neither_needed_nor_left(self, model, tiny_processor):
        expected = ground_text(model, tiny_processor, IMAGES[0], TEXTS[0])
        assert all(parameter.grad is None for parameter in model.parameters())
        assert not expected.word_maps.requires_grad and not expected.text_map.requires_grad
        earlier = torch.ones_like(model.itm_head.weight)
        model.itm_head.weight.grad = earlier.clone()
        ground_text(model, tiny_processor, IMAGES[0], TEXTS[0])
        assert torch.equal(model.itm_head.weight.grad, earlier)

        model.requires_grad_(False)
        for context in (torch.no_grad, torch.inference_mode, torch.enable_grad):
            with context():
                found = ground_text(model, tiny_processor, IMAGES[0], TEXTS[0])
                assert torch.is_inference_mode_enabled() == (context is torch.inference_mode)
            assert torch.equal(found.word_maps, expected.word_maps)
            assert not found.word_maps.is_inference()
        assert not any(parameter.requires_grad for parameter in model.parameters())

    def test_no_graph_is_kept(self, model, tiny_processor):
        kept = []
        hook = model.sacl.fusion_model.layers[0].register_forward_hook(
            lambda module, args, output: kept.append(output)
        )
        ground_text(model, tiny_processor, IMAGES[0], TEXTS[0])
        hook.remove()
        with pytest.raises(RuntimeError, match="freed|second time"):
            kept[0].sum().backward()


class TestWords:
    @pytest.fixture
    def processor(self, tiny_tokenizer):
        """Knows `house` and `s`, `photo` and `graph`: `houses` and `photographs` are several pieces."""
        vocabulary = {**tiny_tokenizer.get_vocab()}
        for piece in ("##s", "##graph", "'", "-"):
            vocabulary.setdefault(piece, len(vocabulary))
        tokenizer = type(tiny_tokenizer)(vocab=vocabulary, model_max_length=12)
        return SaclProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer)

    @pytest.mark.parametrize(
        "text, words, pieces",
        [
            ("a red bus", ["a", "red", "bus"], [[1], [2], [3]]),
            ("Two Photographs of houses", ["Two", "Photographs", "of", "houses"], [[1], [2, 3, 4], [5], [6, 7]]),
            ("  the   dog,sits. ", ["the", "dog", ",", "sits", "."], [[1], [2], [3], [4], [5]]),
            ("a zebra-house", ["a", "zebra", "-", "house"], [[1], [2], [3], [4]]),
            ("Löwe of 红 house", ["Löwe", "of", "红", "house"], [[1], [2], [3], [4]]),
        ],
    )
    def test_are_whole_and_as_written(self, model, processor, text, words, pieces):
        found = ground_text(model, processor, IMAGES[0], text, layer=1)
        assert found.words == words
        inputs = processor(text=[text], images=[IMAGES[0]], return_tensors="pt")
        assert sum(map(len, pieces)) == inputs["input_ids"].shape[1] - 2
        expected = reference_by_autograd(model, inputs)
        for word_map, positions in zip(found.word_maps, pieces, strict=True):
            torch.testing.assert_close(
                word_map.flatten(), expected[positions].mean(dim=0).float(), rtol=1e-4, atol=1e-8
            )
        torch.testing.assert_close(found.text_map.flatten(), expected.mean(dim=0).float(), rtol=1e-4, atol=1e-8)

    @pytest.mark.parametrize("text", ["", "  ", "\u200b"])
    def test_there_must_be_one(self, model, processor, text):
        with pytest.raises(ValueError, match="has no word"):
            ground_text(model, processor, IMAGES[0], text)

    def test_there_may_not_be_more_than_the_model_reads(self, model, processor):
        assert len(ground_text(model, processor, IMAGES[0], "a " * 10).words) == 10
        with pytest.raises(ValueError, match="has 13 tokens, but the model reads 12: shorten"):
            ground_text(model, processor, IMAGES[0], "a " * 11)

    def test_must_be_text(self, model, processor):
        with pytest.raises(TypeError, match="A text must be a string, got 3"):
            ground_text(model, processor, IMAGES[0], 3)


@torch.enable_grad()
def reference_by_autograd(model, inputs):
    """The maps of all tokens in the first layer, one pair at a time, by a gradient through our own fusion encoder."""
    with torch.no_grad():
        (text_tokens,) = model.sacl.get_text_features(inputs["input_ids"]).last_hidden_state
        (image_tokens,) = model.sacl.get_image_features(inputs["pixel_values"]).last_hidden_state
        attention = match_score(model, text_tokens, image_tokens)[1][0]
    attention.requires_grad_()
    score, _ = match_score(model, text_tokens, image_tokens, 1, attention)
    (gradient,) = torch.autograd.grad(score, attention)
    return (attention.detach() * gradient.clamp(min=0)).mean(dim=0)[:, 1:]


class TestErrors:
    def test_a_model_without_a_matching_head(self, tiny_config, tiny_processor):
        with pytest.raises(TypeError, match="`SaclModel` has no .* head.*`SaclForPreTraining.from_pretrained`"):
            ground_text(SaclModel(tiny_config), tiny_processor, IMAGES[0], "a cat")
        with pytest.raises(TypeError, match="`Linear` has no"):
            evaluate_grounding(nn.Linear(1, 1), [], tiny_processor)

    @pytest.mark.parametrize("layer", [0, -1, 4])
    def test_a_layer_that_is_not_there(self, model, tiny_processor, layer):
        with pytest.raises(ValueError, match=f"layers 1 to 3: there is no `layer` {layer}"):
            ground_text(model, tiny_processor, IMAGES[0], "a cat", layer=layer)

    def test_images_without_texts(self, model, tiny_processor):
        with pytest.raises(ValueError, match="2 texts and 3 images"):
            ground_texts(model, tiny_processor, IMAGES, TEXTS[:2])
        assert ground_texts(model, tiny_processor, [], []) == []


# --------------------------------------------------------------------------------------------------------------------
# A model that knows where things are
# --------------------------------------------------------------------------------------------------------------------

COLORS = {"red": (230, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 230)}


def patchwork(names: list[str | None]) -> PILImage.Image:
    """16 patches of 8 x 8 pixels, each of a colour or grey."""
    colors = torch.tensor([COLORS.get(name, (128, 128, 128)) for name in names], dtype=torch.uint8)
    pixels = colors.view(4, 4, 3).repeat_interleave(8, 0).repeat_interleave(8, 1)
    return PILImage.fromarray(pixels.numpy())


def colored_patches(count: int, seed: int) -> list[tuple[dict[str, int], PILImage.Image]]:
    """
    Images with one patch of each colour or none, and where these are. Each colour is there or not whatever the others
    do, so that nothing but its own patch says so.
    """
    generator = torch.Generator().manual_seed(seed)
    examples = []
    for _ in range(count):
        there = (torch.rand(len(COLORS), generator=generator) < 0.5).tolist()
        names = [name for name, is_there in zip(COLORS, there, strict=True) if is_there]
        places = dict(zip(names, torch.randperm(16, generator=generator).tolist(), strict=False))
        by_place = {place: name for name, place in places.items()}
        examples.append((places, patchwork([by_place.get(place) for place in range(16)])))
    return examples


@pytest.fixture(scope="module")
def seeing_model(tiny_tokenizer):
    """
    Has learned in seconds which colours are in a patchwork, and never where. Its image tower cannot carry a colour
    from one patch to another, so that there is a place to be found.
    """
    set_seed(0)
    width = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "initializer_range": 32**-0.5}
    config = SaclConfig(
        text_config={
            "model_type": "bert",
            "vocab_size": len(tiny_tokenizer),
            "num_hidden_layers": 1,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            **width,
        },
        vision_config={"num_hidden_layers": 1, "image_size": 32, "patch_size": 8, **width},
        fusion_encoder_config={"num_hidden_layers": 2, "hidden_dropout": 0.0, "attention_dropout": 0.0, **width},
    )
    model = SaclForPreTraining(config)
    model.sacl.vision_model.layers[0].self_attention.o_proj.requires_grad_(False).weight.zero_()
    processor = SaclProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tiny_tokenizer)
    examples = colored_patches(256, seed=1)
    pixel_values = processor(images=[image for _, image in examples], return_tensors="pt")["pixel_values"]
    input_ids = processor(text=[f"the {name}" for name in COLORS], return_tensors="pt")["input_ids"]
    labels = torch.tensor([[name in places for name in COLORS] for places, _ in examples]).long()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        rows = torch.randint(len(examples), (64,), generator=generator)
        names = torch.randint(3, (64,), generator=generator)
        fused = model.sacl.get_fusion_features(input_ids[names], pixel_values[rows]).last_hidden_state
        loss = F.cross_entropy(model.itm_head(fused[:, 0]), labels[rows, names])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss < 0.1
    return model.eval(), processor


class TestPointing:
    def test_points_at_what_is_spoken_of(self, seeing_model):
        model, processor = seeing_model
        rows = []
        for places, image in colored_patches(30, seed=2):
            boxes = {
                name: [8 * (p % 4), 8 * (p // 4), 8 * (p % 4) + 8, 8 * (p // 4) + 8] for name, p in places.items()
            }
            rows += [
                {"image": image, "caption": f"the {name}", "boxes": [box], "candidates": list(boxes.values())}
                for name, box in boxes.items()
            ]
        # One patch of 16: by chance every 16th phrase is found.
        assert chance_grounding_metrics(rows)["pointing_accuracy"] == pytest.approx(100 / 16)
        for layer in (1, 2):
            metrics = evaluate_grounding(model, rows, processor, layer=layer, show_progress=False)
            assert metrics["pointing_accuracy"] > 50
            assert metrics["box_accuracy"] > 60

    def test_of_words_and_what_is_not_there(self, seeing_model):
        model, processor = seeing_model
        hits = []
        for places, image in colored_patches(30, seed=3):
            for name in COLORS:
                found = ground_text(model, processor, image, f"the {name}", layer=1)
                assert (found.match_probability > 0.5) == (name in places)
                assert found.words == ["the", name]
                if name in places:
                    hits.append(found.word_maps[1].argmax() == places[name])
        assert sum(hits) > len(hits) / 2


# --------------------------------------------------------------------------------------------------------------------
# Points, boxes and data sets
# --------------------------------------------------------------------------------------------------------------------


class TestPoints:
    def test_heat_is_scaled_and_where_it_was(self):
        grid = torch.zeros(4, 4)
        grid[1, 2] = 3.0
        heat = heat_map(grid, (32, 64))
        assert heat.shape == (32, 64)
        assert heat.min() == 0 and heat.max() == 1
        # The middle of the patch in the second row and third column.
        assert heat[8:16, 32:48].mean() > 0.5 > heat[20:, :16].max()
        assert torch.equal(heat_map(grid * 1e-6, (32, 64)) > 0.5, heat > 0.5)

    def test_heat_of_a_map_without_any(self):
        for value in (0.0, 0.1, 2.5):
            assert heat_map(torch.full((3, 3), value), (37, 53)).count_nonzero() == 0

    def test_best_point_is_the_middle_of_a_pixel(self):
        grid = torch.zeros(3, 5)
        grid[2, 1] = 1.0
        assert best_point(grid, (3, 5)) == (1.5, 2.5)
        x, y = best_point(grid, (30, 100))
        assert 20 < x < 40 and 20 < y < 30

    def test_a_batch_is_no_map(self):
        for function in (heat_map, best_point):
            with pytest.raises(ValueError, match=r"`map` must have the shape .* got \(1, 3, 3\)"):
                function(torch.zeros(1, 3, 3), (6, 6))


class TestScoreBoxes:
    def test_is_the_sum_inside_over_the_root_of_the_area(self):
        generator = torch.Generator().manual_seed(0)
        grid = torch.rand(6, 8, generator=generator)
        boxes = [[0, 0, 8, 6], [1, 2, 4, 3], [2.6, 1.2, 7.9, 5.7], [-3, -2, 2, 2], [6, 4, 20, 30]]
        expected = []
        for left, upper, right, lower in boxes:
            inside = [
                grid[y, x].item()
                for y in range(max(0, int(upper)), min(6, int(lower)))
                for x in range(max(0, int(left)), min(8, int(right)))
            ]
            expected.append(sum(inside) / math.sqrt((right - left) * (lower - upper)))
        for given in (boxes, torch.tensor(boxes)):
            assert score_boxes(grid, given, (6, 8)).tolist() == pytest.approx(expected, rel=1e-5)

    def test_is_at_the_size_of_the_image(self):
        grid = torch.tensor([[0.0, 0.0], [0.0, 1.0]])
        upper_left, lower_right, all_of_it = score_boxes(
            grid, [[0, 0, 50, 20], [50, 20, 100, 40], [0, 0, 100, 40]], (40, 100)
        ).tolist()
        assert lower_right > all_of_it > upper_left

    def test_no_boxes_no_scores(self):
        assert score_boxes(torch.ones(2, 2), [], (4, 4)).shape == (0,)

    @pytest.mark.parametrize("boxes", [[[1, 2, 3]], [1, 2, 3, 4], "box", [[0, 0, 1, None]], [["a", 0, 1, 1]]])
    def test_what_is_no_box(self, boxes):
        with pytest.raises(ValueError, match=r"`boxes` must be a list of boxes \[left, upper, right, lower\]"):
            score_boxes(torch.ones(2, 2), boxes, (4, 4))

    @pytest.mark.parametrize("box", [[10, 10, 5, 20], [10, 10, 20, 10], [0, 0, float("nan"), 1]])
    def test_a_box_that_ends_before_it_begins(self, box):
        with pytest.raises(
            ValueError, match=r"the right edge beyond the left .* width and height have to be converted"
        ):
            score_boxes(torch.ones(2, 2), [[0, 0, 1, 1], box], (4, 4))


class TestEvaluateGrounding:
    @pytest.fixture
    def rows(self):
        """Images of several sizes, several boxes for one of them, and candidates of which none, one or all fit."""
        generator = torch.Generator().manual_seed(0)
        rows = []
        for seed, text in enumerate(TEXTS * 2):
            height, width = (int(number) for number in torch.randint(20, 60, (2,), generator=generator))
            corners = torch.rand(5, 2, 2, generator=generator).sort(dim=1).values * torch.tensor([width, height])
            first, second, *candidates = corners.flatten(1).tolist()
            candidates += [first] if seed % 2 else []
            boxes = [first, second] if seed % 3 else [first]
            image = noise((height, width), seed=seed)
            rows.append({"image": image, "caption": text, "boxes": boxes, "candidates": candidates})
        return rows

    def test_is_what_it_says(self, model, tiny_processor, rows):
        pointing_game = evaluate.load(
            str(Path(__file__).parents[2] / "trainer/evaluation/metrics/pointing_game/pointing_game.py")
        )
        points, right = [], 0
        for row in rows:
            size = row["image"].height, row["image"].width
            text_map = ground_text(model, tiny_processor, row["image"], row["caption"], layer=2).text_map
            points.append(best_point(text_map, size))
            best = row["candidates"][score_boxes(text_map, row["candidates"], size).argmax()]
            right += any(overlap(best, box) >= 0.5 for box in row["boxes"])
        expected = pointing_game.compute(predictions=points, references=[row["boxes"] for row in rows])["accuracy"]
        for batch_size in (1, 4):
            metrics = evaluate_grounding(
                model, rows, tiny_processor, layer=2, batch_size=batch_size, show_progress=False
            )
            assert metrics == {
                "pointing_accuracy": pytest.approx(expected),
                "box_accuracy": pytest.approx(100 * right / len(rows)),
            }

    def test_chance_is_the_mean_over_all_choices(self, rows):
        pointed, chosen = [], []
        for row in rows:
            image, boxes = row["image"], row["boxes"]
            inside = [
                any(left <= x + 0.5 <= right and upper <= y + 0.5 <= lower for left, upper, right, lower in boxes)
                for y in range(image.height)
                for x in range(image.width)
            ]
            pointed.append(sum(inside) / len(inside))
            fits = [any(overlap(candidate, box) >= 0.5 for box in boxes) for candidate in row["candidates"]]
            chosen.append(sum(fits) / len(fits))
        assert chance_grounding_metrics(rows) == {
            "pointing_accuracy": pytest.approx(100 * sum(pointed) / len(rows)),
            "box_accuracy": pytest.approx(100 * sum(chosen) / len(rows)),
        }

    def test_ties_do_not_flatter(self, model, tiny_processor):
        """A head that does not look at the image gives maps of zeros, in which everything is best."""
        nn.init.zeros_(model.itm_head.weight)
        row = {"image": IMAGES[0], "caption": "a cat", "boxes": [[0, 0, 16, 16]]}
        rows = [{**row, "candidates": [[0, 0, 16, 16], [16, 16, 32, 32]]}]
        metrics = evaluate_grounding(model, rows, tiny_processor, show_progress=False)
        assert metrics == {"pointing_accuracy": 0.0, "box_accuracy": 0.0}
        rows = [{**row, "boxes": [[0, 0, 32, 32]], "candidates": [[0, 0, 32, 30]]}]
        metrics = evaluate_grounding(model, rows, tiny_processor, show_progress=False)
        assert metrics == {"pointing_accuracy": 100.0, "box_accuracy": 100.0}

    def test_a_phrase_without_candidates_is_not_found(self, model, tiny_processor):
        rows = [{"image": IMAGES[0], "caption": "a cat", "boxes": [[0, 0, 32, 32]], "candidates": []}]
        metrics = evaluate_grounding(model, rows, tiny_processor, show_progress=False)
        assert metrics == {"pointing_accuracy": 100.0, "box_accuracy": 0.0}
        assert chance_grounding_metrics(rows) == metrics

    def test_reads_data_sets_with_other_columns(self, model, tiny_processor, rows, capsys):
        boxes = [[Value("float64")]]
        features = Features({"picture": Image(), "phrase": Value("string"), "truth": boxes, "proposals": boxes})
        names = {"image": "picture", "caption": "phrase", "boxes": "truth", "candidates": "proposals"}
        renamed = [{names[key]: value for key, value in row.items()} for row in rows]
        columns = {"image_column": "picture", "boxes_column": "truth", "candidates_column": "proposals"}
        dataset = Dataset.from_list(renamed, features=features)
        expected = evaluate_grounding(model, rows, tiny_processor, show_progress=False)
        assert "Grounding" not in capsys.readouterr().err
        found = evaluate_grounding(model, dataset, tiny_processor, caption_column="phrase", **columns)
        assert found == expected
        assert "Grounding phrases" in capsys.readouterr().err
        assert chance_grounding_metrics(dataset, **columns) == chance_grounding_metrics(rows)
        # Iterable, and nobody asked about candidates.
        only_points = ({key: row[key] for key in ("image", "caption", "boxes")} for row in rows)
        found = evaluate_grounding(model, only_points, tiny_processor, show_progress=False)
        assert found == {"pointing_accuracy": expected["pointing_accuracy"]}

    @pytest.mark.parametrize(
        "change, message",
        [
            ({"caption": None}, r"no column 'caption', only .* set `caption_column`"),
            ({"boxes": None}, r"no column 'boxes', only .* set `boxes_column`"),
            ({"caption": ["a", "b"]}, r"phrase of row 0 must be a string, got \['a', 'b'\]: one row for each phrase"),
            ({"caption": " "}, "has no word"),
            ({"boxes": []}, "Row 0 has no box: leave out"),
            ({"boxes": [[1, 2, 3]]}, r"boxes of row 0 must be a list of boxes"),
            ({"candidates": [[5, 5, 1, 1]]}, r"candidates of row 0 must be .* width and height"),
            ({"image": "nowhere.png"}, "image of row 0 cannot be read"),
        ],
    )
    def test_says_what_is_wrong_with_a_row(self, model, tiny_processor, change, message):
        row = {"image": IMAGES[0], "caption": "a cat", "boxes": [[0, 0, 9, 9]], "candidates": [[0, 0, 9, 9]], **change}
        row = {name: value for name, value in row.items() if value is not None}
        with pytest.raises(ValueError, match=message):
            evaluate_grounding(model, [row], tiny_processor, show_progress=False)

    def test_other_errors(self, model, tiny_processor, tiny_tokenizer, rows):
        with pytest.raises(ValueError, match="The data set has no rows"):
            evaluate_grounding(model, [], tiny_processor, show_progress=False)
        with pytest.raises(ValueError, match="The data set has no rows"):
            chance_grounding_metrics([])
        with pytest.raises(ValueError, match="no column 'proposals', only .* set `candidates_column`"):
            evaluate_grounding(model, rows, tiny_processor, candidates_column="proposals", show_progress=False)
        with pytest.raises(ValueError, match="`batch_size` must be at least 1, got 0"):
            evaluate_grounding(model, rows, tiny_processor, batch_size=0)
        cropping = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
        with pytest.raises(ValueError, match="crops images.*do_center_crop = False"):
            evaluate_grounding(model, rows, SaclProcessor(cropping, tiny_tokenizer), show_progress=False)


def overlap(one: list[float], other: list[float]) -> float:
    """Intersection over union."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0) * max(height, 0)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return shared / (areas - shared)
