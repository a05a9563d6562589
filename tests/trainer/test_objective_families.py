# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The objectives beside SACL's own: each against its formula in loops over numbers, its limits, a short training."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from modeling_sacl import SaclModel
from trainer import OBJECTIVES, Guide
from trainer.objectives import (
    Comparison,
    ContinuousObjective,
    CrossSampleObjective,
    DebiasedObjective,
    DecoupledObjective,
    GuidedNegativesObjective,
    HardNegativesObjective,
    InfoNCEObjective,
    SoftAlignmentObjective,
)

from .test_objectives import cosine, make_batch


SETTINGS = {
    "dcl": DecoupledObjective(),
    "debiased": DebiasedObjective(prior=0.05),
    # Most anchors are on the floor of the estimate.
    "debiased, floor": DebiasedObjective(prior=0.9),
    "hcl": HardNegativesObjective(prior=0.05, concentration=0.7),
    "gist": GuidedNegativesObjective(margin=0.1),
    "xclr": CrossSampleObjective(temperature=0.3),
    "cwcl": ContinuousObjective(),
    "cwcl, vision": ContinuousObjective(locked="vision"),
    "cwcl, text": ContinuousObjective(locked="text"),
    "softclip": SoftAlignmentObjective(temperature=0.3),
}
NAMES = list(dict.fromkeys(objective.name for objective in SETTINGS.values()))
WITH_AND_WITHOUT_GUIDE = [
    (setting, guide_share)
    for setting, objective in SETTINGS.items()
    for guide_share in ((0.4, 1.0) if objective.needs_guide else (0.0, 0.4, 1.0))
]
CONTRAST = {"itm_weight": 0.0, "mlm_weight": 0.0}


def cross_entropy(targets, scores):
    total = math.fsum(scores)
    return -math.fsum(
        target * math.log(score / total) for target, score in zip(targets, scores, strict=True) if target * score > 0
    )


def even(positive):
    return [float(value) / sum(positive) for value in positive]


def decoupled(objective, row):
    negatives = math.fsum(score for score, positive in zip(row.scores, row.positive, strict=True) if not positive)
    return -math.fsum(
        target * math.log(score / negatives)
        for target, score in zip(even(row.positive), row.scores, strict=True)
        if target
    )


def debiased(objective, row):
    own = [score for score, positive in zip(row.scores, row.positive, strict=True) if positive]
    others = [score for score, positive in zip(row.scores, row.positive, strict=True) if not positive]
    tilts = [score**objective.concentration for score in others]
    mean = math.fsum(tilt * score for tilt, score in zip(tilts, others, strict=True)) / math.fsum(tilts)
    estimate = (mean - objective.prior * math.fsum(own) / len(own)) / (1 - objective.prior)
    total = math.fsum(own) + len(others) * max(estimate, math.exp(-row.scale))
    return -math.fsum(math.log(score / total) for score in own) / len(own)


def guided(objective, row):
    kept = [
        score if positive or seen <= row.guide_own - objective.margin else 0.0
        for score, positive, seen in zip(row.scores, row.positive, row.guide, strict=True)
    ]
    return cross_entropy(even(row.positive), kept)


def cross_sample(objective, row):
    alike = [1.0 if positive else seen for positive, seen in zip(row.positive, row.guide_texts, strict=True)]
    raised = [math.exp(value / objective.temperature) for value in alike]
    return cross_entropy([value / math.fsum(raised) for value in raised], row.scores)


def continuous(objective, row):
    if objective.locked is not None and row.candidates != {"vision": "images", "text": "texts"}[objective.locked]:
        return cross_entropy(even(row.positive), row.scores)
    seen = row.within[row.candidates]
    alike = [1.0 if positive else (1 + value) / 2 for positive, value in zip(row.positive, seen, strict=True)]
    return cross_entropy([value / math.fsum(alike) for value in alike], row.scores)


def soft_alignment(objective, row):
    raised = [math.exp(value / objective.temperature) for value in row.within[row.anchors]]
    targets = [
        row.share * value / math.fsum(raised) + (1 - row.share) * hard
        for value, hard in zip(raised, even(row.positive), strict=True)
    ]
    return cross_entropy(targets, row.scores)


REFERENCES = {
    "dcl": decoupled,
    "debiased": debiased,
    "hcl": debiased,
    "gist": guided,
    "xclr": cross_sample,
    "cwcl": continuous,
    "softclip": soft_alignment,
}


def sides_of(comparison):
    """Anchors and candidates of both sides, as lists of numbers."""
    return {
        name: (
            getattr(comparison.anchors, attribute).tolist(),
            torch.cat([getattr(part, attribute) for part in comparison.candidates]).tolist(),
        )
        for name, attribute in (("images", "image_embeds"), ("texts", "text_embeds"))
    }


def reference(objective, batch):
    """The loss as a loop over the anchors of both directions."""
    student, guide = sides_of(batch.student), None if batch.guide is None else sides_of(batch.guide)
    judge = student if batch.teacher is None else sides_of(batch.teacher)
    own_ids = batch.student.anchors.pair_ids.tolist()
    ids = [pair_id for part in batch.student.candidates for pair_id in part.pair_ids.tolist()]
    scale, share, losses = batch.logit_scale.item(), batch.guide_share, []

    def compare(sides, anchors, candidates, i):
        return [cosine(sides[anchors][0][i], candidate) for candidate in sides[candidates][1]]

    def within(side, i):
        own = compare(judge, side, side, i)
        if guide is None:
            return own
        seen = compare(guide, side, side, i)
        return [math.log(share * math.exp(a) + (1 - share) * math.exp(b)) for a, b in zip(seen, own, strict=True)]

    for anchors, candidates in (("images", "texts"), ("texts", "images")):
        for i, own_id in enumerate(own_ids):
            row = SimpleNamespace(
                anchors=anchors,
                candidates=candidates,
                scale=scale,
                share=batch.distillation_weight,
                scores=[math.exp(scale * value) for value in compare(student, anchors, candidates, i)],
                positive=[pair_id == own_id for pair_id in ids],
                within={side: within(side, i) for side in ("images", "texts")},
            )
            if guide is not None:
                row.guide = compare(guide, anchors, candidates, i)
                row.guide_own = cosine(guide["images"][0][i], guide["texts"][0][i])
                row.guide_texts = compare(guide, "texts", "texts", i)
            losses.append(REFERENCES[objective.name](objective, row))
    return math.fsum(losses) / len(losses)


def loss_of(objective, batch):
    return objective(batch).losses["itc_loss"]


def unimodal(batch):
    """The same batch with a guide of texts alone, which compares each caption with each."""

    def doubled(part):
        return part._replace(image_embeds=part.text_embeds)

    candidates = tuple(doubled(part) for part in batch.guide.candidates)
    return replace(batch, guide=Comparison(doubled(batch.guide.anchors), candidates))


class TestFormulas:
    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize("queued", [0, 6])
    @pytest.mark.parametrize("teacher", [True, False])
    @pytest.mark.parametrize(("setting", "guide_share"), WITH_AND_WITHOUT_GUIDE)
    def test_loss_is_that_of_the_formula(self, setting, teacher, guide_share, queued, seed):
        objective = SETTINGS[setting]
        batch, _ = make_batch(queued=queued, teacher=teacher, guide_share=guide_share, seed=seed)
        assert loss_of(objective, batch).item() == pytest.approx(reference(objective, batch), abs=1e-10, rel=0)

    @pytest.mark.parametrize("setting", SETTINGS)
    def test_gradients_are_the_slopes_of_the_formula(self, setting):
        # With a teacher's similarity nothing that a target or a mask is made of moves with the model.
        batch, leaves = make_batch(guide_share=0.4)
        loss_of(SETTINGS[setting], batch).backward()
        step = 1e-5
        for leaf in (leaves.images, leaves.texts, leaves.logit_scale):
            for index in range(leaf.numel()):
                slopes = []
                for sign in (1, -1):
                    with torch.no_grad():
                        leaf.view(-1)[index] += sign * step
                        slopes.append(reference(SETTINGS[setting], batch))
                        leaf.view(-1)[index] -= sign * step
                slope = (slopes[0] - slopes[1]) / (2 * step)
                assert leaf.grad.view(-1)[index].item() == pytest.approx(slope, abs=1e-7)

    @pytest.mark.parametrize("setting", SETTINGS)
    def test_only_the_student_gets_a_gradient(self, setting):
        batch, leaves = make_batch(guide_share=0.4)
        others = [f for c in (batch.teacher, batch.guide) for part in (c.anchors, *c.candidates) for f in part[:2]]
        for tensor in others:
            tensor.requires_grad_()
        loss_of(SETTINGS[setting], batch).backward()
        assert all(tensor.grad is None for tensor in others)
        assert all(leaf.grad.isfinite().all() for leaf in vars(leaves).values())

    @pytest.mark.parametrize("setting", SETTINGS)
    def test_half_precision_is_computed_in_float32(self, setting):
        batch, _ = make_batch(dtype=torch.bfloat16, guide_share=0.4)
        exact = {"logit_scale": batch.logit_scale.detach().float()}
        for name in ("student", "teacher", "guide"):
            parts = tuple(
                part._replace(image_embeds=part.image_embeds.float(), text_embeds=part.text_embeds.float())
                for part in getattr(batch, name).candidates
            )
            exact[name] = Comparison(parts[0], parts)
        loss = loss_of(SETTINGS[setting], batch)
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, loss_of(SETTINGS[setting], replace(batch, **exact)))

    @pytest.mark.parametrize("scale", [1.0, 1000.0])
    @pytest.mark.parametrize("setting", SETTINGS)
    def test_any_temperature_gives_a_finite_loss_and_gradient(self, setting, scale):
        batch, leaves = make_batch(dtype=torch.float32, guide_share=0.4)
        with torch.no_grad():
            leaves.logit_scale.fill_(scale)
        loss = loss_of(SETTINGS[setting], batch)
        loss.backward()
        assert loss.isfinite()
        assert all(leaf.grad.isfinite().all() for leaf in vars(leaves).values())

    @pytest.mark.parametrize("setting", SETTINGS)
    def test_without_a_negative_the_gradient_is_finite(self, setting):
        batch, leaves = make_batch(queued=0, guide_share=0.4)
        one = torch.zeros_like(batch.student.anchors.pair_ids)
        compared = {}
        for name in ("student", "teacher", "guide"):
            anchors = getattr(batch, name).anchors._replace(pair_ids=one)
            compared[name] = Comparison(anchors, (anchors,))
        loss = loss_of(SETTINGS[setting], replace(batch, **compared))
        loss.backward()
        assert loss.isfinite() and (setting != "dcl" or loss == 0)
        grads = [leaf.grad for leaf in vars(leaves).values() if leaf.grad is not None]
        assert grads and all(grad.isfinite().all() for grad in grads)

    @pytest.mark.parametrize("setting", SETTINGS)
    def test_garbage_is_not_hidden(self, setting):
        batch, leaves = make_batch(guide_share=0.4)
        with torch.no_grad():
            leaves.images[0, 0] = torch.nan
        assert loss_of(SETTINGS[setting], batch).isnan()


class TestLimits:
    @pytest.fixture(params=[0, 6])
    def batch(self, request):
        return make_batch(queued=request.param, guide_share=1.0)[0]

    @pytest.mark.parametrize(
        "objective",
        [
            DebiasedObjective(prior=0.0),
            HardNegativesObjective(prior=0.0, concentration=0.0),
            GuidedNegativesObjective(margin=-2.0),
        ],
    )
    def test_is_infonce(self, batch, objective):
        torch.testing.assert_close(loss_of(objective, batch), loss_of(InfoNCEObjective(), batch))

    def test_no_concentration_is_debiased(self, batch):
        torch.testing.assert_close(
            loss_of(HardNegativesObjective(prior=0.1, concentration=0.0), batch),
            loss_of(DebiasedObjective(prior=0.1), batch),
        )

    def test_cold_targets_are_the_positives(self, batch):
        cold = CrossSampleObjective(temperature=1e-4)
        torch.testing.assert_close(loss_of(cold, batch), loss_of(InfoNCEObjective(), batch))

    def test_warm_targets_are_even(self, batch):
        for target in CrossSampleObjective(temperature=1e9).get_targets(batch):
            torch.testing.assert_close(target, torch.full_like(target, 1 / target.shape[1]))

    def test_soft_alignment_without_a_share_is_infonce(self, batch):
        batch = replace(batch, distillation_weight=0.0)
        torch.testing.assert_close(loss_of(SoftAlignmentObjective(), batch), loss_of(InfoNCEObjective(), batch))

    def test_opposite_pairs_are_continuous_negatives(self):
        """One pair with its opposite: nothing within a modality is shared, so the target is the pair itself."""
        side = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
        batch = make_batch(batch_size=2, queued=0, dim=2, teacher=False, dtype=torch.float32)[0]
        anchors = batch.student.anchors._replace(image_embeds=side, text_embeds=side, pair_ids=torch.tensor([0, 1]))
        batch = replace(batch, student=Comparison(anchors, (anchors,)))
        torch.testing.assert_close(loss_of(ContinuousObjective(), batch), loss_of(InfoNCEObjective(), batch))

    def test_decoupled_is_infonce_and_the_logarithm_of_what_is_missing(self):
        batch, _ = make_batch(queued=0)
        anchors = batch.student.anchors._replace(pair_ids=torch.arange(5))
        batch = replace(batch, student=Comparison(anchors, (anchors,)))
        missing = [(1 - logits.softmax(dim=-1).diagonal()).log().mean() for logits in batch.student.logits(4.0)]
        expected = loss_of(InfoNCEObjective(), batch) + sum(missing) / 2
        torch.testing.assert_close(loss_of(DecoupledObjective(), batch), expected)

    def test_hard_negatives_count_more_and_regulated_ones_less(self):
        batch, _ = make_batch(queued=20, teacher=False)
        similarity = batch.similarity[0]
        for name, sign in (("hcl", 1), ("sacl", -1)):
            objective = HardNegativesObjective(prior=0.0) if name == "hcl" else OBJECTIVES[name]()
            for row, cosines, positive in zip(
                objective.get_log_weights(batch)[0], similarity, batch.positive_mask, strict=True
            ):
                order = cosines[~positive].argsort()
                assert (sign * row[~positive][order].diff() > 0).all()


class TestGuided:
    def test_what_the_guide_finds_closer_than_the_pair_is_removed(self):
        batch, _ = make_batch(guide_share=0.4, queued=9)
        removed = GuidedNegativesObjective().get_log_weights(batch)
        share = torch.stack([(w == -torch.inf)[~batch.positive_mask].double().mean() for w in removed]).mean()
        assert 0 < share < 1
        assert all(not weights[batch.positive_mask].any() for weights in removed)
        metrics = GuidedNegativesObjective()(batch).metrics
        assert metrics["filtered_negatives"].item() == pytest.approx(share.item(), abs=1e-6)

    def test_a_wider_margin_removes_more(self):
        batch, _ = make_batch(guide_share=0.4, queued=9)
        shares = [
            GuidedNegativesObjective(margin)(batch).metrics["filtered_negatives"].item()
            for margin in (-2.0, 0.0, 0.5, 2.01)
        ]
        assert shares[0] == 0 < shares[1] < shares[2] < shares[3] == 1

    def test_a_guide_of_one_modality_needs_a_margin(self):
        batch = unimodal(make_batch(guide_share=0.4, queued=9)[0])
        plain = loss_of(InfoNCEObjective(), batch)
        torch.testing.assert_close(loss_of(GuidedNegativesObjective(), batch), plain)
        assert loss_of(GuidedNegativesObjective(margin=0.5), batch) < plain

    @pytest.mark.parametrize("name", ["gist", "xclr"])
    def test_without_a_guide_raises(self, name):
        with pytest.raises(ValueError, match=f"{name}.*guide"):
            OBJECTIVES[name]()(make_batch()[0])


class TestSettings:
    @pytest.mark.parametrize("prior", [-0.1, 1.0, math.nan])
    def test_prior(self, prior):
        for objective in (DebiasedObjective, HardNegativesObjective):
            with pytest.raises(ValueError, match=f"`prior`.*{prior}"):
                objective(prior=prior)

    @pytest.mark.parametrize("concentration", [-1.0, math.inf, math.nan])
    def test_concentration(self, concentration):
        with pytest.raises(ValueError, match=f"`concentration`.*{concentration}"):
            HardNegativesObjective(concentration=concentration)

    @pytest.mark.parametrize("objective", [CrossSampleObjective, SoftAlignmentObjective])
    def test_temperature(self, objective):
        with pytest.raises(ValueError, match="`temperature`.*0.0"):
            objective(temperature=0.0)

    def test_locked_tower(self):
        with pytest.raises(ValueError, match="'vision', 'text' or None; got 'image'"):
            ContinuousObjective(locked="image")

    def test_come_from_the_arguments(self, make_arguments):
        arguments = make_arguments(
            debiased_prior=0.2,
            hard_negative_concentration=0.5,
            guide_margin=0.3,
            target_temperature=0.4,
            lock_vision=True,
        )
        assert {name: OBJECTIVES[name].from_arguments(arguments).get_config_dict() for name in NAMES} == {
            "dcl": {},
            "debiased": {"debiased_prior": 0.2},
            "hcl": {"debiased_prior": 0.2, "hard_negative_concentration": 0.5},
            "gist": {"guide_margin": 0.3},
            "xclr": {"target_temperature": 0.4},
            "cwcl": {"locked": "vision"},
            "softclip": {"target_temperature": 0.4},
        }

    @pytest.mark.parametrize(
        ("vision", "text", "locked"), [(0, 0, None), (1, 1, None), (1, 0, "vision"), (0, 1, "text")]
    )
    def test_the_locked_tower_is_that_of_the_arguments(self, make_arguments, vision, text, locked):
        arguments = make_arguments(lock_vision=bool(vision), lock_text=bool(text))
        assert ContinuousObjective.from_arguments(arguments).locked == locked


class TestTraining:
    @pytest.fixture
    def guided_pairs(self, pairs):
        generator = torch.Generator().manual_seed(0)
        for column in ("guide_image_embeds", "guide_text_embeds"):
            features = nn.functional.normalize(torch.randn(len(pairs), 6, generator=generator), dim=-1)
            pairs = pairs.add_column(column, features.tolist())
        return pairs

    @pytest.fixture
    def losses_of(self, make_trainer, make_model, pairs, guided_pairs):
        def run(name, **options):
            dataset = guided_pairs if OBJECTIVES[name].needs_guide else pairs
            trainer = make_trainer(
                make_model(SaclModel),
                **{**CONTRAST, "objective": name, "queue_size": 7, "guide_margin": 0.2, **options},
                trainer_options={"train_dataset": dataset, "eval_dataset": pairs},
            )
            trainer.train()
            return trainer, [entry["itc_loss"] for entry in trainer.state.log_history if "itc_loss" in entry]

        return run

    @pytest.mark.parametrize("name", NAMES)
    def test_two_steps_are_the_same_in_chunks(self, losses_of, name):
        trainer, whole = losses_of(name)
        _, chunks = losses_of(name, contrastive_chunk_size=4)
        assert len(whole) == 2 and all(math.isfinite(loss) for loss in whole)
        assert chunks == pytest.approx(whole, abs=1e-5)
        metrics = trainer.evaluate()
        assert math.isfinite(metrics["eval_loss"])

    def test_a_guide_is_asked_to_the_end(self, losses_of):
        trainer, losses = losses_of("gist", guide_duration=0.01, max_steps=4)
        assert trainer._now().guide_share == 0
        logged = [entry for entry in trainer.state.log_history if "itc_loss" in entry]
        assert len(losses) == 4 and all("filtered_negatives" in entry for entry in logged)

    @pytest.mark.parametrize("name", ["gist", "xclr"])
    def test_evaluation_of_pairs_without_guide_features_is_infonce(self, losses_of, name):
        trainer, _ = losses_of(name)
        loss = trainer.evaluate()["eval_loss"]
        trainer.objective = InfoNCEObjective()
        assert trainer.evaluate()["eval_loss"] == loss

    @pytest.mark.parametrize("name", ["gist", "xclr"])
    def test_without_a_guide_no_trainer_is_made(self, make_trainer, make_model, name):
        with pytest.raises(ValueError, match=f"'{name}'.*`guide_model`.*`guide_image_embeds`"):
            make_trainer(make_model(SaclModel), **CONTRAST, objective=name)

    def test_a_guide_model_is_enough(self, make_trainer, make_model, tiny_processor):
        trainer = make_trainer(
            make_model(SaclModel),
            **CONTRAST,
            objective="xclr",
            max_steps=1,
            trainer_options={"guide_model": Guide(make_model(SaclModel, seed=1).eval(), tiny_processor)},
        )
        trainer.train()
        assert math.isfinite(trainer.state.log_history[0]["itc_loss"])
