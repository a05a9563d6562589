# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""What befalls a training from outside, in words: workers that die or stall, full disks, clocks that are set."""

import errno
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers.trainer_utils import speed_metrics


# Data workers ----------------------------------------------------------------------------------------------------

_DEAD_WORKER = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (.+)")
_STALLED_WORKER = re.compile(r"DataLoader timed out after ([\d.]+) seconds")


def limit_waiting(dataloader: Any, seconds: int) -> Any:
    """
    Has a data loader with workers wait for a batch so long at most, and returns it. Without workers nobody could stop
    the reading, so nothing changes.

    Args:
        dataloader ([`~torch.utils.data.DataLoader`]): As `accelerate` has prepared it.
        seconds (`int`): 0 waits for ever.
    """
    # accelerate wraps the loader that it makes.
    loader = getattr(dataloader, "base_dataloader", dataloader)
    if loader.num_workers > 0:
        loader.timeout = seconds
    return dataloader


@contextmanager
def data_faults_explained(way_out: Callable[[], str]) -> Iterator[None]:
    """
    Inside, torch's errors about data workers become such as say what it means.

    Args:
        way_out (`Callable`): What to do about it, asked for when it has happened.

    Raises:
        ChildProcessError: if a worker has died.
        TimeoutError: if a worker has not delivered in time.
    """
    try:
        yield
    except RuntimeError as error:
        # The first to be raised knows most: by which signal, if by any.
        deaths = [died for message in _messages(error) if (died := _DEAD_WORKER.match(message))]
        if deaths:
            raise ChildProcessError(f"{_death(*deaths[-1].groups())} {way_out()}".rstrip()) from error
        if stalled := _STALLED_WORKER.match(str(error)):
            raise TimeoutError(f"{_stall(stalled[1])} {way_out()}".rstrip()) from error
        raise


def _messages(error: BaseException | None) -> Iterator[str]:
    """Of an error and of those that it came from, the first to be raised last."""
    while error is not None:
        yield str(error)
        error = error.__cause__ or error.__context__


def _death(pids: str, how: str) -> str:
    cause = "The error above it in the output, if any, says why; `dataloader_num_workers=0` shows it here."
    if "Killed" in how:
        cause = (
            "Somebody or something has killed it: on Linux most often the kernel, when memory runs out (`dmesg` says "
            "so); lower `dataloader_num_workers` or `dataloader_prefetch_factor` then."
        )
    elif "Bus error" in how:
        cause = (
            "Shared memory (/dev/shm) has run out: enlarge it (`docker run --shm-size`), or lower "
            "`dataloader_num_workers`."
        )
    return f"A data worker (process {pids.strip()}) {how.split('.')[0].strip()}. {cause}"


def _stall(seconds: str) -> str:
    return (
        f"The data workers have not delivered a batch for {float(seconds):g} s (`dataloader_timeout`): a read has "
        "stalled, of a network file system or a remote source, or preparing a batch takes that long. If it is meant "
        "to, raise `dataloader_timeout`."
    )


# Disks -----------------------------------------------------------------------------------------------------------

_FULL = {errno.ENOSPC, errno.EDQUOT}
_FULL_IN_WORDS = ("No space left on device", "Disk quota exceeded")
_PROBE_SIZE = 1 << 20


def is_disk_full(error: BaseException, folder: str | os.PathLike) -> bool:
    """
    Whether an error in writing to a folder comes from a full disk, or a quota that is used up.

    Libraries that write without Python's taking notice (torch) do not say why they failed. So where the error does
    not say it, a file of 1 MiB is tried.
    """
    if getattr(error, "errno", None) in _FULL or any(words in str(error) for words in _FULL_IN_WORDS):
        return True
    try:
        with tempfile.TemporaryFile(dir=os.fspath(folder)) as probe:
            probe.write(bytes(_PROBE_SIZE))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as probed:
        return probed.errno in _FULL
    return False


@contextmanager
def removed_if_disk_is_full(folder: str | os.PathLike, explain: Callable[[int], str]) -> Iterator[None]:
    """
    Inside, a folder is written; if the disk has no room for it, what was written goes, and an error says so.

    Args:
        folder (`str` or `os.PathLike`): The folder.
        explain (`Callable`): The message, from the bytes that were free before.

    Raises:
        OSError: with `errno.ENOSPC`, if the disk is full.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    try:
        yield
    except Exception as error:
        if not is_disk_full(error, folder):
            raise
        shutil.rmtree(folder, ignore_errors=True)
        raise OSError(errno.ENOSPC, explain(free)) from error


def size_of(folder: str | os.PathLike) -> int:
    """Bytes of the files of a folder."""
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())


# Clocks ----------------------------------------------------------------------------------------------------------


class SteadyClock:
    """A stop watch that does not notice when the time of the machine is set, and knows by how much it was."""

    # What the two clocks may differ by of themselves.
    TOLERANCE = 1.0

    def __init__(self):
        self._wall, self._steady = time.time(), time.monotonic()

    def seconds(self) -> float:
        """Since it was made."""
        return time.monotonic() - self._steady

    def jump(self) -> float:
        """By how many seconds the time of the machine was set forward meanwhile; 0.0 if it was not."""
        jump = time.time() - self._wall - self.seconds()
        return jump if abs(jump) > self.TOLERANCE else 0.0

    def correct(self, metrics: dict[str, float], prefix: str, num_samples: float, num_steps: float) -> None:
        """
        Puts right, in place, the runtime and the rates that [`~transformers.trainer_utils.speed_metrics`] has written
        if the clock was set meanwhile.
        """
        if f"{prefix}_runtime" in metrics and self.jump():
            metrics.update(speed_metrics(prefix, time.time() - self.seconds(), num_samples, num_steps))
