# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Scalars between two lines of the log."""

import pytest
import torch

from trainer.curves import Curves


@pytest.fixture
def curves():
    return Curves(torch.device("cpu"))


class TestCurves:
    def test_means_are_of_what_came_since_the_last_line(self, curves):
        for value in (1.0, 2.0, 6.0):
            curves.record({"loss": torch.tensor(value, requires_grad=True)})
        curves.record({"accuracy": torch.tensor(0.5, dtype=torch.float64)})
        assert curves.drain("train") == {"accuracy": 0.5, "loss": 3.0}
        assert curves.drain("train") == {}

    def test_evaluation_is_apart(self, curves):
        curves.record({"loss": torch.tensor(1.0)})
        curves.record({"loss": torch.tensor(5.0)}, training=False)
        assert curves.drain("eval") == {"loss": 5.0}
        assert curves.drain("train") == {"loss": 1.0}

    def test_what_has_no_meaning_for_a_batch_does_not_count(self, curves):
        for value in (float("nan"), 4.0):
            curves.record({"weights": torch.tensor(value), "never": torch.tensor(float("nan"))})
        assert curves.drain("train") == {"weights": 4.0}

    def test_a_state_goes_on_where_it_was(self, curves):
        other = Curves(torch.device("cpu"))
        other.record({"forgotten": torch.tensor(1.0)})
        for value in (1.0, 2.0):
            curves.record({"loss": torch.tensor(value)})
        other.load_state_dict(curves.state_dict())
        for each in (curves, other):
            each.record({"loss": torch.tensor(9.0)})
            assert each.drain("train") == {"loss": 4.0}
