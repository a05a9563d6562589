# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The streamed loss is the plain loss: same value, same gradients, whatever the tiles, and never the whole matrix."""

import itertools
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.dynamic_module_utils import check_imports, get_relative_imports

from modeling_sacl import similarity_regulated_contrastive_loss
from modeling_sacl.loss_sacl import (
    contrastive_logits,
    filter_log_weights,
    find_positives,
    log_regulation_weights,
    mix_similarities,
    weighted_contrastive_loss,
)
from modeling_sacl.streamed_loss_sacl import (
    streamed_contrastive_loss,
    streamed_similarity_regulated_contrastive_loss,
)

from .common import run_examples


THOROUGH = settings(deadline=None, max_examples=60, derandomize=True, database=None)
LOW_PRECISION = [torch.float16, torch.bfloat16]
BLOCK_SIZES = [1, 3, 7, 1000]


# ------------------------------------------------------------------------------------------------------------ inputs


def unit(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1).to(dtype)


BATCH, QUEUE, DIM, TEACHER_DIM, GUIDE_DIM = 8, 7, 6, 5, 4
IDS, STRANGERS = torch.arange(BATCH), torch.arange(100, 100 + QUEUE)
DUPLICATES = torch.tensor([3, 7, 3, 9, 7, 3, 1, 0])
# The queue repeats the pairs 7 and 0 of the batch.
REPEATS = torch.tensor([7, 11, 7, 12, 0, 13, 14])
TEACHER = {
    "similarity_anchor_embeds": unit(BATCH, TEACHER_DIM, seed=4),
    "similarity_candidate_embeds": (unit(BATCH, TEACHER_DIM, seed=5), unit(QUEUE, TEACHER_DIM, seed=6)),
}
GUIDE = {
    "guide_anchor_embeds": unit(BATCH, GUIDE_DIM, seed=8),
    "guide_candidate_embeds": (unit(BATCH, GUIDE_DIM, seed=9), unit(QUEUE, GUIDE_DIM, seed=10)),
}

CASES = {
    "infonce": {},
    "half": {"strength": 0.5},
    "sacl": {"strength": 1.0},
    "strong": {"strength": 3.0},
    "as_strong_as_the_scale": {"strength": 9.0},
    "duplicates": {"pair_ids": DUPLICATES, "candidate_pair_ids": torch.cat([DUPLICATES, STRANGERS]), "strength": 1.0},
    "queue_repeats": {"pair_ids": DUPLICATES, "candidate_pair_ids": torch.cat([DUPLICATES, REPEATS])},
    "queue_repeats_regulated": {
        "pair_ids": DUPLICATES,
        "candidate_pair_ids": torch.cat([DUPLICATES, REPEATS]),
        "strength": 3.0,
    },
    "without_positive": {"candidate_pair_ids": torch.cat([IDS[:5] * 2, STRANGERS + 3, IDS[:3]]), "strength": 1.0},
    "teacher": {**TEACHER, "strength": 1.0},
    "teacher_and_repeats": {
        **TEACHER,
        "strength": 3.0,
        "pair_ids": DUPLICATES,
        "candidate_pair_ids": torch.cat([DUPLICATES, REPEATS]),
    },
    "filter": {"strength": 3.0, "filter_threshold": 0.6},
    "filter_and_repeats": {
        "strength": 1.0,
        "filter_threshold": 0.8,
        "pair_ids": DUPLICATES,
        "candidate_pair_ids": torch.cat([DUPLICATES, REPEATS]),
    },
    "filter_by_teacher": {**TEACHER, "strength": 3.0, "filter_threshold": 0.4},
    "distilled": {**TEACHER, "distillation_weight": 0.4},
    "distilled_and_regulated": {**TEACHER, "distillation_weight": 0.4, "strength": 1.0},
    "distilled_and_filtered": {**TEACHER, "distillation_weight": 0.4, "strength": 3.0, "filter_threshold": 0.4},
    "distilled_only": {
        **TEACHER,
        "distillation_weight": 1.0,
        "strength": 0.5,
        "pair_ids": DUPLICATES,
        "candidate_pair_ids": torch.cat([IDS[:4], STRANGERS, REPEATS[:4]]),
    },
    "guide": {**GUIDE, "guide_share": 1.0, "strength": 1.0},
    "mixed": {**GUIDE, "guide_share": 0.3, "strength": 1.0},
    "mixed_with_teacher": {**GUIDE, **TEACHER, "guide_share": 0.3, "strength": 1.0},
    "guide_and_targets": {**GUIDE, **TEACHER, "guide_share": 1.0, "strength": 1.0, "distillation_weight": 0.4},
    "filter_by_guide": {**GUIDE, "guide_share": 1.0, "strength": 3.0, "filter_threshold": 0.4},
    "mixed_and_filtered": {**GUIDE, "guide_share": 0.3, "strength": 3.0, "filter_threshold": 0.4},
}
# Weights from the one, soft targets from the other: every pairing of a guide with a teacher.
TEACHERS = {"alone": {}, "teacher": TEACHER, "distilled": {**TEACHER, "distillation_weight": 0.4}}
WEIGHTS = {
    "infonce": {},
    "sacl": {"strength": 1.0},
    "filter": {"strength": 3.0, "filter_threshold": 0.4},
    "repeats": {"strength": 2.0, "pair_ids": DUPLICATES, "candidate_pair_ids": torch.cat([DUPLICATES, REPEATS])},
}


def arguments(case: dict) -> tuple[dict, list[torch.Tensor]]:
    """Fresh arguments for the streamed loss of a batch and a queue, and those that a gradient is asked for."""
    tensors = [
        unit(BATCH, DIM, seed=0).requires_grad_(),
        unit(BATCH, DIM, seed=1).requires_grad_(),
        unit(QUEUE, DIM, seed=2).requires_grad_(),
        torch.tensor(9.0, dtype=torch.float64, requires_grad=True),
    ]
    named = {"anchor_embeds": tensors[0], "candidate_embeds": tuple(tensors[1:3]), "logit_scale": tensors[3]}
    return {**named, "pair_ids": IDS, "candidate_pair_ids": torch.cat([IDS, STRANGERS]), **case}, tensors


def joined(parts) -> torch.Tensor:
    return parts if torch.is_tensor(parts) else torch.cat(parts)


def plain_loss(
    anchor_embeds,
    candidate_embeds,
    logit_scale,
    *,
    pair_ids,
    candidate_pair_ids,
    strength=0.0,
    similarity_anchor_embeds=None,
    similarity_candidate_embeds=None,
    guide_anchor_embeds=None,
    guide_candidate_embeds=None,
    guide_share=0.0,
    filter_threshold=None,
    distillation_weight=0.0,
    block_size=None,
):
    """The same, from the functions that hold the whole matrix."""
    candidate_embeds = joined(candidate_embeds)
    positives = find_positives(pair_ids, candidate_pair_ids)
    logits = contrastive_logits(anchor_embeds, candidate_embeds, logit_scale)
    if similarity_anchor_embeds is None:
        teacher = contrastive_logits(anchor_embeds.detach(), candidate_embeds.detach())
    else:
        teacher = contrastive_logits(similarity_anchor_embeds, joined(similarity_candidate_embeds))
    similarity = teacher
    if guide_anchor_embeds is not None:
        guide = contrastive_logits(guide_anchor_embeds, joined(guide_candidate_embeds))
        similarity = mix_similarities(guide, teacher, guide_share)
    log_weights = log_regulation_weights(similarity, strength=strength, negative_mask=~positives)
    if filter_threshold is not None:
        log_weights = filter_log_weights(log_weights, filter_threshold)
    soft_targets = None
    if distillation_weight > 0:
        even = positives / positives.sum(dim=-1, keepdim=True).clamp(min=1).to(teacher.dtype)
        distribution = (logit_scale * teacher).detach().softmax(dim=-1)
        soft_targets = distillation_weight * distribution + (1 - distillation_weight) * even
    return weighted_contrastive_loss(logits, positives, log_weights=log_weights, soft_targets=soft_targets)


def assert_equal_losses(case: dict, **options) -> None:
    named, inputs = arguments(case)
    loss = streamed_contrastive_loss(**named, **options)
    gradients = torch.autograd.grad(loss, inputs)
    named, inputs = arguments(case)
    expected = plain_loss(**named)
    expected_gradients = torch.autograd.grad(expected, inputs)
    assert loss.dtype == torch.float64
    assert loss.shape == ()
    assert abs(loss.item() - expected.item()) <= 1e-10
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        assert gradient.shape == expected_gradient.shape
        assert (gradient - expected_gradient).abs().max() <= 1e-10


class TestAgainstThePlainLoss:
    @pytest.mark.parametrize("block_size", BLOCK_SIZES)
    @pytest.mark.parametrize("case", CASES.values(), ids=CASES)
    def test_value_and_gradient(self, case, block_size):
        assert_equal_losses(case, block_size=block_size)

    @pytest.mark.parametrize("block_size", [3, 1000])
    @pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
    @pytest.mark.parametrize("teacher", TEACHERS.values(), ids=TEACHERS)
    @pytest.mark.parametrize("guide_share", [0.0, 0.3, 1.0])
    def test_guide_beside_everything_else(self, guide_share, teacher, weights, block_size):
        assert_equal_losses({**GUIDE, **teacher, **weights, "guide_share": guide_share}, block_size=block_size)

    def test_guide_alone_is_a_similarity(self):
        expected = streamed_contrastive_loss(
            **arguments(
                {
                    "similarity_anchor_embeds": GUIDE["guide_anchor_embeds"],
                    "similarity_candidate_embeds": GUIDE["guide_candidate_embeds"],
                    "strength": 1.0,
                }
            )[0]
        )
        assert torch.equal(streamed_contrastive_loss(**arguments(CASES["guide"])[0]), expected)

    def test_guide_hands_over_to_the_model(self):
        # The paper's schedule ends where the loss without a guide begins.
        named, _ = arguments(CASES["mixed"])
        expected = streamed_contrastive_loss(**arguments(CASES["sacl"])[0]).item()
        distances = [
            abs(streamed_contrastive_loss(**{**named, "guide_share": share}).item() - expected)
            for share in (1.0, 0.5, 1e-3, 0.0)
        ]
        assert distances == sorted(distances, reverse=True)
        assert distances[2] < 1e-3
        assert distances[3] == 0

    def test_cases_differ_from_one_another(self):
        values = {name: streamed_contrastive_loss(**arguments(case)[0]).item() for name, case in CASES.items()}
        for left, right in itertools.combinations(values, 2):
            assert abs(values[left] - values[right]) > 1e-6, (left, right)

    @THOROUGH
    @given(
        num_anchors=st.integers(1, 9),
        lengths=st.lists(st.integers(0, 9), min_size=1, max_size=3),
        num_ids=st.integers(1, 12),
        strength=st.sampled_from([0.0, 0.5, 1.0, 3.0]),
        scale=st.floats(-5, 100),
        by_teacher=st.booleans(),
        guide_share=st.none() | st.sampled_from([0.0, 1.0]) | st.floats(0, 1),
        threshold=st.none() | st.floats(0.1, 0.9),
        distillation_weight=st.floats(0, 1),
        block_size=st.integers(1, 12),
        seed=st.integers(0, 1000),
    )
    def test_any_shapes(
        self,
        num_anchors,
        lengths,
        num_ids,
        strength,
        scale,
        by_teacher,
        guide_share,
        threshold,
        distillation_weight,
        block_size,
        seed,
    ):
        generator = torch.Generator().manual_seed(seed)
        anchors = unit(num_anchors, DIM, seed=seed).requires_grad_()
        parts = [unit(length, DIM, seed=seed + 1 + index).requires_grad_() for index, length in enumerate(lengths)]
        options = {
            "pair_ids": torch.randint(num_ids, (num_anchors,), generator=generator),
            "candidate_pair_ids": torch.randint(num_ids, (sum(lengths),), generator=generator),
            "strength": strength,
            "filter_threshold": threshold,
        }
        if by_teacher:
            options["similarity_anchor_embeds"] = unit(num_anchors, 3, seed=seed + 7)
            options["similarity_candidate_embeds"] = [unit(length, 3, seed=seed + 8 + length) for length in lengths]
            options["distillation_weight"] = distillation_weight
        if guide_share is not None:
            options["guide_anchor_embeds"] = unit(num_anchors, 4, seed=seed + 20)
            options["guide_candidate_embeds"] = [unit(length, 4, seed=seed + 21 + length) for length in lengths]
            options["guide_share"] = guide_share
        scale = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
        inputs = [anchors, scale, *parts]
        loss = streamed_contrastive_loss(anchors, parts, scale, **options, block_size=block_size)
        expected = plain_loss(anchors, parts, scale, **options)
        assert abs(loss.item() - expected.item()) <= 1e-10
        for gradient, expected_gradient in zip(
            torch.autograd.grad(loss, inputs), torch.autograd.grad(expected, inputs), strict=True
        ):
            torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=1e-10)

    @pytest.mark.parametrize("case", ["infonce", "teacher", "filter_by_teacher", "guide", "mixed_with_teacher"])
    def test_gradcheck(self, case):
        # Only where the weights do not depend on what is varied: they carry no gradient, but finite differences do.
        named, inputs = arguments(CASES[case])

        def loss(anchors, batch, queue, scale):
            changed = {"anchor_embeds": anchors, "candidate_embeds": (batch, queue), "logit_scale": scale}
            return streamed_contrastive_loss(**{**named, **changed}, block_size=3)

        assert torch.autograd.gradcheck(loss, inputs)

    @pytest.mark.parametrize("case", ["distilled_and_filtered", "guide_and_targets"])
    def test_gradcheck_distilled(self, case):
        # The teacher's temperature is the model's, without gradient: the scale is not varied.
        named, (anchors, batch, queue, _) = arguments(CASES[case])

        def loss(anchors, batch, queue):
            changed = {"anchor_embeds": anchors, "candidate_embeds": (batch, queue), "logit_scale": 9.0}
            return streamed_contrastive_loss(**{**named, **changed}, block_size=3)

        assert torch.autograd.gradcheck(loss, (anchors, batch, queue))

    @pytest.mark.parametrize("case", ["sacl", "teacher", "distilled_and_filtered", "guide_and_targets", "mixed"])
    def test_one_tensor_or_several(self, case):
        named, _ = arguments(CASES[case])
        expected = streamed_contrastive_loss(**named)
        for name in ("candidate_embeds", "similarity_candidate_embeds", "guide_candidate_embeds"):
            if name in named:
                named[name] = torch.cat(named[name])
        assert abs(streamed_contrastive_loss(**named).item() - expected.item()) <= 1e-12

    def test_gradient_is_scaled_by_what_follows(self):
        named, inputs = arguments(CASES["sacl"])
        gradients = torch.autograd.grad(-3 * streamed_contrastive_loss(**named), inputs)
        expected = torch.autograd.grad(streamed_contrastive_loss(**named), inputs)
        for gradient, expected_gradient in zip(gradients, expected, strict=True):
            torch.testing.assert_close(gradient, -3 * expected_gradient, rtol=0, atol=1e-12)

    def test_logit_scale_of_any_kind(self):
        named, _ = arguments(CASES["sacl"])
        expected = streamed_contrastive_loss(**named)
        assert torch.equal(streamed_contrastive_loss(**{**named, "logit_scale": 9.0}), expected)
        scale = torch.tensor([9.0], requires_grad=True)
        streamed_contrastive_loss(**{**named, "logit_scale": scale}).backward()
        assert scale.grad.shape == (1,)
        assert scale.grad.dtype == torch.float32


def both_ways(**case) -> dict:
    return {"image_embeds": unit(BATCH, DIM), "text_embeds": unit(BATCH, DIM, seed=1), "logit_scale": 9.0, **case}


CANDIDATES = {
    "pair_ids": DUPLICATES,
    "candidate_pair_ids": torch.cat([DUPLICATES, REPEATS]),
    "candidate_image_embeds": (unit(BATCH, DIM), unit(QUEUE, DIM, seed=2)),
    "candidate_text_embeds": (unit(BATCH, DIM, seed=1), unit(QUEUE, DIM, seed=3)),
}
SIMILAR = {
    "similarity_image_embeds": unit(BATCH, TEACHER_DIM, seed=4),
    "similarity_text_embeds": unit(BATCH, TEACHER_DIM, seed=5),
}
SIMILAR_CANDIDATES = {
    "similarity_candidate_image_embeds": (SIMILAR["similarity_image_embeds"], unit(QUEUE, TEACHER_DIM, seed=6)),
    "similarity_candidate_text_embeds": (SIMILAR["similarity_text_embeds"], unit(QUEUE, TEACHER_DIM, seed=7)),
}
GUIDED = {
    "guide_image_embeds": unit(BATCH, GUIDE_DIM, seed=8),
    "guide_text_embeds": unit(BATCH, GUIDE_DIM, seed=9),
}
GUIDED_CANDIDATES = {
    "guide_candidate_image_embeds": (GUIDED["guide_image_embeds"], unit(QUEUE, GUIDE_DIM, seed=10)),
    "guide_candidate_text_embeds": (GUIDED["guide_text_embeds"], unit(QUEUE, GUIDE_DIM, seed=11)),
}
BOTH_WAYS = {
    "batch": {},
    "infonce": {"strength": 0.0},
    "duplicates": {"pair_ids": DUPLICATES},
    "filter": {"strength": 3.0, "filter_threshold": 0.6},
    "similarity": SIMILAR,
    "queue": CANDIDATES,
    "queue_and_similarity": {**CANDIDATES, **SIMILAR, **SIMILAR_CANDIDATES},
    "distilled": {**CANDIDATES, **SIMILAR, **SIMILAR_CANDIDATES, "distillation_weight": 0.4},
    "guide": {**GUIDED, "guide_share": 1.0},
    "mixed": {**GUIDED, "guide_share": 0.3},
    "guide_without_share": {**GUIDED, **SIMILAR},
    "queue_and_guide": {**CANDIDATES, **GUIDED, **GUIDED_CANDIDATES, "guide_share": 0.3},
    "queue_guide_and_targets": {
        **CANDIDATES,
        **SIMILAR,
        **SIMILAR_CANDIDATES,
        **GUIDED,
        **GUIDED_CANDIDATES,
        "guide_share": 0.3,
        "distillation_weight": 0.4,
    },
}


def both_cosines(images, texts, candidate_images, candidate_texts) -> tuple[torch.Tensor, torch.Tensor]:
    """Image to text and text to image; the candidates are the batch where there are no others."""
    candidate_images = images if candidate_images is None else joined(candidate_images)
    candidate_texts = texts if candidate_texts is None else joined(candidate_texts)
    return contrastive_logits(images, candidate_texts), contrastive_logits(texts, candidate_images)


class TestBothDirections:
    @pytest.mark.parametrize("case", BOTH_WAYS.values(), ids=BOTH_WAYS)
    def test_equals_the_plain_loss(self, case):
        options = dict(case)
        names = "image_embeds", "text_embeds", "candidate_image_embeds", "candidate_text_embeds"
        similar, guided = ([options.pop(f"{kind}_{name}", None) for name in names] for kind in ("similarity", "guide"))
        share, guide_share = options.pop("distillation_weight", 0.0), options.pop("guide_share", 0.0)
        for name in ("candidate_image_embeds", "candidate_text_embeds"):
            if name in options:
                options[name] = torch.cat(options[name])
        own = both_ways(**options)
        teacher = both_cosines(*(own.get(name) for name in names) if similar[0] is None else similar)
        if similar[0] is not None:
            options["similarity"] = teacher
        if guided[0] is not None:
            options["similarity"] = tuple(
                mix_similarities(guide, model, guide_share)
                for guide, model in zip(both_cosines(*guided), teacher, strict=True)
            )
        if share > 0:
            positives = find_positives(options["pair_ids"], options["candidate_pair_ids"]).double()
            options["soft_targets"] = tuple(
                share * (9.0 * cosines).softmax(-1) + (1 - share) * positives / positives.sum(-1, keepdim=True)
                for cosines in teacher
            )
        expected = similarity_regulated_contrastive_loss(**both_ways(**options))
        loss = streamed_similarity_regulated_contrastive_loss(**both_ways(**case), block_size=3)
        assert abs(loss.item() - expected.item()) <= 1e-10

    def test_gradient_equals_the_plain_losses(self):
        # The batch is anchor and candidate at once.
        results = []
        for function in (streamed_similarity_regulated_contrastive_loss, similarity_regulated_contrastive_loss):
            images, texts = unit(BATCH, DIM).requires_grad_(), unit(BATCH, DIM, seed=1).requires_grad_()
            scale = torch.tensor(9.0, dtype=torch.float64, requires_grad=True)
            loss = function(images, texts, scale, pair_ids=DUPLICATES)
            results.append(torch.autograd.grad(loss, (images, texts, scale)))
        for gradient, expected in zip(*results, strict=True):
            torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-9)


class Watch(TorchDispatchMode):
    """Notes which operations run and how many numbers the largest result holds."""

    def __init__(self):
        super().__init__()
        self.calls: dict[str, int] = {}
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        self.calls[name] = self.calls.get(name, 0) + 1
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if torch.is_tensor(tensor):
                self.largest = max(self.largest, tensor.numel())
        return out


class TestWork:
    """Linear memory, and nothing computed that nobody asked for."""

    @pytest.mark.parametrize("case", CASES.values(), ids=CASES)
    def test_no_matrix_of_anchors_and_candidates(self, case):
        named, inputs = arguments(case)
        with Watch() as watch:
            torch.autograd.grad(streamed_contrastive_loss(**named, block_size=2), inputs)
        assert watch.largest <= max(BATCH, QUEUE) * DIM < BATCH * QUEUE
        assert watch.calls["mm"] > 0

    def watch(self, block_size: int = 1000, without_gradient: tuple[int, ...] = (), **case) -> dict[str, int]:
        named, inputs = arguments(case)
        for index in without_gradient:
            inputs[index].requires_grad_(False)
        with Watch() as watch:
            loss = streamed_contrastive_loss(**named, block_size=block_size)
            if loss.requires_grad:
                loss.backward()
        assert [tensor.grad is None for tensor in inputs] == [index in without_gradient for index in range(4)]
        return watch.calls

    def test_a_queue_without_gradient_takes_no_work_for_it(self):
        # One tile each for the batch and the queue; anchors take a product for each, candidates one of their own.
        assert self.watch()["addmm_"] == 4
        assert self.watch(without_gradient=(2,))["addmm_"] == 3
        assert self.watch(without_gradient=(1, 2))["addmm_"] == 2

    def test_gradients_that_are_not_asked_for(self):
        # The scale's gradient comes out of the anchors'.
        assert self.watch(without_gradient=(0,))["addmm_"] == 4
        assert self.watch(without_gradient=(0, 3))["addmm_"] == 2
        assert "addmm_" not in self.watch(without_gradient=(0, 1, 2, 3))

    def test_products_of_the_options(self):
        # Two tiles, in forward and in backward; one product more for a teacher, one pass more to prepare.
        assert self.watch()["mm"] == 4
        assert self.watch(strength=1.0)["mm"] == 4
        assert self.watch(**TEACHER)["mm"] == 4
        assert self.watch(**TEACHER, strength=1.0)["mm"] == 8
        assert self.watch(strength=1.0, filter_threshold=0.5)["mm"] == 6
        assert self.watch(**TEACHER, distillation_weight=0.5)["mm"] == 10

    def test_products_of_a_guide(self):
        # A guide that says it all makes the teacher's product needless; without a share or weights it is needless.
        regulated, shared = {**GUIDE, "strength": 1.0}, {**GUIDE, "strength": 1.0, "guide_share": 0.3}
        alone, filtered = {**regulated, "guide_share": 1.0}, {"filter_threshold": 0.5}
        for useless, expected in (
            (regulated, {"strength": 1.0}),
            ({**TEACHER, **regulated}, {**TEACHER, "strength": 1.0}),
            ({**shared, "strength": 0.0}, {}),
        ):
            assert {**self.watch(**useless), "detach": 0} == {**self.watch(**expected), "detach": 0}
        assert self.watch(**alone)["mm"] == self.watch(**TEACHER, **alone)["mm"] == 8
        assert "logaddexp" in self.watch(**shared)
        assert self.watch(**shared)["mm"] == 8
        assert self.watch(**TEACHER, **shared)["mm"] == 12
        # To prepare, only what the similarity is made of: the guide's; the guide's and the model's.
        assert self.watch(**alone, **filtered)["mm"] == 10
        assert self.watch(**shared, **filtered)["mm"] == 12
        assert self.watch(**TEACHER, **alone, distillation_weight=0.5)["mm"] == 16
        assert self.watch(**TEACHER, **{**alone, "strength": 0.0}, distillation_weight=0.5)["mm"] == 10

    def test_infonce_does_not_pay_for_weights(self):
        assert self.watch()["exp_"] < self.watch(strength=1.0)["exp_"]

    def test_only_tiles_with_positives_are_masked(self):
        # 8 x 8 and 8 x 7 in blocks of 2: 4 x 4 and 4 x 4 tiles, of which the diagonal of the first holds positives.
        assert self.watch(block_size=2)["masked_fill_"] == 4


class TestPrecision:
    @pytest.mark.parametrize("dtype", LOW_PRECISION)
    @pytest.mark.parametrize(
        "case", ["infonce", "sacl", "filter", "teacher", "distilled_and_filtered", "mixed", "guide_and_targets"]
    )
    def test_half_precision_is_computed_in_full(self, dtype, case):
        def run(cast):
            named, _ = arguments(CASES[case])
            for name in ("anchor_embeds", "similarity_anchor_embeds", "guide_anchor_embeds"):
                if name in named:
                    named[name] = named[name].detach().to(dtype).to(cast).requires_grad_()
            for name in ("candidate_embeds", "similarity_candidate_embeds", "guide_candidate_embeds"):
                if name in named:
                    named[name] = [part.detach().to(dtype).to(cast).requires_grad_() for part in named[name]]
            named["logit_scale"] = torch.tensor(1000.0, dtype=torch.float32, requires_grad=True)
            loss = streamed_contrastive_loss(**named, block_size=3)
            loss.backward()
            return loss, [named["anchor_embeds"].grad, *(part.grad for part in named["candidate_embeds"])]

        (loss, gradients), (expected, expected_gradients) = run(dtype), run(torch.float32)
        assert loss.dtype == torch.float32
        assert torch.equal(loss, expected)
        for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
            assert gradient.dtype == dtype
            assert gradient.isfinite().all()
            assert torch.equal(gradient, expected_gradient.to(dtype))

    @pytest.mark.parametrize("dtype", LOW_PRECISION)
    @pytest.mark.parametrize("embeds_dtype", [torch.float32, *LOW_PRECISION])
    @pytest.mark.parametrize("guide_share", [0.0, 0.3])
    def test_autocast_does_not_lower_the_precision(self, dtype, embeds_dtype, guide_share):
        images = unit(8, DIM, dtype=embeds_dtype).requires_grad_()
        texts = unit(8, DIM, seed=1, dtype=embeds_dtype).requires_grad_()

        def run():
            guide = {"guide_image_embeds": texts, "guide_text_embeds": images, "guide_share": guide_share}
            loss = streamed_similarity_regulated_contrastive_loss(images, texts, 1000.0, **guide, block_size=3)
            return loss, *torch.autograd.grad(loss, (images, texts))

        expected = run()
        with torch.autocast("cpu", dtype=dtype):
            actual = run()
        for left, right in zip(actual, expected, strict=True):
            assert torch.equal(left, right)

    def test_queue_in_half_precision(self):
        named, _ = arguments(CASES["sacl"])
        batch, queue = named["candidate_embeds"]
        queue = queue.detach().half()
        loss = streamed_contrastive_loss(**{**named, "candidate_embeds": (batch, queue)})
        expected = streamed_contrastive_loss(**{**named, "candidate_embeds": (batch, queue.double())})
        assert loss.dtype == torch.float64
        assert torch.equal(loss, expected)

    @pytest.mark.parametrize("dtype", LOW_PRECISION)
    def test_half_precision_scale(self, dtype):
        named, _ = arguments(CASES["sacl"])
        scale = torch.tensor(1000.0, dtype=dtype, requires_grad=True)
        streamed_contrastive_loss(**{**named, "logit_scale": scale}).backward()
        assert scale.grad.dtype == dtype
        assert scale.grad.isfinite()

    @pytest.mark.parametrize("strength", [0.0, 1.0])
    def test_small_loss_keeps_its_digits(self, strength):
        # At convergence the loss is far smaller than the logits, of which it is a difference.
        images = torch.eye(64).requires_grad_()
        options = {"pair_ids": torch.arange(64), "candidate_pair_ids": torch.arange(64), "strength": strength}
        loss = streamed_contrastive_loss(images, torch.eye(64), 20.0, **options, block_size=16)
        expected = plain_loss(images.double(), torch.eye(64).double(), 20.0, **options)
        assert 0 < expected.item() < 1e-6
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)

    @pytest.mark.parametrize("case", ["sacl", "filter", "distilled", "guide_and_targets"])
    def test_huge_scores_do_not_overflow(self, case):
        named, inputs = arguments(CASES[case])
        named["logit_scale"] = 1e6
        loss = streamed_contrastive_loss(**named, block_size=3)
        assert loss.item() == pytest.approx(plain_loss(**named).item(), rel=1e-12)
        for gradient in torch.autograd.grad(loss, inputs[:3]):
            assert gradient.isfinite().all()


class TestEdgeCases:
    @pytest.mark.parametrize("option", [{}, {"strength": 0.0}, {"strength": 3.0, "filter_threshold": 0.5}])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_one_pair_has_loss_and_gradient_zero(self, option, dtype):
        images, texts = unit(1, DIM, dtype=dtype).requires_grad_(), unit(1, DIM, seed=1, dtype=dtype).requires_grad_()
        scale = torch.tensor(10.0, requires_grad=True)
        loss = streamed_similarity_regulated_contrastive_loss(images, texts, scale, **option)
        loss.backward()
        assert loss.item() == 0
        for tensor in (images, texts, scale):
            assert tensor.grad.count_nonzero() == 0

    @pytest.mark.parametrize("block_size", BLOCK_SIZES)
    @pytest.mark.parametrize("option", [{}, {"filter_threshold": 0.5}, {**TEACHER, "distillation_weight": 0.3}])
    def test_anchor_without_negatives_beside_others(self, option, block_size):
        pair_ids = torch.tensor([1] * 7 + [2])
        assert_equal_losses(
            {**option, "pair_ids": pair_ids, "candidate_pair_ids": torch.ones(15).long(), "strength": 1.0},
            block_size=block_size,
        )

    def test_anchor_without_positive_gets_no_gradient(self):
        named, (anchors, *_) = arguments({"candidate_pair_ids": torch.cat([IDS[:6], IDS[:2] + 50, STRANGERS])})
        streamed_contrastive_loss(**named, block_size=3).backward()
        assert anchors.grad[6:].count_nonzero() == 0
        assert (anchors.grad[:6].abs().sum(dim=1) > 0).all()

    @pytest.mark.parametrize("option", [{}, {"strength": 1.0}, {**TEACHER, "strength": 1, "distillation_weight": 0.5}])
    def test_no_positive_at_all_gives_zero_that_can_be_differentiated(self, option):
        named, inputs = arguments({**option, "pair_ids": IDS + 1000})
        loss = streamed_contrastive_loss(**named)
        loss.backward()
        assert loss.item() == 0
        assert all(tensor.grad.count_nonzero() == 0 for tensor in inputs)

    def test_empty_parts(self):
        named, _ = arguments(CASES["mixed"])
        expected = streamed_contrastive_loss(**named)
        for name in ("candidate_embeds", "guide_candidate_embeds"):
            batch, queue = named[name]
            named[name] = (batch[:0], batch, batch[:0], queue)
        assert torch.equal(streamed_contrastive_loss(**named), expected)

    def test_no_candidates(self):
        named, _ = arguments({"candidate_embeds": unit(0, DIM), "candidate_pair_ids": IDS[:0], "strength": 1.0})
        loss = streamed_contrastive_loss(**named)
        loss.backward()
        assert loss.item() == 0

    def test_embeddings_need_not_be_contiguous(self):
        named, (anchors, batch, queue, _) = arguments(CASES["sacl"])
        expected = torch.autograd.grad(streamed_contrastive_loss(**named), (anchors, batch))
        strided = [tensor.detach().T.contiguous().T.requires_grad_() for tensor in (anchors, batch)]
        named.update(anchor_embeds=strided[0], candidate_embeds=(strided[1], queue))
        for gradient, expected_gradient in zip(
            torch.autograd.grad(streamed_contrastive_loss(**named), strided), expected, strict=True
        ):
            torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=1e-12)

    def test_ids_of_different_integers(self):
        named, _ = arguments(CASES["sacl"])
        expected = streamed_contrastive_loss(**named)
        assert torch.equal(streamed_contrastive_loss(**{**named, "pair_ids": IDS.int()}), expected)

    @pytest.mark.parametrize("case", CASES.values(), ids=CASES)
    @pytest.mark.parametrize("which", range(4))
    @pytest.mark.parametrize("block_size", [3, 1000])
    def test_nan_in_is_nan_out(self, case, which, block_size):
        named, inputs = arguments(case)
        with torch.no_grad():
            inputs[which].view(-1)[-1] = torch.nan
        assert streamed_contrastive_loss(**named, block_size=block_size).isnan()

    @pytest.mark.parametrize("case", ["teacher", "filter_by_teacher", "distilled", "distilled_and_filtered"])
    def test_nan_similarity_is_nan_out(self, case):
        named, _ = arguments(CASES[case])
        broken = named["similarity_anchor_embeds"].clone()
        broken[3, 2] = torch.nan
        assert streamed_contrastive_loss(**{**named, "similarity_anchor_embeds": broken}, block_size=3).isnan()

    @pytest.mark.parametrize("case", ["guide", "mixed", "guide_and_targets", "filter_by_guide", "mixed_and_filtered"])
    @pytest.mark.parametrize("name", ["guide_anchor_embeds", "guide_candidate_embeds"])
    def test_nan_guide_is_nan_out(self, case, name):
        named, _ = arguments(CASES[case])
        broken = joined(named[name]).clone()
        broken[3, 2] = torch.nan
        named[name] = broken if name == "guide_anchor_embeds" else broken.split([BATCH, QUEUE])
        assert streamed_contrastive_loss(**named, block_size=3).isnan()
        # But not where nobody looks at it.
        assert streamed_contrastive_loss(**{**named, "guide_share": 0.0}, block_size=3).isfinite()

    @pytest.mark.parametrize("strength", [0.0, 1.0])
    def test_nan_is_not_hidden_in_an_anchor_that_is_left_out(self, strength):
        named, (anchors, *_) = arguments({"pair_ids": IDS + 7, "strength": strength})
        assert streamed_contrastive_loss(**named).isfinite()
        with torch.no_grad():
            anchors[-1, 0] = torch.nan
        assert streamed_contrastive_loss(**named).isnan()


class TestGradient:
    def test_no_gradient_reaches_the_similarity(self):
        named, _ = arguments(CASES["distilled_and_regulated"])
        similar = [named["similarity_anchor_embeds"], *named["similarity_candidate_embeds"]]
        similar = [tensor.clone().requires_grad_() for tensor in similar]
        named.update(similarity_anchor_embeds=similar[0], similarity_candidate_embeds=similar[1:])
        streamed_contrastive_loss(**named).backward()
        assert all(tensor.grad is None for tensor in similar)
        named.update(logit_scale=9.0, anchor_embeds=unit(BATCH, DIM), candidate_embeds=unit(BATCH + QUEUE, DIM))
        named["similarity_candidate_embeds"] = torch.cat(similar[1:])
        assert not streamed_contrastive_loss(**named).requires_grad

    @pytest.mark.parametrize("case", ["guide", "mixed", "mixed_with_teacher", "guide_and_targets"])
    def test_no_gradient_reaches_the_guide(self, case):
        named, inputs = arguments(CASES[case])
        expected = torch.autograd.grad(streamed_contrastive_loss(**named), inputs)
        guide = [named["guide_anchor_embeds"], *named["guide_candidate_embeds"]]
        guide = [tensor.clone().requires_grad_() for tensor in guide]
        named.update(guide_anchor_embeds=guide[0], guide_candidate_embeds=guide[1:])
        streamed_contrastive_loss(**named).backward()
        assert all(tensor.grad is None for tensor in guide)
        assert all(torch.equal(tensor.grad, gradient) for tensor, gradient in zip(inputs, expected, strict=True))
        for tensor in inputs:
            tensor.requires_grad_(False)
        assert not streamed_contrastive_loss(**named).requires_grad

    def test_model_that_is_its_own_guide_gets_no_gradient_for_it(self):
        named, (anchors, *parts, _) = arguments({"strength": 1.0})
        expected = torch.autograd.grad(streamed_contrastive_loss(**named), anchors)
        named.update(guide_anchor_embeds=anchors, guide_candidate_embeds=parts, guide_share=0.5)
        torch.testing.assert_close(torch.autograd.grad(streamed_contrastive_loss(**named), anchors), expected)

    def test_differentiable_once(self):
        named, (anchors, *_) = arguments(CASES["sacl"])
        with pytest.raises(RuntimeError, match="differentiable once: with `create_graph=True`, take the plain loss"):
            torch.autograd.grad(streamed_contrastive_loss(**named), anchors, create_graph=True)

    def test_queue_that_changes_before_backward_is_noticed(self):
        # Backward reads the queue once more: enqueueing in between would give a wrong gradient.
        named, _ = arguments(CASES["sacl"])
        queue = named["candidate_embeds"][1].detach().clone()
        loss = streamed_contrastive_loss(**{**named, "candidate_embeds": (named["candidate_embeds"][0], queue)})
        queue[0] = 0
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()

    def test_without_gradient(self):
        named, _ = arguments(CASES["sacl"])
        expected = streamed_contrastive_loss(**named)
        with torch.no_grad():
            loss = streamed_contrastive_loss(**named)
        assert not loss.requires_grad
        assert torch.equal(loss, expected)


def call(**changes):
    return streamed_contrastive_loss(**arguments(changes)[0])


def both(**changes):
    return streamed_similarity_regulated_contrastive_loss(**both_ways(**changes))


WRONG = {
    "anchors_three_dimensions": (lambda: call(anchor_embeds=unit(8, 1, 6)), r"`anchor_embeds`.*\(8, 1, 6\)"),
    "anchors_integers": (lambda: call(anchor_embeds=torch.ones(8, 6).int()), "`anchor_embeds`.*torch.int32"),
    "candidates_vector": (lambda: call(candidate_embeds=(unit(8, 6), unit(7))), r"`candidate_embeds`.*\(7,\)"),
    "candidates_none": (lambda: call(candidate_embeds=()), "`candidate_embeds` must.*got none"),
    "candidates_width": (lambda: call(candidate_embeds=unit(15, 4)), "got 6 and 4"),
    "ids_length": (lambda: call(pair_ids=torch.arange(4)), r"`pair_ids`.*\(8,\), got shape \(4,\)"),
    "ids_floating": (lambda: call(pair_ids=torch.arange(8.0)), "`pair_ids`.*torch.float32"),
    "candidate_ids_length": (lambda: call(candidate_pair_ids=IDS), r"`candidate_pair_ids`.*\(15,\), got shape \(8,\)"),
    "candidate_ids_scalar": (lambda: call(candidate_pair_ids=torch.tensor(1)), r"got shape \(\)"),
    "scale": (lambda: call(logit_scale=torch.ones(2)), r"`logit_scale` must be one number, got shape \(2,\)"),
    "similarity_of_anchors_only": (lambda: call(similarity_anchor_embeds=unit(8, 5)), "go together"),
    "similarity_width": (
        lambda: call(similarity_anchor_embeds=unit(8, 5), similarity_candidate_embeds=(unit(8, 4), unit(7, 4))),
        "`similarity_anchor_embeds` and `similarity_candidate_embeds`.*got 5 and 4",
    ),
    "similarity_of_other_anchors": (
        lambda: call(**{**TEACHER, "similarity_anchor_embeds": unit(3, 5)}),
        r"expected 8 and \[8, 7\], got 3 and \[8, 7\]",
    ),
    "similarity_in_other_tensors": (
        lambda: call(**{**TEACHER, "similarity_candidate_embeds": unit(15, 5)}),
        r"expected 8 and \[8, 7\], got 8 and \[15\]",
    ),
    "guide_of_anchors_only": (
        lambda: call(guide_anchor_embeds=unit(8, 4)),
        "`guide_anchor_embeds` and `guide_candidate_embeds` go together",
    ),
    "guide_width": (
        lambda: call(**{**GUIDE, "guide_anchor_embeds": unit(8, 5)}),
        "`guide_anchor_embeds` and `guide_candidate_embeds`.*got 5 and 4",
    ),
    "guide_integers": (
        lambda: call(**{**GUIDE, "guide_anchor_embeds": torch.ones(8, 4).int()}),
        "`guide_anchor_embeds`.*torch.int32",
    ),
    "guide_none": (lambda: call(**{**GUIDE, "guide_candidate_embeds": ()}), "`guide_candidate_embeds` must.*got none"),
    "guide_of_other_candidates": (
        lambda: call(**{**GUIDE, "guide_candidate_embeds": (unit(8, 4), unit(6, 4))}),
        r"The guide embeddings.*expected 8 and \[8, 7\], got 8 and \[8, 6\]",
    ),
    "guide_share_large": (lambda: call(**GUIDE, guide_share=1.5), r"`guide_share`.*\[0, 1\].*1.5"),
    "guide_share_negative": (lambda: call(**GUIDE, guide_share=-0.1), r"`guide_share`.*\[0, 1\].*-0.1"),
    "guide_share_nan": (lambda: call(**GUIDE, guide_share=math.nan), "`guide_share`.*nan"),
    "guide_share_without_guide": (
        lambda: call(strength=1.0, guide_share=0.5),
        "`guide_share=0.5`.*guide: give its embeddings as `guide_anchor_embeds`",
    ),
    "guide_share_without_guide_or_strength": (lambda: call(guide_share=0.5), "`guide_share=0.5`"),
    "strength_negative": (lambda: call(strength=-0.5), "`strength`.*-0.5"),
    "strength_nan": (lambda: call(strength=math.nan), "`strength`.*nan"),
    "threshold": (lambda: call(filter_threshold=1.5), r"`filter_threshold`.*\(0, 1\).*1.5"),
    "distillation_large": (lambda: call(**TEACHER, distillation_weight=1.5), r"`distillation_weight`.*\[0, 1\].*1.5"),
    "distillation_nan": (lambda: call(**TEACHER, distillation_weight=math.nan), "`distillation_weight`.*nan"),
    "distillation_without_teacher": (lambda: call(distillation_weight=0.5), "`distillation_weight=0.5`.*teacher"),
    "block_size": (lambda: call(block_size=0), "`block_size` must be at least 1, got 0"),
    "empty_batch": (lambda: both(image_embeds=unit(0, 6), text_embeds=unit(0, 6)), r"\(0, 6\) and \(0, 6\)"),
    "unequal_batches": (lambda: both(text_embeds=unit(4, 6)), r"\(8, 6\) and \(4, 6\)"),
    "candidates_without_ids": (
        lambda: both(candidate_image_embeds=unit(9, 6), candidate_text_embeds=unit(9, 6)),
        "`candidate_pair_ids` and `pair_ids` go together",
    ),
    "candidates_of_unnamed_pairs": (lambda: both(**{**CANDIDATES, "pair_ids": None}), "`pair_ids` go together"),
    "ids_without_candidates": (lambda: both(pair_ids=IDS, candidate_pair_ids=IDS), "go together"),
    "similarity_of_images_only": (
        lambda: both(similarity_image_embeds=unit(8, 5)),
        "`similarity_image_embeds` and `similarity_text_embeds`",
    ),
    "similarity_without_candidates": (lambda: both(**CANDIDATES, **SIMILAR), "with candidates"),
    "similarity_of_no_candidates": (lambda: both(**SIMILAR, **SIMILAR_CANDIDATES), "more than the batch"),
    "guide_of_images_only": (
        lambda: both(guide_image_embeds=unit(8, 4), guide_share=0.5),
        "`guide_image_embeds` and `guide_text_embeds`",
    ),
    "guide_without_candidates": (lambda: both(**CANDIDATES, **GUIDED, guide_share=0.5), "The guide.*with candidates"),
    "guide_of_no_candidates": (
        lambda: both(**GUIDED, **GUIDED_CANDIDATES),
        "`guide_candidate_image_embeds`.*more than the batch",
    ),
    "no_guide_but_a_share": (lambda: both(guide_share=0.5), "`guide_share=0.5`"),
}


class TestErrors:
    @pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
    def test_names_the_value(self, wrong):
        function, message = wrong
        with pytest.raises(ValueError, match=message):
            function()

    @pytest.mark.parametrize("function", [streamed_contrastive_loss, streamed_similarity_regulated_contrastive_loss])
    def test_options_are_keywords_only(self, function):
        with pytest.raises(TypeError):
            function(unit(2, 3), unit(2, 3), 1.0, 0.5)
        with pytest.raises(TypeError, match="strenght"):
            function(unit(2, 3), unit(2, 3), 1.0, strenght=1.0)


class TestFile:
    @pytest.mark.parametrize("function", [streamed_contrastive_loss, streamed_similarity_regulated_contrastive_loss])
    def test_example_runs(self, function):
        assert run_examples(function) > 2

    def test_travels_with_a_checkpoint(self, tmp_path):
        # As remote code: flat siblings, nothing but torch, and no package around them.
        source = Path(sys.modules[streamed_contrastive_loss.__module__].__file__)
        assert get_relative_imports(source) == ["loss_sacl"]
        assert check_imports(source) == ["loss_sacl"]
        folder = tmp_path / "remote"
        folder.mkdir()
        for name in ("streamed_loss_sacl.py", "loss_sacl.py"):
            (folder / name).write_text((source.parent / name).read_text())
        code = "import remote.streamed_loss_sacl, sys; assert 'modeling_sacl' not in sys.modules"
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, stdin=subprocess.DEVNULL)
