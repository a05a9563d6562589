# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""A training goes on from the Hub as if nothing had happened, and nothing from there is unpickled unseen."""

import random
import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import save_file
from transformers import TrainerCallback

from trainer import verify_checkpoint
from trainer.shared_checkpoints import (
    HubCheckpoint,
    fetch_checkpoint,
    from_safetensors,
    to_safetensors,
)


REPO = "user/sacl-tiny"
OPTIONS = {
    "max_steps": 4,
    "save_strategy": "steps",
    "save_steps": 2,
    "queue_size": 8,
    "momentum": 0.9,
    "hub_always_push": True,
}


class StopAt(TrainerCallback):
    """The machine is taken away after a step."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.step


def weights(trainer):
    return {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


class TestResuming:
    @pytest.mark.parametrize("strategy", ["checkpoint", "all_checkpoints"])
    def test_equals_the_run_that_nothing_interrupted(self, hub, make_trainer, strategy, tmp_path):
        whole = make_trainer(**OPTIONS, push_to_hub=False, output_dir=str(tmp_path / "whole"))
        whole.train()

        interrupted = make_trainer(**OPTIONS, hub_strategy=strategy, output_dir=str(tmp_path / "first"))
        if strategy == "checkpoint":
            interrupted.add_callback(StopAt(2))
        interrupted.train()
        assert len(hub.commits(REPO)) == (1 if strategy == "checkpoint" else 2)
        folders = {name.split("/")[0] for name in hub.files(REPO) if "checkpoint" in name}
        assert folders == ({"last-checkpoint"} if strategy == "checkpoint" else {"checkpoint-2", "checkpoint-4"})
        assert not [name for name in hub.files(REPO) if name.endswith((".pt", ".pth", ".bin"))]

        resumed = make_trainer(**OPTIONS, push_to_hub=False, output_dir=str(tmp_path / "second"))
        name = REPO if strategy == "checkpoint" else f"{REPO}/checkpoint-2"
        resumed.train(resume_from_checkpoint=name)
        assert losses(resumed) == losses(whole) and len(losses(whole)) == 4
        assert same(weights(resumed), weights(whole))
        assert same(resumed.teacher.state_dict(), whole.teacher.state_dict())
        verify_checkpoint(tmp_path / "second" / "checkpoint-2")
        assert not list((tmp_path / "second").glob("_hub-*"))

    def test_the_last_checkpoint_takes_the_place_of_the_one_before(self, hub, make_trainer):
        make_trainer(**OPTIONS, hub_strategy="checkpoint").train()
        HfApi().upload_file(path_or_fileobj=b"old", path_in_repo="last-checkpoint/old.json", repo_id=REPO)
        make_trainer(**{**OPTIONS, "max_steps": 6}, hub_strategy="checkpoint").train(resume_from_checkpoint=True)
        assert b'"global_step": 6' in hub.files(REPO)["last-checkpoint/trainer_state.json"]
        assert "last-checkpoint/old.json" not in hub.files(REPO)

    def test_what_can_only_be_pickled_is_refused_before_the_training(self, hub, make_trainer):
        trainer = make_trainer(push_to_hub=False, hub_strategy="checkpoint")
        trainer.is_deepspeed_enabled = True
        with pytest.raises(ValueError, match="hub_strategy='checkpoint'.*'every_save' or 'end'"):
            trainer.push_to_hub()
        assert not hub.seen


@pytest.fixture
def pushed(hub, make_trainer):
    """A repository with the checkpoint of step 2."""
    make_trainer(**{**OPTIONS, "max_steps": 2}, hub_strategy="checkpoint").train()
    return hub


class TestFetching:
    def test_private_with_a_token_of_its_own(self, pushed, tmp_path, monkeypatch):
        HfApi().update_repo_settings(REPO, private=True)
        monkeypatch.delenv("HF_TOKEN")
        with pytest.raises(ValueError, match="could not be fetched.*(?s:.*)there is none of that name"):
            fetch_checkpoint(HubCheckpoint(REPO), tmp_path / "out")
        folder = fetch_checkpoint(HubCheckpoint(REPO), tmp_path / "out", token="hf_owner")
        assert folder == str(tmp_path / "out" / "checkpoint-2")
        verify_checkpoint(folder)
        assert {"optimizer.pt", "scheduler.pt", "rng_state.pth"} <= {path.name for path in Path(folder).iterdir()}

    def test_what_is_there_already_is_kept(self, pushed, tmp_path):
        first = Path(fetch_checkpoint(HubCheckpoint(REPO), tmp_path))
        before = {path.name: path.stat().st_mtime_ns for path in first.iterdir()}
        assert fetch_checkpoint(HubCheckpoint(REPO), tmp_path) == str(first)
        assert {path.name: path.stat().st_mtime_ns for path in first.iterdir()} == before

    def test_another_checkpoint_of_that_name_is_not_overwritten(self, pushed, tmp_path):
        (tmp_path / "checkpoint-2").mkdir()
        (tmp_path / "checkpoint-2" / "trainer_state.json").write_text("{}")
        with pytest.raises(ValueError, match="exists, and is not the checkpoint that was fetched"):
            fetch_checkpoint(HubCheckpoint(REPO), tmp_path)

    @pytest.mark.parametrize("times", [1, -1])
    def test_a_damaged_download_is_found_and_fetched_again(self, pushed, tmp_path, times):
        pushed.fail("GET", "/download/", corrupt=True, times=times)
        if times == 1:
            verify_checkpoint(fetch_checkpoint(HubCheckpoint(REPO), tmp_path))
        else:
            with pytest.raises(ValueError, match="has been changed"):
                fetch_checkpoint(HubCheckpoint(REPO), tmp_path)
            assert not (tmp_path / "checkpoint-2").exists()

    def test_a_cut_download_goes_on(self, pushed, tmp_path, clock):
        pushed.fail("GET", "/download/", cut_download=1000)
        verify_checkpoint(fetch_checkpoint(HubCheckpoint(REPO), tmp_path))

    def test_without_training_state(self, hub, make_trainer, tmp_path):
        trainer = make_trainer()
        trainer.push_to_hub()
        with pytest.raises(ValueError, match="holds no training checkpoint.*hub_strategy='checkpoint'"):
            trainer.train(resume_from_checkpoint=REPO)
        with pytest.raises(ValueError, match="has no folder checkpoint-7"):
            trainer.train(resume_from_checkpoint=f"{REPO}/checkpoint-7")

    def test_nowhere(self, hub, make_trainer):
        with pytest.raises(ValueError, match="user/nothing could not be fetched"):
            make_trainer().train(resume_from_checkpoint="user/nothing")

    def test_by_revision(self, pushed, tmp_path):
        commit = pushed.repository(REPO).resolve("main")
        HfApi().delete_folder("last-checkpoint", REPO)
        assert fetch_checkpoint(HubCheckpoint.parse(f"{REPO}@{commit}"), tmp_path).endswith("checkpoint-2")
        with pytest.raises(ValueError, match="holds no training checkpoint"):
            fetch_checkpoint(HubCheckpoint(REPO), tmp_path / "other")

    def test_one_that_another_trainer_has_pushed_is_not_trusted(self, hub, tmp_path):
        HfApi().create_repo(REPO)
        HfApi().upload_file(path_or_fileobj=b"{}", path_in_repo="last-checkpoint/trainer_state.json", repo_id=REPO)
        with pytest.raises(ValueError, match="was saved by another trainer"):
            fetch_checkpoint(HubCheckpoint(REPO), tmp_path)


class TestNames:
    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("user/model", ("user/model", None, None)),
            ("user/model@v1.0", ("user/model", None, "v1.0")),
            ("user/model@refs/pr/1", ("user/model", None, "refs/pr/1")),
            ("user/model/last-checkpoint", ("user/model", "last-checkpoint", None)),
            ("user/my.model-2/checkpoint-500@dev", ("user/my.model-2", "checkpoint-500", "dev")),
        ],
    )
    def test_of_the_hub(self, name, expected):
        found = HubCheckpoint.parse(name)
        assert (found.repo_id, found.folder, found.revision) == expected
        assert str(found) == name

    @pytest.mark.parametrize(
        "name", ["run/checkpoint-500", "./run", "/run/checkpoint-3", "run", "a/b/c", True, "../run/x"]
    )
    def test_of_folders(self, name):
        assert HubCheckpoint.parse(name) is None

    def test_a_folder_that_exists_is_meant(self, tmp_path, monkeypatch):
        (tmp_path / "user" / "model").mkdir(parents=True)
        monkeypatch.chdir(tmp_path)
        assert HubCheckpoint.parse("user/model") is None


class TestWithoutPickles:
    @staticmethod
    def there_and_back(value, folder):
        torch.save(value, folder / "state.pt")
        to_safetensors(folder / "state.pt", folder / "state.pt.safetensors")
        from_safetensors(folder / "state.pt.safetensors", folder / "again.pt")
        return torch.load(folder / "again.pt", weights_only=False)

    def test_optimizer_schedule_and_chance_come_back_as_they_were(self, tmp_path):
        parameters = [torch.nn.Parameter(torch.randn(3, 2)), torch.nn.Parameter(torch.randn(2).bfloat16())]
        optimizer = torch.optim.AdamW(parameters, lr=0.1)
        sum(parameter.float().square().sum() for parameter in parameters).backward()
        optimizer.step()
        value = {
            "optimizer": optimizer.state_dict(),
            "python": random.getstate(),
            "numpy": np.random.get_state(),
            "cpu": torch.get_rng_state(),
            "plain": [None, True, 3, -0.0, float("inf"), "ä", (), {}, 2**70],
            "empty": torch.zeros(0, 3),
            "transposed": torch.arange(6).reshape(2, 3).t(),
            7: {"tuple": (1, (2,))},
        }
        found = self.there_and_back(value, tmp_path)
        assert found["python"] == value["python"] and found["plain"] == value["plain"]
        assert [type(item) for item in found["plain"]] == [type(item) for item in value["plain"]]
        assert found[7] == value[7] and list(found) == list(value)
        assert torch.equal(found["cpu"], value["cpu"]) and torch.equal(found["transposed"], value["transposed"])
        assert found["empty"].shape == (0, 3)
        assert all(np.array_equal(left, right) for left, right in zip(found["numpy"], value["numpy"], strict=True))
        assert found["numpy"][1].dtype == np.uint32
        for key, state in value["optimizer"]["state"].items():
            for name, tensor in state.items():
                assert torch.equal(found["optimizer"]["state"][key][name], tensor)
                assert found["optimizer"]["state"][key][name].dtype == tensor.dtype
        assert found["optimizer"]["param_groups"] == value["optimizer"]["param_groups"]

    def test_one_tensor_in_two_places(self, tmp_path):
        tensor = torch.randn(3)
        found = self.there_and_back({"a": tensor, "b": tensor[:2]}, tmp_path)
        assert torch.equal(found["a"], tensor) and torch.equal(found["b"], tensor[:2])

    def test_a_push_and_the_training_read_random_numbers_at_the_same_time(self, make_trainer, tmp_path, monkeypatch):
        """What torch lets be unpickled is a list of the process: who leaves it first must not empty it for both."""
        trainer = make_trainer(push_to_hub=False)
        trainer._save_rng_state(str(tmp_path))
        load, in_push, in_training = torch.load, threading.Event(), threading.Event()
        push = threading.Thread(target=to_safetensors, args=(tmp_path / "rng_state.pth", tmp_path / "a.safetensors"))

        def meeting(*arguments, **options):
            if threading.current_thread() is push:
                in_push.set()
                in_training.wait(1)
            else:
                in_training.set()
                push.join(10)
            return load(*arguments, **options)

        monkeypatch.setattr(torch, "load", meeting)
        push.start()
        in_push.wait(10)
        expected = torch.rand(3)
        trainer._load_rng_state(str(tmp_path))
        assert torch.equal(torch.rand(3), expected) and (tmp_path / "a.safetensors").exists()

    @pytest.mark.parametrize("value", [{"a": {1, 2}}, {"a": 1j}, OrderedDict(a=slice(3))])
    def test_anything_else_is_refused(self, value, tmp_path):
        torch.save(value, tmp_path / "state.pt")
        with pytest.raises(ValueError, match="state.pt cannot be shared without a pickle"):
            to_safetensors(tmp_path / "state.pt", tmp_path / "state.safetensors")
        assert not (tmp_path / "state.safetensors").exists()

    def test_what_was_not_written_so_is_refused(self, tmp_path):
        save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
        (tmp_path / "text.safetensors").write_text("text")
        for name in ("other", "text"):
            with pytest.raises(ValueError, match="is no training state as it is shared"):
                from_safetensors(tmp_path / f"{name}.safetensors", tmp_path / "state.pt")
