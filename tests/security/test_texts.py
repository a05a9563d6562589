# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Texts from outside are shown as texts: in cards, in front matter, in the gallery, on a terminal."""

import io
import json
import logging
import re
import sys
from html.parser import HTMLParser

import datasets
import pytest
import yaml
from datasets import Dataset, Features, Image, Value
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hub_cards import CardFacts, DatasetFacts, EvaluationResult, validate_card, write_model_card
from hub_cards.facts import ObjectiveFacts
from hub_cards.rendering import address, code, fenced, named, place, python, text
from hub_cards.sections import CardError, parse_card, update_card
from tests.security.conftest import encoded
from trainer import PairCollator, load_pairs
from trainer.audit_report import AuditReport, Finding
from trainer.cli.output import Output
from trainer.text import escaped_json, one_line, printable


EVIL = "<script>alert(1)</script> ![x](http://evil/x.png) [y](javascript:alert(1))\n\n# H\n---\nlicense: x\n---\n`a`"
TERMINAL = "\x1b]0;owned\x07\x1b[2J\x1b[31mred\x9b31m\r\x08\x7f\u202egnp.exe\u2066"
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

anything = st.text(st.characters(), max_size=60) | st.text("<>&\"'`|\\[]()!*_~#-$ \n\r\tx:/{}%\x1b\u202e", max_size=60)


def tags_of(markdown: str) -> list[tuple[str, dict]]:
    """What a browser would see of it."""
    markdown_it = pytest.importorskip("markdown_it")
    html = markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown)
    tags: list[tuple[str, dict]] = []
    reader = HTMLParser()
    reader.handle_starttag = lambda tag, attributes: tags.append((tag, dict(attributes)))
    reader.feed(html)
    return tags


class TestFilters:
    @settings(max_examples=60, deadline=None)
    @given(anything)
    def test_words_are_words(self, value):
        assert {tag for tag, _ in tags_of(f"a {text(value)} b")} <= {"p"}
        assert not CONTROLS.search(str(text(value)) + str(code(value)) + str(fenced(value)))

    @settings(max_examples=60, deadline=None)
    @given(anything)
    def test_code_is_code(self, value):
        assert {tag for tag, _ in tags_of(f"a {code(value)} b")} <= {"p", "code"}
        assert {tag for tag, _ in tags_of(f"a\n\n{fenced(value)}\n\nb")} <= {"p", "pre", "code"}

    @settings(max_examples=60, deadline=None)
    @example("\ud800")
    @given(anything)
    def test_addresses_are_of_the_web(self, value):
        for found in (f"<{value}>", value, f"https://a.b/{value}"):
            shown = str(address(found))
            links = [attributes["href"] for tag, attributes in tags_of(f"At {shown}.") if tag == "a"]
            assert all(link.startswith(("https://", "http://")) for link in links)
            assert {tag for tag, _ in tags_of(f"At {shown}.")} <= {"p", "a"}
        tags = tags_of(f"[x](https://huggingface.co/{place(value)})")
        assert [tag for tag, _ in tags] == ["p", "a"] and tags[1][1]["href"].startswith("https://huggingface.co/")

    @settings(max_examples=50, deadline=None)
    @given(st.dictionaries(st.text(max_size=8), st.text(max_size=20) | st.booleans() | st.integers(), max_size=3))
    def test_arguments_of_snippets_are_values(self, values):
        import ast

        (call,) = ast.parse(f"processor({named(values)}text={python(EVIL)})").body
        given_values = {argument.arg: ast.literal_eval(argument.value) for argument in call.value.keywords}
        known = {name: value for name, value in values.items() if name in given_values}
        assert {name: given_values[name] for name in known} == known and given_values["text"] == EVIL


class TestCards:
    @pytest.fixture
    def card(self, tmp_path):
        facts = CardFacts(
            model_name=EVIL,
            model_id=EVIL,
            base_model=[EVIL, f"user/model){EVIL}"],
            text_options={"padding=True)\nimport os; os.system('x')\n(a": 1, "padding": EVIL},
            license=EVIL,
            language=[EVIL],
            tags=[EVIL, "a: b", "- c", "!!python/object/apply:os.system ['x']", "*a", "&b c", "%d", "@e", "null"],
            train_datasets=[
                DatasetFacts(name=EVIL, repo_id=f"user/x){EVIL}", homepage="javascript:alert(1)", revision=EVIL),
                DatasetFacts(name="b", homepage=f"https://a.b/>{EVIL}"),
            ],
            objective=ObjectiveFacts(EVIL, citation="```\n<script>x</script>", settings={"filter_threshold": EVIL}),
            results=[EvaluationResult(DatasetFacts(name=EVIL, repo_id=EVIL, config=EVIL), {"mean_recall": 1.0})],
            seed=EVIL,
            regulated_pairs=EVIL,
            hardware=TERMINAL,
        )
        return write_model_card(tmp_path, facts)

    def test_the_front_matter_is_what_was_meant(self, card):
        content = card.read_text()
        metadata = yaml.safe_load(REGEX_YAML_BLOCK.search(content)[2])
        assert metadata["license"] == EVIL and metadata["language"] in (EVIL, [EVIL])
        assert {"a: b", "- c", "*a", "&b c", "null", EVIL} <= set(metadata["tags"])
        assert parse_card(content).metadata == metadata

    def test_the_text_has_no_markup_of_theirs(self, card):
        tags = tags_of(parse_card_body(card))
        assert "script" not in {tag for tag, _ in tags} and not [1 for tag, _ in tags if tag == "img"]
        links = [attributes["href"] for tag, attributes in tags if tag == "a"]
        assert links and all(link.startswith("https://") for link in links)
        assert not any(link.startswith("http://evil") for link in links)
        assert [tag for tag, _ in tags].count("h1") == 1
        assert not CONTROLS.search(card.read_text())

    def test_the_snippets_run_nothing_of_theirs(self, card):
        import ast

        for block in re.findall(r"^```python\n(.*?)^```", parse_card_body(card), re.DOTALL | re.MULTILINE):
            names = {node.id for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Name)}
            assert "os" not in names


def parse_card_body(card):
    """As the Hub takes it apart."""
    content = card.read_text()
    return content[REGEX_YAML_BLOCK.search(content).end() :]


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)


class TestFrontMatter:
    @pytest.mark.parametrize("content", [BOMB + "tags: *a11\n", "tags: &t [x, *t]\n", "license: &l {a: *l}\n"])
    def test_aliases_that_grow_without_end_are_refused(self, tmp_path, content):
        (tmp_path / "README.md").write_text(f"---\n{content}---\nWords.\n")
        with pytest.raises(CardError, match="aliases .* repeat one another"):
            update_card(tmp_path, {"tags": ["sacl"], "license": "mit"}, {"notice": "n"})
        (problem,) = validate_card(tmp_path)
        assert "repeat one another" in problem and (tmp_path / "README.md").read_text().endswith("Words.\n")

    def test_a_few_are_fine(self, tmp_path):
        (tmp_path / "README.md").write_text("---\ntags: &t [x, y]\nmore: *t\n---\nWords.\n")
        update_card(tmp_path, {"tags": ["sacl"]}, {"notice": "n"})
        assert yaml.safe_load((tmp_path / "README.md").read_text().split("---")[1])["more"] == ["x", "y"]

    @pytest.mark.parametrize(
        "tag", ["!!python/object/apply:os.system ['touch {}']", "!!python/name:os.system", "!x y"]
    )
    def test_objects_are_not_made(self, tmp_path, tag):
        (tmp_path / "README.md").write_text(f"---\ntags: {tag.format(tmp_path / 'it ran')}\n---\n")
        with pytest.raises(CardError, match="no valid YAML"):
            update_card(tmp_path, {"tags": ["sacl"]}, {"notice": "n"})
        assert not (tmp_path / "it ran").exists()


class TestGallery:
    def test_captions_and_ids_are_text(self, tmp_path):
        features = Features({"image": Image(decode=False), "caption": Value("string")})
        rows = [{"image": {"bytes": encoded(), "path": None}, "caption": EVIL}] * 2
        finding = Finding("similar_texts", 0, 1, EVIL, TERMINAL, EVIL, f"{{{{7*7}}}}{TERMINAL}", 0.9, 99.0, None)
        summary = {"rows": 2, "pairs": 2, "counts": {"similar_texts": 1}, "thresholds": {"similar_texts": 0.5}}
        report = AuditReport([finding], summary, Dataset.from_list(rows, features=features))
        report.to_html(tmp_path / "audit.html")
        page = (tmp_path / "audit.html").read_text()
        tags: list[tuple[str, dict]] = []
        reader = HTMLParser()
        reader.handle_starttag = lambda tag, attributes: tags.append((tag, dict(attributes)))
        reader.feed(page)
        assert "script" not in {tag for tag, _ in tags} and "49" not in page
        sources = [attributes["src"] for tag, attributes in tags if tag == "img"]
        assert sources and all(source.startswith("data:image/jpeg;base64,") for source in sources)
        assert not [name for _, attributes in tags for name in attributes if name.startswith("on")]
        assert not CONTROLS.search(report.to_text())


class TestTerminal:
    @settings(max_examples=80, deadline=None)
    @given(anything | st.text(st.characters(categories=["Cc", "Cf", "Cs", "L"]), max_size=30))
    def test_nothing_but_text_reaches_it(self, value):
        for shown in (printable(value), one_line(value), escaped_json(json.dumps(value, ensure_ascii=False))):
            assert not CONTROLS.search(shown)
            shown.encode()
        assert json.loads(escaped_json(json.dumps({"a": value}, ensure_ascii=False))) == {"a": value}

    def test_emoji_and_scripts_stay(self):
        for value in ("👩‍🚀 🏳️‍🌈", "سلام‏ abc", "נ‎b", "a\n\tb"):
            assert printable(value) == value

    @pytest.mark.parametrize("as_json", [False, True])
    def test_of_all_that_a_command_says(self, capsys, as_json):
        output = Output(as_json=as_json)
        output.say(f"Looking at {TERMINAL}")
        output.result(f"found {TERMINAL}", {TERMINAL: TERMINAL})
        output.failure("sacl", f"cannot {TERMINAL}")
        captured = capsys.readouterr()
        assert captured.out and captured.err and not CONTROLS.search(captured.out + captured.err)

    def test_names_of_what_is_not_there(self, sacl, tmp_path):
        for words in (
            (f"tr{TERMINAL}",),
            ("evaluate", f"--{TERMINAL}"),
            ("evaluate", "--model", f"./{TERMINAL}", "--dataset", "x/y"),
            ("search", f"{tmp_path}/{TERMINAL}", "q"),
            ("card", f"{tmp_path}/{TERMINAL}"),
            ("evaluate", "--model", f"./{TERMINAL}", "--dataset", "x/y", "--debug"),
        ):
            code_, out, err = sacl(*words)
            assert code_ in (1, 2) and "error: " in err and not CONTROLS.search(out + err), words

    def test_captions_that_are_found_or_audited(self, sacl, model_folder, pairs, tmp_path):
        captions = [f"{TERMINAL} {row}" for row in range(12)]
        hostile_pairs = pairs.remove_columns("caption").add_column("caption", captions)
        hostile_pairs.to_parquet(tmp_path / "pairs.parquet")
        common = ["--model", model_folder, "--dataset", tmp_path / "pairs.parquet"]
        code_, out, err = sacl("embed", *common, "--output_dir", tmp_path / "index", "--cache_dir", tmp_path / "c")
        assert code_ == 0, err
        for words in (["search", tmp_path / "index", "a cat"], ["search", tmp_path / "index", "a", "--json"]):
            code_, out, err = sacl(*words)
            assert code_ == 0 and "gnp.exe" in out and not CONTROLS.search(out), err
        code_, out, err = sacl("audit", *common, "--output_dir", tmp_path / "audit")
        assert code_ == 0 and not CONTROLS.search(out), err

    def test_what_is_logged_of_data(self, tmp_path, caplog, tiny_processor):
        """Handlers write what they are given."""
        caplog.set_level(logging.INFO)
        features = Features({"image": Image(decode=False), "caption": Value("string"), "pair_id": Value("string")})
        rows = [
            {"image": {"bytes": encoded(), "path": None}, "caption": "a cat", "pair_id": "0"},
            {"image": {"bytes": b"x", "path": f"{TERMINAL}.png"}, "caption": TERMINAL, "pair_id": TERMINAL},
            {"image": {"bytes": None, "path": f"{TERMINAL}.png"}, "caption": TERMINAL, "pair_id": TERMINAL},
            {"image": {"bytes": encoded(), "path": None}, "caption": None, "pair_id": TERMINAL},
        ]
        loaded = load_pairs(Dataset.from_list(rows, features=features))
        collator = PairCollator(tiny_processor)
        undecoded = loaded.cast_column("image", datasets.Image(decode=False))
        collator([undecoded[row] for row in range(len(undecoded))])
        said = "\n".join(record.getMessage() for record in caplog.records)
        assert not CONTROLS.search(said), repr(said)


def test_standard_streams_are_not_touched():
    """`Output` holds what it found."""
    stream = io.StringIO()
    before, sys.stdout = sys.stdout, stream
    try:
        Output().result(f"a {TERMINAL}", None)
    finally:
        sys.stdout = before
    assert stream.getvalue().endswith("\n") and not CONTROLS.search(stream.getvalue())
