# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The objectives against their formulas, written as loops over numbers with gradients derived by hand."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from trainer.objectives import (
    OBJECTIVES,
    AlbefObjective,
    Comparison,
    ContrastiveBatch,
    ContrastiveObjective,
    DistilledSaclObjective,
    InfoNCEObjective,
    SaclObjective,
    distillation_loss,
)
from trainer.queue import PairFeatures


SETTINGS = {
    "infonce": InfoNCEObjective(),
    "sacl": SaclObjective(),
    "sacl, filtered": SaclObjective(filter_threshold=0.9),
    "albef": AlbefObjective(),
    "sacl_distilled": DistilledSaclObjective(),
    "sacl_distilled, filtered": DistilledSaclObjective(filter_threshold=0.9),
}

# Computed in blocks of anchors, not of anchors and candidates.
BY_ANCHORS = {
    "sacl, above a quantile": SaclObjective(quantile=0.5),
    **{name: OBJECTIVES[name]() for name in ("dcl", "debiased", "hcl", "xclr", "cwcl", "softclip")},
    "gist": OBJECTIVES["gist"](margin=0.2),
    "multi_positive": OBJECTIVES["multi_positive"](),
    "graded": OBJECTIVES["graded"](),
}

# The others are in test_objective_families.py, test_pairwise_objectives.py and test_extra_texts.py.
OF_THIS_FILE = ["sacl", "infonce", "albef", "sacl_distilled"]

# Some have no targets without one.
WITH_AND_WITHOUT_TEACHER = [
    (name, teacher)
    for name, objective in SETTINGS.items()
    for teacher in ((True,) if objective.needs_teacher else (True, False))
]


def unit(*shape, generator):
    return nn.functional.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def make_batch(
    batch_size=5,
    queued=6,
    dim=3,
    teacher=True,
    guide_share=0.0,
    strength=1.7,
    share=0.3,
    dtype=torch.float64,
    seed=0,
):
    """A batch and a queue, in which pair ids repeat: within the batch, and between batch and queue."""
    generator = torch.Generator().manual_seed(seed)
    images, texts, image_queue, text_queue = (
        unit(size, dim, generator=generator).to(dtype) for size in (batch_size, batch_size, queued, queued)
    )
    pair_ids = torch.randint(batch_size + queued, (batch_size + queued,), generator=generator)
    pair_ids[1] = pair_ids[0]
    if queued:
        pair_ids[-1] = pair_ids[2]
    leaves = SimpleNamespace(
        images=images.requires_grad_(),
        texts=texts.requires_grad_(),
        logit_scale=torch.tensor(4.0, dtype=dtype, requires_grad=True),
    )
    comparisons = [compare(pair_ids, images, texts, image_queue, text_queue)]
    for _ in range(2):  # teacher and guide, each of a width of its own
        sizes = (batch_size, batch_size, queued, queued)
        seen = [unit(size, dim + len(comparisons), generator=generator).to(dtype) for size in sizes]
        comparisons.append(compare(pair_ids, *seen))
    batch = ContrastiveBatch(
        student=comparisons[0],
        logit_scale=leaves.logit_scale,
        teacher=comparisons[1] if teacher else None,
        guide=comparisons[2] if guide_share > 0 else None,
        guide_share=guide_share,
        regulation_strength=strength,
        distillation_weight=share,
    )
    return batch, leaves


def compare(pair_ids, images, texts, image_queue, text_queue):
    anchors = PairFeatures(images, texts, pair_ids[: len(images)])
    queue = PairFeatures(image_queue, text_queue, pair_ids[len(images) :])
    return Comparison(anchors, (anchors, queue) if len(image_queue) else (anchors,))


def cosine(left, right):
    return math.fsum(a * b for a, b in zip(left, right, strict=True))


def reference(batch, *, regulated, distilled, filter_threshold=None):
    """The loss, and its gradients with respect to images, texts and the scale: numbers and loops, no autograd."""
    images, texts = batch.student.anchors.image_embeds.tolist(), batch.student.anchors.text_embeds.tolist()
    candidate_images, candidate_texts = (
        torch.cat([getattr(part, name) for part in batch.student.candidates]).tolist()
        for name in ("image_embeds", "text_embeds")
    )
    positives, scale = batch.positive_mask.tolist(), batch.logit_scale.item()
    size, width, dim = len(images), len(candidate_images), len(images[0])
    gradients = {name: [[0.0] * dim for _ in range(size)] for name in ("images", "texts")}
    total, scale_gradient = 0.0, 0.0
    for direction, (anchors, candidates, anchor_side, candidate_side) in enumerate(
        ((images, candidate_texts, "images", "texts"), (texts, candidate_images, "texts", "images"))
    ):
        for i in range(size):
            cosines = [cosine(anchors[i], candidate) for candidate in candidates]
            similarity = cosines
            if batch.teacher_similarity is not None:
                similarity = batch.teacher_similarity[direction][i].tolist()
            weights = [1.0] * width
            if regulated:
                negatives = [j for j in range(width) if not positives[i][j]]
                raw = {j: math.exp(similarity[j]) ** -batch.regulation_strength for j in negatives}
                mean = math.fsum(raw.values()) / len(raw)
                for j in negatives:
                    weights[j] = raw[j] / mean
                    if filter_threshold is not None:
                        weights[j] = 0.0 if weights[j] < filter_threshold else 1.0
            targets = [float(positive) / sum(positives[i]) for positive in positives[i]]
            if distilled:
                softened = [math.exp(scale * value) for value in similarity]
                share = batch.distillation_weight
                targets = [
                    share * soft / math.fsum(softened) + (1 - share) * hard
                    for soft, hard in zip(softened, targets, strict=True)
                ]
            targets = [target if weight > 0 else 0.0 for target, weight in zip(targets, weights, strict=True)]
            scores = [weight * math.exp(scale * value) for weight, value in zip(weights, cosines, strict=True)]
            chances = [score / math.fsum(scores) for score in scores]
            total -= math.fsum(t * math.log(p) for t, p in zip(targets, chances, strict=True) if t > 0)
            for j in range(width):
                # d loss_i / d logit_j, averaged over the anchors and both directions
                slope = (chances[j] * math.fsum(targets) - targets[j]) / size / 2
                scale_gradient += slope * cosines[j]
                for d in range(dim):
                    gradients[anchor_side][i][d] += slope * scale * candidates[j][d]
                    if j < size:
                        gradients[candidate_side][j][d] += slope * scale * anchors[i][d]
    return total / size / 2, gradients["images"], gradients["texts"], scale_gradient


class TestFormulas:
    @pytest.mark.parametrize("block_size", [None, 4])
    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize("queued", [0, 6])
    @pytest.mark.parametrize(
        ("setting", "teacher"),
        WITH_AND_WITHOUT_TEACHER,
    )
    def test_loss_and_gradients_are_those_of_the_formula(self, setting, teacher, queued, seed, block_size):
        objective = SETTINGS[setting]
        batch, leaves = make_batch(queued=queued, teacher=teacher, seed=seed)
        loss, images, texts, scale = reference(
            batch,
            regulated="sacl" in setting,
            distilled=objective.needs_teacher,
            filter_threshold=getattr(objective, "filter_threshold", None),
        )
        output = objective(batch, block_size)
        assert list(output.losses) == ["itc_loss"]
        output.losses["itc_loss"].backward()
        assert output.losses["itc_loss"].item() == pytest.approx(loss, abs=1e-10, rel=0)
        np.testing.assert_allclose(leaves.images.grad, images, atol=1e-9, rtol=0)
        np.testing.assert_allclose(leaves.texts.grad, texts, atol=1e-9, rtol=0)
        assert leaves.logit_scale.grad.item() == pytest.approx(scale, abs=1e-9, rel=0)

    @pytest.mark.parametrize("block_size", [None, 4])
    @pytest.mark.parametrize("setting", SETTINGS)
    def test_teacher_and_guide_get_no_gradient(self, setting, block_size):
        batch, _ = make_batch(guide_share=0.4)
        features = [f for c in (batch.teacher, batch.guide) for part in (c.anchors, *c.candidates) for f in part[:2]]
        for tensor in features:
            tensor.requires_grad_()
        SETTINGS[setting](batch, block_size).losses["itc_loss"].backward()
        assert all(tensor.grad is None for tensor in features)

    @pytest.mark.parametrize("block_size", [None, 4])
    @pytest.mark.parametrize("setting", SETTINGS)
    def test_half_precision_is_computed_in_float32(self, setting, block_size):
        batch, _ = make_batch(dtype=torch.bfloat16)
        exact = {"logit_scale": batch.logit_scale.detach().float()}
        for name in ("student", "teacher"):
            anchors, queue = (
                PairFeatures(part.image_embeds.detach().float(), part.text_embeds.detach().float(), part.pair_ids)
                for part in getattr(batch, name).candidates
            )
            exact[name] = Comparison(anchors, (anchors, queue))
        loss = SETTINGS[setting](batch, block_size).losses["itc_loss"]
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, SETTINGS[setting](replace(batch, **exact)).losses["itc_loss"])


class LargestTensor(TorchDispatchMode):
    """Inside, how many numbers the largest tensor that is made has."""

    def __init__(self):
        super().__init__()
        self.size = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        for tensor in output if isinstance(output, tuple | list) else [output]:
            if isinstance(tensor, torch.Tensor):
                self.size = max(self.size, tensor.numel())
        return output


def check_slopes(leaves, formula):
    """The gradients of the leaves are the slopes of a formula that reads them; without a gradient, of nothing."""
    for leaf in vars(leaves).values():
        for index in range(leaf.numel() if leaf.grad is not None else 0):
            values = []
            for step in (1e-5, -1e-5):
                with torch.no_grad():
                    leaf.view(-1)[index] += step
                    values.append(formula())
                    leaf.view(-1)[index] -= step
            assert leaf.grad.view(-1)[index].item() == pytest.approx((values[0] - values[1]) / 2e-5, abs=1e-7)


class TestBlocks:
    @pytest.mark.parametrize("guide_share", [0.0, 0.4, 1.0])
    @pytest.mark.parametrize(("setting", "teacher"), WITH_AND_WITHOUT_TEACHER)
    def test_blocks_change_nothing(self, setting, teacher, guide_share):
        results = []
        for block_size in (None, 3):
            batch, leaves = make_batch(batch_size=7, queued=9, guide_share=guide_share, teacher=teacher)
            output = SETTINGS[setting](batch, block_size)
            output.losses["itc_loss"].backward()
            results.append((output.losses["itc_loss"], leaves.images.grad, leaves.texts.grad, leaves.logit_scale.grad))
            assert output.metrics.keys() == SETTINGS[setting](batch).metrics.keys()
        for plain, blocks in zip(*results, strict=True):
            torch.testing.assert_close(blocks, plain, atol=1e-10, rtol=0)

    @pytest.mark.parametrize("strange", [False, True], ids=["", "an anchor that is no candidate"])
    @pytest.mark.parametrize("setting", BY_ANCHORS)
    def test_blocks_of_anchors_change_nothing(self, setting, strange):
        results = []
        for block_size in (None, 3):
            batch, leaves = make_batch(batch_size=7, queued=9, guide_share=0.4)
            if strange:
                student = batch.student
                ids = torch.where(torch.arange(7) == 4, 1000, student.anchors.pair_ids)
                student = student._replace(anchors=student.anchors._replace(pair_ids=ids))
                batch = replace(batch, student=student)
            output = BY_ANCHORS[setting](batch, block_size)
            output.losses["itc_loss"].backward()
            results.append((output.losses["itc_loss"], leaves.images.grad, leaves.texts.grad, leaves.logit_scale.grad))
        for plain, blocks in zip(*results, strict=True):
            torch.testing.assert_close(blocks, plain, atol=1e-10, rtol=0)

    @pytest.mark.parametrize("setting", BY_ANCHORS)
    def test_blocks_of_anchors_are_not_kept(self, setting):
        kept = 0

        def keep(tensor):
            nonlocal kept
            kept += tensor.numel()
            return tensor

        batch, _ = make_batch(batch_size=128, queued=256, dim=4, guide_share=0.4)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = BY_ANCHORS[setting](batch, block_size=16).losses["itc_loss"]
        assert kept < 128 * 384 / 8
        loss.backward()

    def test_the_matrix_is_never_held(self):
        batch, _ = make_batch(batch_size=512, queued=2048, dim=4, guide_share=0.4, dtype=torch.float32)
        with LargestTensor() as largest:
            DistilledSaclObjective()(batch, block_size=64).losses["itc_loss"].backward()
        # Metrics look at a sample of 65,536 in each direction, rounded up to whole anchors.
        assert largest.size <= 2 * (65_536 + 2560) < 512 * 2560

    def test_an_overridden_seam_is_refused(self):
        class Sharpened(SaclObjective):
            def get_logits(self, batch):
                return tuple(2 * logits for logits in super().get_logits(batch))

        assert not Sharpened.streams()
        with pytest.raises(ValueError, match="Sharpened.*loss_block_size=None"):
            Sharpened()(make_batch()[0], block_size=4)

    def test_all_of_ours_can_be_computed_in_blocks(self):
        assert all(objective.streams() for objective in OBJECTIVES.values())


class TestSacl:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("teacher", [True, False])
    def test_strength_zero_is_infonce_bit_for_bit(self, teacher, dtype):
        results = []
        for objective in (SaclObjective(), InfoNCEObjective()):
            batch, leaves = make_batch(batch_size=32, queued=16, dim=8, teacher=teacher, strength=0.0, dtype=dtype)
            loss = objective(batch).losses["itc_loss"]
            loss.backward()
            results.append((loss, leaves.images.grad, leaves.texts.grad, leaves.logit_scale.grad))
        assert all(torch.equal(regulated, plain) for regulated, plain in zip(*results, strict=True))

    @pytest.mark.parametrize("teacher", [True, False])
    def test_metrics_are_those_of_the_weights(self, teacher):
        batch, _ = make_batch(batch_size=7, queued=9, teacher=teacher)
        weights = []
        for similarity in batch.similarity:
            for cosines, positives in zip(similarity.tolist(), batch.positive_mask.tolist(), strict=True):
                row = [
                    math.exp(-1.7 * value) for value, positive in zip(cosines, positives, strict=True) if not positive
                ]
                weights += [value / np.mean(row) for value in row]
        metrics = SaclObjective()(batch).metrics
        assert metrics["regulation_weight_mean"].item() == pytest.approx(1.0, abs=1e-10)
        assert metrics["regulation_weight_mean"].item() == pytest.approx(np.mean(weights), abs=1e-10)
        assert metrics["regulation_weight_min"].item() == pytest.approx(min(weights), abs=1e-10)
        assert metrics["regulation_weight_p5"].item() == pytest.approx(np.percentile(weights, 5), abs=1e-10)
        assert metrics["regulation_strength"].item() == pytest.approx(1.7)
        assert all(not value.requires_grad and value.dim() == 0 for value in metrics.values())

    def test_percentile_of_very_many_weights_is_sampled(self):
        batch, _ = make_batch(batch_size=200, queued=301, dim=8)  # 200,400 weights
        metrics = SaclObjective()(batch).metrics
        weights = torch.cat([w.exp()[~batch.positive_mask] for w in SaclObjective().get_log_weights(batch)])
        assert metrics["regulation_weight_p5"].item() == pytest.approx(np.percentile(weights, 5), rel=0.02)

    def test_filter_removes_what_is_under_the_threshold(self):
        batch, _ = make_batch(batch_size=7, queued=9)
        negatives = ~batch.positive_mask
        weights = [w.exp() for w in SaclObjective().get_log_weights(batch)]
        filtered = SaclObjective(filter_threshold=0.8)
        for weight, kept in zip(weights, filtered.get_log_weights(batch), strict=True):
            assert torch.equal((kept == -torch.inf), (weight < 0.8) & negatives)
            assert set(kept[negatives].unique().tolist()) == {-torch.inf, 0.0}
            assert not kept[~negatives].any()
        share = torch.stack([(weight < 0.8)[negatives].double().mean() for weight in weights]).mean()
        assert filtered(batch).metrics["filtered_negatives"].item() == pytest.approx(share.item(), abs=1e-6)

    @pytest.mark.parametrize("objective", [SaclObjective(), SaclObjective(filter_threshold=0.5)])
    def test_without_a_negative_metrics_are_undefined_and_the_loss_is_not(self, objective):
        batch, _ = make_batch(queued=0)
        anchors = batch.student.anchors._replace(pair_ids=torch.zeros(5, dtype=torch.int64))
        batch = replace(batch, student=Comparison(anchors, (anchors,)), teacher=None)
        output = objective(batch)
        assert output.losses["itc_loss"].isfinite()
        strength = output.metrics.pop("regulation_strength")
        assert strength.item() == pytest.approx(1.7)
        assert all(value.isnan() for value in output.metrics.values()), output.metrics


class TestAlbef:
    @pytest.mark.parametrize("objective", [AlbefObjective(), DistilledSaclObjective()])
    def test_without_a_teacher_raises(self, objective):
        batch, _ = make_batch(teacher=False)
        with pytest.raises(ValueError, match=f"{objective.name}.*momentum teacher"):
            objective(batch)

    @pytest.mark.parametrize(
        ("distilled", "plain"), [(AlbefObjective(), InfoNCEObjective()), (DistilledSaclObjective(), SaclObjective())]
    )
    def test_share_zero_has_the_hard_targets(self, distilled, plain):
        batch, _ = make_batch(share=0.0)
        torch.testing.assert_close(distilled(batch).losses["itc_loss"], plain(batch).losses["itc_loss"])

    def test_share_one_is_the_teacher_alone(self):
        batch, _ = make_batch(share=1.0)
        for target, similarity in zip(AlbefObjective().get_targets(batch), batch.teacher_similarity, strict=True):
            torch.testing.assert_close(target, (4.0 * similarity).softmax(dim=-1))

    def test_targets_are_distributions(self):
        batch, _ = make_batch()
        for target in AlbefObjective().get_targets(batch):
            assert (target > 0).all()
            torch.testing.assert_close(target.sum(dim=-1), torch.ones(len(target), dtype=torch.float64))


class TestDistillationLoss:
    def test_is_the_cross_entropy_with_the_teacher_where_there_is_a_label(self):
        generator = torch.Generator().manual_seed(0)
        student, teacher = (torch.randn(3, 4, 7, generator=generator, dtype=torch.float64) for _ in range(2))
        labels = torch.randint(7, (3, 4), generator=generator)
        labels[0, 1] = labels[2, 3] = labels[1, 0] = -100
        student.requires_grad_()
        losses, gradient = [], np.zeros((3, 4, 7))
        for row in range(3):
            for column in range(4):
                if labels[row, column] == -100:
                    continue
                ours, theirs = (
                    [math.exp(value) for value in logits[row, column].tolist()] for logits in (student, teacher)
                )
                ours, theirs = [v / math.fsum(ours) for v in ours], [v / math.fsum(theirs) for v in theirs]
                losses.append(-math.fsum(t * math.log(s) for s, t in zip(ours, theirs, strict=True)))
                gradient[row, column] = np.array(ours) - np.array(theirs)
        loss = distillation_loss(student, teacher.requires_grad_(), labels)
        loss.backward()
        assert loss.item() == pytest.approx(math.fsum(losses) / 9, abs=1e-10)
        np.testing.assert_allclose(student.grad, gradient / 9, atol=1e-10)
        assert teacher.grad is None

    def test_without_labels_is_zero_with_gradient_zero(self):
        student = torch.randn(2, 3, 5, requires_grad=True)
        loss = distillation_loss(student, torch.randn(2, 3, 5), torch.full((2, 3), -100))
        loss.backward()
        assert loss.item() == 0.0
        assert not student.grad.any()


class TestSelfDescription:
    def test_keys_are_the_names(self):
        others = ["dcl", "debiased", "hcl", "gist", "xclr", "cwcl", "softclip"]
        pairwise, with_extra_texts = ["siglip", "filter", "multi_positive", "graded"], ["negclip", "one_to_k"]
        assert list(OBJECTIVES) == OF_THIS_FILE + others + pairwise + with_extra_texts
        assert all(name == objective.name for name, objective in OBJECTIVES.items())

    @pytest.mark.parametrize("name", OBJECTIVES)
    def test_says_its_formula_and_its_source(self, name):
        objective = OBJECTIVES[name]
        docstring = vars(objective)["__doc__"]
        formulas = [line for line in docstring.splitlines() if line.startswith("        ") and " = " in line]
        assert formulas, "a docstring without a formula"
        assert "Source: " in docstring and "arXiv" in docstring
        assert objective.citation.startswith("@")
        assert objective.citation.count("{") == objective.citation.count("}")
        published = "howpublished" if objective.citation.startswith("@misc") else "booktitle"
        for entry in ("title", "author", published, "year"):
            assert f"{entry} = " in objective.citation

    @pytest.mark.parametrize("name", OF_THIS_FILE)
    def test_settings_come_from_the_arguments_and_can_be_written_down(self, name):
        objective = OBJECTIVES[name].from_arguments(SimpleNamespace(filter_threshold=0.25, regulation_quantile=None))
        assert isinstance(objective, OBJECTIVES[name])
        settings = json.loads(json.dumps(objective.get_config_dict()))
        expected = {"filter_threshold": 0.25, "regulation_quantile": None}
        assert settings == (expected if "sacl" in name else {})

    def test_an_objective_of_ones_own_overrides_a_seam(self):
        class Sharpened(ContrastiveObjective):
            def get_logits(self, batch):
                return tuple(2 * logits for logits in super().get_logits(batch))

        batch, _ = make_batch()
        doubled = replace(batch, logit_scale=2 * batch.logit_scale)
        torch.testing.assert_close(
            Sharpened()(batch).losses["itc_loss"], InfoNCEObjective()(doubled).losses["itc_loss"]
        )
