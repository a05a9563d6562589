# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""A stream from the Hub that stalls or is cut goes on where it was: no pair is lost, none comes twice."""

import datasets
import pytest
from huggingface_hub import HfApi, HfFileSystem, constants

from tests.trainer.test_stalled_reads import as_tar
from trainer import load_pairs


REPO = "user/pairs"


@pytest.fixture
def on_the_hub(hub, pairs, tmp_path, monkeypatch):
    """The pairs in a data set of the loopback Hub, and a client that does not wait long."""
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.url)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "STREAMING_READ_RETRY_INTERVAL", 0.01)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.5)
    HfFileSystem.clear_instance_cache()
    pairs.to_parquet(tmp_path / "train.parquet")
    HfApi().create_repo(REPO, repo_type="dataset")
    HfApi().upload_file(
        path_or_fileobj=str(tmp_path / "train.parquet"),
        path_in_repo="train.parquet",
        repo_id=REPO,
        repo_type="dataset",
    )
    yield hub
    HfFileSystem.clear_instance_cache()


class TestSources:
    @pytest.mark.parametrize("streaming", [False, True])
    def test_a_data_set_by_its_id(self, on_the_hub, pairs, tmp_path, streaming):
        found = load_pairs(REPO, split="train", streaming=streaming, cache_dir=tmp_path / "cache")
        assert [row["caption"] for row in found] == pairs["caption"][:]

    @pytest.mark.parametrize("name", ["train.tar", "*.tar"])
    def test_tar_files_of_a_private_one(self, on_the_hub, pairs, tmp_path, monkeypatch, name):
        """With the token that was passed, and no other."""
        monkeypatch.delenv("HF_TOKEN", raising=False)
        (tmp_path / "train.tar").write_bytes(as_tar(pairs))
        HfApi(token="hf_owner").create_repo("user/private", repo_type="dataset", private=True)
        HfApi(token="hf_owner").upload_file(
            path_or_fileobj=str(tmp_path / "train.tar"),
            path_in_repo="train.tar",
            repo_id="user/private",
            repo_type="dataset",
        )
        source = f"hf://datasets/user/private/{name}"
        stream = load_pairs(source, token="hf_owner", streaming=True)
        assert [(row["caption"], row["image"].tobytes()) for row in stream] == [
            (row["caption"], row["image"].tobytes()) for row in pairs
        ]
        HfFileSystem.clear_instance_cache()
        with pytest.raises(Exception, match="(?i)not found|401|no file"):
            load_pairs(source, streaming=True)


def read():
    stream = load_pairs(f"hf://datasets/{REPO}/train.parquet", split="train", streaming=True)
    return [(row["pair_id"], row["caption"], row["image"].tobytes()) for row in stream]


class TestStreams:
    @pytest.mark.parametrize(
        "fault",
        [{"delay": 1.5}, {"cut_download": 100}, {"status": 503}, {"status": 429, "headers": {"Retry-After": "1"}}],
    )
    @pytest.mark.parametrize("times", [1, 3])
    def test_every_pair_comes_once_after_a_fault(self, on_the_hub, pairs, clock, fault, times):
        planted = on_the_hub.fail("GET", "/download/", times=times, **fault)
        assert read() == [(row["pair_id"], row["caption"], row["image"].tobytes()) for row in pairs]
        assert planted.times == 0

    def test_a_source_that_stays_away_is_an_error_in_the_end(self, on_the_hub, clock, monkeypatch):
        monkeypatch.setattr(datasets.config, "STREAMING_READ_MAX_RETRIES", 2)
        on_the_hub.fail("GET", "/download/", status=503, times=-1)
        with pytest.raises(Exception, match="503"):
            read()
        assert 5 <= len(clock.waits) < 100
