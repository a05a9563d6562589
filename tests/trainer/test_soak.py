# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The campaign of kills, in short: `make soak` runs the whole of it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform != "linux", reason="the campaign forks, and shares memory with its forks")
def test_a_training_that_is_killed_and_resumed_is_the_undisturbed_one(tmp_path):
    """While starting, training, saving and pushing, three times in all; logs, weights and commits are compared."""
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "soak.py", "--quick"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "killed 3 times" in done.stdout
    assert re.findall(r"differs from[^:]*: (\d+)\.", done.stdout) == ["0", "0"]
    assert re.search(r"[1-9]\d* commits were pushed; 0 do not hold.* last checkpoint: 0\.", done.stdout)
    # Nothing is left behind when all is well.
    assert not list(tmp_path.glob("soak-*"))
