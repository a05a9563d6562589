# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The graded objective, and regulation above a quantile, against loops that do as their formulas say."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from trainer import SaclTrainingArguments
from trainer.objectives import Comparison, ContrastiveBatch, GradedObjective, InfoNCEObjective, SaclObjective
from trainer.queue import PairFeatures


PAIR_IDS = torch.tensor([3, 5, 3, 8, 9, 2])


def features(seed: int, pair_ids: torch.Tensor = PAIR_IDS, dim: int = 7) -> PairFeatures:
    generator = torch.Generator().manual_seed(seed)
    images, texts = torch.randn(2, len(pair_ids), dim, generator=generator, dtype=torch.float64)
    return PairFeatures(normalize(images, dim=-1), normalize(texts, dim=-1), pair_ids)


def a_batch(strength: float = 2.0, guided: bool = True, queued: bool = False) -> ContrastiveBatch:
    student, guide = features(0), features(1)
    queue = torch.tensor([5, 11, 12])
    return ContrastiveBatch(
        student=Comparison(student, (student, features(2, queue)) if queued else (student,)),
        logit_scale=torch.tensor(9.0, dtype=torch.float64),
        guide=Comparison(guide, (guide, features(3, queue)) if queued else (guide,)) if guided else None,
        guide_share=1.0 if guided else 0.0,
        regulation_strength=strength,
    )


def graded_reference(batch: ContrastiveBatch, temperature: float, target_temperature: float) -> float:
    """The second contrast alone, one anchor, one negative at a time."""
    total = 0.0
    for direction in (0, 1):
        cosines = batch.student.logits()[direction]
        similarity = (batch.student if batch.guide is None else batch.guide).logits()[direction]
        for anchor in range(len(cosines)):
            negatives = [place for place in range(cosines.shape[1]) if not batch.positive_mask[anchor, place]]
            targets = [math.exp(float(similarity[anchor, place]) / target_temperature) for place in negatives]
            scores = [math.exp(float(cosines[anchor, place]) / temperature) for place in negatives]
            for target, score in zip(targets, scores, strict=True):
                total -= target / sum(targets) * math.log(score / sum(scores)) / len(cosines)
    return total / 2


class TestGraded:
    @pytest.mark.parametrize("queued", [False, True])
    @pytest.mark.parametrize("guided", [False, True])
    def test_is_sacl_and_a_second_contrast(self, guided, queued):
        batch = a_batch(guided=guided, queued=queued)
        objective = GradedObjective(weight=2.5, graded_temperature=0.2, target_temperature=0.3)
        expected = SaclObjective()(batch).losses["itc_loss"] + 2.5 * graded_reference(batch, 0.2, 0.3)
        torch.testing.assert_close(objective(batch).losses["itc_loss"], expected, rtol=1e-10, atol=1e-10)

    def test_without_weight_it_is_sacl_and_without_strength_infonce(self):
        loss = GradedObjective(weight=0.0)(a_batch()).losses["itc_loss"]
        torch.testing.assert_close(loss, SaclObjective()(a_batch()).losses["itc_loss"], rtol=0, atol=0)
        loss = GradedObjective(weight=0.0)(a_batch(strength=0.0)).losses["itc_loss"]
        torch.testing.assert_close(loss, InfoNCEObjective()(a_batch()).losses["itc_loss"])

    def test_a_positive_has_no_part_in_the_second_contrast(self):
        batch = a_batch(strength=0.0)
        for targets in GradedObjective().get_graded_targets(batch):
            assert (targets[batch.positive_mask] == 0).all()
            torch.testing.assert_close(targets.sum(dim=-1), torch.ones(len(PAIR_IDS), dtype=torch.float64))

    def test_without_negatives_it_adds_nothing(self):
        alone = features(0, torch.tensor([4, 4]))
        batch = ContrastiveBatch(Comparison(alone, (alone,)), torch.tensor(9.0), regulation_strength=2.0)
        loss = GradedObjective(weight=5.0)(batch).losses["itc_loss"]
        torch.testing.assert_close(loss, SaclObjective()(batch).losses["itc_loss"])

    def test_nan_is_seen(self):
        batch = a_batch()
        batch.guide.anchors.image_embeds[2, 1] = torch.nan
        assert GradedObjective()(batch).losses["itc_loss"].isnan()

    def test_targets_have_no_gradient_and_the_temperature_none_from_the_second_contrast(self):
        batch = a_batch(guided=False)
        images = batch.student.anchors.image_embeds.clone().requires_grad_()
        scale = batch.logit_scale.clone().requires_grad_()
        anchors = PairFeatures(images, *batch.student.anchors[1:])
        live = ContrastiveBatch(Comparison(anchors, (anchors,)), scale, regulation_strength=1.0)
        assert all(not targets.requires_grad for targets in GradedObjective().get_graded_targets(live))
        plain = torch.autograd.grad(SaclObjective()(live).losses["itc_loss"], [scale])[0]
        torch.testing.assert_close(torch.autograd.grad(GradedObjective()(live).losses["itc_loss"], [scale])[0], plain)

    @pytest.mark.parametrize("setting", [{"weight": -1.0}, {"graded_temperature": 0.0}, {"target_temperature": 0.0}])
    def test_impossible_settings_are_refused(self, setting):
        with pytest.raises(ValueError, match=next(iter(setting))):
            GradedObjective(**setting)


class TestQuantile:
    @pytest.mark.parametrize("quantile", [0.25, 0.6, 0.9])
    def test_only_what_is_above_is_regulated(self, quantile):
        batch = a_batch(strength=3.0, queued=True)
        found = SaclObjective(quantile=quantile).get_log_weights(batch)
        for weights, similarity in zip(found, batch.similarity, strict=True):
            for anchor, row in enumerate(similarity):
                negatives = [place for place in range(len(row)) if not batch.positive_mask[anchor, place]]
                values = sorted(float(row[place]) for place in negatives)
                position = quantile * (len(values) - 1)
                low = math.floor(position)
                floor = values[low] + (position - low) * (values[min(low + 1, len(values) - 1)] - values[low])
                raw = [math.exp(-3.0 * max(float(row[place]), floor)) for place in negatives]
                mean = sum(raw) / len(raw)
                for place, weight in zip(negatives, raw, strict=True):
                    assert weights[anchor, place].exp().item() == pytest.approx(weight / mean, rel=1e-10)

    def test_an_anchor_of_positives_only_has_no_weights(self):
        alone = features(0, torch.tensor([4, 4]))
        batch = ContrastiveBatch(Comparison(alone, (alone,)), torch.tensor(9.0), regulation_strength=2.0)
        assert all((weights == 0).all() for weights in SaclObjective(quantile=0.5).get_log_weights(batch))

    def test_nan_is_seen(self):
        student = features(0)
        student.image_embeds[1, 2] = torch.nan
        batch = ContrastiveBatch(Comparison(student, (student,)), torch.tensor(9.0), regulation_strength=2.0)
        assert SaclObjective(quantile=0.5)(batch).losses["itc_loss"].isnan()

    @pytest.mark.parametrize("quantile", [0.0, 1.0, -0.5])
    def test_impossible_quantiles_are_refused(self, quantile, tmp_path):
        with pytest.raises(ValueError, match="quantile"):
            SaclObjective(quantile=quantile)
        with pytest.raises(ValueError, match="regulation_quantile"):
            SaclTrainingArguments(output_dir=str(tmp_path), regulation_quantile=quantile)
