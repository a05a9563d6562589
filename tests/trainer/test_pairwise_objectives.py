# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Sigmoid loss, removal of negatives and separate positives, each against its formula in loops over numbers."""

import math
from dataclasses import replace

import pytest
import torch

from modeling_sacl import SaclForPreTraining, SaclModel
from modeling_sacl.loss_sacl import separate_positives_contrastive_loss, sigmoid_contrastive_loss
from trainer.contrast import parameter_named
from trainer.objectives import (
    Comparison,
    FilterObjective,
    InfoNCEObjective,
    MultiPositiveObjective,
    SaclObjective,
    SigmoidObjective,
)
from trainer.queue import PairFeatures

from .dual_encoders import make_dual_encoder
from .test_objective_families import CONTRAST, loss_of
from .test_objectives import LargestTensor, check_slopes, cosine, make_batch


OBJECTIVES = {
    "siglip": SigmoidObjective(),
    "filter": FilterObjective(filter_threshold=0.8),
    "multi_positive": MultiPositiveObjective(),
}


def make(**options):
    """A batch with a bias, and the leaves of its gradient."""
    batch, leaves = make_batch(**options)
    leaves.logit_bias = torch.tensor(-1.3, dtype=batch.logit_scale.dtype, requires_grad=True)
    return replace(batch, logit_bias=leaves.logit_bias), leaves


def sigmoid_row(batch, cosines, positive, _):
    scale, bias = batch.logit_scale.item(), batch.logit_bias.item()
    signed = [(1 if own else -1) * (scale * value + bias) for value, own in zip(cosines, positive, strict=True)]
    return math.fsum(math.log(1 + math.exp(-value)) for value in signed)


def filter_row(batch, cosines, positive, similarity):
    raw = [math.exp(-batch.regulation_strength * value) for value in similarity]
    negatives = [value for value, own in zip(raw, positive, strict=True) if not own]
    mean = math.fsum(negatives) / len(negatives)
    kept = [own or value / mean >= 0.8 for value, own in zip(raw, positive, strict=True)]
    scores = [math.exp(batch.logit_scale.item() * value) * keep for value, keep in zip(cosines, kept, strict=True)]
    own = [score for score, positive in zip(scores, positive, strict=True) if positive]
    return -math.fsum(math.log(score / math.fsum(scores)) for score in own) / len(own)


def separate_row(batch, cosines, positive, _):
    scores = [math.exp(batch.logit_scale.item() * value) for value in cosines]
    others = math.fsum(score for score, own in zip(scores, positive, strict=True) if not own)
    own = [score for score, own in zip(scores, positive, strict=True) if own]
    return -math.fsum(math.log(score / (score + others)) for score in own) / len(own)


ROWS = {"siglip": sigmoid_row, "filter": filter_row, "multi_positive": separate_row}


def reference(name, batch):
    """The loss as a loop over the anchors of both directions."""

    def rows_of(comparison, ours, theirs):
        candidates = torch.cat([getattr(part, theirs) for part in comparison.candidates]).tolist()
        return [
            [cosine(anchor, other) for other in candidates] for anchor in getattr(comparison.anchors, ours).tolist()
        ]

    judge = batch.student if batch.teacher is None else batch.teacher
    ids = [pair_id for part in batch.student.candidates for pair_id in part.pair_ids.tolist()]
    losses = []
    for sides in (("image_embeds", "text_embeds"), ("text_embeds", "image_embeds")):
        rows = zip(
            rows_of(batch.student, *sides),
            rows_of(judge, *sides),
            batch.student.anchors.pair_ids.tolist(),
            strict=True,
        )
        for cosines, similarity, own_id in rows:
            losses.append(ROWS[name](batch, cosines, [pair_id == own_id for pair_id in ids], similarity))
    return math.fsum(losses) / len(losses)


def loss_and_gradients(objective, block_size=None, **options):
    batch, leaves = make(**options)
    loss = objective(batch, block_size).losses["itc_loss"]
    loss.backward()
    return [loss, *(leaf.grad for leaf in vars(leaves).values() if leaf.grad is not None)]


class TestFormulas:
    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize("queued", [0, 6])
    @pytest.mark.parametrize("teacher", [True, False])
    @pytest.mark.parametrize("name", OBJECTIVES)
    def test_loss_is_that_of_the_formula(self, name, teacher, queued, seed):
        batch, _ = make(queued=queued, teacher=teacher, seed=seed)
        assert batch.positive_mask.sum(dim=1).max() > 1
        expected = reference(name, batch)
        assert loss_of(OBJECTIVES[name], batch).item() == pytest.approx(expected, abs=1e-10, rel=0)

    @pytest.mark.parametrize("name", OBJECTIVES)
    def test_gradients_are_the_slopes_of_the_formula(self, name):
        batch, leaves = make()
        loss_of(OBJECTIVES[name], batch).backward()
        check_slopes(leaves, lambda: reference(name, batch))
        assert (leaves.logit_bias.grad is not None) == (name == "siglip")

    @pytest.mark.parametrize("scale", [1.0, 1000.0])
    @pytest.mark.parametrize("name", OBJECTIVES)
    def test_any_temperature_gives_a_finite_loss_and_gradient(self, name, scale):
        batch, leaves = make(dtype=torch.float32)
        with torch.no_grad():
            leaves.logit_scale.fill_(scale)
        loss = loss_of(OBJECTIVES[name], batch)
        loss.backward()
        assert loss.isfinite()
        assert all(leaf.grad.isfinite().all() for leaf in vars(leaves).values() if leaf.grad is not None)

    @pytest.mark.parametrize("name", OBJECTIVES)
    def test_without_a_negative_the_gradient_is_finite(self, name):
        batch, leaves = make(queued=0, teacher=False)
        anchors = batch.student.anchors._replace(pair_ids=torch.zeros(5, dtype=torch.int64))
        loss = loss_of(OBJECTIVES[name], replace(batch, student=Comparison(anchors, (anchors,))))
        loss.backward()
        assert loss.isfinite() and (name != "multi_positive" or loss == 0)
        assert leaves.images.grad.isfinite().all()

    @pytest.mark.parametrize("name", OBJECTIVES)
    def test_garbage_is_not_hidden(self, name):
        batch, leaves = make()
        with torch.no_grad():
            leaves.images[0, 0] = torch.nan
        assert loss_of(OBJECTIVES[name], batch).isnan()

    @pytest.mark.parametrize("loss", [sigmoid_contrastive_loss, separate_positives_contrastive_loss])
    def test_a_mask_of_another_shape_is_refused(self, loss):
        with pytest.raises(ValueError, match=r"`positive_mask`.*\(2, 3\), got \(3, 2\)"):
            loss(torch.zeros(2, 3), torch.zeros(3, 2, dtype=torch.bool))


class TestSigmoid:
    @pytest.mark.parametrize("name", ["siglip", "siglip2"])
    def test_is_the_loss_of_siglip_itself(self, make_trainer, tiny_tokenizer, pairs, name):
        model, processor = make_dual_encoder(name, tiny_tokenizer)
        options = {"processing_class": processor, "data_collator": None}
        trainer = make_trainer(model, objective="siglip", trainer_options=options)
        batch = trainer.eval_collator(list(pairs))
        with torch.no_grad():
            ours = trainer.compute_loss(model.eval(), dict(batch))
            theirs = model(**trainer._model_inputs(batch), return_loss=True).loss
        torch.testing.assert_close(ours, theirs)

    @pytest.mark.parametrize("block_size", [1, 4, 100])
    @pytest.mark.parametrize("queued", [0, 6])
    def test_blocks_change_nothing(self, queued, block_size):
        plain = loss_and_gradients(SigmoidObjective(), queued=queued)
        blocks = loss_and_gradients(SigmoidObjective(), block_size, queued=queued)
        assert len(plain) == 5
        for ours, theirs in zip(blocks, plain, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)

    def test_in_blocks_the_matrix_is_never_held(self):
        batch, _ = make(batch_size=128, queued=512, dim=4, dtype=torch.float32)
        with LargestTensor() as largest:
            SigmoidObjective()(batch, block_size=32).losses["itc_loss"].backward()
        assert largest.size == 128 * 5 or largest.size <= 640 * 5 < 128 * 640

    @pytest.mark.parametrize("model_class", [SaclModel, SaclForPreTraining])
    def test_a_sacl_model_learns_its_bias(self, make_trainer, without_dropout, model_class):
        without_dropout.logit_bias_init_value = -10.0
        trainer = make_trainer(model_class(without_dropout), **CONTRAST, objective="siglip", warmup_steps=0)
        trainer.train()
        bias = parameter_named(trainer.model, "logit_bias")
        assert bias.item() != -10.0
        logged = [entry["logit_bias"] for entry in trainer.state.log_history if "logit_bias" in entry]
        assert logged[0] == pytest.approx(-10.0) and len(logged) == 2

    def test_the_bias_of_a_sacl_model_moves_its_logits_and_is_saved(self, without_dropout, batch, tmp_path):
        without_dropout.logit_bias_init_value = -10
        model = SaclModel(without_dropout).eval()
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "pixel_values")}
        outputs = model(**inputs)
        cosines = outputs.image_embeds @ outputs.text_embeds.T
        torch.testing.assert_close(outputs.logits_per_image, cosines * model.logit_scale.exp() - 10)
        with torch.no_grad():
            model.logit_bias.fill_(-3.5)
        model.save_pretrained(tmp_path)
        assert SaclModel.from_pretrained(tmp_path).logit_bias.item() == -3.5

    def test_a_model_without_a_bias_is_refused(self, make_trainer, make_model):
        with pytest.raises(ValueError, match="'siglip'.*`SaclModel` has no parameter `logit_bias`.*logit_bias_init"):
            make_trainer(make_model(SaclModel), **CONTRAST, objective="siglip").train()

    def test_a_batch_without_a_bias_is_refused(self):
        with pytest.raises(ValueError, match="`siglip` learns a bias"):
            SigmoidObjective()(make_batch()[0])

    def test_chunks_have_the_gradient_of_the_batch_down_to_the_bias(self, make_trainer, without_dropout, pairs):
        without_dropout.logit_bias_init_value = -2.0
        results = []
        for chunk_size in (None, 5):
            torch.manual_seed(0)
            model = SaclModel(without_dropout).double()
            options = {"contrastive_chunk_size": chunk_size, "per_device_train_batch_size": 12, **CONTRAST}
            trainer = make_trainer(model, objective="siglip", **options)
            trainer.create_optimizer()
            trainer.current_gradient_accumulation_steps = 1
            inputs = trainer.data_collator(list(pairs))
            inputs["pixel_values"] = inputs["pixel_values"].double()
            loss = trainer.training_step(model, inputs)
            results.append({"loss": loss, **{k: p.grad for k, p in model.named_parameters() if p.grad is not None}})
        whole, chunked = results
        assert whole.keys() == chunked.keys() and whole["logit_bias"].abs() > 1e-3
        for key, tensor in whole.items():
            torch.testing.assert_close(chunked[key], tensor, atol=1e-8, rtol=0, msg=key)


class TestFilter:
    @pytest.mark.parametrize("block_size", [None, 4])
    @pytest.mark.parametrize("teacher", [True, False])
    def test_is_sacl_with_a_threshold(self, teacher, block_size):
        ours = loss_and_gradients(FilterObjective(0.8), block_size, teacher=teacher)
        theirs = loss_and_gradients(SaclObjective(filter_threshold=0.8), block_size, teacher=teacher)
        assert all(torch.equal(left, right) for left, right in zip(ours, theirs, strict=True))

    def test_threshold_comes_from_the_arguments(self, make_arguments):
        for threshold, expected in ((None, 0.3), (0.7, 0.7)):
            arguments = make_arguments(objective="filter", filter_threshold=threshold)
            settings = FilterObjective.from_arguments(arguments).get_config_dict()
            assert settings["filter_threshold"] == expected

    def test_trains_as_sacl_with_a_threshold(self, make_trainer, make_model):
        losses = []
        for name in ("filter", "sacl"):
            options = {"filter_threshold": 0.9, "regulation_strength": 3.0, "regulation_warmup": 0}
            trainer = make_trainer(make_model(SaclModel), **CONTRAST, objective=name, **options)
            trainer.train()
            losses.append([entry["itc_loss"] for entry in trainer.state.log_history if "itc_loss" in entry])
        assert losses[0] == losses[1] and "filtered_negatives" in trainer.state.log_history[0]


class TestMultiPositive:
    @pytest.mark.parametrize("queued", [0, 6])
    def test_is_infonce_where_every_pair_occurs_once(self, queued):
        batch, _ = make(queued=queued)
        ids = torch.arange(5 + queued).split([5, queued] if queued else [5])
        parts = tuple(part._replace(pair_ids=own) for part, own in zip(batch.student.candidates, ids, strict=True))
        batch = replace(batch, student=Comparison(parts[0], parts))
        torch.testing.assert_close(loss_of(MultiPositiveObjective(), batch), loss_of(InfoNCEObjective(), batch))

    def test_positives_do_not_compete(self):
        """Two texts of one image, found with certainty but not equally: infonce still pulls, this does not."""
        angles = torch.tensor([0.0, 0.0, 3.0], dtype=torch.float64)
        other = angles + torch.tensor([0.0, 0.5, 0.0])
        image_embeds, text_embeds = (torch.stack([a.cos(), a.sin()], dim=1) for a in (angles, other))
        anchors = PairFeatures(image_embeds, text_embeds, torch.tensor([0, 0, 1]))
        batch = replace(make()[0], student=Comparison(anchors, (anchors,)), logit_scale=torch.tensor(50.0))
        assert loss_of(MultiPositiveObjective(), batch) < 1e-10
        assert loss_of(InfoNCEObjective(), batch) > math.log(2) / 2

    def test_trains_and_evaluates(self, make_trainer, make_model, pairs):
        losses = []
        for chunk_size in (None, 4):
            trainer = make_trainer(
                make_model(SaclModel),
                **CONTRAST,
                objective="multi_positive",
                queue_size=7,
                contrastive_chunk_size=chunk_size,
                trainer_options={"eval_dataset": pairs},
            )
            trainer.train()
            losses.append([entry["itc_loss"] for entry in trainer.state.log_history if "itc_loss" in entry])
            assert trainer.state.log_history[0]["positives"] == 1
            assert math.isfinite(trainer.evaluate()["eval_loss"])
        assert losses[0] == pytest.approx(losses[1], abs=1e-5) and len(losses[0]) == 2
