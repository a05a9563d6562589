# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Images by their web address: fetched within limits, a batch of them at a time."""

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any

from transformers.utils import logging

from ..retries import with_retries
from .locating import is_web_address
from .transforms import ImageDecodingError


logger = logging.get_logger(__name__)

MAX_BYTES = 32 * 2**20
TIMEOUT = 10.0
MAX_REDIRECTS = 5
ATTEMPTS = 3
THREADS = 16

_FIRST_WAIT, _LONGEST_WAIT = 0.5, 8.0
_TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}
_CHUNK = 2**16


class ImageFetchError(ImageDecodingError):
    """An image that could not be fetched from its web address."""

    reason = "image not fetched"


class _Redirects(urllib.request.HTTPRedirectHandler):
    """To web addresses only, and not for ever."""

    max_redirections = MAX_REDIRECTS

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if not is_web_address(newurl):
            raise ImageFetchError(f"redirected to {newurl!r:.200}, which is no web address")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """One that knows the web alone: `build_opener` would also open files, FTP and data addresses."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
        _Redirects,
    ):
        opener.add_handler(handler())
    opener.addheaders = [("User-Agent", "sacl (image-text training)"), ("Accept", "image/*")]
    return opener


def fetch_image(
    address: str, *, timeout: float = TIMEOUT, max_bytes: int = MAX_BYTES, attempts: int = ATTEMPTS
) -> bytes:
    """
    Fetches the file behind a web address. What may go well the next time (a timeout, a lost connection, a server that
    is busy) is tried again after half a second, then one, and so on.

    Args:
        address (`str`):
            Begins with `http://` or `https://`, as does every address that it redirects to, five times at most.
        timeout (`float`, *optional*, defaults to 10.0):
            Seconds for an attempt: to connect, between two parts of the answer, and in all.
        max_bytes (`int`, *optional*, defaults to 33554432):
            The largest file that is accepted; reading stops there, whatever the server announces.
        attempts (`int`, *optional*, defaults to 3):
            How often it is tried.

    Returns:
        `bytes`: The file.

    Raises:
        ImageFetchError: The address is not of the web, the server refuses, or the file is too large or too slow.

    Example:

    ```python
    >>> content = fetch_image("https://images.cocodataset.org/val2017/000000039769.jpg")
    ```
    """
    if not is_web_address(address):
        raise ImageFetchError(f"{address!r:.200} is no web address")
    try:
        return with_retries(
            lambda: _fetch_once(address, timeout, max_bytes),
            f"Fetching {address:.200}",
            attempts=attempts,
            wait_after=_wait_after,
            log=logger.info,
        )
    except ImageFetchError:
        raise
    # Whatever a server answers, it costs this image and nothing else.
    except Exception as error:
        raise ImageFetchError(f"{type(error).__name__}: {error} ({address:.200})") from error


def _fetch_once(address: str, timeout: float, max_bytes: int) -> bytes:
    deadline = time.monotonic() + timeout
    with _opener().open(address, timeout=timeout) as answer:
        parts, size = [], 0
        # `read1` returns what has come; `read` would wait for a whole part of a server that sends byte by byte.
        while part := answer.read1(_CHUNK):
            size += len(part)
            if size > max_bytes:
                raise ImageFetchError(f"larger than {max_bytes} bytes ({address:.200})")
            if time.monotonic() > deadline:
                raise TimeoutError(f"not complete after {timeout:g} s")
            parts.append(part)
        announced = answer.headers.get("Content-Length", "")
        if announced.isdigit() and int(announced) != size:
            raise http.client.IncompleteRead(b"", int(announced) - size)
    return b"".join(parts)


def _wait_after(error: Exception, attempt: int) -> float | None:
    wait = min(_FIRST_WAIT * 2 ** (attempt - 1), _LONGEST_WAIT)
    if isinstance(error, urllib.error.HTTPError):
        if error.code not in _TRANSIENT_STATUS:
            return None
        asked = error.headers.get("Retry-After", "") if error.headers else ""
        return min(max(wait, float(asked)), _LONGEST_WAIT) if asked.isdigit() else wait
    return wait if isinstance(error, (OSError, http.client.HTTPException)) else None


def fetched(rows: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """
    Fetches the images of rows that have a web address in their place, several at a time.

    Args:
        rows (sequence of mappings):
            Rows whose `image` may be `{"bytes": None, "path": "https://..."}` or an address.

    Returns:
        The rows, in their order, with the file as `bytes`. One that could not be fetched has an [`ImageFetchError`] in
        its place, which [`decode_image`] raises: the pair is left out and counted, as any that cannot be read.
    """
    wanted = {index: address for index, row in enumerate(rows) if (address := _address(row.get("image"))) is not None}
    if not wanted:
        return rows
    addresses = list(dict.fromkeys(wanted.values()))
    with ThreadPoolExecutor(min(THREADS, len(addresses))) as pool:
        images = dict(zip(addresses, pool.map(_image_or_error, addresses), strict=True))
    return [{**row, "image": images[wanted[index]]} if index in wanted else row for index, row in enumerate(rows)]


def _address(image: Any) -> str | None:
    if isinstance(image, Mapping) and image.get("bytes") is None:
        image = image.get("path")
    return image if isinstance(image, str) and is_web_address(image) else None


def _image_or_error(address: str) -> dict[str, Any] | ImageFetchError:
    try:
        return {"bytes": fetch_image(address), "path": address}
    except ImageFetchError as error:
        return error
