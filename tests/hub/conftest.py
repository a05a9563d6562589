# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""What the tests of sharing share: a Hub on loopback, and a client in this process that talks to no other."""

import time
from functools import partial

import huggingface_hub
import pytest
import transformers.utils.hub
from huggingface_hub import HfApi, constants
from huggingface_hub.utils import close_session

from tests.hub_server import Account, Hub
from tests.trainer.conftest import make_arguments, make_model, pairs, plain_collator, without_dropout  # noqa: F401
from trainer import SaclTrainer


TOKENS = {
    "hf_owner": Account("user"),
    "hf_reader": Account("user", can_write=False),
    "hf_stranger": Account("stranger"),
}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty Hub; `huggingface_hub` in this process takes it for the real one, logged in as `user`."""
    with Hub(tmp_path / "hub", TOKENS) as server:
        point_client_at(server.url, tmp_path / "home", monkeypatch)
        yield server
        close_session()


def point_client_at(url, home, monkeypatch):
    """
    What `HF_ENDPOINT`, `HF_HOME` and `HF_HUB_DISABLE_XET=1` do to a process that starts with them: the client reads
    them once, at its first import, which is long past here.
    """
    monkeypatch.setenv("HF_TOKEN", "hf_owner")
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", url)
    monkeypatch.setattr(transformers.utils.hub, "_hf_api", HfApi(endpoint=url))
    close_session()


class Clock:
    """Waits in no time, and remembers how long it would have been."""

    def __init__(self):
        self.waits = []

    def sleep(self, seconds):
        self.waits.append(seconds)

    def __getattr__(self, name):
        return getattr(time, name)


@pytest.fixture
def clock(monkeypatch) -> Clock:
    """Nobody waits for real before an attempt is repeated."""
    clock = Clock()
    for module in ("trainer.retries", "huggingface_hub.utils._http", "huggingface_hub.file_download"):
        monkeypatch.setattr(f"{module}.time", clock)
    return clock


@pytest.fixture
def make_trainer(make_model, make_arguments, tiny_processor, plain_collator, pairs):  # noqa: F811
    """A trainer that pushes to `user/sacl-tiny`; further keywords are training arguments."""

    def make(model=None, *, peft_config=None, **arguments):
        arguments = {"push_to_hub": True, "hub_model_id": "user/sacl-tiny", "hub_strategy": "end", **arguments}
        trainer = SaclTrainer(
            model=make_model() if model is None else model,
            args=make_arguments(**arguments),
            data_collator=plain_collator,
            train_dataset=pairs,
            processing_class=tiny_processor,
            peft_config=peft_config,
        )
        # Pictures are drawn, and tested, elsewhere.
        trainer.create_model_card = partial(trainer.create_model_card, pictures=False)
        return trainer

    return make
