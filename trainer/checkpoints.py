# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""
Checkpoints that are whole or not there: sealed when everything is written, verified before anything is read.

A process may be stopped at any moment, also while it saves. What it leaves behind then looks like a checkpoint. So the
last thing to be written is a manifest with the size and the hash of every file, and only what has one, and agrees with
it, is resumed from. The hashes find accidents, not intent: they are no signatures. So, whoever sealed a checkpoint,
nothing in it is unpickled but tensors and plain values. (What DeepSpeed saves for itself, it also loads itself.)
"""

import errno
import io
import json
import os
import pickle
import pickletools
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import xxhash
from accelerate.utils import gather_object
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from .paths import is_inside, read_json


logger = logging.get_logger(__name__)

MANIFEST_NAME = "checkpoint_manifest.json"
MANIFEST_VERSION = 1

_UNSEALED = (
    "was not saved completely (the process was stopped while saving), or was saved by another trainer: it has no "
    f"{MANIFEST_NAME}"
)
_HOW_TO_SEAL = " A checkpoint that you know to be complete is accepted after `seal_checkpoint(<its folder>)`."


# Sealing ---------------------------------------------------------------------------------------------------------


def seal_checkpoint(folder: str | os.PathLike) -> None:
    """
    Declares a checkpoint complete: writes `checkpoint_manifest.json`, with the size and the hash of each of its files.

    [`SaclTrainer`] seals what it saves. Call this to accept a checkpoint that another trainer has written, or one in
    which you changed something on purpose.

    Args:
        folder (`str` or `os.PathLike`):
            The checkpoint's folder.

    Raises:
        ValueError: if the folder holds no checkpoint, or one without `trainer_state.json`, which is saved last.

    Example:

    ```python
    >>> from trainer import seal_checkpoint

    >>> seal_checkpoint("run/checkpoint-500")
    >>> trainer.train(resume_from_checkpoint="run/checkpoint-500")
    ```
    """
    folder = Path(folder)
    if not (folder / TRAINER_STATE_NAME).is_file():
        raise ValueError(
            f"{folder} cannot be sealed: it has no {TRAINER_STATE_NAME}, which is saved last, and so is no complete "
            "checkpoint."
        )
    unseal_checkpoint(folder)
    temporary = folder / f"{MANIFEST_NAME}.tmp"
    temporary.unlink(missing_ok=True)
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        _flush(path)
        files[path.relative_to(folder).as_posix()] = {"size": path.stat().st_size, "xxh3_128": _hash_of(path)}
    manifest = {"format_version": MANIFEST_VERSION, "files": files, "xxh3_128": _hash_of_list(files)}
    temporary.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    _flush(temporary)
    os.replace(temporary, folder / MANIFEST_NAME)
    _flush(folder)


def unseal_checkpoint(folder: str | os.PathLike) -> None:
    """Says that a folder is about to be changed. It need not exist."""
    Path(folder, MANIFEST_NAME).unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """To the disk itself: if the machine loses power, the seal must not survive what it vouches for."""
    if os.name == "nt":
        if path.is_dir():
            return  # There a folder cannot be opened, and a file that is only read cannot be flushed.
        flags = os.O_RDWR
    else:
        flags = os.O_RDONLY
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # Some file systems cannot flush.
            raise
    finally:
        os.close(descriptor)


def _hash_of(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _hash_of_list(files: dict[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(files, sort_keys=True).encode())


# Verifying -------------------------------------------------------------------------------------------------------


def verify_checkpoint(folder: str | os.PathLike) -> None:
    """
    Compares a checkpoint with its manifest, file by file. Files that the manifest does not list are left alone.

    Args:
        folder (`str` or `os.PathLike`):
            The checkpoint's folder.

    Raises:
        ValueError: if it is not sealed, or if a file is missing, has another size or has been changed. The message
            names the file, and the last checkpoint beside it that is whole.

    Example:

    ```python
    >>> from trainer import verify_checkpoint

    >>> verify_checkpoint("run/checkpoint-500")
    ```
    """
    folder = Path(folder)
    problem = _problem(folder)
    if problem is None:
        return
    others = (other for other in _checkpoints(folder.absolute().parent) if other != folder.absolute())
    whole = next((other for other in others if _problem(other) is None), None)
    advice = "There is no whole checkpoint beside it." if whole is None else f"Resume from {whole}."
    raise ValueError(f"The checkpoint {folder} {problem}. {advice}{_HOW_TO_SEAL if problem == _UNSEALED else ''}")


def _problem(folder: Path) -> str | None:
    """What is wrong with a checkpoint, as the end of a sentence about it; `None` if it is whole."""
    if not folder.is_dir():
        return "does not exist"
    if not (folder / MANIFEST_NAME).is_file():
        return _UNSEALED
    try:
        files = _read_manifest(folder / MANIFEST_NAME)
    except ValueError as error:
        return f"is damaged: {error}"
    for name, expected in files.items():
        problem = _problem_of_file(folder / name, expected)
        if problem is not None:
            return f"is damaged: {name} {problem}"
    for path in sorted(folder.rglob(".metadata")):
        problem = _problem_of_shards(path)
        if problem is not None:
            return f"is not safe to load: {path.relative_to(folder).as_posix()} {problem}"
    return None


def _problem_of_file(path: Path, expected: dict[str, Any]) -> str | None:
    if not path.is_file():
        return f"is missing ({expected['size']} bytes were saved)"
    if path.stat().st_size != expected["size"]:
        return f"has {path.stat().st_size} bytes, but {expected['size']} were saved"
    found = _hash_of(path)
    if found != expected["xxh3_128"]:
        return f"has been changed: its xxh3_128 is {found}, but {expected['xxh3_128']} was saved"
    return None


def _read_manifest(path: Path) -> dict[str, dict[str, Any]]:
    try:
        manifest = read_json(path)
        version, files, seal = (manifest[name] for name in ("format_version", "files", "xxh3_128"))
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path.name} cannot be read ({error!r})") from error
    if version != MANIFEST_VERSION:
        raise ValueError(f"{path.name} has the format version {version!r}, but {MANIFEST_VERSION} was expected")
    if _hash_of_list(files) != seal:
        raise ValueError(f"{path.name} has been changed: its list of files is not the one that was sealed")
    _check_entries(path, files)
    return files


def _check_entries(path: Path, files: Any) -> None:
    """A hash is no signature, so whoever wrote the list may have written anything into it."""
    entries = files.items() if isinstance(files, dict) else [(files, None)]
    for name, expected in entries:
        told = isinstance(expected, dict) and {"size": int, "xxh3_128": str} == {
            key: type(value) for key, value in expected.items()
        }
        if not told:
            raise ValueError(f"{path.name} lists {name!r:.200} without its size and hash")
        if not is_inside(path.parent / name, path.parent):
            raise ValueError(f"{path.name} lists {name!r:.200}, which is not in the checkpoint")


# What is in a pickle ---------------------------------------------------------------------------------------------


class _ShardMetadata(pickle.Unpickler):
    """Where the tensors of a sharded checkpoint (FSDP) lie. torch unpickles this file without looking at it."""

    ALLOWED = {
        "torch.distributed.checkpoint.metadata": {
            "BytesStorageMetadata",
            "ChunkStorageMetadata",
            "Metadata",
            "MetadataIndex",
            "StorageMeta",
            "TensorProperties",
            "TensorStorageMetadata",
            "_MEM_FORMAT_ENCODING",
        },
        "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
        "torch.serialization": {"_get_layout"},
        "torch": {"Size", *(name for name, value in vars(torch).items() if isinstance(value, torch.dtype))},
        "collections": {"OrderedDict"},
        "pathlib": {"PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath"},
    }

    def find_class(self, module: str, name: str) -> Any:
        if name in self.ALLOWED.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} does not belong there")


def _problem_of_shards(path: Path) -> str | None:
    try:
        content = path.read_bytes()
        # A table of what is to be referred to again is made as large as the largest number in it, before that is used.
        for operation, argument, _ in pickletools.genops(content):
            if "PUT" in operation.name and isinstance(argument, int) and argument > len(content):
                return f"cannot be read: it refers to its {argument}th part"
        _ShardMetadata(io.BytesIO(content)).load()
    except Exception as error:  # A pickle that is none can end in any.
        return f"cannot be read: {error}"
    return None


@contextmanager
def tensors_only() -> Iterator[None]:
    """Inside, `torch.load` unpickles nothing but tensors and plain values, whatever it is called with."""
    settings = {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "0"}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


# Resuming --------------------------------------------------------------------------------------------------------


def checkpoint_to_resume(resume_from_checkpoint: str | os.PathLike | bool, output_dir: str | os.PathLike) -> str:
    """
    The folder to resume from: the given one, or for `True` the last whole checkpoint of a run.

    Args:
        resume_from_checkpoint (`str`, `os.PathLike` or `True`):
            A checkpoint's folder, which is verified; with `True`, checkpoints that are not whole are passed over with
            a warning.
        output_dir (`str` or `os.PathLike`):
            The folder of the run.

    Raises:
        ValueError: if the given checkpoint, or each one of the run, is unsealed or damaged.
    """
    if not isinstance(resume_from_checkpoint, bool):
        verify_checkpoint(os.fspath(resume_from_checkpoint))
        return os.fspath(resume_from_checkpoint)
    folder, problems = _last_whole(Path(output_dir))
    if folder is not None:
        if problems:
            logger.warning(f"Resuming from {folder}, because {'; '.join(problems)}.")
        return str(folder)
    message = f"No valid checkpoint found in output directory ({output_dir})"
    raise ValueError(f"{message}: {'; '.join(problems)}.{_HOW_TO_SEAL}" if problems else message)


def last_checkpoint(output_dir: str | os.PathLike) -> str | None:
    """The folder of the last whole checkpoint of a run, `None` if there is none."""
    folder, _ = _last_whole(Path(output_dir))
    return None if folder is None else str(folder)


def _last_whole(run: Path) -> tuple[Path | None, list[str]]:
    """The last whole checkpoint of a run, and what is wrong with those after it."""
    problems: list[str] = []
    for folder in _checkpoints(run):
        problem = _problem(folder)
        if problem is None:
            return folder, problems
        problems.append(f"{folder} {problem}")
    return None, problems


def _checkpoints(run: Path) -> list[Path]:
    """The folders of a run that are named like checkpoints, the last step first."""
    pattern = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)")
    folders = [folder for folder in run.iterdir() if folder.is_dir()] if run.is_dir() else []
    steps = {folder: int(match[1]) for folder in folders if (match := pattern.fullmatch(folder.name))}
    return sorted(steps, key=lambda folder: steps[folder], reverse=True)


def agreed(find: Callable[[], str], is_asked: bool) -> str:
    """
    What `find` returns, or the `ValueError` that it raises, in all processes alike.

    Args:
        find (`Callable`):
            Called in the processes that are asked: hashing a checkpoint once per file system is enough.
        is_asked (`bool`):
            Whether this process is one of them. At least one has to be.

    Raises:
        ValueError: if `find` raises it in any process, or if two of them find different things.
    """
    found, problem = None, None
    if is_asked:
        try:
            found = find()
        except ValueError as error:
            problem = str(error)
    answers = gather_object([(found, problem)])
    problems = [problem for _, problem in answers if problem is not None]
    if problems:
        raise ValueError(problems[0])
    different = sorted({found for found, _ in answers if found is not None})
    if len(different) > 1:
        raise ValueError(
            f"The nodes have different last checkpoints: {', '.join(different)}. Pass the one that all of them have "
            "as `resume_from_checkpoint`."
        )
    return different[0]


# Old checkpoints -------------------------------------------------------------------------------------------------


def delete_old_checkpoints(run: str, newest: str, limit: int | None, best: str | None) -> None:
    """
    Deletes the oldest checkpoints of a run until `limit` are left, as [`Trainer`] does, but by their steps: times of
    files say nothing after the clock was set, or in a copy. The newest, the one that has just been sealed, stays; what
    is of later steps was left behind by another run, and goes first.

    Args:
        run (`str`): The folder of the run.
        newest (`str`): The folder of the checkpoint that was sealed last.
        limit (`int`, *optional*): How many to keep, `save_total_limit`; unset or 0, all.
        best (`str`, *optional*): The folder of the best model's checkpoint, which stays too.
    """
    if not limit or limit < 0:
        return
    kept = {str(Path(folder)) for folder in (newest, best) if folder is not None}
    # The last steps first, so that the newest parts them: those before it are of another run.
    checkpoints = [str(folder) for folder in _checkpoints(Path(run))]
    place = checkpoints.index(str(Path(newest)))
    old = [folder for folder in [*checkpoints[:place], *reversed(checkpoints[place:])] if folder not in kept]
    for folder in old[: max(0, len(checkpoints) - max(limit, len(kept)))]:
        # Half deleted, it must not pass for whole.
        unseal_checkpoint(folder)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def set_aside(arguments: Any, **values: Any) -> Iterator[None]:
    """Gives some arguments other values for a while."""
    before = {name: getattr(arguments, name) for name in values}
    for name, value in values.items():
        setattr(arguments, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(arguments, name, value)
