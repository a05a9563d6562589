# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Grades between emoji: hand-picked pairs, and a plain loop over rows of the real validation split."""

import pytest
import torch
from datasets import Dataset

from examples.emoji import DATA_DIR, EmojiRelevance, load_emoji


needs_data = pytest.mark.skipif(not DATA_DIR.is_dir(), reason="the emoji data are not part of this checkout")

COLUMNS = ("emoji_id", "base_id", "subgroup", "tone", "gender", "keywords")
ROWS = [
    ("pilot", "pilot", "person-role", 0, "", ["pilot", "plane"]),  # 0
    ("pilot", "pilot", "person-role", 0, "", ["pilot", "plane"]),  # 1: the same, other vendor
    ("pilot-3", "pilot", "person-role", 3, "", ["pilot", "plane"]),  # 2: tone differs
    ("pilot-f", "pilot", "person-role", 0, "woman", ["pilot", "plane"]),  # 3: gender differs
    ("pilot-3-f", "pilot", "person-role", 3, "woman", ["pilot", "plane"]),  # 4: both differ
    ("pilot-right", "pilot", "person-role", 0, "", ["pilot", "plane"]),  # 5: neither, yet another emoji
    ("cook", "cook", "person-role", 0, "", ["chef", "kitchen"]),  # 6: same subgroup
    ("FR", "FR", "country-flag", 0, "", ["flag", "France"]),  # 7
    ("ES", "ES", "country-flag", 0, "", ["flag", "Spain"]),  # 8: country flags are no group
    ("FR", "FR", "country-flag", 0, "", ["flag", "France"]),  # 9: but may be the same flag
    ("plane", "plane", "transport-air", 0, "", ["plane"]),  # 10: keywords overlap with the pilot's
]


@pytest.fixture
def dataset():
    return Dataset.from_list([dict(zip(COLUMNS, row, strict=True)) for row in ROWS])


def grade(one, other):
    """The rule, in words that the library does not use."""
    if one["emoji_id"] == other["emoji_id"]:
        return 1.0
    if one["base_id"] == other["base_id"]:
        differences = (one["tone"] != other["tone"]) + (one["gender"] != other["gender"])
        return 0.5 if differences == 2 else 0.75
    if one["subgroup"] == other["subgroup"] and one["subgroup"] != "country-flag":
        return 0.25
    return 0.0


class TestEmojiRelevance:
    @pytest.mark.parametrize(
        "image, text, expected",
        [
            (0, 0, 1.0),
            (0, 1, 1.0),
            (0, 2, 0.75),
            (0, 3, 0.75),
            (0, 4, 0.5),
            (2, 3, 0.5),
            (2, 4, 0.75),
            (0, 5, 0.75),
            (0, 6, 0.25),
            (4, 6, 0.25),
            (0, 7, 0.0),
            (7, 8, 0.0),
            (7, 9, 1.0),
            (0, 10, 0.0),
        ],
    )
    def test_hand_picked_pairs(self, dataset, image, text, expected):
        relevance = EmojiRelevance(dataset)
        assert relevance(torch.tensor([image]), torch.tensor([text])).tolist() == [[expected]]
        assert relevance(torch.tensor([text]), torch.tensor([image])).tolist() == [[expected]]

    def test_rows_are_images_and_columns_are_texts(self, dataset):
        relevance = EmojiRelevance(dataset)
        assert relevance(torch.tensor([0, 7]), torch.tensor([1, 4, 9])).tolist() == [[1.0, 0.5, 0.0], [0.0, 0.0, 1.0]]

    def test_keywords_count_on_request(self, dataset):
        everything = torch.arange(len(ROWS))
        plain = EmojiRelevance(dataset)(everything, everything)
        related = EmojiRelevance(dataset, keyword_overlap=0.3)(everything, everything)
        # The plane (10) shares one of two words with every pilot (0 to 5); the flags share one of three, and stay out.
        expected = plain.clone()
        expected[:6, 10] = expected[10, :6] = 0.25
        assert torch.equal(related, expected)
        assert torch.equal(EmojiRelevance(dataset, keyword_overlap=0.6)(everything, everything), plain)

    def test_a_missing_column_raises(self, dataset):
        with pytest.raises(ValueError, match=r"no \['tone'\], only"):
            EmojiRelevance(dataset.remove_columns("tone"))

    def test_an_impossible_overlap_raises(self, dataset):
        with pytest.raises(ValueError, match="above 0 and at most 1, got 30"):
            EmojiRelevance(dataset, keyword_overlap=30)

    @needs_data
    def test_agrees_with_a_loop_over_the_validation_split(self):
        dataset = load_emoji("validation")
        generator = torch.Generator().manual_seed(0)
        images, texts = (torch.randint(len(dataset), (150,), generator=generator) for _ in range(2))
        rows = dataset.remove_columns("image").to_list()
        expected = [[grade(rows[image], rows[text]) for text in texts] for image in images]
        grades = EmojiRelevance(dataset)(images, texts)
        assert grades.tolist() == expected
        assert grades.unique().tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]  # every rule was met


class TestLoadEmoji:
    @needs_data
    @pytest.mark.parametrize(
        "split, rows",
        [("train", 8072), ("validation", 758), ("test_unseen_concept", 668), ("test_unseen_composition", 393)],
    )
    def test_every_split_is_there(self, split, rows):
        dataset = load_emoji(split)
        assert len(dataset) == rows
        assert {"image", "caption", *COLUMNS} <= set(dataset.column_names)

    @needs_data
    def test_images_are_decoded(self):
        assert load_emoji("validation")[0]["image"].size == (64, 64)

    def test_an_unknown_split_raises(self):
        with pytest.raises(ValueError, match="no split 'test', only train, validation"):
            load_emoji("test")

    def test_a_wrong_folder_raises(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="pass the folder"):
            load_emoji("train", data_dir=tmp_path)
