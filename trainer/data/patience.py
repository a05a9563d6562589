# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Remote files are waited for, but not for ever, and read on from the same place after a fault."""

from collections.abc import Mapping, Sequence
from typing import IO, Any

from datasets import DownloadConfig
from datasets.utils.file_utils import xopen
from fsspec.core import strip_protocol
from fsspec.utils import get_protocol


# Seconds: to connect to a web server, and without a byte from it. By default `aiohttp` gives a request five minutes in
# all, which is long for one that stalls and short for one that is slow.
CONNECT_TIMEOUT = 30.0
READ_TIMEOUT = 60.0


def open_to_read(path: str, storage_options: Mapping[str, Any]) -> IO[bytes]:
    """
    Opens a file, wherever `fsspec` finds it. A remote read that fails or stalls is repeated from the same place, as
    `datasets` does: up to 20 times, every 5 seconds (`datasets.config.STREAMING_READ_MAX_RETRIES`).

    Args:
        path (`str`): Path or URL.
        storage_options (mapping): For `fsspec`.
    """
    if get_protocol(path) in ("file", "local"):
        return open(strip_protocol(path), "rb")
    options = within_limits([path], storage_options)
    token = options.pop("token", None) if path.startswith("hf://") else None
    return xopen(path, "rb", download_config=DownloadConfig(token=token, storage_options=options))


def within_limits(paths: Sequence[str], storage_options: Mapping[str, Any]) -> dict[str, Any]:
    """
    Options for `fsspec` by which web servers are not waited for longer than [`CONNECT_TIMEOUT`] and [`READ_TIMEOUT`],
    if the options do not say otherwise. (What reads the Hub and object stores has limits of its own.)

    Args:
        paths (sequence of `str`): What is read with them.
        storage_options (mapping): The options so far.
    """
    if not any(path.startswith(("http://", "https://")) for path in paths):
        return dict(storage_options)
    from aiohttp import ClientTimeout  # which `fsspec` needs for the web too, and nobody else

    timeout = ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT, sock_read=READ_TIMEOUT)
    return {**storage_options, "client_kwargs": {"timeout": timeout, **storage_options.get("client_kwargs", {})}}
