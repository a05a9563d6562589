# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The feature queue against Python's own `deque(maxlen=...)`."""

from collections import deque

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from trainer import FeatureQueue


def rows(start, count):
    """Pairs whose embeddings say which pair they are: pair 7 has the image (7, 0.5) and the text (-7, 0.25, 1)."""
    pair_ids = torch.arange(start, start + count)
    numbers = pair_ids.float()[:, None]
    image_embeds = torch.cat([numbers, torch.full((count, 1), 0.5)], dim=1)
    text_embeds = torch.cat([-numbers, torch.full((count, 1), 0.25), torch.ones(count, 1)], dim=1)
    return image_embeds, text_embeds, pair_ids


def filled(size, *counts):
    """A queue and its model after batches of the given sizes."""
    queue, model, start = FeatureQueue(size), deque(maxlen=size), 0
    for count in counts:
        queue.enqueue(*rows(start, count))
        model.extend(range(start, start + count))
        start += count
    return queue, model


def assert_holds(queue, expected):
    """The queue holds these pairs, each with its own embeddings, and nothing else."""
    expected = list(expected)
    assert len(queue) == len(expected)
    features = queue.features()
    if not expected:
        assert features is None
        return
    assert sorted(features.pair_ids.tolist()) == sorted(expected)
    order = features.pair_ids.argsort()
    for ours, theirs in zip(features, zip(*(rows(pair, 1) for pair in sorted(expected)), strict=True), strict=True):
        assert torch.equal(ours[order], torch.cat(theirs))


def by_age(queue):
    """The pairs from the oldest to the newest, found by pushing them out one at a time."""
    features = queue.features()
    copy = FeatureQueue(queue.size)
    copy.load_state_dict({name: tensor.clone() for name, tensor in queue.state_dict().items()})
    for _ in range(queue.size - len(queue)):
        copy.enqueue(*rows(-1, 1))
    ages, left = [], set(features.pair_ids.tolist())
    while left:
        copy.enqueue(*rows(-1, 1))
        gone = left - set(copy.features().pair_ids.tolist())
        assert len(gone) == 1
        ages += gone
        left -= gone
    return ages


SIZES = st.integers(1, 9)
BATCHES = st.lists(st.integers(0, 13), max_size=7)


class TestFeatureQueue:
    @given(size=SIZES, counts=BATCHES)
    @settings(max_examples=150, deadline=None)
    def test_holds_the_last_pairs_whatever_the_sizes(self, size, counts):
        queue, model = FeatureQueue(size), deque(maxlen=size)
        start = 0
        for count in counts:
            queue.enqueue(*rows(start, count))
            model.extend(range(start, start + count))
            start += count
            assert_holds(queue, model)

    @given(size=SIZES, counts=st.lists(st.integers(1, 13), min_size=1, max_size=5))
    @settings(max_examples=60, deadline=None)
    def test_the_oldest_leave_first(self, size, counts):
        queue, model = filled(size, *counts)
        assert by_age(queue) == list(model)

    def test_is_empty_at_first(self):
        queue = FeatureQueue(3)
        assert len(queue) == 0
        assert queue.features() is None
        assert queue.state_dict() == {}

    def test_counts_only_what_is_filled(self):
        queue, _ = filled(100, 4)
        features = queue.features()
        assert [tensor.shape for tensor in features] == [(4, 2), (4, 3), (4,)]
        assert features.pair_ids.tolist() == [0, 1, 2, 3]

    def test_of_a_batch_larger_than_the_queue_the_last_stay(self):
        queue, _ = filled(3, 2, 10)
        assert_holds(queue, [9, 10, 11])
        assert by_age(queue) == [9, 10, 11]

    def test_an_empty_batch_changes_nothing(self):
        queue, model = filled(5, 3)
        queue.enqueue(*rows(50, 0))
        assert_holds(queue, model)

    def test_keeps_no_gradient_and_the_dtype(self):
        queue = FeatureQueue(4)
        image_embeds, text_embeds, pair_ids = rows(0, 3)
        queue.enqueue(image_embeds.bfloat16().requires_grad_(), text_embeds.bfloat16().requires_grad_(), pair_ids)
        features = queue.features()
        assert not features.image_embeds.requires_grad and not features.text_embeds.requires_grad
        assert features.image_embeds.dtype == features.text_embeds.dtype == torch.bfloat16
        assert features.pair_ids.dtype == torch.int64

    def test_does_not_hold_on_to_the_batch(self):
        image_embeds, text_embeds, pair_ids = rows(0, 3)
        queue = FeatureQueue(4)
        queue.enqueue(image_embeds, text_embeds, pair_ids)
        image_embeds.zero_(), text_embeds.zero_(), pair_ids.zero_()
        assert_holds(queue, [0, 1, 2])

    def test_keeps_large_pair_ids_exactly(self):
        identifiers = torch.tensor([2**63 - 1, -(2**63), 2**53 + 1])
        queue = FeatureQueue(5)
        queue.enqueue(torch.ones(3, 2), torch.ones(3, 2), identifiers)
        assert torch.equal(queue.features().pair_ids, identifiers)

    @pytest.mark.parametrize("lengths", [(3, 2, 2), (2, 3, 2), (2, 2, 3)])
    def test_lengths_that_do_not_fit_raise_and_change_nothing(self, lengths):
        queue, model = filled(5, 2)
        parts = [rows(10, length)[position] for position, length in enumerate(lengths)]
        with pytest.raises(ValueError, match=f"{list(lengths)}".replace("[", r"\[").replace("]", r"\]")):
            queue.enqueue(*parts)
        assert_holds(queue, model)

    @pytest.mark.parametrize("size", [0, -5])
    def test_impossible_size_raises(self, size):
        with pytest.raises(ValueError, match=str(size)):
            FeatureQueue(size)


class TestFeatureQueueState:
    @given(size=SIZES, before=BATCHES, after=BATCHES)
    @settings(max_examples=80, deadline=None)
    def test_a_restored_queue_continues_bit_for_bit(self, size, before, after):
        queue, _ = filled(size, *before)
        restored = FeatureQueue(size)
        restored.load_state_dict({name: tensor.clone() for name, tensor in queue.state_dict().items()})
        start = sum(before)
        for count in [0, *after]:
            for each in (queue, restored):
                each.enqueue(*rows(start, count))
            start += count
            ours, theirs = queue.state_dict(), restored.state_dict()
            if len(queue):
                assert ours.keys() == theirs.keys()
                assert all(torch.equal(ours[name], theirs[name]) for name in ours)
            else:
                assert len(restored) == 0

    @given(size=SIZES, new_size=SIZES, before=BATCHES, after=BATCHES)
    @settings(max_examples=80, deadline=None)
    def test_a_queue_of_another_size_keeps_the_latest(self, size, new_size, before, after):
        queue, model = filled(size, *before)
        restored = FeatureQueue(new_size)
        restored.load_state_dict(queue.state_dict())
        model = deque(model, maxlen=new_size)
        assert_holds(restored, model)
        start = sum(before)
        for count in after:
            restored.enqueue(*rows(start, count))
            model.extend(range(start, start + count))
            start += count
            assert_holds(restored, model)

    def test_state_survives_a_file(self, tmp_path):
        queue, model = filled(7, 3, 6)
        save_file(queue.state_dict(), tmp_path / "queue.safetensors")
        restored = FeatureQueue(7)
        restored.load_state_dict(load_file(tmp_path / "queue.safetensors"))
        assert_holds(restored, model)
        assert by_age(restored) == list(model)

    def test_an_empty_state_empties_the_queue(self):
        queue, _ = filled(7, 3)
        queue.load_state_dict({})
        assert len(queue) == 0 and queue.features() is None
