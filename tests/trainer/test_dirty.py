# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Dirty pairs in training, evaluation and embedding: used rightly, or left out, counted and replaced."""

import itertools
import json
import time
from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from trainer import PairCollator
from trainer.data import SeededPairs, SeededStream, UsablePairs, UsableStream, decode_image
from trainer.data.collator import GUIDE_COLUMNS
from trainer.data.usable import MAX_UNUSABLE_IN_A_ROW, ReadRow, SkippedPair, UnusablePair, summary

from .dirty_corpus import (
    LEFT,
    RIGHT,
    bomb,
    captions,
    corpus,
    images,
    sound_pairs,
    to_dataset,
)


USABLE = {name for name, pair in corpus().items() if pair.reason is None}


class Rows(torch.utils.data.Dataset):
    """Numbered rows of which some cannot be used, and a collator that says so: no images, no text, only the rules."""

    def __init__(self, length, bad):
        self.rows = [{"pair_id": number, "is_bad": number in bad} for number in range(length)]
        self.fetched = Counter()

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        self.fetched[index] += 1
        return dict(self.rows[index])

    @staticmethod
    def read(row):
        if row["is_bad"]:
            raise UnusablePair("badness", "as bad as can be")
        return ReadRow(row, (row["pair_id"],))


def batches_of(loader):
    return [
        ([row["pair_id"] for row in rows], [pair.pair_id for row in rows for pair in row.skipped]) for rows in loader
    ]


def load(rows, batch_size=4, workers=0, epoch=0, seed=0, fill=True):
    seeded = SeededPairs(rows, seed)
    seeded.start_epoch(epoch)
    loader = DataLoader(UsablePairs(seeded, rows, fill), batch_size, collate_fn=lambda rows: rows, num_workers=workers)
    return batches_of(loader)


class TestUsablePairs:
    bad = {1, 2, 9, 15, 16, 17, 18, 19}

    def test_batches_keep_their_size_and_sound_rows_their_places(self):
        batches = load(Rows(20, self.bad))
        assert [len(ids) for ids, _ in batches] == [4] * 5
        for number, identifier in enumerate(itertools.chain.from_iterable(ids for ids, _ in batches)):
            assert identifier not in self.bad
            assert identifier == number or number in self.bad
        assert {pair for _, skipped in batches for pair in skipped} == self.bad

    def test_a_rest_keeps_its_size_too(self):
        assert [len(ids) for ids, _ in load(Rows(6, {5}))] == [4, 2]

    def test_neither_workers_nor_the_order_of_batches_change_anything(self):
        alone = load(Rows(20, self.bad))
        assert load(Rows(20, self.bad), workers=2) == alone
        pairs = UsablePairs(SeededPairs(Rows(20, self.bad), 0), Rows(20, self.bad))
        assert [row["pair_id"] for row in pairs.__getitems__([16, 17, 18, 19])] == alone[4][0]

    def test_every_epoch_and_seed_draws_others(self):
        drawn = {
            tuple(load(Rows(400, range(200)), 200, epoch=epoch, seed=seed)[0][0])
            for epoch, seed in [(0, 0), (1, 0), (0, 1)]
        }
        assert len(drawn) == 3

    def test_replacements_come_from_everywhere(self):
        ids = Counter(load(Rows(400, range(200)), 200)[0][0])
        assert set(ids) <= set(range(200, 400)) and len(ids) > 100  # 126 expected of 200 draws among 200
        assert max(ids.values()) < 8

    def test_what_is_left_out_is_reported_once(self):
        rows = Rows(20, self.bad)
        skipped = [pair for _, skipped in load(rows) for pair in skipped]
        assert len(skipped) == sum(rows.fetched[number] for number in self.bad)

    def test_an_evaluation_is_of_its_own_pairs(self):
        batches = load(Rows(20, self.bad), fill=False)
        assert [ids for ids, _ in batches[:4]] == [[0, 3], [4, 5, 6, 7], [8, 10, 11], [12, 13, 14]]
        # The last batch would be empty.
        assert len(batches[4][0]) == 1 and batches[4][0][0] not in self.bad
        assert batches[4][1][:4] == [16, 17, 18, 19]

    def test_without_seeds_the_number_decides(self):
        rows = Rows(20, self.bad)
        first, second = (UsablePairs(rows, rows).__getitems__([1, 2]) for _ in range(2))
        assert [row["pair_id"] for row in first] == [row["pair_id"] for row in second]
        assert UsablePairs(rows, rows)[5]["pair_id"] == 5

    def test_nothing_usable_ends(self):
        with pytest.raises(ValueError, match=rf"^{MAX_UNUSABLE_IN_A_ROW} pairs one after .* with badness \(pairs 0, "):
            load(Rows(8, range(8)))


class Stream(torch.utils.data.IterableDataset):
    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        return map(dict, self.rows.rows)


class TestUsableStream:
    def test_unusable_rows_are_passed_over_and_reported_by_the_next(self):
        rows = Rows(8, {1, 2, 5})
        loader = DataLoader(UsableStream(SeededStream(Stream(rows), 0), rows), 4, collate_fn=lambda rows: rows)
        batches = list(itertools.islice(loader, 3))
        assert batches_of(batches) == [([0, 3, 4, 6], [1, 2, 5]), ([7, 0, 3, 4], [1, 2]), ([6, 7, 0, 3], [5, 1, 2])]

    def test_nothing_usable_ends(self):
        rows = Rows(8, range(8))
        with pytest.raises(ValueError, match="1000 pairs one after another cannot be used: 1000 with badness"):
            next(iter(UsableStream(SeededStream(Stream(rows), 0), rows)))


class TestReadRow:
    def test_what_was_changed_is_read_again(self, tiny_processor):
        collator = PairCollator(tiny_processor)
        row = collator.read(to_dataset(sound_pairs(1))[0])
        assert collator.read(row) is row
        row["caption"] = "a green dog"
        assert collator.read(row) is not row and collator.read(row).parts[1] == "a green dog"
        assert collator.read({**row, "caption": "a cat"}).parts[1] == "a cat"


class TestSkippedPair:
    def test_summary_has_the_commonest_reasons_with_ids(self):
        pairs = [SkippedPair(number, "x", f"details {number}") for number in range(5)] + [SkippedPair(None, "y")]
        assert summary(pairs) == "5 with x (pairs 0, 1, 2, ...: details 0); 1 with y (no id)"
        assert summary([SkippedPair("a", "x")]) == "1 with x (pair 'a')"

    @pytest.mark.parametrize(
        ("image", "path"),
        [
            ("/data/a.png", "/data/a.png"),
            ({"bytes": b"", "path": "b.png"}, "b.png"),
            ("https://x.org/c.png?token=secret", "https://x.org/c.png"),
            (None, None),
            ({"bytes": b"", "path": None}, None),
        ],
    )
    def test_where_the_image_is(self, image, path):
        assert SkippedPair.of({"image": image, "pair_id": np.int64(3)}, UnusablePair("x")) == (3, "x", "", path)


class TestImages:
    def sides(self, name):
        pixels = np.asarray(decode_image({"bytes": images()[name].content, "path": None}))
        return pixels.shape, pixels[:, 0].mean(axis=0), pixels[:, -1].mean(axis=0)

    @pytest.mark.parametrize("name", ["cmyk", "palette", "transparent", "animated", "turned"])
    def test_what_is_unusual_looks_as_it_should(self, name):
        shape, left, right = self.sides(name)
        assert shape == (32, 48, 3)
        assert np.abs(left - LEFT).max() < 12 and np.abs(right - RIGHT).max() < 12

    def test_16_bits_are_scaled(self):
        pixels = np.asarray(decode_image({"bytes": images()["sixteen_bits"].content, "path": None}))
        assert pixels.min() == 0 and pixels.max() == 255 and 120 < pixels.mean() < 135

    @pytest.mark.parametrize("name", sorted(images()))
    def test_augmented_or_not_each_is_used_or_left_out_for_its_reason(self, tiny_processor, name):
        pair = images()[name]
        row = to_dataset({name: pair})[0]
        for collator in (PairCollator(tiny_processor), PairCollator(tiny_processor).for_training()):
            if pair.reason is None:
                assert collator([row])["pixel_values"].isfinite().all()
            else:
                with pytest.raises(UnusablePair) as problem:
                    collator.read(row)
                assert problem.value.reason == pair.reason and collator.skipped == {pair.reason: 1}

    def test_bombs_are_refused_before_they_are_decoded(self):
        for limit, side in ((None, 30_000), (10_000, 101)):
            start = time.process_time()
            with pytest.raises(ValueError, match=f"{side} ?x ?{side}|{side * side}"):
                decode_image({"bytes": bomb(side, side), "path": None}, max_pixels=limit)
            assert time.process_time() - start < 1

    def test_the_limit_is_an_argument_of_the_collator(self, tiny_processor):
        row = to_dataset(sound_pairs(1))[0]
        PairCollator(tiny_processor, max_pixels=40 * 32)([row])
        with pytest.raises(UnusablePair, match=r"too large image .*40 x 32 pixels, more than `max_pixels` \(1279\)"):
            PairCollator(tiny_processor, max_pixels=40 * 32 - 1).read(row)
        with pytest.raises(ValueError, match="`max_pixels` has to be a positive integer"):
            PairCollator(tiny_processor, max_pixels=0)


class TestCaptions:
    @pytest.mark.parametrize("name", sorted(captions()))
    def test_each_is_used_or_left_out_for_its_reason(self, tiny_processor, name):
        pair = captions()[name]
        collator = PairCollator(tiny_processor)
        row = to_dataset({name: pair})[0]
        if pair.reason is None:
            batch = collator([row])
            assert batch["input_ids"].shape[1] > 2
        else:
            with pytest.raises(UnusablePair, match=pair.reason):
                collator.read(row)

    @pytest.mark.parametrize("name", ["control_characters", "zero_width"])
    def test_what_is_invisible_does_not_count(self, tiny_processor, name):
        row = to_dataset({name: captions()[name]})[0]
        cleaned = "a red bus[31m" if name == "control_characters" else "a red bus"
        collator = PairCollator(tiny_processor)
        assert torch.equal(collator([row])["input_ids"], collator([{**row, "caption": cleaned}])["input_ids"])

    def test_long_ones_are_cut_to_what_a_short_one_would_be(self, tiny_processor):
        collator = PairCollator(tiny_processor, max_length=16)
        row = to_dataset(sound_pairs(1))[0]
        long, short = (collator([{**row, "caption": "a red bus " * times}])["input_ids"] for times in (10_000, 20))
        assert torch.equal(long, short) and long.shape == (1, 16)

    def test_time_does_not_grow_with_their_length(self, tiny_processor):
        row = to_dataset(sound_pairs(1))[0]
        collator = PairCollator(tiny_processor, max_length=16)

        def seconds(length):
            rows = [{**row, "caption": "a red bus " * (length // 10)}]
            times = []
            for _ in range(3):
                start = time.process_time()
                collator(rows)
                times.append(time.process_time() - start)
            return min(times)

        seconds(100)
        assert seconds(400_000) < 0.5

    def test_halves_of_characters_are_no_text(self, tiny_processor):
        collator = PairCollator(tiny_processor)
        row = {**to_dataset(sound_pairs(1))[0], "caption": "a \ud800 bus"}
        with pytest.raises(UnusablePair, match="caption that is not Unicode"):
            collator.read(row)
        assert collator.read({**row, "captions": ["a cat"]}).parts[1] == "a cat"


class TestRows:
    @pytest.mark.parametrize(
        ("changes", "kind", "message"),
        [
            ({"caption": 3}, ValueError, r"pair 'sound_0'.*caption has to be a string, got 3"),
            ({"image": 3.5}, TypeError, r"pair 'sound_0'.*image has to be .* got float"),
            ({"pair_id": 1.5}, ValueError, r"pair 1\.5.*pair id has to be an integer or a string"),
            ({"caption": None, "captions": [["a"]]}, ValueError, r"pair 'sound_0'.*caption has to be a string"),
        ],
    )
    def test_what_is_no_pair_at_all_raises_and_names_it(self, tiny_processor, changes, kind, message):
        with pytest.raises(kind, match=message):
            PairCollator(tiny_processor)([{**to_dataset(sound_pairs(1))[0], **changes}])

    @pytest.mark.parametrize("column", ["image", "caption"])
    def test_missing_columns_raise(self, tiny_processor, column):
        row = to_dataset(sound_pairs(1)).remove_columns(column)[0]
        with pytest.raises(ValueError, match=f"pair 'sound_0': A row needs .*'{column}'"):
            PairCollator(tiny_processor)([row])

    def test_features_of_a_guide(self, tiny_processor):
        sound, name = [1.0, 0.0], GUIDE_COLUMNS[0]
        data = to_dataset(sound_pairs(4), **{name: [sound, [float("nan"), 0.0], None, [1.0]]})
        collator = PairCollator(tiny_processor)
        rows = [data[number] for number in range(3)]
        assert collator(rows)[name].tolist() == [sound]
        assert collator.skipped == {"features that are not finite": 1, "no features": 1}
        with pytest.raises(ValueError, match=rf"column `{name}` needs features of one length .*\(1,\).*\(2,\)"):
            collator([data[0], data[3]])

    def test_duplicated_ids_are_one_pair(self, make_trainer):
        pairs = to_dataset(sound_pairs(6)).remove_columns("pair_id").add_column("pair_id", [1, 1, 2, 3, 4, 5])
        trainer = make_trainer(trainer_options={"train_dataset": pairs}, max_steps=1, itm_weight=0, mlm_weight=0)
        seen = []
        objective = trainer.objective
        trainer.objective = lambda batch, **options: seen.append(batch) or objective(batch, **options)
        trainer.train()
        assert seen[0].positive_mask.sum() == 8  # 6 of the diagonal, and 2 between the two of one id


@pytest.fixture
def dirty_pairs():
    return to_dataset({**corpus(), **sound_pairs(10)})


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def listed(trainer):
    with open(f"{trainer.args.output_dir}/skipped_pairs.jsonl", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


class TestTraining:
    def test_full_batches_of_a_dirty_corpus(self, make_trainer, dirty_pairs):
        trainer = make_trainer(trainer_options={"train_dataset": dirty_pairs}, num_train_epochs=2, max_steps=-1)
        sizes, step = [], trainer.compute_loss
        trainer.compute_loss = lambda model, inputs, *rest, **more: (
            sizes.append(len(inputs["pair_ids"])) or step(model, inputs, *rest, **more)
        )
        output = trainer.train()
        assert sizes == [6] * 12 and len(dirty_pairs) == 36
        expected = {name: pair.reason for name, pair in corpus().items() if pair.reason is not None}
        assert {entry["pair_id"]: entry["reason"] for entry in listed(trainer)} == expected
        assert len(listed(trainer)) == len(expected)
        totals = {name: value for name, value in output.metrics.items() if name.startswith("train_skipped/")}
        assert set(totals) == {f"train_skipped/{reason.replace(' ', '_')}" for reason in set(expected.values())}
        assert sum(totals.values()) >= 2 * len(expected)
        logs = [entry for entry in trainer.state.log_history if "loss" in entry]
        for name, total in totals.items():
            assert sum(entry.get(name.removeprefix("train_"), 0) for entry in logs) == total
        assert trainer.state.log_history[-1].items() >= totals.items()
