# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The retrieval head: what every head must do, and matching against pairs looked at one by one."""

import pytest
import torch

from modeling_sacl import SaclForImageTextRetrieval, SaclForPreTraining, SaclModel
from modeling_sacl.modeling_sacl import SaclAttention

from .common import ModelTests, TextTowerTests, assert_same, build, random_batch, random_masked_batch, stir


class TestSaclForImageTextRetrieval(TextTowerTests, ModelTests):
    model_class = SaclForImageTextRetrieval

    @pytest.fixture
    def inputs(self, config):
        return random_batch(config)

    def loss(self, model, inputs):
        return self.run(model, inputs, return_loss=True).loss

    def test_is_pre_training_without_words(self, config):
        pretrained = stir(build(SaclForPreTraining, config))
        model = build(SaclForImageTextRetrieval, config)
        model.load_state_dict(pretrained.state_dict(), strict=False)
        batch = random_masked_batch(config)
        plain = {name: value for name, value in batch.items() if not name.startswith("mlm_")}
        ids = torch.tensor([0, 1, 0, 2])
        with torch.no_grad():
            expected = self.run(pretrained, {**batch, "pair_ids": ids}, return_loss=True)
            output = self.run(model, {**plain, "pair_ids": ids}, return_loss=True)
        for name in ("itc_loss", "itm_loss", "itm_labels", "itm_logits", "image_embeds", "text_embeds", "logit_scale"):
            # Rows of masked words beside them change the rounding of a matrix product.
            torch.testing.assert_close(output[name], expected[name], rtol=0, atol=1e-6, msg=name)
        assert torch.equal(output.loss, output.itc_loss + output.itm_loss)

    def test_loads_from_pre_training_with_nothing_missing(self, config, tmp_path):
        pretrained = stir(build(SaclForPreTraining, config))
        pretrained.save_pretrained(tmp_path)
        model, report = SaclForImageTextRetrieval.from_pretrained(tmp_path, output_loading_info=True)
        assert not report["missing_keys"] and not report["unexpected_keys"]
        for name, value in model.state_dict().items():
            assert torch.equal(value, pretrained.state_dict()[name]), name

    def test_loads_as_dual_encoder(self, config, tmp_path):
        build(SaclForImageTextRetrieval, config).save_pretrained(tmp_path)
        _, report = SaclModel.from_pretrained(tmp_path, output_loading_info=True)
        assert not report["missing_keys"] and not report["unexpected_keys"]

    def test_unequal_sides_raise(self, config, inputs):
        inputs["pixel_values"] = inputs["pixel_values"][:3]
        with pytest.raises(ValueError, match="4 texts and 3 images"):
            build(SaclForImageTextRetrieval, config)(**inputs)


class TestMatch:
    """One image with many texts, in every way there is, against each pair looked at alone."""

    @pytest.fixture(params=["all patches", "image", "text"])
    def model(self, request, tiny_config):
        if request.param != "all patches":
            tiny_config.vision_config.hidden_size = 32
            tiny_config.fusion_encoder_config.encoder_hidden_size = 32
        model = stir(build(SaclForImageTextRetrieval, tiny_config))
        if request.param != "all patches":
            model.set_patch_selection(keep_rate=0.5, guide=request.param)
        return model

    @pytest.fixture
    def towers(self, model):
        batch = random_batch(model.config, batch_size=6)
        with torch.no_grad():
            images = model.sacl.get_image_features(batch["pixel_values"][:2])
            texts = model.sacl.get_text_features(batch["input_ids"], batch["attention_mask"]).last_hidden_state
        return batch, images, texts

    def alone(self, model, batch, image, text):
        """The scores of a pair that meets no other."""
        fused = model.sacl.get_fusion_features(
            batch["input_ids"][text : text + 1],
            batch["pixel_values"][image : image + 1],
            batch["attention_mask"][text : text + 1],
        )
        return model.itm_head(fused.last_hidden_state[:, 0])

    @torch.no_grad()
    def test_many_texts_of_two_images(self, model, towers):
        batch, images, texts = towers
        index = torch.tensor([1, 0, 0, 1, 1, 0])
        expected = torch.cat([self.alone(model, batch, image, text) for text, image in enumerate(index)])
        key_values = model.sacl.project_images(images)
        for given in (None, key_values):
            scores = model.match(texts, images, batch["attention_mask"], index, image_key_values=given)
            assert_same(scores, expected, tolerance=1e-5)

    @torch.no_grad()
    def test_many_texts_of_one_image(self, model, towers):
        batch, images, texts = towers
        expected = torch.cat([self.alone(model, batch, 1, text) for text in range(6)])
        key_values = model.sacl.project_images(images)
        if key_values is None:
            scores = model.match(texts, images, batch["attention_mask"], torch.ones(6, dtype=torch.long))
        else:
            second = tuple((key[1:], value[1:]) for key, value in key_values)
            zeros = torch.zeros(6, dtype=torch.long)
            scores = model.match(texts, images, batch["attention_mask"], zeros, image_key_values=second)
        assert_same(scores, expected, tolerance=1e-5)

    @torch.no_grad()
    def test_nothing_can_be_computed_before_where_texts_choose(self, model, towers):
        _, images, _ = towers
        by_text = model.config.vision_config.selects_patches_by_text
        assert (model.sacl.project_images(images) is None) == by_text


class TestOneRowForAll:
    """Attention of many rows to the keys of one, which are not copied, is that to copies."""

    @pytest.mark.parametrize("backend", ["eager", "sdpa"])
    def test_output_attention_and_gradient(self, tiny_config, backend):
        config = tiny_config.fusion_encoder_config
        config._attn_implementation = backend
        torch.manual_seed(0)
        attention = SaclAttention(config, key_value_size=config.encoder_hidden_size).eval()
        results = []
        for copied in (True, False):
            states = torch.linspace(-1, 1, 3 * 5 * 32).sin().view(3, 5, 32).requires_grad_()
            image = torch.linspace(-2, 1, 7 * 48).cos().view(1, 7, 48).requires_grad_()
            key_value = attention.project_key_value(image.expand(3, -1, -1) if copied else image)
            output, weights = attention(states, None, key_value)
            output.sin().sum().backward()
            results.append({"output": output, "states": states.grad, "image": image.grad})
            if backend == "eager":
                assert weights.shape == (3, 2, 5, 7)
                results[-1]["weights"] = weights
        assert_same(results[1], results[0], tolerance=1e-5)

    def test_mask_is_not_dropped(self, tiny_config):
        """Padding is of the rows: with a mask each keeps its own."""
        config = tiny_config.fusion_encoder_config
        config._attn_implementation = "eager"
        attention = SaclAttention(config).eval()
        states = torch.randn(3, 5, 32)
        mask = torch.zeros(3, 1, 5, 4)
        mask[1, :, :, 2:] = -torch.inf
        key, value = attention.project_key_value(torch.randn(1, 4, 32))
        expected, _ = attention(states, mask, (key.expand(3, -1, -1, -1), value.expand(3, -1, -1, -1)))
        output, _ = attention(states, mask, (key, value))
        assert_same(output, expected, tolerance=1e-6)
