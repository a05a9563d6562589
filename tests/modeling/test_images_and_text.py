# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Two images and a text: the merge of what is seen in both, by loops and by swapping the images."""

import math

import pytest
import torch
from torch import nn

from modeling_sacl import SaclForImagesAndTextClassification, SaclForPreTraining, SaclFusionModel
from modeling_sacl.images_and_text_sacl import SaclTwoImageFusionModel

from . import test_modeling
from .common import assert_same, build, random_batch, run_examples, stir
from .test_classification import NEW, ClassifierTests, select_patches


BATCH, LENGTH, PATCHES = 4, 7, 17


def slow_attention(block: nn.Module, queries: list[torch.Tensor], tokens: list[torch.Tensor]) -> list[torch.Tensor]:
    """A token, a head and a key at a time."""
    outputs = []
    for query in queries:
        heads = []
        for head in range(block.config.num_attention_heads):
            part = slice(head * block.head_dim, (head + 1) * block.head_dim)
            keys = [block.k_proj(token)[part] for token in tokens]
            values = [block.v_proj(token)[part] for token in tokens]
            scores = [math.exp(block.q_proj(query)[part] @ key / math.sqrt(block.head_dim)) for key in keys]
            heads.append(sum(score * value for score, value in zip(scores, values, strict=True)) / sum(scores))
        outputs.append(block.o_proj(torch.cat(heads)))
    return outputs


@torch.no_grad()
def slow_fusion(model: SaclTwoImageFusionModel, text: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """One text without padding and its two images: the lower half of the layers averages, the upper half merges."""
    tokens = list(text)
    for number, layer in enumerate(model.layers):
        seen = slow_attention(layer.self_attention, tokens, tokens)
        tokens = [layer.self_attention_layer_norm(a + b) for a, b in zip(tokens, seen, strict=True)]
        first = slow_attention(layer.cross_attention, tokens, list(images[0]))
        second = slow_attention(layer.second_cross_attention, tokens, list(images[1]))
        if number < len(model.layers) // 2:
            merged = [(a + b) / 2 for a, b in zip(first, second, strict=True)]
        else:
            left, right = layer.merge.weight.split(text.shape[1], dim=1)
            merged = [left @ a + right @ b + layer.merge.bias for a, b in zip(first, second, strict=True)]
        tokens = [layer.cross_attention_layer_norm(a + b) for a, b in zip(tokens, merged, strict=True)]
        tokens = [layer.mlp_layer_norm(token + layer.mlp(token)) for token in tokens]
    return torch.stack(tokens)


@torch.no_grad()
def swap_blocks(model: nn.Module) -> None:
    """Gives each image the block of the other, and each half of the merge to the other."""
    for module in model.modules():
        if hasattr(module, "second_cross_attention"):
            first, second = module.cross_attention, module.second_cross_attention
            module.cross_attention, module.second_cross_attention = second, first
            if module.merge is not None:
                module.merge.weight.copy_(torch.cat(module.merge.weight.chunk(2, dim=1)[::-1], dim=1))


class TestSaclTwoImageFusionModel(test_modeling.TestSaclFusionModel):
    """All that the fusion encoder of one image does; where that one has images, this one has pairs of them."""

    model_class = SaclTwoImageFusionModel

    @pytest.fixture(autouse=True)
    def inherited_tests_build_this_one(self, monkeypatch):
        monkeypatch.setattr(test_modeling, "SaclFusionModel", SaclTwoImageFusionModel)

    @pytest.fixture
    def inputs(self, tiny_config):
        generator = torch.Generator().manual_seed(0)
        return {
            "inputs_embeds": torch.randn(BATCH, LENGTH, 32, generator=generator),
            "encoder_hidden_states": torch.randn(BATCH, 2, PATCHES, 48, generator=generator),
            "attention_mask": random_batch(tiny_config)["attention_mask"],
        }

    @pytest.mark.parametrize("num_layers", [1, 2, 3])
    def test_equals_the_loop(self, config, inputs, num_layers):
        config.num_hidden_layers = num_layers
        model = stir(build(SaclTwoImageFusionModel, config)).double()
        inputs = {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}
        assert [layer.merge is not None for layer in model.layers] == {
            1: [True],
            2: [False, True],
            3: [False, True, True],
        }[num_layers]
        output = model(**inputs).last_hidden_state
        for row, length in enumerate(inputs["attention_mask"].sum(dim=1).tolist()):
            expected = slow_fusion(model, inputs["inputs_embeds"][row, :length], inputs["encoder_hidden_states"][row])
            assert (output[row, :length] - expected).abs().max() <= 1e-10

    def test_records_hidden_states_and_attentions(self, config, inputs):
        model = stir(build(SaclTwoImageFusionModel, config, attn_implementation="eager"))
        output = model(**inputs, output_hidden_states=True, output_attentions=True)
        assert test_modeling.shapes(output.hidden_states) == [(BATCH, LENGTH, 32)] * 3
        assert test_modeling.shapes(output.attentions) == [(BATCH, 2, LENGTH, LENGTH)] * 2
        assert test_modeling.shapes(output.cross_attentions) == [(BATCH, 2, LENGTH, PATCHES)] * 4
        # Of each layer to the first image and to the second: only one of the two sees that an image has changed.
        inputs["encoder_hidden_states"] = inputs["encoder_hidden_states"].clone()
        inputs["encoder_hidden_states"][:, 1, 3] += 1
        changed = model(**inputs, output_attentions=True).cross_attentions
        assert torch.equal(changed[0], output.cross_attentions[0])
        assert not torch.allclose(changed[1], output.cross_attentions[1])

    def test_keys_and_values_can_be_computed_before(self, config, inputs):
        model = stir(build(SaclTwoImageFusionModel, config))
        index = torch.tensor([2, 2, 0, 1])
        expected = model(**inputs, image_index=index)
        given = model.project_images(inputs.pop("encoder_hidden_states"))
        assert_same(model(**inputs, image_key_values=given, image_index=index), expected)

    def test_one_pair_for_all_texts(self, config, inputs):
        model = stir(build(SaclTwoImageFusionModel, config))
        pair = inputs.pop("encoder_hidden_states")[:1]
        index = torch.zeros(BATCH, dtype=torch.long)
        output = model(**inputs, encoder_hidden_states=pair, image_index=index)
        expected = model(**inputs, encoder_hidden_states=pair.expand(BATCH, -1, -1, -1))
        assert_same(output, expected, tolerance=1e-6)

    def test_starts_from_one_image(self, config, inputs, tmp_path):
        single = stir(build(SaclFusionModel, config))
        single.save_pretrained(tmp_path)
        model = SaclTwoImageFusionModel.from_pretrained(tmp_path)
        inputs["encoder_hidden_states"] = inputs["encoder_hidden_states"][:, :1]
        expected = single(**{**inputs, "encoder_hidden_states": inputs["encoder_hidden_states"][:, 0]})
        inputs["encoder_hidden_states"] = inputs["encoder_hidden_states"].expand(-1, 2, -1, -1)
        assert_same(model(**inputs), expected, tolerance=1e-5)

    @pytest.mark.parametrize("shape", [(BATCH, PATCHES, 48), (BATCH, 3, PATCHES, 48)])
    def test_other_numbers_of_images_raise(self, config, inputs, shape):
        inputs["encoder_hidden_states"] = torch.randn(*shape)
        with pytest.raises(ValueError, match=r"two images.*\(num_pairs, 2, num_tokens, hidden_size\), got \(4, "):
            build(SaclTwoImageFusionModel, config)(**inputs)


class TestSaclForImagesAndTextClassification(ClassifierTests):
    model_class = SaclForImagesAndTextClassification

    @pytest.fixture
    def inputs(self, config):
        first, second = random_batch(config), random_batch(config, seed=1)
        pixel_values = torch.stack([first["pixel_values"], second["pixel_values"]], dim=1)
        return {**first, "pixel_values": pixel_values, "labels": torch.tensor([1, 0, 0, 1])}

    def alone(self, model, inputs, row):
        """Each image through the image tower by itself, looked at by the text alone."""
        length = int(inputs["attention_mask"][row].sum())
        text = model.sacl.get_text_features(inputs["input_ids"][row : row + 1, :length]).last_hidden_state
        options = {}
        if model.config.vision_config.selects_patches_by_text:
            options["text_states"] = text[:, 0]
        images = [
            model.sacl.vision_model(image[None], **options).last_hidden_state[0]
            for image in inputs["pixel_values"][row]
        ]
        fused = slow_fusion(model.sacl.fusion_model, text[0], torch.stack(images))
        dense, out_proj = model.classifier.dense, model.classifier.out_proj
        return out_proj(dense(fused[0]).clamp(min=0))

    # --------------------------------------------------------------------------------------------------------- merge

    def test_only_what_one_image_does_not_need_is_new(self, pretrained):
        model, folder = pretrained
        loaded, report = self.model_class.from_pretrained(folder, output_loading_info=True)
        assert not report["unexpected_keys"]
        block = [f"{name}_proj.{kind}" for name in "qkvo" for kind in ("weight", "bias")]
        layers = "sacl.fusion_model.layers"
        expected = {f"{layers}.{number}.second_cross_attention.{name}" for number in range(2) for name in block}
        assert report["missing_keys"] == NEW | expected | {f"{layers}.1.merge.weight", f"{layers}.1.merge.bias"}
        for name, value in model.sacl.state_dict().items():
            assert torch.equal(loaded.sacl.state_dict()[name], value), name
        for layer in loaded.sacl.fusion_model.layers:
            assert_same(layer.second_cross_attention.state_dict(), layer.cross_attention.state_dict())
            assert layer.second_cross_attention.q_proj.weight is not layer.cross_attention.q_proj.weight

    def test_starts_as_the_average(self, pretrained, config, inputs):
        _, folder = pretrained
        model = self.model_class.from_pretrained(folder)
        average, merged = model.sacl.fusion_model.layers
        assert average.merge is None
        first, second = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
        assert_same(merged.merge(torch.cat([first, second], dim=-1)), (first + second) / 2, tolerance=1e-6)
        # In whatever order the images come.
        swapped = {**inputs, "pixel_values": inputs["pixel_values"].flip(1)}
        with torch.no_grad():
            assert_same(self.run(model, swapped), self.run(model, inputs), tolerance=1e-6)

    def test_with_the_same_image_twice_it_starts_as_one(self, pretrained, inputs):
        model, folder = pretrained
        loaded = self.model_class.from_pretrained(folder)
        images = inputs["pixel_values"][:, :1]
        texts = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        with torch.no_grad():
            fused = model.sacl.get_fusion_features(**texts, pixel_values=images[:, 0])
            expected = loaded.classifier(fused.last_hidden_state[:, 0])
            assert_same(loaded(**texts, pixel_values=images.expand(-1, 2, -1, -1, -1)).logits, expected, 1e-5)

    def test_swapping_images_and_their_blocks_changes_nothing(self, config, inputs):
        model = stir(build(self.model_class, config))
        swapped = {**inputs, "pixel_values": inputs["pixel_values"].flip(1)}
        with torch.no_grad():
            expected = self.run(model, inputs).logits
            alone = self.run(model, swapped).logits
            assert ((alone - expected).abs().amax(dim=-1) > 1e-4).all(), "the order of the images is not seen"
            swap_blocks(model)
            assert_same(self.run(model, swapped).logits, expected, tolerance=1e-6)

    def test_trained_weights_are_not_taken_for_new(self, config, tmp_path):
        model = stir(build(self.model_class, config))
        model.save_pretrained(tmp_path)
        assert_same(self.model_class.from_pretrained(tmp_path).state_dict(), model.state_dict())

    def test_records_both_images(self, config, inputs):
        model = build(self.model_class, config, attn_implementation="eager")
        output = self.run(model, inputs, output_hidden_states=True, output_attentions=True)
        assert test_modeling.shapes(output.hidden_states) == [(4, 7, 32), (4, 7, 32), (4, 1, 32)]
        assert test_modeling.shapes(output.attentions) == [(4, 2, 7, 7), (4, 2, 1, 7)]
        tokens = output.cross_attentions[0].shape[-1]
        expected = [(4, 2, 7, tokens)] * 2 + [(4, 2, 1, tokens)] * 2
        assert test_modeling.shapes(output.cross_attentions) == expected

    def test_layers_stay_whole_when_a_model_is_spread(self, config):
        assert "SaclTwoImageFusionLayer" in build(self.model_class, config)._no_split_modules

    @pytest.mark.parametrize("shape", [(4, 3, 3, 32, 32), (4, 1, 3, 32, 32), (4, 3, 32, 32), (3, 2, 3, 32, 32)])
    def test_wrong_images_raise(self, config, inputs, shape):
        inputs["pixel_values"] = torch.randn(*shape)
        expected = rf"4 texts.*\(4, 2, num_channels, height, width\), got \({', '.join(map(str, shape))}\)"
        with pytest.raises(ValueError, match=expected):
            build(self.model_class, config)(**inputs)

    def test_example_runs(self, tiny_config, tiny_processor, tmp_path, monkeypatch):
        tiny_config.text_config.vocab_size = len(tiny_processor.tokenizer)
        build(SaclForPreTraining, tiny_config).save_pretrained(tmp_path / "user" / "sacl-model")
        monkeypatch.chdir(tmp_path)
        image = torch.zeros(3, 32, 32, dtype=torch.uint8)
        names = {"processor": tiny_processor, "left_image": image, "right_image": image}
        assert run_examples(self.model_class, **names) == 5


class TestGuidedByTexts(TestSaclForImagesAndTextClassification):
    """All of it where each statement chooses its patches of both images."""

    @pytest.fixture
    def config(self, tiny_config):
        return select_patches(tiny_config, "text")
