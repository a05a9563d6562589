# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""What befalls a training from outside: full disks, dead and stalled workers, clocks that are set, a second run."""

import contextlib
import errno
import json
import logging
import math
import os
import signal
import socket
import subprocess
import time

import filelock
import pytest
import torch
from accelerate import skip_first_batches
from transformers import TrainerCallback

from trainer import verify_checkpoint
from trainer.checkpoints import MANIFEST_NAME, delete_old_checkpoints
from trainer.faults import SteadyClock, is_disk_full, size_of
from trainer.run_lock import LOCK_NAME, OWNER_NAME, RunLock
from trainer.text import size_in_words


SAVING = {"save_strategy": "steps", "save_steps": 1, "queue_size": 7, "momentum": 0.9}


class Each(TrainerCallback):
    """Calls a function with the number of the step, before each or after each save."""

    def __init__(self, *, before=None, after_save=None):
        self.before = before
        self.after_save = after_save

    def on_step_begin(self, args, state, control, **kwargs):
        if self.before is not None:
            self.before(state.global_step)

    def on_save(self, args, state, control, **kwargs):
        if self.after_save is not None:
            self.after_save(state.global_step)


def step_logs(trainer):
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def checkpoints(folder):
    return sorted(path.name for path in folder.glob("checkpoint-*"))


# Two runs --------------------------------------------------------------------------------------------------------


class Elsewhere:
    """A process that holds the lock of a folder, and a child of it like a data worker's."""

    def __init__(self, folder):
        receiver, sender = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            lock = RunLock(folder)
            lock.acquire()
            child = os.fork()
            if child != 0:
                os.write(sender, str(child).encode())
            signal.pause()
        self.child = int(os.read(receiver, 10))

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def kill_child(self):
        os.kill(self.child, signal.SIGKILL)


@pytest.fixture
def elsewhere(tmp_path):
    process = Elsewhere(tmp_path / "run")
    yield process
    for end in (process.kill_child, process.kill):
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            end()


class TestTwoRuns:
    def test_the_second_is_locked_out_and_told_by_whom(self, elsewhere, make_trainer, pairs, tmp_path):
        trainer = make_trainer(**SAVING)
        message = (
            rf"run is in use: process {elsewhere.pid} on {socket.gethostname()}, since 20\d\d-.*folder of its own"
        )
        for resume in (None, True):
            with pytest.raises(ValueError, match=message):
                trainer.train(resume_from_checkpoint=resume)
        assert checkpoints(tmp_path / "run") == [] and trainer.optimizer is None
        # Who only looks writes nothing that could be in the way.
        assert trainer.evaluate(pairs)["eval_loss"] > 0
        # A child of the other run holds nothing, so what orphans a kill leaves does not matter.
        elsewhere.kill()
        os.kill(elsewhere.child, 0)
        trainer.train()
        assert checkpoints(tmp_path / "run") == ["checkpoint-1", "checkpoint-2"]

    @pytest.mark.parametrize("ends", ["well", "badly"])
    def test_the_folder_is_free_when_the_training_has_ended(self, make_trainer, tmp_path, ends):
        seen = []

        def before(step):
            seen.append(json.loads((tmp_path / "run" / OWNER_NAME).read_text()))
            with pytest.raises(ValueError, match=f"process {os.getpid()} on"):
                RunLock(tmp_path / "run").acquire()
            if ends == "badly":
                raise KeyboardInterrupt

        trainer = make_trainer(max_steps=1)
        trainer.add_callback(Each(before=before))
        if ends == "well":
            trainer.train()
        else:
            with pytest.raises(KeyboardInterrupt):
                trainer.train()
        assert [entry["pid"] for entry in seen] == [os.getpid()]
        assert not {LOCK_NAME, OWNER_NAME} & set(os.listdir(tmp_path / "run"))
        RunLock(tmp_path / "run").acquire()

    def test_what_a_kill_leaves_behind_does_not_lock(self, tmp_path):
        process = Elsewhere(tmp_path)
        process.kill_child()
        process.kill()
        assert {LOCK_NAME, OWNER_NAME} <= set(os.listdir(tmp_path))
        lock = RunLock(tmp_path)
        lock.acquire()
        assert json.loads((tmp_path / OWNER_NAME).read_text())["pid"] == os.getpid()
        lock.release()

    def test_who_it_is_may_be_unreadable(self, tmp_path):
        lock = RunLock(tmp_path)
        lock.acquire()
        (tmp_path / OWNER_NAME).write_text("[]")
        with pytest.raises(ValueError, match="another process is training into it"):
            RunLock(tmp_path).acquire()
        lock.release()

    def test_without_locks_the_training_goes_on_with_a_warning(self, make_trainer, monkeypatch, caplog):
        def refuse(*arguments, **options):
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
        with caplog.at_level(logging.WARNING, logger="trainer.run_lock"):
            trainer = make_trainer(max_steps=1)
            trainer.train()
        assert trainer.state.global_step == 1
        assert "knows no locks (No locks available): see to it that no other run" in caplog.text


# Full disks ------------------------------------------------------------------------------------------------------


class SmallDisk:
    """A file system in memory whose size is set, and what a command says who may not mount one."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        self.refusal = self._mount("size=64m")

    def resize(self, size):
        assert self._mount(f"remount,size={int(size)}") == ""

    def unmount(self):
        assert self._run("umount", "--lazy", str(self.folder)) == ""

    def _mount(self, options):
        return self._run("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.folder))

    @staticmethod
    def _run(*command):
        """What the command complains about."""
        try:
            return subprocess.run(command, capture_output=True, text=True).stderr
        except FileNotFoundError as error:
            return str(error)


@pytest.fixture
def small_disk(tmp_path):
    disk = SmallDisk(tmp_path / "disk")
    if disk.refusal:
        pytest.skip(f"mounting a small file system is not allowed here: {disk.refusal.strip()}")
    yield disk
    disk.unmount()


class TestFullDisk:
    WITH_ROOM = {}

    def logs_with_room(self, make_trainer, tmp_path):
        """Logs and size of checkpoints of a run that has room, made by the test that needs them first."""
        if not self.WITH_ROOM:
            trainer = make_trainer(**SAVING, output_dir=str(tmp_path / "whole"), max_steps=3)
            trainer.train()
            self.WITH_ROOM.update(logs=step_logs(trainer), size=size_of(tmp_path / "whole" / "checkpoint-1"))
        return self.WITH_ROOM["logs"], self.WITH_ROOM["size"]

    # Of what is written, the model comes first; then come the optimiser, the training state, and small files.
    @pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
    def test_the_last_checkpoint_stays_whole_and_is_named(self, small_disk, make_trainer, tmp_path, share):
        logs, size = self.logs_with_room(make_trainer, tmp_path)
        run = small_disk.folder / "run"

        def fill(step):
            # Into the second checkpoint, so and so far.
            small_disk.resize(size_of(small_disk.folder) + share * size + 100_000)

        trainer = make_trainer(**SAVING, output_dir=str(run), max_steps=3)
        trainer.add_callback(Each(after_save=fill))
        with pytest.raises(OSError) as caught:
            trainer.train()
        assert caught.value.errno == errno.ENOSPC
        message = str(caught.value)
        assert f"too full for the checkpoint {run / 'checkpoint-2'}: it needs about" in message
        assert (
            f"The last whole checkpoint is {run / 'checkpoint-1'}" in message
            and "resume_from_checkpoint=True" in message
        )
        assert checkpoints(run) == ["checkpoint-1"]
        verify_checkpoint(run / "checkpoint-1")

        small_disk.resize(64_000_000)
        trainer = make_trainer(**SAVING, output_dir=str(run), max_steps=3)
        trainer.train(resume_from_checkpoint=True)
        assert step_logs(trainer) == logs

    def test_no_room_for_the_first_one(self, small_disk, make_trainer):
        small_disk.resize(200_000)
        run = small_disk.folder / "run"
        trainer = make_trainer(**SAVING, output_dir=str(run))
        message = rf"checkpoint-1: it needs more than .* free.*There is no checkpoint in {run} to resume from yet"
        with pytest.raises(OSError, match=message) as caught:
            trainer.train()
        # The model, and two moments for each parameter that learns.
        needed = sum(parameter.nbytes for parameter in trainer.model.parameters())
        needed += sum(2 * parameter.nbytes + 4 for parameter in trainer.optimizer.state)
        assert f"needs more than {size_in_words(needed)}, and" in str(caught.value)
        assert checkpoints(run) == []

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
    @pytest.mark.parametrize("function", ["torch.save", "safetensors.torch.serialize_file", "os.fsync"])
    def test_whatever_is_being_written(self, make_trainer, tmp_path, monkeypatch, function, number):
        trainer = make_trainer(**SAVING)

        def refuse(*arguments, **options):
            raise OSError(number, os.strerror(number))

        trainer.add_callback(Each(after_save=lambda step: monkeypatch.setattr(function, refuse)))
        with pytest.raises(OSError, match="The last whole checkpoint is .*checkpoint-1"):
            trainer.train()
        assert checkpoints(tmp_path / "run") == ["checkpoint-1"]

    def test_other_errors_stay_what_they_are(self, make_trainer, tmp_path, monkeypatch):
        trainer = make_trainer(**SAVING)

        def refuse(*arguments, **options):
            raise OSError(errno.EIO, "Input/output error")

        trainer.add_callback(Each(after_save=lambda step: monkeypatch.setattr(torch, "save", refuse)))
        with pytest.raises(OSError, match=r"^\[Errno 5\] Input/output error$"):
            trainer.train()
        # What was written may tell why; it has no seal, so nobody resumes from it.
        with pytest.raises(ValueError, match="was not saved completely"):
            verify_checkpoint(tmp_path / "run" / "checkpoint-2")

    def test_an_error_that_does_not_say_why_is_looked_into(self, small_disk):
        error = RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")
        assert not is_disk_full(error, small_disk.folder)
        small_disk.resize(8192)
        assert is_disk_full(error, small_disk.folder)


# Data workers ----------------------------------------------------------------------------------------------------


class Troubled:
    """A collator whose third batch does something to the process that makes it, if that is a data worker."""

    def __init__(self, collator, trouble, not_before=None):
        self.collator = collator
        self.trouble = trouble
        self.not_before = not_before
        self.batches = 0

    def __call__(self, rows):
        self.batches += 1
        if self.batches == 3 and torch.utils.data.get_worker_info() is not None:
            while self.not_before is not None and not self.not_before.exists():
                time.sleep(0.05)
            self.trouble()
        return self.collator(rows)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def end():
    os._exit(7)


def stall():
    time.sleep(3600)


def fail():
    raise RuntimeError("a broken row")


class TestDataWorkers:
    @pytest.fixture
    def make_troubled(self, make_trainer, plain_collator):
        def make(trouble, not_before=None, **options):
            collator = Troubled(plain_collator, trouble, not_before)
            batches = {"per_device_train_batch_size": 4, "per_device_eval_batch_size": 4, "max_steps": 3}
            options = {"dataloader_num_workers": 1, **batches, **options}
            return make_trainer(trainer_options={"data_collator": collator}, **options)

        return make

    @pytest.mark.parametrize(
        ("trouble", "message"),
        [
            (die, r"\(process \d+\) is killed by signal: Killed\. .*memory"),
            (end, r"\(process [\d, ]+\) exited unexpectedly( with exit code 7)?\. .*says why"),
        ],
    )
    def test_a_dead_one_is_named_with_the_way_to_resume(self, make_troubled, tmp_path, trouble, message):
        trainer = make_troubled(trouble, tmp_path / "run" / "checkpoint-1" / MANIFEST_NAME, **SAVING)
        with pytest.raises(ChildProcessError, match=f"A data worker {message}.*The last whole checkpoint is .*-1"):
            trainer.train()

    def test_a_stalled_one_ends_the_training(self, make_troubled):
        message = r"not delivered a batch for 2 s \(`dataloader_timeout`\).*no checkpoint in .* to resume from yet"
        with pytest.raises(TimeoutError, match=message):
            make_troubled(stall, dataloader_timeout=2).train()

    def test_in_evaluation_too(self, make_troubled, pairs):
        with pytest.raises(ChildProcessError, match="A data worker .* is killed by signal: Killed"):
            make_troubled(die).evaluate(pairs)

    def test_other_errors_of_workers_stay_what_they_are(self, make_troubled):
        with pytest.raises(RuntimeError, match="a broken row"):
            make_troubled(fail).train()

    @pytest.mark.parametrize(("workers", "expected"), [(0, 0), (1, 900)])
    def test_the_limit_reaches_the_loader_only_where_there_are_workers(self, make_trainer, pairs, workers, expected):
        trainer = make_trainer(dataloader_num_workers=workers)
        assert trainer.get_train_dataloader().timeout == expected
        assert trainer.get_eval_dataloader(pairs).timeout == expected
        skipped = skip_first_batches(trainer.get_train_dataloader(), 1)
        assert skipped.timeout == expected


# Clocks ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def set_clock(monkeypatch):
    """Sets the time of the machine, as this process sees it, by some seconds; the steady clock goes on."""
    real, offset = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: real() + offset[0])

    def move(seconds):
        offset[0] += seconds

    return move


class TestClocks:
    YEAR = 365 * 24 * 3600.0

    @pytest.mark.parametrize("jump", [-YEAR, -3600.0, 3600.0, YEAR])
    def test_speeds_of_training_and_evaluation_are_true(self, make_trainer, pairs, set_clock, monkeypatch, jump):
        trainer = make_trainer(include_num_input_tokens_seen="all", max_steps=3)
        trainer.add_callback(Each(before=lambda step: set_clock(jump)))
        started = time.monotonic()
        metrics = trainer.train().metrics
        took = time.monotonic() - started
        assert 0 < metrics["train_runtime"] <= took
        assert metrics["train_steps_per_second"] == pytest.approx(3 / metrics["train_runtime"], rel=0.01)
        assert metrics["train_samples_per_second"] == pytest.approx(18 / metrics["train_runtime"], rel=0.01)
        for entry in trainer.state.log_history:
            assert 0 < entry.get("train_runtime", 1) <= took, entry

        loss = trainer.compute_loss
        monkeypatch.setattr(trainer, "compute_loss", lambda *a, **o: (set_clock(jump), loss(*a, **o))[1])
        started = time.monotonic()
        metrics = trainer.evaluate(pairs, metric_key_prefix="test")
        assert 0 < metrics["test_runtime"] <= time.monotonic() - started
        assert metrics["test_samples_per_second"] == pytest.approx(12 / metrics["test_runtime"], rel=0.01)
        assert metrics["test_steps_per_second"] == pytest.approx(2 / metrics["test_runtime"], rel=0.01)

    def test_a_clock_that_is_left_alone_changes_nothing(self):
        metrics = {"train_runtime": 2.0, "train_steps_per_second": 0.5}
        SteadyClock().correct(metrics, "train", num_samples=math.nan, num_steps=math.nan)
        assert metrics == {"train_runtime": 2.0, "train_steps_per_second": 0.5}

    def test_what_is_deleted_goes_by_steps_and_not_by_times(self, make_trainer, tmp_path):
        def backwards(step):
            # Each looks older than the one before.
            seconds = 1_700_000_000 - 3600 * step
            os.utime(tmp_path / "run" / f"checkpoint-{step}", (seconds, seconds))

        trainer = make_trainer(**SAVING, max_steps=4, save_total_limit=2)
        trainer.add_callback(Each(after_save=backwards))
        trainer.train()
        assert checkpoints(tmp_path / "run") == ["checkpoint-3", "checkpoint-4"]

    @pytest.mark.parametrize(
        ("newest", "limit", "left"),
        [(30, 2, [20, 30]), (30, 3, [10, 20, 30]), (20, 2, [10, 20]), (10, 2, [10, 20]), (30, 1, [30])],
    )
    def test_what_another_run_has_left_goes_first(self, tmp_path, newest, limit, left):
        for step in (10, 20, 30):
            (tmp_path / f"checkpoint-{step}").mkdir()
        delete_old_checkpoints(str(tmp_path), str(tmp_path / f"checkpoint-{newest}"), limit, None)
        assert checkpoints(tmp_path) == [f"checkpoint-{step}" for step in left]
