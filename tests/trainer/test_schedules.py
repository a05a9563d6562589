# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""What rises and falls over a training, moment by moment."""

import pytest

from trainer.schedules import Moment


@pytest.fixture
def moment(make_arguments):
    """A moment of a training of 100 steps, of arguments that are given by name."""

    def make(step, in_training=True, learning=True, **arguments):
        return Moment(make_arguments(**arguments), step, 100, in_training, learning)

    return make


class TestMoment:
    @pytest.mark.parametrize("warmup", [0.4, 40], ids=["share", "steps"])
    @pytest.mark.parametrize(("step", "share"), [(0, 0.0), (10, 0.25), (40, 1.0), (99, 1.0)])
    def test_ramps_rise_to_one(self, moment, warmup, step, share):
        at = moment(step, regulation_strength=3.0, distillation_weight=0.5, regulation_warmup=warmup)
        assert at.ramp(warmup) == share
        assert at.regulation_strength() == 3.0 * share
        assert at.regulation_strength(warmed_up=True) == 3.0

    @pytest.mark.parametrize("state", [{"in_training": False}, {"learning": False}], ids=str)
    def test_evaluation_sees_the_end_of_every_ramp(self, moment, state):
        warmups = {f"{name}_warmup": 0.5 for name in ("distillation", "hard_negative", "patch_selection")}
        at = moment(0, **state, distillation_weight=0.4, **warmups)
        assert (at.distillation_weight, at.hard_negative_share, at.patch_selection_share) == (0.4, 1.0, 1.0)

    def test_without_a_warmup_all_is_there_from_the_start(self, moment):
        assert moment(0).ramp(0) == 1.0

    def test_a_guide_leaves_in_training_and_is_not_asked_outside_of_it(self, moment):
        shares = [moment(step, guide_duration=0.5).guide_share for step in range(0, 100, 10)]
        assert shares[0] == 1.0 and shares == sorted(shares, reverse=True)
        assert shares[5:] == [0.0] * 5 and shares[4] > 0
        assert moment(10, learning=False).guide_share > 0
        assert moment(10, in_training=False).guide_share == 0.0

    def test_patches_go_in_tenths(self, moment):
        shares = {moment(step, patch_selection_warmup=1.0 - 1e-9).patch_selection_share for step in range(100)}
        assert shares == {tenth / 10 for tenth in range(10)}
