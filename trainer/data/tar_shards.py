# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""
Pairs in tar files as WebDataset and img2dataset write them: `0001.jpg`, `0001.txt` and `0001.json` in a row are one.

`datasets` has a builder for such files too. It takes the types of all fields from the first five samples, so that a
field that is null there, or another kind of image, ends the stream later; and it decodes whatever members there are.
This reader takes images, captions and the plain values beside them, and passes over the rest.
"""

import json
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any, cast

import fsspec
from datasets import Dataset, Features, Image, IterableDataset, List, Value
from transformers.utils import logging

from ..text import without_secrets
from .patience import open_to_read


logger = logging.get_logger(__name__)

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "jp2")
CAPTION_SUFFIXES = ("txt", "text", "caption")
# Larger members are passed over unread: nothing of a pair is of that size, whatever an archive says.
MAX_IMAGE_BYTES = 128 * 2**20
MAX_TEXT_BYTES = 2**20

_NAME = re.compile(r"((?:.*/|)[^/.]+)\.([^/]*)")
_SAMPLES_FOR_COLUMNS = 32
# How much is read at once.
_STEP = 2**18
_READS_BEHIND_THE_END = 100
_KEY = "__key__"


def open_tar_shards(
    shards: Sequence[str], *, streaming: bool, storage_options: Mapping[str, Any], cache_dir: str | None = None
) -> Dataset | IterableDataset:
    """
    Opens tar files as a data set with `image`, `caption`, `__key__` (the name that the files of a sample share) and
    the fields of their JSON that hold texts, lists of texts, numbers or yes and no.

    Args:
        shards (sequence of `str`):
            Paths or URLs. One is read after the other from its beginning to its end, nothing is unpacked to disk.
        streaming (`bool`):
            Whether to read as rows are needed.
        storage_options (mapping):
            What `fsspec` is to be given.
        cache_dir (`str`, *optional*):
            Where `datasets` keeps what it prepares, if it does.

    Raises:
        ValueError: The first shard has no sample with an image.
    """
    options = dict(storage_options)
    columns = _find_columns(shards[0], options)
    features = Features({"image": Image(), _KEY: Value("string"), **columns})
    arguments = {"shards": list(shards), "storage_options": options, "columns": columns}
    if streaming:
        return IterableDataset.from_generator(read_tar_shards, features=features, gen_kwargs=arguments)
    # What is prepared belongs to the files as they are now.
    arguments["versions"] = [_version(shard, options) for shard in shards]
    return Dataset.from_generator(read_tar_shards, features=features, gen_kwargs=arguments, cache_dir=cache_dir)


def _version(shard: str, storage_options: dict[str, Any]) -> str:
    filesystem, path = fsspec.url_to_fs(shard, **storage_options)
    return filesystem.ukey(path)


def _find_columns(shard: str, storage_options: dict[str, Any]) -> dict[str, Any]:
    """The columns beside image and key, by the first samples of a shard."""
    columns: dict[str, Any] = {}
    found = 0
    with open_to_read(shard, storage_options) as file:
        for sample in _samples(file, shard):
            found += "image" in sample
            for name, value in sample.items():
                feature = _feature(value) if name not in ("image", _KEY) else None
                if feature is not None:
                    columns.setdefault(name, feature)
            if found == _SAMPLES_FOR_COLUMNS:
                break
    if not found:
        raise ValueError(
            f"{shard!r} has no sample with an image ({', '.join(IMAGE_SUFFIXES)}). Expected are files as img2dataset "
            "writes them: `0001.jpg` and `0001.txt` or `0001.json`, one after the other."
        )
    return columns


def _feature(value: Any) -> Any:
    if isinstance(value, str):
        return Value("string")
    if isinstance(value, bool):
        return Value("bool")
    if isinstance(value, int):
        return Value("int64")
    if isinstance(value, float):
        return Value("float64")
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return List(Value("string"))
    return None


def read_tar_shards(
    shards: Sequence[str],
    storage_options: dict[str, Any],
    columns: dict[str, Any],
    versions: Sequence[str] = (),
) -> Iterator[dict[str, Any]]:
    """The samples of tar files that have an image. A field that is missing, or of another type, is `None`."""
    for shard in shards:
        with open_to_read(shard, storage_options) as file:
            for sample in _samples(file, shard):
                if "image" in sample:
                    fields = {name: _fitting(sample.get(name), feature) for name, feature in columns.items()}
                    yield {"image": sample["image"], _KEY: sample[_KEY], **fields}


def _fitting(value: Any, feature: Any) -> Any:
    if isinstance(feature, Value) and feature.dtype == "float64" and type(value) is int:
        value = float(value)
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return None
    return value if _feature(value) == feature else None


def _samples(file: IO[bytes], shard: str) -> Iterator[dict[str, Any]]:
    """What stands together under one name. A shard that ends too early, or is damaged, gives what is before that."""
    sample: dict[str, Any] = {}
    try:
        for name, suffix, content in _members(file):
            if sample.get(_KEY) != name:
                if sample:
                    yield sample
                sample = {_KEY: name}
            _add(sample, suffix, content)
    # A header may say nonsense, or thousands of headers each something of the next, which `tarfile` reads within one
    # another.
    except (tarfile.TarError, EOFError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
        logger.warning(f"The shard {without_secrets(shard)!r} is damaged, and is read up to there: {error}.")
    if sample:
        yield sample


class _Ending:
    """
    A file that says when it is read on and on behind its end: `tarfile` passes over a member step by step,
    however large a header says that it is, and would take years for some.
    """

    def __init__(self, file: IO[bytes]):
        self.file = file
        self.reads_behind_the_end = 0

    def read(self, size: int = -1) -> bytes:
        content = self.file.read(size)
        self.reads_behind_the_end += not content
        if self.reads_behind_the_end > _READS_BEHIND_THE_END:
            raise EOFError("it ends within a file")
        return content


def _members(file: IO[bytes]) -> Iterator[tuple[str, str, bytes]]:
    # "r|" is one pass without looking back, and without decompressing, by which a small file could become a large one.
    with tarfile.open(fileobj=cast(IO[bytes], _Ending(file)), mode="r|", bufsize=_STEP) as archive:
        for member in archive:
            archive.members = []  # type: ignore[attr-defined]  # They would be kept for looking back.
            match = _NAME.fullmatch(member.name)
            if not member.isreg() or match is None:
                continue
            name, suffix = match[1], match[2].lower()
            limit = MAX_IMAGE_BYTES if suffix in IMAGE_SUFFIXES else MAX_TEXT_BYTES
            if suffix not in (*IMAGE_SUFFIXES, *CAPTION_SUFFIXES, "json"):
                continue
            if member.size > limit:
                logger.warning_once(f"Members larger than {limit} bytes are passed over: {member.name!r:.200}.")
                continue
            content = archive.extractfile(member)
            if content is not None:
                yield name, suffix, content.read()


def _add(sample: dict[str, Any], suffix: str, content: bytes) -> None:
    if suffix in IMAGE_SUFFIXES:
        sample.setdefault("image", {"bytes": content, "path": f"{sample[_KEY]}.{suffix}"})
    elif suffix in CAPTION_SUFFIXES:
        sample["caption"] = content.decode("utf-8", errors="replace")
    else:
        for name, value in _fields(content).items():
            if name not in ("image", _KEY):
                sample.setdefault(name, value)


def _fields(content: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}
