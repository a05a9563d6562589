# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Names, links and archives that come with data name nothing else of this machine, and fill no memory."""

import bz2
import gzip
import io
import json
import lzma
import os
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import pytest
from datasets.exceptions import DatasetGenerationError
from huggingface_hub import HfApi
from PIL import Image as PILImage

from hub_cards.space.loading import open_dataset
from tests.hub.conftest import hub  # noqa: F401
from tests.security.conftest import encoded
from trainer import SaclSearcher, embed_dataset, load_pairs, seal_checkpoint, verify_checkpoint
from trainer.data import load_karpathy
from trainer.data.transforms import IMAGE_FORMATS, ImageDecodingError, decode_image
from trainer.paths import is_inside


@pytest.fixture
def secret(tmp_path) -> Path:
    """A picture that is nobody else's business."""
    folder = tmp_path / "private"
    folder.mkdir()
    (folder / "secret.png").write_bytes(encoded("black"))
    return folder / "secret.png"


@pytest.fixture
def photos(tmp_path) -> Path:
    """A folder of two pictures with captions."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(encoded())
    describe(folder, "a.png", "b.png")
    return folder


def describe(folder, *names):
    lines = [json.dumps({"file_name": str(name), "caption": f"picture {n}"}) for n, name in enumerate(names)]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")


class TestPackedFiles:
    @pytest.mark.parametrize("name", ["more.zip", "metadata.jsonl", "notes"])
    @pytest.mark.parametrize("streaming", [False, True])
    def test_a_zip_of_unlikely_size_is_refused_before_it_is_unpacked(self, photos, tmp_path, name, streaming):
        with zipfile.ZipFile(photos / name, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("0.png", bytes(2**20))
            archive.filelist[0].file_size = 1100 * 2**20
        with pytest.raises(ValueError, match=rf"{name}.* unpacks from [\d,]+ bytes to 1,153,433,600"):
            load_pairs(photos, streaming=streaming, cache_dir=tmp_path / "cache")
        assert not (tmp_path / "cache").exists()

    @pytest.mark.parametrize("packer", [gzip, bz2, lzma])
    def test_what_does_not_say_its_size_is_refused(self, photos, tmp_path, packer):
        (photos / "more.bin").write_bytes(packer.compress(b"{}"))
        with pytest.raises(ValueError, match=r"more\.bin.* is packed .*tar shards"):
            load_pairs(photos, cache_dir=tmp_path / "cache")

    def test_nor_is_a_table(self, tmp_path):
        (tmp_path / "pairs.csv").write_bytes(gzip.compress(b"image,caption\na.png,a red bus\n"))
        with pytest.raises(ValueError, match=r"pairs\.csv.* is packed \(gzip\)"):
            load_pairs(tmp_path / "pairs.csv", cache_dir=tmp_path / "cache")

    def test_a_zip_of_pictures_is_read(self, tmp_path):
        (tmp_path / "photos").mkdir()
        with zipfile.ZipFile(tmp_path / "photos" / "train.zip", "w") as archive:
            archive.writestr("a.png", encoded())
            archive.writestr("metadata.jsonl", json.dumps({"file_name": "a.png", "caption": "a red bus"}))
        pairs = load_pairs(tmp_path / "photos", split="train", cache_dir=tmp_path / "cache")
        assert [row["caption"] for row in pairs] == ["a red bus"]


class TestInside:
    def test_links_are_followed(self, photos, secret):
        assert is_inside(photos / "a.png", photos) and is_inside(photos / "sub" / ".." / "a.png", photos)
        assert not is_inside(photos / ".." / "private" / "secret.png", photos)
        (photos / "link").symlink_to(secret)
        assert not is_inside(photos / "link", photos)
        (photos / "loop").symlink_to(photos / "loop")
        assert not is_inside("\0", photos)


class TestImageFolders:
    @pytest.mark.parametrize("streaming", [False, True])
    @pytest.mark.parametrize(
        "name", ["../private/secret.png", "{secret}", "x/../../private/secret.png", "file://{secret}"]
    )
    def test_metadata_cannot_name_a_file_outside(self, photos, secret, tmp_path, name, streaming):
        describe(photos, "a.png", name.format(secret=secret))
        with pytest.raises((ValueError, DatasetGenerationError)) as caught:
            list(load_pairs(photos, split="train", streaming=streaming, cache_dir=tmp_path / "cache"))
        assert "`file_name` must be a relative path" in str(caught.value.__cause__ or caught.value)

    def test_links_to_what_is_outside_are_refused_with_the_way_out(self, photos, secret, tmp_path):
        (photos / "b.png").unlink()
        (photos / "b.png").symlink_to(secret)
        with pytest.raises(
            ValueError, match=r"b\.png.* is a link to something outside of .*secret\.png.*follow_links"
        ):
            load_pairs(photos, split="train", cache_dir=tmp_path / "cache")
        with pytest.raises(ValueError, match="is a link to something outside"):
            open_dataset(photos)
        assert len(load_pairs(photos, split="train", cache_dir=tmp_path / "cache", follow_links=True)) == 2

    def test_so_are_linked_folders(self, photos, secret):
        (photos / "more").symlink_to(secret.parent)
        with pytest.raises(ValueError, match="more.* is a link to something outside"):
            load_pairs(photos)

    def test_links_within_the_folder_and_to_it_are_fine(self, photos, tmp_path):
        (photos / "b.png").unlink()
        (photos / "b.png").symlink_to("a.png")
        (tmp_path / "elsewhere").symlink_to(photos)
        assert len(load_pairs(tmp_path / "elsewhere", split="train", cache_dir=tmp_path / "cache")) == 2

    def test_so_is_the_cache_of_the_hub(self, photos, tmp_path):
        repository = tmp_path / "datasets--user--photos"
        (repository / "blobs").mkdir(parents=True)
        snapshot = repository / "snapshots" / "0123"
        snapshot.mkdir(parents=True)
        for path in photos.iterdir():
            (repository / "blobs" / f"{path.name}-hash").write_bytes(path.read_bytes())
            (snapshot / path.name).symlink_to(f"../../blobs/{path.name}-hash")
        assert len(load_pairs(snapshot, split="train", cache_dir=tmp_path / "cache")) == 2

    def test_by_the_command_line(self, photos, secret, sacl, model_folder):
        (photos / "b.png").unlink()
        (photos / "b.png").symlink_to(secret)
        code, _, err = sacl("evaluate", "--model", model_folder, "--dataset", photos, "--split", "train")
        assert code == 1 and "is a link to something outside" in err


class TestAnnotations:
    @pytest.mark.parametrize(
        "entry", [{"filename": "../private/secret.png"}, {"filepath": "..", "filename": "private/secret.png"}]
    )
    def test_of_karpathy(self, photos, secret, tmp_path, entry):
        image = {"imgid": 0, "split": "test", "sentences": [{"raw": "a"}], **entry}
        (tmp_path / "dataset.json").write_text(json.dumps({"images": [image]}))
        with pytest.raises(FileNotFoundError, match="is not in"):
            load_karpathy(tmp_path / "dataset.json", photos)
        image["filename"] = str(secret)
        (tmp_path / "dataset.json").write_text(json.dumps({"images": [image]}))
        with pytest.raises(FileNotFoundError, match="is not in"):
            load_karpathy(tmp_path / "dataset.json", photos)


class TestSavedDataSets:
    @pytest.mark.parametrize("name", ["../../private/rows.arrow", "{private}/rows.arrow", "..", "", 7, "a\0b", "C:x"])
    def test_name_no_file_elsewhere(self, pairs, tmp_path, name):
        (tmp_path / "private").mkdir()
        pairs.save_to_disk(tmp_path / "saved")
        state = json.loads((tmp_path / "saved" / "state.json").read_text())
        (file,) = (tmp_path / "saved").glob("*.arrow")
        os.link(file, tmp_path / "private" / "rows.arrow")
        name = name.format(private=tmp_path / "private") if isinstance(name, str) else name
        state["_data_files"] = [{"filename": name}]
        (tmp_path / "saved" / "state.json").write_text(json.dumps(state))
        with pytest.raises(ValueError, match="no name of a file beside it"):
            load_pairs(tmp_path / "saved")

    @pytest.mark.parametrize("content", ["", "[]", "{}", '{"splits": 3}', '{"splits": ["../private"]}', "[" * 100_000])
    def test_of_several_splits(self, tmp_path, content):
        (tmp_path / "dataset_dict.json").write_text(content)
        with pytest.raises(ValueError, match="cannot be read as `save_to_disk`|no name of a file"):
            load_pairs(tmp_path)

    def test_to_search_in(self, make_model, tiny_processor, pairs, tmp_path):
        model = make_model()
        embedded = embed_dataset(model, pairs, tiny_processor, cache_dir=tmp_path / "cache")
        SaclSearcher(model, tiny_processor, embedded).save_pretrained(tmp_path / "index")
        state = json.loads((tmp_path / "index" / "dataset" / "state.json").read_text())
        state["_data_files"] = [{"filename": "/etc/hostname"}]
        (tmp_path / "index" / "dataset" / "state.json").write_text(json.dumps(state))
        with pytest.raises(ValueError, match="/etc/hostname.*no name of a file beside it"):
            SaclSearcher.from_pretrained(tmp_path / "index", model, tiny_processor)


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    folder = tmp_path / "checkpoint-1"
    folder.mkdir()
    (folder / "trainer_state.json").write_text('{"global_step": 1}')
    seal_checkpoint(folder)
    return folder


def reseal(folder, files):
    """As somebody would who knows how."""
    import xxhash

    seal = xxhash.xxh3_128_hexdigest(json.dumps(files, sort_keys=True).encode())
    manifest = {"format_version": 1, "files": files, "xxh3_128": seal}
    (folder / "checkpoint_manifest.json").write_text(json.dumps(manifest))


class TestCheckpoints:
    @pytest.mark.parametrize("name", ["/etc/hostname", "../private", "a/../../b", "\0"])
    def test_the_list_of_files_names_none_outside(self, checkpoint, name):
        reseal(checkpoint, {name: {"size": 3, "xxh3_128": "0"}})
        with pytest.raises(ValueError, match="which is not in the checkpoint"):
            verify_checkpoint(checkpoint)

    @pytest.mark.parametrize(
        "files", [[], "x", 7, {"a": 3}, {"a": {"size": "3", "xxh3_128": "0"}}, {"a": {"size": 3}}]
    )
    def test_nor_is_it_something_else(self, checkpoint, files):
        reseal(checkpoint, files)
        with pytest.raises(ValueError, match="without its size and hash"):
            verify_checkpoint(checkpoint)

    @pytest.mark.parametrize("step", ["x/../../private", "1", 1.5, -1, None, True, [1]])
    def test_the_step_of_a_fetched_one_is_a_number(self, hub, checkpoint, tmp_path, step):  # noqa: F811
        from trainer.shared_checkpoints import HubCheckpoint, fetch_checkpoint

        (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": step}))
        seal_checkpoint(checkpoint)
        HfApi().create_repo("user/hostile")
        HfApi().upload_folder(folder_path=checkpoint, path_in_repo="checkpoint-1", repo_id="user/hostile")
        (tmp_path / "run" / "checkpoint-x").mkdir(parents=True)
        with pytest.raises(ValueError, match="`global_step` in trainer_state.json is the number of a step"):
            fetch_checkpoint(HubCheckpoint("user/hostile"), tmp_path / "run")
        assert not (tmp_path / "private").exists()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


class TestImages:
    @pytest.mark.parametrize("kind", ["EPS", "PDF", "PCX", "SGI", "TGA", "XBM", "IM", "MSP", "SPIDER", "ICNS", "QOI"])
    def test_formats_that_nobody_keeps_pictures_in_are_not_opened(self, kind):
        file = io.BytesIO()
        try:
            PILImage.new({"MSP": "1", "XBM": "1", "SPIDER": "F"}.get(kind, "RGB"), (32, 32)).save(file, kind)
        except (KeyError, OSError, ValueError):
            pytest.skip(f"this Pillow does not write {kind}")
        with pytest.raises(ImageDecodingError, match="no image of a format that is read"):
            decode_image({"bytes": file.getvalue(), "path": None})

    def test_postscript_does_not_reach_ghostscript(self, monkeypatch, tmp_path):
        """Pillow hands it over when the pixels are asked for. The name of the file is no guard: contents decide."""
        import subprocess

        monkeypatch.setattr(subprocess, "check_call", lambda *words, **options: pytest.fail(f"runs {words}"))
        monkeypatch.setattr(subprocess, "Popen", lambda *words, **options: pytest.fail(f"runs {words}"))
        program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n(x) (w) file quit\n%%EOF\n"
        (tmp_path / "cat.jpg").write_bytes(program)
        for image in ({"bytes": program, "path": "cat.jpg"}, str(tmp_path / "cat.jpg")):
            with pytest.raises(ImageDecodingError, match="no image of a format that is read"):
                decode_image(image)

    @pytest.mark.parametrize("kind", ["svg", "pdf", "fli", "hdf5"])
    def test_nor_are_others(self, kind):
        starts = {
            "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
            "pdf": b"%PDF-1.7\n1 0 obj",
            "fli": struct.pack("<IHHHHHHI", 128, 0xAF11, 1, 10, 10, 8, 3, 5) + bytes(108),
            "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(100),
        }
        with pytest.raises(ImageDecodingError, match="no image of a format that is read"):
            decode_image({"bytes": starts[kind], "path": None})

    @pytest.mark.parametrize(
        "kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "ICO", "JPEG2000", "AVIF", "DIB"]
    )
    def test_formats_of_pictures_are(self, kind):
        assert kind in IMAGE_FORMATS
        try:
            content = encoded("red", kind=kind)
        except (KeyError, OSError):
            pytest.skip(f"this Pillow does not write {kind}")
        red, green, blue = decode_image({"bytes": content, "path": None}).getpixel((16, 16))
        assert red > 240 and green < 15 and blue < 15

    @pytest.mark.parametrize("where", ["iTXt", "zTXt", "iCCP"])
    def test_texts_in_a_png_do_not_unpack_to_more_than_fits(self, where):
        """200 MB of zeros in 200 kB, which would be unpacked before the first pixel is."""
        bomb = zlib.compress(bytes(200_000_000), 9)
        content = {
            "iTXt": b"x\0\1\0\0\0" + bomb,
            "zTXt": b"x\0\0" + bomb,
            "iCCP": b"x\0\0" + bomb,
        }[where]
        plain = encoded()
        png = plain[:33] + chunk(where.encode(), content) + plain[33:]
        tracemalloc.start()
        try:
            decode_image({"bytes": png, "path": None})
        except ImageDecodingError:
            pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 80_000_000

    @pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP"])
    def test_a_claim_of_a_billion_pixels_costs_nothing(self, kind):
        content = bytearray(encoded(kind=kind))
        place, size = {"PNG": (16, ">II"), "GIF": (6, "<HH"), "BMP": (18, "<ii")}[kind]
        struct.pack_into(size, content, place, 60_000, 60_000)
        if kind == "PNG":
            content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
        with pytest.raises(ImageDecodingError, match="pixels|bomb"):
            decode_image({"bytes": bytes(content), "path": None})


def member(name, kind=tarfile.REGTYPE, target="", content=b""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, len(content)
    return info, content


def write_tar(file, members):
    with tarfile.open(file, "w") as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))


class TestShards:
    """Members of tars are read where they are, and never unpacked."""

    @pytest.mark.parametrize("streaming", [False, True])
    def test_links_devices_and_names_that_lead_outside(self, tmp_path, secret, streaming):
        folder = tmp_path / "shards"
        folder.mkdir()
        before = set(tmp_path.rglob("*"))
        picture = encoded(kind="JPEG")
        good = [member("0.jpg", content=picture), member("0.txt", content=b"a red bus")]
        bad = [
            member("1.jpg", tarfile.SYMTYPE, str(secret)),
            member("1.txt", content=b"a link"),
            member("2.jpg", tarfile.LNKTYPE, "../private/secret.png"),
            member("2.txt", content=b"another"),
            member("3.jpg", tarfile.CHRTYPE),
            member("4.jpg", tarfile.FIFOTYPE),
            member("../escaped.jpg", content=picture),
            member("../escaped.txt", content=b"out"),
            member(f"{tmp_path}/absolute.jpg", content=picture),
            member(f"{tmp_path}/absolute.txt", content=b"out"),
        ]
        write_tar(folder / "00000.tar", [*good, *bad])
        try:
            rows = list(load_pairs(folder, split="train", streaming=streaming, cache_dir=tmp_path / "cache"))
        except Exception as error:  # Refusing all of it is an answer as well.
            rows = []
            assert str(error)
        for row in rows:
            assert row["image"].convert("RGB").getpixel((3, 3))[0] > 200
        made = {path for path in set(tmp_path.rglob("*")) - before if "cache" not in path.parts}
        assert made == {folder / "00000.tar"}

    def test_what_claims_to_be_large_is_not_read(self, tmp_path):
        """A sparse member of 200 GB takes no room in an archive; a member that announces 200 GB ends with the file."""
        picture = encoded(kind="JPEG")
        good = [member("0.jpg", content=picture), member("0.txt", content=b"a red bus")]
        write_tar(tmp_path / "00000.tar", good)
        header = tarfile.TarInfo("1.jpg")
        header.size = 200 * 2**30
        content = (tmp_path / "00000.tar").read_bytes()
        end = content.index(b"a red bus") + 512
        (tmp_path / "00000.tar").write_bytes(content[:end] + header.tobuf(tarfile.GNU_FORMAT) + b"x" * 1000)
        sparse = tarfile.TarInfo("0.jpg")
        sparse.type = tarfile.GNUTYPE_SPARSE
        block = bytearray(sparse.tobuf(tarfile.GNU_FORMAT))
        block[483:495] = b"\x80" + (200 * 2**30).to_bytes(11, "big")
        block[148:156] = b"%06o\0 " % (sum(block[:148]) + 8 * 32 + sum(block[156:]))
        (tmp_path / "00001.tar").write_bytes(bytes(block) + content)
        tracemalloc.start()
        rows = list(load_pairs([tmp_path / "00000.tar", tmp_path / "00001.tar"], streaming=True))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert [row["caption"] for row in rows] == ["a red bus"] * 2 and peak < 100_000_000

    @pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
    def test_headers_without_end(self, tmp_path, kind):
        """Each header of such a kind says something of the next, which is read within it."""
        write_tar(
            tmp_path / "00000.tar",
            [member("0.jpg", content=encoded(kind="JPEG")), member("0.txt", content=b"a red bus")]
            + [member("x", kind, content=b"12 path=a.b\n")] * 3000,
        )
        rows = list(load_pairs(tmp_path / "00000.tar", streaming=True))
        assert [row["caption"] for row in rows] == ["a red bus"]
