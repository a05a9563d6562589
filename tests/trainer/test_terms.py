# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The terms beside an objective: against their formulas as loops over numbers, and in trainings."""

import json
import math
import os
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torchvision.transforms.v2.functional import pil_to_tensor

from modeling_sacl import SaclModel
from tests.trainer.conftest import draw_shape
from tests.trainer.dual_encoders import make_dual_encoder
from trainer import TERMS, PairCollator, SaclTrainer, SaclTrainingArguments
from trainer.data import swap_words
from trainer.data.seeding import ROW_SEED
from trainer.data.views import second_text, vary_words
from trainer.momentum import FrozenCopy
from trainer.objectives import Comparison, InfoNCEObjective
from trainer.queue import PairFeatures
from trainer.run_facts import collect_facts, describe_objective
from trainer.saving import TRAINING_STATE_NAME
from trainer.terms import (
    AlignmentUniformityTerm,
    Mixture,
    MixupTerm,
    OffDiagonalTerm,
    TermBatch,
    UnimodalSelfSupervisionTerm,
)
from trainer.terms.alignment_uniformity import uniformity
from trainer.terms.mixup import draw_mixture
from trainer.terms.rows import append_rows, take_rows_off


CONTRAST = {"itm_weight": 0.0, "mlm_weight": 0.0, "momentum": None}
# Ids repeat: rows 0 and 1 are one pair.
PAIR_IDS = torch.tensor([3, 3, 5, 7, 11])


def unit(*shape, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return nn.functional.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1).to(dtype)


def comparison(seed, dtype=torch.float64, pair_ids=PAIR_IDS, dim=3):
    images, texts = unit(2, len(pair_ids), dim, seed=seed, dtype=dtype)
    features = PairFeatures(images.requires_grad_(), texts.requires_grad_(), pair_ids)
    return Comparison(features, (features,))


def term_batch(seed=0, dtype=torch.float64, pair_ids=PAIR_IDS):
    """Five pairs as the model sees them, and as others do."""
    return TermBatch(
        student=comparison(seed, dtype, pair_ids),
        logit_scale=torch.tensor(4.0, dtype=dtype, requires_grad=True),
        reference=comparison(seed + 100, dtype, pair_ids, dim=4),
        views=(comparison(seed + 200, dtype, pair_ids).anchors,) * 2,
        mixture=(mixture(seed + 300, dtype, pair_ids),) * 2,
    )


def mixture(seed, dtype, pair_ids):
    """Each pair mixed with another, the last with itself."""
    generator = torch.Generator().manual_seed(seed)
    partner = torch.roll(torch.arange(len(pair_ids)), 1)
    partner[[0, -1]] = partner[[-1, 0]].clone()
    features = comparison(seed, dtype, pair_ids).anchors
    share = torch.rand(len(pair_ids), generator=generator, dtype=torch.float64).to(dtype)
    return Mixture(features.image_embeds, features.text_embeds, pair_ids, pair_ids[partner], share)


def square(left, right):
    return math.fsum((a - b) ** 2 for a, b in zip(left, right, strict=True))


def cosine(left, right):
    return math.fsum(a * b for a, b in zip(left, right, strict=True))


def features_of(compared):
    """Images, texts and ids as numbers."""
    return [tensor.tolist() for tensor in compared.anchors]


def alignment_uniformity_reference(batch):
    images, texts, ids = features_of(batch.student)
    size = len(ids)
    aligned = 0.0
    for i in range(size):
        positives = [j for j in range(size) if ids[j] == ids[i]]
        aligned += math.fsum(square(images[i], texts[j]) for j in positives) / len(positives) / size
    spread = 0.0
    for points in (images, texts):
        potentials = [
            math.exp(-2 * square(points[i], points[j])) for i in range(size) for j in range(size) if ids[i] != ids[j]
        ]
        spread += math.log(math.fsum(potentials) / len(potentials)) / 2
    return aligned + spread


def softmax(values):
    exponentials = [math.exp(value) for value in values]
    return [value / math.fsum(exponentials) for value in exponentials]


def off_diagonal_reference(batch, temperature=1.0):
    total = 0.0
    for ours, theirs in ((0, 1), (1, 0)):
        now, before = features_of(batch.student), features_of(batch.reference)
        ids = now[2]
        for i in range(len(ids)):
            rows = [[cosine(seen[ours][i], candidate) for candidate in seen[theirs]] for seen in (now, before)]
            best = max(range(len(ids)), key=lambda j: rows[1][j])
            if ids[best] == ids[i]:
                p, q = (softmax([value / temperature for value in row]) for row in reversed(rows))
                divergence = math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
                total += divergence / len(ids) / 2
    return total


def info_nce(anchors, candidates, targets, scale):
    """Cross-entropy with the targets of each anchor, as a mean over the anchors."""
    total = 0.0
    for anchor, row in zip(anchors, targets, strict=True):
        chances = softmax([scale * cosine(anchor, candidate) for candidate in candidates])
        total -= math.fsum(target * math.log(chance) for target, chance in zip(row, chances, strict=True))
    return total / len(anchors)


def unimodal_reference(batch):
    *ours, ids = features_of(batch.student)
    theirs = [tensor.tolist() for tensor in batch.views[0][:2]]
    total, scale = 0.0, batch.logit_scale.item()
    for i in range(len(ids)):
        others = [j for j in range(len(ids)) if ids[j] != ids[i]]
        for side in (0, 1):
            chances = softmax([scale * cosine(ours[side][i], theirs[side][j]) for j in (i, *others)])
            total -= math.log(chances[0]) / 2 / len(ids)
    return total


def mixup_reference(batch):
    images, texts, ids = features_of(batch.student)
    mixed_images, mixed_texts, _, partners, shares = (tensor.tolist() for tensor in batch.mixture[0])
    size, scale = len(ids), batch.logit_scale.item()
    parts = [[0.0] * size for _ in range(size)]
    for i in range(size):
        for k in range(size):
            parts[i][k] += shares[i] / ids.count(ids[i]) * (ids[k] == ids[i])
            parts[i][k] += (1 - shares[i]) / ids.count(partners[i]) * (ids[k] == partners[i])
    columns = [list(column) for column in zip(*parts, strict=True)]
    return math.fsum(
        info_nce(mixed, others, parts, scale) / 4 + info_nce(others, mixed, columns, scale) / 4
        for mixed, others in ((mixed_images, texts), (mixed_texts, images))
    )


SETTINGS = {
    "alignment_uniformity": (AlignmentUniformityTerm(), alignment_uniformity_reference),
    "unimodal_self_supervision": (UnimodalSelfSupervisionTerm(), unimodal_reference),
    "mixup": (MixupTerm(), mixup_reference),
    "off_diagonal": (OffDiagonalTerm(), off_diagonal_reference),
    "off_diagonal, cold": (OffDiagonalTerm(0.07), lambda batch: off_diagonal_reference(batch, 0.07)),
}


def leaves_of(batch):
    return [*batch.student.anchors[:2], *batch.views[0][:2], *batch.mixture[0][:2], batch.logit_scale]


class TestFormulas:
    @pytest.mark.parametrize("seed", range(5))
    @pytest.mark.parametrize("setting", SETTINGS)
    def test_loss_is_that_of_the_formula(self, setting, seed):
        term, reference = SETTINGS[setting]
        batch = term_batch(seed)
        output = term(batch)
        assert list(output.losses) == [f"{term.name}_loss"]
        assert output.losses[f"{term.name}_loss"].item() == pytest.approx(reference(batch), abs=1e-10, rel=0)
        assert not any(value.requires_grad for value in output.metrics.values())

    @pytest.mark.parametrize("setting", SETTINGS)
    def test_gradients_are_the_slopes_of_the_formula(self, setting):
        term, reference = SETTINGS[setting]
        batch = term_batch(seed=3)
        term(batch).losses[f"{term.name}_loss"].backward()
        step = 1e-6
        for leaf in leaves_of(batch):
            gradient = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
            slopes = torch.zeros_like(leaf)
            for place in range(leaf.numel()):
                values = []
                for change in (step, -step):
                    with torch.no_grad():
                        leaf.view(-1)[place] += change
                        values.append(reference(batch))
                        leaf.view(-1)[place] -= change
                slopes.view(-1)[place] = (values[0] - values[1]) / (2 * step)
            if term.name == "alignment_uniformity":
                # It takes `2 - 2 cos` for the distance, whose slope off the sphere is another: compare along it.
                gradient, slopes = (along_the_sphere(leaf, tensor) for tensor in (gradient, slopes))
            torch.testing.assert_close(gradient, slopes, atol=1e-8, rtol=0)

    @pytest.mark.parametrize("setting", SETTINGS)
    def test_the_model_of_the_beginning_gets_no_gradient(self, setting):
        term, _ = SETTINGS[setting]
        batch = term_batch(seed=3)
        term(batch).losses[f"{term.name}_loss"].backward()
        assert all(tensor.grad is None for tensor in batch.reference.anchors[:2])
        assert all(tensor.grad.abs().max() > 0 for tensor in batch.student.anchors[:2])

    @pytest.mark.parametrize("setting", SETTINGS)
    def test_half_precision_is_computed_in_float32(self, setting):
        term, reference = SETTINGS[setting]
        batch = term_batch(dtype=torch.bfloat16)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = term(batch).losses[f"{term.name}_loss"]
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(reference(batch), abs=1e-2 if "uniformity" in setting else 1e-5)

    @pytest.mark.parametrize("setting", SETTINGS)
    def test_garbage_is_not_hidden(self, setting):
        term, _ = SETTINGS[setting]
        batch = term_batch()
        with torch.no_grad():
            batch.student.anchors.text_embeds[2] = torch.nan
        assert term(batch).losses[f"{term.name}_loss"].isnan()

    @pytest.mark.parametrize("setting", SETTINGS)
    def test_one_pair_alone_has_a_finite_loss_and_gradient(self, setting):
        term, _ = SETTINGS[setting]
        batch = term_batch(pair_ids=torch.tensor([4, 4]))
        loss = term(batch).losses[f"{term.name}_loss"]
        loss.backward()
        assert loss.isfinite()
        assert all(leaf.grad is None or leaf.grad.isfinite().all() for leaf in leaves_of(batch))


def along_the_sphere(leaf, tensor):
    if leaf.dim() < 2:
        return tensor
    return tensor - (tensor * leaf).sum(dim=-1, keepdim=True) * leaf.detach()


class TestAlignmentUniformity:
    def test_uniformity_is_that_of_the_metric(self):
        """The `evaluate` module of this package, and distances by torch."""
        points = unit(20, 6, seed=1)
        value = uniformity(points, torch.arange(20), points, torch.arange(20))
        assert value.item() == pytest.approx(torch.pdist(points).pow(2).mul(-2).exp().mean().log().item(), abs=1e-12)

    def test_is_least_where_pairs_meet_and_all_else_is_far(self):
        opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
        features = PairFeatures(opposite, opposite, torch.arange(2))
        output = AlignmentUniformityTerm()(TermBatch(Comparison(features, (features,)), torch.tensor(1.0)))
        assert output.losses["alignment_uniformity_loss"].item() == pytest.approx(-8.0, abs=1e-6)
        assert output.metrics["alignment"].item() == pytest.approx(0.0, abs=1e-6)

    def test_closes_the_gap_that_the_contrast_leaves(self):
        """Gradient descent on free points: images and texts start in two cones."""

        def gap_after(weight):
            generator = torch.Generator().manual_seed(0)
            side = torch.nn.functional.one_hot(torch.tensor(0), 8).float()
            images = (side + 0.1 * torch.randn(16, 8, generator=generator)).requires_grad_()
            texts = (-side + 0.1 * torch.randn(16, 8, generator=generator)).requires_grad_()
            optimizer = torch.optim.Adam([images, texts], lr=0.03)
            for _ in range(150):
                embeds = [nn.functional.normalize(points, dim=-1) for points in (images, texts)]
                features = PairFeatures(*embeds, torch.arange(16))
                logits = 30 * embeds[0] @ embeds[1].T
                contrast = sum(nn.functional.cross_entropy(matrix, torch.arange(16)) for matrix in (logits, logits.T))
                batch = TermBatch(Comparison(features, (features,)), torch.tensor(30.0))
                loss = contrast / 2 + weight * AlignmentUniformityTerm()(batch).losses["alignment_uniformity_loss"]
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            return (embeds[0].mean(dim=0) - embeds[1].mean(dim=0)).norm().item()

        assert gap_after(1.0) < 0.2 * gap_after(0.0)


class TestOffDiagonal:
    def test_an_unchanged_model_has_loss_zero(self):
        batch = term_batch()
        batch.reference = batch.student
        output = OffDiagonalTerm(0.05)(batch)
        assert output.losses["off_diagonal_loss"].item() == pytest.approx(0.0, abs=1e-12)

    def test_rows_that_were_wrong_are_left_out(self):
        batch = term_batch()
        features = batch.student.anchors
        # Every image is nearest to the text of another pair, and every text to the image of another.
        wrong = PairFeatures(features.image_embeds, features.image_embeds.roll(2, dims=0), PAIR_IDS)
        batch.reference = Comparison(wrong, (wrong,))
        output = OffDiagonalTerm()(batch)
        assert output.losses["off_diagonal_loss"].item() == 0.0
        assert output.metrics["off_diagonal_kept"].item() == 0.0

    def test_holds_the_similarities_of_others(self):
        """Gradient descent on free points, whose pairs are near each other from the start."""

        def drift_with(weight):
            start = comparison(seed=5, pair_ids=torch.arange(12), dim=4).anchors.image_embeds.detach()
            images, texts = start.clone().requires_grad_(), start.clone().requires_grad_()
            before = PairFeatures(start, start, torch.arange(12))
            optimizer = torch.optim.Adam([images, texts], lr=0.02)
            for _ in range(60):
                embeds = [nn.functional.normalize(points, dim=-1) for points in (images, texts)]
                now = PairFeatures(*embeds, torch.arange(12))
                batch = TermBatch(Comparison(now, (now,)), torch.tensor(10.0), reference=Comparison(before, (before,)))
                contrast = InfoNCEObjective()(batch).losses["itc_loss"]
                loss = contrast + weight * OffDiagonalTerm(0.1)(batch).losses["off_diagonal_loss"]
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            return (embeds[0] @ embeds[1].T - start @ start.T).abs().mean().item()

        assert drift_with(20.0) < 0.3 * drift_with(0.0)

    def test_without_a_reference_raises(self):
        batch = term_batch()
        batch.reference = None
        with pytest.raises(ValueError, match="`reference`.*there is none"):
            OffDiagonalTerm()(batch)

    @pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
    def test_temperature_is_above_zero(self, temperature):
        with pytest.raises(ValueError, match="`temperature` must be above 0"):
            OffDiagonalTerm(temperature)


class TestSelfDescription:
    def test_keys_are_the_names(self):
        assert all(name == term.name for name, term in TERMS.items())

    @pytest.mark.parametrize("name", TERMS)
    def test_says_its_formula_and_its_source(self, name):
        docstring = vars(TERMS[name])["__doc__"]
        assert [line for line in docstring.splitlines() if line.startswith("        ") and " = " in line]
        assert "Source: " in docstring and "arXiv" in docstring
        citation = TERMS[name].citation
        assert citation.startswith("@") and citation.count("{") == citation.count("}")
        assert all(f"{entry} = " in citation for entry in ("title", "author", "year"))
        assert "Args:" not in describe_objective(TERMS[name])

    @pytest.mark.parametrize("name", TERMS)
    def test_is_an_argument_that_is_off(self, name, tmp_path):
        assert getattr(SaclTrainingArguments(str(tmp_path), use_cpu=True), f"{name}_weight") == 0
        with pytest.raises(ValueError, match=f"`{name}_weight` must be between 0"):
            SaclTrainingArguments(str(tmp_path), use_cpu=True, **{f"{name}_weight": -1.0})

    def test_settings_come_from_the_arguments_and_can_be_written_down(self, make_arguments):
        arguments = make_arguments(off_diagonal_temperature=0.05)
        settings = [TERMS[name].from_arguments(arguments).get_config_dict() for name in TERMS]
        assert {"off_diagonal_temperature": 0.05} in json.loads(json.dumps(settings))

    def test_stands_on_the_card(self, make_trainer, make_model):
        trainer = make_trainer(make_model(SaclModel), **CONTRAST, off_diagonal_weight=2.0, objective="infonce")
        objective = collect_facts(trainer, pictures=False).objective
        assert objective.name == "infonce"
        assert objective.settings["off_diagonal_weight"] == 2.0
        assert "ni2023modx" in objective.citation and "radford2021clip" in objective.citation
        assert "Beside it the term `off_diagonal`" in objective.description


class TestArguments:
    @pytest.mark.parametrize("name", TERMS)
    def test_blocks_are_refused(self, make_arguments, name):
        with pytest.raises(ValueError, match=rf"`{name}_weight`.*`loss_block_size=4`"):
            make_arguments(loss_block_size=4, **{f"{name}_weight": 1.0})
        make_arguments(loss_block_size=4)

    @pytest.mark.parametrize("name", ["unimodal_self_supervision", "mixup"])
    def test_cached_towers_are_refused(self, make_arguments, name):
        with pytest.raises(ValueError, match=f"`cache_locked_towers`.*`{name}_weight`"):
            make_arguments(lock_vision=True, cache_locked_towers=True, **{f"{name}_weight": 1.0})


class TestDrawnMixtures:
    def test_images_are_mixed_in_their_shares(self):
        torch.manual_seed(0)
        inputs = {"pixel_values": torch.randn(6, 3, 4, 4, dtype=torch.float64), "pair_ids": torch.arange(6)}
        drawn = draw_mixture(inputs, alpha=0.5)
        for row in range(6):
            share, partner = drawn["mixup_share"][row].item(), drawn["mixup_partner"][row].item()
            expected = share * inputs["pixel_values"][row] + (1 - share) * inputs["pixel_values"][partner]
            torch.testing.assert_close(drawn["mixed_pixel_values"][row], expected, atol=1e-12, rtol=0)
        assert sorted(drawn["mixup_partner"].tolist()) == list(range(6))

    @pytest.mark.parametrize("alpha", [0.15, 1.0, 5.0])
    def test_shares_have_the_moments_of_the_distribution(self, alpha):
        torch.manual_seed(0)
        inputs = {"pixel_values": torch.zeros(20_000, 1), "pair_ids": torch.arange(20_000)}
        share = draw_mixture(inputs, alpha)["mixup_share"]
        assert share.mean().item() == pytest.approx(0.5, abs=0.02)
        assert share.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.05)

    def test_any_floats_are_images(self):
        term = MixupTerm()
        batch = {"pixel_values": torch.randn(4, 7), "pair_ids": torch.arange(4)}
        assert term.prepare(batch)["mixed_pixel_values"].shape == (4, 7)
        for wrong in ({}, {"pixel_values": torch.zeros(4, 7, dtype=torch.uint8)}):
            with pytest.raises(ValueError, match="`mixup_weight` mixes `pixel_values`"):
                term.prepare({"pair_ids": torch.arange(4), **wrong})

    @pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan")])
    def test_alpha_is_above_zero(self, alpha):
        with pytest.raises(ValueError, match="`alpha`.*above 0"):
            MixupTerm(alpha)


class TestRows:
    def test_stand_behind_the_pairs_and_are_taken_off(self):
        inputs = {name: torch.randn(2, 3) for name in ("pixel_values", "view_pixel_values", "mixed_pixel_values")}
        inputs |= {"input_ids": torch.arange(8).view(2, 4), "view_input_ids": -torch.arange(8).view(2, 4)}
        inputs["pair_ids"] = torch.arange(2)
        widened = append_rows(inputs, ("view_", "mixed_"))
        assert set(widened) == {"pixel_values", "input_ids", "pair_ids"}
        outputs = {"image_embeds": widened["pixel_values"].clone(), "text_embeds": widened["input_ids"].clone()}
        outputs = take_rows_off(outputs, inputs, ("view_", "mixed_"))
        for name, source in (("image_embeds", "pixel_values"), ("text_embeds", "input_ids")):
            for prefix in ("", "view_", "mixed_"):
                if prefix + source in inputs:
                    assert torch.equal(outputs[prefix + name], inputs[prefix + source])
        assert "mixed_text_embeds" not in outputs

    def test_what_no_term_wants_is_left_out(self):
        inputs = {name: torch.randn(2, 3) for name in ("pixel_values", "view_pixel_values")}
        assert append_rows(inputs, ()).keys() == {"pixel_values"}

    def test_what_does_not_fit_is_named(self):
        texts = {"input_ids": torch.zeros(2, 4), "view_input_ids": torch.zeros(2, 5)}
        with pytest.raises(ValueError, match=r"`view_input_ids`, of shape \(2, 5\).*shape \(2, 4\)"):
            append_rows(texts, ("view_",))
        with pytest.raises(ValueError, match="no `view_attention_mask`"):
            append_rows({**texts, "attention_mask": torch.ones(2, 4)}, ("view_",))


class TestSecondViews:
    def rows(self, **columns):
        pictures = [draw_shape("red", "bus"), draw_shape("blue", "cat")]
        return [{"image": picture, ROW_SEED: 7 + number, **columns} for number, picture in enumerate(pictures)]

    def collator(self, processor, **options):
        return replace(PairCollator(processor, **options).for_training(), second_views=True)

    def test_first_views_are_what_they_are_without(self, tiny_processor):
        rows = self.rows(captions=["a red bus", "a blue cat", "a green dog"])
        collator = self.collator(tiny_processor)
        with_views, without = collator(rows), replace(collator, second_views=False)(rows)
        assert torch.equal(with_views["pixel_values"], without["pixel_values"])
        assert torch.equal(with_views["input_ids"], without["input_ids"])
        assert set(with_views) - set(without) == {"view_pixel_values", "view_input_ids", "view_attention_mask"}

    def test_images_are_augmented_anew_and_texts_are_other_captions(self, tiny_processor):
        rows = self.rows(captions=["a red bus", "a blue cat"])
        batch = self.collator(tiny_processor)(rows)
        assert batch["view_pixel_values"].shape == batch["pixel_values"].shape
        assert not torch.equal(batch["view_pixel_values"], batch["pixel_values"])
        decode = tiny_processor.tokenizer.batch_decode
        first, second = (decode(batch[name], skip_special_tokens=True) for name in ("input_ids", "view_input_ids"))
        assert all({one, two} == {"a red bus", "a blue cat"} for one, two in zip(first, second, strict=True))
        again = self.collator(tiny_processor)(rows)
        assert all(torch.equal(batch[name], again[name]) for name in batch)

    def test_may_be_augmented_where_the_first_are_not(self, tiny_processor):
        rows = self.rows(caption="a red bus")
        plain = PairCollator(tiny_processor)
        augmented = plain.for_training()
        batch = replace(plain, second_views=True, view_transform=augmented.image_transform)(rows)
        assert torch.equal(batch["pixel_values"], plain(rows)["pixel_values"])
        # The first thing that is drawn for these rows, in either collator.
        assert torch.equal(batch["view_pixel_values"], augmented(rows)["pixel_values"])

    def test_evaluation_has_none(self, tiny_processor):
        batch = self.collator(tiny_processor).for_evaluation()(self.rows(caption="a red bus"))
        assert not any(name.startswith("view_") for name in batch)

    def test_without_augmentation_there_is_no_second_view(self, tiny_processor):
        with pytest.raises(ValueError, match="`second_views`.*`image_transform`"):
            PairCollator(tiny_processor, second_views=True)

    def test_words_are_left_out_or_swapped(self):
        torch.manual_seed(0)
        text = "one two three four five six seven eight nine ten"
        seen = [vary_words(text).split() for _ in range(200)]
        lengths = [len(words) for words in seen]
        assert set(lengths) == {9, 10} and 60 < lengths.count(9) < 140
        for words in seen:
            assert set(words) < set(text.split()) or sorted(words) == sorted(text.split())
            assert words != text.split()
        assert vary_words("one") == "one"
        assert sorted({vary_words("one two") for _ in range(50)}) == ["one", "two", "two one"]

    def test_a_caption_that_is_there_twice_is_no_other_caption(self):
        torch.manual_seed(0)
        assert {second_text(["a", "a", "b"], "a") for _ in range(20)} == {"b"}
        assert second_text(["word", "word"], "word") == "word"


WEIGHTS = {
    "alignment_uniformity_weight": 0.3,
    "unimodal_self_supervision_weight": 0.5,
    "off_diagonal_weight": 2.0,
    "off_diagonal_temperature": 0.1,
    "mixup_weight": 0.7,
    "mixup_alpha": 0.4,
}
# What evaluation, without second views and mixtures, measures too.
EVALUATED = ("alignment_uniformity_weight", "off_diagonal_weight")


@pytest.fixture
def view_collator(tiny_processor) -> PairCollator:
    """First views without chance; the second ones mirrored, and with words left out or swapped."""
    chance = {"caption_sampling": "first", "deterministic_masking": True, "second_views": True}
    return PairCollator(tiny_processor, MirrorTheSecond(), **chance)


class MirrorTheSecond:
    """Every other picture of a row is mirrored."""

    def __init__(self):
        self.calls = 0

    def __call__(self, image):
        self.calls += 1
        pixels = pil_to_tensor(image)
        return pixels if self.calls % 2 else pixels.flip(-1)


def curves(trainer, name):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


class TestTraining:
    @pytest.fixture
    def trained(self, make_trainer, make_model, pairs, view_collator):
        def run(model=None, **options):
            trainer = make_trainer(
                make_model(SaclModel) if model is None else model,
                **{**CONTRAST, "objective": "infonce", "queue_size": 7, "max_steps": 3, **options},
                trainer_options={"eval_dataset": pairs, "data_collator": view_collator},
            )
            trainer.train()
            return trainer

        return run

    def test_weight_zero_changes_nothing(self, trained):
        """Bit for bit, and nothing more is logged."""
        off = trained(**{name: 0.0 for name in WEIGHTS if name.endswith("_weight")}, mixup_alpha=2.0)
        plain = trained()
        assert off.terms == [] and off.reference is None
        assert curves(plain, "loss") == curves(off, "loss")
        names = [set(entry) for entry in plain.state.log_history]
        assert names == [set(entry) for entry in off.state.log_history]
        for name, tensor in plain.model.state_dict().items():
            assert torch.equal(tensor, off.model.state_dict()[name]), name

    @pytest.mark.parametrize("weight", [name for name in WEIGHTS if name.endswith("_weight")])
    def test_a_term_is_logged_and_weighs_in_the_loss(self, trained, weight):
        trainer = trained(per_device_eval_batch_size=12, **{weight: WEIGHTS[weight]})
        name = weight.replace("_weight", "_loss")
        rows = zip(curves(trainer, "loss"), curves(trainer, "itc_loss"), curves(trainer, name), strict=True)
        for total, contrast, loss in rows:
            assert total == pytest.approx(contrast + WEIGHTS[weight] * loss, abs=1e-4)
        metrics = trainer.evaluate()
        assert (f"eval_{name}" in metrics) == (weight in EVALUATED)
        metrics.setdefault(f"eval_{name}", 0.0)
        assert metrics["eval_loss"] == pytest.approx(
            metrics["eval_itc_loss"] + WEIGHTS[weight] * metrics[f"eval_{name}"], abs=1e-4
        )

    def test_the_queue_takes_no_part(self, trained):
        with_queue, without = (trained(**WEIGHTS, queue_size=size, itc_weight=0.0) for size in (7, 0))
        assert len(with_queue.queue) == 7
        assert curves(with_queue, "loss") == curves(without, "loss")

    def test_gradient_caching_changes_nothing(self, trained):
        whole, chunks = trained(**WEIGHTS), trained(**WEIGHTS, contrastive_chunk_size=4)
        for name in ("loss", *(f"{name}_loss" for name in TERMS)):
            assert len(curves(whole, name)) == 3
            assert curves(chunks, name) == pytest.approx(curves(whole, name), abs=1e-5), name
        for name, tensor in whole.model.state_dict().items():
            torch.testing.assert_close(chunks.model.state_dict()[name], tensor, atol=1e-5, rtol=0)

    def test_a_loss_that_is_not_finite_is_named(self, trained, monkeypatch):
        def broken(cosines, targets):
            return cosines.sum() * torch.nan

        monkeypatch.setattr("trainer.terms.alignment_uniformity.alignment", broken)
        with pytest.raises(FloatingPointError, match="alignment_uniformity_loss is not finite"):
            trained(alignment_uniformity_weight=1.0)

    @pytest.mark.parametrize("family", ["clip", "siglip", "vision_and_text"])
    def test_any_dual_encoder(self, family, tiny_tokenizer, make_arguments, pairs):
        """With the collator that the trainer makes."""
        model, processor = make_dual_encoder(family, tiny_tokenizer)
        args = make_arguments(**CONTRAST, **WEIGHTS, objective="infonce")
        trainer = SaclTrainer(model, args, train_dataset=pairs, processing_class=processor)
        assert trainer.data_collator.second_views and not trainer.eval_collator.second_views
        trainer.train()
        for name in TERMS:
            assert len(curves(trainer, f"{name}_loss")) == 2
            assert all(math.isfinite(value) for value in curves(trainer, f"{name}_loss"))

    def test_images_of_any_shape_are_not_mixed(self, tiny_tokenizer, make_arguments, pairs):
        model, processor = make_dual_encoder("siglip2", tiny_tokenizer)
        args = make_arguments(**CONTRAST, mixup_weight=1.0, objective="infonce")
        trainer = SaclTrainer(model, args, train_dataset=pairs, processing_class=processor)
        with pytest.raises(ValueError, match="`mixup_weight` mixes `pixel_values`.*spatial_shapes"):
            trainer.train()

    def test_the_model_is_called_once(self, make_trainer, make_model, view_collator, pairs):
        trainer = make_trainer(
            make_model(SaclModel),
            **CONTRAST | {"max_steps": 1},
            **WEIGHTS,
            trainer_options={"data_collator": view_collator},
        )
        calls = []
        trainer.model.register_forward_hook(
            lambda module, given, output: calls.append((len(output.image_embeds), len(output.text_embeds)))
        )
        trainer.train()
        assert calls == [(18, 12)]  # six pairs; as many second views of both, as many mixed images

    def test_matching_and_language_modeling_see_the_pairs_alone(self, make_trainer, make_model, view_collator, pairs):
        """With weights next to nothing, the losses are those of a training without terms."""
        options = {"momentum": None, "max_steps": 2, "trainer_options": {"data_collator": view_collator}}
        plain = make_trainer(**options)
        with_terms = make_trainer(unimodal_self_supervision_weight=1e-12, **options)
        for trainer in (plain, with_terms):
            trainer.train()
        for name in ("itc_loss", "itm_loss", "mlm_loss"):
            assert curves(with_terms, name) == pytest.approx(curves(plain, name), abs=1e-4), name
        mixed = make_trainer(mixup_weight=1.0, **options)
        mixed.train()
        assert all(math.isfinite(value) for value in curves(mixed, "loss"))

    @pytest.mark.parametrize("objective", ["negclip", "one_to_k"])
    def test_beside_texts_beyond_the_pairs(self, make_trainer, make_model, view_collator, objective):
        """Further texts of the objective, second views and mixtures in one forward, whole and in chunks."""
        options = {"negative_caption": swap_words} if objective == "negclip" else {"captions_per_image": 2}
        collator = replace(view_collator, **options)

        def run(**options):
            # Second views of no chance at all: both runs see the same.
            shared = {"data_collator": replace(collator, image_transform=MirrorTheSecond())}
            trainer = make_trainer(
                make_model(SaclModel), **CONTRAST, **WEIGHTS, objective=objective, trainer_options=shared, **options
            )
            trainer.train()
            return trainer

        whole, chunks = run(), run(contrastive_chunk_size=4)
        for name in ("loss", "itc_loss", *(f"{name}_loss" for name in TERMS)):
            assert len(curves(whole, name)) == 2
            assert curves(chunks, name) == pytest.approx(curves(whole, name), abs=1e-5), name

    def test_negatives_of_the_objective_are_those_without_views(self, view_collator, pairs):
        rows = [{**pairs[row], ROW_SEED: row} for row in range(4)]
        collator = replace(view_collator, negative_caption=swap_words)
        with_views, without = collator(rows), replace(collator, second_views=False)(rows)
        for name in ("negative_input_ids", "caption_ids", "negative_caption_ids"):
            assert torch.equal(with_views[name], without[name]), name

    @pytest.mark.parametrize("weight", ["unimodal_self_supervision_weight", "mixup_weight"])
    def test_a_resumed_run_draws_the_same(self, make_trainer, make_model, tiny_processor, tmp_path, weight):
        def start(folder, seed):
            options = {"save_strategy": "steps", "save_steps": 1, "output_dir": str(tmp_path / folder), "max_steps": 3}
            collator = PairCollator(tiny_processor, mlm_probability=0.0).for_training()
            return make_trainer(
                make_model(SaclModel, seed=seed),
                **CONTRAST,
                **options,
                **{weight: 1.0},
                trainer_options={"data_collator": replace(collator, second_views=True)},
            )

        whole = start("whole", 0)
        whole.train()
        resumed = start("resumed", 5)
        resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-1"))
        assert curves(resumed, "loss") == curves(whole, "loss")
        for name, tensor in whole.model.state_dict().items():
            assert torch.equal(tensor, resumed.model.state_dict()[name]), name

    def test_a_collator_without_second_views_is_refused(self, make_trainer, make_model, plain_collator):
        options = {**CONTRAST, "unimodal_self_supervision_weight": 1.0}
        with pytest.raises(ValueError, match="second_views=True"):
            make_trainer(make_model(SaclModel), **options)
        # Of a collator that is not ours it is seen in the first batch.
        trainer = make_trainer(
            make_model(SaclModel), **options, trainer_options={"data_collator": lambda rows: plain_collator(rows)}
        )
        with pytest.raises(ValueError, match="needs `view_pixel_values` and `view_input_ids`.*has `pixel_values`"):
            trainer.train()


class TestReference:
    OPTIONS = {**CONTRAST, "off_diagonal_weight": 2.0, "off_diagonal_temperature": 0.1, "max_steps": 4}

    def test_is_the_model_of_the_beginning(self, make_trainer, make_model):
        trainer = make_trainer(make_model(SaclModel), **self.OPTIONS)
        trainer.train()
        start = make_model(SaclModel).state_dict()
        for name, tensor in trainer.reference.model.state_dict().items():
            assert torch.equal(tensor, start[name])
        assert not torch.equal(trainer.model.visual_projection.weight, start["visual_projection.weight"])
        assert not any(parameter.requires_grad for parameter in trainer.reference.model.parameters())

    def test_a_resumed_run_compares_with_the_same_model(self, make_trainer, make_model, tmp_path):
        """Started from other weights, which are those of the checkpoint as soon as it resumes."""

        def start(folder, seed):
            options = {"save_strategy": "steps", "save_steps": 2, "output_dir": str(tmp_path / folder)}
            return make_trainer(make_model(SaclModel, seed=seed), **self.OPTIONS, **options)

        whole = start("whole", 0)
        whole.train()
        resumed = start("resumed", 5)
        resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
        assert curves(resumed, "off_diagonal_loss") == curves(whole, "off_diagonal_loss")
        for name, tensor in whole.model.state_dict().items():
            assert torch.equal(tensor, resumed.model.state_dict()[name]), name
        saved = load_file(os.path.join(tmp_path, "whole", "checkpoint-4", TRAINING_STATE_NAME))
        assert torch.equal(saved["reference.visual_projection.weight"], make_model(SaclModel).visual_projection.weight)

    def test_a_checkpoint_without_it_is_refused(self, make_trainer, make_model, tmp_path):
        options = {"save_strategy": "steps", "save_steps": 2}
        make_trainer(make_model(SaclModel), **self.OPTIONS | {"off_diagonal_weight": 0.0}, **options).train()
        resumed = make_trainer(make_model(SaclModel), **self.OPTIONS, **options)
        with pytest.raises(ValueError, match="saved copy of the model is not of this model: missing"):
            resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))

    def test_what_is_frozen_is_shared(self):
        model = nn.Sequential(nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, 2))
        copied = FrozenCopy(model)
        assert copied.model[0].weight is model[0].weight and copied.model[1].weight is not model[1].weight
        assert sorted(copied.state_dict()) == ["1.bias", "1.weight"]
