# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Packed files among data: `datasets` unpacks what it can, and a few kilobytes may be more than fits on a disk."""

import os
import zipfile
from collections.abc import Iterator

from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder


# By their first bytes, as `datasets` knows them, whatever they are called.
_PACKED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!\x1a\x07": "rar",
}
# Pictures do not shrink, and texts to a tenth.
_LARGEST_RATIO, _ALWAYS_FINE = 100, 2**30


def check_packed(path: str) -> None:
    """
    Refuses what unpacks to an unknown or an unlikely size. A zip archive says how large it becomes, and is refused
    above 1 GiB if that is more than a hundred times its size; other packed files do not say, and are refused. Tar
    archives are no larger inside than they are.

    Args:
        path (`str`):
            A file, or a folder with all that is in it. Pictures by name are not looked at: they are not unpacked.

    Raises:
        ValueError: naming the first such file and the way out.
    """
    for file in _files(path):
        packed = _kind(file)
        if packed is None:
            continue
        if packed != "zip":
            raise ValueError(
                f"{file!r} is packed ({packed}), and how much it unpacks to is not known before. Unpack it where you "
                "can see that, or keep pictures in tar shards (*.tar), which are not unpacked."
            )
        with zipfile.ZipFile(file) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > max(_ALWAYS_FINE, _LARGEST_RATIO * os.path.getsize(file)):
            raise ValueError(
                f"{file!r} unpacks from {os.path.getsize(file):,} bytes to {size:,}, which no pictures do. Look into "
                "it before you unpack it."
            )


def _files(path: str) -> Iterator[str]:
    if not os.path.isdir(path):
        yield path
    for root, _, names in os.walk(path):
        for name in sorted(names):
            if os.path.splitext(name)[1].lower() not in ImageFolder.EXTENSIONS:
                yield os.path.join(root, name)


def _kind(path: str) -> str | None:
    """How a file is packed, or `None`."""
    try:
        with open(path, "rb") as file:
            beginning = file.read(max(map(len, _PACKED)))
        if zipfile.is_zipfile(path):
            zipfile.ZipFile(path).close()
            return "zip"
    except (OSError, zipfile.BadZipFile):  # Unreadable, or none after all: whoever reads it says so.
        return None
    return next((name for magic, name in _PACKED.items() if beginning.startswith(magic)), None)
