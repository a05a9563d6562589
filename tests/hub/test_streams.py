# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""A stream from the Hub that stalls or is cut goes on where it was: no pair is lost, none comes twice."""

import datasets
import pytest
from huggingface_hub import HfApi, HfFileSystem, constants

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
