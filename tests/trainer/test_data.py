# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
import inspect
import io
import json
import logging
import os
import pickle
import subprocess
import sys
from functools import lru_cache, partial
from types import SimpleNamespace

import fsspec
import numpy as np
import PIL.Image
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, IterableDataset, Value
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import functional as F
from transformers import BlipImageProcessor, CLIPImageProcessor, CLIPProcessor, PreTrainedTokenizerFast

from trainer.data import (
    ImageDecodingError,
    PairCollator,
    PairRandAugment,
    clean_captions,
    content_pair_id,
    decode_image,
    load_pairs,
    pair_augmentation,
    pair_ids_tensor,
    pairs,
    to_rgb,
    undecoded,
    with_pair_ids,
)


SIZE = 16
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [f"w{number}" for number in range(200)]


@lru_cache
def make_tokenizer():
    vocabulary = {token: number for number, token in enumerate(SPECIAL + WORDS)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=128,
    )


@lru_cache
def make_processor():
    image_processor = BlipImageProcessor(size={"height": SIZE, "width": SIZE})
    return SimpleNamespace(tokenizer=make_tokenizer(), image_processor=image_processor)


def picture(seed=0, size=(SIZE, SIZE), mode="RGB"):
    """A smooth picture that no flip or rotation leaves unchanged."""
    noise = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return PIL.Image.fromarray(noise).resize(size, PIL.Image.Resampling.BICUBIC).convert(mode)


def encoded(image, **arguments):
    buffer = io.BytesIO()
    image.save(buffer, **{"format": "PNG", **arguments})
    return buffer.getvalue()


def row(seed=0, caption="w1 w2 w3", **columns):
    return {"image": picture(seed), "caption": caption, "pair_id": seed, **columns}


def equal(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def identity(image):
    return F.pil_to_tensor(image)


def texts(dataset):
    return [{name: value for name, value in row.items() if name != "image"} for row in dataset]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Whatever `datasets` prepares, it prepares for one test."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def warnings_of(caplog):
    caplog.set_level(logging.WARNING)
    return lambda: [record.getMessage() for record in caplog.records if record.name.startswith("trainer.data")]


@pytest.fixture
def folder(tmp_path):
    """An image folder with files of three formats and one that is broken."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for seed, name in enumerate(["0.png", "1.jpg", "2.webp"]):
        picture(seed, (20, 12)).save(folder / name)
    (folder / "3.png").write_bytes(encoded(picture(3))[:60])
    lines = [
        {"file_name": name, "caption": f"w{number} w5", "alt": f"w{number}", "identifier": f"id-{number}"}
        for number, name in enumerate(["0.png", "1.jpg", "2.webp", "3.png"])
    ]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


class TestPairIds:
    def test_integers_stay_and_strings_become_63_bits(self):
        ids = pair_ids_tensor([7, -3, np.int32(5), torch.tensor(9), "a", "b", "a"])
        assert ids.dtype == torch.int64 and ids[:4].tolist() == [7, -3, 5, 9]
        assert ids[4] == ids[6] != ids[5] and (ids[4:] >= 0).all()

    def test_strings_are_stable_across_processes(self):
        # The function alone, because importing everything around it takes seconds.
        hashing = inspect.getsource(pairs.hash_63_bits)
        code = f"import hashlib\n{hashing}\nprint([hash_63_bits(name.encode()) for name in ('000000391895', 'é')])"
        environment = {**os.environ, "PYTHONHASHSEED": "12345", "PYTHONUTF8": "1"}
        output = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
        assert json.loads(output.stdout) == pair_ids_tensor(["000000391895", "é"]).tolist()
        assert pair_ids_tensor(["000000391895"]).tolist() == [2181188226364411839]  # never changes: queues are saved

    @settings(max_examples=30, deadline=None)
    @given(st.lists(st.text(), unique=True))
    def test_distinct_strings_have_distinct_ids(self, strings):
        assert len(set(pair_ids_tensor(strings).tolist())) == len(strings)

    @pytest.mark.parametrize("identifier", [None, 1.0, True, 2**63, b"a", [1]])
    def test_anything_else_raises(self, identifier):
        with pytest.raises(ValueError, match="pair id"):
            pair_ids_tensor([identifier])

    def test_row_numbers(self):
        dataset = with_pair_ids(Dataset.from_dict({"caption": ["a", "b", "c"]}))
        assert dataset["pair_id"][:] == [0, 1, 2] and dataset.features["pair_id"] == Value("int64")
        assert with_pair_ids(dataset) is dataset
        assert with_pair_ids(DatasetDict(train=dataset.remove_columns("pair_id")))["train"][2]["pair_id"] == 2
        assert with_pair_ids(dataset.remove_columns("pair_id").select([2, 0]))["pair_id"][:] == [0, 1]

    def test_streams_get_ids_that_survive_sharding_and_shuffling(self):
        dataset = Dataset.from_list([row(seed) for seed in range(8)]).remove_columns("pair_id")
        stream = with_pair_ids(dataset.to_iterable_dataset(num_shards=4))
        ids = [example["pair_id"] for example in stream]
        assert len(set(ids)) == 8
        assert {example["pair_id"] for example in stream.shuffle(seed=1, buffer_size=4)} == set(ids)
        shards = [{example["pair_id"] for example in stream.shard(2, index)} for index in range(2)]
        assert not shards[0] & shards[1] and shards[0] | shards[1] == set(ids)
        assert isinstance(next(iter(stream))["image"], PIL.Image.Image)
        assert with_pair_ids(stream) is stream

    def test_content_decides(self):
        data = {"bytes": encoded(picture()), "path": None}
        base = content_pair_id({"image": data, "caption": "w1"})
        assert base == content_pair_id({"image": {**data, "path": "elsewhere.png"}, "captions": ["w1"], "other": 1})
        assert base != content_pair_id({"image": data, "caption": "w2"})
        assert base != content_pair_id({"image": {"bytes": encoded(picture(1)), "path": None}, "caption": "w1"})
        assert content_pair_id(row(1)) == content_pair_id(row(1)) != content_pair_id(row(2))


class TestCleanCaptions:
    def test_order_and_wording_stay(self):
        assert clean_captions(["b ", "", "a"], None, " a", "  \n", "b") == ["b ", "a"]

    @settings(deadline=None)
    @given(st.lists(st.none() | st.text(alphabet="ab \t\n", max_size=4)))
    def test_is_idempotent_and_leaves_no_blank(self, captions):
        cleaned = clean_captions(captions)
        assert clean_captions(cleaned) == cleaned
        assert {caption.strip() for caption in cleaned} == {c.strip() for c in captions if c and c.strip()}

    @pytest.mark.parametrize("value", [3, [["nested"]], {"raw": "a"}])
    def test_anything_else_raises(self, value):
        with pytest.raises(ValueError, match="caption has to be a string"):
            clean_captions(value)


class TestLoadPairs:
    def test_image_folder(self, folder):
        dataset = load_pairs(folder, split="train")  # the broken file raises here if any image is decoded
        assert dataset.column_names == ["image", "caption", "pair_id"]
        assert texts(undecoded(dataset))[1] == {"caption": "w1 w5", "pair_id": 1}
        assert dataset[0]["image"].size == (20, 12)
        with pytest.raises(OSError):
            dataset[3]
        assert list(load_pairs(str(folder))) == ["train"]

    def test_several_caption_columns(self, folder):
        dataset = load_pairs(
            folder,
            split="train",
            caption_columns=["alt", "caption"],
            pair_id_column="identifier",
            keep_columns=["alt", "image"],
        )
        assert dataset.column_names == ["image", "captions", "pair_id", "alt"]
        assert texts(undecoded(dataset))[0] == {"captions": ["w0", "w0 w5"], "pair_id": "id-0", "alt": "w0"}

    @pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv"])
    def test_files(self, folder, tmp_path, suffix):
        columns = {"image": [str(folder / "0.png"), str(folder / "1.jpg")], "text": ["w1", "w2"]}
        dataset, path = Dataset.from_dict(columns), str(tmp_path / f"pairs{suffix}")
        {".parquet": dataset.to_parquet, ".jsonl": dataset.to_json, ".csv": dataset.to_csv}[suffix](path)
        loaded = load_pairs(path)
        assert texts(loaded) == [{"caption": "w1", "pair_id": 0}, {"caption": "w2", "pair_id": 1}]
        assert loaded[1]["image"].format == "JPEG"

    def test_parquet_with_embedded_images(self, tmp_path):
        path = tmp_path / "pairs.parquet"
        source = Dataset.from_list([row(seed) for seed in range(3)])
        source.to_parquet(str(path))
        raw = Dataset.from_dict({"image": [encoded(picture(0))], "caption": ["w1"]}, features=Features(
            {"image": Value("binary"), "caption": Value("string")}
        ))  # fmt: skip
        assert load_pairs(path)[2]["image"].tobytes() == picture(2).tobytes()
        assert load_pairs(raw)[0]["image"].tobytes() == picture(0).tobytes()

    def test_saved_to_disk(self, tmp_path):
        DatasetDict(train=Dataset.from_list([row()])).save_to_disk(str(tmp_path / "saved"))
        assert load_pairs(tmp_path / "saved", split="train")[0]["caption"] == "w1 w2 w3"
        with pytest.raises(ValueError, match="save_to_disk"):
            load_pairs(tmp_path / "saved", streaming=True)

    def test_data_files_assign_splits(self, tmp_path):
        for name in ("test_a-00000-of-00001", "test_b-00000-of-00001"):
            Dataset.from_list([row()]).to_parquet(str(tmp_path / "data" / f"{name}.parquet"))
        loaded = load_pairs(tmp_path / "data", data_files={"test_a": "test_a*.parquet", "test_b": "test_b*.parquet"})
        assert list(loaded) == ["test_a", "test_b"]

    def test_detection_prefers_captions(self):
        columns = {"image": [picture()], "text": ["w1"], "captions": [["w2"]], "caption": ["w3"], "title": ["w4"]}
        assert texts(load_pairs(Dataset.from_dict(columns))) == [{"captions": ["w2"], "pair_id": 0}]
        columns["captions"] = [5]
        assert texts(load_pairs(Dataset.from_dict(columns))) == [{"caption": "w3", "pair_id": 0}]

    def test_captions_are_flattened_and_cleaned(self):
        columns = {
            "image": [picture(0), picture(1)],
            "sentences": [["w1", "", None, "w2"], []],
            "title": ["w1", "w3"],
        }
        loaded = load_pairs(Dataset.from_dict(columns), caption_columns=["sentences", "title"])
        assert loaded["captions"][:] == [["w1", "w2"], ["w3"]]
        single = Dataset.from_dict({"image": [picture()], "captions": [["w1", " ", "w1"]]})
        assert load_pairs(single)[0]["captions"] == ["w1"]

    def test_unusable_rows_are_left_out_and_counted(self, warnings_of):
        rows = [row(0), row(1, None), row(2, " "), row(3), {**row(4), "image": None}, {**row(5), "pair_id": None}]
        loaded = load_pairs(Dataset.from_list(rows))
        assert texts(loaded) == texts([rows[0], rows[3]])
        (warning,) = warnings_of()
        assert "4 of 6 rows are left out (1 with no image, 2 with no caption, 1 with no pair id)" in warning

    def test_row_numbers_are_those_of_the_source(self):
        source = Dataset.from_list([row(0), row(1, ""), row(2)]).remove_columns("pair_id")
        assert load_pairs(source)["pair_id"][:] == [0, 2]
        assert load_pairs(source.select([2, 0]))["pair_id"][:] == [0, 1]

    def test_no_usable_row_raises(self):
        with pytest.raises(ValueError, match="no usable pair: of 2 rows, 2 with no caption.*'caption'"):
            load_pairs(Dataset.from_list([row(0, None), row(1, "")]))
        with pytest.raises(ValueError, match="no usable pair: of 1 rows, 1 with no image"):
            load_pairs(Dataset.from_list([{"image": None, "caption": "w1"}]))
        with pytest.raises(ValueError, match="no rows"):
            load_pairs(Dataset.from_list([row()]).select([]))

    @pytest.mark.parametrize("captions", [{"caption": "w1 "}, {"captions": ["w1", "w2"]}])
    @pytest.mark.parametrize("pair_id", [7, "seven"])
    def test_is_idempotent(self, captions, pair_id):
        source = Dataset.from_list([{"image": picture(seed), **captions, "pair_id": pair_id} for seed in range(2)])
        once = load_pairs(source)
        twice = load_pairs(once)
        assert once.features == twice.features == source.features
        assert list(undecoded(twice)) == list(undecoded(once)) == list(undecoded(source))

    def test_the_source_column_can_be_kept(self):
        source = Dataset.from_dict({"picture": [picture()], "text": ["w1"], "image_id": [ClassLabel(2).num_classes]})
        loaded = load_pairs(
            source, image_column="picture", pair_id_column="image_id", keep_columns=["text", "image_id"]
        )
        assert texts(loaded) == [{"caption": "w1", "pair_id": 2, "text": "w1", "image_id": 2}]

    def test_output_formats_are_removed_and_transforms_refused(self):
        source = Dataset.from_list([row()])
        assert isinstance(load_pairs(source.with_format("torch"))[0]["image"], PIL.Image.Image)
        with pytest.raises(ValueError, match="transform"):
            load_pairs(source.with_transform(lambda batch: batch))

    @pytest.mark.parametrize("indices", [None, [2, 0, 1]])
    def test_streaming_gives_the_same_pairs(self, warnings_of, indices):
        rows = [
            {"image": picture(seed), "one": one, "two": two, "pair_id": f"id-{seed}", "kept": seed}
            for seed, (one, two) in enumerate([("w1", ["w2"]), (None, []), ("w3", ["w3", None])])
        ]
        source = Dataset.from_list(rows)
        source = source if indices is None else source.select(indices)
        arguments = {"caption_columns": ["one", "two"], "keep_columns": ["kept"]}
        stream = load_pairs(source.to_iterable_dataset(), **arguments)
        dataset = load_pairs(source, **arguments)
        assert stream.features == dataset.features
        # Whoever reads the stream counts what cannot be used.
        usable = [example for example in stream if example["captions"]]
        assert len(list(stream)) == 3 and [example["pair_id"] for example in usable] == dataset["pair_id"][:]
        assert [example["captions"] for example in usable] == dataset["captions"][:]
        assert [example["image"].tobytes() for example in usable] == [r["image"].tobytes() for r in dataset]
        assert set(next(iter(undecoded(stream)))["image"]) == {"bytes", "path"}
        assert texts(load_pairs(stream, keep_columns=["kept"])) == texts(stream)

    def test_rows_of_a_stream_without_an_id_are_left_out(self, warnings_of):
        rows = [
            {"image": picture(seed), "text": "w", "pair_id": f"id-{seed}" if seed % 2 else None} for seed in range(4)
        ]
        stream = load_pairs(Dataset.from_list(rows).to_iterable_dataset())
        assert [example["pair_id"] for example in stream] == ["id-1", "id-3"]
        assert len([message for message in warnings_of() if "no pair id are left out as they are met" in message]) == 1

    def test_streaming_from_a_file(self, tmp_path):
        Dataset.from_list([row(seed) for seed in range(3)]).to_parquet(str(tmp_path / "pairs.parquet"))
        stream = load_pairs(tmp_path / "pairs.parquet", streaming=True)
        assert isinstance(stream, IterableDataset) and texts(stream)[2] == {"caption": "w1 w2 w3", "pair_id": 2}

    def test_streams_without_known_features(self):
        def rows():
            yield from ({"image": picture(seed), "text": f"w{seed}"} for seed in range(3))

        stream = IterableDataset.from_generator(rows)
        assert stream.features is None
        assert [example["caption"] for example in load_pairs(stream)] == ["w0", "w1", "w2"]

    def test_splits(self):
        source = DatasetDict(train=Dataset.from_list([row(0)]), test=Dataset.from_list([row(1), row(2)]))
        assert {name: len(part) for name, part in load_pairs(source).items()} == {"train": 1, "test": 2}
        assert load_pairs(source, split="test")["pair_id"][:] == [1, 2]
        with pytest.raises(ValueError, match="no split 'dev'.*'train', 'test'"):
            load_pairs(source, split="dev")
        with pytest.raises(ValueError, match="single split"):
            load_pairs(source["train"], split="train")

    @pytest.mark.parametrize(
        ("columns", "arguments", "message"),
        [
            ({"image": 0, "label": 1}, {}, r"`image`, `label`.*`caption_columns="),
            ({"image": 0, "text": "a"}, {"caption_columns": "txt"}, r"'txt'.*`image`, `text`"),
            ({"image": 0, "text": 5}, {"caption_columns": ["text"]}, "`text` has to hold strings"),
            ({"image": 0, "text": "a"}, {"caption_columns": []}, "empty"),
            ({"jpg": 0, "text": "a"}, {}, r"'image' among `jpg`, `text`.*`image_column='jpg'`"),
            ({"image": 0, "n": 1, "text": "a"}, {"image_column": "n"}, "`n` has to hold images"),
            ({"image": 0, "text": "a"}, {"pair_id_column": "id"}, "'id', which is not among"),
            ({"image": 0, "text": "a", "id": 0.5}, {"pair_id_column": "id"}, "integers or strings"),
            ({"image": 0, "text": "a"}, {"pair_id_column": "image"}, "the pair id as well"),
            ({"image": 0, "text": "a"}, {"keep_columns": ["url"]}, "'url', which is not among"),
            (
                {"image": 0, "text": "a", "caption": "b"},
                {"caption_columns": "text", "keep_columns": ["caption"]},
                "rename",
            ),
            ({"image": 0, "text": "a"}, {"streaming": True}, "`streaming` says how to open"),
            ({"image": 0, "text": "a"}, {"revision": "main"}, "`revision` says how to open"),
        ],
    )
    def test_bad_arguments_raise(self, columns, arguments, message):
        columns = {name: picture() if value == 0 and name != "label" else value for name, value in columns.items()}
        with pytest.raises(ValueError, match=message):
            load_pairs(Dataset.from_list([columns]), **arguments)

    def test_bad_sources_raise(self, tmp_path):
        (tmp_path / "notes.txt").write_text("text")
        with pytest.raises(FileNotFoundError, match="no file or folder"):
            load_pairs(tmp_path / "absent")
        with pytest.raises(FileNotFoundError, match="no file or folder"):
            load_pairs("absent.parquet")
        with pytest.raises(ValueError, match="parquet"):
            load_pairs(tmp_path / "notes.txt")
        with pytest.raises(ValueError, match="got list"):
            load_pairs([row()])


class TestUndecoded:
    def test_every_kind_of_dataset(self):
        source = Dataset.from_list([row(0), row(1)])
        stream = source.to_iterable_dataset()
        for dataset in (source, DatasetDict(train=source)["train"], source.select([1, 0]), stream):
            example = next(iter(undecoded(dataset)))
            assert PIL.Image.open(io.BytesIO(example["image"]["bytes"])).size == (SIZE, SIZE)
            assert undecoded(dataset).features["image"] == Image(decode=False)
        assert undecoded(DatasetDict(train=source))["train"][0]["image"]["path"] is None

    def test_what_it_leaves_alone(self):
        source = Dataset.from_list([row()])
        transformed = source.with_transform(lambda batch: batch)
        assert undecoded(transformed) is transformed
        assert undecoded(undecoded(source)).features["image"] == Image(decode=False)
        words = Dataset.from_dict({"caption": ["w1"]})
        assert undecoded(words) is words


class TestDecodeImage:
    @pytest.mark.parametrize(
        "mode", ["RGB", "L", "1", "P", "CMYK", "YCbCr", "HSV", "RGBA", "LA", "PA", "RGBa", "I", "F"]
    )
    def test_every_mode_becomes_rgb(self, mode):
        source = picture(mode="RGBA" if mode in ("PA", "RGBa") else "RGB")
        result = to_rgb(source.convert(mode))
        assert result.mode == "RGB" and result.size == source.size
        reference = source.convert("L" if mode in ("L", "I", "F", "LA") else "RGB").convert("RGB")
        if mode not in ("1", "P", "PA"):
            assert np.abs(np.asarray(result, int) - np.asarray(reference, int)).max() <= 12

    @pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
    def test_file_formats(self, format, tmp_path):
        content = encoded(picture(), format=format)
        path = tmp_path / "picture"
        path.write_bytes(content)
        results = [
            decode_image({"bytes": content, "path": None}),
            decode_image({"path": str(path)}),
            decode_image(path),
        ]
        assert all(result.mode == "RGB" and result.tobytes() == results[0].tobytes() for result in results)

    def test_urls(self):
        with fsspec.open("memory://picture.png", "wb") as file:
            file.write(encoded(picture()))
        assert decode_image({"bytes": None, "path": "memory://picture.png"}).tobytes() == picture().tobytes()

    @pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB", "L"])
    def test_transparency_becomes_white(self, mode):
        image = PIL.Image.new("RGBA", (4, 2), (0, 0, 0, 0))
        image.paste((0, 0, 0, 255), (2, 0, 4, 2))
        if mode in ("RGBA", "LA"):
            content = encoded(image.convert(mode))
        else:  # one colour that stands for transparency, in the left half
            image = PIL.Image.new(mode, (4, 2), 0)
            image.paste({"P": 1, "L": 9, "RGB": (9, 9, 9)}[mode], (0, 0, 2, 2))
            if mode == "P":
                image.putpalette([0, 0, 0, 0, 0, 255])
            content = encoded(image, transparency={"P": 1, "L": 9, "RGB": (9, 9, 9)}[mode])
        pixels = np.asarray(decode_image({"bytes": content}))
        assert (pixels[:, :2] == 255).all() and (pixels[:, 2:] == 0).all()

    def test_sixteen_bits_are_scaled(self):
        levels = np.array([[0, 257 * 100, 65535]], dtype=np.uint16)
        image = decode_image({"bytes": encoded(PIL.Image.fromarray(levels))})
        assert np.asarray(image)[0].tolist() == [[0] * 3, [100] * 3, [255] * 3]

    @pytest.mark.parametrize(
        ("levels", "expected"),
        [([0, 100, 255], [0, 100, 255]), ([-1000, 0, 1000], [0, 128, 255]), ([7, 7, 7], [7] * 3)],
    )
    @pytest.mark.parametrize("dtype", [np.int32, np.float32])
    def test_wide_levels(self, levels, expected, dtype):
        image = to_rgb(PIL.Image.fromarray(np.array([levels], dtype=dtype)))
        assert np.asarray(image)[0, :, 0].tolist() == expected

    def test_floats_between_0_and_1(self):
        image = to_rgb(PIL.Image.fromarray(np.array([[0.0, 0.2, 1.0, np.nan]], dtype=np.float32)))
        assert np.asarray(image)[0, :, 0].tolist() == [0, 51, 255, 0]

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_exif_orientation_is_applied_once(self, orientation):
        upright = picture(size=(12, 6))
        undo = {
            2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE",
            6: "ROTATE_90", 7: "TRANSVERSE", 8: "ROTATE_270",
        }  # fmt: skip
        stored = upright if orientation == 1 else upright.transpose(PIL.Image.Transpose[undo[orientation]])
        exif = PIL.Image.Exif()
        exif[PIL.ExifTags.Base.Orientation] = orientation
        result = decode_image({"bytes": encoded(stored, exif=exif)})
        assert result.tobytes() == upright.tobytes()
        assert to_rgb(result).tobytes() == upright.tobytes()

    def test_animations_show_their_first_frame(self):
        content = encoded(picture(0), format="WEBP", save_all=True, append_images=[picture(1)], lossless=True)
        assert decode_image({"bytes": content}).tobytes() == picture(0).tobytes()

    @pytest.mark.filterwarnings("ignore::UserWarning:PIL")
    @pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "TIFF"])
    def test_truncated_files(self, format):
        content = encoded(picture(size=(64, 64)), format=format)
        for length in (0, 3, 20, len(content) // 2):
            with pytest.raises(ImageDecodingError):
                decode_image({"bytes": content[:length], "path": "picture"})

    @pytest.mark.filterwarnings("ignore::UserWarning:PIL")
    @settings(max_examples=60, deadline=None)
    @given(st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "TIFF"]), st.integers(0), st.integers(0, 255))
    def test_damaged_files_decode_or_raise_one_error(self, format, position, value):
        content = bytearray(encoded(picture(size=(32, 32)), format=format))
        content[position % len(content)] = value
        try:
            assert decode_image({"bytes": bytes(content)}).mode == "RGB"
        except ImageDecodingError:
            pass

    def test_missing_files(self, tmp_path):
        with pytest.raises(ImageDecodingError, match="FileNotFoundError"):
            decode_image({"bytes": None, "path": str(tmp_path / "absent.png")})
        with pytest.raises(ImageDecodingError, match="neither"):
            decode_image({"bytes": None, "path": None})

    def test_decompression_bombs(self, monkeypatch):
        monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 150)
        content = encoded(picture())
        with (
            pytest.warns(PIL.Image.DecompressionBombWarning),
            pytest.raises(ImageDecodingError, match="MAX_IMAGE_PIXELS"),
        ):
            decode_image({"bytes": content})
        monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 100)  # beyond twice the limit, Pillow raises
        with pytest.raises(ImageDecodingError, match="DecompressionBombError"):
            decode_image({"bytes": content})
        monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", None)
        assert decode_image({"bytes": content}).mode == "RGB"

    @pytest.mark.parametrize("value", [5, b"bytes", np.zeros((2, 2, 3)), torch.zeros(3, 2, 2), {"url": "x"}])
    def test_other_types_raise(self, value):
        with pytest.raises(TypeError, match="An image has to be"):
            decode_image(value)


class TestPairAugmentation:
    def test_operations_that_would_change_what_a_caption_says_are_absent(self):
        assert set(PairRandAugment._AUGMENTATION_SPACE) == {
            "Identity", "AutoContrast", "Equalize", "Brightness", "Sharpness",
            "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate",
        }  # fmt: skip

    def test_the_table_is_the_one_that_is_used(self, monkeypatch):
        drawn = set()

        def record(self, image, transform_id, magnitude, **arguments):
            drawn.add((transform_id, round(abs(magnitude), 3)))
            return image

        monkeypatch.setattr(PairRandAugment, "_apply_image_or_video_transform", record)
        for _ in range(100):
            PairRandAugment(num_ops=3, magnitude=7)(picture(size=(256, 128)))
        assert drawn == {
            ("Identity", 0), ("AutoContrast", 0), ("Equalize", 0), ("Brightness", 0.35), ("Sharpness", 0.35),
            ("ShearX", 0.21), ("ShearY", 0.21), ("TranslateX", 7), ("TranslateY", 3.5), ("Rotate", 21),
        }  # fmt: skip

    def test_red_stays_red(self):
        image = PIL.Image.fromarray(np.asarray(picture(size=(32, 32))) * np.array([1, 0, 0], dtype=np.uint8))
        augment = pair_augmentation(24, num_ops=4, op_probability=1.0, magnitude=10, fill=0)
        torch.manual_seed(0)
        results = torch.stack([augment(image) for _ in range(100)])
        assert results[:, 1:].max() <= 3 and results[:, 0].max() > 100

    @pytest.mark.parametrize("size", [(5, 7), (40, 30), (300, 500)])
    @pytest.mark.parametrize("image_size", [16, (12, 20)])
    def test_result(self, size, image_size):
        augment = pair_augmentation(image_size, horizontal_flip=0.5, op_probability=1.0)
        shape = (3, 16, 16) if image_size == 16 else (3, 12, 20)
        image = picture(size=size)
        inputs = [image, image.convert("L"), image.convert("CMYK"), F.pil_to_tensor(image), F.pil_to_tensor(image)[:1]]
        for source in inputs:
            result = augment(source)
            assert type(result) is torch.Tensor and result.dtype == torch.uint8 and result.shape == shape

    @pytest.mark.parametrize("size", [(20, 20), (120, 120)])
    def test_without_chance_it_is_a_resize(self, size):
        image = picture(size=size)
        plain = {"min_scale": 1.0, "num_ops": 0}
        expected = F.pil_to_tensor(F.resize(image, [SIZE, SIZE], interpolation=F.InterpolationMode.BICUBIC)).int()
        for source in (image, F.pil_to_tensor(image)):
            # The whole image is the only square crop of scale 1; other aspect ratios do not fit and fall back to it.
            close = [(pair_augmentation(SIZE, **plain)(source).int() - expected).abs().max() <= 2 for _ in range(10)]
            assert all(close)
            mirrored = pair_augmentation(SIZE, horizontal_flip=1.0, **plain)(source).int()
            assert (mirrored.flip(-1) - expected).abs().max() <= 2 < (mirrored - expected).abs().max()

    def test_crops_keep_the_share_they_should(self):
        grid = np.stack(np.broadcast_arrays(np.arange(200)[:, None], np.arange(200)[None], 0), axis=-1).astype(
            np.uint8
        )
        augment = pair_augmentation(100, min_scale=0.5, num_ops=0)
        for _ in range(30):
            result = augment(PIL.Image.fromarray(grid)).float()
            spans = [result[axis].max() - result[axis].min() for axis in range(2)]
            assert spans[0] * spans[1] / 200**2 > 0.45

    def test_fill(self):
        image = PIL.Image.new("RGB", (32, 32), "black")
        augment = pair_augmentation(32, num_ops=1, op_probability=1.0, magnitude=10, fill=[200, 150, 100])
        results = torch.stack([augment(image) for _ in range(40)])
        assert results.amax(dim=(0, 2, 3)).tolist() == [200, 150, 100]

    def test_torch_seeds_everything(self):
        augment = pickle.loads(pickle.dumps(pair_augmentation(SIZE, horizontal_flip=0.5)))
        results = []
        for _ in range(2):
            torch.manual_seed(3)
            results.append(torch.stack([augment(picture(seed, (40, 30))) for seed in range(20)]))
        assert torch.equal(*results)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"image_size": 0}, "image_size"),
            ({"min_scale": 0}, "min_scale"),
            ({"horizontal_flip": 2}, "horizontal_flip"),
            ({"op_probability": -1}, "op_probability"),
            ({"num_ops": -1}, "num_ops"),
            ({"magnitude": 11}, "magnitude"),
            ({"fill": 256}, "fill"),
            ({"fill": (1, 2)}, "fill"),
            ({"interpolation": "cubic"}, "cubic"),
        ],
    )
    def test_bad_arguments_raise(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            pair_augmentation(**{"image_size": SIZE, **arguments})

    def test_bad_tensors_raise(self):
        for tensor in (torch.zeros(3, 8, 8), torch.zeros(4, 8, 8, dtype=torch.uint8)):
            with pytest.raises(ValueError, match="uint8 of shape"):
                pair_augmentation(SIZE)(tensor)


captions_strategy = st.lists(
    st.lists(st.sampled_from([*WORDS[:20], "unknown", "[SEP]", "[MASK]", "[PAD]"]), min_size=1, max_size=12).map(
        " ".join
    ),
    min_size=1,
    max_size=6,
)


class TestMasking:
    @staticmethod
    def masks(captions, seed=0, evaluation=False, **arguments):
        """Token tensors and masks of some captions."""
        collator = PairCollator(make_processor(), **arguments)
        collator = collator.for_evaluation() if evaluation else collator
        torch.manual_seed(seed)
        return collator([row(number, caption) for number, caption in enumerate(captions)])

    @settings(max_examples=80, deadline=None)
    @given(captions_strategy, st.integers(0, 2**31), st.sampled_from([0.05, 0.15, 0.5, 1.0]), st.booleans())
    def test_properties(self, captions, seed, probability, evaluation):
        batch = self.masks(captions, seed, evaluation, mlm_probability=probability)
        ids, positions, labels = batch["input_ids"], batch["mlm_positions"], batch["mlm_labels"]
        assert positions.shape == labels.shape and positions.dtype == labels.dtype == torch.int64
        assert batch["mlm_input_ids"].shape == ids.shape and batch["mlm_input_ids"].dtype == torch.int64
        real = labels != -100
        assert (positions[~real] == 0).all()
        # Labels are the original tokens, and never special ones.
        assert torch.equal(ids.gather(1, positions)[real], labels[real])
        assert (labels[real] >= len(SPECIAL)).all()
        # Nothing changes outside the positions, and nothing becomes special but the mask token.
        masked = torch.zeros_like(ids, dtype=torch.bool)
        for number in range(len(ids)):
            chosen = positions[number][real[number]]
            assert (chosen.diff() > 0).all() and real[number][: len(chosen)].all()
            masked[number, chosen] = True
        assert torch.equal(batch["mlm_input_ids"][~masked], ids[~masked])
        replaced = batch["mlm_input_ids"][masked]
        assert ((replaced >= len(SPECIAL)) | (replaced == make_tokenizer().mask_token_id)).all()
        # A row with an ordinary token has one to predict, and a row without has none.
        assert torch.equal(real.any(dim=1), (ids >= len(SPECIAL)).any(dim=1))
        if probability == 1.0:
            assert torch.equal(masked, ids >= len(SPECIAL))

    def test_rates(self):
        captions = [" ".join(np.random.default_rng(seed).choice(WORDS, 100)) for seed in range(300)]
        for evaluation in (False, True):
            batch = self.masks(captions, evaluation=evaluation)
            real = batch["mlm_labels"] != -100
            assert abs(real.sum().item() / 30_000 - 0.15) < 0.01
            shown = batch["mlm_input_ids"].gather(1, batch["mlm_positions"])[real]
            mask_share = (shown == make_tokenizer().mask_token_id).float().mean().item()
            same_share = (shown == batch["mlm_labels"][real]).float().mean().item()
            assert abs(mask_share - 0.8) < 0.03 and abs(same_share - 0.1) < 0.02
            assert len(shown.unique()) > 150  # random tokens come from the whole vocabulary

    def test_every_position_is_as_likely(self):
        batch = self.masks(["w1 w2 w3 w4"] * 2000)
        counts = batch["mlm_positions"][batch["mlm_labels"] != -100].bincount()
        assert counts[0] == 0 and counts[1:].min() / counts[1:].max() > 0.85

    def test_rows_without_ordinary_tokens(self):
        batch = self.masks(["unknown", "[SEP] unknown"])
        assert batch["mlm_labels"].tolist() == [[-100], [-100]]
        assert torch.equal(batch["mlm_input_ids"], batch["input_ids"])

    def test_evaluation_masks_depend_on_the_text_alone(self):
        captions = ["w1 w2 w3 w4 w5", "w6 w7", "w8 " * 30]
        together = self.masks(captions, seed=1, evaluation=True)
        assert equal(together, self.masks(captions, seed=2, evaluation=True))
        for number, caption in enumerate(captions):
            alone = self.masks([caption], seed=3 + number, evaluation=True)
            length = alone["input_ids"].shape[1]
            assert torch.equal(alone["mlm_input_ids"][0], together["mlm_input_ids"][number, :length])
            real = together["mlm_labels"][number] != -100
            assert torch.equal(alone["mlm_labels"][0], together["mlm_labels"][number][real])
        assert not equal(together, self.masks(captions[::-1], seed=1, evaluation=True))

    def test_evaluation_draws_nothing(self):
        torch.manual_seed(0)
        state = torch.get_rng_state()
        PairCollator(make_processor()).for_evaluation()([row(captions=["w1", "w2"])])
        assert torch.equal(torch.get_rng_state(), state)

    def test_left_padding(self):
        tokenizer = pickle.loads(pickle.dumps(make_tokenizer()))
        tokenizer.padding_side = "left"
        processor = SimpleNamespace(tokenizer=tokenizer, image_processor=make_processor().image_processor)
        batch = PairCollator(processor)([row(0, "w1"), row(1, "w2 w3 w4 w5")])
        assert batch["mlm_positions"][0, 0] == 4 and batch["mlm_labels"][0, 0] == len(SPECIAL) + 1


class TestPairCollator:
    def test_batch(self):
        batch = PairCollator(make_processor())([row(0), row(1, "w1"), row(2, pair_id="two")])
        assert set(batch) == {
            "pixel_values", "input_ids", "attention_mask", "pair_ids", "mlm_input_ids", "mlm_positions", "mlm_labels",
        }  # fmt: skip
        assert batch["pixel_values"].shape == (3, 3, SIZE, SIZE) and batch["pixel_values"].dtype == torch.float32
        assert batch["input_ids"].tolist()[1] == [2, len(SPECIAL) + 1, 3, 0, 0]
        assert batch["attention_mask"].tolist()[1] == [1, 1, 1, 0, 0]
        assert all(batch[name].dtype == torch.int64 for name in batch if name != "pixel_values")
        assert batch["pair_ids"].tolist() == pair_ids_tensor([0, 1, "two"]).tolist()

    def test_without_masking(self):
        batch = PairCollator(make_processor(), mlm_probability=0)([row()])
        assert set(batch) == {"pixel_values", "input_ids", "attention_mask", "pair_ids"}

    def test_pixels_are_those_of_the_image_processor(self):
        image = picture(size=(40, 30))
        expected = make_processor().image_processor(image, return_tensors="pt")["pixel_values"]
        collator = PairCollator(make_processor())
        for form in (image, {"bytes": encoded(image), "path": None}, image.convert("RGBA")):
            assert torch.equal(collator([row(image=form)])["pixel_values"], expected)

    @pytest.mark.parametrize("backend", ["blip", "clip", "unnormalised"])
    def test_an_identity_augmentation_changes_nothing(self, backend):
        image_processor = {
            "blip": partial(BlipImageProcessor, size={"height": SIZE, "width": SIZE}),
            "clip": partial(CLIPImageProcessor, size={"shortest_edge": SIZE}, crop_size=SIZE),
            "unnormalised": partial(BlipImageProcessor, size={"height": SIZE, "width": SIZE}, do_normalize=False),
        }[backend]()
        processor = CLIPProcessor(image_processor=image_processor, tokenizer=make_tokenizer())
        rows = [row(seed) for seed in range(4)]
        batches = []
        for transform in (None, identity, lambda image: image):
            torch.manual_seed(0)
            batches.append(PairCollator(processor, transform)(rows))
        assert equal(batches[0], batches[1]) and equal(batches[0], batches[2])

    def test_augmentation_is_applied_to_upright_rgb(self):
        seen = []

        def look(image):
            seen.append((image.mode, image.size))
            return F.pil_to_tensor(image.resize((SIZE, SIZE)))

        exif = PIL.Image.Exif()
        exif[PIL.ExifTags.Base.Orientation] = 6
        content = encoded(picture(size=(20, 10)), format="JPEG", exif=exif)
        PairCollator(make_processor(), look)(
            [row(image={"bytes": content, "path": None}), row(image=picture(mode="LA"))]
        )
        assert seen == [("RGB", (10, 20)), ("RGB", (SIZE, SIZE))]

    def test_wrong_augmentations_raise(self):
        with pytest.raises(ValueError, match=r"image of 24 x 24.*makes 16 x 16.*pair_augmentation\(\(16, 16\)\)"):
            PairCollator(make_processor(), pair_augmentation(24))([row()])
        for transform in (lambda image: identity(image).float(), lambda image: identity(image)[0], np.asarray):
            with pytest.raises(ValueError, match="uint8 tensor of shape"):
                PairCollator(make_processor(), transform)([row()])

    def test_torch_seeds_everything(self):
        collator = PairCollator(make_processor(), pair_augmentation(SIZE))
        rows = [{"image": picture(seed), "captions": WORDS[:9], "pair_id": seed} for seed in range(8)]
        torch.manual_seed(5)
        first, other = collator(rows), collator(rows)
        torch.manual_seed(5)
        assert equal(first, collator(rows)) and not equal(first, other)

    def test_caption_sampling(self):
        pair = {"image": picture(), "captions": ["", "w1", None, "w2", "w3"], "pair_id": 0}
        collator = PairCollator(make_processor(), mlm_probability=0)
        assert set(collator([pair] * 60)["input_ids"][:, 1].tolist()) == {6, 7, 8}
        first = PairCollator(make_processor(), mlm_probability=0, caption_sampling="first")
        assert set(first([pair] * 10)["input_ids"][:, 1].tolist()) == {6}

    def test_for_evaluation(self):
        collator = PairCollator(make_processor(), pair_augmentation(SIZE), mlm_probability=0.3, max_length=9)
        collator.skipped["x"] += 1
        evaluation = collator.for_evaluation()
        assert evaluation.image_transform is None and evaluation.caption_sampling == "first"
        assert evaluation.mlm_probability == 0.3 and evaluation.max_length == 9 and not evaluation.skipped
        assert collator.image_transform is not None and collator.caption_sampling == "random"

    def test_for_training(self):
        training = PairCollator(make_processor(), max_length=9).for_training(fill=255)
        assert training.max_length == 9 and training.caption_sampling == "random"
        assert training([row(image=picture(size=(40, 30)))])["pixel_values"].shape == (1, 3, SIZE, SIZE)
        image_processor = BlipImageProcessor(do_resize=False)
        processor = SimpleNamespace(tokenizer=make_tokenizer(), image_processor=image_processor)
        with pytest.raises(ValueError, match="different shapes"):
            PairCollator(processor).for_training()
        free = PairCollator(processor, pair_augmentation(24))([row()])  # no size to hold the augmentation to
        assert free["pixel_values"].shape == (1, 3, 24, 24)

    def test_lengths(self):
        rows = [row(0, "w1 " * 50), row(1, "w2")]
        assert PairCollator(make_processor())(rows)["input_ids"].shape == (2, 52)
        cut = PairCollator(make_processor(), max_length=10)(rows)
        assert cut["input_ids"].shape == (2, 10) and cut["input_ids"][0, -1] == make_tokenizer().sep_token_id
        assert PairCollator(make_processor())([row(0, "w1 " * 500)])["input_ids"].shape == (1, 128)
        padded = PairCollator(make_processor(), max_length=32, pad_to_multiple_of=32)([row(1, "w2")])
        assert padded["input_ids"].shape == (1, 32)

    def test_tokenizers_without_a_limit(self):
        tokenizer = pickle.loads(pickle.dumps(make_tokenizer()))
        tokenizer.model_max_length = int(1e30)
        processor = SimpleNamespace(tokenizer=tokenizer, image_processor=make_processor().image_processor)
        assert PairCollator(processor)([row(0, "w1 " * 500)])["input_ids"].shape == (1, 502)

    def test_missing_ids_are_derived_from_the_pair(self):
        rows = [row(seed) for seed in (0, 1, 0)]
        for pair in rows:
            del pair["pair_id"]
        ids = PairCollator(make_processor())(rows)["pair_ids"].tolist()
        assert ids[0] == ids[2] != ids[1] and ids[0] == content_pair_id(rows[0])

    @pytest.mark.parametrize("missing", ["image", "caption"])
    def test_missing_columns_raise(self, missing):
        pair = {**row(), "url": "x"}
        del pair[missing]
        with pytest.raises(ValueError, match=rf"'{missing}'.*this one has .*'url'.*remove_unused_columns"):
            PairCollator(make_processor())([pair])

    def test_bad_pairs_are_left_out_counted_and_logged_once(self, warnings_of):
        broken = {"bytes": encoded(picture())[:50], "path": None}
        rows = [row(0), row(1, image=broken), row(2, " "), row(3, image=None), row(4, image=broken), row(5)]
        collator = PairCollator(make_processor())
        batch = collator(rows)
        assert batch["pair_ids"].tolist() == [0, 5] and len(batch["pixel_values"]) == len(batch["input_ids"]) == 2
        assert collator.skipped == {"unreadable image": 2, "no caption": 1, "no image": 1}
        collator(rows)
        assert collator.skipped.total() == 8
        messages = warnings_of()
        assert len(messages) == 3 and any("pair 1: unreadable image (" in message for message in messages)

    def test_batches_without_a_usable_pair_raise(self):
        collator = PairCollator(make_processor())
        with pytest.raises(ValueError, match="Of 2 pairs none is usable: 1 with no caption, 1 with unreadable image"):
            collator([row(0, ""), row(1, image={"bytes": b"", "path": None})])
        with pytest.raises(ValueError, match="the batch is empty"):
            collator([])

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"mlm_probability": 1.5}, "mlm_probability"),
            ({"max_length": 0}, "max_length"),
            ({"pad_to_multiple_of": 1.5}, "pad_to_multiple_of"),
            ({"caption_sampling": "all"}, "caption_sampling"),
        ],
    )
    def test_bad_arguments_raise(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            PairCollator(make_processor(), **arguments)

    def test_processors_that_lack_something_raise(self):
        with pytest.raises(ValueError, match="no `image_processor`"):
            PairCollator(SimpleNamespace(tokenizer=make_tokenizer()))
        for token, message in (("mask", "mlm_probability=0"), ("pad", "pad_token")):
            tokenizer = pickle.loads(pickle.dumps(make_tokenizer()))
            setattr(tokenizer, f"{token}_token", None)
            processor = SimpleNamespace(tokenizer=tokenizer, image_processor=make_processor().image_processor)
            with pytest.raises(ValueError, match=message):
                PairCollator(processor)
            if token == "mask":
                assert "mlm_labels" not in PairCollator(processor, mlm_probability=0)([row()])

    @pytest.mark.parametrize("kind", ["map", "stream"])
    def test_data_loader_with_workers(self, folder, kind):
        dataset = undecoded(load_pairs(folder, split="train", caption_columns=["caption", "alt"]))
        dataset = dataset if kind == "map" else dataset.to_iterable_dataset(num_shards=2)
        collator = PairCollator(make_processor(), pair_augmentation(SIZE))
        epochs = []
        for _ in range(2):
            torch.manual_seed(0)
            loader = DataLoader(dataset, batch_size=2, collate_fn=collator, num_workers=2)
            epochs.append(list(loader))
        assert sorted(torch.cat([batch["pair_ids"] for batch in epochs[0]]).tolist()) == [0, 1, 2]  # 3.png is broken
        assert all(equal(*batches) for batches in zip(*epochs, strict=True))

    def test_pickles(self):
        collator = PairCollator(make_processor(), pair_augmentation(SIZE))
        torch.manual_seed(0)
        batch = collator([row()])
        torch.manual_seed(0)
        assert equal(batch, pickle.loads(pickle.dumps(collator))([row()]))
