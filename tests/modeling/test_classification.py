# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Classification of pairs: what every head must do, its losses by hand, and each row as if it were alone."""

import math

import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification

from modeling_sacl import SaclConfig, SaclForImageTextClassification, SaclForPreTraining, SaclModel

from .common import ModelTests, TextTowerTests, assert_same, build, random_batch, run_examples, stir


BATCH = 4
NEW = {"classifier.dense.weight", "classifier.dense.bias", "classifier.out_proj.weight", "classifier.out_proj.bias"}
CONTRAST = ("sacl.text_projection", "sacl.visual_projection", "sacl.logit_scale")


def select_patches(config: SaclConfig, guide: str) -> SaclConfig:
    """Half of the patches, chosen in the first layer; in towers of one width, as texts need them to choose."""
    config.vision_config.hidden_size = config.fusion_encoder_config.encoder_hidden_size = 32
    config.vision_config.patch_keep_rate, config.vision_config.patch_selection_layers = 0.5, [1]
    config.vision_config.patch_selection_guide = guide
    return config


def without_dropout(config: SaclConfig) -> SaclConfig:
    for inner in (config.text_config, config.fusion_encoder_config):
        for name in ("hidden_dropout", "hidden_dropout_prob", "attention_dropout", "attention_probs_dropout_prob"):
            if hasattr(inner, name):
                setattr(inner, name, 0.0)
    return config


def count_rows(module: nn.Module) -> list[int]:
    """The number of rows of each call from now on."""
    rows: list[int] = []
    module.register_forward_hook(lambda module, args, output: rows.append(len(output.last_hidden_state)))
    return rows


class ClassifierTests(TextTowerTests, ModelTests):
    """What both heads must do that have a classifier; with any number of images."""

    without_gradient = CONTRAST

    def loss(self, model, inputs):
        return self.run(model, inputs).loss

    def alone(self, model, inputs, row: int) -> torch.Tensor:
        """The logits of a row, computed from its towers' outputs one image at a time, without padding."""
        raise NotImplementedError

    def assert_rows_are_as_if_alone(self, model, inputs):
        with torch.no_grad():
            expected = torch.stack([self.alone(model, inputs, row) for row in range(BATCH)])
            assert_same(self.run(model, inputs).logits, expected, tolerance=1e-5)

    def test_rows_are_as_if_alone(self, config, inputs):
        self.assert_rows_are_as_if_alone(stir(build(self.model_class, config)), inputs)

    @pytest.mark.parametrize("guide", ["image", "text"])
    def test_rows_are_as_if_alone_with_patch_selection(self, config, inputs, guide):
        model = stir(build(self.model_class, select_patches(config, guide)))
        self.assert_rows_are_as_if_alone(model, inputs)
        model.set_patch_selection(keep_rate=1.0)
        self.assert_rows_are_as_if_alone(model, inputs)

    @pytest.mark.parametrize("guide", [None, "image", "text"])
    def test_towers_run_once(self, config, inputs, guide):
        model = build(self.model_class, config if guide is None else select_patches(config, guide))
        texts, images = count_rows(model.sacl.text_model), count_rows(model.sacl.vision_model)
        self.run(model, inputs)
        assert texts == [BATCH]
        assert images == [inputs["pixel_values"].flatten(0, -4).shape[0]]

    def test_without_mask(self, config, inputs):
        model = stir(build(self.model_class, config))
        full = {**inputs, "attention_mask": torch.ones_like(inputs["attention_mask"])}
        without = {name: value for name, value in inputs.items() if name != "attention_mask"}
        assert_same(self.run(model, without), self.run(model, full), tolerance=1e-6)

    def test_larger_images_with_interpolation(self, config, inputs):
        model = build(self.model_class, config)
        inputs["pixel_values"] = torch.randn(*inputs["pixel_values"].shape[:-2], 48, 48)
        assert self.run(model, inputs, interpolate_pos_encoding=True).logits.isfinite().all()
        with pytest.raises(ValueError, match="48 x 48"):
            model(**inputs)

    # -------------------------------------------------------------------------------------------------------- losses

    def test_one_label_of_several(self, config, inputs):
        config.num_labels = 3
        model = stir(build(self.model_class, config))
        output = self.run(model, {**inputs, "labels": torch.tensor([2, 0, -100, 1])})
        assert output.logits.shape == (BATCH, 3)
        probabilities = output.logits.softmax(dim=-1)
        expected = -sum(math.log(probabilities[row, label].item()) for row, label in ((0, 2), (1, 0), (3, 1))) / 3
        assert output.loss.item() == pytest.approx(expected, abs=1e-6)
        assert model.config.problem_type == "single_label_classification"

    def test_several_labels_at_once(self, config, inputs):
        config.num_labels = 3
        model = stir(build(self.model_class, config))
        labels = torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 1]])
        output = self.run(model, {**inputs, "labels": labels})
        chances = output.logits.sigmoid()
        terms = [
            -math.log(chance if label == 1 else 1 - chance)
            for chance, label in zip(chances.flatten().tolist(), labels.flatten().tolist(), strict=True)
        ]
        assert output.loss.item() == pytest.approx(sum(terms) / 12, abs=1e-6)
        assert model.config.problem_type == "multi_label_classification"

    @pytest.mark.parametrize("num_labels", [1, 3])
    def test_regression(self, config, inputs, num_labels):
        config.num_labels, config.problem_type = num_labels, None if num_labels == 1 else "regression"
        model = stir(build(self.model_class, config))
        labels = torch.randn(BATCH, num_labels, generator=torch.Generator().manual_seed(0))
        output = self.run(model, {**inputs, "labels": labels[:, 0] if num_labels == 1 else labels})
        differences = (output.logits - labels).flatten().tolist()
        assert output.loss.item() == pytest.approx(sum(x**2 for x in differences) / len(differences), abs=1e-6)
        assert model.config.problem_type == "regression"

    def test_without_labels_there_is_no_loss(self, config, inputs):
        del inputs["labels"]
        output = self.run(build(self.model_class, config), inputs)
        assert output.loss is None
        assert list(output) == ["logits"]

    def test_half_precision_has_full_logits(self, config, inputs):
        model = build(self.model_class, config)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = self.run(model, inputs)
        assert output.logits.dtype == output.loss.dtype == torch.float32
        inputs["pixel_values"] = inputs["pixel_values"].bfloat16()
        output = self.run(model.bfloat16(), inputs)
        assert output.logits.dtype == output.loss.dtype == torch.float32

    def test_learns_a_batch_by_heart(self, config, inputs):
        model = build(self.model_class, without_dropout(config)).train()
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        losses = []
        for _ in range(30):
            loss = self.loss(model, inputs)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0] / 10

    # ------------------------------------------------------------------------------------------------------- loading

    @pytest.fixture
    def pretrained(self, config, tmp_path):
        model = stir(build(SaclForPreTraining, config))
        model.save_pretrained(tmp_path / "pretrained")
        return model, tmp_path / "pretrained"

    def test_labels_are_chosen_in_loading_and_saved(self, pretrained, tmp_path):
        names = {0: "entailment", 1: "neutral", 2: "contradiction"}
        label2id = {name: number for number, name in names.items()}
        model = self.model_class.from_pretrained(pretrained[1], id2label=names, label2id=label2id)
        assert model.classifier.out_proj.out_features == 3
        model.save_pretrained(tmp_path / "classifier")
        loaded = self.model_class.from_pretrained(tmp_path / "classifier")
        assert loaded.config.id2label == names
        assert loaded.config.label2id == label2id

    def test_becomes_a_dual_encoder_again(self, config, tmp_path):
        model = stir(build(self.model_class, config))
        model.save_pretrained(tmp_path)
        loaded, report = SaclModel.from_pretrained(tmp_path, output_loading_info=True)
        assert not report["missing_keys"] and not report["unexpected_keys"]
        for name, value in loaded.state_dict().items():
            assert torch.equal(value, model.sacl.state_dict()[name]), name


class TestSaclForImageTextClassification(ClassifierTests):
    model_class = SaclForImageTextClassification

    @pytest.fixture
    def inputs(self, config):
        return {**random_batch(config), "labels": torch.tensor([1, 0, 0, 1])}

    def alone(self, model, inputs, row):
        length = int(inputs["attention_mask"][row].sum())
        fused = model.sacl.get_fusion_features(
            inputs["input_ids"][row : row + 1, :length], inputs["pixel_values"][row : row + 1]
        )
        dense, out_proj = model.classifier.dense, model.classifier.out_proj
        return out_proj(dense(fused.last_hidden_state[0, 0]).clamp(min=0))

    def test_only_the_classifier_is_new(self, pretrained):
        model, folder = pretrained
        loaded, report = self.model_class.from_pretrained(folder, output_loading_info=True)
        assert report["missing_keys"] == NEW and not report["unexpected_keys"]
        assert_same(loaded.sacl.state_dict(), model.sacl.state_dict())
        assert loaded.classifier.dense.weight.abs().max() < 1
        assert loaded.classifier.out_proj.bias.count_nonzero() == 0

    def test_auto_class(self, config, tmp_path):
        build(self.model_class, config).save_pretrained(tmp_path)
        assert type(AutoModelForSequenceClassification.from_pretrained(tmp_path)) is self.model_class
        assert type(AutoModelForSequenceClassification.from_config(config)) is self.model_class

    def test_records_the_fusion_encoder(self, config, inputs):
        model = build(self.model_class, config, attn_implementation="eager")
        output = self.run(model, inputs, output_hidden_states=True, output_attentions=True)
        assert [tuple(state.shape) for state in output.hidden_states] == [(4, 7, 32), (4, 7, 32), (4, 1, 32)]
        assert [tuple(value.shape) for value in output.attentions] == [(4, 2, 7, 7), (4, 2, 1, 7)]
        assert [tuple(value.shape) for value in output.cross_attentions] == [(4, 2, 7, 17), (4, 2, 1, 17)]

    @pytest.mark.parametrize("shape", [(3, 3, 32, 32), (4, 2, 3, 32, 32), (3, 32, 32)])
    def test_wrong_images_raise(self, config, inputs, shape):
        inputs["pixel_values"] = torch.randn(*shape)
        expected = rf"4 texts.*\(4, num_channels, height, width\), got \({', '.join(map(str, shape))}\)"
        with pytest.raises(ValueError, match=expected):
            build(self.model_class, config)(**inputs)

    def test_example_runs(self, tiny_config, tiny_processor, tmp_path, monkeypatch):
        tiny_config.text_config.vocab_size = len(tiny_processor.tokenizer)
        build(SaclForPreTraining, tiny_config).save_pretrained(tmp_path / "user" / "sacl-model")
        monkeypatch.chdir(tmp_path)
        names = {"processor": tiny_processor, "image": torch.zeros(3, 32, 32, dtype=torch.uint8)}
        assert run_examples(self.model_class, **names) == 4


class TestGuidedByTexts(TestSaclForImageTextClassification):
    """All of it where each text chooses its patches."""

    @pytest.fixture
    def config(self, tiny_config):
        return select_patches(tiny_config, "text")

    def test_records_the_fusion_encoder(self, config, inputs):
        """Fewer patches: half of 16, the fused one and the class token."""
        model = build(self.model_class, config, attn_implementation="eager")
        output = self.run(model, inputs, output_attentions=True)
        assert [tuple(value.shape) for value in output.cross_attentions] == [(4, 2, 7, 10), (4, 2, 1, 10)]
