# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Patience with the Hub: what may go well the next time is tried again, a few times, and what may not is not."""

import time
from collections.abc import Callable
from typing import TypeVar

from huggingface_hub.errors import BadRequestError, HfHubHTTPError, HTTPError
from transformers.utils import logging


logger = logging.get_logger(__name__)

ATTEMPTS = 4
FIRST_WAIT = 2.0
LONGEST_WAIT = 300.0

# 412 is another commit in between, which is no conflict of files here: what is pushed is whole.
_TRANSIENT_STATUS = {408, 412, 425, 429, 500, 502, 503, 504}

Result = TypeVar("Result")


def with_retries(
    ask: Callable[[], Result],
    what: str,
    *,
    attempts: int = ATTEMPTS,
    wait_after: Callable[[Exception, int], float | None] | None = None,
    log: Callable[[str], None] = logger.warning,
) -> Result:
    """
    Asks the Hub, or another server, up to four times.

    `huggingface_hub` itself repeats uploads and downloads of files, but not the requests that create a repository, a
    branch or a commit, because it cannot know whether they were carried out when the answer is lost. So `ask` must be
    such that it may be repeated.

    Args:
        ask (`Callable`): What asks the Hub.
        what (`str`): What is going on, for the log.
        attempts (`int`, *optional*, defaults to 4): How often it is asked.
        wait_after (`Callable`, *optional*): Makes, of an error and the number of the attempt, the seconds to wait, or
            `None` if there is no point in another. By default what is right for the Hub.
        log (`Callable`, *optional*): What is told of another attempt. By default a warning.

    Raises:
        Exception: the last error, if none of the attempts went well; at once, if it is none that passes (a missing
            permission, a repository that is not there).
    """
    for attempt in range(1, attempts + 1):
        try:
            return ask()
        except Exception as error:
            wait = (wait_after or _wait_after)(error, attempt)
            if wait is None or attempt == attempts:
                raise
            log(f"{what} failed: {_first_line(error)} Trying again in {wait:g} s ({attempt}/{attempts}).")
            time.sleep(wait)
    raise AssertionError("unreachable")


def _wait_after(error: Exception, attempt: int) -> float | None:
    """How long to wait before the next attempt, `None` if there is no point in one."""
    wait = FIRST_WAIT * 2 ** (attempt - 1)
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, HTTPError):
        # That of a single file's upload. A bad request is a hash that does not agree: the file was damaged on its way.
        return wait if isinstance(error.__cause__, BadRequestError) else _wait_after(error.__cause__, attempt)
    if isinstance(error, HfHubHTTPError):
        if error.response.status_code not in _TRANSIENT_STATUS:
            return None
        asked = error.response.headers.get("Retry-After", "")
        return min(max(wait, float(asked)), LONGEST_WAIT) if asked.isdigit() else wait
    return wait if isinstance(error, HTTPError) else None


def _first_line(error: Exception) -> str:
    lines = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
    return f"{lines[0].strip().rstrip('.')}."
