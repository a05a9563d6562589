# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Code in README and docs: what can run without the network does, and the rest at least names things that exist."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

import trainer
from modeling_sacl import SaclModel


ROOT = Path(__file__).parent.parent
# The demonstration's card is generated: tests of cards run its snippets where there is a model.
GENERATED = ROOT / "docs" / "demo_model"
DOCUMENTS = [
    ROOT / "README.md",
    *sorted(page for page in (ROOT / "docs").glob("**/*.md") if GENERATED not in page.parents),
]
NETWORK = "<!-- needs the network -->"


def blocks(document: Path) -> list[tuple[bool, str]]:
    """Each block with whether it needs the network, which the line before it says."""
    pattern = rf"^({re.escape(NETWORK)}\n)?```python\n(.*?)^```"
    found = re.findall(pattern, document.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [(bool(network), code) for network, code in found]


def named(document: Path, number: int) -> str:
    return f"{document.relative_to(ROOT)}-{number}"


BLOCKS = {
    named(document, number): block for document in DOCUMENTS for number, block in enumerate(blocks(document), start=1)
}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT)))
class TestDocument:
    def test_every_code_block_is_found(self, document):
        assert len(blocks(document)) == document.read_text(encoding="utf-8").count("```python")

    def test_local_links_lead_somewhere(self, document):
        links = re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text(encoding="utf-8"))
        assert links
        assert not [link for link in links if not (document.parent / link).exists()]

    def test_make_targets_exist(self, document):
        makefile = (ROOT / "Makefile").read_text()
        for target in re.findall(r"^make ([a-z-]+)", document.read_text(encoding="utf-8"), flags=re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target

    def test_files_exist(self, document):
        pattern = r"\b((?:benchmarks|examples|tests|trainer|modeling_sacl|hub_cards)/[\w/]+\.\w+)"
        for file in re.findall(pattern, document.read_text(encoding="utf-8")):
            assert (ROOT / file).exists(), file

    def test_arguments_exist(self, document):
        """`name=value` in backticks is an argument of the trainer's, or of what is spoken of there."""
        known = set(inspect.signature(trainer.SaclTrainingArguments).parameters)
        known |= set(inspect.signature(trainer.SaclTrainer).parameters)
        known |= set(inspect.signature(trainer.SaclTrainer.train).parameters) | {"trust_remote_code"}
        known |= set(inspect.signature(SaclModel.set_patch_selection).parameters)
        known |= set(inspect.signature(trainer.load_pairs).parameters)
        for name in re.findall(r"`([a-z_]+)=[^`]*`", document.read_text(encoding="utf-8")):
            assert name in known, name


def test_the_readme_shows_code():
    assert sum(name.startswith("README.md") for name in BLOCKS) >= 3


@pytest.mark.parametrize("name", [name for name, (network, _) in BLOCKS.items() if not network])
def test_code_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    exec(compile(BLOCKS[name][1], name, "exec"), {})


@pytest.mark.parametrize("name", [name for name, (network, _) in BLOCKS.items() if network])
def test_imports_exist(name):
    for node in ast.walk(ast.parse(BLOCKS[name][1])):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)


@pytest.mark.parametrize("name", BLOCKS)
def test_keyword_arguments_exist(name):
    for node in ast.walk(ast.parse(BLOCKS[name][1])):
        function = getattr(node.func, "id", None) if isinstance(node, ast.Call) else None
        target = getattr(trainer, function or "", None)
        if target is not None:
            accepted = inspect.signature(target).parameters
            if any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values()):
                accepted = {**accepted, **inspect.signature(trainer.SaclTrainingArguments).parameters}
            assert {keyword.arg for keyword in node.keywords} <= set(accepted), ast.unparse(node)
