# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""
Fuzzing of what reads files of strangers: `make fuzz`, or `python -m tests.security.fuzz SECONDS [READER ...]`.

Each reader is given bytes, and either reads them or raises what it promises to; anything else is a finding. atheris
(`pip install atheris`) makes the bytes, from a valid file on, by what they reach in the code. Each reader runs in a
process of its own. What was found is left in `crash-*` files in `runs/fuzz/READER`, and is the first input of the next
run. The same readers get bytes of hypothesis in the tests.
"""

import io
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple


ROOT = Path(__file__).parent.parent.parent


class Reader(NamedTuple):
    """
    A reader of bytes, the names of what it raises by right, and how a valid file is made. Modules are imported by the
    functions alone: atheris has to be there first, to see what they do.
    """

    run: Callable[[bytes], object]
    raises: tuple[str, ...]
    seed: Callable[[], bytes]


def _file(content: bytes, name: str) -> Path:
    # A folder within a folder: of a checkpoint, those beside it are looked at.
    file = Path(tempfile.mkdtemp(prefix="sacl-fuzz-")) / "alone" / name
    file.parent.mkdir()
    file.write_bytes(content)
    return file


def _discarded(file: Path) -> None:
    shutil.rmtree(file.parent.parent, ignore_errors=True)


def _in_file(name: str, run: Callable[[Path], object]) -> Callable[[bytes], object]:
    def read_file(content: bytes) -> object:
        file = _file(content, name)
        try:
            return run(file)
        finally:
            _discarded(file)

    return read_file


def _picture(kind: str = "PNG") -> bytes:
    from PIL import Image

    content = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(content, kind)
    return content.getvalue()


def _image(content: bytes) -> None:
    from trainer.data.transforms import decode_image

    assert decode_image({"bytes": content, "path": None}).mode == "RGB"


def _tensors() -> bytes:
    import torch
    from safetensors.torch import save

    plain = {"dict": [["step", 1], ["state", {"list": [{"tensor": "0"}, None, 0.5]}]]}
    return save({"0": torch.ones(2)}, metadata={"plain_values": json.dumps(plain)})


def _state(file: Path) -> None:
    from trainer.shared_checkpoints import from_safetensors

    from_safetensors(file, file.with_suffix(".pt"))


def _converted(file: Path) -> None:
    from modeling_sacl.convert_albef_to_hf import _load_tensors

    _load_tensors(file)


def _saved() -> bytes:
    import torch

    content = io.BytesIO()
    torch.save({"model": {"weight": torch.ones(2)}}, content)
    return content.getvalue()


def _manifest(file: Path) -> None:
    from trainer import verify_checkpoint

    (file.parent / "a.txt").write_bytes(b"a")
    verify_checkpoint(file.parent)


def _karpathy(file: Path) -> None:
    from trainer.data import load_karpathy

    (file.parent / "a.jpg").write_bytes(b"")
    load_karpathy(file, file.parent)


def _questions(file: Path) -> None:
    from trainer.data import load_vqa

    (file.parent / "7.jpg").write_bytes(b"")
    load_vqa(file, file.parent, file, image_file="{image_id}.jpg")


def _card(content: bytes) -> None:
    from hub_cards import validate_card

    validate_card("\n" + content.decode("utf-8", errors="replace"))


def _command(file: Path) -> None:
    from trainer.cli import evaluate
    from trainer.cli.arguments import CommandParser

    CommandParser(evaluate.arguments(), prog="sacl evaluate").read_config(str(file))


def _saved_dataset(file: Path) -> None:
    from trainer.paths import check_saved_dataset

    check_saved_dataset(file.parent)


def _tar() -> bytes:
    import tarfile

    members = {
        "0.jpg": _picture("JPEG"),
        "0.txt": b"a red bus",
        "1.png": _picture(),
        "1.json": b'{"caption": "a", "width": 16}',
    }
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, part in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(part)
            archive.addfile(info, io.BytesIO(part))
    return content.getvalue()


def _shard(file: Path) -> None:
    from trainer.data.tar_shards import _find_columns, read_tar_shards

    columns = _find_columns(str(file), {})
    for row in read_tar_shards([str(file)], {}, columns):
        assert set(row) == {"image", "__key__", *columns} and isinstance(row["image"]["bytes"], bytes)


def _located(content: bytes) -> None:
    """What stands in the place of an image in a table: a path, an address, or the image in base64."""
    from trainer.data.locating import ImageLocator, is_web_address

    found = ImageLocator("/nowhere/images")(content.decode("utf-8", errors="surrogateescape"))
    path = found["path"] or ""
    assert not path or is_web_address(path) or os.path.normpath(path).startswith("/nowhere/images/")


def _json_list(file: Path) -> None:
    from trainer.data.sources import _alike, _list_dataset, _read_json_list

    assert len(_list_dataset(_alike(_read_json_list(str(file), {})), streaming=False))


def _searcher(file: Path) -> None:
    from trainer.search.searcher import read_settings

    settings = read_settings(file.parent)
    assert isinstance(settings["rows"], int)
    assert all({"dim", "embeddings", "index"} <= saved.keys() for saved in settings["columns"].values())


def _skipped(file: Path) -> None:
    """The list of a run that is resumed: what is no line of ours stays, and stops nothing."""
    from trainer.data.usable import SkippedPair
    from trainer.skipped_pairs import SkippedPairs

    skipped = SkippedPairs(1.0, file.parent)
    skipped.start(resumed=True)
    kept = file.read_bytes()
    assert kept == b"" or kept.endswith(b"\n")
    skipped.count(1, [SkippedPair("new", "no caption")], 1)
    skipped.flush()
    assert file.read_bytes().startswith(kept)


def _shards_of_states(file: Path) -> None:
    from trainer.checkpoints import _problem_of_shards

    problem = _problem_of_shards(file)
    assert problem is None or problem.startswith("cannot be read: ")


def _index_of_shards() -> bytes:
    import pickle

    from torch.distributed.checkpoint.metadata import Metadata

    return pickle.dumps(Metadata({}, storage_data={}))


def _table(file: Path) -> None:
    from trainer.data.sources import Source, _table_arguments

    arguments = _table_arguments(Source((str(file),)), str(file), ".tsv")
    assert arguments["sep"] == "\t" and all(arguments.get("column_names", ["x"]))


_SEARCHER = {
    "model": "user/model",
    "rows": 1,
    "image_column": "image",
    "caption_column": None,
    "max_length": None,
    "columns": {"image_embeds": {"dim": 2, "embeddings": "0", "index": None}},
}
_KARPATHY = {
    "images": [{"filename": "a.jpg", "imgid": 1, "split": "test", "sentences": [{"raw": "a cat"}]}],
}
_VQA = {
    "questions": [{"question": "what?", "question_id": 1, "image_id": 7}],
    "annotations": [
        {"question_id": 1, "answers": [{"answer": "a"}], "question_type": "what", "answer_type": "other"},
    ],
}
_SEAL = {"format_version": 1, "files": {"a.txt": {"size": 1, "xxh3_128": "0"}}, "xxh3_128": "0"}

READERS = {
    "png": Reader(_image, ("ImageDecodingError",), _picture),
    "jpeg": Reader(_image, ("ImageDecodingError",), lambda: _picture("JPEG")),
    "webp": Reader(_image, ("ImageDecodingError",), lambda: _picture("WEBP")),
    "gif": Reader(_image, ("ImageDecodingError",), lambda: _picture("GIF")),
    "tiff": Reader(_image, ("ImageDecodingError",), lambda: _picture("TIFF")),
    "tar": Reader(_in_file("00000.tar", _shard), ("ValueError",), _tar),
    "located": Reader(_located, ("ValueError",), lambda: b"folder/../a.jpg"),
    "list": Reader(
        _in_file("train.json", _json_list), ("ValueError",), lambda: b'[{"image": "a.jpg", "caption": ["a", "b"]}]'
    ),
    "table": Reader(
        _in_file("train.tsv", _table),
        ("ValueError",),
        lambda: b"a red bus\thttps://host/0.jpg\na cat\thttps://host/1\n",
    ),
    "searcher": Reader(_in_file("searcher.json", _searcher), ("ValueError",), lambda: json.dumps(_SEARCHER).encode()),
    "skipped": Reader(
        _in_file("skipped_pairs.jsonl", _skipped), (), lambda: b'{"pair_id": 5, "reason": "no image", "step": 0}\n'
    ),
    "index": Reader(_in_file(".metadata", _shards_of_states), (), _index_of_shards),
    "state": Reader(_in_file("optimizer.safetensors", _state), ("ValueError",), _tensors),
    "checkpoint": Reader(_in_file("ALBEF.pth", _converted), ("ValueError",), _saved),
    "manifest": Reader(
        _in_file("checkpoint_manifest.json", _manifest), ("ValueError",), lambda: json.dumps(_SEAL).encode()
    ),
    "karpathy": Reader(
        _in_file("dataset.json", _karpathy),
        ("ValueError", "FileNotFoundError"),
        lambda: json.dumps(_KARPATHY).encode(),
    ),
    "questions": Reader(
        _in_file("questions.json", _questions), ("ValueError", "FileNotFoundError"), lambda: json.dumps(_VQA).encode()
    ),
    "saved": Reader(
        _in_file("state.json", _saved_dataset),
        ("ValueError",),
        lambda: json.dumps({"_data_files": [{"filename": "data.arrow"}]}).encode(),
    ),
    "card": Reader(
        _card,
        (),
        lambda: (
            b"---\nlicense: mit\ntags: [a]\n---\n# T\n<!-- sacl:generated a -->\nx\n"
            b"<!-- /sacl:generated a -->\n[l](x.md)\n"
        ),
    ),
    "command": Reader(
        _in_file("run.yaml", _command), ("UsageError",), lambda: b"batch_size: 8\nks: [1, 5]\nmodel: m\n"
    ),
}


def read(name: str, content: bytes) -> None:
    """
    Has a reader read, and lets through what it should not raise.

    Args:
        name (`str`): One of `READERS`.
        content (`bytes`): What is to be read.
    """
    reader = READERS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            reader.run(content)
        except Exception as error:
            if not {kind.__name__ for kind in type(error).__mro__} & set(reader.raises):
                raise
            assert str(error), f"{type(error).__name__} without a word"


def fuzz(name: str, seconds: int) -> None:
    """Does not return: atheris ends the process."""
    import atheris

    logging.disable(logging.CRITICAL)
    with atheris.instrument_imports(include=["PIL", "trainer", "hub_cards", "modeling_sacl", "tarfile", "yaml"]):
        read(name, READERS[name].seed())
    folder = ROOT / "runs" / "fuzz" / name
    (folder / "corpus").mkdir(parents=True, exist_ok=True)
    (folder / "corpus" / "valid").write_bytes(READERS[name].seed())
    for crash in folder.glob("crash-*"):
        crash.replace(folder / "corpus" / crash.name)
    options = [f"-max_total_time={seconds}", f"-artifact_prefix={folder}/", "-max_len=16384", "-rss_limit_mb=4096"]
    atheris.Setup(
        [sys.argv[0], *options, "-print_final_stats=1", str(folder / "corpus")], lambda data: read(name, data)
    )
    atheris.Fuzz()


def main(arguments: Sequence[str]) -> int:
    """Fuzzes one reader after the other, each in a process of its own; returns 1 if one of them failed."""
    if arguments[:1] == ["--one"]:
        fuzz(arguments[1], int(arguments[2]))
    seconds, names = int(arguments[0]), list(arguments[1:]) or list(READERS)
    failed = []
    for name in names:
        print(f"{name}: {seconds} s", flush=True)
        done = subprocess.run([sys.executable, "-m", __spec__.name, "--one", name, str(seconds)], cwd=ROOT)
        failed += [name] if done.returncode else []
    print(f"Failed: {', '.join(failed)} (inputs in runs/fuzz)" if failed else "No reader failed.")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
