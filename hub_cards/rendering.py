# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""From facts to Markdown: the templates, and filters that make the text of data sets harmless."""

import html
import json
import keyword
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from trainer.text import escaped_json, printable


_MARKDOWN = re.compile(r"([\\`*_\[\]|~$#])")
_MAX_LENGTH = 300


def render_sections(template: str, **values: Any) -> dict[str, str]:
    """
    The sections of a template in their order, each with its text; a section without text is left out.

    Args:
        template (`str`): The file in `hub_cards/templates`.
        values (`Any`): What the template speaks of.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hub_cards", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(text=text, code=code, fenced=fenced, number=number, doctests=doctests)
    environment.filters.update(python=python, named=named, place=place, address=address)
    sections: dict[str, str] = {}

    def section(name: str, caller: Callable[[], str]) -> str:
        content = re.sub(r"\n{3,}", "\n\n", str(caller())).strip()
        if content:
            sections[name] = content
        return ""

    environment.get_template(template).render(section=section, **values)
    return sections


def text(value: Any) -> Markup:
    """A value as plain words in Markdown: on one line, neither HTML nor markup."""
    words = printable(" ".join(str(value).split()))
    words = words if len(words) <= _MAX_LENGTH else words[: _MAX_LENGTH - 1] + "…"
    return Markup(_MARKDOWN.sub(r"\\\1", html.escape(words, quote=False)))


def code(value: Any) -> Markup:
    """A value as code within a line, whatever it holds."""
    words = printable(" ".join(str(value).split()))
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", words)), default=0))
    pad = " " if words.startswith("`") or words.endswith("`") else ""
    # In a table a bar ends the cell, in code too.
    return Markup(f"{fence}{pad}{words}{pad}{fence}".replace("|", "\\|"))


def fenced(value: Any, language: str = "") -> Markup:
    """A value as a block of code, whatever it holds."""
    body = printable(str(value).replace("\r\n", "\n").strip("\n"))
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`{3,}", body)), default=0))
    return Markup(f"{fence}{language}\n{body}\n{fence}")


def doctests(value: Any) -> Markup:
    """The examples of a docstring: prompts and results as blocks of code, words between them as prose."""
    blocks = []
    for paragraph in re.split(r"\n\s*\n", str(value).strip()):
        blocks.append(str(fenced(paragraph, "python")) if paragraph.startswith(">>>") else paragraph)
    return Markup("\n\n".join(blocks))


def python(value: Any) -> Markup:
    """A value as Python writes it, on one line; a string in double quotes."""
    return Markup(escaped_json(json.dumps(value, ensure_ascii=False)) if isinstance(value, str) else repr(value))


def named(values: Mapping[str, Any]) -> Markup:
    """Values as arguments of a call, each with a comma behind it; a name that is none in Python is left out."""
    usable = {name: value for name, value in values.items() if name.isidentifier() and not keyword.iskeyword(name)}
    arguments = (f"{name}={python(value)}, " for name, value in usable.items())
    return Markup("".join(arguments))


def place(value: Any) -> Markup:
    """The name of a repository as the end of an address."""
    return Markup(quote(str(value), safe="/", errors="replace"))


def address(value: Any) -> Markup:
    """An address as a link, if it is one of the web; else as plain words."""
    found = re.fullmatch(r"https?://[^\s<>\"'`\\^{}|\x00-\x1f\x7f-\x9f]+", str(value))
    return Markup(f"<{html.escape(found[0])}>") if found else text(value)


def number(value: float, digits: int = 1) -> str:
    """A number as people write it: 8,072 or 36.4."""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}"
