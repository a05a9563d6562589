# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""What the name of a source stands for, and how it is opened: by `datasets` where it can, by the readers beside it."""

import csv
import io
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import fsspec
from datasets import (
    Dataset,
    DatasetDict,
    IterableDataset,
    IterableDatasetDict,
    load_dataset,
    load_from_disk,
)

from ..paths import check_links, check_saved_dataset
from ..text import without_secrets
from .archives import check_packed
from .locating import ImageLocator, is_web_address
from .patience import open_to_read, within_limits
from .tar_shards import open_tar_shards


PairDataset: TypeAlias = Dataset | DatasetDict | IterableDataset | IterableDatasetDict

BUILDERS = {
    ".tar": "tar",  # img2dataset writes a Parquet file without images beside each.
    ".parquet": "parquet",
    ".json": "json",
    ".jsonl": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".arrow": "arrow",
}

# Builders that take paths of images as they find them. The others have looked already where those lead.
_NAIVE_BUILDERS = {"parquet", "json", "csv", "arrow", "text", "webdataset", "lance", "sql", "pandas", "hdf5", "xml"}

# From a stream that is in memory as a whole, as many shards as there may be readers.
_SHARDS_OF_LISTS = 64
_ROWS_OF_TABLES = 1000
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_KARPATHY = re.compile(rb'\s*\{\s*"(images|dataset)"\s*:')


@dataclass(frozen=True)
class Source:
    """
    What the arguments of [`load_pairs`] say about a source, beside its columns.

    Args:
        names (`tuple[str, ...]`): Path, URL, pattern or Hub id; or several paths.
        split (`str`, *optional*): The split to open.
        streaming (`bool`): Whether rows are read as they are needed.
        image_root (`str`, *optional*): Where paths of images lie.
        column_names (`tuple[str, ...]`, *optional*): Columns of a table without a first line of names.
        storage_options (mapping): For `fsspec`.
        load_arguments (mapping): For [`~datasets.load_dataset`]; `None` is not given.
        follow_links (`bool`): Whether links out of a folder are followed.
    """

    names: tuple[str, ...]
    split: str | None = None
    streaming: bool = False
    image_root: str | None = None
    column_names: tuple[str, ...] | None = None
    storage_options: Mapping[str, Any] = field(default_factory=dict)
    load_arguments: Mapping[str, Any] = field(default_factory=dict)
    follow_links: bool = False

    def locator(self, root: str | None) -> ImageLocator:
        """What finds the images of the source below a folder."""
        return ImageLocator(root, follow_links=self.follow_links, has_options=bool(self.storage_options))

    @property
    def file_options(self) -> dict[str, Any]:
        """What `fsspec` is to be given for the files themselves: on the Hub, the token too."""
        token = self.load_arguments.get("token")
        is_on_hub = any(name.startswith("hf://") for name in self.names)
        return {**({"token": token} if is_on_hub and token is not None else {}), **self.storage_options}

    @property
    def label(self) -> str:
        """The source in messages."""
        return repr(without_secrets(self.names[0])) + (
            f" and {len(self.names) - 1} more" if len(self.names) > 1 else ""
        )


@dataclass(frozen=True)
class OpenSource:
    """An open source: the data set, where its images lie, and the columns of ids and images that its kind has."""

    dataset: PairDataset
    locate: ImageLocator | None
    pair_id_column: str | None = None
    image_column: str = "image"


def open_source(source: Source) -> OpenSource:
    """
    Finds out what a source is and opens it.

    Raises:
        FileNotFoundError: There is no such file or folder, or no file fits a pattern.
        ValueError: The format is unknown, or an argument does not fit it.
    """
    files = _files(source)
    if files is None:
        dataset = _open_by_name(source)
        naive = _builder_name(dataset) in _NAIVE_BUILDERS
        return OpenSource(dataset, source.locator(source.image_root) if naive or source.image_root else None)
    suffixes = {Path(path).suffix.lower() for path in files}
    if len(suffixes) > 1:
        raise ValueError(
            f"{source.label} are files of several formats ({', '.join(sorted(suffixes))}): open those of each with "
            "`load_pairs`, and put them together with `mix_pairs`."
        )
    for name in ("name", "data_files"):
        if source.load_arguments.get(name):
            raise ValueError(f"`name` and `data_files` belong to data sets of several files; {files[0]!r} is a file.")
    folders = {os.path.dirname(path) for path in files}
    folder = source.image_root or (folders.pop() if len(folders) == 1 else None)
    (suffix,) = suffixes
    return _open_files(source, files, suffix, "." if folder == "" else folder)


def _builder_name(dataset: PairDataset) -> str | None:
    part = next(iter(dataset.values())) if isinstance(dataset, (DatasetDict, IterableDatasetDict)) else dataset
    return part.info.builder_name


# Which files ---------------------------------------------------------------------------------------------------------


def _files(source: Source) -> list[str] | None:
    """The files that are meant; `None` if it is a folder for `datasets`, or the id of a data set on the Hub."""
    names = [expanded for name in source.names for expanded in expand_braces(name)]
    if len(names) > 1 or any(character in names[0] for character in "*?["):
        return [path for name in names for path in _matching(name, source.file_options)]
    path = names[0] if "://" in names[0] else os.path.expanduser(names[0])
    remote = "://" in path
    if Path(path).suffix.lower() in BUILDERS and (remote or os.path.isfile(path)):
        return [path]
    if not remote and os.path.isfile(path):
        raise ValueError(
            f"Cannot read pairs from the file {path!r}: expected one of {', '.join(BUILDERS)}. Other formats can be "
            "opened with `datasets` and passed as a data set."
        )
    if not remote and os.path.isdir(path) and not source.follow_links:
        check_links(path)
    if remote and not path.startswith("hf://"):
        return _in_folder(path, source.file_options)
    if os.path.isdir(path) and not any(source.load_arguments.values()):
        return sorted(str(file) for file in Path(path).glob("*.tar")) or None
    return None


def expand_braces(pattern: str) -> list[str]:
    """
    Writes out what stands in braces: `{0000..0131}` counts, `{train,val}` lists.

    Args:
        pattern (`str`): A path or URL.

    Returns:
        `list[str]`: The path itself if there are no braces in it.
    """
    match = _BRACES.search(pattern)
    if match is None:
        return [pattern]
    inside = _RANGE.fullmatch(match[1])
    if inside is None:
        options = match[1].split(",")
    else:
        first, last = inside.groups()
        options = [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
    rest = expand_braces(pattern[match.end() :])
    return [pattern[: match.start()] + option + end for option in options for end in rest]


def _matching(name: str, storage_options: Mapping[str, Any]) -> list[str]:
    if not any(character in name for character in "*?["):
        if "://" not in name and not os.path.isfile(os.path.expanduser(name)):
            raise FileNotFoundError(f"There is no file {name!r}.")
        return [os.path.expanduser(name)]
    filesystem, pattern = fsspec.url_to_fs(os.path.expanduser(name), **storage_options)
    found = sorted(filesystem.glob(pattern))
    if not found:
        raise FileNotFoundError(f"No file matches {name!r}.")
    return [filesystem.unstrip_protocol(path) if "://" in name else path for path in found]


def _in_folder(url: str, storage_options: Mapping[str, Any]) -> list[str]:
    """The files of a folder on an object store: those of the format that comes first in [`BUILDERS`]."""
    filesystem, folder = fsspec.url_to_fs(url, **storage_options)
    found = sorted(filesystem.find(folder))
    for suffix in BUILDERS:
        if files := [filesystem.unstrip_protocol(path) for path in found if path.lower().endswith(suffix)]:
            return files
    raise FileNotFoundError(f"There is no file in {url!r} whose name ends in {', '.join(BUILDERS)}.")


# Opening them --------------------------------------------------------------------------------------------------------


def _open_by_name(source: Source) -> PairDataset:
    """What is neither a file nor several: a folder, or a data set on the Hub."""
    path = source.names[0] if "://" in source.names[0] else os.path.expanduser(source.names[0])
    given = {key: value for key, value in source.load_arguments.items() if value is not None}
    if os.path.isfile(os.path.join(path, "state.json")) or os.path.isfile(os.path.join(path, "dataset_dict.json")):
        if source.streaming or given:
            raise ValueError(f"{path!r} was written by `save_to_disk`; it takes no argument but `split`.")
        check_saved_dataset(path)
        return select_split(load_from_disk(path), source.split)
    looks_local = (
        os.path.isabs(path) or path.startswith(".") or path.count("/") > 1 or Path(path).suffix.lower() in BUILDERS
    )
    if "://" not in path and looks_local and not os.path.isdir(path) and not path.startswith("buckets/"):
        raise FileNotFoundError(
            f"There is no file or folder {path!r}. Give a folder, a file ({', '.join(BUILDERS)}), the id of a data "
            "set on the Hub, or a data set that is open already."
        )
    if os.path.isdir(path):
        check_packed(path)
    return load_dataset(path, split=source.split, streaming=source.streaming, **_storage(source), **given)


def _storage(source: Source) -> dict[str, Any]:
    options = within_limits(source.names, source.storage_options)
    return {"storage_options": options} if options else {}


def _open_files(source: Source, files: list[str], suffix: str, folder: str | None) -> OpenSource:
    if source.column_names is not None and suffix not in (".tsv", ".csv"):
        raise ValueError(f"`column_names` are for tables (.tsv, .csv) without a first line of names, not {suffix}.")
    if suffix == ".tar":
        return OpenSource(_open_tar(source, files), None)
    locate = source.locator(folder)
    if suffix == ".json":
        beginning = _beginning(files[0], source.file_options)
        if is_karpathy(files[0], beginning):
            return OpenSource(_open_karpathy(source, files, folder), None)
        if beginning.lstrip()[:1] == b"[":
            rows = _alike([row for path in files for row in _read_json_list(path, source.file_options)])
            dataset = _only_train(source, _list_dataset(rows, source.streaming))
            return OpenSource(dataset, locate, _image_id_column(rows))
    for path in filter(os.path.isfile, files):
        check_packed(path)
    given = {key: source.load_arguments.get(key) for key in ("token", "cache_dir")}
    table = _table_arguments(source, files[0], suffix) if suffix in (".tsv", ".csv") else {}
    dataset = load_dataset(
        BUILDERS[suffix],
        data_files=files,
        split=source.split or "train",
        streaming=source.streaming,
        **_storage(source),
        **table,
        **{key: value for key, value in given.items() if value is not None},
    )
    is_metadata = all(Path(path).stem == "metadata" for path in files)
    return OpenSource(dataset, locate, image_column="file_name" if is_metadata else "image")


def _only_train(source: Source, dataset: Dataset | IterableDataset) -> Dataset | IterableDataset:
    if source.split not in (None, "train"):
        raise ValueError(f"{source.label} is one split, 'train', and has no {source.split!r}.")
    return dataset


def _open_tar(source: Source, files: list[str]) -> PairDataset:
    dataset = open_tar_shards(
        files,
        streaming=source.streaming,
        storage_options=source.file_options,
        cache_dir=source.load_arguments.get("cache_dir"),
    )
    return _only_train(source, dataset)


def is_karpathy(path: str, beginning: bytes | None = None) -> bool:
    """
    Whether a path is that of a file in Karpathy's format, by how it begins (see [`load_karpathy`]).

    Args:
        path (`str`): The path.
        beginning (`bytes`, *optional*): How the file begins, if it was read already.
    """
    if beginning is None:
        beginning = _beginning(path, {}) if path.lower().endswith(".json") and os.path.isfile(path) else b""
    return _KARPATHY.match(beginning) is not None


def _beginning(path: str, storage_options: Mapping[str, Any]) -> bytes:
    with open_to_read(path, storage_options) as file:
        return file.read(1024)


# JSON ----------------------------------------------------------------------------------------------------------------


def _open_karpathy(source: Source, files: list[str], folder: str | None) -> PairDataset:
    from .karpathy import KARPATHY_SPLITS, karpathy_splits, load_karpathy

    if len(files) > 1:
        raise ValueError(
            f"{source.label} are in Karpathy's format: open each file with `load_pairs`, and put them together with "
            "`mix_pairs`."
        )
    (path,) = files
    if source.streaming or "://" in path:
        raise ValueError(f"{path!r} is in Karpathy's format, which is read as a whole, from a local file.")
    if source.split is not None:
        return load_karpathy(path, folder or ".", source.split)
    present = karpathy_splits(path)
    return DatasetDict(
        {split: load_karpathy(path, folder or ".", split) for split in KARPATHY_SPLITS if split in present}
    )


def _read_json_list(path: str, storage_options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A list of objects, as ALBEF's annotations are."""
    try:
        with open_to_read(path, storage_options) as file:
            rows = json.load(file)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path!r} is no JSON file: {error}") from error
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f'{path!r} has to hold a list of objects, [{{"image": ..., "caption": ...}}, ...].')
    return rows


def _alike(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with the same names, and under each with values of one type, as far as that can be done."""
    names = dict.fromkeys(name for row in rows for name in row)
    for name in names:
        kinds = {type(row.get(name)) for row in rows} - {type(None)}
        if kinds == {str, list}:
            for row in rows:
                row[name] = [row[name]] if isinstance(row.get(name), str) else row.get(name)
        elif kinds == {str, int}:
            for row in rows:
                row[name] = None if row.get(name) is None else str(row[name])
    return [{name: row.get(name) for name in names} for row in rows]


def _list_dataset(rows: list[dict[str, Any]], streaming: bool) -> Dataset | IterableDataset:
    images = [row.get("image") for row in rows]
    if "pair_id" not in rows[0] and _image_id_column(rows) is None and len(set(map(str, images))) < len(rows):
        # One row for each caption: rows of one image belong together.
        rows = [{**row, "pair_id": str(row.get("image"))} for row in rows]
    try:
        dataset = Dataset.from_list(rows)
    except Exception as error:  # pyarrow has several for values of different types in one column.
        raise ValueError(f"The rows do not have the same types: {error}") from error
    return dataset.to_iterable_dataset(num_shards=min(_SHARDS_OF_LISTS, len(rows))) if streaming else dataset


def _image_id_column(rows: list[dict[str, Any]]) -> str | None:
    """ALBEF's name for what its rows of one image have in common, if all have it."""
    has_ids = "pair_id" not in rows[0] and all(row.get("image_id") is not None for row in rows)
    return "image_id" if has_ids else None


# Tables --------------------------------------------------------------------------------------------------------------


def _table_arguments(source: Source, path: str, suffix: str) -> dict[str, Any]:
    """How a table is to be read, so that a caption "null" stays one, and a broken line costs that line."""
    arguments: dict[str, Any] = {
        "keep_default_na": False,
        "na_values": [""],
        "encoding_errors": "replace",
        "on_bad_lines": "warn",
        "chunksize": _ROWS_OF_TABLES,
    }
    if suffix == ".tsv":
        # Captions have quotation marks of their own.
        arguments |= {"sep": "\t", "quoting": csv.QUOTE_NONE}
    names = source.column_names
    if names is None and suffix == ".tsv":
        names = _guess_names(path, source.file_options)
    return arguments if names is None else {**arguments, "column_names": list(names), "header": None}


def _guess_names(path: str, storage_options: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Conceptual Captions has captions and addresses without a line of names; `None` if there is one."""
    with open_to_read(path, storage_options) as file:
        first = io.TextIOWrapper(file, encoding="utf-8", errors="replace").readline(2**24).rstrip("\r\n").split("\t")
    addresses = [is_web_address(value) for value in first]
    if len(first) == 2 and sum(addresses) == 1:
        return ("image", "caption") if addresses[0] else ("caption", "image")
    if any(addresses) or any(len(value) > 256 for value in first):
        raise ValueError(
            f"{path!r} has no first line of names, and {len(first)} columns: name them, for instance "
            '`column_names=("id", "image_id", "caption", "objects", "image")`.'
        )
    return None


def select_split(dataset: PairDataset, split: str | None) -> PairDataset:
    """
    One split of a data set that is open.

    Raises:
        ValueError: There is no such split.
    """
    if split is None:
        return dataset
    if isinstance(dataset, (DatasetDict, IterableDatasetDict)):
        if split not in dataset:
            raise ValueError(f"There is no split {split!r}; the data set has {', '.join(map(repr, dataset))}.")
        return dataset[split]
    raise ValueError(f"`split={split!r}` was given, but the data set is a single split already.")
