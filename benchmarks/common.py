# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""What the benchmarks share: memory of a process, work in a process of its own, and result files that say all."""

import json
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers


RESULTS = Path(__file__).parent / "results"


def resident(name: str) -> int:
    """`VmRSS`, the resident memory of this process in bytes, or `VmHWM`, the highest it has been."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def forget_peak() -> None:
    """Sets `VmHWM` back to the present value."""
    Path("/proc/self/clear_refs").write_text("5")


def in_process(script: str, *command: str) -> dict:
    """What a script prints, as JSON in its last line, in a process of its own."""
    done = subprocess.run(
        [sys.executable, script, *command], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def table(head: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1) -> list[str]:
    """A table in Markdown, whose first columns are text and the others numbers."""
    return [
        "| " + " | ".join(head) + " |",
        "|---" * text_columns + "|---:" * (len(head) - text_columns) + "|",
        *("| " + " | ".join(row) + " |" for row in rows),
    ]


def write_results(script: str, title: str, lines: Sequence[str], threads: int) -> None:
    """Writes `results/NAME.md` for a script `NAME.py`: command, lines, machine and versions; and prints it."""
    text = "\n".join(
        [
            f"# {title}",
            "",
            f"`{shlex.join(['python', f'benchmarks/{Path(sys.argv[0]).name}', *sys.argv[1:]])}`",
            "",
            *lines,
            "",
            f"{threads} thread{'s' * (threads > 1)} of {processor_name()}. Python {platform.python_version()}, torch "
            f"{torch.__version__}, transformers {transformers.__version__}.",
            "",
        ]
    )
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{Path(script).stem}.md").write_text(text)
    print(text)


def processor_name() -> str:
    """The processor as the kernel names it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
