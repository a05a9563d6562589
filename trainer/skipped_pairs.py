# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Pairs that a training leaves out: counted by reason, listed with their ids, and no more of them than allowed."""

import json
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch
from accelerate.utils import gather_object
from transformers.utils import logging

from .data.pairs import hash_63_bits
from .data.usable import SKIPPED_PAIRS, SkippedPair, summary
from .distributed import world_size


logger = logging.get_logger(__name__)

LIST_NAME = "skipped_pairs.jsonl"

# Of as many pairs one after another, `max_skipped_ratio` is taken.
WINDOW = 1000

# The list ends here: at some 100 bytes of memory for each, and 200 on the disk, for data that is mostly sound.
MAX_LISTED = 1_000_000


def take_skipped(inputs: dict[str, Any]) -> list[SkippedPair]:
    """Takes out of a batch what was left out of it, if its collator says so: a model knows nothing of that."""
    return inputs.pop(SKIPPED_PAIRS, [])


def counts_by_reason(skipped: Iterable[SkippedPair]) -> dict[str, int]:
    """How many pairs of all processes were left out for which reason, under the names of metrics."""
    return as_metrics(Counter(pair.reason for pair in _of_all(skipped)))


def as_metrics(counts: Mapping[str, int], prefix: str = "") -> dict[str, int]:
    """Counts by reason under the names of metrics: `"skipped/unreadable_image"`."""
    return {f"{prefix}skipped/{reason.replace(' ', '_')}": count for reason, count in sorted(counts.items())}


def _of_all(skipped: Iterable[Any]) -> list[Any]:
    return gather_object(list(skipped)) if world_size() > 1 else list(skipped)


class SkippedPairs:
    """
    What a training has left out, in all processes and since its first step, whatever interrupted it.

    Args:
        max_ratio (`float`):
            Largest share of the pairs looked at that may be left out, in [0, 1], taken over the last 1000 of each
            process.
        folder (`str` or `os.PathLike`, *optional*):
            Where this process keeps the list `skipped_pairs.jsonl`, if it is the one that does.
    """

    def __init__(self, max_ratio: float, folder: Any = None):
        self.max_ratio = max_ratio
        # In all processes, by reason: since the start of the run, and of these what the log has.
        self.totals: Counter[str] = Counter()
        self._logged: Counter[str] = Counter()
        self._list = None if folder is None else _PairList(Path(folder) / LIST_NAME)
        self._fresh: list[tuple[int, SkippedPair]] = []
        self._window: deque[tuple[int, list[SkippedPair]]] = deque()

    def start(self, resumed: bool) -> None:
        """Forgets the pairs of another run; a resumed one goes on with its list and its counts."""
        self._fresh.clear()
        self._window.clear()
        if not resumed:
            self.totals.clear()
            self._logged.clear()
        if self._list is not None:
            self._list.open(resumed)

    def count(self, num_used: int, skipped: list[SkippedPair], step: int) -> None:
        """
        Takes in what was left out of a batch.

        Raises:
            ValueError: if too many of the last pairs were left out. The message has the commonest reasons.
        """
        self._fresh.extend((step, pair) for pair in skipped)
        self._window.append((num_used + len(skipped), skipped))
        looked_at = sum(number for number, _ in self._window)
        while looked_at - self._window[0][0] >= WINDOW:
            looked_at -= self._window.popleft()[0]
        recent = [pair for _, pairs in self._window for pair in pairs]
        # Early, if the rest of the window cannot change it.
        if len(recent) > self.max_ratio * max(looked_at, WINDOW):
            self._write(self._fresh)
            listed = "" if self._list is None else f" {self._list.path} lists them."
            raise ValueError(
                f"{len(recent)} of the last {looked_at} pairs were left out, more than `max_skipped_ratio="
                f"{self.max_ratio}` of {max(looked_at, WINDOW)} allows: {summary(recent)}.{listed} Mend the data, or "
                "raise `max_skipped_ratio`."
            )

    def flush(self) -> None:
        """Adds up over processes, and lists. All of them have to call it."""
        fresh, self._fresh = _of_all(self._fresh), []
        self.totals.update(pair.reason for _, pair in fresh)
        self._write(fresh)

    def _write(self, fresh: list[tuple[int, SkippedPair]]) -> None:
        if self._list is not None:
            self._list.add(fresh)

    def since_last_log(self) -> dict[str, int]:
        """Metrics: for each reason met so far, how many pairs were left out since this was last asked."""
        self.flush()
        counts = {reason: total - self._logged[reason] for reason, total in self.totals.items()}
        self._logged = self.totals.copy()
        return as_metrics(counts)

    def of_training(self) -> dict[str, int]:
        """Metrics: how many pairs were left out since the start of the run."""
        self.flush()
        return as_metrics(self.totals, "train_")

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The counts, for a checkpoint. All processes have to ask for them."""
        self.flush()
        counts = {"total": self.totals, "logged": self._logged}
        return {
            f"{kind}.{reason}": torch.tensor(count)
            for kind, found in counts.items()
            for reason, count in found.items()
        }

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """The counts of a checkpoint; none, of one that knows none."""
        for kind, found in (("total", self.totals), ("logged", self._logged)):
            found.clear()
            start = f"{kind}."
            found.update(
                {name.removeprefix(start): int(value) for name, value in state.items() if name.startswith(start)}
            )


class _PairList:
    """A file of JSON lines, in which a pair stands once for each reason. That it cannot be written stops nothing."""

    def __init__(self, path: Path):
        self.path = path
        self._known: set[int] = set()
        self._is_open = False

    def open(self, resumed: bool) -> None:
        """Goes on with the list of an interrupted run, or starts anew."""
        self._known.clear()
        self._is_open = True
        try:
            if not resumed:
                self.path.unlink(missing_ok=True)
            elif self.path.exists():
                with open(self.path, "r+b") as file:
                    self._read(file)
        except OSError as error:
            self._give_up(error)

    def _read(self, file: BinaryIO) -> None:
        whole = 0
        for line in file:
            if not line.endswith(b"\n"):
                # Cut short; its pair comes again.
                file.truncate(whole)
                return
            whole += len(line)
            with suppress(ValueError, TypeError, KeyError, RecursionError):
                entry = json.loads(line)
                if isinstance(entry["reason"], str):
                    self._known.add(_key(entry["pair_id"], entry["reason"]))

    def add(self, fresh: Iterable[tuple[int, SkippedPair]]) -> None:
        """Appends those that are new."""
        lines = []
        for step, pair in fresh:
            key = _key(pair.pair_id, pair.reason)
            if key in self._known or len(self._known) >= MAX_LISTED:
                continue
            self._known.add(key)
            lines.append(json.dumps({**pair._asdict(), "step": step}) + "\n")
            if len(self._known) == MAX_LISTED:
                logger.warning(f"{self.path} lists {MAX_LISTED:,} pairs. More are counted, but no longer listed.")
        if not lines or not self._is_open:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a", encoding="utf-8") as file:
                file.write("".join(lines))
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self._is_open = False
        logger.warning(f"Pairs that are left out are counted, but not listed in {self.path}: {error}")


def _key(pair_id: Any, reason: str) -> int:
    return hash_63_bits(repr(pair_id).encode("utf-8", "surrogatepass"), reason.encode())
