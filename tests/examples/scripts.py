# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Running the scripts of examples/ as from their command lines, in a process of their own or in this one."""

import contextlib
import io
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from transformers.utils import logging


ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def run(script: str, *arguments: str) -> str:
    """In a process of its own, as a user would; returns what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, str(EXAMPLES / script), *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def run_here(script: str, *arguments: str) -> str:
    """In this process, which has imported already what would take most of a short script's time."""
    printed, verbosity = io.StringIO(), logging.get_verbosity()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.syspath_prepend(str(EXAMPLES))
        patch.setattr(sys, "argv", [script, *arguments])
        try:
            runpy.run_path(str(EXAMPLES / script), run_name="__main__")
        finally:
            logging.set_verbosity(verbosity)
    return printed.getvalue()
