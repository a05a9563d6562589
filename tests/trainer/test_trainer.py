# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The trainer: each loss against a computation by hand, each run against another that must agree with it."""

import copy
import json
import math
import os
from collections import Counter

import numpy as np
import pytest
import torch
from datasets import Dataset, Image
from safetensors.torch import load_file, safe_open
from torch import nn
from torch.nn import functional as F
from transformers import (
    AutoModel,
    AutoModelForPreTraining,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from modeling_sacl import SaclForImageTextRetrieval, SaclForPreTraining, SaclModel, SaclProcessor
from modeling_sacl.retrieval_sacl import sample_hard_negatives
from trainer import OBJECTIVES, PairCollator, SaclTrainer, evaluate_retrieval


STATE_FILE = "sacl_training_state.safetensors"
# The fastest training there is: contrast alone, no teacher.
CONTRAST = {"objective": "infonce", "momentum": None, "itm_weight": 0.0, "mlm_weight": 0.0}
# One plain step of gradient descent.
GRADIENT_DESCENT = {
    "optim": "sgd",
    "learning_rate": 0.1,
    "weight_decay": 0.0,
    "max_grad_norm": 0.0,
    "lr_scheduler_type": "constant",
    "warmup_steps": 0,
}
TIMES = ("runtime", "samples_per_second", "steps_per_second", "preparation_time")


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def step_logs(trainer):
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def without_times(metrics):
    return {name: value for name, value in metrics.items() if not name.endswith(TIMES)}


def disturb(model, scale=0.05, seed=1):
    """So that the model is not its teacher."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


def count_calls(*modules):
    """How often each module is called from now on."""
    counts = Counter()
    for position, module in enumerate(modules):
        module.register_forward_hook(lambda *_, position=position: counts.update([position]))
    return counts


def watch_objective(trainer):
    """The contrastive batches that the objective is given from now on."""
    seen, objective = [], trainer.objective

    def watching(batch, block_size):
        seen.append(batch)
        return objective(batch, block_size)

    trainer.objective = watching
    return seen


def tiny_clip(without_dropout):
    set_seed(0)
    text = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 37}
    text |= {"vocab_size": 99, "max_position_embeddings": 64, "eos_token_id": 3}
    vision = {"hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 50}
    vision |= {"image_size": 32, "patch_size": 8}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=20))


def tiny_sacl(without_dropout):
    set_seed(0)
    return SaclModel(without_dropout)


class TestTraining:
    @pytest.mark.parametrize("objective", ["sacl", "infonce", "albef", "sacl_distilled"])
    def test_loss_falls_and_every_parameter_moves(self, make_trainer, pairs, objective):
        trainer = make_trainer(
            objective=objective,
            queue_size=8,
            momentum=0.9,
            max_steps=25,
            learning_rate=2e-3,
            vision_learning_rate=1e-3,
            trainer_options={"eval_dataset": pairs},
        )
        before, metrics_before = weights(trainer.model), trainer.evaluate()
        trainer.train()
        metrics_after = trainer.evaluate()
        # Soft targets have an entropy of their own, under which the loss cannot fall.
        itc_factor = 1.0 if OBJECTIVES[objective].needs_teacher else 0.95
        for name, factor in {"loss": 0.97, "itc_loss": itc_factor, "mlm_loss": 0.95}.items():
            assert metrics_after[f"eval_{name}"] < factor * metrics_before[f"eval_{name}"], name
        unmoved = [name for name, now in weights(trainer.model).items() if torch.equal(now, before[name])]
        assert not unmoved
        teacher = weights(trainer.teacher.model)
        assert not any(torch.equal(teacher[name], before[name]) for name in teacher)
        assert not any(torch.equal(teacher[name], now) for name, now in weights(trainer.model).items())
        assert len(trainer.queue) == 8

    @pytest.mark.parametrize("make", [tiny_clip, tiny_sacl])
    @pytest.mark.parametrize("objective", ["sacl", "albef"])
    def test_a_dual_encoder_trains_with_contrast_alone(self, make_trainer, without_dropout, pairs, make, objective):
        trainer = make_trainer(
            make(without_dropout),
            objective=objective,
            queue_size=8,
            max_steps=15,
            learning_rate=2e-3,
            trainer_options={"eval_dataset": pairs},
        )
        before, metrics_before = weights(trainer.model), trainer.evaluate()
        trainer.train()
        assert trainer.evaluate()["eval_loss"] < metrics_before["eval_loss"]
        logs = step_logs(trainer)[-1]
        assert logs["loss"] == pytest.approx(logs["itc_loss"], rel=1e-5)
        assert "itm_loss" not in logs and "mlm_loss" not in logs
        moved = [name for name, now in weights(trainer.model).items() if not torch.equal(now, before[name])]
        assert any("vision_model." in name for name in moved) and any("text_model." in name for name in moved)
        # SaclModel carries a fusion encoder that contrast has no use for.
        assert all("fusion" in name for name in before.keys() - set(moved))

    def test_the_model_is_called_once_per_batch(self, make_trainer):
        trainer = make_trainer(gradient_accumulation_steps=2, per_device_train_batch_size=3, max_steps=3, queue_size=8)
        counts = count_calls(trainer.model, trainer.model.sacl.vision_model, trainer.teacher.model)
        trainer.train()
        assert counts == {0: 6, 1: 6, 2: 6}

    def test_bfloat16_gives_finite_losses_in_float32(self, make_trainer, pairs):
        trainer = make_trainer(
            bf16=True, queue_size=8, max_steps=3, trainer_options={"eval_dataset": pairs.select(range(8))}
        )
        seen = []
        compute_loss = trainer.compute_loss
        trainer.compute_loss = lambda *args, **options: seen.append(compute_loss(*args, **options)) or seen[-1]
        trainer.train()
        assert [loss.dtype for loss in seen] == 3 * [torch.float32]
        assert all(math.isfinite(value) for entry in step_logs(trainer) for value in entry.values())
        assert all(parameter.dtype == torch.float32 for parameter in trainer.model.parameters())
        trainer.compute_loss = compute_loss
        assert math.isfinite(trainer.evaluate()["eval_loss"])
        # A second trainer takes over the model that the first one has prepared for autocast.
        again = make_trainer(trainer.model, bf16=True, max_steps=1, warmup_steps=0)
        assert again.teacher.model.forward.__self__ is again.teacher.model
        again.train()
        assert not same(weights(again.teacher.model), weights(again.model))

    def test_temperature_stays_in_its_range(self, make_trainer, make_model):
        for start, bounds, expected in (
            (math.log(1 / 0.01), (0.05, 0.2), 0.05),
            (math.log(1 / 0.4), (0.05, 0.2), 0.2),
            (math.log(1 / 0.1), (0.05, 0.2), 0.1),
        ):
            model = make_model()
            model.sacl.logit_scale.data.fill_(start)
            trainer = make_trainer(
                model, **CONTRAST, max_steps=1, min_temperature=bounds[0], max_temperature=bounds[1]
            )
            trainer.train()
            assert 1 / model.sacl.logit_scale.exp().item() == pytest.approx(expected, rel=1e-2)
            assert bounds[0] - 1e-6 <= 1 / model.sacl.logit_scale.exp().item() <= bounds[1] + 1e-6

    def test_training_twice_goes_on(self, make_trainer):
        trainer = make_trainer(**{**CONTRAST, "momentum": 0.5}, queue_size=20, max_steps=1, warmup_steps=0)
        trainer.train()
        teacher = weights(trainer.teacher.model)
        trainer.train()
        assert len(trainer.queue) == 12
        assert not same(weights(trainer.teacher.model), teacher)


class TestComputeLoss:
    @pytest.fixture
    def setting(self, make_trainer, batch, plain_collator, pairs):
        """A trainer with a teacher that is not the model and a queue that knows two pairs of the batch."""

        def make(**options):
            trainer = make_trainer(queue_size=9, distillation_weight=0.3, regulation_strength=1.5, **options)
            disturb(trainer.model)
            trainer.model.train()
            queued = plain_collator([pairs[index] for index in (4, 5, 8, 9)])
            with torch.no_grad():
                outputs = (trainer.model if trainer.teacher is None else trainer.teacher)(**queued, with_itm=False)
            trainer.queue.enqueue(outputs.image_embeds, outputs.text_embeds, queued["pair_ids"])
            return trainer

        return make

    @pytest.mark.parametrize("momentum", [None, 0.9])
    @pytest.mark.parametrize("objective", ["sacl", "infonce", "albef", "sacl_distilled"])
    def test_is_what_the_formulas_say(self, setting, batch, objective, momentum):
        if OBJECTIVES[objective].needs_teacher:
            momentum = 0.9
        factors = {"itc_weight": 0.5, "itm_weight": 2.0, "mlm_weight": 0.25}
        trainer = setting(objective=objective, momentum=momentum, **factors)
        set_seed(3)
        loss = trainer.compute_loss(trainer.model, batch)

        teacher = None if momentum is None else trainer.teacher(**batch, with_itm=False)
        set_seed(3)
        student = trainer.model(
            **batch,
            hard_negative_strength=1.5,
            hard_negative_similarity=None if teacher is None else teacher.image_embeds @ teacher.text_embeds.T,
        )
        queue = trainer.queue.features()
        positive = batch["pair_ids"][:, None] == torch.cat([batch["pair_ids"], queue.pair_ids])[None, :]
        assert positive.shape == (6, 10) and positive.sum() == 8
        parts = []
        for side, other in (("image_embeds", "text_embeds"), ("text_embeds", "image_embeds")):
            cosines = student[side] @ torch.cat([student[other], getattr(queue, other)]).T
            similarity = cosines.detach()
            if teacher is not None:
                similarity = teacher[side] @ torch.cat([teacher[other], getattr(queue, other)]).T
            weight = torch.ones_like(similarity)
            if "sacl" in objective:
                raw = similarity.exp() ** -1.5
                mean = (raw * ~positive).sum(dim=1, keepdim=True) / (~positive).sum(dim=1, keepdim=True)
                weight = torch.where(positive, 1.0, raw / mean)
            target = positive / positive.sum(dim=1, keepdim=True)
            if OBJECTIVES[objective].needs_teacher:
                target = 0.3 * (student.logit_scale.detach() * similarity).softmax(dim=1) + 0.7 * target
            scores = weight * (student.logit_scale * cosines).exp()
            parts.append(-(target * (scores / scores.sum(dim=1, keepdim=True)).log()).sum(dim=1).mean())
        itc_loss = sum(parts) / 2
        mlm_loss = student.mlm_loss
        if teacher is not None:
            labelled = batch["mlm_labels"] != -100
            soft = -(teacher.mlm_logits.softmax(-1) * student.mlm_logits.log_softmax(-1)).sum(-1)[labelled].mean()
            mlm_loss = 0.7 * mlm_loss + 0.3 * soft
        expected = 0.5 * itc_loss + 2.0 * student.itm_loss + 0.25 * mlm_loss
        torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)

        loss.backward()
        ours = {name: parameter.grad.clone() for name, parameter in trainer.model.named_parameters()}
        trainer.model.zero_grad()
        expected.backward()
        for name, parameter in trainer.model.named_parameters():
            torch.testing.assert_close(ours[name], parameter.grad, atol=1e-4, rtol=1e-3, msg=name)

    def test_returns_the_outputs_when_asked_to(self, setting, batch):
        trainer = setting()
        loss, outputs = trainer.compute_loss(trainer.model, batch, return_outputs=True)
        assert loss.dim() == 0
        assert outputs.image_embeds.shape == outputs.text_embeds.shape == (6, 20)

    @pytest.mark.parametrize(
        ("factors", "heads"),
        [
            ({}, {"itm": 1, "mlm": 1, "fusion": 1, "teacher's mlm": 1, "teacher's fusion": 1}),
            ({"itm_weight": 0.0}, {"mlm": 1, "fusion": 1, "teacher's mlm": 1, "teacher's fusion": 1}),
            ({"mlm_weight": 0.0}, {"itm": 1, "fusion": 1}),
            ({"distillation_weight": 0.0}, {"itm": 1, "mlm": 1, "fusion": 1}),
            ({"itm_weight": 0.0, "mlm_weight": 0.0}, {}),
        ],
    )
    def test_what_has_no_weight_is_not_computed(self, make_trainer, batch, factors, heads):
        trainer = make_trainer(**factors)
        student, teacher = trainer.model, trainer.teacher.model
        modules = {
            "itm": student.itm_head,
            "mlm": student.mlm_head,
            "fusion": student.sacl.fusion_model,
            "teacher's itm": teacher.itm_head,
            "teacher's mlm": teacher.mlm_head,
            "teacher's fusion": teacher.sacl.fusion_model,
        }
        counts = count_calls(*modules.values())
        trainer.compute_loss(student, batch)
        assert {name: counts[position] for position, name in enumerate(modules) if counts[position]} == heads

    def test_a_loss_without_weight_is_not_in_the_sum(self, setting, batch):
        losses = {}
        for name in ("itc_weight", "itm_weight", "mlm_weight"):
            others = {other: 0.0 for other in ("itc_weight", "itm_weight", "mlm_weight") if other != name}
            trainer = setting(**others)
            set_seed(3)
            losses[name] = trainer.compute_loss(trainer.model, batch).item()
        trainer = setting()
        set_seed(3)
        assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(sum(losses.values()), rel=1e-5)

    def test_hard_negatives_are_drawn_with_the_teachers_similarity(self, make_trainer, batch):
        for regulate, strength in ((True, 2.0), (False, 0.0)):
            trainer = make_trainer(regulation_strength=2.0, regulate_hard_negatives=regulate)
            disturb(trainer.model)
            seen = []
            trainer.model.register_forward_pre_hook(lambda _, args, kw, seen=seen: seen.append(kw), with_kwargs=True)
            trainer.compute_loss(trainer.model, batch)
            teacher = trainer.teacher(**batch, with_itm=False)
            assert seen[0]["hard_negative_strength"] == strength
            torch.testing.assert_close(
                seen[0]["hard_negative_similarity"], teacher.image_embeds @ teacher.text_embeds.T
            )

    def test_embeddings_need_not_be_normalised_by_the_model(self, make_trainer, without_dropout):
        class Loud(SaclModel):
            def forward(self, input_ids, pixel_values, attention_mask=None):
                outputs = super().forward(input_ids, pixel_values, attention_mask=attention_mask)
                outputs.image_embeds = 3 * outputs.image_embeds
                outputs.text_embeds = 5 * outputs.text_embeds
                return outputs

        losses = []
        for model_class in (SaclModel, Loud):
            set_seed(0)
            trainer = make_trainer(model_class(without_dropout), queue_size=20, max_steps=4)
            trainer.train()
            losses.append([entry["loss"] for entry in step_logs(trainer)])
            for embeds in trainer.queue.features()[:2]:
                torch.testing.assert_close(embeds.norm(dim=-1), torch.ones(len(embeds)))
        assert losses[0] == pytest.approx(losses[1], abs=1e-4)

    def test_a_model_without_temperature_raises(self, make_trainer, batch, without_dropout):
        model = SaclModel(without_dropout)
        del model.logit_scale
        embeds = torch.ones(6, 2)
        model.forward = lambda input_ids, pixel_values: {"image_embeds": embeds, "text_embeds": embeds}
        trainer = make_trainer(model, momentum=None)
        with pytest.raises(ValueError, match="`SaclModel` has no parameter `logit_scale`"):
            trainer.compute_loss(trainer.model, batch)


class TestGradientAccumulation:
    def test_two_halves_give_the_mean_of_their_gradients(self, make_trainer, make_model, plain_collator, pairs):
        trainer = make_trainer(
            **CONTRAST,
            **GRADIENT_DESCENT,
            gradient_accumulation_steps=2,
            per_device_train_batch_size=4,
            max_steps=1,
            train_sampling_strategy="sequential",
        )
        trainer.train()

        model, losses = make_model(), []
        for rows in (range(4), range(4, 8)):
            half = plain_collator([pairs[row] for row in rows])
            outputs = model(half["input_ids"], half["pixel_values"], half["attention_mask"], with_itm=False)
            logits = outputs.logit_scale * outputs.image_embeds @ outputs.text_embeds.T
            losses.append((F.cross_entropy(logits, torch.arange(4)) + F.cross_entropy(logits.T, torch.arange(4))) / 2)
        loss = (losses[0] + losses[1]) / 2
        loss.backward()
        assert step_logs(trainer)[0]["loss"] == pytest.approx(loss.item(), rel=1e-5)
        assert step_logs(trainer)[0]["itc_loss"] == pytest.approx(loss.item(), rel=1e-5)
        for name, parameter in model.named_parameters():
            expected = parameter.detach() - (0 if parameter.grad is None else 0.1 * parameter.grad)
            torch.testing.assert_close(trainer.model.get_parameter(name).detach(), expected, atol=1e-6, rtol=1e-5)

    def test_teacher_and_queue_move_once_per_optimiser_step(self, make_trainer):
        trainer = make_trainer(
            **{**CONTRAST, "momentum": 0.9},
            gradient_accumulation_steps=2,
            per_device_train_batch_size=3,
            max_steps=1,
            warmup_steps=0,
            queue_size=10,
            train_sampling_strategy="sequential",
        )
        seen, before = watch_objective(trainer), weights(trainer.teacher.model)
        trainer.train()
        # Features of the first half are not candidates of the second: the step sees one state.
        assert [len(batch.student.candidate_pair_ids) for batch in seen] == [3, 3]
        assert trainer.queue.features().pair_ids.tolist() == [100, 101, 102, 103, 104, 105]
        after = weights(trainer.model)
        for name, now in weights(trainer.teacher.model).items():
            torch.testing.assert_close(now, 0.9 * before[name] + 0.1 * after[name], msg=name)


class TestQueueAndPairs:
    def test_no_pair_is_its_own_negative(self, make_trainer):
        # The queue is larger than the data set, so that every pair meets itself there.
        trainer = make_trainer(**CONTRAST, queue_size=50, per_device_train_batch_size=5, max_steps=8)
        seen, expected = watch_objective(trainer), []

        def note(_, args, inputs):
            queue = trainer.queue.features()
            own = inputs["pair_ids"]
            candidates = own if queue is None else torch.cat([own, queue.pair_ids])
            expected.append(own[:, None] == candidates[None, :])

        trainer.model.register_forward_pre_hook(note, with_kwargs=True)
        trainer.train()
        assert len(seen) == 8
        for batch, mask in zip(seen, expected, strict=True):
            assert torch.equal(batch.positive_mask, mask)
        assert seen[-1].positive_mask[:, 5:].sum() >= 5
        assert len(trainer.queue) == 2 * 12 + 2 * 5

    def test_queue_holds_the_teachers_features_and_carries_no_gradient(self, make_trainer, plain_collator, pairs):
        trainer = make_trainer(
            **{**CONTRAST, "momentum": 0.9},
            **GRADIENT_DESCENT,
            queue_size=6,
            max_steps=1,
            train_sampling_strategy="sequential",
        )
        teacher = copy.deepcopy(trainer.teacher)
        trainer.train()
        outputs = teacher(**plain_collator([pairs[row] for row in range(6)]), with_itm=False)
        features = trainer.queue.features()
        torch.testing.assert_close(features.image_embeds, outputs.image_embeds)
        torch.testing.assert_close(features.text_embeds, outputs.text_embeds)
        assert not features.image_embeds.requires_grad

    @pytest.mark.parametrize("objective", ["sacl", "albef"])
    def test_a_batch_of_one_pair_id_trains_and_logs_numbers(self, make_trainer, pairs, objective):
        same_id = pairs.remove_columns("pair_id").add_column("pair_id", [7] * len(pairs))
        trainer = make_trainer(objective=objective, queue_size=8, trainer_options={"train_dataset": same_id})
        trainer.train()
        for entry in step_logs(trainer):
            assert all(math.isfinite(value) for value in entry.values()), entry
            assert entry["itm_skipped_negatives"] == 12

    def test_a_batch_of_one_caption_trains_and_logs_numbers(self, make_trainer, pairs):
        same_caption = pairs.remove_columns("caption").add_column("caption", ["a photo of a cat"] * len(pairs))
        trainer = make_trainer(queue_size=8, trainer_options={"train_dataset": same_caption})
        trainer.train()
        for entry in step_logs(trainer):
            assert all(math.isfinite(value) for value in entry.values()), entry

    @pytest.mark.parametrize(("rows", "batch_size"), [(3, 6), (1, 4), (7, 3)])
    def test_a_small_data_set_and_a_last_batch_of_one_pair(self, make_trainer, pairs, rows, batch_size):
        trainer = make_trainer(
            per_device_train_batch_size=batch_size,
            max_steps=3,
            logging_steps=3,
            trainer_options={"train_dataset": pairs.select(range(rows)), "eval_dataset": pairs.select(range(rows))},
        )
        trainer.train()
        (entry,) = step_logs(trainer)
        assert all(math.isfinite(value) for value in entry.values()), entry
        if rows > 1:
            # A batch without a negative has no weights, and does not count as one with a mean of 0.
            assert entry["regulation_weight_mean"] == pytest.approx(1.0, abs=1e-5)
        else:
            assert "regulation_weight_mean" not in entry
        assert all(math.isfinite(value) for value in trainer.evaluate().values())

    @pytest.mark.parametrize("with_ids", [True, False])
    def test_a_stream_trains(self, make_trainer, pairs, with_ids):
        data = pairs if with_ids else pairs.remove_columns("pair_id")
        trainer = make_trainer(
            queue_size=30, max_steps=5, trainer_options={"train_dataset": data.to_iterable_dataset(num_shards=2)}
        )
        seen = watch_objective(trainer)
        trainer.train()
        assert trainer.state.global_step == 5
        # The second time through, every pair finds itself in the queue.
        assert (seen[-1].positive_mask.sum(dim=1) >= 2).all()

    def test_pair_ids_are_made_where_there_are_none(self, make_trainer, pairs):
        trainer = make_trainer(
            **CONTRAST,
            queue_size=12,
            train_sampling_strategy="sequential",
            trainer_options={"train_dataset": pairs.remove_columns("pair_id")},
        )
        trainer.train()
        assert trainer.queue.features().pair_ids.tolist() == list(range(12))

    def test_an_unreadable_image_gives_its_place_to_another(self, make_trainer, plain_collator, pairs):
        rows = [{**row} for row in pairs.cast_column("image", Image(decode=False))]
        rows[2]["image"] = {"bytes": b"not an image", "path": None}
        rows[7]["image"] = {"bytes": rows[7]["image"]["bytes"][:40], "path": None}
        broken = Dataset.from_list(rows).cast_column("image", Image())
        trainer = make_trainer(
            queue_size=30, train_sampling_strategy="sequential", trainer_options={"train_dataset": broken}
        )
        trainer.train()
        assert trainer.state.global_step == 2
        assert plain_collator.skipped.total() >= 2
        queued = trainer.queue.features().pair_ids.tolist()
        assert len(queued) == 12 and set(queued) == set(range(100, 112)) - {102, 107}


class TestLogs:
    def test_every_component_is_logged_and_they_sum_to_the_loss(self, make_trainer):
        factors = {"itc_weight": 0.5, "itm_weight": 2.0, "mlm_weight": 0.25}
        trainer = make_trainer(**factors, max_steps=6, logging_steps=2, queue_size=8, regulation_warmup=0)
        trainer.train()
        logs = step_logs(trainer)
        assert [entry["step"] for entry in logs] == [2, 4, 6]
        for entry in logs:
            parts = [factors[f"{name}_weight"] * entry[f"{name}_loss"] for name in ("itc", "itm", "mlm")]
            assert entry["loss"] == pytest.approx(sum(parts), rel=1e-5)
            assert 0.001 <= entry["temperature"] <= 0.5
            assert 0 <= entry["itm_accuracy"] <= 1
            assert entry["regulation_weight_mean"] == pytest.approx(1.0, abs=1e-5)
            assert 0 < entry["regulation_weight_min"] <= entry["regulation_weight_p5"] < 1
            assert entry["regulation_strength"] == 1.0
            assert entry["itm_skipped_negatives"] == 0
        json.dumps(logs, allow_nan=False)

    def test_filter_logs_what_it_removes(self, make_trainer):
        trainer = make_trainer(filter_threshold=0.98, itm_weight=0.0, mlm_weight=0.0, regulation_warmup=0)
        trainer.train()
        for entry in step_logs(trainer):
            assert 0 < entry["filtered_negatives"] < 1
            assert entry["regulation_weight_mean"] == pytest.approx(1 - entry["filtered_negatives"], abs=1e-5)

    def test_components_are_means_over_the_steps_between(self, make_trainer):
        each, both = (
            make_trainer(**{**CONTRAST, "objective": "sacl"}, max_steps=4, logging_steps=steps) for steps in (1, 2)
        )
        for trainer in (each, both):
            trainer.train()
        single, double = step_logs(each), step_logs(both)
        for position, entry in enumerate(double):
            for name in ("loss", "itc_loss", "regulation_strength", "temperature", "regulation_weight_min"):
                mean = (single[2 * position][name] + single[2 * position + 1][name]) / 2
                assert entry[name] == pytest.approx(mean, rel=1e-4), name

    def test_evaluation_does_not_spill_into_the_training_curves(self, make_trainer, pairs):
        logs = []
        for options in ({}, {"eval_strategy": "steps", "eval_steps": 1}):
            trainer = make_trainer(max_steps=4, logging_steps=2, **options, trainer_options={"eval_dataset": pairs})
            trainer.train()
            logs.append(step_logs(trainer))
        assert logs[0] == logs[1]

    def test_what_one_call_leaves_over_is_not_logged_by_the_next(self, make_trainer):
        trainer = make_trainer(**CONTRAST, max_steps=3, logging_steps=2)
        for _ in range(2):
            trainer.train()
            (entry,) = step_logs(trainer)
            assert entry["itc_loss"] == pytest.approx(entry["loss"], rel=1e-5)


class TestSchedules:
    @pytest.mark.parametrize(
        ("warmup", "expected"),
        [
            (0.5, [0.0, 0.4, 0.8, 1.2, 1.6, 2.0, 2.0, 2.0, 2.0, 2.0]),
            (4, [0.0, 0.5, 1.0, 1.5, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0]),
            (1, [0.0] + 9 * [2.0]),
            (0, 10 * [2.0]),
            (20, [0.1 * step for step in range(10)]),
        ],
    )
    def test_regulation_strength_rises_over_a_share_or_steps(self, make_trainer, without_dropout, warmup, expected):
        trainer = make_trainer(
            tiny_sacl(without_dropout),
            momentum=None,
            regulation_strength=2.0,
            regulation_warmup=warmup,
            max_steps=10,
            per_device_train_batch_size=2,
        )
        trainer.train()
        logged = [entry["regulation_strength"] for entry in step_logs(trainer)]
        assert logged == pytest.approx(expected, abs=1e-6)

    @pytest.mark.parametrize(
        ("warmup", "expected"),
        [(0.5, [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.5, 0.5, 0.5, 0.5]), (2, [0.0, 0.25] + 8 * [0.5]), (0, 10 * [0.5])],
    )
    def test_distillation_weight_rises_over_a_share_or_steps(self, make_trainer, without_dropout, warmup, expected):
        trainer = make_trainer(
            tiny_sacl(without_dropout),
            objective="albef",
            distillation_weight=0.5,
            distillation_warmup=warmup,
            max_steps=10,
            per_device_train_batch_size=2,
        )
        seen = watch_objective(trainer)
        trainer.train()
        assert [batch.distillation_weight for batch in seen] == pytest.approx(expected, abs=1e-6)

    @pytest.mark.parametrize(
        ("warmup", "expected"),
        [(0.5, [0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0]), (2, [0.0, 0.5] + 6 * [1.0]), (0, 8 * [1.0])],
    )
    def test_negatives_turn_hard_over_a_share_or_steps(self, make_trainer, monkeypatch, warmup, expected):
        shares = []

        def spy(*arguments):
            shares.append(arguments[3])
            return sample_hard_negatives(*arguments)

        monkeypatch.setattr("modeling_sacl.retrieval_sacl.sample_hard_negatives", spy)
        trainer = make_trainer(hard_negative_warmup=warmup, max_steps=8, per_device_train_batch_size=2)
        trainer.train()
        # Once for the images' texts and once for the texts' images.
        assert shares[::2] == shares[1::2] == pytest.approx(expected)

    def test_evaluation_is_not_ramped_so_that_its_losses_compare(self, make_trainer, pairs):
        trainer = make_trainer(
            objective="sacl_distilled",
            regulation_strength=3.0,
            regulation_warmup=100,
            distillation_warmup=100,
            learning_rate=0.0,
            max_steps=3,
            eval_strategy="steps",
            eval_steps=1,
            eval_on_start=True,
            trainer_options={"eval_dataset": pairs},
        )
        before = trainer.evaluate()
        trainer.train()
        entries = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
        assert len(entries) == 4
        assert before["eval_regulation_strength"] == 3.0
        # The weights have not moved, so neither may the loss.
        assert {entry["eval_loss"] for entry in entries} == {before["eval_loss"]}
        assert [entry["regulation_strength"] for entry in step_logs(trainer)] == pytest.approx([0.0, 0.03, 0.06])


class TestOptimizer:
    NO_DECAY = ("bias", "LayerNorm.", "layer_norm.", "position_embedding", "class_embedding", "logit_scale")

    @pytest.mark.parametrize("vision_learning_rate", [None, 3e-4, 0.0])
    def test_groups_partition_the_parameters(self, make_trainer, vision_learning_rate):
        trainer = make_trainer(learning_rate=1e-3, weight_decay=0.05, vision_learning_rate=vision_learning_rate)
        names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
        optimizer = trainer.create_optimizer()
        grouped = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        assert Counter(map(id, grouped)) == Counter(names.keys())
        for group in optimizer.param_groups:
            for name in (names[id(parameter)] for parameter in group["params"]):
                in_tower = name.startswith("sacl.vision_model.")
                expected = vision_learning_rate if in_tower and vision_learning_rate is not None else 1e-3
                assert group["lr"] == expected, name
                assert group["weight_decay"] == (0.0 if any(part in name for part in self.NO_DECAY) else 0.05), name
        assert len(optimizer.param_groups) == (2 if vision_learning_rate is None else 4)
        assert trainer.create_optimizer() is optimizer

    def test_frozen_parameters_are_in_no_group(self, make_trainer, make_model):
        model = make_model()
        model.sacl.vision_model.requires_grad_(False)
        trainer = make_trainer(model, vision_learning_rate=1e-4)
        grouped = {id(p) for group in trainer.create_optimizer().param_groups for p in group["params"]}
        assert grouped == {id(p) for p in model.parameters() if p.requires_grad}
        before = weights(model.sacl.vision_model)
        trainer.train()
        assert same(weights(model.sacl.vision_model), before)

    def test_clip_has_an_image_tower_too(self, make_trainer, without_dropout):
        model = tiny_clip(without_dropout)
        trainer = make_trainer(model, learning_rate=1e-3, vision_learning_rate=1e-5)
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        for group in trainer.create_optimizer().param_groups:
            for name in (names[id(parameter)] for parameter in group["params"]):
                assert group["lr"] == (1e-5 if name.startswith("vision_model.") else 1e-3), name
                if any(part in name for part in ("bias", "norm", "position_embedding", "class_embedding")):
                    assert group["weight_decay"] == 0.0, name

    def test_a_model_without_an_image_tower_raises(self, make_trainer, without_dropout):
        model = tiny_sacl(without_dropout)
        model.pictures = model.vision_model
        del model.vision_model
        with pytest.raises(ValueError, match="`SaclModel` has no `vision_model`"):
            make_trainer(model, vision_learning_rate=1e-4).create_optimizer()

    def test_the_schedule_scales_both_learning_rates(self, make_trainer):
        trainer = make_trainer(**CONTRAST, learning_rate=1e-3, vision_learning_rate=1e-4, max_steps=8, warmup_steps=2)
        rates = []

        class Watch(TrainerCallback):
            def on_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
                rates.append([group["lr"] for group in optimizer.param_groups])

        trainer.add_callback(Watch())
        trainer.train()
        factors = [0.0, 0.5] + [0.5 * (1 + math.cos(math.pi * step / 6)) for step in range(6)]
        for rate, factor in zip(rates, factors, strict=True):
            assert rate == pytest.approx([1e-3 * factor, 1e-3 * factor, 1e-4 * factor, 1e-4 * factor], rel=1e-6)
        assert [entry["learning_rate"] for entry in step_logs(trainer)] == pytest.approx([r[0] for r in rates])

    def test_an_optimiser_of_ones_own_is_left_alone(self, make_trainer, make_model):
        model = make_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        trainer = make_trainer(model, vision_learning_rate=1e-4, trainer_options={"optimizers": (optimizer, None)})
        assert trainer.create_optimizer() is optimizer
        assert len(optimizer.param_groups) == 1


class TestEvaluation:
    def test_has_a_loss_its_parts_and_retrieval_metrics_unasked(self, make_trainer, pairs, tiny_processor):
        trainer = make_trainer(trainer_options={"eval_dataset": pairs})
        metrics = trainer.evaluate()
        expected = evaluate_retrieval(trainer.model, pairs, tiny_processor, show_progress=False)
        assert len(expected) > 10
        for name, value in expected.items():
            assert metrics[f"eval_{name}"] == value, name
        for name in ("itc_loss", "itm_loss", "mlm_loss", "temperature", "itm_accuracy", "regulation_weight_mean"):
            assert math.isfinite(metrics[f"eval_{name}"])

    def test_loss_is_the_weighted_sum_of_its_parts(self, make_trainer, pairs):
        trainer = make_trainer(
            itc_weight=0.5,
            itm_weight=2.0,
            mlm_weight=0.25,
            per_device_eval_batch_size=6,
            trainer_options={"eval_dataset": pairs},
        )
        metrics = trainer.evaluate()
        parts = 0.5 * metrics["eval_itc_loss"] + 2 * metrics["eval_itm_loss"] + 0.25 * metrics["eval_mlm_loss"]
        assert metrics["eval_loss"] == pytest.approx(parts, rel=1e-5)

    def test_two_calls_agree(self, make_trainer, tiny_processor, pairs):
        # With everything that draws: augmentation and masks in training, hard negatives.
        trainer = make_trainer(
            max_steps=2,
            trainer_options={
                "data_collator": PairCollator(tiny_processor, mlm_probability=0.3).for_training(),
                "eval_dataset": pairs,
            },
        )
        trainer.train()
        first, second = without_times(trainer.evaluate()), without_times(trainer.evaluate())
        assert first == second

    def test_does_not_change_the_course_of_training(self, make_trainer, tiny_processor, pairs):
        results = []
        for options in ({}, {"eval_strategy": "steps", "eval_steps": 1}):
            trainer = make_trainer(
                max_steps=3,
                **options,
                trainer_options={
                    "data_collator": PairCollator(tiny_processor, mlm_probability=0.3).for_training(),
                    "eval_dataset": pairs,
                },
            )
            trainer.train()
            results.append(weights(trainer.model))
        assert same(*results)

    def test_the_queue_is_no_part_of_it(self, make_trainer, pairs):
        trainer = make_trainer(queue_size=30, trainer_options={"eval_dataset": pairs})
        trainer.train()
        before = {name: tensor.clone() for name, tensor in trainer.queue.state_dict().items()}
        with_queue = trainer.evaluate()
        assert same(trainer.queue.state_dict(), before)
        trainer.queue = None
        assert without_times(trainer.evaluate()) == without_times(with_queue)

    def test_model_trains_in_training_mode_afterwards(self, make_trainer, pairs):
        trainer = make_trainer(
            max_steps=3, eval_strategy="steps", eval_steps=1, trainer_options={"eval_dataset": pairs}
        )
        modes = []

        class Watch(TrainerCallback):
            def on_optimizer_step(self, args, state, control, model=None, **kwargs):
                modes.append(all(module.training for module in model.modules()))

            def on_evaluate(self, args, state, control, model=None, **kwargs):
                modes.append(any(module.training for module in model.modules()))

        trainer.add_callback(Watch())
        trainer.train()
        assert modes == [True, False, True, False, True, False]
        assert not any(module.training for module in trainer.teacher.model.modules())

    def test_several_data_sets_have_prefixes(self, make_trainer, pairs, tiny_processor):
        parts = {"all": pairs, "few": pairs.select(range(4))}
        trainer = make_trainer(trainer_options={"eval_dataset": parts})
        metrics = trainer.evaluate()
        for name, part in parts.items():
            assert math.isfinite(metrics[f"eval_{name}_loss"])
            expected = evaluate_retrieval(trainer.model, part, tiny_processor, show_progress=False)
            assert {key: metrics[f"eval_{name}_{key}"] for key in expected} == expected
        assert trainer.evaluate(parts["few"])["eval_loss"] == metrics["eval_few_loss"]
        assert "test_few_loss" in trainer.evaluate({"few": parts["few"]}, metric_key_prefix="test")

    def test_several_data_sets_with_persistent_workers(self, make_trainer, pairs):
        parts = {"all": pairs, "few": pairs.select(range(4))}
        results = []
        for options in ({}, {"dataloader_num_workers": 1, "dataloader_persistent_workers": True}):
            trainer = make_trainer(**CONTRAST, **options, trainer_options={"eval_dataset": parts})
            results.append(without_times(trainer.evaluate()))
        assert results[0] == pytest.approx(results[1])

    def test_best_model_by_a_retrieval_metric_is_loaded_at_the_end(self, make_trainer, pairs):
        trainer = make_trainer(
            **CONTRAST,
            max_steps=4,
            learning_rate=1e-2,
            eval_strategy="steps",
            eval_steps=1,
            save_strategy="steps",
            save_steps=1,
            load_best_model_at_end=True,
            metric_for_best_model="text_to_image_recall@1",
            trainer_options={"eval_dataset": pairs},
        )
        trainer.train()
        name = "eval_text_to_image_recall@1"
        recalls = {entry["step"]: entry[name] for entry in trainer.state.log_history if name in entry}
        assert len(recalls) == 4
        assert trainer.state.best_metric == max(recalls.values())
        best = next(step for step, value in recalls.items() if value == trainer.state.best_metric)
        saved = load_file(os.path.join(trainer.args.output_dir, f"checkpoint-{best}", "model.safetensors"))
        assert all(torch.equal(trainer.model.state_dict()[key], value) for key, value in saved.items())

    def test_compute_metrics_gets_embeddings_and_pair_ids(self, make_trainer, plain_collator, pairs):
        seen = []

        def compute_metrics(prediction):
            seen.append(prediction)
            return {"width": prediction.predictions[0].shape[1]}

        trainer = make_trainer(trainer_options={"eval_dataset": pairs, "compute_metrics": compute_metrics})
        metrics = trainer.evaluate()
        assert metrics["eval_width"] == 20
        assert "eval_loss" in metrics and "eval_text_to_image_recall@1" in metrics
        with torch.no_grad():
            outputs = trainer.model(**plain_collator(list(pairs)))
        image_embeds, text_embeds = seen[0].predictions
        np.testing.assert_allclose(image_embeds, outputs.image_embeds, atol=1e-5)
        np.testing.assert_allclose(text_embeds, outputs.text_embeds, atol=1e-5)
        assert seen[0].label_ids.tolist() == list(range(100, 112))

    def test_graded_relevance_is_what_ndcg_counts(self, make_trainer, pairs):
        def same_color(dataset):
            colors = torch.tensor([ord(caption.split()[1][0]) for caption in dataset["caption"]])
            return lambda images, texts: (colors[images, None] == colors[None, texts]).float()

        plain, graded = (
            make_trainer(trainer_options={"eval_dataset": pairs, "eval_relevance": relevance}).evaluate()
            for relevance in (None, same_color)
        )
        for name in ("image_to_text", "text_to_image"):
            assert graded[f"eval_{name}_ndcg@10"] != plain[f"eval_{name}_ndcg@10"]
            assert graded[f"eval_{name}_recall@1"] == plain[f"eval_{name}_recall@1"]

    def test_a_stream_is_evaluated_like_the_data_set(self, make_trainer, pairs):
        whole, stream = (
            make_trainer(trainer_options={"eval_dataset": data}).evaluate()
            for data in (pairs, pairs.to_iterable_dataset())
        )
        assert without_times(stream) == pytest.approx(without_times(whole))

    def test_predictions_are_without_chance(self, make_trainer, tiny_processor, plain_collator, pairs):
        trainer = make_trainer(
            trainer_options={"data_collator": PairCollator(tiny_processor, mlm_probability=0.3).for_training()}
        )
        output = trainer.predict(pairs.remove_columns("pair_id"))
        with torch.no_grad():
            expected = trainer.model.eval()(**plain_collator(list(pairs)))
        np.testing.assert_allclose(output.predictions[0], expected.image_embeds, atol=1e-5)
        np.testing.assert_allclose(output.predictions[1], expected.text_embeds, atol=1e-5)
        assert output.label_ids.tolist() == list(range(12))
        assert math.isfinite(output.metrics["test_loss"])


class TestCheckpoints:
    OPTIONS = {
        "queue_size": 9,
        "momentum": 0.9,
        "max_steps": 6,
        "save_strategy": "steps",
        "save_steps": 1,
        "per_device_train_batch_size": 4,
    }

    @pytest.fixture
    def run(self, make_trainer):
        """Six steps, three to an epoch, with a checkpoint after each."""

        def make(model=None, **options):
            return make_trainer(model, **{**self.OPTIONS, **options})

        return make

    @staticmethod
    def checkpoint(trainer, step):
        return os.path.join(trainer.args.output_dir, f"checkpoint-{step}")

    @staticmethod
    def restore(trainer, checkpoint):
        """Resumes and leaves before the first step."""

        class Restored(Exception):
            pass

        class Leave(TrainerCallback):
            def on_train_begin(self, *args, **kwargs):
                raise Restored

        trainer.add_callback(Leave())
        with pytest.raises(Restored):
            trainer.train(resume_from_checkpoint=checkpoint)

    def test_training_state_is_beside_the_model_and_not_in_it(self, run):
        trainer = run(max_steps=2)
        trainer.train()
        folder = self.checkpoint(trainer, 2)
        state = load_file(os.path.join(folder, STATE_FILE))
        teacher = {name.removeprefix("teacher."): t for name, t in state.items() if name.startswith("teacher.")}
        queue = {name.removeprefix("queue."): t for name, t in state.items() if name.startswith("queue.")}
        assert len(teacher) + len(queue) == len(state)
        assert same(teacher, dict(trainer.teacher.state_dict()))
        assert same(queue, trainer.queue.state_dict())
        with safe_open(os.path.join(folder, "model.safetensors"), "pt") as saved:
            names = set(saved.keys())
        assert names == {name for name, _ in trainer.model.named_parameters()}
        loaded = AutoModelForPreTraining.from_pretrained(folder)
        assert type(loaded) is SaclForPreTraining
        assert same(weights(loaded), weights(trainer.model))
        assert type(AutoModel.from_pretrained(folder)) is SaclModel

    def test_an_exported_model_has_no_training_state(self, run, tmp_path):
        trainer = run(max_steps=2, save_strategy="no")
        trainer.train()
        trainer.save_model(str(tmp_path / "export"))
        assert STATE_FILE not in os.listdir(tmp_path / "export")
        assert (tmp_path / "export" / "model.safetensors").stat().st_size < 1.05 * sum(
            parameter.numel() * 4 for parameter in trainer.model.parameters()
        ) + 100_000

    def test_without_teacher_and_queue_the_state_is_empty(self, run):
        trainer = run(**CONTRAST | {"queue_size": 0, "max_steps": 2})
        trainer.train()
        assert load_file(os.path.join(self.checkpoint(trainer, 2), STATE_FILE)) == {}
        resumed = run(**CONTRAST | {"queue_size": 0, "max_steps": 4})
        resumed.train(resume_from_checkpoint=self.checkpoint(trainer, 2))
        assert resumed.state.global_step == 4

    @pytest.mark.parametrize("chance", [False, True])
    def test_a_resumed_run_continues_bit_for_bit(self, run, make_model, tiny_processor, tmp_path, chance):
        """Without chance in the data, and with augmentation, masks and dropout."""

        def start(folder, seed):
            model, options = make_model(seed=seed), {}
            if chance:
                options["data_collator"] = PairCollator(tiny_processor, mlm_probability=0.3).for_training()
                for module in model.modules():
                    if isinstance(module, nn.Dropout):
                        module.p = 0.1
            return run(
                model,
                objective="sacl_distilled" if chance else "sacl",
                output_dir=str(tmp_path / folder),
                trainer_options=options,
            )

        whole = start("whole", seed=0)
        whole.train()
        assert len(step_logs(whole)) == 6
        for step in (2, 3):  # within an epoch, and between two
            resumed = start("resumed", seed=5)
            resumed.train(resume_from_checkpoint=self.checkpoint(whole, step))
            assert step_logs(resumed)[step:] == step_logs(whole)[step:]
            assert same(weights(resumed.model), weights(whole.model))
            assert same(resumed.teacher.state_dict(), whole.teacher.state_dict())
            assert same(resumed.queue.state_dict(), whole.queue.state_dict())

    def test_the_teacher_is_restored_and_not_started_anew(self, run, make_model):
        trainer = run(max_steps=2)
        trainer.train()
        resumed = run(make_model(seed=5))
        self.restore(resumed, self.checkpoint(trainer, 2))
        assert same(weights(resumed.model), weights(trainer.model))
        assert same(resumed.teacher.state_dict(), trainer.teacher.state_dict())
        assert same(resumed.queue.state_dict(), trainer.queue.state_dict())
        assert not same(weights(resumed.teacher.model), weights(resumed.model))
        assert not any(parameter.requires_grad for parameter in resumed.teacher.model.parameters())

    @pytest.mark.parametrize("size", [5, 40])
    def test_the_queue_may_change_its_size(self, run, size):
        trainer = run(max_steps=4)
        trainer.train()
        resumed = run(queue_size=size)
        self.restore(resumed, self.checkpoint(trainer, 4))
        oldest = int(trainer.queue.state_dict()["next"])
        assert len(trainer.queue) == 9 and oldest > 0
        for ours, theirs in zip(resumed.queue.features(), trainer.queue.features(), strict=True):
            assert torch.equal(ours, theirs.roll(-oldest, dims=0)[-size:])

    @pytest.mark.parametrize("damage", ["missing", "truncated", "garbage", "empty"])
    def test_a_damaged_state_is_named(self, run, damage):
        trainer = run(max_steps=2)
        trainer.train()
        path = os.path.join(self.checkpoint(trainer, 2), STATE_FILE)
        content = open(path, "rb").read()
        if damage == "missing":
            os.remove(path)
        else:
            broken = {"truncated": content[: len(content) // 2], "garbage": b"x" * 1000, "empty": b""}[damage]
            with open(path, "wb") as file:
                file.write(broken)
        resumed = run(max_steps=4)
        with pytest.raises(ValueError, match=STATE_FILE):
            resumed.train(resume_from_checkpoint=self.checkpoint(trainer, 2))

    def test_a_teacher_that_was_not_saved_is_an_error(self, run):
        trainer = run(max_steps=2, momentum=None)
        trainer.train()
        with pytest.raises(ValueError, match="teacher"):
            run(max_steps=4).train(resume_from_checkpoint=self.checkpoint(trainer, 2))

    def test_a_queue_that_was_not_saved_starts_empty(self, run):
        trainer = run(max_steps=2, queue_size=0)
        trainer.train()
        resumed = run(max_steps=3)
        resumed.train(resume_from_checkpoint=self.checkpoint(trainer, 2))
        assert len(resumed.queue) == 4


class TestNonFiniteLoss:
    def test_names_the_loss_and_the_pairs_and_changes_nothing(self, make_trainer, plain_collator):
        def collator(rows):
            batch = plain_collator(rows)
            batch["pixel_values"][batch["pair_ids"] == 108] = float("nan")
            return batch

        trainer = make_trainer(
            queue_size=20,
            warmup_steps=0,
            train_sampling_strategy="sequential",
            trainer_options={"data_collator": collator},
        )
        seen = {}

        class Watch(TrainerCallback):
            def on_step_end(self, args, state, control, **kwargs):
                seen.update(weights(trainer.model))
                seen["teacher"] = weights(trainer.teacher.model)

        trainer.add_callback(Watch())
        message = r"step 1 .*itc_loss.*not finite.*\[106, 107, 108, 109, 110, 111\]"
        with pytest.raises(FloatingPointError, match=message):
            trainer.train()
        teacher = seen.pop("teacher")
        assert same(weights(trainer.model), seen)
        assert same(weights(trainer.teacher.model), teacher)
        assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())
        assert trainer.queue.features().pair_ids.tolist() == [100, 101, 102, 103, 104, 105]

    @pytest.mark.parametrize(("head", "name"), [("mlm_head.decoder", "mlm_loss"), ("itm_head", "itm_loss")])
    def test_names_the_loss_that_is_broken(self, make_trainer, batch, head, name):
        trainer = make_trainer(momentum=None)
        trainer.model.get_submodule(head).bias.data.fill_(float("nan"))
        with pytest.raises(FloatingPointError, match=f"At step 0 {name} is not finite"):
            trainer.compute_loss(trainer.model, batch)


class TestConstruction:
    def test_arguments_of_another_trainer_raise(self, make_model, pairs, plain_collator, tmp_path):
        with pytest.raises(TypeError, match="`args` must be `SaclTrainingArguments`, got `TrainingArguments`"):
            SaclTrainer(make_model(), TrainingArguments(str(tmp_path)), plain_collator, pairs)

    def test_without_a_processor_raises(self, make_model, make_arguments, pairs):
        with pytest.raises(ValueError, match="`processing_class`"):
            SaclTrainer(model=make_model(), args=make_arguments(), train_dataset=pairs)

    def test_a_collator_alone_is_enough(self, make_trainer, pairs):
        trainer = make_trainer(**CONTRAST, trainer_options={"processing_class": None, "eval_dataset": pairs})
        trainer.train()
        assert math.isfinite(trainer.evaluate()["eval_loss"])

    @pytest.mark.parametrize(
        ("options", "masked"), [({}, 0.15), ({"mlm_probability": 0.4}, 0.4), ({"mlm_weight": 0.0}, 0.0)]
    )
    def test_the_default_collator_augments_and_masks(self, make_trainer, pairs, options, masked):
        trainer = make_trainer(**options, trainer_options={"data_collator": None})
        assert isinstance(trainer.data_collator, PairCollator)
        assert trainer.data_collator.image_transform is not None
        assert trainer.data_collator.mlm_probability == masked
        assert trainer.eval_collator.image_transform is None
        trainer.train()

    def test_a_dual_encoder_is_given_no_masks(self, make_trainer, without_dropout):
        trainer = make_trainer(tiny_clip(without_dropout), trainer_options={"data_collator": None})
        assert trainer.data_collator.mlm_probability == 0.0
        trainer.train()

    def test_a_folder_gives_model_and_processor(self, make_model, make_arguments, tiny_processor, pairs, tmp_path):
        model = make_model(seed=4)
        model.save_pretrained(tmp_path / "model")
        tiny_processor.save_pretrained(tmp_path / "model")
        trainer = SaclTrainer(model=str(tmp_path / "model"), args=make_arguments(**CONTRAST), train_dataset=pairs)
        assert type(trainer.model) is SaclForPreTraining
        assert type(trainer.processing_class) is SaclProcessor
        assert same(weights(trainer.model), weights(model))
        trainer.train()

    def test_a_folder_of_another_family_gives_its_dual_encoder(
        self, make_arguments, without_dropout, tiny_tokenizer, pairs, tmp_path
    ):
        model = tiny_clip(without_dropout)
        model.save_pretrained(tmp_path / "model")
        size = {"height": 32, "width": 32}
        processor = CLIPProcessor(CLIPImageProcessor(size=size, crop_size=size), tiny_tokenizer)
        trainer = SaclTrainer(
            model=str(tmp_path / "model"),
            args=make_arguments(),
            train_dataset=pairs,
            eval_dataset=pairs,
            processing_class=processor,
        )
        assert type(trainer.model) is CLIPModel
        trainer.train()
        assert "eval_text_to_image_recall@1" in trainer.evaluate()

    def test_the_users_data_set_and_model_stay_as_they_are(self, make_trainer, make_model, pairs):
        features = copy.deepcopy(pairs.features)
        model = make_model()
        modes = [module.training for module in model.modules()]
        make_trainer(model)
        assert pairs.features == features
        assert [module.training for module in model.modules()] == modes
        assert all(parameter.requires_grad for parameter in model.parameters())
        assert pairs[0]["image"].size == (32, 32)

    def test_a_missing_column_is_named(self, make_trainer, pairs):
        trainer = make_trainer(trainer_options={"train_dataset": pairs.rename_column("caption", "words")})
        with pytest.raises(ValueError, match="'caption' or 'captions'.*words"):
            trainer.train()


class TestLossInBlocks:
    @pytest.mark.parametrize("objective", ["sacl", "infonce", "albef", "sacl_distilled"])
    @pytest.mark.parametrize("chunk_size", [None, 4])
    def test_trains_as_with_the_whole_matrix(self, make_trainer, objective, chunk_size):
        trained = []
        for block_size in (None, 5):
            trainer = make_trainer(
                **{**CONTRAST, "objective": objective, "momentum": 0.9},
                queue_size=9,
                max_steps=4,
                optim="sgd",
                contrastive_chunk_size=chunk_size,
                loss_block_size=block_size,
            )
            trainer.train()
            trained.append((weights(trainer.model), [entry.get("itc_loss") for entry in trainer.state.log_history]))
        (plain, plain_losses), (blocks, block_losses) = trained
        assert block_losses[:-1] == pytest.approx(plain_losses[:-1], abs=1e-5)
        for name, tensor in plain.items():
            torch.testing.assert_close(blocks[name], tensor, atol=1e-5, rtol=0, msg=name)

    def test_a_guide_hands_over_in_blocks_too(self, make_trainer, pairs):
        features = torch.nn.functional.normalize(torch.randn(len(pairs), 6), dim=-1).tolist()
        guided = pairs.add_column("guide_text_embeds", features)
        losses = []
        for block_size in (None, 5):
            options = {"trainer_options": {"train_dataset": guided}, "regulation_strength": 3.0}
            trainer = make_trainer(
                **{**CONTRAST, "objective": "sacl"}, **options, queue_size=9, max_steps=4, loss_block_size=block_size
            )
            trainer.train()
            losses.append([entry["itc_loss"] for entry in trainer.state.log_history if "itc_loss" in entry])
        assert losses[1] == pytest.approx(losses[0], abs=1e-5)
        assert "guide_share" in trainer.state.log_history[0]

    def test_trains_beside_a_queue_of_a_million(self, make_trainer):
        """A matrix of 6 x 1,048,582 that is never held whole, in either direction, for weights nor for targets."""
        trainer = make_trainer(
            **{**CONTRAST, "objective": "sacl_distilled", "momentum": 0.9}, queue_size=2**20, loss_block_size=4096
        )
        embeds = torch.nn.functional.normalize(torch.randn(2**20, trainer.model.config.projection_dim), dim=-1)
        trainer.queue.enqueue(embeds, embeds.roll(1, dims=0), torch.arange(10**6, 10**6 + 2**20))
        trainer.train()
        assert len(trainer.queue) == 2**20
        assert trainer.state.log_history[0]["itc_loss"] > 10  # about log(1,048,582) = 13.9


class TestPatchSelection:
    @pytest.mark.parametrize("guide", ["image", "text"])
    @pytest.mark.parametrize("chunk_size", [None, 3])
    def test_drops_more_and_more_patches_and_evaluates_with_all_of_it(
        self, make_trainer, make_model, without_dropout, pairs, guide, chunk_size
    ):
        if guide == "text":  # which has to be as wide as the images
            without_dropout.vision_config.hidden_size = without_dropout.text_config.hidden_size
            without_dropout.vision_config.num_attention_heads = without_dropout.text_config.num_attention_heads
            without_dropout.fusion_encoder_config.encoder_hidden_size = without_dropout.text_config.hidden_size
        model = make_model()
        model.set_patch_selection(keep_rate=0.5, layers=[1], guide=guide)
        trainer = make_trainer(
            model,
            patch_selection_warmup=4,
            max_steps=5,
            contrastive_chunk_size=chunk_size,
            eval_strategy="steps",
            eval_steps=2,
            trainer_options={"eval_dataset": pairs},
        )
        towers = {"model": model.sacl.vision_model, "teacher": trainer.teacher.model.sacl.vision_model}
        seen = {(role, training): [] for role in towers for training in (True, False)}
        for role, tower in towers.items():
            tower.register_forward_hook(
                lambda tower, given, output, role=role: seen[role, model.training].append(
                    (tower.patch_selection_share, output.last_hidden_state.shape[1])
                )
            )
        trainer.train()
        # 16 patches and the class token, of which at last 8 and the fused one stay.
        tokens = {0.0: 17, 0.2: 17, 0.5: 14, 0.7: 13, 1.0: 10}
        for role in towers:
            shares = [share for share, _ in seen[role, True]]
            assert sorted(set(shares)) == [0.0, 0.2, 0.5, 0.7, 1.0]
            assert shares == sorted(shares)
            assert all(length in (tokens[share], 17) for share, length in seen[role, True]), seen[role, True]
            assert {share for share, _ in seen[role, False]} == {1.0}
        assert any(length == tokens[0.5] for share, length in seen["model", True] if share == 0.5)

    def test_gradient_caching_changes_nothing(self, make_trainer, make_model):
        trained = []
        for chunk_size in (None, 4):
            model = make_model()
            model.set_patch_selection(keep_rate=0.5, layers=[1], guide="image")
            trainer = make_trainer(
                model, contrastive_chunk_size=chunk_size, itm_weight=0.0, optim="sgd", warmup_steps=0
            )
            trainer.train()
            trained.append(weights(trainer.model))
        for name, tensor in trained[0].items():
            torch.testing.assert_close(trained[1][name], tensor, atol=1e-5, rtol=0, msg=name)


class TestRetrievalHead:
    """`SaclForImageTextRetrieval`: contrast and matching, no words to predict."""

    @pytest.fixture
    def model(self, make_model):
        return make_model(SaclForImageTextRetrieval)

    def test_fine_tunes_with_its_own_similarity(self, make_trainer, model):
        trainer = make_trainer(model, momentum=None, regulation_warmup=0.0, max_steps=3)
        before = weights(model)
        trainer.train()
        log = step_logs(trainer)[0]
        assert {"itc_loss", "itm_loss", "itm_accuracy"} <= set(log) and "mlm_loss" not in log
        assert log["loss"] == pytest.approx(log["itc_loss"] + log["itm_loss"], rel=1e-4)
        unchanged = {name for name, value in weights(model).items() if torch.equal(value, before[name])}
        assert unchanged == set()

    def test_words_are_not_masked_for_nothing(self, make_trainer, model, tiny_processor):
        trainer = make_trainer(model, trainer_options={"data_collator": None}, momentum=None)
        assert not any(name.startswith("mlm_") for name in next(iter(trainer.get_train_dataloader())))

    def test_contrast_and_matching_are_those_of_pre_training(self, make_trainer, make_model, model):
        pretrained = make_model(SaclForPreTraining)
        model.load_state_dict(pretrained.state_dict(), strict=False)
        logs = []
        for trained in (pretrained, model):
            set_seed(0)
            trainer = make_trainer(trained, mlm_weight=0.0, max_steps=2)
            trainer.train()
            logs.append([{name: log[name] for name in ("itc_loss", "itm_loss", "loss")} for log in step_logs(trainer)])
        for ours, theirs in zip(*logs, strict=True):
            assert ours == pytest.approx(theirs, abs=1e-5)

    def test_trains_under_the_stock_trainer(self, model, tiny_processor, pairs, tmp_path):
        collator = PairCollator(tiny_processor, mlm_probability=0.0)
        arguments = TrainingArguments(
            str(tmp_path), max_steps=8, per_device_train_batch_size=12, learning_rate=3e-4, logging_steps=1,
            save_strategy="no", report_to="none", disable_tqdm=True, remove_unused_columns=False, use_cpu=True,
        )  # fmt: skip
        with torch.no_grad():
            expected = model(**collator(list(pairs)), return_loss=True)
        before = weights(model)
        trainer = Trainer(
            model,
            arguments,
            train_dataset=pairs,
            data_collator=lambda rows: {**collator(rows), "return_loss": True},
        )
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        # The batch is the whole data set: only the draw of hard negatives differs.
        assert losses[0] == pytest.approx(expected.loss.item(), abs=0.1)
        assert losses[-1] < losses[0]
        assert all(not torch.equal(value, before[name]) for name, value in weights(model).items())
