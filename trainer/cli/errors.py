# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""What can go wrong on the command line, and what is said about it: one line, with the way out."""

import difflib
from collections.abc import Iterable


SUCCEEDED, FAILED, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130


class CommandError(Exception):
    """The command cannot do what it was asked for; the message says why and what to do."""


class UsageError(CommandError):
    """The command was called in a way that it does not understand."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A question to append to a message, or nothing if no known word is near."""
    nearest = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean {nearest[0]!r}?" if nearest else ""


def explain(error: BaseException) -> str:
    """An exception of any library in one line."""
    if type(error).__name__ == "DatasetGenerationError" and error.__cause__ is not None:
        error = error.__cause__  # What `datasets` says of it is only that there was one.
    message = " ".join(str(error).split())
    kind = type(error).__name__
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return f"The Hub refuses access ({status}): {message} Log in with `hf auth login`, or set HF_TOKEN."
    if "OfflineMode" in f"{kind} {message}":
        return f"{message} HF_HUB_OFFLINE=1 is set: unset it to reach the Hub, or name what is on this machine."
    if kind == "OutOfMemoryError" or "out of memory" in message.lower():
        return f"{message} Lower the batch size."
    # These are raised with a sentence by us and by the libraries; others are named, since they may be anything.
    speaks = isinstance(error, (CommandError, ValueError, OSError, ImportError, FloatingPointError, TypeError))
    return message if speaks and message else f"{kind}: {message} (--debug shows where)"
