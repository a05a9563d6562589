# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Runs side by side, each kept as a file when it ends, so that nothing is computed twice."""

import hashlib
import json
import multiprocessing
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import towers
import transformers
from evaluation import evaluate_split
from towers import load_features, load_images
from tqdm.auto import tqdm
from training import Run, train
from unlocked import train_unlocked


VALIDATION = "validation"
TEST_SPLITS = ("test_unseen_composition", "test_unseen_concept")


@dataclass(frozen=True)
class Request:
    """A run, the splits that it is evaluated on, and whether the image tower learns too."""

    run: Run
    splits: tuple[str, ...] = (VALIDATION,)
    unlocked: bool = False

    @property
    def name(self) -> str:
        """The objective and a hash of all there is to say: the name of the record."""
        content = json.dumps(
            [self.run.to_dict(), self.splits, *(["unlocked"] if self.unlocked else [])], sort_keys=True
        )
        return f"{self.run.objective}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"


class Records:
    """
    The records of runs in a folder.

    Args:
        folder (`Path`):
            Where features and records are kept.
        jobs (`int`):
            Runs side by side, of one thread each: the number of threads changes the last digits.
        steps (`int`, *optional*):
            Cuts every run short, to see that all of it works.
    """

    def __init__(self, folder: Path, jobs: int, steps: int | None = None):
        self.folder, self.jobs, self.steps = folder, jobs, steps
        # The processor seconds of what has been asked for.
        self.used: dict[str, float] = {}

    @property
    def examples(self) -> int:
        """How many pairs a run of the usual length and batch sees."""
        return Run.examples if self.steps is None else self.steps * Run.batch_size

    def get(self, requests: Iterable[Request], title: str) -> list[dict[str, Any]]:
        """The records of these runs, in their order; those that are missing are run first."""
        requests = [self._shortened(request) for request in requests]
        missing = {request.name: request for request in requests if self._find(request) is None}
        if missing:
            self._run(list(missing.values()), title)
        records = [json.loads((self._find(request) or self._file(request)).read_text()) for request in requests]
        self.used |= {
            request.name: record["processor_seconds"] for request, record in zip(requests, records, strict=True)
        }
        return records

    def _shortened(self, request: Request) -> Request:
        if self.steps is None:
            return request
        return replace(request, run=replace(request.run, examples=self.steps * request.run.batch_size))

    def _find(self, request: Request) -> Path | None:
        """The record of this run, perhaps evaluated on more splits."""
        files = (self._file(asked) for asked in (request, replace(request, splits=(VALIDATION, *TEST_SPLITS))))
        return next((file for file in files if file.exists()), None)

    def _file(self, request: Request) -> Path:
        return self.folder / "records" / f"{request.name}.json"

    def _run(self, requests: Sequence[Request], title: str) -> None:
        # Not forked: a fork of a process that has computed with several threads may hang.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(self.jobs, context, _prepare_process, (towers.IMAGE_SIZE, towers.STRIDE)) as pool:
            pending = {pool.submit(record, request, self.folder): request for request in requests}
            for done in tqdm(as_completed(pending), total=len(pending), desc=title, smoothing=0):
                file = self._file(pending[done])
                file.parent.mkdir(parents=True, exist_ok=True)
                temporary = file.with_suffix(".part")
                temporary.write_text(json.dumps(done.result()))
                temporary.rename(file)


def _prepare_process(image_size: int, stride: int) -> None:
    towers.IMAGE_SIZE, towers.STRIDE = image_size, stride
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()


def record(request: Request, folder: Path) -> dict[str, Any]:
    """One run: what it was, what it says of each split, its processor seconds and its last logs."""
    model, training = (train_unlocked if request.unlocked else train)(request.run, folder)
    splits = {}
    for split in request.splits:
        images = load_images(split) if request.unlocked else load_features(split, folder / "features")["images"]
        splits[split] = evaluate_split(model, images, split, folder)
    return {"run": request.run.to_dict(), **training, "splits": splits}
