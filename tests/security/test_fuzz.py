# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Broken and invented files, drawn by hypothesis: each reader gives something sound, or the error that it promises."""

import json
import math
import subprocess
import sys
import tempfile
import unicodedata
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from hub_cards import CardFacts, validate_card
from hub_cards.sections import CardError, parse_card, update_card
from tests.security.fuzz import READERS, ROOT, read
from trainer import load_training_arguments, verify_checkpoint
from trainer.checkpoints import _problem_of_shards
from trainer.cli.arguments import CommandParser
from trainer.cli.errors import UsageError
from trainer.data import load_karpathy, load_vqa, tar_shards
from trainer.data.pairs import clean_captions, content_pair_id, pair_ids_tensor
from trainer.data.question_answering import people_answers, weigh_answers
from trainer.data.transforms import ImageDecodingError, decode_image
from trainer.paths import check_saved_dataset, is_inside
from trainer.shared_checkpoints import HubCheckpoint, _step, from_safetensors, to_safetensors


few = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
some = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

# Blanks, control characters, and what only steers other characters.
INVISIBLE = {"Cc", "Cf", "Zs", "Zl", "Zp"}
text = st.text(st.characters(codec="utf-8"), max_size=30)
scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | text
plain = st.recursive(
    scalars, lambda part: st.lists(part, max_size=4) | st.dictionaries(text, part, max_size=4), max_leaves=12
)


def like(valid):
    """Values of the same shape, of which any part may be something else or missing."""
    if isinstance(valid, dict):
        parts = {key: like(value) for key, value in valid.items()}
        return st.fixed_dictionaries({}, optional=parts) | st.fixed_dictionaries(parts) | plain
    if isinstance(valid, list):
        return st.lists(like(valid[0]), max_size=3) | plain if valid else plain
    return st.just(valid) | plain


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With a picture in it."""
    folder = tmp_path_factory.mktemp("images")
    from tests.security.conftest import encoded

    for name in ("a.jpg", "COCO_val2014_000000000007.jpg"):
        (folder / name).write_bytes(encoded(kind="JPEG"))
    return folder


@pytest.fixture(scope="module", autouse=True)
def scratch(tmp_path_factory):
    """Where files of single examples are made: pytest tidies up."""
    before, tempfile.tempdir = tempfile.tempdir, str(tmp_path_factory.mktemp("scratch"))
    yield
    tempfile.tempdir = before


def written(content: object) -> Path:
    """A file with the content as JSON, or as it is, alone in its folder, which is alone in its own."""
    file = Path(tempfile.mkdtemp()) / "alone" / "file.json"
    file.parent.mkdir()
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return file


class TestCaptions:
    @some
    @example(["\x1b", "a\x1b", ["\u200b"]])
    @given(st.lists(st.none() | text | st.lists(st.none() | text, max_size=3) | scalars, max_size=5))
    def test_cleaning(self, values):
        flat = [item for value in values for item in (value if isinstance(value, list) else [value])]
        if not all(item is None or isinstance(item, str) for item in flat):
            with pytest.raises(ValueError, match="A caption has to be a string"):
                clean_captions(*values)
            return
        cleaned = clean_captions(*values)
        assert set(cleaned) <= set(flat) and len({caption.strip() for caption in cleaned}) == len(cleaned)
        shown = {caption for caption in flat if caption and {*map(unicodedata.category, caption)} - INVISIBLE}
        assert {caption.strip() for caption in shown} == {caption.strip() for caption in cleaned}
        assert clean_captions(*cleaned) == cleaned

    @some
    @given(st.lists(scalars, min_size=1, max_size=4))
    def test_pair_ids(self, ids):
        try:
            tensor = pair_ids_tensor(ids)
        except ValueError as error:
            assert "pair id" in str(error)
            return
        assert tensor.dtype == torch.int64 and len(tensor) == len(ids)
        assert torch.equal(tensor, pair_ids_tensor(ids))

    @some
    @given(st.text(max_size=10), st.binary(max_size=20), st.none() | st.text(max_size=10))
    def test_ids_of_content(self, caption, content, path):
        """Also of halves of characters, which JSON can hold and UTF-8 cannot."""
        row = {"image": {"bytes": content, "path": path}, "caption": caption}
        assert 0 <= content_pair_id(row) == content_pair_id(dict(row)) < 2**63


KARPATHY = {
    "images": [
        {"filename": "a.jpg", "filepath": "", "imgid": 1, "split": "test", "sentences": [{"raw": "a cat"}]},
    ]
}
QUESTIONS = {
    "data_subtype": "val2014",
    "questions": [{"question": "what?", "question_id": 1, "image_id": 7}],
}
ANNOTATIONS = {
    "annotations": [
        {"question_id": 1, "answers": [{"answer": "red"}], "question_type": "what", "answer_type": "other"},
    ]
}


class TestAnnotations:
    @some
    @given(like(KARPATHY) | st.binary(max_size=40))
    def test_of_karpathy(self, folder, content):
        try:
            rows = load_karpathy(written(content), folder)
        except (ValueError, FileNotFoundError) as error:
            assert str(error)
            return
        column = rows.with_format("arrow")[:]["image"].to_pylist()
        assert rows.column_names == ["image", "captions", "pair_id"] and len(column) == len(rows) > 0
        assert all(is_inside(image["path"], folder) for image in column)

    @some
    @given(like(QUESTIONS), st.none() | like(ANNOTATIONS))
    def test_of_questions(self, folder, questions, annotations):
        try:
            rows = load_vqa(written(questions), folder, None if annotations is None else written(annotations))
        except (ValueError, FileNotFoundError) as error:
            assert str(error)
            return
        column = rows.with_format("arrow")[:]["image"].to_pylist() if len(rows) else []
        assert all(is_inside(image["path"], folder) for image in column)

    @some
    @given(st.fixed_dictionaries({}, optional={"answers": plain, "answer": plain, "weights": plain}))
    def test_answers(self, row):
        try:
            weighed = weigh_answers(people_answers(row), row.get("weights"))
        except ValueError as error:
            assert str(error)
            return
        assert all(isinstance(answer, str) and answer and weight >= 0 for answer, weight in weighed.items())


class TestYaml:
    @some
    @given(st.text(max_size=60) | plain.map(lambda value: yaml.safe_dump(value)) | st.binary(max_size=30))
    def test_arguments_of_a_run(self, content):
        file = written(content if isinstance(content, (bytes, str)) else "")
        try:
            load_training_arguments(file, "somewhere")
        except (ValueError, TypeError, ImportError) as error:
            assert str(error)

    @some
    @given(
        st.dictionaries(
            st.sampled_from(["ks", "model", "batch_size", "dtype", "split", "max_rows"]) | text, plain, max_size=3
        )
    )
    def test_arguments_of_a_command(self, content):
        parser = _evaluate_parser()
        file = written(yaml.safe_dump(content, allow_unicode=True))
        try:
            parser.read_config(str(file))
            values, _ = parser.parse_known_args(["--model", "m", "--dataset", "d"])
        except UsageError as error:
            assert "\n" not in str(error)
            return
        assert values.model == "m" and isinstance(values.batch_size, int)


def _evaluate_parser() -> CommandParser:
    from trainer.cli import evaluate

    return CommandParser(evaluate.arguments(), prog="sacl evaluate")


MARKERS = [
    "<!-- sacl:generated a -->",
    "<!-- /sacl:generated a -->",
    "<!-- sacl:own b -->",
    "<!-- sacl:generated b -->",
]
lines = st.sampled_from(
    [*MARKERS, "# T", "```", "~~~~", "---", "words", "", "license: mit", "tags: [a", "- x", "a: &a [*a]"]
)
cards = st.lists(lines | text, max_size=12).map("\n".join)


class TestCards:
    @some
    @given(cards | st.tuples(cards, cards).map(lambda pair: f"---\n{pair[0]}\n---\n{pair[1]}"))
    def test_taken_apart_and_put_together(self, content):
        folder = Path(tempfile.mkdtemp())
        (folder / "README.md").write_text(content, encoding="utf-8", newline="")
        sections = {"notice": "generated", "title": "# Name", "a": "of a"}
        try:
            parse_card(content)
            update_card(folder, {"license": "mit", "tags": ["sacl"]}, sections)
        except CardError as error:
            assert str(error) and (folder / "README.md").read_bytes() == content.encode()
            return
        once = (folder / "README.md").read_bytes()
        update_card(folder, {"license": "mit", "tags": ["sacl"]}, sections)
        assert (folder / "README.md").read_bytes() == once
        assert all(isinstance(problem, str) for problem in validate_card(folder))

    @some
    @given(st.dictionaries(text, plain, max_size=4).map(lambda value: yaml.safe_dump(value, allow_unicode=True)))
    def test_any_front_matter_can_be_checked(self, front):
        for repo_type in ("model", "dataset", "space"):
            assert all(isinstance(problem, str) for problem in validate_card(f"---\n{front}---\nWords.\n", repo_type))

    @few
    @given(like(json.loads(json.dumps(CardFacts("x").__dict__))))
    def test_facts(self, content):
        folder = Path(tempfile.mkdtemp())
        (folder / "card").mkdir()
        (folder / "card" / "facts.json").write_text(json.dumps(content))
        try:
            facts = CardFacts.load(folder)
        except ValueError as error:
            assert "cannot be read" in str(error)
            return
        assert isinstance(facts, CardFacts)


class TestStates:
    @some
    @given(plain)
    def test_there_and_back(self, value):
        """What is no plain value for `torch.save` is none here."""
        folder = Path(tempfile.mkdtemp())
        state = {"state": {0: torch.ones(2)}, "value": value}
        torch.save(state, folder / "optimizer.pt")
        try:
            to_safetensors(folder / "optimizer.pt", folder / "shared.safetensors")
        except ValueError as error:
            assert "cannot be shared" in str(error)
            return
        from_safetensors(folder / "shared.safetensors", folder / "back.pt")
        back = torch.load(folder / "back.pt", weights_only=True)
        assert _same(back["value"], value)

    @some
    @given(
        st.binary(max_size=60)
        | like({"dict": [["a", {"tensor": "0"}]]})
        | like({"array": "0", "dtype": "<f4", "shape": [1]})
    )
    def test_headers(self, content):
        file = written(content if isinstance(content, bytes) else b"")
        if not isinstance(content, bytes):
            save_file({"0": torch.ones(1)}, file, metadata={"plain_values": json.dumps(content)})
        try:
            from_safetensors(file, file.with_suffix(".pt"))
        except ValueError as error:
            assert "is no training state as it is shared" in str(error)

    @some
    @given(
        like({"format_version": 1, "files": {"a": {"size": 1, "xxh3_128": "0"}}, "xxh3_128": "0"})
        | st.binary(max_size=40)
    )
    def test_lists_of_files(self, content):
        file = written(content)
        file.rename(file.with_name("checkpoint_manifest.json"))
        with pytest.raises(ValueError, match="is damaged"):
            verify_checkpoint(file.parent)

    @some
    @given(like({"_data_files": [{"filename": "data.arrow"}]}) | st.binary(max_size=40))
    def test_lists_of_saved_data_sets(self, content):
        file = written(content)
        file.rename(file.with_name("state.json"))
        try:
            check_saved_dataset(file.parent)
        except ValueError as error:
            assert str(error)
            return
        for listed in content["_data_files"]:
            assert is_inside(file.parent / listed["filename"], file.parent)

    @some
    @given(st.text("abc/.-@_0123456789\n", max_size=30) | text)
    def test_names_on_the_hub(self, name):
        found = HubCheckpoint.parse(name)
        assert found is None or (
            found.repo_id.count("/") == 1 and "\n" not in str(found) and ".." not in found.repo_id
        )


def _same(left, right):
    if isinstance(right, float):
        return isinstance(left, float) and (left == right or math.isnan(left) and math.isnan(right))
    if isinstance(right, dict):
        return (
            isinstance(left, dict) and list(left) == list(right) and all(_same(left[key], right[key]) for key in right)
        )
    if isinstance(right, list):
        return isinstance(left, list) and len(left) == len(right) and all(map(_same, left, right))
    return type(left) is type(right) and left == right


class TestImages:
    @few
    @given(st.data())
    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO"])
    def test_broken_ones_are_decoded_or_refused(self, kind, data):
        from tests.security.conftest import encoded

        content = bytearray(encoded(kind=kind))
        for _ in range(data.draw(st.integers(1, 6))):
            content[data.draw(st.integers(0, min(len(content), 80) - 1))] = data.draw(st.integers(0, 255))
        content = content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content
        try:
            assert decode_image({"bytes": bytes(content), "path": None}).mode == "RGB"
        except ImageDecodingError as error:
            assert str(error)


class TestRecords:
    """The targets of `make fuzz`, with bytes that hypothesis draws."""

    @few
    @given(st.binary(max_size=200))
    @pytest.mark.parametrize("name", READERS)
    def test_readers(self, name, content):
        read(name, content)

    @few
    @given(st.data())
    @pytest.mark.parametrize("name", READERS)
    def test_readers_of_what_is_nearly_right(self, name, data):
        content = bytearray(READERS[name].seed())
        for _ in range(data.draw(st.integers(1, 8))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        read(name, bytes(content))


DEEP = 100_000


class TestDepth:
    """What is nested deeper than Python can follow is as broken as anything else."""

    CARD = f"---\ntags: {'[' * DEEP}\n---\nWords.\n".encode()

    @pytest.mark.parametrize("opening", [b"[", b'{"a":'])
    @pytest.mark.parametrize(
        "name", ["list", "searcher", "skipped", "manifest", "karpathy", "questions", "saved", "located"]
    )
    def test_of_json(self, name, opening):
        read(name, opening * DEEP + b"\n")
        assert tar_shards._fields(opening * DEEP) == {}

    def test_of_states_and_facts(self, tmp_path):
        save_file({"0": torch.ones(1)}, tmp_path / "a.safetensors", metadata={"plain_values": "[" * DEEP})
        with pytest.raises(ValueError, match="is no training state as it is shared"):
            from_safetensors(tmp_path / "a.safetensors", tmp_path / "a.pt")
        (tmp_path / "card").mkdir()
        (tmp_path / "card" / "facts.json").write_text("[" * DEEP)
        with pytest.raises(ValueError, match="cannot be read"):
            CardFacts.load(tmp_path)
        with pytest.raises(ValueError, match="of the checkpoint cannot be read"):
            _step(b"[" * DEEP)

    def test_of_yaml(self, tmp_path):
        (tmp_path / "README.md").write_bytes(self.CARD)
        assert all(isinstance(problem, str) for problem in validate_card(tmp_path))
        with pytest.raises(CardError, match="no valid YAML"):
            update_card(tmp_path, {"tags": ["sacl"]}, {"notice": "n"})
        assert (tmp_path / "README.md").read_bytes() == self.CARD
        read("command", b"ks: " + b"[" * DEEP)
        with pytest.raises(ValueError, match="cannot be read as YAML"):
            load_training_arguments(written(b"seed: " + b"[" * DEEP), "somewhere")


class TestIndexOfShards:
    def test_numbers_that_would_fill_the_memory_are_refused(self, tmp_path):
        """`None`, kept as the part of number 400 million, for which a table of 6 GB would be made."""
        file = tmp_path / ".metadata"
        file.write_bytes(b"\x80\x02Nr" + (400_000_000).to_bytes(4, "little") + b".")
        assert _problem_of_shards(file) == "cannot be read: it refers to its 400000000th part"
        file.write_bytes(READERS["index"].seed())
        assert _problem_of_shards(file) is None


@pytest.mark.slow
class TestAtheris:
    @pytest.mark.parametrize("name", READERS)
    def test_finds_nothing_in_a_short_while(self, name):
        pytest.importorskip("atheris")
        command = [sys.executable, "-m", "tests.security.fuzz", "20", name]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, f"{done.stdout[-2000:]}{done.stderr[-4000:]}"
        assert "No reader failed." in done.stdout and "number_of_executed_units" in done.stderr
