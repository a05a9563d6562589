# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The loss against the paper's equations, written a second time as slowly and plainly as they are printed."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, normalize

from modeling_sacl import regulation_weights, similarity_regulated_contrastive_loss
from modeling_sacl.loss_sacl import (
    contrastive_logits,
    filter_log_weights,
    find_positives,
    log_regulation_weights,
    mix_similarities,
    weighted_contrastive_loss,
)

from .common import run_examples


THOROUGH = settings(deadline=None, max_examples=60, derandomize=True, database=None)
LOW_PRECISION = [torch.float16, torch.bfloat16]


# ------------------------------------------------------------------------------- the equations, one number at a time


def slow_weights(cosines: list[float], positives: list[bool], strength: float) -> list[float]:
    """`w_ij = Norm(exp(cos_ij) ** -strength)` for one anchor: mean 1 over the negatives."""
    negatives = [j for j, positive in enumerate(positives) if not positive]
    raw = {j: math.exp(cosines[j]) ** -strength for j in negatives}
    mean = sum(raw.values()) / len(raw) if raw else 1.0
    return [raw[j] / mean if j in raw else 0.0 for j in range(len(cosines))]


def slow_direction(anchors, candidates, scale, ids, candidate_ids, strength, cosines, threshold, soft):
    """
    Mean over the anchors that have a positive of

        L_i = - sum_p  1 / |P_i| * log( f_ip / ( sum_p f_ip + sum_n w_in f_in ) ),    f_ij = exp(scale * a_i . c_j)

    or, with soft targets, of `- sum_j target_ij log( w_ij f_ij / ... )`, the weight of a positive being 1.
    """
    losses = []
    for i in range(len(anchors)):
        dots = [sum(anchors[i, k] * candidates[j, k] for k in range(len(anchors[i]))) for j in range(len(candidates))]
        positives = [int(candidate_ids[j]) == int(ids[i]) for j in range(len(candidates))]
        if not any(positives):
            continue
        # The weights are plain numbers: nothing can flow back through them.
        own = [dot.item() for dot in dots] if cosines is None else [float(cosines[i, j]) for j in range(len(dots))]
        weights = slow_weights(own, positives, strength)
        if threshold is not None:
            weights = [0.0 if weight < threshold else 1.0 for weight in weights]
        weights = [1.0 if positive else weight for positive, weight in zip(positives, weights, strict=True)]
        masses = [weight * torch.exp(scale * dot) for weight, dot in zip(weights, dots, strict=True)]
        total = sum(masses)
        if soft is None:
            targets = [float(positive) / sum(positives) for positive in positives]
        else:
            targets = [float(soft[i, j]) for j in range(len(dots))]
        terms = [
            -target * torch.log(mass / total)
            for target, mass, weight in zip(targets, masses, weights, strict=True)
            if target > 0 and weight > 0
        ]
        losses.append(sum(terms))
    return sum(losses) / len(losses) if losses else torch.zeros((), dtype=torch.float64)


def slow_loss(
    image_embeds,
    text_embeds,
    logit_scale,
    *,
    strength=1.0,
    similarity=None,
    pair_ids=None,
    candidate_image_embeds=None,
    candidate_text_embeds=None,
    candidate_pair_ids=None,
    filter_threshold=None,
    soft_targets=(None, None),
):
    ids = list(range(len(image_embeds))) if pair_ids is None else pair_ids
    candidate_ids = ids if candidate_pair_ids is None else candidate_pair_ids
    candidate_images = image_embeds if candidate_image_embeds is None else candidate_image_embeds
    candidate_texts = text_embeds if candidate_text_embeds is None else candidate_text_embeds
    if similarity is None:
        similarity = (None, None)
    elif not isinstance(similarity, tuple):
        similarity = (similarity, similarity.T)
    rest = (logit_scale, ids, candidate_ids, strength)
    image_to_text = slow_direction(
        image_embeds, candidate_texts, *rest, similarity[0], filter_threshold, soft_targets[0]
    )
    text_to_image = slow_direction(
        text_embeds, candidate_images, *rest, similarity[1], filter_threshold, soft_targets[1]
    )
    return (image_to_text + text_to_image) / 2


# ------------------------------------------------------------------------------------------------------------ inputs


def unit(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1).to(dtype)


def cosines(*shape: int, seed: int = 0) -> torch.Tensor:
    return 2 * torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 1


BATCH, DIM, QUEUE = 5, 6, 4
DUPLICATES = torch.tensor([3, 7, 3, 9, 7])
# The queue repeats the pair 7 of the batch, and holds the strangers 11 and 12.
QUEUE_IDS = torch.tensor([7, 11, 7, 12])


def with_queue(pair_ids: torch.Tensor) -> dict:
    """The candidates of a batch: itself, then a queue."""
    return {
        "pair_ids": pair_ids,
        "candidate_pair_ids": torch.cat([pair_ids, QUEUE_IDS]),
        "candidate_image_embeds": torch.cat([unit(BATCH, DIM, seed=0), unit(QUEUE, DIM, seed=2)]),
        "candidate_text_embeds": torch.cat([unit(BATCH, DIM, seed=1), unit(QUEUE, DIM, seed=3)]),
    }


def soft(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(cosines(*shape, seed=seed).mul(3).softmax(-1) for seed in (4, 5))


CASES = {
    "plain": {},
    "weaker": {"strength": 0.5},
    "stronger": {"strength": 3.0},
    "infonce": {"strength": 0.0},
    "given_similarity": {"similarity": cosines(BATCH, BATCH)},
    "given_similarity_both_ways": {"similarity": (cosines(BATCH, BATCH), cosines(BATCH, BATCH, seed=1))},
    "duplicates": {"pair_ids": DUPLICATES},
    "duplicates_and_similarity": {"pair_ids": DUPLICATES, "similarity": cosines(BATCH, BATCH), "strength": 3.0},
    "queue": with_queue(torch.arange(BATCH)),
    "queue_with_repetitions": {**with_queue(DUPLICATES), "strength": 2.0},
    "queue_and_similarity": {
        **with_queue(DUPLICATES),
        "similarity": (cosines(BATCH, BATCH + QUEUE), cosines(BATCH, BATCH + QUEUE, seed=1)),
    },
    "anchors_without_positive": {
        **with_queue(torch.arange(BATCH)),
        "candidate_pair_ids": torch.tensor([0, 20, 2, 21, 22, 23, 24, 2, 25]),
    },
    "filter": {"strength": 3.0, "filter_threshold": 0.5},
    "filter_with_queue": {**with_queue(DUPLICATES), "strength": 2.0, "filter_threshold": 0.7},
    "soft_targets": {"soft_targets": soft(BATCH, BATCH)},
    "soft_targets_with_queue": {**with_queue(DUPLICATES), "soft_targets": soft(BATCH, BATCH + QUEUE)},
    "soft_targets_and_filter": {"soft_targets": soft(BATCH, BATCH), "strength": 3.0, "filter_threshold": 0.5},
}


def leaves(case: dict) -> tuple[dict, list[torch.Tensor]]:
    """Fresh arguments for the loss, and those of them that a gradient can be asked for."""
    arguments = {
        "image_embeds": unit(BATCH, DIM, seed=0),
        "text_embeds": unit(BATCH, DIM, seed=1),
        "logit_scale": torch.tensor(1 / 0.07, dtype=torch.float64),
    }
    arguments.update({name: value.clone() if torch.is_tensor(value) else value for name, value in case.items()})
    differentiable = [
        value.requires_grad_()
        for name, value in arguments.items()
        if torch.is_tensor(value) and value.is_floating_point() and name != "similarity"
    ]
    return arguments, differentiable


class TestAgainstTheEquations:
    @pytest.mark.parametrize("case", CASES.values(), ids=CASES)
    def test_value_and_gradient(self, case):
        arguments, inputs = leaves(case)
        loss = similarity_regulated_contrastive_loss(**arguments)
        gradients = torch.autograd.grad(loss, inputs)
        slow_arguments, slow_inputs = leaves(case)
        expected = slow_loss(**slow_arguments)
        expected_gradients = torch.autograd.grad(expected, slow_inputs)

        assert loss.dtype == torch.float64
        assert loss.shape == ()
        assert abs(loss.item() - expected.item()) <= 1e-10
        assert len(gradients) >= 3
        for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
            assert (gradient - expected_gradient).abs().max() <= 1e-9

    def test_cases_differ_from_one_another(self):
        # Else an option could be without effect in both implementations.
        values = {
            name: similarity_regulated_contrastive_loss(**leaves(case)[0]).item() for name, case in CASES.items()
        }
        for left, right in itertools.combinations(values, 2):
            assert abs(values[left] - values[right]) > 1e-6, (left, right)

    def test_logit_scale_may_be_a_number(self):
        arguments, _ = leaves({})
        number = {**arguments, "logit_scale": 1 / 0.07}
        assert torch.equal(
            similarity_regulated_contrastive_loss(**number), similarity_regulated_contrastive_loss(**arguments)
        )

    @pytest.mark.parametrize("strength", [0.5, 1.0, 3.0])
    def test_weights(self, strength):
        similarity, mask = cosines(4, 7), cosines(4, 7, seed=1) > -0.3
        weights = regulation_weights(similarity, strength=strength, negative_mask=mask)
        for row in range(4):
            expected = slow_weights(similarity[row].tolist(), (~mask[row]).tolist(), strength)
            assert weights[row].tolist() == pytest.approx(expected, abs=1e-12)

    def test_removal_is_the_limit_of_strength(self):
        similarity = torch.tensor([[0.9, 0.5, -0.5, 0.4]], dtype=torch.float64)
        weights = regulation_weights(similarity, strength=1000.0)
        assert weights.tolist() == [pytest.approx([0.0, 0.0, 3.0, 0.0], abs=1e-12)]


class TestInfoNCE:
    """Strength 0 is InfoNCE to the last bit, whatever else is regulated nearby."""

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_strength_zero_equals_cross_entropy(self, dtype):
        for seed in range(5):
            images, texts = unit(16, 8, seed=seed, dtype=dtype), unit(16, 8, seed=seed + 100, dtype=dtype)
            scale = torch.tensor(1 / 0.07, dtype=dtype)
            labels = torch.arange(16)
            expected = [
                cross_entropy(scale * (a @ b.T), labels, reduction="none").sum() / 16
                for a, b in ((images, texts), (texts, images))
            ]
            loss = similarity_regulated_contrastive_loss(images, texts, scale, strength=0.0)
            assert loss.dtype == dtype
            assert torch.equal(loss, (expected[0] + expected[1]) / 2)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_gradient_at_strength_zero_equals_cross_entropy(self, dtype):
        images, texts = unit(16, 8, dtype=dtype).requires_grad_(), unit(16, 8, seed=1, dtype=dtype).requires_grad_()
        logits = 10.0 * (images @ texts.T)
        labels = torch.arange(16)
        expected = (cross_entropy(logits, labels) + cross_entropy(logits.T, labels)) / 2
        loss = similarity_regulated_contrastive_loss(images, texts, 10.0, strength=0.0)
        for left, right in zip(
            torch.autograd.grad(loss, (images, texts)), torch.autograd.grad(expected, (images, texts)), strict=True
        ):
            torch.testing.assert_close(left, right, rtol=0, atol=1e-6 if dtype == torch.float32 else 1e-14)

    def test_similarity_has_no_part_in_it(self):
        arguments, _ = leaves({"strength": 0.0})
        assert torch.equal(
            similarity_regulated_contrastive_loss(**arguments),
            similarity_regulated_contrastive_loss(**arguments, similarity=cosines(BATCH, BATCH)),
        )

    def test_equal_similarities_are_infonce_too(self):
        arguments, _ = leaves({})
        regulated = similarity_regulated_contrastive_loss(
            **arguments, similarity=torch.full((BATCH, BATCH), 0.3).double()
        )
        plain = similarity_regulated_contrastive_loss(**arguments, strength=0.0)
        assert abs(regulated.item() - plain.item()) <= 1e-12

    def test_random_embeddings_cost_the_logarithm_of_the_batch(self):
        images = torch.ones(32, 4, dtype=torch.float64) / 2
        loss = similarity_regulated_contrastive_loss(images, images, 1 / 0.07)
        assert loss.item() == pytest.approx(math.log(32), abs=1e-12)


@st.composite
def weighted_rows(draw):
    """Similarities, a mask of negatives, and a strength."""
    rows, columns = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    values = draw(st.lists(st.floats(-1, 1), min_size=rows * columns, max_size=rows * columns))
    negatives = draw(st.lists(st.booleans(), min_size=rows * columns, max_size=rows * columns))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    similarity = torch.tensor(values, dtype=torch.float64).reshape(rows, columns).to(dtype)
    return similarity, torch.tensor(negatives).reshape(rows, columns), draw(st.floats(0, 10))


class TestWeightProperties:
    @THOROUGH
    @given(weighted_rows())
    def test_mean_over_negatives_is_one_and_zero_elsewhere(self, rows):
        similarity, negatives, strength = rows
        weights = regulation_weights(similarity, strength=strength, negative_mask=negatives)
        tolerance = 1e-5 if similarity.dtype == torch.float32 else 1e-12
        assert weights.dtype == similarity.dtype
        assert weights.isfinite().all()
        assert (weights[~negatives] == 0).all()
        assert (weights[negatives] > 0).all()
        for row in range(len(similarity)):
            if negatives[row].any():
                assert weights[row][negatives[row]].mean().item() == pytest.approx(1, abs=tolerance)

    @THOROUGH
    @given(weighted_rows())
    def test_falls_strictly_with_similarity(self, rows):
        similarity, negatives, strength = rows
        strength += 0.1
        weights = regulation_weights(similarity, strength=strength, negative_mask=negatives)
        for row in range(len(similarity)):
            for left, right in itertools.permutations(range(similarity.shape[1]), 2):
                if negatives[row, left] and negatives[row, right]:
                    if similarity[row, left] < similarity[row, right] - 1e-4:
                        assert weights[row, left] > weights[row, right]
                    if similarity[row, left] == similarity[row, right]:
                        assert weights[row, left] == weights[row, right]

    @THOROUGH
    @given(weighted_rows())
    def test_strength_zero_is_one_at_every_negative(self, rows):
        similarity, negatives, _ = rows
        weights = regulation_weights(similarity, strength=0.0, negative_mask=negatives)
        assert torch.equal(weights, negatives.to(weights.dtype))

    @THOROUGH
    @given(weighted_rows())
    def test_logarithm_is_zero_at_the_positives(self, rows):
        similarity, negatives, strength = rows
        log_weights = log_regulation_weights(similarity, strength=strength, negative_mask=negatives)
        assert (log_weights[~negatives] == 0).all()
        weights = regulation_weights(similarity, strength=strength, negative_mask=negatives)
        assert torch.equal(log_weights.exp()[negatives], weights[negatives])

    @THOROUGH
    @given(st.integers(2, 7), st.integers(0, 1000), st.floats(0, 5))
    def test_permutation_of_the_pairs_permutes_the_weights(self, size, seed, strength):
        similarity = cosines(size, size, seed=seed)
        order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
        weights = regulation_weights(similarity, strength=strength)
        permuted = regulation_weights(similarity[order][:, order], strength=strength)
        torch.testing.assert_close(permuted, weights[order][:, order], rtol=0, atol=1e-12)

    @THOROUGH
    @given(st.integers(2, 7), st.integers(0, 1000), st.floats(0, 5))
    def test_shift_of_a_row_changes_nothing(self, size, seed, strength):
        # The scale of the printed formula cancels: `delta * s` weighs like `s`.
        similarity = cosines(size, size, seed=seed)
        torch.testing.assert_close(
            regulation_weights(similarity, strength=strength),
            regulation_weights(similarity + cosines(size, 1, seed=seed + 1), strength=strength),
            rtol=0,
            atol=1e-11,
        )

    def test_default_mask_is_everything_but_the_diagonal(self):
        for shape in ((4, 4), (3, 6)):
            similarity = cosines(*shape)
            mask = ~torch.eye(*shape, dtype=torch.bool)
            assert torch.equal(regulation_weights(similarity), regulation_weights(similarity, negative_mask=mask))

    def test_row_without_negatives_is_zero(self):
        mask = torch.tensor([[False, False, False], [True, False, True]])
        weights = regulation_weights(cosines(2, 3), negative_mask=mask)
        assert weights[0].tolist() == [0, 0, 0]
        assert weights[1].sum().item() == pytest.approx(2)

    @pytest.mark.parametrize("dtype", LOW_PRECISION)
    def test_half_precision_is_computed_in_full(self, dtype):
        similarity = cosines(4, 4).to(dtype)
        weights = regulation_weights(similarity, strength=2.0)
        assert weights.dtype == torch.float32
        assert torch.equal(weights, regulation_weights(similarity.float(), strength=2.0))

    def test_weights_carry_no_gradient(self):
        similarity = cosines(4, 4).requires_grad_()
        assert not regulation_weights(similarity).requires_grad
        assert not log_regulation_weights(similarity).requires_grad


class TestLossProperties:
    @THOROUGH
    @given(st.integers(1, 6), st.integers(0, 1000), st.floats(0, 5))
    def test_no_gradient_flows_through_the_weights(self, size, seed, strength):
        images = unit(size, DIM, seed=seed).requires_grad_()
        texts = unit(size, DIM, seed=seed + 1).requires_grad_()
        frozen = (images @ texts.T).detach().clone()
        own = similarity_regulated_contrastive_loss(images, texts, 8.0, strength=strength)
        given_ones = similarity_regulated_contrastive_loss(images, texts, 8.0, strength=strength, similarity=frozen)
        assert own.item() == pytest.approx(given_ones.item(), abs=1e-12)
        for left, right in zip(
            torch.autograd.grad(own, (images, texts)), torch.autograd.grad(given_ones, (images, texts)), strict=True
        ):
            torch.testing.assert_close(left, right, rtol=0, atol=1e-12)

    def test_no_gradient_reaches_the_given_similarity(self):
        arguments, _ = leaves({})
        similarity = cosines(BATCH, BATCH).requires_grad_()
        similarity_regulated_contrastive_loss(**arguments, similarity=similarity).backward()
        assert similarity.grad is None

    @THOROUGH
    @given(st.integers(1, 7), st.integers(0, 1000), st.floats(0, 5), st.booleans())
    def test_order_of_the_pairs_does_not_matter(self, size, seed, strength, filtered):
        images, texts = unit(size, DIM, seed=seed), unit(size, DIM, seed=seed + 1)
        pair_ids = torch.randint(0, size, (size,), generator=torch.Generator().manual_seed(seed))
        order = torch.randperm(size, generator=torch.Generator().manual_seed(seed + 2))
        options = {"strength": strength, "filter_threshold": 0.5 if filtered else None}
        loss = similarity_regulated_contrastive_loss(images, texts, 8.0, pair_ids=pair_ids, **options)
        permuted = similarity_regulated_contrastive_loss(
            images[order], texts[order], 8.0, pair_ids=pair_ids[order], **options
        )
        assert permuted.item() == pytest.approx(loss.item(), abs=1e-10)

    @THOROUGH
    @given(st.integers(1, 6), st.integers(0, 1000), st.floats(0, 5))
    def test_modalities_are_treated_alike(self, size, seed, strength):
        images, texts = unit(size, DIM, seed=seed), unit(size, DIM, seed=seed + 1)
        loss = similarity_regulated_contrastive_loss(images, texts, 8.0, strength=strength)
        swapped = similarity_regulated_contrastive_loss(texts, images, 8.0, strength=strength)
        assert swapped.item() == pytest.approx(loss.item(), abs=1e-12)

    def test_similar_negative_is_pushed_less(self):
        # Two texts near image 0, one far: the false negative's push shrinks as the strength grows.
        images, texts = unit(4, DIM), unit(4, DIM, seed=1)
        texts[1] = normalize(texts[0] + 0.1 * texts[1], dim=-1)
        pushes = []
        for strength in (0.0, 1.0, 3.0):
            logits = contrastive_logits(images, texts, 8.0).requires_grad_()
            log_weights = log_regulation_weights(texts @ texts.T, strength=strength)
            weighted_contrastive_loss(logits, torch.eye(4, dtype=torch.bool), log_weights=log_weights).backward()
            pushes.append(logits.grad[0, 1].item())
        assert pushes[0] > pushes[1] > pushes[2] > 0


class TestMixedSimilarity:
    """The guide hands over to the model."""

    @THOROUGH
    @given(st.integers(0, 1000), st.floats(0, 1))
    def test_is_the_printed_formula(self, seed, alpha):
        guide, model = cosines(3, 4, seed=seed), cosines(3, 4, seed=seed + 1)
        mixed = mix_similarities(guide, model, alpha)
        expected = (alpha * guide.exp() + (1 - alpha) * model.exp()).log()
        torch.testing.assert_close(mixed, expected, rtol=0, atol=1e-12)
        assert (mixed >= torch.minimum(guide, model) - 1e-12).all()
        assert (mixed <= torch.maximum(guide, model) + 1e-12).all()

    def test_ends_are_one_of_the_two(self):
        guide, model = cosines(3, 4), torch.full((3, 4), torch.nan).double()
        assert torch.equal(mix_similarities(guide, model, 1.0), guide)
        assert torch.equal(mix_similarities(model, guide, 0.0), guide)

    def test_carries_no_gradient(self):
        guide, model = cosines(3, 4).requires_grad_(), cosines(3, 4).requires_grad_()
        for alpha in (0.0, 0.5, 1.0):
            assert not mix_similarities(guide, model, alpha).requires_grad

    @pytest.mark.parametrize("alpha", [-0.1, 1.1, math.nan])
    def test_share_outside_of_zero_to_one_raises(self, alpha):
        with pytest.raises(ValueError, match=f"`alpha`.*{alpha}"):
            mix_similarities(cosines(2, 2), cosines(2, 2), alpha)


class TestFilter:
    @THOROUGH
    @given(weighted_rows(), st.floats(0.01, 0.99))
    def test_removes_exactly_the_negatives_under_the_threshold(self, rows, threshold):
        similarity, negatives, strength = rows
        log_weights = log_regulation_weights(similarity, strength=strength, negative_mask=negatives)
        weights = regulation_weights(similarity, strength=strength, negative_mask=negatives)
        filtered = filter_log_weights(log_weights, threshold)
        removed = filtered == -torch.inf
        assert (filtered[~removed] == 0).all()
        assert not removed[~negatives].any()
        clear = (weights - threshold).abs() > 1e-5
        assert torch.equal(removed[clear & negatives], (weights < threshold)[clear & negatives])
        # The mean is 1, so that an anchor never loses all of its negatives.
        assert ((negatives & ~removed).any(dim=1) | ~negatives.any(dim=1)).all()

    def test_equals_infonce_on_what_is_left(self):
        images, texts = unit(BATCH, DIM), unit(BATCH, DIM, seed=1)
        similarity = torch.full((BATCH, BATCH), -0.5, dtype=torch.float64)
        similarity[0, 1] = similarity[1, 0] = 0.9
        loss = similarity_regulated_contrastive_loss(
            images, texts, 8.0, similarity=similarity, strength=3.0, filter_threshold=0.3
        )
        removed = torch.zeros(BATCH, BATCH, dtype=torch.bool)
        removed[0, 1] = removed[1, 0] = True
        logits = (8.0 * (images @ texts.T)).masked_fill(removed, -torch.inf)
        labels = torch.arange(BATCH)
        expected = (cross_entropy(logits, labels) + cross_entropy(logits.T, labels)) / 2
        assert loss.item() == pytest.approx(expected.item(), abs=1e-12)

    def test_removed_negative_gets_no_gradient(self):
        logits = cosines(1, 3).requires_grad_()
        positive = torch.tensor([[True, False, False]])
        log_weights = torch.tensor([[0.0, -torch.inf, 0.0]]).double()
        weighted_contrastive_loss(logits, positive, log_weights=log_weights).backward()
        assert logits.grad.isfinite().all()
        assert logits.grad[0, 1] == 0
        assert logits.grad[0, 2] > 0

    def test_positive_is_kept_however_similar(self):
        images = unit(1, DIM).expand(3, DIM).contiguous()
        loss = similarity_regulated_contrastive_loss(
            images, images, 8.0, pair_ids=torch.tensor([1, 1, 2]), strength=5.0, filter_threshold=0.9
        )
        assert loss.item() == pytest.approx(math.log(3), abs=1e-10)


class TestPrecision:
    @pytest.mark.parametrize("dtype", LOW_PRECISION)
    @pytest.mark.parametrize(
        "option", [{}, {"filter_threshold": 0.9}, {"pair_ids": torch.tensor([0, 0, 1, 2, 3, 4, 5, 6])}]
    )
    def test_half_precision_embeddings_at_a_large_scale(self, dtype, option):
        images = unit(8, DIM, dtype=dtype).requires_grad_()
        texts = unit(8, DIM, seed=1, dtype=dtype).requires_grad_()
        scale = torch.tensor(1000.0, requires_grad=True)
        loss = similarity_regulated_contrastive_loss(images, texts, scale, **option)
        loss.backward()
        assert loss.dtype == torch.float32
        for tensor in (loss, images.grad, texts.grad, scale.grad):
            assert tensor.isfinite().all()
        assert images.grad.count_nonzero() > 0
        full = similarity_regulated_contrastive_loss(images.float(), texts.float(), 1000.0, **option)
        assert torch.equal(loss, full)

    @pytest.mark.parametrize("dtype", LOW_PRECISION)
    @pytest.mark.parametrize("embeds_dtype", [torch.float32, *LOW_PRECISION])
    def test_autocast_does_not_lower_the_precision(self, dtype, embeds_dtype):
        images = unit(8, DIM, dtype=embeds_dtype).requires_grad_()
        texts = unit(8, DIM, seed=1, dtype=embeds_dtype).requires_grad_()
        expected = similarity_regulated_contrastive_loss(images, texts, 1000.0)
        expected_gradients = torch.autograd.grad(expected, (images, texts))
        with torch.autocast("cpu", dtype=dtype):
            loss = similarity_regulated_contrastive_loss(images, texts, 1000.0)
        gradients = torch.autograd.grad(loss, (images, texts))
        assert torch.equal(loss, expected)
        for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
            assert gradient.isfinite().all()
            assert torch.equal(gradient, expected_gradient)

    def test_half_precision_scale(self):
        scale = torch.tensor(1000.0, dtype=torch.float16, requires_grad=True)
        loss = similarity_regulated_contrastive_loss(unit(8, DIM).half(), unit(8, DIM, seed=1).half(), scale)
        loss.backward()
        assert loss.dtype == torch.float32
        assert scale.grad.isfinite()

    def test_logits_are_never_in_half_precision(self):
        assert contrastive_logits(unit(2, 3).half(), unit(2, 3).half(), 1000.0).dtype == torch.float32
        assert contrastive_logits(unit(2, 3), unit(2, 3)).dtype == torch.float64


class TestEdgeCases:
    @pytest.mark.parametrize("option", [{}, {"strength": 0.0}, {"filter_threshold": 0.5}])
    def test_one_pair_has_loss_and_gradient_zero(self, option):
        images, texts = unit(1, DIM).requires_grad_(), unit(1, DIM, seed=1).requires_grad_()
        scale = torch.tensor(10.0, requires_grad=True)
        loss = similarity_regulated_contrastive_loss(images, texts, scale, **option)
        loss.backward()
        assert loss.item() == 0
        for tensor in (images, texts, scale):
            assert tensor.grad.count_nonzero() == 0

    def test_batch_of_positives_only(self):
        images, texts = unit(4, DIM).requires_grad_(), unit(4, DIM, seed=1)
        loss = similarity_regulated_contrastive_loss(images, texts, 5.0, pair_ids=torch.zeros(4, dtype=torch.long))
        expected = slow_loss(images, texts, 5.0, pair_ids=[0] * 4)
        assert loss.item() == pytest.approx(expected.item(), abs=1e-12)
        loss.backward()
        assert images.grad.isfinite().all()

    def test_anchor_without_negatives_beside_others(self):
        # Everything is a positive of anchor 0 only if all ids agree, so one direction is asked directly.
        positive = torch.tensor([[True, True], [True, False]])
        logits = cosines(2, 2).requires_grad_()
        weights = log_regulation_weights(cosines(2, 2, seed=1), negative_mask=~positive)
        loss = weighted_contrastive_loss(logits, positive, log_weights=weights)
        loss.backward()
        assert loss.isfinite()
        assert logits.grad.isfinite().all()

    def test_denominator_has_what_it_is_told(self):
        logits = torch.tensor([[2.0, 1.0, 0.5], [0.3, 0.2, 0.1]], requires_grad=True)
        positives = torch.eye(2, 3, dtype=torch.bool)
        counted = torch.tensor([[False, True, True], [False, False, False]])
        loss = weighted_contrastive_loss(logits, positives, denominator_mask=counted)
        expected = -math.log(math.exp(2.0) / (math.exp(1.0) + math.exp(0.5))) / 2
        assert loss.item() == pytest.approx(expected, abs=1e-6)
        loss.backward()
        share = math.exp(1.0) / (math.exp(1.0) + math.exp(0.5))
        torch.testing.assert_close(logits.grad, torch.tensor([[-1.0, share, 1 - share], [0.0, 0.0, 0.0]]) / 2)
        everything = torch.ones_like(counted)
        torch.testing.assert_close(
            weighted_contrastive_loss(logits, positives, denominator_mask=everything),
            weighted_contrastive_loss(logits, positives),
        )

    def test_anchor_without_positive_is_left_out(self):
        logits, positive = cosines(3, 4), torch.eye(3, 4, dtype=torch.bool)
        positive[1] = False
        loss = weighted_contrastive_loss(logits, positive)
        kept = torch.tensor([0, 2])
        assert loss.item() == pytest.approx(cross_entropy(logits[kept], kept).item(), abs=1e-12)

    def test_anchor_without_positive_gets_no_gradient(self):
        logits, positive = cosines(3, 4).requires_grad_(), torch.eye(3, 4, dtype=torch.bool)
        positive[1] = False
        weighted_contrastive_loss(logits, positive).backward()
        assert logits.grad[1].count_nonzero() == 0
        assert logits.grad[0].count_nonzero() == 4

    def test_all_anchors_without_positive_give_zero_that_can_be_differentiated(self):
        images, texts = unit(3, DIM).requires_grad_(), unit(3, DIM, seed=1).requires_grad_()
        loss = similarity_regulated_contrastive_loss(
            images,
            texts,
            10.0,
            pair_ids=torch.arange(3),
            candidate_image_embeds=unit(2, DIM, seed=2),
            candidate_text_embeds=unit(2, DIM, seed=3),
            candidate_pair_ids=torch.tensor([8, 9]),
        )
        assert loss.item() == 0
        loss.backward()
        assert images.grad.count_nonzero() == texts.grad.count_nonzero() == 0

    @pytest.mark.parametrize("option", [{}, {"strength": 0.0}, {"filter_threshold": 0.3}, {"pair_ids": DUPLICATES}])
    @pytest.mark.parametrize("which", ["image_embeds", "text_embeds", "logit_scale"])
    def test_nan_in_is_nan_out(self, option, which):
        arguments, _ = leaves(option)
        arguments = {k: v.detach() if torch.is_tensor(v) else v for k, v in arguments.items()}
        arguments[which].view(-1)[0] = torch.nan
        assert similarity_regulated_contrastive_loss(**arguments).isnan()

    @pytest.mark.parametrize("option", [{}, {"filter_threshold": 0.3}, {"soft_targets": soft(BATCH, BATCH)}])
    def test_nan_similarity_is_nan_out(self, option):
        arguments, _ = leaves(option)
        similarity = cosines(BATCH, BATCH)
        similarity[0, 1] = torch.nan
        assert similarity_regulated_contrastive_loss(**arguments, similarity=similarity).isnan()

    def test_nan_in_the_queue_is_nan_out(self):
        arguments, _ = leaves(with_queue(DUPLICATES))
        arguments["candidate_text_embeds"] = arguments["candidate_text_embeds"].detach()
        arguments["candidate_text_embeds"][-1] = torch.nan
        assert similarity_regulated_contrastive_loss(**arguments).isnan()

    def test_nan_soft_target_is_nan_out(self):
        targets = soft(BATCH, BATCH)
        targets[0][0, 0] = torch.nan
        arguments, _ = leaves({})
        assert similarity_regulated_contrastive_loss(**arguments, soft_targets=targets).isnan()

    def test_nan_is_not_hidden_where_no_anchor_has_a_positive(self):
        logits = torch.full((2, 3), torch.nan)
        assert weighted_contrastive_loss(logits, torch.zeros(2, 3, dtype=torch.bool)).isnan()

    def test_soft_targets_of_one_hot_are_no_targets(self):
        arguments, _ = leaves({})
        one_hot = torch.eye(BATCH, dtype=torch.float64)
        assert torch.equal(
            similarity_regulated_contrastive_loss(**arguments, soft_targets=(one_hot, one_hot)),
            similarity_regulated_contrastive_loss(**arguments),
        )

    def test_find_positives(self):
        assert find_positives(torch.tensor([1, 2, 1])).tolist() == [[True, False, True], [False, True, False]] + [
            [True, False, True]
        ]
        assert find_positives(torch.tensor([1, 2]), torch.tensor([2, 2, 3])).tolist() == [
            [False] * 3,
            [True, True, False],
        ]


def call(**changes):
    arguments, _ = leaves({})
    return similarity_regulated_contrastive_loss(**{**arguments, **changes})


def candidates(**changes):
    return call(**{**with_queue(torch.arange(BATCH)), **changes})


WRONG = {
    "empty_batch": (lambda: call(image_embeds=unit(0, 6), text_embeds=unit(0, 6)), r"\(0, 6\) and \(0, 6\)"),
    "unequal_batches": (lambda: call(text_embeds=unit(4, 6)), r"\(5, 6\) and \(4, 6\)"),
    "unequal_widths": (lambda: call(text_embeds=unit(5, 7)), r"\(5, 6\) and \(5, 7\)"),
    "three_dimensions": (lambda: call(image_embeds=unit(5, 1, 6), text_embeds=unit(5, 1, 6)), r"\(5, 1, 6\)"),
    "integers": (lambda: call(image_embeds=torch.ones(5, 6, dtype=torch.long)), "torch.int64"),
    "candidate_width": (lambda: candidates(candidate_text_embeds=unit(9, 8)), "got 6 and 8"),
    "candidate_lengths": (lambda: candidates(candidate_text_embeds=unit(8, 6)), "got 9, 8 and 9"),
    "candidate_ids_length": (lambda: candidates(candidate_pair_ids=torch.arange(7)), "got 9, 9 and 7"),
    "candidates_without_ids": (
        lambda: call(candidate_image_embeds=unit(9, 6), candidate_text_embeds=unit(9, 6)),
        "`candidate_pair_ids` and `pair_ids` go together",
    ),
    "candidates_of_unnamed_pairs": (lambda: candidates(pair_ids=None), "`pair_ids` go together"),
    "candidates_of_one_kind": (lambda: candidates(candidate_image_embeds=None), "go together"),
    "ids_length": (lambda: call(pair_ids=torch.arange(4)), r"\(5,\), got shape \(4,\)"),
    "ids_matrix": (lambda: call(pair_ids=torch.zeros(5, 1).long()), r"got shape \(5, 1\)"),
    "ids_scalar": (lambda: call(pair_ids=torch.tensor(1)), r"got shape \(\)"),
    "ids_floating": (lambda: call(pair_ids=torch.arange(5.0)), "torch.float32"),
    "similarity_shape": (lambda: call(similarity=cosines(4, 4)), r"`similarity`.*\(5, 5\), got \(4, 4\)"),
    "similarity_rectangular": (
        lambda: candidates(similarity=cosines(5, 9)),
        r"\(5, 9\), cannot serve both directions",
    ),
    "similarity_tuple_shape": (
        lambda: candidates(similarity=(cosines(5, 9), cosines(9, 5))),
        r"`similarity`.*\(5, 9\), got \(9, 5\)",
    ),
    "similarity_tuple_length": (lambda: call(similarity=(cosines(5, 5),)), "`similarity` must hold two.*got 1"),
    "similarity_integers": (lambda: call(similarity=torch.ones(5, 5).long()), "torch.int64"),
    "strength_negative": (lambda: call(strength=-0.5), "`strength`.*-0.5"),
    "strength_infinite": (lambda: call(strength=math.inf), "`strength`.*inf"),
    "strength_nan": (lambda: call(strength=math.nan), "`strength`.*nan"),
    "threshold_zero": (lambda: call(filter_threshold=0.0), r"`filter_threshold`.*\(0, 1\).*0.0"),
    "threshold_one": (lambda: call(filter_threshold=1.0), "`filter_threshold`.*1.0"),
    "threshold_negative": (lambda: call(filter_threshold=-0.2), "`filter_threshold`.*-0.2"),
    "threshold_large": (lambda: call(filter_threshold=1.5), "`filter_threshold`.*1.5"),
    "threshold_nan": (lambda: call(filter_threshold=math.nan), "`filter_threshold`.*nan"),
    "soft_targets_shape": (lambda: call(soft_targets=soft(5, 4)), r"`soft_targets`.*\(5, 5\), got \(5, 4\)"),
    "soft_targets_length": (lambda: call(soft_targets=soft(5, 5)[:1]), "`soft_targets` must hold two.*got 1"),
    "weights_of_a_vector": (lambda: regulation_weights(cosines(5)), r"`similarity`.*got shape \(5,\)"),
    "weights_of_integers": (lambda: regulation_weights(torch.ones(2, 2).int()), "torch.int32"),
    "weights_strength": (lambda: regulation_weights(cosines(2, 2), strength=-1), "`strength`.*-1"),
    "mask_shape": (
        lambda: regulation_weights(cosines(2, 2), negative_mask=torch.ones(2, 3).bool()),
        r"`negative_mask`.*\(2, 2\).*got shape \(2, 3\)",
    ),
    "mask_dtype": (lambda: regulation_weights(cosines(2, 2), negative_mask=torch.ones(2, 2)), "torch.float32"),
    "positive_mask_shape": (
        lambda: weighted_contrastive_loss(cosines(2, 2), torch.ones(2, 3).bool()),
        r"`positive_mask`.*\(2, 2\), got \(2, 3\)",
    ),
}


class TestErrors:
    @pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
    def test_names_the_value(self, wrong):
        function, message = wrong
        with pytest.raises(ValueError, match=message):
            function()

    def test_options_are_keywords_only(self):
        with pytest.raises(TypeError):
            similarity_regulated_contrastive_loss(unit(2, 3), unit(2, 3), 1.0, 0.5)
        with pytest.raises(TypeError):
            regulation_weights(cosines(2, 2), 1.0)
        with pytest.raises(TypeError, match="strenght"):
            call(strenght=1.0)


class TestDocumentation:
    @pytest.mark.parametrize("function", [regulation_weights, similarity_regulated_contrastive_loss])
    def test_example_runs(self, function):
        assert run_examples(function) > 2
