# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""What the tests of hostile input share: a payload that leaves a trace where it runs, tiny models, and pairs."""

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from modeling_sacl import SaclForPreTraining
from tests.trainer.conftest import (  # noqa: F401
    make_arguments,
    make_model,
    make_trainer,
    pairs,
    plain_collator,
    without_dropout,
)
from trainer.cli import main


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return (open, (str(self.trace), "w"))


class Hostile:
    """The same payload in each form in which files hold pickles; `ran` says whether one of them was unpickled."""

    def __init__(self, trace: Path):
        self.trace = trace

    @property
    def ran(self) -> bool:
        return self.trace.exists()

    def pickled(self) -> bytes:
        return pickle.dumps(Payload(self.trace))

    def torch_saved(self) -> bytes:
        file = io.BytesIO()
        torch.save({"model": {"weight": Payload(self.trace)}, "state": Payload(self.trace)}, file)
        return file.getvalue()

    def numpy_saved(self) -> bytes:
        file = io.BytesIO()
        np.save(file, np.array([Payload(self.trace)], dtype=object), allow_pickle=True)
        return file.getvalue()

    def numpy_zipped(self) -> bytes:
        file = io.BytesIO()
        np.savez(file, array=np.array([Payload(self.trace)], dtype=object))
        return file.getvalue()


@pytest.fixture
def hostile(tmp_path) -> Hostile:
    """A payload that has not run, neither before the test nor after it."""
    hostile = Hostile(tmp_path / "it ran")
    yield hostile
    assert not hostile.ran


@pytest.fixture
def model_folder(tmp_path, make_model, tiny_processor) -> Path:  # noqa: F811
    """A tiny model, whole."""
    make_model(SaclForPreTraining).save_pretrained(tmp_path / "model")
    tiny_processor.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def sacl(capfd):
    """Runs a command in this process: exit code, stdout, stderr."""

    def run(*words):
        code = main([str(word) for word in words])
        return code, *capfd.readouterr()

    return run


def encoded(color="red", size=(32, 32), kind="PNG", **options) -> bytes:
    """A picture as a file."""
    file = io.BytesIO()
    PILImage.new("RGB", size, color).save(file, kind, **options)
    return file.getvalue()
