# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The documentation as a site: builds without a warning, is whole, and loads nothing from elsewhere."""

import dataclasses
import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlsplit

import pytest
import torch
from transformers import TrainingArguments

import hub_cards
import modeling_sacl
import trainer
from modeling_sacl import SaclModel


ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PACKAGES = (modeling_sacl, trainer, hub_cards)
# The first test waits for the build, on a busy machine for minutes.
pytestmark = pytest.mark.timeout(900)

PUBLIC = [f"{package.__name__}.{name}" for package in PACKAGES for name in package.__all__]


def load_file(path: Path) -> ModuleType:
    """A Python file of `docs/`, which is no package."""
    spec = importlib.util.spec_from_file_location(f"tested_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


page_text = load_file(DOCS / "_tools" / "page_text.py")


class Html(HTMLParser):
    """What a page is made of: identifiers, links, what it loads, and the text outside of code."""

    def __init__(self, text: str):
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.prose: list[str] = []
        self.bold_code: list[str] = []
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = {name: value or "" for name, value in attrs}
        self._open.append(tag)
        self.ids.update(value for name, value in attributes.items() if name in ("id", "name"))
        if tag == "a" and "href" in attributes:
            self.links.append(attributes["href"])
        is_metadata = tag == "link" and attributes.get("rel") in ("canonical", "prev", "next", "alternate")
        if tag in ("script", "link", "img", "iframe", "source", "video", "object", "embed") and not is_metadata:
            self.loaded += [attributes[name] for name in ("src", "href", "data", "srcset") if attributes.get(name)]

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data):
        if self._open[-2:] == ["strong", "code"]:
            self.bold_code.append(data)
        if not {"code", "pre", "script", "style"} & set(self._open):
            self.prose.append(data)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    for name in ("mkdocs", "material", "mkdocstrings_handlers.python"):
        pytest.importorskip(name, reason="the documentation needs `pip install sacl[docs]`")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site) -> dict[Path, Html]:
    return {path: Html(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}


class TestSite:
    def test_every_page_of_the_documentation_is_built_and_in_the_navigation(self, site, pages):
        reachable = {(site / link).resolve() for link in pages[site / "index.html"].links if not urlsplit(link).scheme}
        for page in DOCS.rglob("*.md"):
            stem = "index" if page.stem == "README" else page.stem
            built = site / page.relative_to(DOCS).with_name(f"{stem}.html")
            assert built in pages, page
            assert built.resolve() in reachable, f"{page} is not in `nav` of mkdocs.yml"

    def test_every_public_name_is_in_the_reference(self, site, pages):
        described = set().union(*(html.ids for path, html in pages.items() if path.parent == site / "reference"))
        missing = sorted(set(PUBLIC) - described)
        assert not missing, f"add to a page of docs/reference: {missing}"

    def test_the_arguments_of_training_are_listed_one_by_one(self, site, pages):
        inherited = {field.name for field in dataclasses.fields(TrainingArguments)}
        own = {field.name for field in dataclasses.fields(trainer.SaclTrainingArguments)} - inherited
        assert own <= set(pages[site / "reference" / "training.html"].bold_code)

    def test_nothing_is_loaded_from_elsewhere(self, site, pages):
        for path, html in pages.items():
            assert html.loaded
            outside = [url for url in html.loaded if urlsplit(url).netloc and not url.startswith("data:")]
            assert not outside, f"{path.relative_to(site)} loads {outside}"
        for path in site.rglob("*.css"):
            assert not re.search(r"(@import\s|url\()\s*['\"]?(https?:)?//", path.read_text(encoding="utf-8")), path

    def test_links_and_anchors_lead_somewhere(self, site, pages):
        for path, html in pages.items():
            if path.name == "404.html":
                continue  # Its links are absolute, since it may stand in for any page.
            for link in [*html.links, *html.loaded]:
                parts = urlsplit(link)
                if parts.scheme or parts.netloc:
                    continue
                target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
                assert target.exists(), f"{path.relative_to(site)} links to {link}"
                if parts.fragment and not parts.fragment.startswith("__"):
                    assert unquote(parts.fragment) in pages[target].ids, f"{path.relative_to(site)} links to {link}"

    def test_a_link_to_the_code_leads_to_the_code(self, site):
        shown = site / "repository" / "examples" / "finetune_classification.py.html"
        assert "parse_args" in shown.read_text(encoding="utf-8")
        assert "finetune_classification.py.html" in (site / "classification.html").read_text(encoding="utf-8")

    def test_no_markup_is_left_unread(self, site, pages):
        for path, html in pages.items():
            prose = " ".join(html.prose)
            assert "[!NOTE]" not in prose and "::: " not in prose, path.relative_to(site)
            assert not re.search(r"\]\[[\w.]+\]|\*\*\w", prose), path.relative_to(site)

    def test_the_search_works_without_a_server(self, site):
        script = (site / "search" / "search_index.js").read_text(encoding="utf-8")
        assert script.startswith("var __index = {") and "regulation_strength" in script


DOCSTRING = """
What it does, like [`Other`] and [`~package.Thing`].

    formula = indented

> [!NOTE]
> Other defaults: `a`
> (1 instead of 2).

Args:
    first (`torch.Tensor` of shape `(batch, (2, 3))`, bool, *optional*, defaults to `x`):
        One line,
        and another. See [`Known.method`].

        - a list
    second, third (`int`): Short (with brackets) text.
    fourth (`int`), fifth (`str`):
        Both.
    config ([`Known`]).

Returns:
    `int`: the sum.

Raises:
    ValueError: for a
        negative one.

Example:

```python
>>> [`Known`]
```

Source: somewhere.
"""


class TestDocstrings:
    @pytest.fixture
    def text(self) -> str:
        return page_text.from_docstring(DOCSTRING.strip(), {"Known": "package.Known"})

    @pytest.fixture
    def html(self, text) -> str:
        markdown = pytest.importorskip("markdown", reason="the documentation needs `pip install sacl[docs]`")
        return markdown.markdown(text, extensions=["admonition", "fenced_code", "sane_lists"])

    def test_arguments_and_errors_are_lists(self, html):
        named = r"<strong><code>(\w+)</code></strong>"
        assert re.findall(named, html) == ["first", "second", "third", "fourth", "fifth", "config", "ValueError"]
        assert html.count("<ul>") == 3  # Args, the list in the first argument, Raises.
        assert "<li>a list</li>" in html and "<li>One line" not in html

    def test_types_and_texts_are_kept(self, text):
        assert "- **`first`** (`torch.Tensor` of shape `(batch, (2, 3))`, bool, *optional*, defaults to `x`):" in text
        assert "- **`second`**, **`third`** (`int`): Short (with brackets) text." in text
        assert "- **`fourth`** (`int`), **`fifth`** (`str`):\n    Both." in text
        assert "- **`ValueError`**: for a\n    negative one." in text
        assert "**Returns**\n\n`int`: the sum." in text
        assert text.rstrip().endswith("Source: somewhere.")

    def test_what_is_known_is_linked_and_the_rest_is_code(self, text):
        assert "See [`Known.method`][package.Known.method]." in text
        assert "([`Known`][package.Known])" in text
        assert "like `Other` and `Thing`." in text

    def test_code_is_left_alone(self, text, html):
        assert "```python\n>>> [`Known`]\n```" in text
        assert "<pre><code>formula = indented\n</code></pre>" in html

    def test_notes_are_admonitions(self, text, html):
        assert "!!! note\n\n    Other defaults: `a`\n    (1 instead of 2).\n" in text
        assert html.count('class="admonition note"') == 1

    @pytest.mark.parametrize("name", PUBLIC)
    def test_every_reference_names_something(self, name):
        """`[`Name`]` in a docstring is in the reference, or at least in a library that is installed."""
        value = eval(name, {package.__name__: package for package in PACKAGES})
        known = page_text.reference_names(DOCS / "reference")
        for _, path in page_text.REFERENCE.findall(getattr(value, "__doc__", None) or ""):
            first = path.split(".")[0]
            assert first in known or _exists_elsewhere(first, sys.modules.get(value.__module__)), f"{name}: {path}"


def _exists_elsewhere(name: str, module: ModuleType | None) -> bool:
    import accelerate
    import datasets
    import peft
    import transformers

    libraries = {"accelerate": accelerate, "datasets": datasets, "peft": peft, "transformers": transformers}
    if name in libraries or any(hasattr(library, name) for library in libraries.values()):
        return True
    sources = (path for package in PACKAGES for path in Path(package.__path__[0]).rglob("*.py"))
    return any(
        re.search(rf"^(class|def) {name}\b", path.read_text(encoding="utf-8"), re.MULTILINE) for path in sources
    )


class TestPictures:
    def test_are_drawn_from_a_batch(self, tiny_config, tiny_processor, tmp_path):
        pytest.importorskip("matplotlib", reason="pictures need `pip install sacl[hub]`")
        tool = load_file(DOCS / "make_pictures.py")
        torch.manual_seed(0)
        batch = tool.embed_batch(SaclModel(tiny_config).eval(), tiny_processor, 12, seed=0)
        assert batch.cosines.shape == batch.negatives.shape == (12, 12)
        assert not batch.negatives.diagonal().any()
        tool.draw_false_negatives(batch, tmp_path / "false_negatives.png", nearest=3, others=3)
        tool.draw_weights(batch, tmp_path / "weights.png")
        tool.draw_schedules(tmp_path / "schedules.png")
        tool.draw_model(tmp_path / "model.png")
        for picture in tmp_path.glob("*.png"):
            assert 2_000 < picture.stat().st_size < 150_000
            assert (DOCS / "pictures" / picture.name).stat().st_size < 150_000

    def test_the_anchor_is_the_one_with_the_most_similar_negative(self):
        pytest.importorskip("matplotlib", reason="pictures need `pip install sacl[hub]`")
        tool = load_file(DOCS / "make_pictures.py")
        cosines = torch.tensor([[0.9, 0.1, 0.2], [0.3, 0.4, 0.8], [0.95, 0.0, 0.1]])
        negatives = torch.ones(3, 3, dtype=torch.bool)
        negatives[range(3), range(3)] = False
        negatives[2, 0] = False
        assert tool.most_similar_negative(tool.Batch([], [], cosines, negatives)) == 1

    def test_others_are_spread_over_the_rest(self):
        tool = load_file(DOCS / "make_pictures.py")
        assert tool.spread(list(range(12)), 2, 3) == [0, 1, 5, 8, 11]
