# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Losses that are not finite stop the training or cost a step; a sound step never waits for the accelerator."""

import math
import traceback

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainerCallback

from trainer import preparation
from trainer.stability import MAX_SKIPPED_IN_A_ROW, NonFiniteGuard


SOUND = {"itc_loss": torch.tensor(1.0), "itm_loss": torch.tensor(2.0)}
BROKEN = {"itc_loss": torch.tensor(1.0), "itm_loss": torch.tensor(float("inf"))}
PAIR_IDS = torch.tensor([7, 8])
CPU = torch.device("cpu")


class TestGuard:
    def test_names_the_loss_the_step_and_the_pairs(self):
        guard = NonFiniteGuard("raise", deferred=False)
        assert guard.watch(SOUND, PAIR_IDS, step=3)
        with pytest.raises(FloatingPointError, match=r"step 4 itm_loss is not finite .*\[7, 8\].*Nothing was updated"):
            guard.watch(BROKEN, PAIR_IDS, step=4)

    def test_deferred_names_the_first_broken_step(self):
        guard = NonFiniteGuard("raise", deferred=True)
        for step, losses in enumerate([SOUND, BROKEN, SOUND, BROKEN]):
            assert guard.watch(losses, PAIR_IDS + step, step)
        with pytest.raises(FloatingPointError, match=r"step 1 itm_loss.*\[8, 9\].*last checkpoint"):
            guard.flush()
        guard.flush()  # what has been read is forgotten

    def test_evaluation_is_never_deferred_nor_skipped(self):
        for policy in ("raise", "skip"):
            with pytest.raises(FloatingPointError, match="itm_loss"):
                NonFiniteGuard(policy, deferred=True).watch(BROKEN, PAIR_IDS, 0, training=False)

    def test_skip_speaks_of_one_step_at_a_time(self):
        guard = NonFiniteGuard("skip", deferred=True)
        assert guard.watch(SOUND, PAIR_IDS, 0) and not guard.step_is_broken(CPU)
        assert not guard.watch(BROKEN, PAIR_IDS, 1) and guard.watch(SOUND, PAIR_IDS, 1)
        assert guard.step_is_broken(CPU)
        assert guard.watch(SOUND, PAIR_IDS, 2) and not guard.step_is_broken(CPU)

    def test_a_model_that_is_broken_itself_is_not_skipped_for_ever(self):
        guard = NonFiniteGuard("skip", deferred=False)
        for step in range(MAX_SKIPPED_IN_A_ROW - 1):
            guard.watch(BROKEN, PAIR_IDS, step)
            assert guard.step_is_broken(CPU)
        guard.watch(BROKEN, PAIR_IDS, MAX_SKIPPED_IN_A_ROW)
        with pytest.raises(FloatingPointError, match="one after another"):
            guard.step_is_broken(CPU)

    def test_no_losses_are_sound(self):
        assert NonFiniteGuard("raise", deferred=False).watch({}, PAIR_IDS, 0)


@pytest.fixture
def make_broken(make_trainer, plain_collator, pairs):
    """A trainer whose second batch, pairs 106 to 111, holds an image of NaN."""

    def collator(rows):
        batch = plain_collator(rows)
        batch["pixel_values"][batch["pair_ids"] == 108] = float("nan")
        return batch

    def make(**arguments):
        arguments = {"warmup_steps": 0, "train_sampling_strategy": "sequential", "queue_size": 20, **arguments}
        return make_trainer(**arguments, trainer_options={"data_collator": collator, "eval_dataset": pairs})

    return make


class TestTraining:
    @pytest.mark.parametrize("chunk_size", [None, 2])
    def test_skip_leaves_the_broken_step_out(self, make_broken, make_trainer, chunk_size):
        trainer = make_broken(max_steps=3, nan_policy="skip", contrastive_chunk_size=chunk_size, itm_weight=0.0)
        trainer.train()
        assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())
        assert trainer.queue.features().pair_ids.tolist() == 2 * [100, 101, 102, 103, 104, 105]
        logs = {entry["step"]: entry for entry in trainer.state.log_history if "loss" in entry}
        assert [logs[step].get("skipped_steps", 0) for step in (1, 2, 3)] == [0, 1, 0]
        assert logs[2]["loss"] == 0.0 and "itc_loss" not in logs[2]
        assert all("itc_loss" in logs[step] and logs[step]["loss"] > 0 for step in (1, 3))

    def test_a_skipped_step_moves_nothing_not_even_by_decay_or_momentum(self, make_broken):
        trainer, seen = make_broken(max_steps=3, nan_policy="skip", weight_decay=0.1), []

        class Watch(TrainerCallback):
            def on_step_end(self, args, state, control, **kwargs):
                seen.append([parameter.detach().clone() for parameter in trainer.model.parameters()])

        trainer.add_callback(Watch())
        trainer.train()
        sound, skipped, again = seen
        assert all(torch.equal(before, after) for before, after in zip(sound, skipped, strict=True))
        assert not any(torch.equal(before, after) for before, after in zip(skipped, again, strict=True))

    def test_without_a_sound_batch_it_stops(self, make_trainer, plain_collator):
        def collator(rows):
            return {**plain_collator(rows), "pixel_values": torch.full((len(rows), 3, 32, 32), float("nan"))}

        trainer = make_trainer(max_steps=50, nan_policy="skip", trainer_options={"data_collator": collator})
        with pytest.raises(FloatingPointError, match="one after another"):
            trainer.train()
        assert trainer.state.global_step == MAX_SKIPPED_IN_A_ROW - 1
        assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())

    @pytest.mark.parametrize("when", ["logging_steps", "save_steps", "eval_steps", "the end"])
    def test_deferred_comes_before_anything_is_logged_saved_or_evaluated(self, make_broken, tmp_path, when):
        options = {"logging_steps": 100, "save_strategy": "steps", "save_steps": 100}
        options |= {"eval_strategy": "steps", "eval_steps": 100} if when == "eval_steps" else {}
        options |= {when: 3} if when in options else {}
        trainer = make_broken(max_steps=3 if when == "the end" else 6, **options)
        trainer._guard.deferred = True
        with pytest.raises(FloatingPointError, match=r"step 1 .*itc_loss.*\[106, 107, 108, 109, 110, 111\].*resume"):
            trainer.train()
        assert trainer.state.global_step == 3
        assert not trainer.state.log_history
        assert not list(tmp_path.glob("run/checkpoint-*"))

    def test_an_unknown_policy_is_an_error(self, make_arguments):
        with pytest.raises(ValueError, match="`nan_policy` must be 'raise' or 'skip', got 'ignore'"):
            make_arguments(nan_policy="ignore")


class ReadsFromDevice(TorchDispatchMode):
    """Where our own code makes the processor wait for a number from the device."""

    def __init__(self):
        super().__init__()
        self.places = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        # `nonzero` waits too: it has to know how large its result is.
        if function.name() in ("aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero"):
            frames = traceback.extract_stack()
            frames = [frame for frame in frames if "/torch/" not in frame.filename and frame.filename != __file__]
            # transformers asks whether a mask masks anything: not ours to mend.
            if "masking_utils" not in frames[-1].filename:
                self.places.append(f"{frames[-1].filename}:{frames[-1].lineno}")
        return function(*args, **(kwargs or {}))


class TestNoSynchronisation:
    @pytest.mark.parametrize(
        "arguments",
        [{}, {"momentum": None}, {"objective": "albef"}, {"filter_threshold": 0.5}, {"contrastive_chunk_size": 2}],
        ids=str,
    )
    def test_a_step_never_waits_for_the_device(self, make_trainer, batch, arguments):
        trainer = make_trainer(queue_size=20, **arguments)
        trainer._guard.deferred = True
        trainer.create_optimizer()
        trainer.current_gradient_accumulation_steps = 1
        with ReadsFromDevice() as reads:
            for _ in range(2):
                trainer.training_step(trainer.model, dict(batch))
                trainer.after_optimizer_step()
        assert reads.places == []

    def test_the_watch_sees_a_read(self):
        with ReadsFromDevice() as reads:
            NonFiniteGuard("raise", deferred=False).watch(SOUND, PAIR_IDS, 0)
        assert ["stability.py" in place for place in reads.places] == [True]


class TestDeepSpeed:
    """DeepSpeed itself needs an accelerator; what cannot work with it is refused before it starts."""

    def test_a_teacher_at_stage_three_is_refused(self, make_arguments, monkeypatch):
        monkeypatch.setattr(preparation, "is_deepspeed_zero3_enabled", lambda: True)
        preparation.check_deepspeed(make_arguments(momentum=None))
        with pytest.raises(ValueError, match="stage 3.*momentum=None"):
            preparation.check_deepspeed(make_arguments())

    @pytest.mark.parametrize("option", [{"contrastive_chunk_size": 2}, {"nan_policy": "skip"}], ids=str)
    def test_what_needs_backward_or_the_optimiser_is_refused(self, make_arguments, option):
        preparation.check_deepspeed(make_arguments())
        with pytest.raises(ValueError, match=f"DeepSpeed.*{next(iter(option))}"):
            preparation.check_deepspeed(make_arguments(**option))


class TestPrecision:
    @pytest.mark.parametrize("chunk_size", [None, 2])
    def test_scaled_gradients_are_the_gradients_scaled(self, make_trainer, batch, chunk_size):
        """float16 trains with a gradient scaler: every part of the loss has to pass through it."""
        gradients = []
        for scale in (1.0, 1024.0):
            trainer = make_trainer(contrastive_chunk_size=chunk_size, itm_weight=0.0)
            trainer.current_gradient_accumulation_steps = 1
            if scale > 1:
                trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
            trainer.training_step(trainer.model, dict(batch))
            named = trainer.model.named_parameters()
            gradients.append({name: p.grad / scale for name, p in named if p.grad is not None})
        assert gradients[0].keys() == gradients[1].keys()
        for name, gradient in gradients[0].items():
            torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-4, msg=name)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    @pytest.mark.parametrize("block_size", [None, 4])
    def test_a_model_in_half_precision_has_losses_in_float32(self, make_trainer, make_model, batch, dtype, block_size):
        trainer = make_trainer(make_model().to(dtype), queue_size=20, loss_block_size=block_size)
        exact = make_trainer(loss_block_size=block_size, itm_weight=0.0)
        loss = trainer.compute_loss(trainer.model, batch)
        loss.backward()
        assert loss.dtype == torch.float32 and loss.isfinite()
        assert all(p.grad.isfinite().all() for p in trainer.model.parameters() if p.grad is not None)
        exact.compute_loss(exact.model, batch)
        itc_loss, expected = (t._curves.drain("train")["itc_loss"] for t in (trainer, exact))
        assert itc_loss == pytest.approx(expected, rel=0.05)

    def test_a_teacher_in_bfloat16_keeps_its_weights(self, make_trainer, batch):
        plain, half = (make_trainer(teacher_bf16=bf16) for bf16 in (False, True))
        outputs = [trainer._ask_teacher(batch) for trainer in (plain, half)]
        assert not torch.equal(outputs[0]["image_embeds"].float(), outputs[1]["image_embeds"].float())
        torch.testing.assert_close(outputs[1]["image_embeds"].float(), outputs[0]["image_embeds"], atol=0.03, rtol=0)
        half.train()
        assert {parameter.dtype for parameter in half.teacher.model.parameters()} == {torch.float32}


class TestTemperature:
    @pytest.mark.parametrize("temperature", [0.05, 0.2])
    def test_at_its_bounds_it_has_its_whole_gradient(self, make_trainer, batch, temperature):
        """It is the parameter that is kept in its range, not what the loss sees: no gradient dies at the bound."""
        trainer = make_trainer(min_temperature=0.05, max_temperature=0.2, itm_weight=0.0, mlm_weight=0.0)
        parameter = trainer.model.sacl.logit_scale
        losses = {}
        for shift in (0.0, -1e-3, 1e-3):
            parameter.data.fill_(-math.log(temperature) + shift)
            losses[shift] = trainer.compute_loss(trainer.model, batch)
        losses[0.0].backward()
        slope = (losses[1e-3] - losses[-1e-3]).item() / 2e-3
        assert abs(slope) > 0.01
        assert parameter.grad.item() == pytest.approx(slope, rel=0.02)


class TestDegenerateData:
    @pytest.mark.parametrize("objective", ["sacl", "albef", "sacl_distilled"])
    def test_captions_that_are_all_the_same_train(self, make_trainer, pairs, objective):
        same = pairs.remove_columns("caption").add_column("caption", ["a thing"] * len(pairs))
        trainer = make_trainer(
            objective=objective, queue_size=20, max_steps=4, trainer_options={"train_dataset": same}
        )
        trainer.train()
        assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())
        # Nothing distinguishes the texts, so the images' share of the loss cannot fall under log(candidates).
        assert trainer.state.log_history[0]["itc_loss"] > 0.5 * math.log(6)

    def test_pairs_that_are_all_one_have_no_negatives(self, make_trainer, pairs):
        one = pairs.remove_columns("pair_id").add_column("pair_id", [7] * len(pairs))
        trainer = make_trainer(objective="infonce", max_steps=2, trainer_options={"train_dataset": one})
        trainer.train()
        assert trainer.state.log_history[0]["itm_skipped_negatives"] == 12
        assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())

    def test_fewer_pairs_than_a_batch(self, make_trainer):
        trainer = make_trainer(per_device_train_batch_size=64, queue_size=100, max_steps=3)
        trainer.train()
        assert len(trainer.queue) == 36
        assert trainer.state.log_history[0]["itc_loss"] == pytest.approx(math.log(12), rel=0.5)
