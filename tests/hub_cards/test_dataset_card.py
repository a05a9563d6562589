# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""What the card of a data set says is what was counted, and what is in the data cannot harm a reader."""

import random

import pytest
import yaml
from datasets import Dataset, DatasetDict

from hub_cards import describe_dataset, validate_card, write_dataset_card


@pytest.fixture
def pairs() -> DatasetDict:
    captions = ["a red bus", "a red bus", "a dog", "two very small cats"] * 20
    columns = {"caption": captions, "pair_id": [number // 2 for number in range(80)], "note": ["x"] * 80}
    train = Dataset.from_dict(columns)
    return DatasetDict(train=train, test=train.select(range(3)))


class TestDescribeDataset:
    def test_counts(self, pairs):
        facts = describe_dataset(pairs, "Things", meanings={"note": "nothing"}, license="mit")
        train = facts.splits["train"]
        assert (train.rows, train.distinct) == (80, {"caption": 3, "pair_id": 40})
        assert train.words == (2, 3, 4)
        assert facts.columns["note"] == ("string", "nothing")
        assert facts.columns["pair_id"][0] == "int64"
        # All three captions are different pairs' first or second: no batch of 64 fits into 3 rows.
        assert facts.splits["test"].shared.get("caption") == {}

    def test_expected_share_is_that_of_many_random_batches(self, pairs):
        facts = describe_dataset(pairs["train"], "Things")
        generator = random.Random(0)
        ids = pairs["train"]["pair_id"][:]
        hits = rows = 0
        for _ in range(400):
            batch = generator.sample(ids, 64)
            hits += sum(batch.count(value) > 1 for value in batch)
            rows += 64
        assert facts.splits["train"].shared["pair_id"][64] == pytest.approx(100 * 63 / 79)
        assert facts.splits["train"].shared["pair_id"][64] == pytest.approx(100 * hits / rows, abs=1)

    def test_refusals(self, pairs):
        with pytest.raises(TypeError, match="got `IterableDataset`"):
            describe_dataset(pairs["train"].to_iterable_dataset(), "Things")
        with pytest.raises(ValueError, match="no rows"):
            describe_dataset(pairs["train"].select([]), "Things")
        with pytest.raises(ValueError, match="no columns \\['notes'\\]"):
            describe_dataset(pairs, "Things", meanings={"notes": "typo"})
        with pytest.raises(TypeError, match="licence"):
            describe_dataset(pairs, "Things", licence="mit")


class TestWriteDatasetCard:
    def test_card_is_valid_and_finds_its_files(self, pairs, tmp_path):
        for split, rows in pairs.items():
            rows.to_parquet(tmp_path / f"{split}-00000-of-00001.parquet")
        facts = describe_dataset(pairs, "Things", license="mit", language=["en"])
        card = write_dataset_card(tmp_path, facts)
        assert validate_card(card, "dataset") == []
        metadata = yaml.safe_load(card.read_text().split("---")[1])
        assert metadata["size_categories"] == ["n<1K"]
        assert [item["split"] for item in metadata["configs"][0]["data_files"]] == ["train", "test"]
        assert "| `train` | 80 | 3 | 40 | 2, 3, 4 |" in card.read_text()
        assert str(tmp_path) not in card.read_text()

    def test_what_is_not_known_is_said_so(self, pairs, tmp_path):
        card = write_dataset_card(tmp_path, describe_dataset(pairs, "Things")).read_text()
        assert "Not stated. Without a licence nobody may use the data" in card
        assert any("`license` is missing" in problem for problem in validate_card(tmp_path, "dataset"))

    def test_a_persons_text_stays(self, pairs, tmp_path):
        card = write_dataset_card(tmp_path, describe_dataset(pairs, "Things"))
        card.write_text(card.read_text() + "\n## How they were made\n\nBy hand.\n")
        assert "By hand." in write_dataset_card(tmp_path, describe_dataset(pairs["train"], "Things")).read_text()

    def test_names_are_harmless(self, tmp_path):
        name = "<script>alert(1)</script>"
        columns = Dataset.from_dict({"caption": ["a", "b"], "x|`y": [1, 2]})
        card = write_dataset_card(tmp_path, describe_dataset(columns, name, license_name=name)).read_text()
        assert "<script>" not in card.split("---", 2)[2]
        assert r"``x\|`y``" in card
