# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Losses that are not finite stop the training or cost a step; a sound step never waits for the accelerator."""

import traceback

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainerCallback

from trainer import sacl_trainer
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
        monkeypatch.setattr(sacl_trainer, "is_deepspeed_zero3_enabled", lambda: True)
        sacl_trainer._check_deepspeed(make_arguments(momentum=None))
        with pytest.raises(ValueError, match="stage 3.*momentum=None"):
            sacl_trainer._check_deepspeed(make_arguments())

    @pytest.mark.parametrize("option", [{"contrastive_chunk_size": 2}, {"nan_policy": "skip"}], ids=str)
    def test_what_needs_backward_or_the_optimiser_is_refused(self, make_arguments, option):
        sacl_trainer._check_deepspeed(make_arguments())
        with pytest.raises(ValueError, match=f"DeepSpeed.*{next(iter(option))}"):
            sacl_trainer._check_deepspeed(make_arguments(**option))
