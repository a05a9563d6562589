# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""A Hub that refuses, lies or goes away: what passes is tried again, the rest is said, nothing is half done."""

import contextlib
import errno
import logging
import os
import threading

import httpx2
import pytest
import torch
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from transformers import AutoModel, TrainerCallback

from modeling_sacl import SaclModel
from trainer import sharing
from trainer.retries import with_retries
from trainer.sharing import BackgroundPushes, HubRepository, Staged


REPO = "user/sacl-tiny"


@pytest.fixture
def repository(hub) -> HubRepository:
    return HubRepository("sacl-tiny")


@pytest.fixture
def make_staged(tmp_path):
    """Something small to push: a large file, as the Hub sees it, and a text."""

    def make(content="first", name="staged"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"\0" + content.encode() * 20_000)
        (folder / "config.json").write_text(f'{{"says": "{content}"}}')
        return Staged(folder)

    return make


def pushed(hub, content="first"):
    """Whether exactly that is on main, in one commit."""
    files = hub.files(REPO)
    return files.get("model.safetensors") == b"\0" + content.encode() * 20_000 and len(hub.commits(REPO)) == 1


class TestWhatPasses:
    @pytest.mark.parametrize("status", [500, 502, 503, 412])
    @pytest.mark.parametrize("request_", ["/commit/", "/preupload/", "/tree/"])
    def test_is_tried_again(self, hub, repository, make_staged, clock, status, request_):
        """The stock client does so for some requests, but not for the commit itself."""
        fault = hub.fail("GET" if request_ == "/tree/" else "POST", request_, status=status, times=2)
        repository.push(make_staged(), "A push")
        assert pushed(hub) and fault.times == 0
        assert len(clock.waits) >= 2

    @pytest.mark.parametrize("request_", ["/api/repos/create", "/commit/"])
    def test_too_many_requests_waits_as_long_as_it_is_told(self, hub, make_staged, clock, request_):
        hub.fail("POST", request_, status=429, headers={"Retry-After": "37"})
        HubRepository("sacl-tiny").push(make_staged(), "A push")
        assert pushed(hub) and clock.waits == [37]

    def test_a_connection_that_is_cut_in_mid_upload(self, hub, repository, make_staged, clock):
        hub.fail("PUT", "/upload/", cut_upload=30_000, times=2)
        repository.push(make_staged(), "A push")
        assert pushed(hub) and len(clock.waits) == 2

    def test_a_part_of_an_upload_that_is_cut(self, hub, repository, make_staged, clock):
        hub.part_size = 40_000
        hub.fail("PUT", "part=2", cut_upload=10_000)
        repository.push(make_staged(), "A push")
        assert pushed(hub) and len(hub.requests("PUT", "part=1")) == 1

    def test_a_file_that_was_damaged_on_its_way(self, hub, repository, make_staged, clock):
        hub.fail("PUT", "/upload/", corrupt=True)
        repository.push(make_staged(), "A push")
        assert pushed(hub) and [seen.status for seen in hub.requests("PUT", "/upload/")] == [400, 200]

    def test_a_commit_whose_answer_was_lost_is_not_made_twice(self, hub, repository, make_staged, clock):
        hub.fail("POST", "/commit/", lose_answer=True)
        commit = repository.push(make_staged(), "A push")
        assert pushed(hub) and commit.oid == hub.repository(REPO).resolve("main")
        assert len(hub.requests("POST", "/commit/")) == 1

    def test_a_pull_request_whose_answer_was_lost_is_not_opened_twice(self, hub, repository, make_staged, clock):
        repository.push(make_staged("older", "older"), "A push", create_pr=True)
        hub.fail("POST", "/commit/", lose_answer=True)
        commit = repository.push(make_staged(), "A push", create_pr=True)
        assert commit.pr_url.endswith("/discussions/2")
        assert commit.oid == hub.repository(REPO).resolve("refs/pr/2")
        assert len(hub.repository(REPO).data["discussions"]) == 2

    def test_a_repository_whose_making_was_not_answered(self, hub, make_staged, clock):
        hub.fail("POST", "/api/repos/create", lose_answer=True)
        HubRepository("sacl-tiny").push(make_staged(), "A push")
        assert pushed(hub)


class TestWhatDoesNotPass:
    @pytest.mark.parametrize(
        "fault",
        [
            {"method": "POST", "path": "/commit/", "status": 500},
            {"method": "POST", "path": "/preupload/", "status": 503},
            {"method": "PUT", "path": "/upload/", "status": 500},
            {"method": "PUT", "path": "/upload/", "cut_upload": 1000},
            {"method": "PUT", "path": "/upload/", "corrupt": True},
        ],
        ids=lambda fault: "-".join(map(str, fault.values())),
    )
    def test_publishes_nothing_and_the_next_push_does(self, hub, repository, make_staged, clock, fault):
        hub.fail(**fault, times=-1)
        with pytest.raises((HfHubHTTPError, RuntimeError)) as caught:
            repository.push(make_staged(), "A push")
        assert "Nothing was published" in str(caught.value) or "as a whole or not at all" in str(caught.value)
        assert set(hub.files(REPO)) == {".gitattributes"} and hub.commits(REPO) == []

        hub.faults.clear()
        repository.push(make_staged(name="again"), "A push")
        assert pushed(hub)

    def test_what_was_uploaded_is_not_sent_again(self, hub, repository, make_staged, clock):
        hub.fail("POST", "/commit/", status=500, times=4)
        with pytest.raises(HfHubHTTPError, match="push again later"):
            repository.push(make_staged(), "A push")
        repository.push(make_staged(name="again"), "A push")
        assert pushed(hub) and len(hub.requests("PUT", "/upload/")) == 1

    def test_the_staged_files_are_removed_however_it_ends(self, hub, repository, make_staged, clock):
        hub.fail("POST", "/commit/", status=400)
        staged = make_staged()
        with pytest.raises(HfHubHTTPError):
            repository.push(staged, "A push")
        assert not staged.folder.exists()
        assert clock.waits == []

    @pytest.mark.parametrize(
        ("token", "status", "way_out"),
        [("hf_nobody", 401, "hf auth login"), ("hf_reader", 403, "create_pr=True"), ("hf_stranger", 403, "create_pr")],
    )
    def test_who_may_not_write_is_told_so_at_once(self, hub, make_trainer, monkeypatch, clock, token, status, way_out):
        make_trainer().push_to_hub()
        with pytest.raises(HfHubHTTPError) as caught:
            make_trainer(hub_token=token).push_to_hub()
        assert caught.value.response.status_code == status
        assert way_out in str(caught.value) and "Nothing was published" in str(caught.value)
        assert clock.waits == [] and len(hub.commits(REPO)) == 1

    def test_a_repository_that_is_deleted_meanwhile(self, hub, repository, make_staged, clock):
        HfApi().delete_repo(REPO)
        with pytest.raises(RepositoryNotFoundError, match="Check the name of the repository"):
            repository.push(make_staged(), "A push")

    def test_a_card_that_the_hub_rejects(self, hub, repository, make_staged, clock):
        staged = make_staged()
        (staged.folder / "README.md").write_text("---\ntags: 3\n---\n")
        with pytest.raises(ValueError, match="tags"):
            repository.push(staged, "A push")
        assert hub.commits(REPO) == [] and not hub.requests("PUT", "/upload/")

    def test_what_is_no_matter_of_the_hub_is_not_repeated(self, clock):
        def fail():
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            with_retries(fail, "Dividing")
        assert clock.waits == []

    def test_a_hub_that_is_gone(self, hub, repository, make_staged, clock):
        hub.__exit__()
        with pytest.raises(httpx2.ConnectError):
            repository.push(make_staged(), "A push")
        assert clock.waits.count(8.0) > 0


class TestDownloads:
    @pytest.fixture
    def model(self, hub, make_model) -> SaclModel:
        model = make_model(SaclModel)
        model.push_to_hub(REPO)
        return model

    @staticmethod
    def same(left, right):
        left, right = left.state_dict(), right.state_dict()
        return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)

    def test_one_that_is_cut_goes_on_where_it_stopped(self, hub, model, clock, monkeypatch):
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
        hub.fail("GET", "/download/", cut_download=50_000)
        hub.fail("GET", "/download/", cut_download=70_000)
        assert self.same(AutoModel.from_pretrained(REPO), model)
        ranges = [seen.headers.get("range") for seen in hub.requests("GET", "/download/")]
        assert ranges == [None, "bytes=50000-", "bytes=120000-"]

    def test_one_that_stays_cut_is_an_error_and_leaves_nothing_that_passes_for_the_file(self, hub, model, clock):
        hub.fail("GET", "/download/", cut_download=0, times=-1)
        with pytest.raises((OSError, httpx2.HTTPError)):
            AutoModel.from_pretrained(REPO)
        hub.faults.clear()
        assert self.same(AutoModel.from_pretrained(REPO), model)

    def test_a_damaged_one_is_found_by_the_stock_verification(self, hub, model):
        """Loading itself does not compare hashes (over plain HTTP), which the documentation says."""
        hub.fail("GET", "/download/", corrupt=True)
        with contextlib.suppress(Exception):
            AutoModel.from_pretrained(REPO)
        (mismatch,) = HfApi().verify_repo_checksums(REPO).mismatches
        assert mismatch["path"] == "model.safetensors"

    def test_a_full_disk(self, hub, model, monkeypatch):
        from huggingface_hub import file_download

        real = file_download.http_get

        def http_get(url, temp_file, **options):
            if "/download/" not in url:
                return real(url, temp_file, **options)
            temp_file.write(b"\0" * 1000)
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(file_download, "http_get", http_get)
        with pytest.raises(OSError, match="No space left on device"):
            AutoModel.from_pretrained(REPO)
        monkeypatch.setattr(file_download, "http_get", real)
        assert self.same(AutoModel.from_pretrained(REPO), model)

    def test_private_missing_and_nowhere(self, hub, model, monkeypatch, clock):
        HfApi().update_repo_settings(REPO, private=True)
        with pytest.raises(OSError, match="private repository.*token"):
            AutoModel.from_pretrained(REPO, token=False)
        with pytest.raises(OSError, match="not a local folder and is not a valid model identifier"):
            AutoModel.from_pretrained("user/nothing")

    def test_offline_after_once_online(self, hub, model, monkeypatch):
        AutoModel.from_pretrained(REPO)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        before = len(hub.seen)
        assert self.same(AutoModel.from_pretrained(REPO), model)
        assert len(hub.seen) == before


class TestFullDiskHere:
    def test_what_cannot_be_put_aside_is_not_pushed(self, hub, make_trainer, monkeypatch, tmp_path):
        trainer = make_trainer()

        def full(*arguments, **options):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "link", full)
        monkeypatch.setattr("shutil.copyfile", full)
        monkeypatch.setattr(
            trainer, "save_model", lambda **options: (tmp_path / "run" / "config.json").write_text("{}")
        )
        monkeypatch.setattr(trainer, "create_model_card", lambda **options: None)
        with pytest.raises(OSError, match="No space left on device"):
            trainer.push_to_hub()
        assert hub.commits(REPO) == [] and not list((tmp_path / "run").glob("_push-*"))

    def test_a_training_goes_on_without_pushing(self, hub, make_trainer, monkeypatch, caplog, tmp_path):
        trainer = make_trainer(hub_strategy="every_save", save_strategy="steps", save_steps=1)
        link = sharing._link

        def full_at_first(source, target):
            if trainer.state.global_step == 1:
                raise OSError(errno.ENOSPC, "No space left on device")
            link(source, target)

        monkeypatch.setattr(sharing, "_link", full_at_first)
        with caplog.at_level(logging.ERROR, logger="trainer.saving"):
            trainer.train()
        assert "checkpoint-1 is not pushed, and the training goes on. [Errno 28]" in caplog.text
        assert hub.commits(REPO) == ["Training in progress, step 2"]
        assert not list((tmp_path / "run").glob("_push-*"))


class TestLeftovers:
    def test_of_a_killed_push_go_when_a_training_begins_and_no_sooner(self, hub, make_trainer, tmp_path):
        """Until then they may be those of a run that is going on in that folder."""
        leftover = tmp_path / "run" / "_push-killed"
        leftover.mkdir(parents=True)
        trainer = make_trainer(max_steps=1)
        assert leftover.exists()
        trainer.train()
        assert not leftover.exists()


class TestLostPushes:
    OPTIONS = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2}

    def test_what_a_kill_kept_from_being_pushed_is_pushed_on_resuming(self, hub, make_trainer, monkeypatch):
        """Also when the training has come to its end, so that no other save would make up for it."""
        for strategy in ("every_save", "end"):
            options = {**self.OPTIONS, "hub_strategy": strategy, "hub_model_id": f"user/{strategy}"}
            trainer = make_trainer(**options)
            monkeypatch.setattr(trainer, "_push_from_checkpoint", lambda folder: None)
            trainer.train()
            make_trainer(**options).train(resume_from_checkpoint=True)
        assert hub.commits("user/every_save") == ["Training in progress, step 2"]
        assert hub.commits("user/end") == []

    def test_what_was_pushed_is_not_pushed_again(self, hub, make_trainer):
        for _ in range(2):
            trainer = make_trainer(**self.OPTIONS, hub_strategy="every_save", hub_always_push=True)
            trainer.train(resume_from_checkpoint=bool(hub.commits(REPO)))
            assert hub.commits(REPO) == ["Training in progress, step 2", "Training in progress, step 1"]
        assert len(hub.requests("POST", "/commit/")) == 2


class TestBackground:
    def test_a_failed_push_is_said_and_the_next_one_makes_up_for_it(self, hub, make_trainer, clock, caplog, tmp_path):
        hub.fail("POST", "/commit/", status=500, times=4)
        trainer = make_trainer(hub_strategy="every_save", hub_always_push=True, save_strategy="steps", save_steps=1)
        with caplog.at_level(logging.ERROR, logger="trainer.sharing"):
            trainer.train()
        assert trainer.state.global_step == 2
        assert "checkpoint-1 could not be pushed" in caplog.text and "training goes on" in caplog.text
        assert hub.commits(REPO) == ["Training in progress, step 2"]
        assert trainer.push_in_progress.last_error is None
        assert not list((tmp_path / "run").glob("_push-*"))

    def test_the_last_checkpoint_is_pushed_even_if_the_hub_is_slow(self, hub, make_trainer, monkeypatch, tmp_path):
        training_has_ended = threading.Event()

        class Ends(TrainerCallback):
            def on_train_end(self, args, state, control, **kwargs):
                training_has_ended.set()

        trainer = make_trainer(
            hub_strategy="every_save", save_strategy="steps", save_steps=1, max_steps=4, save_total_limit=1
        )
        trainer.add_callback(Ends())
        push = trainer._repository.push

        def slow_push(*arguments, **options):
            training_has_ended.wait(60)
            return push(*arguments, **options)

        monkeypatch.setattr(trainer._repository, "push", slow_push)
        trainer.train()
        # What the first push had was put aside: its checkpoint is long deleted.
        assert hub.commits(REPO) == ["Training in progress, step 4", "Training in progress, step 1"]
        assert not (tmp_path / "run/checkpoint-1").exists()
        assert hub.files(REPO)["model.safetensors"] == (tmp_path / "run/checkpoint-4/model.safetensors").read_bytes()

    def test_what_was_saved_last_is_pushed_when_the_training_fails(self, hub, make_trainer):
        class Fails(TrainerCallback):
            def on_step_begin(self, args, state, control, **kwargs):
                if state.global_step == 1:
                    raise ZeroDivisionError

        trainer = make_trainer(hub_strategy="every_save", save_strategy="steps", save_steps=1)
        trainer.add_callback(Fails())
        hub.fail("POST", "/preupload/", delay=1.0)
        with pytest.raises(ZeroDivisionError):
            trainer.train()
        assert hub.commits(REPO) == ["Training in progress, step 1"]

    def test_only_the_newest_of_those_that_wait_is_pushed(self, tmp_path):
        for keep_all, expected in ((False, ["a", "d"]), (True, ["a", "b", "c", "d"])):
            pushes, gate, done, futures = BackgroundPushes(keep_all), threading.Event(), [], {}
            started = threading.Event()
            for name in "abcd":
                folder = tmp_path / f"{keep_all}-{name}"
                folder.mkdir()

                def push(name=name, gate=gate, started=started, done=done):
                    started.set()
                    gate.wait(10)
                    done.append(name)

                futures[name] = pushes.submit(name, push, Staged(folder))
                started.wait(10)
            assert not pushes.is_done()
            gate.set()
            pushes.wait_until_done()
            assert done == expected and pushes.is_done()
            assert futures["b"].cancelled() != keep_all
            assert (tmp_path / f"{keep_all}-b").exists() == keep_all
