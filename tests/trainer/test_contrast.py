# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""What an objective is told of a batch. (Batches of several processes are those of `test_distributed.py`.)"""

import math

import pytest
import torch
from torch import nn

from trainer.contrast import GlobalBatch, guide_features_of, logit_bias_of, logit_scale_of, normalized, parameter_named
from trainer.objectives import ContrastiveBatch
from trainer.queue import FeatureQueue


@pytest.fixture
def inputs():
    return {"pair_ids": torch.tensor([3, 5, 8])}


@pytest.fixture
def outputs():
    names = ("image_embeds", "text_embeds", "view_image_embeds", "view_text_embeds")
    return {name: torch.randn(3, 4, generator=torch.Generator().manual_seed(len(name))) for name in names}


class TestGlobalBatch:
    @pytest.mark.parametrize("local", [True, False])
    def test_a_process_alone_has_all(self, inputs, outputs, local):
        batch = GlobalBatch(inputs, local)
        own = batch.pairs(outputs)
        assert torch.allclose(own.image_embeds.norm(dim=-1), torch.ones(3))
        comparison = batch.compare(own)
        assert comparison.anchors == comparison.candidates[0] == own
        assert batch.counts == [3] and batch.share() == 1.0

    def test_a_queue_comes_behind_the_batch_once_it_is_filled(self, inputs, outputs):
        batch, queue = GlobalBatch(inputs, local=True), FeatureQueue(2)
        assert len(batch.compare(batch.pairs(outputs), queue).candidates) == 1
        queue.enqueue(*batch.pairs(outputs))
        comparison = batch.compare(batch.pairs(outputs), queue)
        assert comparison.candidate_pair_ids.tolist() == [3, 5, 8, 5, 8]

    def test_terms_see_views_and_the_past_but_no_queue(self, inputs, outputs):
        batch, queue = GlobalBatch(inputs, local=True), FeatureQueue(2)
        queue.enqueue(*batch.pairs(outputs))
        seen = ContrastiveBatch(student=batch.compare(batch.pairs(outputs), queue), logit_scale=torch.ones(()))
        past = {name: -embeds for name, embeds in outputs.items()}
        terms = batch.for_terms(seen, outputs, past)
        assert len(terms.student.candidates) == 1 and terms.mixture is None
        assert torch.equal(terms.reference.anchors.text_embeds, -terms.student.anchors.text_embeds)
        assert torch.equal(terms.views[0].image_embeds, normalized(outputs, "view_")[0])
        plain = batch.for_terms(seen, {name: outputs[name] for name in ("image_embeds", "text_embeds")}, None)
        assert plain.views is plain.reference is None

    def test_a_guide_of_one_modality_stands_for_both(self, inputs):
        embeds = torch.randn(3, 2)
        features = guide_features_of({**inputs, "guide_text_embeds": embeds})
        assert features.image_embeds is features.text_embeds is embeds
        assert guide_features_of(inputs) is None


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Module()
        self.inner.logit_scale = nn.Parameter(torch.tensor(2.0))


class TestScalars:
    def test_what_is_returned_comes_before_the_parameter(self):
        model = Model()
        assert logit_scale_of(model, {}).item() == pytest.approx(math.exp(2.0))
        assert logit_scale_of(model, {"logit_scale": torch.tensor([7.0])}).item() == 7.0
        assert logit_bias_of(model, {"logit_bias": torch.tensor([-3.0])}, "siglip").item() == -3.0
        assert parameter_named(model, "logit_scale") is model.inner.logit_scale

    def test_a_model_without_either_is_named(self):
        with pytest.raises(ValueError, match="`Linear` has no parameter `logit_scale`"):
            logit_scale_of(nn.Linear(1, 1), {})
        with pytest.raises(ValueError, match="'siglip' learns a bias.*`Model` has no parameter `logit_bias`"):
            logit_bias_of(Model(), {}, "siglip")
