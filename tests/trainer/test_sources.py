# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Pairs from tar files, annotations, tables and object stores: the same, whole or as a stream, or a clear error."""

import base64
import io
import itertools
import json
import logging
import os
import tarfile

import fsspec
import fsspec.implementations.memory
import numpy as np
import PIL.Image
import pytest
from datasets import Dataset, IterableDataset
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer import load_pairs, mix_pairs
from trainer.cli.loading import open_pairs
from trainer.cli.sources import PairArguments
from trainer.data import SeededStream, decode_image, undecoded
from trainer.data.locating import ImageLocator
from trainer.data.sources import expand_braces


def picture(seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return PIL.Image.fromarray(noise).resize((16, 16))


def encoded(seed=0, format="PNG"):
    buffer = io.BytesIO()
    picture(seed).save(buffer, format)
    return buffer.getvalue()


def texts(dataset):
    return [{name: value for name, value in row.items() if name != "image"} for row in undecoded(dataset)]


def pixels(dataset):
    return [np.asarray(row["image"].convert("RGB")).tolist() for row in dataset]


def same_images(dataset, seeds):
    return pixels(dataset) == [np.asarray(picture(seed)).tolist() for seed in seeds]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Whatever `datasets` prepares, it prepares for one test."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def folder(tmp_path):
    """Three images in a folder within a folder."""
    (tmp_path / "images" / "sub").mkdir(parents=True)
    for seed in range(3):
        (tmp_path / "images" / "sub" / f"{seed}.png").write_bytes(encoded(seed))
    return tmp_path


@pytest.fixture
def warnings_of(caplog):
    caplog.set_level(logging.WARNING)
    return lambda: [record.getMessage() for record in caplog.records]


def write_tar(path, members, **options):
    with tarfile.open(path, **{"mode": "w", **options}) as archive:
        for name, content in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def sample(seed, **fields):
    """What img2dataset writes of a pair."""
    fields = {"caption": f"number {seed}", "width": 16, "exif": None, "url": f"https://host/{seed}", **fields}
    return [
        (f"{seed:05d}.jpg", encoded(seed, "PNG")),
        (f"{seed:05d}.json", json.dumps(fields).encode()),
        (f"{seed:05d}.txt", f"number {seed}".encode()),
    ]


class TestTarShards:
    def test_img2dataset(self, tmp_path):
        for shard in range(3):
            write_tar(tmp_path / f"{shard:05d}.tar", sample(2 * shard) + sample(2 * shard + 1))
            # img2dataset leaves these beside the shards.
            Dataset.from_dict({"url": ["u"]}).to_parquet(str(tmp_path / f"{shard:05d}.parquet"))
        names = [str(tmp_path / "{00000..00002}.tar"), str(tmp_path / "*.tar"), str(tmp_path)]
        for name in names:
            for streaming in (False, True):
                dataset = load_pairs(name, streaming=streaming, pair_id_column="__key__", keep_columns=["width"])
                assert isinstance(dataset, IterableDataset if streaming else Dataset)
                assert texts(dataset) == [
                    {"caption": f"number {seed}", "pair_id": f"{seed:05d}", "width": 16} for seed in range(6)
                ]
                assert same_images(dataset, range(6))
        assert load_pairs(names[0], streaming=True).num_shards == 3
        paths = [str(tmp_path / "00001.tar"), tmp_path / "00000.tar"]
        assert [row["caption"] for row in load_pairs(paths, streaming=True)] == [f"number {n}" for n in (2, 3, 0, 1)]

    def test_kinds_of_images_and_fields_may_change(self, tmp_path):
        """The first samples do not decide about the others, of which `datasets` would stop at each."""
        write_tar(
            tmp_path / "a.tar",
            [
                *sample(0, license=None, tags=["a"], note="x"),
                ("1.webp", encoded(1, "WEBP")),
                ("1.txt", b"one"),
                ("2.PNG", encoded(2)),
                ("2.json", json.dumps({"caption": "two", "width": "wide", "license": "by", "tags": "b"}).encode()),
                ("3.jpg", encoded(3)),
                ("3.json", b'{"caption": broken'),
                ("3.txt", b"three \xff"),
                ("4.jpg", encoded(4)),
                ("4.json", b'{"width": ' + b"9" * 40 + b"}"),
            ],
        )
        rows = texts(load_pairs(tmp_path / "a.tar", streaming=True, keep_columns=["width", "license", "tags"]))
        assert [{name: row[name] for name in ("caption", "width", "license", "tags")} for row in rows] == [
            {"caption": "number 0", "width": 16, "license": None, "tags": ["a"]},
            {"caption": "one", "width": None, "license": None, "tags": None},
            {"caption": "two", "width": None, "license": "by", "tags": None},
            {"caption": "three \ufffd", "width": None, "license": None, "tags": None},
            {"caption": None, "width": None, "license": None, "tags": None},
        ]

    def test_what_is_no_pair_is_passed_over(self, tmp_path, monkeypatch):
        monkeypatch.setattr("trainer.data.tar_shards.MAX_IMAGE_BYTES", 2000)
        link = tarfile.TarInfo("5.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        write_tar(
            tmp_path / "a.tar",
            [
                ("README.md", b"# Pairs"),
                ("../../0.jpg", encoded(0)),
                ("../../0.txt", b"zero"),
                ("../../0.npy", b"\x93NUMPY broken"),
                ("../../0.pth", b"no tensor"),
                ("1.txt", b"no image"),
                ("2.jpg", bytes(2001)),
                ("2.txt", b"too large"),
                ("3.jpg", encoded(3)),
                ("4.jpg", encoded(4)),
                ("4.txt", b"four"),
                (link, b""),
                ("5.txt", b"a link"),
            ],
        )
        before = set(tmp_path.parent.glob("*"))
        stream = load_pairs(tmp_path / "a.tar", streaming=True)
        assert [row["caption"] for row in stream] == ["zero", None, "four"]
        assert load_pairs(tmp_path / "a.tar")["caption"][:] == ["zero", "four"]
        assert {path.name for path in tmp_path.iterdir()} <= {"a.tar", "cache"}
        assert set(tmp_path.parent.glob("*")) == before

    def test_a_damaged_shard_gives_what_is_before_the_damage(self, tmp_path, warnings_of):
        write_tar(tmp_path / "a.tar", [member for seed in range(4) for member in sample(seed)])
        write_tar(tmp_path / "b.tar", sample(9))
        whole = (tmp_path / "a.tar").read_bytes()
        (tmp_path / "a.tar").write_bytes(whole[: len(whole) // 2])
        captions = [row["caption"] for row in undecoded(load_pairs(str(tmp_path / "{a,b}.tar"), streaming=True))]
        assert captions[0] == "number 0" and captions[-1] == "number 9" and 2 <= len(captions) < 5
        assert any("a.tar' is damaged" in message for message in warnings_of())

    def test_secrets_in_addresses_are_not_told(self, tmp_path, warnings_of):
        write_tar(tmp_path / "a.tar", [member for seed in range(4) for member in sample(seed)])
        content = (tmp_path / "a.tar").read_bytes()
        filesystem = fsspec.filesystem("memory")
        name = "memory://me:secret-password@bucket/a.tar"
        filesystem.pipe(name.removeprefix("memory:/"), content[: len(content) // 2])
        try:
            assert len(list(undecoded(load_pairs(name, streaming=True)))) >= 1
        finally:
            filesystem.rm("/me:secret-password@bucket", recursive=True)
        assert any("is damaged" in message for message in warnings_of())
        assert not any("secret-password" in message for message in warnings_of())

    @pytest.mark.parametrize("members", [[("0.txt", b"a")], []])
    def test_without_images(self, tmp_path, members):
        write_tar(tmp_path / "a.tar", members)
        with pytest.raises(ValueError, match="no sample with an image"):
            load_pairs(tmp_path / "a.tar")

    def test_nothing_is_decompressed(self, tmp_path):
        write_tar(tmp_path / "a.tar", sample(0), mode="w:gz")
        with pytest.raises(ValueError, match="no sample with an image"):
            load_pairs(tmp_path / "a.tar", streaming=True)

    def test_prepared_again_when_a_file_has_changed(self, tmp_path):
        for seed in (0, 1):
            write_tar(tmp_path / "a.tar", sample(seed))
            os.utime(tmp_path / "a.tar", (seed, seed))
            assert load_pairs(tmp_path / "a.tar")[0]["caption"] == f"number {seed}"

    def test_read_by_workers(self, tmp_path):
        for shard in range(4):
            write_tar(tmp_path / f"{shard}.tar", sample(shard))
        stream = SeededStream(load_pairs(tmp_path, streaming=True), 0)
        found = [next(iter(stream._read(reader, 4)))["caption"] for reader in range(4)]
        assert sorted(found) == [f"number {shard}" for shard in range(4)]


class TestJson:
    def write(self, folder, rows, name="pairs.json"):
        (folder / name).write_text(json.dumps(rows))
        return folder / name

    def test_albef(self, folder):
        rows = [
            {"image": "images/sub/0.png", "caption": ["a", "b"], "image_id": "coco_7"},
            {"image": "images/sub/1.png", "caption": "c", "image_id": "coco_8"},
        ]
        for streaming in (False, True):
            dataset = load_pairs(self.write(folder, rows), streaming=streaming)
            assert texts(dataset) == [
                {"captions": ["a", "b"], "pair_id": "coco_7"},
                {"captions": ["c"], "pair_id": "coco_8"},
            ]
            assert same_images(dataset, [0, 1])

    def test_rows_of_one_image_belong_together(self, folder):
        rows = [{"image": f"sub/{seed}.png", "caption": caption} for seed, caption in ((0, "a"), (0, "b"), (2, "c"))]
        dataset = load_pairs(self.write(folder, rows), image_root=folder / "images")
        assert dataset["pair_id"][:] == ["sub/0.png", "sub/0.png", "sub/2.png"]
        assert same_images(dataset, [0, 0, 2])

    def test_several_lists(self, folder):
        """As ALBEF's pre-training takes them: some of one caption and some of several, with ids and without."""
        lists = {
            "a.json": [{"image": "images/sub/0.png", "caption": ["a", "b"], "image_id": "coco_7"}],
            "b.json": [{"image": "images/sub/1.png", "caption": "c", "image_id": 8, "width": 5}],
            "c.json": [{"image": "images/sub/2.png", "caption": caption} for caption in "de"],
        }
        paths = [str(self.write(folder, rows, name)) for name, rows in lists.items()]
        for streaming in (False, True):
            dataset = load_pairs(paths[:2], streaming=streaming)
            assert texts(dataset) == [
                {"captions": ["a", "b"], "pair_id": "coco_7"},
                {"captions": ["c"], "pair_id": "8"},
            ]
            assert same_images(dataset, [0, 1])
            # Where some have no id, the image says which rows belong together, also over several lists.
            dataset = load_pairs([*paths, paths[2]], streaming=streaming)
            assert [row["pair_id"] for row in texts(dataset)] == [f"images/sub/{n}.png" for n in (0, 1, 2, 2, 2, 2)]
        assert len(load_pairs(str(folder / "[ab].json"))) == 2
        self.write(folder, {"images": []}, "b.json")
        with pytest.raises(ValueError, match=r"b\.json.* list of objects"):
            load_pairs(paths)

    @pytest.mark.parametrize("path", ["../secret.png", "images/../../secret.png", "/etc/secret.png", "file:///etc/x"])
    @pytest.mark.parametrize("suffix", ["json", "jsonl", "parquet"])
    def test_paths_that_lead_elsewhere(self, folder, path, suffix):
        rows, name = [{"image": path, "caption": "a"}], str(folder / f"pairs.{suffix}")
        if suffix == "json":
            self.write(folder, rows)
        else:
            dataset = Dataset.from_list(rows)
            dataset.to_json(name) if suffix == "jsonl" else dataset.to_parquet(name)
        with pytest.raises(ValueError, match="does not lie in .*image_root"):
            load_pairs(name)
        with pytest.raises(ValueError, match="does not lie in .*image_root"):
            list(load_pairs(name, streaming=True))

    def test_a_root_that_allows_them(self, folder):
        paths = [str(folder / "images" / "sub" / "0.png"), "sub/../sub/1.png"]
        file = self.write(folder, [{"image": path, "caption": "a"} for path in paths], "elsewhere.json")
        dataset = load_pairs(file, image_root=folder / "images")
        assert same_images(dataset, [0, 1])

    def test_embedded_paths_too(self, folder):
        rows = [{"image": {"bytes": None, "path": "/etc/passwd"}, "caption": "a"}]
        Dataset.from_list(rows).to_parquet(str(folder / "pairs.parquet"))
        with pytest.raises(ValueError, match="does not lie in"):
            load_pairs(folder / "pairs.parquet")

    @pytest.mark.parametrize(
        ("content", "message"),
        [("[1, 2]", "list of objects"), ("[]", "list of objects"), ('[{"image": ', "no JSON file")],
    )
    def test_bad_files(self, tmp_path, content, message):
        (tmp_path / "pairs.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            load_pairs(tmp_path / "pairs.json")

    def test_karpathy(self, folder):
        images = [
            {"filename": f"{n}.png", "filepath": "sub", "imgid": n, "split": split, "sentences": [{"raw": f"w{n}"}]}
            for n, split in enumerate(["train", "test", "restval"])
        ]
        file = self.write(folder, {"images": images, "dataset": "coco"})
        assert {name: len(part) for name, part in load_pairs(file, image_root=folder / "images").items()} == {
            "train": 2,
            "test": 1,
        }
        test = load_pairs(file, split="test", image_root=folder / "images")
        assert texts(test) == [{"captions": ["w1"], "pair_id": 1}]
        with pytest.raises(ValueError, match="as a whole"):
            load_pairs(file, streaming=True)
        with pytest.raises(ValueError, match="Karpathy's format: open each file .*mix_pairs"):
            load_pairs([file, file], image_root=folder / "images")


class TestCommandLine:
    def test_image_dir_is_for_any_file(self, folder):
        rows = [{"image": f"sub/{seed}.png", "captions": {"en": f"w{seed}", "de": "x"}} for seed in range(3)]
        (folder / "pairs.json").write_text(json.dumps(rows))
        source = PairArguments(
            dataset=str(folder / "pairs.json"), image_dir=str(folder / "images"), language=["en"], prompt="a {caption}"
        )
        pairs = open_pairs(source)
        assert pairs["captions"][:] == [["a w0"], ["a w1"], ["a w2"]] and same_images(pairs, range(3))

    def test_patterns_are_names_of_data_sets(self, tmp_path):
        for shard in range(2):
            write_tar(tmp_path / f"{shard}.tar", sample(shard))
        stream = open_pairs(PairArguments(dataset=str(tmp_path / "{0..1}.tar"), max_rows=2), streaming=True)
        assert sorted(row["caption"] for row in stream) == ["number 0", "number 1"]


class TestTables:
    def test_conceptual_captions(self, tmp_path):
        lines = ['a "quoted word\thttps://host/0.jpg', "null\thttp://host/1.jpg", "\thttps://host/2.jpg"]
        (tmp_path / "train.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        for streaming in (False, True):
            rows = list(undecoded(load_pairs(tmp_path / "train.tsv", streaming=streaming)))
            assert [row["caption"] for row in rows] == ['a "quoted word', "null"] + [None] * streaming
            assert rows[1]["image"] == {"bytes": None, "path": "http://host/1.jpg"}

    def test_base64_without_names(self, tmp_path):
        lines = [
            "\t".join([f"{seed}", f"im{seed}", f"w{seed}", "sky&&sea", base64.b64encode(encoded(seed)).decode()])
            for seed in range(3)
        ]
        (tmp_path / "ofa.tsv").write_text("\n".join(lines))
        with pytest.raises(ValueError, match="no first line of names, and 5 columns.*column_names"):
            load_pairs(tmp_path / "ofa.tsv")
        names = ("id", "image_id", "caption", "objects", "image")
        for streaming in (False, True):
            dataset = load_pairs(
                tmp_path / "ofa.tsv", column_names=names, pair_id_column="image_id", streaming=streaming
            )
            assert texts(dataset) == [{"caption": f"w{seed}", "pair_id": f"im{seed}"} for seed in range(3)]
            assert same_images(dataset, range(3))

    def test_with_names(self, folder):
        (folder / "pairs.tsv").write_text("filepath\ttitle\nimages/sub/0.png\ta\nimages/sub/1.png\tb\n")
        with pytest.raises(ValueError, match="`filepath` holds images: pass `image_column='filepath'`"):
            load_pairs(folder / "pairs.tsv")
        dataset = load_pairs(folder / "pairs.tsv", image_column="filepath", caption_columns="title")
        assert dataset["caption"][:] == ["a", "b"] and same_images(dataset, [0, 1])

    def test_broken_lines_cost_a_line(self, tmp_path):
        (tmp_path / "pairs.csv").write_bytes(
            b"caption,image\na,http://h/0\nb\xff,http://h/1,more,and more\nc,http://h/2\n"
        )
        assert undecoded(load_pairs(tmp_path / "pairs.csv"))["caption"][:] == ["a", "c"]

    def test_names_are_for_tables(self, tmp_path):
        write_tar(tmp_path / "a.tar", sample(0))
        with pytest.raises(ValueError, match="`column_names` are for tables"):
            load_pairs(tmp_path / "a.tar", column_names=["a"])


class TestLocator:
    @settings(max_examples=300)
    @given(st.text(st.sampled_from("ab./\\:~\0 %2e"), max_size=24))
    def test_no_path_leaves_the_folder(self, text):
        for root in ("/data/images", "memory://bucket/images"):
            locate = ImageLocator(root)
            try:
                found = locate(text)
            except ValueError:
                continue
            if text:
                resolved = found["path"] if "://" in root else os.path.normpath(found["path"])
                assert resolved.startswith(root + "/") and "/../" not in resolved

    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
    def test_base64(self, seed, format):
        content = encoded(seed, format)
        for text in (base64.b64encode(content).decode(), base64.urlsafe_b64encode(content).decode().rstrip("=")):
            assert ImageLocator("/data")(text) == {"bytes": content, "path": None}

    def test_what_stays(self):
        locate = ImageLocator()
        for image in (None, 5, {"bytes": b"x", "path": "/anywhere"}):
            assert locate(image) is image
        assert ImageLocator(trusted=True)("../a.png") == {"bytes": None, "path": "../a.png"}
        with pytest.raises(ValueError, match="no folder in which paths may lie"):
            locate("a.png")


class TestNames:
    def test_braces(self):
        assert expand_braces("a") == ["a"]
        assert expand_braces("s-{08..11}.tar") == ["s-08.tar", "s-09.tar", "s-10.tar", "s-11.tar"]
        assert expand_braces("{a,b}/{0..1}") == ["a/0", "a/1", "b/0", "b/1"]

    def test_what_is_not_there(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="No file matches"):
            load_pairs(str(tmp_path / "*.tar"))
        with pytest.raises(FileNotFoundError, match="no file .*7.tar"):
            load_pairs([str(tmp_path / "7.tar"), str(tmp_path / "8.tar")])
        for source in ([], 3, [3]):
            with pytest.raises(ValueError, match="`source` has to be"):
                load_pairs(source)

    def test_one_format_at_a_time(self, tmp_path):
        for name in ("a.tar", "b.parquet"):
            (tmp_path / name).touch()
        with pytest.raises(ValueError, match="several formats .*mix_pairs"):
            load_pairs(str(tmp_path / "{a.tar,b.parquet}"))


@pytest.fixture
def s3_endpoint(monkeypatch, tmp_path):
    """A server of S3 on this machine; what does not ask it by its address finds no other, and no one's credentials."""
    # A second to import, which nothing else here needs.
    from moto.server import ThreadedMotoServer

    for name in os.environ:
        if name.startswith(("AWS_", "BOTO_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    environment = {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": str(tmp_path / "no_config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "no_credentials"),
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()
    # Their connections are to a server that is gone, and its port may become another's.
    fsspec.get_filesystem_class("s3").clear_instance_cache()


class TestObjectStores:
    def fill(self, filesystem, folder):
        """The same six pairs as tar files, Parquet and JSON."""
        for name in ("images", "list", "tar", "parquet"):
            filesystem.makedirs(f"{folder}/{name}", exist_ok=True)
        for seed in range(6):
            filesystem.pipe(f"{folder}/images/{seed}.png", encoded(seed))
        rows = [{"image": f"images/{seed}.png", "caption": f"number {seed}"} for seed in range(6)]
        filesystem.pipe(f"{folder}/list/pairs.json", json.dumps(rows).encode())
        for shard in range(2):
            seeds = range(3 * shard, 3 * shard + 3)
            buffer = io.BytesIO()
            write_tar(None, [member for seed in seeds for member in sample(seed)], fileobj=buffer)
            filesystem.pipe(f"{folder}/tar/{shard}.tar", buffer.getvalue())
            buffer = io.BytesIO()
            Dataset.from_list([{"image": picture(seed), "caption": f"number {seed}"} for seed in seeds]).to_parquet(
                buffer
            )
            filesystem.pipe(f"{folder}/parquet/{shard}.parquet", buffer.getvalue())

    def check(self, url, **options):
        for name in ("tar/{0..1}.tar", "tar", "tar/*.tar", "parquet/*.parquet", "parquet"):
            stream = load_pairs(f"{url}/{name}", streaming=True, **options)
            assert stream.num_shards == 2
            assert [row["caption"] for row in stream] == [f"number {seed}" for seed in range(6)], name
            assert same_images(stream, range(6))
        whole = load_pairs(f"{url}/tar/0.tar", **options)
        assert isinstance(whole, Dataset) and same_images(whole, range(3))
        listed = load_pairs(f"{url}/list/pairs.json", image_root=url, **options)
        assert undecoded(listed)[4]["image"]["path"].endswith("images/4.png")
        return listed

    def test_memory(self):
        filesystem = fsspec.filesystem("memory")
        self.fill(filesystem, "/bucket")
        try:
            assert same_images(self.check("memory://bucket"), range(6))
        finally:
            filesystem.rm("/bucket", recursive=True)

    @pytest.mark.parametrize("name", ["jsonl", "csv", "parquet"])
    def test_a_folder_of_images(self, name, monkeypatch):
        """`datasets` has `image` in the place of `file_name` where a folder is on this machine; so it is here."""
        filesystem, buffer = fsspec.filesystem("memory"), io.BytesIO()
        for seed in range(3):
            filesystem.pipe(f"/bucket/photos/sub/{seed}.png", encoded(seed))
        rows = Dataset.from_list([{"file_name": f"sub/{seed}.png", "text": f"w{seed}"} for seed in range(3)])
        {"jsonl": rows.to_json, "csv": rows.to_csv, "parquet": rows.to_parquet}[name](buffer)
        monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)  # Or memory is taken for a network.
        filesystem.pipe(f"/bucket/photos/metadata.{name}", buffer.getvalue())
        try:
            for source in ("memory://bucket/photos", f"memory://bucket/photos/metadata.{name}"):
                for streaming in (False, True):
                    found = load_pairs(source, streaming=streaming)
                    assert [row["caption"] for row in found] == ["w0", "w1", "w2"] and same_images(found, range(3))
            assert load_pairs(source, image_column="file_name", streaming=True).features == found.features
        finally:
            filesystem.rm("/bucket", recursive=True)

    def test_local_files_by_url(self, tmp_path):
        self.fill(fsspec.filesystem("file"), str(tmp_path))
        self.check(f"file://{tmp_path}")

    def test_images_are_reached_by_what_the_environment_says(self, monkeypatch, warnings_of):
        """Options of the source are in no row; without telling, images would be sought elsewhere."""
        seen = []

        class Store(fsspec.implementations.memory.MemoryFileSystem):
            protocol, cachable = "store", False

            def __init__(self, *arguments, **options):
                seen.append(options)
                super().__init__(*arguments, **options)

            @classmethod
            def _strip_protocol(cls, path):
                return super()._strip_protocol(path.replace("store://", "memory://"))

            def unstrip_protocol(self, name):
                return f"store:/{name}"

        fsspec.register_implementation("store", Store, clobber=True)
        monkeypatch.setitem(fsspec.config.conf, "store", {"key": "of the environment"})
        filesystem = fsspec.filesystem("memory")
        filesystem.pipe("/bucket/0.png", encoded(0))
        filesystem.pipe("/bucket/pairs.json", json.dumps([{"image": "0.png", "caption": "a"}]).encode())
        try:
            row = undecoded(load_pairs("store://bucket/pairs.json", storage_options={"secret": "passed"}))[0]
            assert {"key": "of the environment", "secret": "passed"} in seen
            assert row["image"] == {"bytes": None, "path": "store://bucket/0.png"}
            seen.clear()
            assert decode_image(row["image"]).size == (16, 16)
            assert seen == [{"key": "of the environment"}]
        finally:
            filesystem.rm("/bucket", recursive=True)
        told = [message for message in warnings_of() if "`storage_options` are for the files" in message]
        assert len(told) == 1 and "FSSPEC_S3_ENDPOINT_URL" in told[0]

    def test_s3(self, monkeypatch, s3_endpoint):
        options = {"endpoint_url": s3_endpoint}
        filesystem = fsspec.filesystem("s3", **options)
        filesystem.mkdir("bucket")
        self.fill(filesystem, "bucket/pairs")
        listed = self.check("s3://bucket/pairs", storage_options=options)
        # What a list names is read when it is needed, by whatever process, with what its environment says.
        monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
        assert same_images(listed, range(6))


def pairs_of(count, **columns):
    rows = [{"image": picture(seed), "caption": f"w{seed}", "pair_id": seed, **columns} for seed in range(count)]
    return load_pairs(Dataset.from_list(rows), keep_columns=list(columns))


class TestCaptions:
    def test_prompt(self):
        source = Dataset.from_dict(
            {"image": [picture(0), picture(1)], "text": ["bus", "  "], "tags": [["a", "b"], []]}
        )
        for dataset in (source, source.to_iterable_dataset()):
            found = load_pairs(dataset, prompt="a photo of a {caption}")
            assert [row["caption"] for row in found if row["caption"]] == ["a photo of a bus"]
            found = load_pairs(dataset, caption_columns="tags", prompt="{caption}!")
            assert [row["captions"] for row in found if row["captions"]] == [["a!", "b!"]]

    @pytest.mark.parametrize(
        "prompt", ["a photo", "{caption} {other}", "{}", "{caption.__class__}", "{caption} {caption}"]
    )
    def test_bad_prompts(self, prompt):
        with pytest.raises(ValueError, match="`prompt` has to contain {caption}"):
            load_pairs(Dataset.from_dict({"image": [picture()], "text": ["bus"]}), prompt=prompt)

    def test_language(self):
        captions = [{"en": ["a bus", "bus"], "de": "ein Bus"}, {"en": ["a cat"], "de": None}]
        source = Dataset.from_dict({"image": [picture(0), picture(1)], "captions": captions})
        for dataset in (source, source.to_iterable_dataset()):
            assert [row["captions"] for row in load_pairs(dataset, language="en")] == [["a bus", "bus"], ["a cat"]]
            german = [row["captions"] for row in load_pairs(dataset, language="de")]
            assert [captions for captions in german if captions] == [["ein Bus"]]
            both = load_pairs(dataset, language=["de", "en"])
            assert [row["captions"] for row in both] == [["ein Bus", "a bus", "bus"], ["a cat"]]
        with pytest.raises(ValueError, match="no captions in 'fr': the languages are 'en', 'de'"):
            load_pairs(source, language="fr")
        with pytest.raises(ValueError, match="several languages .*choose with `language"):
            load_pairs(source, caption_columns="captions")
        with pytest.raises(ValueError, match="there is none among"):
            load_pairs(pairs_of(1), language="en")


class TestMixPairs:
    def test_without_weights_every_pair_comes_once(self):
        for streamed in (False, True):
            other = pairs_of(2).to_iterable_dataset() if streamed else pairs_of(2)
            mixed = mix_pairs({"a": pairs_of(3, tag="x"), "b": other})
            assert isinstance(mixed, IterableDataset if streamed else Dataset)
            assert sorted(row["caption"] for row in mixed) == ["w0", "w0", "w1", "w1", "w2"]
            assert same_images(sorted(mixed, key=lambda row: row["caption"]), [0, 0, 1, 1, 2])
            # The pairs of both sources have the ids 0, 1 and so on.
            assert len({row["pair_id"] for row in mixed}) == 5
        assert mixed.num_shards == 4

    @pytest.mark.parametrize("streamed", [False, True])
    def test_each_source_has_its_own_columns_prompt_and_languages(self, streamed):
        sources = [
            Dataset.from_dict({"image": [picture(0)], "label": ["bus"], "number": [5]}),
            Dataset.from_dict(
                {"photo": [picture(1)], "captions": [{"en": "a cat", "de": ["eine Katze", "ein Kater"]}]}
            ),
            Dataset.from_dict({"image": [picture(2)], "text": ["a dog"]}),
        ]
        if streamed:
            sources = [source.to_iterable_dataset() for source in sources]
        mixed = mix_pairs(
            {
                "names": load_pairs(
                    sources[0], caption_columns="label", prompt="a photo of a {caption}", pair_id_column="number"
                ),
                "catalogue": load_pairs(sources[1], image_column="photo", language=["en", "de"]),
                "web": load_pairs(sources[2]),
            }
        )
        assert [row["captions"] for row in mixed] == [
            ["a photo of a bus"],
            ["a cat", "eine Katze", "ein Kater"],
            ["a dog"],
        ]
        assert same_images(mixed, range(3))

    @pytest.mark.parametrize("weights", [None, [2, 1]])
    def test_streams_are_split_over_readers(self, weights):
        """Each pair of both by one of four readers, and with weights each reader has its share of both."""
        parts = [pairs_of(24).to_iterable_dataset(num_shards=4), pairs_of(12).to_iterable_dataset(num_shards=4)]
        mixed = undecoded(
            mix_pairs(parts, weights=weights, seed=2, stopping_strategy="all_exhausted_without_replacement")
        )
        small = set(mix_pairs({"1": pairs_of(12)})["pair_id"][:])
        stream = SeededStream(mixed, 0)
        assert stream.num_shards == (8 if weights is None else 4)
        found = [[row["pair_id"] for row in itertools.islice(stream._read(reader, 4), 9)] for reader in range(4)]
        assert len({identifier for ids in found for identifier in ids}) == 36
        if weights is not None:
            assert [sum(identifier in small for identifier in ids) for ids in found] == [3] * 4

    def test_images_are_not_copied(self, tmp_path):
        for name in ("a", "b"):
            Dataset.from_list([{"image": picture(0), "text": name, "pair_id": 5}]).save_to_disk(str(tmp_path / name))
        parts = [load_pairs(tmp_path / name) for name in ("a", "b")]
        for mixed in (mix_pairs(parts), mix_pairs(parts, weights=[1, 1])):
            assert same_images(mixed, [0, 0])
            written = [path for path in tmp_path.glob("**/cache-*.arrow") if b"PNG" in path.read_bytes()]
            assert written == []

    def test_ids_do_not_depend_on_the_company(self):
        both = mix_pairs({"a": pairs_of(2), "b": pairs_of(2)})["pair_id"][:]
        assert mix_pairs({"b": pairs_of(2)})["pair_id"][:] == both[2:]

    @pytest.mark.parametrize("streamed", [False, True])
    def test_weights_are_shares(self, streamed):
        parts = [pairs_of(200), pairs_of(40)]
        if streamed:
            parts = [part.to_iterable_dataset(num_shards=2) for part in parts]
        mixed = undecoded(mix_pairs(parts, weights=[3, 1], seed=1))
        ids = [row["pair_id"] for row in mixed]
        small = set(mix_pairs({"1": pairs_of(40)})["pair_id"][:])
        assert len(set(ids)) == 240
        assert sum(identifier in small for identifier in ids) / len(ids) == pytest.approx(0.25, abs=0.07)
        assert ids == [row["pair_id"] for row in undecoded(mix_pairs(parts, weights=[3, 1], seed=1))]

    def test_one_caption_among_several(self):
        several = Dataset.from_list([{"image": picture(0), "captions": ["a", "b"], "pair_id": "x"}])
        for dataset in (several, several.to_iterable_dataset()):
            mixed = mix_pairs([pairs_of(1), load_pairs(dataset)])
            assert [row["captions"] for row in mixed] == [["w0"], ["a", "b"]]

    def test_common_columns_stay(self):
        mixed = mix_pairs([pairs_of(1, tag="x", more=1), pairs_of(1, tag="y", more="z")])
        assert mixed.column_names == ["image", "caption", "pair_id", "tag"]
        assert mixed["tag"][:] == ["x", "y"]

    @pytest.mark.parametrize(
        ("sources", "weights", "message"),
        [
            (0, None, "empty"),
            (2, [1], "as many as sources"),
            (2, {"0": 1, "1": 1}, "as many as sources"),
            (2, [1, 0], "positive"),
            (2, [1, float("nan")], "positive"),
        ],
    )
    def test_bad_arguments(self, sources, weights, message):
        with pytest.raises(ValueError, match=message):
            mix_pairs([pairs_of(1)] * sources, weights=weights)
        with pytest.raises(ValueError, match="`load_pairs` gives it"):
            mix_pairs([Dataset.from_dict({"image": [1]})])
