# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""
Training checkpoints on the Hub, without a pickle: what is saved by pickling travels as safetensors, and back again.

A checkpoint at home keeps the state of the optimiser, of the schedule and of chance in pickles, since that is what
[`~transformers.Trainer`] reads. Whoever resumes from a stranger's repository should not have to open those. They hold
nothing but tensors and plain values, so that is what is pushed: each `optimizer.pt` as `optimizer.pt.safetensors`, the
tensors in the file, the values around them as JSON in its header. The shared checkpoint is sealed anew, which also
finds what was damaged on its way: over plain HTTP `huggingface_hub` compares the size of a download, not its hash.
"""

import json
import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HTTPError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_pt_utils import safe_globals
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from .checkpoints import MANIFEST_NAME, seal_checkpoint, unseal_checkpoint, verify_checkpoint
from .retries import with_retries


logger = logging.get_logger(__name__)

LAST_CHECKPOINT = "last-checkpoint"
PICKLE_SUFFIXES = {".bin", ".ckpt", ".distcp", ".joblib", ".metadata", ".pickle", ".pkl", ".pt", ".pth"}

_TREE = "plain_values"


# Pickles to safetensors and back ---------------------------------------------------------------------------------


_LOADING = threading.RLock()


@contextmanager
def arrays_allowed() -> Iterator[None]:
    """
    Inside, `torch.load` takes arrays of numpy for plain values, in one thread at a time: what it takes is a list of
    the whole process, and who has put something on it takes it off again, whoever still needs it.
    """
    with _LOADING, safe_globals():
        yield


def to_safetensors(source: str | os.PathLike, target: str | os.PathLike) -> None:
    """
    Writes what a file of `torch.save` holds as safetensors. Only tensors and plain values are unpickled.

    Args:
        source (`str` or `os.PathLike`): A file that `torch.save` wrote.
        target (`str` or `os.PathLike`): The file to write.

    Raises:
        ValueError: if it holds anything else, such as shards of a distributed run.
    """
    tensors: dict[str, torch.Tensor] = {}
    try:
        with arrays_allowed():
            content = torch.load(source, map_location="cpu", weights_only=True)
        description = _described(content, tensors)
    except Exception as error:  # A pickle that is none can end in any.
        raise ValueError(
            f"{Path(source).name} cannot be shared without a pickle, because it holds more than tensors and plain "
            f"values: {error}"
        ) from error
    save_file(tensors, target, metadata={_TREE: json.dumps(description)})


def from_safetensors(source: str | os.PathLike, target: str | os.PathLike) -> None:
    """
    The reverse of [`to_safetensors`]: a file as `torch.load` reads it.

    Raises:
        ValueError: if the source was not written by [`to_safetensors`].
    """
    try:
        with safe_open(source, framework="pt") as file:
            description = json.loads((file.metadata() or {})[_TREE])
            content = _restored(description, file)
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{Path(source).name} is no training state as it is shared: {error!r}") from error
    torch.save(content, target)


def _described(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """A value as JSON, its tensors put aside; every container says what it is, for JSON knows only two."""
    if value is None or type(value) in (bool, int, str):
        return value
    if isinstance(value, float):  # NumPy's is one too.
        return float(value)
    if isinstance(value, torch.Tensor):
        if type(value) not in (torch.Tensor, torch.nn.Parameter):
            raise TypeError(f"a {type(value).__name__}")
        name = str(len(tensors))
        # Tensors that share memory are refused, and a state that holds one twice must come back all the same.
        tensors[name] = value.detach().clone().contiguous()
        return {"tensor": name}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        described = _described(torch.from_numpy(np.frombuffer(value.tobytes(), np.uint8).copy()), tensors)
        return {"array": described["tensor"], "dtype": value.dtype.str, "shape": list(value.shape)}
    if type(value) in (list, tuple):
        return {type(value).__name__: [_described(item, tensors) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[_described(key, tensors), _described(item, tensors)] for key, item in value.items()]}
    raise TypeError(f"a {type(value).__name__}")


def _restored(described: Any, file: Any) -> Any:
    if not isinstance(described, dict):
        return described
    if "tensor" in described:
        # A copy of its own: those of one file may share their memory, all of which would be saved with each.
        return file.get_tensor(described["tensor"]).clone()
    if "array" in described:
        content = file.get_tensor(described["array"]).numpy().tobytes()
        return np.frombuffer(content, np.dtype(described["dtype"])).reshape(described["shape"]).copy()
    if "dict" in described:
        return {_restored(key, file): _restored(item, file) for key, item in described["dict"]}
    kind = list if "list" in described else tuple
    return kind(_restored(item, file) for item in described[kind.__name__])


# To the Hub ------------------------------------------------------------------------------------------------------


def without_pickles(folder: str | os.PathLike) -> None:
    """
    Turns a copy of a checkpoint into what is shared of it, and seals it. `training_args.bin` is left out: what it says
    is in `training_arguments.yaml`.

    Args:
        folder (`str` or `os.PathLike`): The copy; its files may be hard links, none is written to.

    Raises:
        ValueError: if a file is a pickle of more than tensors and plain values.
    """
    folder = Path(folder)
    unseal_checkpoint(folder)
    (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if path.suffix in PICKLE_SUFFIXES or path.name in PICKLE_SUFFIXES:
            to_safetensors(path, path.with_name(f"{path.name}.safetensors"))
            path.unlink()
    seal_checkpoint(folder)


def with_pickles(folder: str | os.PathLike) -> None:
    """The reverse of [`without_pickles`], for a checkpoint that was verified as it came; sealed anew."""
    folder = Path(folder)
    unseal_checkpoint(folder)
    for path in sorted(folder.rglob("*.safetensors")):
        if Path(path.stem).suffix in PICKLE_SUFFIXES:
            from_safetensors(path, path.with_suffix(""))
            path.unlink()
    seal_checkpoint(folder)


# From the Hub ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HubCheckpoint:
    """Where a checkpoint is on the Hub: `"user/model"`, `"user/model@revision"`, `"user/model/checkpoint-500"`."""

    repo_id: str
    folder: str | None = None
    revision: str | None = None

    @classmethod
    def parse(cls, name: str | os.PathLike | bool) -> "HubCheckpoint | None":
        """What a name says; `None` if it is that of a folder, or does not look like a repository's."""
        if not isinstance(name, str) or os.path.exists(name):
            return None
        folders = rf"{LAST_CHECKPOINT}|{PREFIX_CHECKPOINT_DIR}-\d+"
        match = re.fullmatch(rf"([\w.-]+/[\w.-]+?)(?:/({folders}))?(?:@([\w./-]+))?", name)
        if match is None or name.startswith(".") or re.search(rf"/({folders})$", match[1]):
            return None
        return cls(*match.groups())

    def __str__(self) -> str:
        return "/".join(filter(None, (self.repo_id, self.folder))) + (f"@{self.revision}" if self.revision else "")


def fetch_checkpoint(checkpoint: HubCheckpoint, output_dir: str | os.PathLike, token: str | bool | None = None) -> str:
    """
    Downloads a pushed checkpoint, verifies it, and puts it among those of a run: `output_dir/checkpoint-500`.

    Args:
        checkpoint ([`HubCheckpoint`]):
            Where it is. Without a folder it is `last-checkpoint`, or else the last of all `checkpoint-*`.
        output_dir (`str` or `os.PathLike`):
            The folder of the run.
        token (`str` or `bool`, *optional*):
            The token, if the repository is private. Defaults to the one that is logged in.

    Returns:
        `str`: The checkpoint's folder, ready to resume from.

    Raises:
        ValueError: if there is none, if it cannot be fetched, or if it is not what was pushed.
    """
    try:
        return _fetched(checkpoint, Path(output_dir), token)
    except (HTTPError, OSError, RuntimeError) as error:
        advice = _advice(error)
        raise ValueError(f"The checkpoint {checkpoint} could not be fetched from the Hub: {error}{advice}") from error


def _advice(error: Exception) -> str:
    if isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403, 404):
        return " (If it is meant to be a folder of yours: there is none of that name.)"
    return " What was downloaded is kept, and the next attempt goes on from there."


def _fetched(checkpoint: HubCheckpoint, output_dir: Path, token: str | bool | None) -> str:
    api = HfApi(library_name="sacl", token=token)
    info = with_retries(
        lambda: api.repo_info(checkpoint.repo_id, revision=checkpoint.revision), f"Asking for {checkpoint}"
    )
    folder = checkpoint.folder or _last_folder([sibling.rfilename for sibling in info.siblings or ()], checkpoint)
    # The commit is in the name: what is left of another one is not mixed with this.
    commit = str(info.sha)
    place = output_dir / f"_hub-{commit[:12]}"
    for attempt in (1, 2):
        downloaded = _download(checkpoint, folder, commit, place, token, force=attempt == 2)
        try:
            verify_checkpoint(downloaded)
            break
        except ValueError as error:
            if attempt == 2 or not (downloaded / MANIFEST_NAME).is_file():
                raise
            logger.warning(f"{error} It is downloaded once more.")
    arrived = _put_among(downloaded, output_dir)
    shutil.rmtree(place, ignore_errors=True)
    return str(arrived)


def _last_folder(files: list[str], checkpoint: HubCheckpoint) -> str:
    folders = {file.split("/")[0] for file in files if file.endswith(f"/{TRAINER_STATE_NAME}")}
    if LAST_CHECKPOINT in folders:
        return LAST_CHECKPOINT
    steps = {
        name: int(match[1]) for name in folders if (match := re.fullmatch(PREFIX_CHECKPOINT_DIR + r"-(\d+)", name))
    }
    if not steps:
        raise ValueError(
            f"{checkpoint.repo_id} holds no training checkpoint: only `hub_strategy='checkpoint'` and "
            "'all_checkpoints' push them. To start a new run from its weights pass it as `model`."
        )
    return max(steps, key=lambda name: steps[name])


def _download(
    checkpoint: HubCheckpoint, folder: str, commit: str, place: Path, token: str | bool | None, force: bool
) -> Path:
    with_retries(
        lambda: snapshot_download(
            checkpoint.repo_id,
            revision=commit,
            allow_patterns=[f"{folder}/*"],
            local_dir=place,
            token=token,
            force_download=force,
            library_name="sacl",
        ),
        f"Downloading {checkpoint}",
    )
    if not (place / folder).is_dir():
        raise ValueError(f"{checkpoint.repo_id} has no folder {folder} at {checkpoint.revision or 'main'}.")
    return place / folder


def _step(state: bytes) -> int:
    """The number that the folder is named by: anything else could name any place."""
    try:
        step = json.loads(state)["global_step"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{TRAINER_STATE_NAME} of the checkpoint cannot be read: {error!r}") from error
    if type(step) is not int or step < 0:
        raise ValueError(f"`global_step` in {TRAINER_STATE_NAME} is the number of a step, got {step!r:.200}")
    return step


def _put_among(downloaded: Path, output_dir: Path) -> Path:
    """Moves a verified checkpoint to where those of the run are."""
    state = (downloaded / TRAINER_STATE_NAME).read_bytes()
    target = output_dir / f"{PREFIX_CHECKPOINT_DIR}-{_step(state)}"
    if target.exists():
        if (target / TRAINER_STATE_NAME).is_file() and (target / TRAINER_STATE_NAME).read_bytes() == state:
            verify_checkpoint(target)
            return target
        raise ValueError(
            f"{target} exists, and is not the checkpoint that was fetched. Take another `output_dir`, or resume from "
            "that folder."
        )
    with_pickles(downloaded)
    os.replace(downloaded, target)
    return target
