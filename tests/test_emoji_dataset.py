# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The embedded data set is what its card says, row by row, and loads without a network."""

import io
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
from datasets import Features, Image, List, Value, load_dataset
from PIL import Image as PILImage


EMOJI = Path(__file__).parent.parent / "examples" / "data" / "emoji"
NUM_ROWS = {"train": 8072, "validation": 758, "test_unseen_concept": 668, "test_unseen_composition": 393}
LICENSES = {"noto": "SIL OFL 1.1 font / Apache-2.0 artwork", "twemoji": "CC-BY-4.0", "fluent": "MIT"}
TEXT_COLUMNS = ("caption", "sentence", "vendor", "group", "subgroup", "base_id", "emoji_id", "gender", "license")
FEATURES = Features(
    {"image": Image(), "keywords": List(Value("string")), "tone": Value("int8")}
    | {column: Value("string") for column in TEXT_COLUMNS}
)


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    """All rows of all splits as stored, with their split."""
    files = {split: EMOJI / f"{split}-00000-of-00001.parquet" for split in NUM_ROWS}
    return pd.concat([pd.read_parquet(file).assign(split=split) for split, file in files.items()], ignore_index=True)


@pytest.fixture(scope="module")
def split(rows):
    """Looks one split up by name."""
    return dict(list(rows.groupby("split"))).__getitem__


class TestLoading:
    def check(self, loaded):
        assert {split: dataset.num_rows for split, dataset in loaded.items()} == NUM_ROWS
        for dataset in loaded.values():
            assert dataset.features == FEATURES
            assert dataset[0]["image"].size == (64, 64)

    def test_folder_with_card(self, tmp_path):
        self.check(load_dataset(str(EMOJI), cache_dir=tmp_path))

    def test_plain_parquet(self, tmp_path):
        files = {split: str(EMOJI / f"{split}-*.parquet") for split in NUM_ROWS}
        self.check(load_dataset("parquet", data_files=files, cache_dir=tmp_path))

    def test_notice_is_beside_the_data(self):
        notice = (EMOJI / "NOTICE").read_text(encoding="utf-8")
        for name in ("Noto Emoji", "Twemoji", "CC BY 4.0", "Microsoft", "Unicode, Inc.", "emojibase"):
            assert name in notice


class TestRows:
    def test_images_decode_to_64x64_rgb_and_none_is_there_twice(self, rows):
        pixels = set()
        for stored in rows["image"]:
            with PILImage.open(io.BytesIO(stored["bytes"])) as image:
                assert (image.format, image.mode, image.size) == ("WEBP", "RGB", (64, 64))
                array = np.asarray(image)
            assert array.std() > 0, "a picture of one colour"
            pixels.add(array.tobytes())
        assert len(pixels) == len(rows)

    def test_texts_are_there(self, rows):
        for column in ("caption", "sentence", "group", "subgroup", "base_id", "emoji_id"):
            assert (rows[column].str.strip() != "").all(), column
        assert rows["keywords"].map(lambda keywords: all(word.strip() for word in keywords)).all()

    def test_license_follows_from_vendor(self, rows):
        assert rows["license"].equals(rows["vendor"].map(LICENSES))

    def test_variants_are_in_range(self, rows):
        assert set(rows["tone"]) == {0, 1, 2, 3, 4, 5}
        assert set(rows["gender"]) == {"", "man", "woman", "man+woman"}

    def test_one_picture_per_emoji_and_vendor(self, rows):
        assert not rows.duplicated(["emoji_id", "vendor"]).any()

    def test_emoji_determines_everything_but_the_picture(self, rows):
        columns = ["caption", "sentence", "group", "subgroup", "base_id", "tone", "gender", "split"]
        assert (rows.groupby("emoji_id")[columns].nunique() == 1).all(axis=None)
        assert (rows.groupby("caption")["emoji_id"].nunique() == 1).all()

    def test_tone_is_named_in_the_caption(self, rows):
        named = rows["caption"].str.extract(r"\b(light|medium-light|medium|medium-dark|dark) skin tone", expand=False)
        tones = {"light": 1, "medium-light": 2, "medium": 3, "medium-dark": 4, "dark": 5}
        assert named.map(tones).fillna(0).astype("int8").equals(rows["tone"])


class TestSplits:
    def test_unseen_concept(self, split):
        unseen = split("test_unseen_concept")
        assert "country-flag" not in set(unseen["subgroup"])
        assert set(unseen["base_id"]).isdisjoint(split("train")["base_id"])

    def test_unseen_composition(self, split):
        unseen, train = split("test_unseen_composition"), split("train")
        assert (unseen["tone"] > 0).all()
        assert set(unseen["base_id"]) <= set(train["base_id"])
        assert set(unseen["emoji_id"]).isdisjoint(train["emoji_id"])

    def test_validation_holds_both_kinds_of_novelty(self, split):
        validation, train = split("validation"), split("train")
        seen_base = validation["base_id"].isin(set(train["base_id"]))
        assert set(validation["emoji_id"]).isdisjoint(train["emoji_id"])
        assert (int(seen_base.sum()), int((~seen_base).sum())) == (216, 542)
        assert (validation.loc[seen_base, "tone"] > 0).all()

    def test_country_flags_are_all_in_train(self, rows):
        assert set(rows.loc[rows["subgroup"] == "country-flag", "split"]) == {"train"}
