# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""What the pages and docstrings of this project are written in, turned into what the site's Markdown understands."""

import re
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path


FENCED = re.compile(r"^([ \t]*)(`{3,}|~{3,})[^\n]*\n.*?^\1\2[ \t]*$", re.MULTILINE | re.DOTALL)
ALERT = re.compile(r"^([ \t]*)> \[!(\w+)\][ \t]*\n((?:\1>.*\n?)*)", re.MULTILINE)
REFERENCE = re.compile(r"\[`(~?)([\w.]+)`\](?![\[(])")
DIRECTIVE = re.compile(r"^::: ([\w.]+)", re.MULTILINE)
SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Yields|Example|Examples):[ \t]*$")
# Round brackets, with brackets in them, as in (`torch.Tensor` of shape `(batch, dim)`).
_BRACKETS = r"\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)"
_NAMED = rf"([*\w.]+)( {_BRACKETS})?"
# `name (`type`, *optional*): what it is`, `name (`type`), other (`type`):`, or `SomeError: when`.
ITEM = re.compile(rf"^(?P<head>{_NAMED}(?:, {_NAMED})*)(?P<end>[:.]?)(?: (?P<text>.*))?$")


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """Changes a text, but none of its fenced blocks."""
    parts, end = [], 0
    for block in FENCED.finditer(text):
        parts += [change(text[end : block.start()]), block.group()]
        end = block.end()
    return "".join([*parts, change(text[end:])])


def with_admonitions(text: str) -> str:
    """`> [!NOTE]` as the repository's page and transformers write it, as an admonition."""

    def admonition(match: re.Match) -> str:
        indent, kind, lines = match.groups()
        body = "\n".join(line.strip().removeprefix(">").removeprefix(" ") for line in lines.splitlines())
        return textwrap.indent(f"!!! {kind.lower()}\n\n{textwrap.indent(body, '    ')}\n", indent)

    return ALERT.sub(admonition, text)


def reference_names(folder: Path) -> dict[str, str]:
    """What the pages of the API reference describe: each name with its whole path, read off their `:::` lines."""
    pages = sorted(folder.glob("*.md"))
    paths = [path for page in pages for path in DIRECTIVE.findall(page.read_text(encoding="utf-8"))]
    return {path.rpartition(".")[2]: path for path in paths}


def with_links(text: str, names: Mapping[str, str]) -> str:
    """
    The `[`Name`]` of transformers' docstrings as links into the reference; as plain code where it has no such name.

    As there, a `~` shows the last part alone.
    """

    def link(match: re.Match) -> str:
        tilde, path = match.groups()
        shown = path.rpartition(".")[2] if tilde else path
        first, *rest = path.split(".")
        return f"[`{shown}`][{'.'.join([names[first], *rest])}]" if first in names else f"`{shown}`"

    return REFERENCE.sub(link, text)


def from_docstring(docstring: str, names: Mapping[str, str]) -> str:
    """A docstring in the format of transformers as Markdown: sections under bold words, arguments as lists."""
    blocks, lines = [], docstring.splitlines()
    while lines:
        line = lines.pop(0)
        section = SECTION.match(line)
        if section is None:
            blocks.append(line)
            continue
        body = []
        while lines and (not lines[0].strip() or lines[0].startswith(" ")):
            body.append(lines.pop(0))
        text = textwrap.dedent("\n".join(body)).strip("\n")
        is_list = section[1] in ("Args", "Attributes", "Raises")
        blocks += ["", f"**{section[1]}**", "", _as_list(text) if is_list else text, ""]
    return outside_code(with_admonitions("\n".join(blocks)), lambda part: with_links(part, names))


def _as_list(text: str) -> str:
    """Each argument or error as an item of a list; what is indented under it already lies as Markdown wants it."""
    lines = []
    for line in text.splitlines():
        item = ITEM.match(line)
        if item and ("(" in item["head"] or item["end"] == ":"):
            head = re.sub(_NAMED, lambda named: f"**`{named[1]}`**{named[2] or ''}", item["head"])
            lines.append(f"- {head}{item['end']} {item['text'] or ''}".rstrip())
        else:
            lines.append(line if line.startswith(" ") or not line else f"    {line}")
    return "\n".join(lines)
