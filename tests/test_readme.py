# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The README's code: what can run without the network does, and the rest at least names things that exist."""

import ast
import importlib
import re
from pathlib import Path

import pytest


ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
NETWORK = "<!-- needs the network -->"
# Each block with whether it needs the network, which the line before it says.
BLOCKS = [
    (bool(network), code)
    for network, code in re.findall(rf"^({re.escape(NETWORK)}\n)?```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
]


def test_every_code_block_is_found():
    assert len(BLOCKS) == TEXT.count("```python") >= 3


@pytest.mark.parametrize("code", [code for network, code in BLOCKS if not network])
def test_code_runs(code):
    exec(compile(code, "README.md", "exec"), {})


@pytest.mark.parametrize("code", [code for network, code in BLOCKS if network])
def test_imports_exist(code):
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)


def test_keyword_arguments_exist():
    import inspect

    import trainer

    for _, code in BLOCKS:
        for node in ast.walk(ast.parse(code)):
            name = getattr(node.func, "id", None) if isinstance(node, ast.Call) else None
            target = getattr(trainer, name or "", None)
            if target is not None:
                accepted = inspect.signature(target).parameters
                assert {keyword.arg for keyword in node.keywords} <= set(accepted), ast.unparse(node)


def test_local_links_lead_somewhere():
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", TEXT)
    assert links
    missing = [link for link in links if not (ROOT / link).exists()]
    assert not missing


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make ([a-z-]+)", TEXT, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
