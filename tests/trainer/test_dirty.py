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

from modeling_sacl import SaclModel
from trainer import PairCollator, embed_dataset, evaluate_retrieval, load_pairs
from trainer.data import SeededPairs, SeededStream, UsablePairs, UsableStream, decode_image
from trainer.data.collator import GUIDE_COLUMNS
from trainer.data.usable import MAX_UNUSABLE_IN_A_ROW, ReadRow, SkippedPair, UnusablePair, summary
from trainer.skipped_pairs import SkippedPairs

from .dirty_corpus import LEFT, RIGHT, bomb, captions, corpus, images, sound_pairs, to_dataset, to_folder


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
        assert collator.read(row) is not row and collator.read(row).parts[1] == ["a green dog"]
        assert collator.read({**row, "caption": "a cat"}).parts[1] == ["a cat"]


class TestSkippedPair:
    def test_summary_has_the_commonest_reasons_with_ids(self):
        pairs = [SkippedPair(number, "x", f"details {number}") for number in range(5)] + [SkippedPair(None, "y")]
        assert summary(pairs) == "5 with x (pairs 0, 1, 2, ...: details 0); 1 with y (no id)"
        assert summary([SkippedPair("a", "x")]) == "1 with x (pair 'a')"

    def test_signatures_of_addresses_are_not_kept(self):
        problem = UnusablePair("x", "HTTPError: 403 (https://x.org/c.png?token=secret)")
        assert SkippedPair.of({}, problem).details == "HTTPError: 403 (https://x.org/c.png?...)"

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
        assert collator.read({**row, "captions": ["a cat"]}).parts[1] == ["a cat"]


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


REASONS = {name: pair.reason for name, pair in corpus().items() if pair.reason is not None}


@pytest.fixture
def dirty_pairs():
    """Thirty-six pairs, of which eleven cannot be used."""
    return to_dataset({**corpus(), **sound_pairs(10)})


@pytest.fixture
def make_dirty(make_trainer, tiny_processor, dirty_pairs):
    """A trainer with chance on dirty pairs, six steps to an epoch."""

    def make(stream=False, **options):
        data = dirty_pairs.to_iterable_dataset(num_shards=2) if stream else dirty_pairs
        collator = PairCollator(tiny_processor).for_training()
        arguments = {"max_steps": 9, "logging_steps": 3, "momentum": None, "itm_weight": 0.0, **options}
        return make_trainer(trainer_options={"train_dataset": data, "data_collator": collator}, **arguments)

    return make


def watch_batches(trainer):
    """Ids of the pairs of each batch that is trained on."""
    seen, step = [], trainer.compute_loss

    def compute_loss(model, inputs, *rest, **more):
        seen.append(inputs["pair_ids"].tolist())
        return step(model, inputs, *rest, **more)

    trainer.compute_loss = compute_loss
    return seen


def step_logs(trainer):
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def listed(trainer):
    with open(f"{trainer.args.output_dir}/skipped_pairs.jsonl", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


class TestTraining:
    def test_batches_are_full_and_what_is_left_out_is_counted_and_listed(self, make_dirty):
        trainer = make_dirty(max_steps=-1, num_train_epochs=2)
        batches = watch_batches(trainer)
        metrics = trainer.train().metrics
        assert [len(batch) for batch in batches] == [6] * 12
        assert {entry["pair_id"]: entry["reason"] for entry in listed(trainer)} == REASONS
        assert len(listed(trainer)) == len(REASONS) == 11
        totals = {name: value for name, value in metrics.items() if name.startswith("train_skipped/")}
        assert set(totals) == {f"train_skipped/{reason.replace(' ', '_')}" for reason in REASONS.values()}
        assert sum(totals.values()) >= 2 * len(REASONS)
        for name, total in totals.items():
            assert sum(entry.get(name.removeprefix("train_"), 0) for entry in step_logs(trainer)) == total
        assert trainer.state.log_history[-1].items() >= totals.items()

    def test_files_with_wrong_suffixes_and_none(self, make_trainer, tmp_path):
        pairs = load_pairs(to_folder({**images(), **sound_pairs(4)}, tmp_path / "images"))
        trainer = make_trainer(trainer_options={"train_dataset": pairs}, max_steps=4, momentum=None)
        batches = watch_batches(trainer)
        trainer.train()
        assert [len(batch) for batch in batches] == [6, 6, 6, 3]
        assert {"pair_id": "absent", "reason": "missing image file"}.items() <= {
            name: value for entry in listed(trainer) if entry["pair_id"] == "absent" for name, value in entry.items()
        }.items()
        (truncated,) = [entry for entry in listed(trainer) if entry["pair_id"] == "truncated_png"]
        assert truncated["image"] == str(tmp_path / "images" / "truncated_png.webp") and truncated["details"]

    def test_what_a_stream_lacks_is_counted_as_well(self, make_trainer, dirty_pairs, caplog):
        """`load_pairs` knows nothing of them in advance, and leaves them to be counted."""
        stream = load_pairs(dirty_pairs.to_iterable_dataset(num_shards=2))
        trainer = make_trainer(trainer_options={"train_dataset": stream}, max_steps=6, momentum=None)
        batches = watch_batches(trainer)
        metrics = trainer.train().metrics
        assert [len(batch) for batch in batches] == [6] * 6
        assert {entry["pair_id"]: entry["reason"] for entry in listed(trainer)} == REASONS
        assert metrics["train_skipped/no_caption"] >= 4 and metrics["train_skipped/no_image"] >= 1
        without = load_pairs(
            dirty_pairs.remove_columns("caption").add_column("caption", [" "] * 36).to_iterable_dataset()
        )
        with pytest.raises(ValueError, match="1000 pairs one after another cannot be used: .*with no caption"):
            make_trainer(trainer_options={"train_dataset": without}, max_steps=6).train()

    @pytest.mark.parametrize(("stream", "workers", "chunk_size"), [(False, 2, None), (True, 0, None), (False, 0, 4)])
    def test_an_interrupted_run_goes_on_bit_for_bit(self, make_dirty, tmp_path, stream, workers, chunk_size):
        """Resumed between two lines of the log, in the second pass; and the list is the same list."""
        runs, batches = [], []
        for resume in (None, str(tmp_path / "run" / "checkpoint-7")):
            trainer = make_dirty(
                stream, save_strategy="steps", save_steps=7, dataloader_num_workers=workers, max_steps=9,
                contrastive_chunk_size=chunk_size,
            )  # fmt: skip
            batches.append(watch_batches(trainer))
            metrics = trainer.train(resume_from_checkpoint=resume).metrics
            counts = {name: value for name, value in metrics.items() if "skipped" in name}
            runs.append((step_logs(trainer), counts, listed(trainer)))
        assert any(name.startswith("skipped/") for name in runs[0][0][2])
        assert runs[0] == runs[1]
        assert batches[0][7:] == batches[1] and all(len(batch) in (4, 6) or chunk_size for batch in batches[0])

    def test_workers_change_nothing(self, make_dirty):
        seen = []
        for workers in (0, 1, 2):
            trainer = make_dirty(dataloader_num_workers=workers, max_steps=4)
            seen.append((watch_batches(trainer), trainer.train().metrics["train_loss"], listed(trainer)))
        assert seen[0] == seen[1] == seen[2]

    def test_a_new_run_begins_a_new_list(self, make_dirty):
        trainer = make_dirty(max_steps=6)
        trainer.train()
        first = listed(trainer)
        trainer.train()
        assert len(listed(trainer)) == len(first)

    def test_a_line_cut_short_and_lines_of_others_do_no_harm(self, make_dirty, tmp_path):
        trainer = make_dirty(max_steps=6, save_strategy="steps", save_steps=2)
        trainer.train()
        path = tmp_path / "run" / "skipped_pairs.jsonl"
        whole = path.read_text()
        others = ["not of ours", '{"pair_id": 5, "reason": 0}']
        path.write_text("\n".join([*others, whole[:-10]]))
        trainer.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
        assert sorted(path.read_text().splitlines()) == sorted([*others, *whole.splitlines()])

    def test_a_list_that_cannot_be_written_stops_nothing(self, make_dirty, tmp_path, caplog):
        (tmp_path / "run" / "skipped_pairs.jsonl").mkdir(parents=True)
        trainer = make_dirty(max_steps=3)
        trainer.train()
        assert trainer.state.global_step == 3 and "counted, but not listed" in caplog.text

    def test_a_collator_of_ones_own_makes_what_it_makes(self, make_trainer, plain_collator, dirty_pairs):
        some = dirty_pairs.select([0, 30, 31, 32, 33, 34, 1, 2, 7, 8, 9, 10])
        trainer = make_trainer(
            trainer_options={"train_dataset": some, "data_collator": lambda rows: plain_collator(rows)},
            train_sampling_strategy="sequential",
        )
        batches = watch_batches(trainer)
        trainer.train()
        assert [len(batch) for batch in batches] == [5, 4] and plain_collator.skipped.total() == 3

    def test_the_card_has_the_counts(self, make_dirty, tmp_path):
        trainer = make_dirty(max_steps=6)
        trainer.train()
        trainer.save_model()
        card = (tmp_path / "run" / "README.md").read_text()
        assert f"{trainer.skipped_pairs.totals['no caption']} times no caption, " in card
        assert "times unreadable image. (A pair counts" in card


class TestMaxSkippedRatio:
    def test_too_many_stop_the_training_and_are_named(self, make_trainer, tmp_path):
        broken = {f"broken_{number}": images()["zero_bytes"] for number in range(30)}
        trainer = make_trainer(
            trainer_options={"train_dataset": to_dataset({**broken, **sound_pairs(6)})},
            max_steps=50,
            max_skipped_ratio=0.05,
            momentum=None,
            itm_weight=0,
            mlm_weight=0,
        )
        message = (
            r"(\d\d) of the last \d+ pairs .*`max_skipped_ratio=0.05` of 1000 allows: \1 with unreadable image "
            r"\(pairs 'broken_\d+', .*, \.\.\.: it is no image .*skipped_pairs.jsonl lists them"
        )
        with pytest.raises(ValueError, match=message):
            trainer.train()
        assert len(listed(trainer)) > 10

    def test_zero_stops_at_the_first(self, make_dirty):
        trainer = make_dirty(max_skipped_ratio=0.0)
        batches = watch_batches(trainer)
        with pytest.raises(ValueError, match="max_skipped_ratio=0.0"):
            trainer.train()
        assert len(batches) <= 1

    @pytest.mark.parametrize("value", [-0.1, 1.1])
    def test_it_is_a_share(self, make_arguments, value):
        with pytest.raises(ValueError, match="`max_skipped_ratio` must be between 0 and 1"):
            make_arguments(max_skipped_ratio=value)

    def count(self, *batches, max_ratio=0.5):
        skipped = SkippedPairs(max_ratio)
        for used, left_out in batches:
            skipped.count(used, [SkippedPair(number, "x") for number in range(left_out)], 0)

    def test_half_of_any_window_may_be_left_out(self):
        self.count(*[(10, 10)] * 200)
        with pytest.raises(ValueError, match="more than `max_skipped_ratio=0.5` of 1001 allows: 501 with x"):
            self.count(*[(10, 10)] * 200, *[(10, 11)] * 100)

    def test_what_was_long_ago_does_not_count(self):
        self.count((0, 500), (1000, 0), (0, 500), (1000, 0))
        with pytest.raises(ValueError, match="501 of the last 501"):
            self.count((0, 501))
        with pytest.raises(ValueError, match="1000 of the last 1499"):
            self.count((0, 500), (499, 0), (0, 500))

    def test_one_never_stops(self):
        self.count(*[(0, 999)] * 5, max_ratio=1.0)


class TestEvaluation:
    def test_what_cannot_be_read_is_left_out_and_counted(self, make_trainer, pairs, dirty_pairs):
        clean = dirty_pairs.filter(lambda row: row["pair_id"] not in REASONS)
        results = {}
        for name, data in (("dirty", dirty_pairs), ("clean", clean)):
            trainer = make_trainer(trainer_options={"eval_dataset": data}, per_device_eval_batch_size=1)
            results[name] = trainer.evaluate()
        skipped = {name: value for name, value in results["dirty"].items() if name.startswith("eval_skipped/")}
        assert sum(skipped.values()) >= len(REASONS) and skipped["eval_skipped/no_caption"] >= 4
        assert not any("skipped/" in name for name in results["clean"])
        # Retrieval is among the same pairs.
        recalls = [name for name in results["clean"] if "recall" in name or "ndcg" in name]
        assert recalls and all(results["dirty"][name] == results["clean"][name] for name in recalls)

    def test_a_batch_shrinks_and_is_never_empty(self, make_trainer, dirty_pairs):
        trainer = make_trainer(trainer_options={"eval_dataset": dirty_pairs}, per_device_eval_batch_size=4)
        sizes = [len(batch["pair_ids"]) for batch in trainer.get_eval_dataloader()]
        # The first seven images cannot be read, and there is nothing to read in the first four captions.
        assert sizes == [1, 1, 4, 4, 1, 3, 4, 4, 4]

    def test_the_functions_raise_or_skip(self, make_model, tiny_processor, dirty_pairs, caplog):
        model = make_model(SaclModel)
        with pytest.raises(ValueError, match=r"The image of row 0 cannot be read \(column 'image'\)"):
            evaluate_retrieval(model, dirty_pairs, tiny_processor, show_progress=False)
        clean = dirty_pairs.filter(lambda row: row["pair_id"] not in REASONS)
        expected = evaluate_retrieval(model, clean, tiny_processor, show_progress=False)
        found = evaluate_retrieval(model, dirty_pairs, tiny_processor, on_error="skip", show_progress=False)
        assert found == expected and "11 rows are left out, the first of them because: The image" in caplog.text
        with pytest.raises(ValueError, match='"raise" or "skip", got \'ignore\''):
            evaluate_retrieval(model, dirty_pairs, tiny_processor, on_error="ignore")
        broken = to_dataset({"broken": images()["text"]})
        with pytest.raises(ValueError, match="no row that can be read. The image of row 0"):
            evaluate_retrieval(model, broken, tiny_processor, on_error="skip", show_progress=False)

    def test_embed_dataset_skips_the_same(self, make_model, tiny_processor, dirty_pairs, tmp_path):
        options = {"on_error": "skip", "cache_dir": tmp_path, "show_progress": False}
        embedded = embed_dataset(make_model(SaclModel), dirty_pairs, tiny_processor, **options)
        assert set(embedded["pair_id"]) == set(dirty_pairs["pair_id"]) - set(REASONS)
