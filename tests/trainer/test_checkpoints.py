# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Checkpoints: whole at any moment, verified before they are read, and resumed as if nothing had happened."""

import copy
import gc
import itertools
import json
import logging
import multiprocessing
import os
import pickle
import re
import shutil
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as checkpoint
import xxhash
from datasets import concatenate_datasets, load_from_disk
from safetensors.torch import load_file
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from transformers import AutoProcessor, TrainerCallback, set_seed
from transformers.trainer_callback import ExportableState

from modeling_sacl import SaclConfig, SaclForPreTraining
from trainer import PairCollator, SaclTrainer, SaclTrainingArguments, seal_checkpoint, verify_checkpoint
from trainer.checkpoints import MANIFEST_NAME, checkpoint_to_resume, delete_old_checkpoints, tensors_only
from trainer.data import SeededStream, undecoded
from trainer.data.seeding import ROW_SEED

from .processes import free_port, in_processes


NEW = f"checkpoint-2/{MANIFEST_NAME}"
STATE_NAME = "sacl_training_state.safetensors"


def make_trainer(material, output_dir, *, chance=True, data="pairs", eval_dataset=None, **options):
    """
    A trainer with teacher and queue on twelve pairs, three steps to an epoch; with chance it augments, masks, and
    drops out. What it needs is in the folder `material`, for processes of their own.
    """
    set_seed(0)
    model = SaclForPreTraining.from_pretrained(os.path.join(material, "model"))
    processor = AutoProcessor.from_pretrained(os.path.join(material, "model"))
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.1 if chance else 0.0
    pairs = load_from_disk(os.path.join(material, "pairs"))
    defaults = {
        "use_cpu": True,
        "per_device_train_batch_size": 4,
        "max_steps": 4,
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": 1,
        "queue_size": 7,
        "momentum": 0.9,
        "learning_rate": 1e-3,
        "warmup_steps": 0,
        "report_to": "none",
        "disable_tqdm": True,
    }
    return SaclTrainer(
        model=model,
        args=SaclTrainingArguments(str(output_dir), **{**defaults, **options}),
        data_collator=None if chance else PairCollator(processor).for_evaluation(),
        train_dataset=pairs.to_iterable_dataset(num_shards=4) if data == "stream" else pairs,
        eval_dataset=eval_dataset,
        processing_class=processor,
    )


def step_logs(trainer):
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def weights(trainer):
    return {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture(scope="module")
def material(tmp_path_factory, tiny_processor, pairs):
    """What [`make_trainer`] reads: a tiny model, its processor, and pairs whose captions differ in length."""
    folder = tmp_path_factory.mktemp("material")
    set_seed(0)
    tiny = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 37}
    config = SaclConfig(
        text_config={**tiny, "vocab_size": 99},
        vision_config={**tiny, "image_size": 32, "patch_size": 8},
        fusion_encoder_config={"num_hidden_layers": 1},
        projection_dim=20,
    )
    SaclForPreTraining(config).save_pretrained(folder / "model")
    tiny_processor.save_pretrained(folder / "model")
    captions = [caption + " on this photo" * (index % 3) for index, caption in enumerate(pairs["caption"])]
    pairs.remove_columns("caption").add_column("caption", captions).save_to_disk(folder / "pairs")
    return str(folder)


@pytest.fixture(scope="module")
def whole_run(material, tmp_path_factory):
    """A run that nothing interrupts, with a checkpoint after each of its steps: trainer and folder."""
    folder = tmp_path_factory.mktemp("whole")
    trainer = make_trainer(material, folder)
    trainer.train()
    return trainer, folder


@pytest.fixture
def copied_run(whole_run, tmp_path):
    """A copy of that run's folder, to be damaged."""
    return Path(shutil.copytree(whole_run[1], tmp_path / "copy"))


# Processes of their own ------------------------------------------------------------------------------------------


class KillAt:
    """
    Counts what happens to the files of a folder, and kills the process the moment before something happens for the
    n-th time, if need be with the file that was written last cut in half.
    """

    CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "shutil.rmtree", "shutil.copyfile")

    def __init__(self, folder, moment, cut):
        self.folder = str(folder)
        self.moment = moment
        self.cut = cut
        self.is_watching = False
        self.seen = []
        sys.addaudithook(self.on_event)
        # These write without Python's taking notice.
        torch.save = self.noted(torch.save, "torch.save")
        safetensors.torch.serialize_file = self.noted(safetensors.torch.serialize_file, "safetensors")

    def on_event(self, name, arguments):
        if not self.is_watching or not (name in self.CHANGES or name == "open"):
            return
        path = arguments[0]
        flags = arguments[2] if name == "open" else os.O_RDWR
        if isinstance(path, (str, os.PathLike)) and str(path).startswith(self.folder) and flags & os.O_ACCMODE:
            self.happens(f"{name} {os.path.relpath(path, self.folder)}")

    def noted(self, function, name):
        def wrapped(*arguments, **options):
            self.happens(f"before {name}")
            result = function(*arguments, **options)
            self.happens(f"after {name}")
            return result

        return wrapped

    def happens(self, description):
        if not self.is_watching:
            return
        self.seen.append(description)
        if len(self.seen) == self.moment:
            self.is_watching = False
            if self.cut:
                self.cut_newest()
            os.kill(os.getpid(), signal.SIGKILL)

    def cut_newest(self):
        newest = max(
            (path for path in Path(self.folder).rglob("*") if path.is_file()), key=lambda path: path.stat().st_mtime_ns
        )
        # What is sealed has reached the disk.
        if not (newest.parent / MANIFEST_NAME).exists():
            os.truncate(newest, newest.stat().st_size // 2)


def forked(work, *arguments):
    """Calls `work` in a fork of this process, and returns how that ended."""
    pid = os.fork()
    if pid == 0:
        try:
            work(*arguments)
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class KilledRuns:
    """Runs that are killed in their second save, and what becomes of them. The trainer is built once, and forked."""

    def __init__(self, material, folder, **options):
        self.folder = Path(folder)
        self.trainer = make_trainer(material, folder, **options)
        # Forks need not look for garbage among what has been imported.
        gc.collect()
        gc.freeze()

    def events(self):
        """What a run that nobody kills does to files in its second save."""
        assert forked(self.run, "not-killed", None, False) == 0
        return json.loads((self.folder / "not-killed" / "events.json").read_text())

    def outcome(self, moment, cut):
        """How a run ended that was killed at that moment, how its resumption ended, from where, and with what logs."""
        name = f"{moment}-{cut}"
        killed, resumed = forked(self.run, name, moment, cut), forked(self.resume, name)
        result = self.folder / f"{name}.json"
        shutil.rmtree(self.folder / name)
        return killed, resumed, json.loads(result.read_text()) if result.exists() else None

    def run(self, name, moment, cut):
        output_dir = self.folder / name
        self.trainer.args.output_dir = str(output_dir)
        kill, save = KillAt(output_dir, moment, cut), self.trainer._save_checkpoint

        def watched(*arguments):
            kill.is_watching = self.trainer.state.global_step == 2
            save(*arguments)
            kill.happens("saved")
            kill.is_watching = False

        self.trainer._save_checkpoint = watched
        self.trainer.train()
        (output_dir / "events.json").write_text(json.dumps(kill.seen))

    def resume(self, name):
        output_dir = self.folder / name
        self.trainer.args.output_dir = str(output_dir)
        found = checkpoint_to_resume(True, output_dir)
        self.trainer.train(resume_from_checkpoint=True)
        result = {"from": os.path.basename(found), "logs": step_logs(self.trainer)}
        (self.folder / f"{name}.json").write_text(json.dumps(result))


def kill_and_resume(_, material, folder, every, options):
    """Outcomes by moment: of all of them, cut and not, or of some and of those around the seal, cut in turns."""
    runs = KilledRuns(material, folder, **options)
    events = runs.events()
    sealing = next(moment for moment, event in enumerate(events, 1) if event.startswith(f"os.rename {NEW}"))
    moments = sorted({*range(1, len(events) + 1, every), sealing, sealing + 1, len(events)})
    if every == 1:
        ways = itertools.product(moments, (False, True))
    else:
        ways = zip(moments, itertools.cycle((True, False)), strict=False)
    return {(moment, events[moment - 1], cut): runs.outcome(moment, cut) for moment, cut in ways}


class TestKilledWhileSaving:
    """SIGKILL at a moment of the second save; what happens to files there is counted first."""

    ALL = [pytest.mark.slow, pytest.mark.timeout(1200)]

    @pytest.mark.parametrize(
        ("save_total_limit", "every"),
        [(1, 12), (2, 30), pytest.param(1, 1, marks=ALL), pytest.param(2, 1, marks=ALL)],
    )
    def test_resumes_from_a_whole_checkpoint(self, material, whole_run, tmp_path, save_total_limit, every):
        options = {"save_total_limit": save_total_limit, "max_steps": 4}
        (outcomes,) = in_processes(kill_and_resume, material, tmp_path, every, options)
        assert len(outcomes) >= 4
        resumed_from = Counter()
        for moment, (killed, resumed, result) in outcomes.items():
            assert (killed, resumed) == (-signal.SIGKILL, 0), moment
            assert result["logs"] == step_logs(whole_run[0]), moment
            resumed_from[result["from"]] += 1
        assert resumed_from.keys() == {"checkpoint-1", "checkpoint-2"}, resumed_from

    def test_before_the_first_seal_there_is_nothing_to_resume_from(self, material, copied_run):
        for step in range(1, 5):
            os.remove(copied_run / f"checkpoint-{step}" / MANIFEST_NAME)
        trainer = make_trainer(material, copied_run)
        with pytest.raises(ValueError, match="No valid checkpoint.*checkpoint-4 was not saved completely.*-1 was not"):
            trainer.train(resume_from_checkpoint=True)
        with pytest.raises(ValueError, match=r"No valid checkpoint found in output directory \(.*/empty\)$"):
            make_trainer(material, copied_run / "empty").train(resume_from_checkpoint=True)


class TestSeal:
    def test_lists_every_file_of_the_checkpoint(self, whole_run):
        folder = whole_run[1] / "checkpoint-2"
        manifest = json.loads((folder / MANIFEST_NAME).read_text())
        files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert {*manifest["files"], MANIFEST_NAME} == files
        assert {"model.safetensors", "optimizer.pt", "rng_state.pth", STATE_NAME} < manifest["files"].keys()
        for name, entry in manifest["files"].items():
            content = (folder / name).read_bytes()
            assert entry == {"size": len(content), "xxh3_128": xxhash.xxh3_128_hexdigest(content)}, name
        verify_checkpoint(folder)

    def test_is_broken_before_a_checkpoint_is_written_anew(self, material, tmp_path):
        trainer = make_trainer(material, tmp_path, max_steps=1)
        trainer.train()
        seen = []
        save_model = trainer.save_model

        def watching(output_dir, **options):
            seen.append(os.listdir(output_dir))
            save_model(output_dir, **options)

        trainer.save_model = watching
        trainer.train()
        assert len(seen) == 1 and MANIFEST_NAME not in seen[0]
        verify_checkpoint(tmp_path / "checkpoint-1")

    def test_subfolders_belong_to_the_checkpoint(self, copied_run):
        folder = copied_run / "checkpoint-2"
        (folder / "shards" / "first").mkdir(parents=True)
        (folder / "shards" / "first" / "part.bin").write_bytes(b"12345")
        seal_checkpoint(folder)
        verify_checkpoint(folder)
        (folder / "shards" / "first" / "part.bin").write_bytes(b"12346")
        with pytest.raises(ValueError, match="shards/first/part.bin has been changed"):
            verify_checkpoint(folder)

    def test_what_was_added_later_is_left_alone(self, copied_run):
        (copied_run / "checkpoint-2" / "notes.txt").write_text("the good one")
        verify_checkpoint(copied_run / "checkpoint-2")

    def test_only_a_finished_checkpoint_can_be_sealed(self, copied_run, tmp_path):
        os.remove(copied_run / "checkpoint-2" / "trainer_state.json")
        for folder in (copied_run / "checkpoint-2", tmp_path / "nothing"):
            with pytest.raises(ValueError, match=f"{folder} cannot be sealed.*trainer_state.json"):
                seal_checkpoint(folder)

    def test_old_checkpoints_go_only_when_the_new_one_is_sealed(self, material, tmp_path):
        trainer = make_trainer(material, tmp_path, save_total_limit=1, max_steps=3)
        seen = []

        class Watch(TrainerCallback):
            def on_step_begin(self, *args, **kwargs):
                seen.append(sorted(name for name in os.listdir(tmp_path) if name.startswith("checkpoint")))

        trainer.add_callback(Watch())
        trainer.train()
        assert seen == [[], ["checkpoint-1"], ["checkpoint-2"]]
        arguments = torch.load(tmp_path / "checkpoint-3" / "training_args.bin", weights_only=False)
        assert arguments.save_total_limit == trainer.args.save_total_limit == 1

    @pytest.mark.parametrize(
        ("limit", "best", "left"), [(1, None, "2"), (1, 1, "12"), (2, None, "12"), (0, None, "1234")]
    )
    def test_the_one_just_sealed_stays_and_what_another_run_has_left_goes(self, copied_run, limit, best, left):
        best = None if best is None else str(copied_run / f"checkpoint-{best}")
        delete_old_checkpoints(str(copied_run), str(copied_run / "checkpoint-2"), limit, best)
        assert sorted(os.listdir(copied_run)) == [f"checkpoint-{step}" for step in left]

    @pytest.mark.parametrize("limit", [1, 2])
    def test_the_best_checkpoint_stays(self, material, pairs, tmp_path, limit):
        trainer = make_trainer(
            material,
            tmp_path,
            save_total_limit=limit,
            eval_strategy="steps",
            eval_steps=1,
            load_best_model_at_end=True,
            metric_for_best_model="rank",
            greater_is_better=False,
            eval_dataset=pairs,
        )
        trainer.evaluate = lambda *_, **__: {"eval_rank": [1.0, 0.0, 2.0, 3.0][trainer.state.global_step - 1]}
        trainer.train()
        best = str(tmp_path / "checkpoint-2")
        assert trainer.state.best_model_checkpoint == best
        # With a limit of 1 the parent deletes, at the very end, all but the best.
        assert sorted(os.listdir(tmp_path)) == ["checkpoint-2"] + ["checkpoint-4"] * (limit > 1)
        saved = load_file(os.path.join(best, "model.safetensors"))
        assert same({name: tensor for name, tensor in weights(trainer).items() if name in saved}, saved)

    def test_what_is_pushed_is_sealed(self, material, tmp_path):
        trainer = make_trainer(material, tmp_path, max_steps=2, save_total_limit=1)
        pushed = []

        def push(folder):
            verify_checkpoint(folder)
            pushed.append((os.path.basename(folder), sorted(path.name for path in tmp_path.glob("checkpoint-*"))))

        trainer._push_from_checkpoint = push
        trainer.args.push_to_hub = True
        trainer.train()
        assert pushed == [("checkpoint-1", ["checkpoint-1"]), ("checkpoint-2", ["checkpoint-1", "checkpoint-2"])]
        assert trainer.args.push_to_hub

    def test_a_model_alone_is_sealed_too(self, material, tmp_path):
        make_trainer(material, tmp_path, max_steps=1, save_only_model=True).train()
        verify_checkpoint(tmp_path / "checkpoint-1")
        assert not {STATE_NAME, "optimizer.pt"} & set(os.listdir(tmp_path / "checkpoint-1"))

    def test_an_exported_model_has_neither_seal_nor_training_state(self, whole_run, tmp_path):
        whole_run[0].save_model(str(tmp_path))
        names = set(os.listdir(tmp_path))
        assert "model.safetensors" in names
        assert not names & {MANIFEST_NAME, STATE_NAME, "optimizer.pt", "scheduler.pt", "rng_state.pth"}
        assert not any("teacher" in name or "queue" in name for name in load_file(tmp_path / "model.safetensors"))


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


class TestDamage:
    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (cut, r"has \d+ bytes, but \d+ were saved"),
            (flip, "has been changed: its xxh3_128 is [0-9a-f]{32}, but [0-9a-f]{32} was saved"),
            (os.remove, r"is missing \(\d+ bytes were saved\)"),
        ],
    )
    def test_every_file_is_missed_and_named(self, copied_run, damage, message):
        folder = copied_run / "checkpoint-3"
        for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST_NAME):
            content, name = path.read_bytes(), re.escape(path.relative_to(folder).as_posix())
            damage(path)
            with pytest.raises(ValueError, match=f"{folder} is damaged: {name} {message}") as caught:
                verify_checkpoint(folder)
            assert f"Resume from {copied_run / 'checkpoint-4'}." in str(caught.value)
            path.write_bytes(content)
        verify_checkpoint(folder)

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (cut, f"is damaged: {MANIFEST_NAME} cannot be read"),
            (flip, f"is damaged: {MANIFEST_NAME} "),
            (os.remove, f"was not saved completely.*it has no {MANIFEST_NAME}.*`seal_checkpoint"),
            (lambda path: path.write_text("[]"), f"is damaged: {MANIFEST_NAME} cannot be read"),
        ],
    )
    def test_so_is_the_manifest(self, copied_run, damage, message):
        damage(copied_run / "checkpoint-3" / MANIFEST_NAME)
        with pytest.raises(ValueError, match=f"checkpoint-3 {message}"):
            verify_checkpoint(copied_run / "checkpoint-3")

    def test_every_byte_of_the_manifest_counts(self, copied_run):
        path = copied_run / "checkpoint-3" / MANIFEST_NAME
        content = path.read_bytes()
        for position in range(0, len(content), 41):
            path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
            with pytest.raises(ValueError, match=f"checkpoint-3 is damaged: {MANIFEST_NAME} "):
                verify_checkpoint(copied_run / "checkpoint-3")

    def test_a_manifest_of_another_version_is_not_guessed_at(self, copied_run):
        path = copied_run / "checkpoint-3" / MANIFEST_NAME
        path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 7}))
        with pytest.raises(ValueError, match="format version 7, but 1 was expected"):
            verify_checkpoint(copied_run / "checkpoint-3")

    def test_training_stops_before_anything_is_loaded(self, material, copied_run):
        flip(copied_run / "checkpoint-3" / "scheduler.pt")
        trainer = make_trainer(material, copied_run)
        before = weights(trainer)
        with pytest.raises(ValueError, match="scheduler.pt has been changed"):
            trainer.train(resume_from_checkpoint=str(copied_run / "checkpoint-3"))
        assert same(weights(trainer), before)
        assert trainer.optimizer is None

    def test_an_unsealed_checkpoint_is_refused_with_the_way_out(self, material, copied_run):
        for step in (2, 4):
            os.remove(copied_run / f"checkpoint-{step}" / MANIFEST_NAME)
        trainer = make_trainer(material, copied_run)
        message = (
            r"checkpoint-2 was not saved completely \(the process was stopped while saving\), or was saved by another "
            rf"trainer.*Resume from {copied_run / 'checkpoint-3'}\..*`seal_checkpoint\("
        )
        with pytest.raises(ValueError, match=message):
            trainer.train(resume_from_checkpoint=str(copied_run / "checkpoint-2"))
        for step in (1, 3):
            os.remove(copied_run / f"checkpoint-{step}" / MANIFEST_NAME)
        with pytest.raises(ValueError, match="There is no whole checkpoint beside it"):
            trainer.train(resume_from_checkpoint=str(copied_run / "checkpoint-2"))
        seal_checkpoint(copied_run / "checkpoint-2")
        trainer.train(resume_from_checkpoint=str(copied_run / "checkpoint-2"))
        assert trainer.state.global_step == 4

    def test_a_checkpoint_that_does_not_exist_is_named(self, material, copied_run):
        with pytest.raises(ValueError, match="checkpoint-9 does not exist. Resume from .*checkpoint-4"):
            make_trainer(material, copied_run).train(resume_from_checkpoint=str(copied_run / "checkpoint-9"))

    def test_the_last_whole_one_is_taken_and_others_are_told(self, material, whole_run, copied_run, caplog):
        os.remove(copied_run / "checkpoint-4" / MANIFEST_NAME)
        flip(copied_run / "checkpoint-3" / "optimizer.pt")
        (copied_run / "checkpoint-12-kept").mkdir()
        trainer = make_trainer(material, copied_run)
        with caplog.at_level(logging.WARNING, logger="trainer.checkpoints"):
            trainer.train(resume_from_checkpoint=True)
        (warning,) = [record.getMessage() for record in caplog.records if record.name == "trainer.checkpoints"]
        assert f"Resuming from {copied_run / 'checkpoint-2'}, because" in warning
        assert "checkpoint-4 was not saved completely" in warning
        assert "checkpoint-3 is damaged: optimizer.pt has been changed" in warning
        assert step_logs(trainer) == step_logs(whole_run[0])

    @pytest.mark.parametrize("damage", ["missing", "cut", "garbage"])
    def test_a_sealed_checkpoint_without_its_training_state_is_refused(self, material, copied_run, damage):
        path = copied_run / "checkpoint-2" / STATE_NAME
        if damage == "missing":
            os.remove(path)
        elif damage == "cut":
            cut(path)
        else:
            path.write_bytes(b"x" * 1000)
        seal_checkpoint(copied_run / "checkpoint-2")
        with pytest.raises(ValueError, match=f"teacher and the queue cannot be restored from .*{STATE_NAME}"):
            make_trainer(material, copied_run).train(resume_from_checkpoint=str(copied_run / "checkpoint-2"))


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (Path.touch, (self.trace,))


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled", "ignore:Detected an existing checkpoint")
class TestPickles:
    """Hashes do not help against whoever can seal."""

    @pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
    def test_a_planted_one_is_refused_and_does_not_run(self, material, copied_run, tmp_path, name):
        folder, trace = copied_run / "checkpoint-2", tmp_path / "it ran"
        torch.save({"state": Payload(trace)}, folder / name)
        seal_checkpoint(folder)
        trainer = make_trainer(material, copied_run)
        with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
            trainer.train(resume_from_checkpoint=str(folder))
        assert not trace.exists()
        torch.load(folder / name, weights_only=False)
        assert trace.exists()

    def test_the_arguments_are_saved_for_people_and_never_loaded(self, material, copied_run, tmp_path):
        folder, trace = copied_run / "checkpoint-2", tmp_path / "it ran"
        torch.save(Payload(trace), folder / "training_args.bin")
        seal_checkpoint(folder)
        make_trainer(material, tmp_path / "elsewhere").train(resume_from_checkpoint=str(folder))
        assert not trace.exists()

    @pytest.fixture
    def sharded(self, copied_run):
        """A checkpoint with a part as FSDP saves it, in shards; and the state that is in it."""
        model = nn.Linear(3, 4)
        optimizer = torch.optim.AdamW(model.parameters())
        model(torch.ones(2, 3)).sum().backward()
        optimizer.step()
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        checkpoint.save(state, checkpoint_id=copied_run / "checkpoint-2" / "shards", no_dist=True)
        seal_checkpoint(copied_run / "checkpoint-2")
        return copied_run / "checkpoint-2", state

    def test_shards_are_loaded(self, sharded):
        folder, state = sharded
        verify_checkpoint(folder)
        expected = copy.deepcopy(state)
        for tensor in state["model"].values():
            tensor.zero_()
        with tensors_only():
            checkpoint.load(state, checkpoint_id=folder / "shards", no_dist=True)
        assert same(state["model"], expected["model"])
        assert state["optimizer"]["param_groups"] == expected["optimizer"]["param_groups"]
        assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ

    def test_one_planted_among_shards_does_not_run(self, sharded, tmp_path):
        folder, state = sharded
        trace = tmp_path / "it ran"
        checkpoint.save({**state, "more": Payload(trace)}, checkpoint_id=folder / "shards", no_dist=True)
        with tensors_only(), pytest.raises(CheckpointException, match="Weights only load failed"):
            checkpoint.load({**state, "more": None}, checkpoint_id=folder / "shards", no_dist=True)
        assert not trace.exists()

    @pytest.mark.parametrize("name", ["touch", "os.remove"])
    def test_one_planted_as_the_list_of_shards_does_not_run(self, sharded, tmp_path, name):
        folder, trace = sharded[0], tmp_path / "it ran"
        planted = pickle.dumps(Payload(trace))
        if name == "os.remove":  # By way of a module that is allowed.
            trace.touch()
            planted = b"\x80\x04\x8c\x25torch.distributed.checkpoint.metadata\x8c\x09os.remove\x93"
            planted += pickle.dumps(str(trace), protocol=4)[2:-1] + b"\x85R."
        (folder / "shards" / ".metadata").write_bytes(planted)
        seal_checkpoint(folder)
        with pytest.raises(ValueError, match="checkpoint-2 is not safe to load: shards/.metadata .* does not belong"):
            verify_checkpoint(folder)
        assert trace.exists() == (name == "os.remove")


# The same run ----------------------------------------------------------------------------------------------------


def train_together(rank, world, port, material, output_dir, data, resume):
    """The losses of a run without chance, by one process or several with the same global batch."""
    if world > 1:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        dist.init_process_group("gloo", rank=rank, world_size=world)
    try:
        trainer = make_trainer(
            material,
            output_dir,
            chance=False,
            data=data,
            max_steps=6,
            logging_steps=2,
            per_device_train_batch_size=4 // world,
            train_sampling_strategy="sequential",
            itm_weight=0.0,
            mlm_weight=0.0,
            ddp_backend="gloo" if world > 1 else None,
        )
        try:
            trainer.train(resume_from_checkpoint=resume)
        except ValueError as error:
            return str(error)
        return [entry["loss"] for entry in step_logs(trainer)]
    finally:
        if world > 1:
            dist.destroy_process_group()


class TestAnotherNumberOfProcesses:
    @pytest.mark.parametrize(("before", "after", "data"), [(1, 2, "pairs"), (2, 1, "pairs"), (2, 2, "stream")])
    def test_losses_are_those_of_the_uninterrupted_run(self, material, tmp_path, before, after, data):
        def train(world, resume):
            return in_processes(train_together, world, free_port(), material, str(tmp_path), data, resume, count=world)

        (*_, whole) = train(before, None)
        assert len(whole) == 3
        for step in (4, 5, 6):
            shutil.rmtree(tmp_path / f"checkpoint-{step}")
        # Ranks write their own states of chance, and all of it is sealed.
        names = {"rng_state.pth"} if before == 1 else {"rng_state_0.pth", "rng_state_1.pth"}
        assert names <= json.loads((tmp_path / "checkpoint-3" / MANIFEST_NAME).read_text())["files"].keys()
        for losses in train(after, True):
            assert losses == pytest.approx(whole, abs=1e-5)

    def test_all_processes_raise_together(self, material, copied_run):
        flip(copied_run / "checkpoint-3" / "model.safetensors")
        path = str(copied_run / "checkpoint-3")
        messages = in_processes(train_together, 2, free_port(), material, str(copied_run), "pairs", path, count=2)
        assert messages[0] == messages[1]
        assert "model.safetensors has been changed" in messages[0]


class Counting(TrainerCallback, ExportableState):
    """A callback with a state of its own."""

    def __init__(self, count=0):
        self.count = count

    def on_step_end(self, *args, **kwargs):
        self.count += 1

    def state(self):
        return {"args": {"count": self.count}, "attributes": {}}


class TestCurves:
    def test_logs_and_callbacks_go_on(self, material, tmp_path):
        counts, logs = [], []
        for resume in (None, str(tmp_path / "checkpoint-5")):
            trainer = make_trainer(
                material,
                tmp_path,
                max_steps=7,
                logging_steps=3,
                logging_first_step=True,
                restore_callback_states_from_checkpoint=True,
            )
            trainer.add_callback(Counting())
            trainer.train(resume_from_checkpoint=resume)
            (callback,) = [c for c in trainer.callback_handler.callbacks if isinstance(c, Counting)]
            counts.append(callback.count)
            logs.append(step_logs(trainer))
        assert counts == [7, 7]
        assert len(logs[0]) == 3 and logs[0] == logs[1]


class Noting:
    """A collator that notes in which process it was asked, and whether that had to import torch anew."""

    def __init__(self, collator):
        self.collator = collator
        torch.is_inherited = True

    def __getattr__(self, name):
        return getattr(self.collator, name)

    def __call__(self, rows):
        worker = torch.utils.data.get_worker_info()
        notes = [-1 if worker is None else worker.id, hasattr(torch, "is_inherited")]
        return {**self.collator(rows), "notes": torch.tensor(notes)}


def train_until_killed(rank, port, material, output_dir, resume):
    """Two processes with two workers each, which note what they train on, step by step, in files."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    multiprocessing.set_start_method("fork", force=True)  # as where Python was started by a user of Linux
    trainer = make_trainer(
        material,
        output_dir,
        data="stream",
        max_steps=12,
        save_steps=5,
        per_device_train_batch_size=4,
        dataloader_num_workers=2,
        itm_weight=0.0,
        mlm_weight=0.0,
        ddp_backend="gloo",
    )
    twelve = load_from_disk(os.path.join(material, "pairs"))
    many = concatenate_datasets([twelve] * 8).remove_columns("pair_id").add_column("pair_id", list(range(96)))
    trainer.train_dataset = undecoded(many).to_iterable_dataset(num_shards=8).shuffle(seed=3, buffer_size=5)
    trainer.data_collator = Noting(trainer.data_collator)
    compute_loss = trainer.compute_loss

    def noted(model, inputs, *arguments, **options):
        notes = inputs.pop("notes").tolist()
        with open(os.path.join(output_dir, f"{rank}.jsonl"), "a") as file:
            file.write(json.dumps([trainer.state.global_step, inputs["pair_ids"].tolist(), *notes]) + "\n")
        if not resume and trainer.state.global_step == 7:
            dist.barrier()
            os.kill(os.getpid(), signal.SIGKILL)
        return compute_loss(model, inputs, *arguments, **options)

    trainer.compute_loss = noted
    trainer.train(resume_from_checkpoint=resume or None)
    dist.destroy_process_group()


class TestStreams:
    def test_two_processes_with_two_workers_see_every_pair_once_though_they_are_killed(self, material, tmp_path):
        """96 pairs, 8 to a step, so 12 steps to an epoch; killed in the eighth, resumed after the fifth."""
        with pytest.raises(EOFError):
            in_processes(train_until_killed, free_port(), material, str(tmp_path), False, count=2)
        killed = [list(map(json.loads, (tmp_path / f"{rank}.jsonl").read_text().splitlines())) for rank in range(2)]
        assert [[step for step, *_ in steps] for steps in killed] == [list(range(8))] * 2
        in_processes(train_until_killed, free_port(), material, str(tmp_path), True, count=2)
        whole = [list(map(json.loads, (tmp_path / f"{rank}.jsonl").read_text().splitlines())) for rank in range(2)]
        resumed = [steps[8:] for steps in whole]
        assert [[step for step, *_ in steps] for steps in resumed] == [list(range(5, 12))] * 2
        # What was trained on after the checkpoint and lost with the process comes again, in the same batches.
        assert [steps[5:] for steps in killed] == [steps[:3] for steps in resumed]
        seen = [ids for before, after in zip(killed, resumed, strict=True) for _, ids, *_ in before[:5] + after]
        assert sorted(itertools.chain.from_iterable(seen)) == list(range(96))
        # Both workers of each process read; they are copies of it, which need not import torch a second time.
        assert {(rank, worker, inherited) for rank in range(2) for _, _, worker, inherited in whole[rank]} == {
            (rank, worker, 1) for rank in range(2) for worker in range(2)
        }

    @pytest.mark.parametrize(("step", "workers"), [(2, 0), (3, 0), (5, 0), (5, 2)])
    def test_an_interrupted_run_goes_on_bit_for_bit(self, material, tmp_path, step, workers):
        """Within a pass, between two, and within the second, with augmentation, masks and dropout."""
        runs = []
        for resume in (None, str(tmp_path / f"checkpoint-{step}")):
            trainer = make_trainer(
                material, tmp_path, data="stream", max_steps=7, save_steps=step, dataloader_num_workers=workers
            )
            trainer.train(resume_from_checkpoint=resume)
            runs.append(trainer)
        assert len(step_logs(runs[0])) == 7
        assert step_logs(runs[0]) == step_logs(runs[1])
        assert same(weights(runs[0]), weights(runs[1]))

    @pytest.fixture
    def passes(self, pairs):
        """Seeds by pair id of the first passes through a shuffled stream."""

        def read(workers, count=2, seed=1, skip=0):
            stream = pairs.to_iterable_dataset(num_shards=4).shuffle(seed=5, buffer_size=4)
            loader = torch.utils.data.DataLoader(
                SeededStream(stream, seed), batch_size=None, num_workers=workers, collate_fn=lambda row: row
            )
            rows = list(itertools.islice(loader, count * len(pairs)))
            seeds = [
                {row["pair_id"]: row[ROW_SEED] for row in rows[start : start + len(pairs)]}
                for start in range(0, len(rows), len(pairs))
            ]
            return seeds, [row["pair_id"] for row in rows]

        return read

    def test_seeds_are_of_the_row_and_the_pass(self, passes):
        (first, second), order = passes(0)
        assert first.keys() == second.keys() == set(range(100, 112))
        assert len({*first.values(), *second.values()}) == 24
        assert order[:12] != order[12:]
        assert passes(0) == ([first, second], order)
        assert not set(first.values()) & set(passes(0, seed=2)[0][0].values())

    def test_seeds_do_not_depend_on_the_number_of_workers(self, passes):
        (alone, order), (shared, other_order) = passes(0), passes(2)
        assert shared == alone
        assert order != other_order

    def test_an_empty_stream_ends(self, pairs):
        stream = pairs.to_iterable_dataset().filter(lambda row: False)
        assert list(SeededStream(stream, seed=0)) == []

    def test_by_epoch_is_warned_of(self, material, tmp_path, caplog):
        trainer = make_trainer(material, tmp_path, data="stream", max_steps=1, save_strategy="epoch")
        with caplog.at_level(logging.WARNING, logger="trainer.preparation"):
            trainer.train()
        assert "one long epoch" in caplog.text and "`save_strategy`" in caplog.text
        verify_checkpoint(tmp_path / "checkpoint-1")
