# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Has mkdocstrings render docstrings in the format of transformers, which none of its own styles reads."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import griffe


def _sibling(name: str) -> ModuleType:
    """griffe loads this file by its path, outside of any package."""
    spec = importlib.util.spec_from_file_location(f"docs_tools_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_page_text = _sibling("page_text")


class TransformersDocstrings(griffe.Extension):
    """
    Turns every docstring into Markdown before it is rendered.

    Args:
        reference (`str`):
            The folder with the pages of the API reference, whose names become links.
    """

    def __init__(self, reference: str):
        self.names = _page_text.reference_names(Path(reference))

    def on_object(self, *, obj: griffe.Object, loader: griffe.GriffeLoader, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = _page_text.from_docstring(obj.docstring.value, self.names)
