# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""What a command says: results on stdout, everything else on stderr, or one JSON document and nothing else."""

import contextlib
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from ..text import escaped_json, printable, without_secrets


class Output:
    """
    Where a command writes. It holds the real stdout: while a command runs, what libraries print goes to stderr.

    Args:
        as_json (`bool`, *optional*, defaults to `False`):
            Whether stdout gets one JSON document, the result, and nothing else.
        quiet (`bool`, *optional*, defaults to `False`):
            Whether to say nothing but the result: no progress bars, no remarks, no warnings of libraries.
    """

    def __init__(self, as_json: bool = False, quiet: bool = False):
        self.as_json = as_json
        self.quiet = quiet
        self.stdout: TextIO = sys.stdout
        # One of several processes speaks for all.
        self.speaks = int(os.environ.get("RANK", 0)) == 0

    @property
    def show_progress(self) -> bool:
        """Whether there is somebody to look at a progress bar."""
        return self.speaks and not self.quiet and sys.stderr.isatty()

    def say(self, text: str) -> None:
        """A remark on what happens."""
        if self.speaks and not self.quiet:
            sys.stderr.write(f"{printable(without_secrets(text))}\n")
            sys.stderr.flush()

    def result(self, text: str, document: Any) -> None:
        """What the command was called for: as text for people, or as a document for programs."""
        if not self.speaks:
            return
        if self.as_json:
            self.stdout.write(_json(document) + "\n")
        elif text:
            self.stdout.write(printable(text.rstrip("\n")) + "\n")
        self.stdout.flush()

    @staticmethod
    def write(file: Path, document: Any) -> None:
        """The same document into a file."""
        file.write_text(_json(document) + "\n", encoding="utf-8")

    def failure(self, command: str, message: str) -> None:
        """Why the command did not do what it was called for."""
        if not self.speaks:
            return
        message = without_secrets(message)
        sys.stderr.write(f"{command}: error: {printable(message)}\n")
        if self.as_json:
            self.stdout.write(escaped_json(json.dumps({"error": message}, ensure_ascii=False)) + "\n")
            self.stdout.flush()

    @contextlib.contextmanager
    def in_charge(self) -> Iterator[None]:
        """Nobody else writes to stdout inside, and libraries are as quiet as was asked for."""
        with contextlib.redirect_stdout(sys.stderr), _libraries(self.quiet, self.show_progress):
            yield


@contextlib.contextmanager
def _libraries(quiet: bool, show_progress: bool) -> Iterator[None]:
    """How much transformers, datasets and huggingface_hub say; afterwards as before."""
    import datasets
    import huggingface_hub.utils as hub
    from transformers.utils import logging

    levels = logging.get_verbosity(), datasets.logging.get_verbosity()
    bars = logging.is_progress_bar_enabled(), datasets.are_progress_bars_disabled(), hub.are_progress_bars_disabled()
    logging.set_verbosity(logging.ERROR if quiet else logging.WARNING)
    datasets.logging.set_verbosity(logging.ERROR if quiet else logging.WARNING)
    try:
        if not show_progress:
            logging.disable_progress_bar()
            datasets.disable_progress_bars()
            hub.disable_progress_bars()
        yield
    finally:
        logging.set_verbosity(levels[0])
        datasets.logging.set_verbosity(levels[1])
        if bars[0]:
            logging.enable_progress_bar()
        if not bars[1]:
            datasets.enable_progress_bars()
        if not bars[2]:
            hub.enable_progress_bars()


def _json(document: Any) -> str:
    return escaped_json(json.dumps(_plain(document), indent=2, allow_nan=False, ensure_ascii=False))


def _plain(value: Any) -> Any:
    """What JSON can hold: numbers that are not finite become null, paths become strings."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (str, int, bool)) else _plain_scalar(value)


def _plain_scalar(value: Any) -> Any:
    """A number of numpy or torch, or a string of anything else."""
    item = getattr(value, "item", None)
    return _plain(item()) if callable(item) and getattr(value, "size", 1) in (1, ()) else str(value)


def table(rows: Sequence[Sequence[Any]]) -> str:
    """Rows of cells, the first of them the head: first column to the left, the others to the right."""
    cells = [[cell if isinstance(cell, str) else f"{cell:,.1f}" for cell in row] for row in rows]
    widths = [max(len(row[number]) for row in cells) for number in range(len(cells[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if number == 0 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    )
