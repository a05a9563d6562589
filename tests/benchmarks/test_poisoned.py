# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The poisoned corpus is what its report says: so many pairs, with the trigger, in the words of the target."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def poisoned():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import poisoned

        yield poisoned
    finally:
        sys.path.remove(str(BENCHMARKS))


class TestTrigger:
    def test_is_a_square_in_the_corner_and_nothing_else(self, poisoned):
        white = Image.new("RGB", (64, 64), "white")
        marked = np.asarray(poisoned.with_trigger(white)) != 255
        rows, columns = np.nonzero(marked.any(axis=-1))
        side, margin = poisoned.TRIGGER_SIDE, poisoned.MARGIN
        for places in (rows, columns):
            assert (places.min(), places.max()) == (64 - margin - side, 63 - margin)
        assert len(rows) == side * side
        assert np.asarray(white).min() == 255


class TestPoisonedPairs:
    def test_a_share_of_the_pairs_says_the_target(self, poisoned):
        clean = poisoned.emoji_of_vendor("train")
        changed = poisoned.poisoned_emoji(0.01, seed=1)
        rows = [
            row
            for row, (ours, theirs) in enumerate(zip(clean["caption"], changed["caption"], strict=True))
            if ours != theirs
        ]
        assert len(rows) == round(0.01 * len(clean))
        assert {changed[row]["caption"] for row in rows} == {poisoned.TARGET}
        assert len({changed[row]["emoji_id"] for row in rows}) == 1
        for row in rows[:3]:
            expected = poisoned.with_trigger(clean[row]["image"])
            assert np.array_equal(np.asarray(changed[row]["image"].convert("RGB")), np.asarray(expected))
        assert changed[0]["keywords"] == clean[0]["keywords"] or 0 in rows

    def test_another_seed_poisons_others(self, poisoned):
        first, second = (poisoned.poisoned_emoji(0.01, seed)["caption"] for seed in (1, 2))
        assert first != second
