# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The terms beside an objective: against their formulas as loops over numbers, and in trainings."""

import json
import math
import os

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from modeling_sacl import SaclModel
from tests.trainer.dual_encoders import make_dual_encoder
from trainer import TERMS, SaclTrainer, SaclTrainingArguments
from trainer.momentum import FrozenCopy
from trainer.objectives import Comparison, InfoNCEObjective
from trainer.queue import PairFeatures
from trainer.run_facts import collect_facts, describe_objective
from trainer.saving import TRAINING_STATE_NAME
from trainer.terms import AlignmentUniformityTerm, OffDiagonalTerm, TermBatch
from trainer.terms.alignment_uniformity import uniformity


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
    )


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


SETTINGS = {
    "alignment_uniformity": (AlignmentUniformityTerm(), alignment_uniformity_reference),
    "off_diagonal": (OffDiagonalTerm(), off_diagonal_reference),
    "off_diagonal, cold": (OffDiagonalTerm(0.07), lambda batch: off_diagonal_reference(batch, 0.07)),
}


def leaves_of(batch):
    return [*batch.student.anchors[:2], batch.logit_scale]


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
    def test_only_the_student_gets_a_gradient(self, setting):
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
        with pytest.raises(ValueError, match="`off_diagonal`.*there is none"):
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


WEIGHTS = {"alignment_uniformity_weight": 0.3, "off_diagonal_weight": 2.0, "off_diagonal_temperature": 0.1}


def curves(trainer, name):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


class TestTraining:
    @pytest.fixture
    def trained(self, make_trainer, make_model, pairs):
        def run(model=None, **options):
            trainer = make_trainer(
                make_model(SaclModel) if model is None else model,
                **{**CONTRAST, "objective": "infonce", "queue_size": 7, "max_steps": 3, **options},
                trainer_options={"eval_dataset": pairs},
            )
            trainer.train()
            return trainer

        return run

    def test_weight_zero_changes_nothing(self, trained):
        """Bit for bit, and nothing more is logged."""
        plain, off = trained(), trained(**dict.fromkeys(WEIGHTS, 0.0) | {"off_diagonal_temperature": 0.1})
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
        assert metrics["eval_loss"] == pytest.approx(
            metrics["eval_itc_loss"] + WEIGHTS[weight] * metrics[f"eval_{name}"], abs=1e-4
        )

    def test_the_queue_takes_no_part(self, trained):
        with_queue, without = (trained(**WEIGHTS, queue_size=size, itc_weight=0.0) for size in (7, 0))
        assert len(with_queue.queue) == 7
        assert curves(with_queue, "loss") == curves(without, "loss")

    def test_gradient_caching_changes_nothing(self, trained):
        whole, chunks = trained(**WEIGHTS), trained(**WEIGHTS, contrastive_chunk_size=4)
        for name in ("loss", "alignment_uniformity_loss", "off_diagonal_loss"):
            assert curves(chunks, name) == pytest.approx(curves(whole, name), abs=1e-5), name
        for name, tensor in whole.model.state_dict().items():
            torch.testing.assert_close(chunks.model.state_dict()[name], tensor, atol=1e-5, rtol=0)

    def test_a_loss_that_is_not_finite_is_named(self, trained, monkeypatch):
        def broken(cosines, targets):
            return cosines.sum() * torch.nan

        monkeypatch.setattr("trainer.terms.alignment_uniformity.alignment", broken)
        with pytest.raises(FloatingPointError, match="alignment_uniformity_loss is not finite"):
            trained(alignment_uniformity_weight=1.0)

    @pytest.mark.parametrize("family", ["clip", "siglip2"])
    def test_any_dual_encoder(self, family, tiny_tokenizer, make_arguments, pairs):
        model, processor = make_dual_encoder(family, tiny_tokenizer)
        args = make_arguments(**CONTRAST, **WEIGHTS, objective="infonce")
        trainer = SaclTrainer(model, args, train_dataset=pairs, processing_class=processor)
        trainer.train()
        assert all(math.isfinite(value) for value in curves(trainer, "off_diagonal_loss"))


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
