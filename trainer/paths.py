# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Names of files that come with data from elsewhere: they name what came along, and nothing else of this machine."""

import json
import os
import re
from pathlib import Path
from typing import Any


_STATE = "state.json"
_SPLITS = "dataset_dict.json"
_PLAIN = re.compile(r"(?!\.{1,2}$)[^/\\:\0]+")


def is_inside(path: str | os.PathLike, folder: str | os.PathLike) -> bool:
    """
    Whether a path, with all links followed, is that of something in the folder.

    Args:
        path (`str` or `os.PathLike`): The path; what is there need not exist.
        folder (`str` or `os.PathLike`): The folder.
    """
    try:
        return Path(path).resolve().is_relative_to(Path(folder).resolve())
    except (ValueError, OSError, RuntimeError):  # A null character; a name that is too long; a link to itself.
        return False


def leads_outside(path: str | os.PathLike, folder: str | os.PathLike) -> bool:
    """
    Whether a path below a folder is, by links, that of something outside of it (see [`check_links`]).

    Args:
        path (`str` or `os.PathLike`): The path.
        folder (`str` or `os.PathLike`): The folder.
    """
    return not any(is_inside(path, allowed) for allowed in (folder, *_blobs(folder)))


def read_json(file: str | os.PathLike) -> Any:
    """
    What a JSON file holds.

    Args:
        file (`str` or `os.PathLike`): The file, which is in UTF-8.

    Raises:
        ValueError: if it is none, whatever is wrong with it; also one that is nested deeper than Python can follow.
    """
    try:
        return json.loads(Path(file).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is no JSON file: {error}") from error


def check_links(folder: str | os.PathLike) -> None:
    """
    Refuses a folder with a link to something outside of it: who unpacks a stranger's archive would read his own files
    for the stranger's. Costs a look at each name, and opens nothing. In the cache of `huggingface_hub`, files are
    links to the blobs of the same repository; these are not meant.

    Raises:
        ValueError: naming the first such link and the way out.
    """
    for root, folders, files in os.walk(os.fspath(folder)):
        for name in sorted([*folders, *files]):
            path = os.path.join(root, name)
            if os.path.islink(path) and leads_outside(path, folder):
                raise ValueError(
                    f"{path!r} is a link to something outside of {os.fspath(folder)!r}, {os.path.realpath(path)!r}. "
                    "If you have put it there, pass `follow_links=True`; if not, ask who has."
                )


def _blobs(folder: str | os.PathLike) -> list[Path]:
    """Where the contents of a snapshot lie, if the folder is one."""
    snapshots = Path(folder).resolve().parent
    return [snapshots.parent / "blobs"] if snapshots.name == "snapshots" else []


def check_saved_dataset(folder: str | os.PathLike) -> None:
    """
    Refuses a data set of `save_to_disk` whose list of files names one that is not beside the list.

    Raises:
        ValueError: naming the file; or if the list cannot be read.
    """
    splits = [Path(folder)]
    if (Path(folder) / _SPLITS).is_file():
        splits = [_child(Path(folder), name) for name in _listed(Path(folder) / _SPLITS, "splits")]
    for split in splits:
        for file in _listed(split / _STATE, "_data_files"):
            _child(split, file.get("filename") if isinstance(file, dict) else None)


def _listed(file: Path, key: str) -> list:
    try:
        listed = read_json(file)[key]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} cannot be read as `save_to_disk` writes it: {error!r:.200}") from error
    if not isinstance(listed, list):
        raise ValueError(f"{file} cannot be read as `save_to_disk` writes it: `{key}` is no list.")
    return listed


def _child(folder: Path, name: object) -> Path:
    if not isinstance(name, str) or not _PLAIN.fullmatch(name):
        raise ValueError(f"{folder} lists {name!r:.200}, which is no name of a file beside it: it is not read.")
    return folder / name
