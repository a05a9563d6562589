# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The card of a metric for `evaluate`: what its script says of itself, as the `README.md` of a Space."""

import os
import re
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .rendering import render_sections
from .sections import update_card


@dataclass
class MetricFacts:
    """
    What a metric's card says.

    Args:
        name (`str`): The module's name, as of its script.
        title (`str`): Heading of the card and name of the Space.
        description (`str`): Markdown: what it measures.
        inputs (`list[tuple[str, str, str]]`): Name, type and meaning of what `compute` takes.
        outputs (`str`): Markdown: what it returns.
        examples (`str`): Python, as in a docstring.
        limitations (`str`): Markdown. A person had better write it into the card.
        citation (`str`): BibTeX.
        reference_urls (`list[str]`): Where it comes from.
        license (`str`): The Hub's name of the licence of the script.
        tags (`list[str]`): Beside `evaluate` and `metric`.
        emoji, color_from, color_to (`str`): How the Hub shows the Space.
    """

    name: str
    title: str
    description: str = ""
    inputs: list[tuple[str, str, str]] = field(default_factory=list)
    outputs: str = ""
    examples: str = ""
    limitations: str = ""
    citation: str = ""
    reference_urls: list[str] = field(default_factory=list)
    license: str | None = "apache-2.0"
    tags: list[str] = field(default_factory=list)
    emoji: str = "📏"
    color_from: str = "blue"
    color_to: str = "green"


def describe_metric(folder: str | os.PathLike, **facts: Any) -> MetricFacts:
    """
    What a metric says of itself: its description, arguments, results, examples and citation.

    It is loaded by `evaluate.load`, which runs the script in the folder.

    Args:
        folder (`str` or `os.PathLike`):
            The metric's folder, with a script of the same name.
        facts (`Any`):
            Fields of [`MetricFacts`] to be said otherwise, such as `title` or `limitations`.

    Returns:
        [`MetricFacts`]

    Raises:
        FileNotFoundError: if there is no script.

    Example:

    ```python
    >>> from hub_cards import describe_metric, write_metric_card

    >>> write_metric_card("vqa_accuracy", describe_metric("vqa_accuracy", title="VQA accuracy"))
    PosixPath('vqa_accuracy/README.md')
    ```
    """
    import evaluate

    folder = Path(folder).resolve()
    script = folder / f"{folder.name}.py"
    if not script.is_file():
        raise FileNotFoundError(f"{script} does not exist: a metric's folder has a script of the folder's name.")
    info = evaluate.load(str(folder))
    arguments, returns, examples = (_part(info.inputs_description, name) for name in ("Args", "Returns", "Examples?"))
    found = {
        "title": folder.name.replace("_", " ").capitalize(),
        "description": info.description.strip(),
        "inputs": _arguments(arguments),
        "outputs": _outputs(returns),
        "examples": examples,
        "citation": info.citation.strip(),
        "reference_urls": list(info.reference_urls or []),
    }
    return MetricFacts(name=folder.name, **{**found, **facts})


def _part(description: str, name: str) -> str:
    """What stands below a heading of a docstring, `Args:` for one."""
    found = re.search(rf"^{name}:\n((?:[ \t]+.*\n?|[ \t]*\n)+)", description, re.MULTILINE)
    return "" if found is None else textwrap.dedent(found[1]).strip()


def _arguments(text: str) -> list[tuple[str, str, str]]:
    entries = re.split(r"\n(?=\S)", text) if text else []
    found = []
    for entry in entries:
        head, _, meaning = entry.partition("\n")
        if match := re.match(r"(\w+) \((.*)\):\s*(.*)$", head.strip()):
            found.append((match[1], re.sub(r"[`*]", "", match[2]), " ".join(f"{match[3]} {meaning}".split())))
    return found


def _outputs(text: str) -> str:
    """The results without the type that a docstring begins with."""
    return textwrap.dedent(re.sub(r"\A`[^`]*`:?[ \t]*\n", "", text)).strip()


def write_metric_card(folder: str | os.PathLike, facts: MetricFacts | None = None) -> Path:
    """
    Writes the card of a metric for `evaluate`, or writes anew what is generated of it; a person's text stays.

    Args:
        folder (`str` or `os.PathLike`):
            The metric's folder, which becomes a Space when it is pushed.
        facts ([`MetricFacts`], *optional*):
            What is known of it. Defaults to [`describe_metric`] of the folder, which runs the script in it.

    Returns:
        `Path`: the card.

    Raises:
        CardError: a `ValueError`, if the present card cannot be read. It is left as it is.
        FileNotFoundError: if no facts are given and there is no script.

    Example:

    ```python
    >>> from hub_cards import write_metric_card

    >>> write_metric_card("vqa_accuracy")
    PosixPath('vqa_accuracy/README.md')
    ```
    """
    facts = describe_metric(folder) if facts is None else facts
    metadata = {
        "title": facts.title,
        "emoji": facts.emoji,
        "colorFrom": facts.color_from,
        "colorTo": facts.color_to,
        "sdk": "gradio",
        "pinned": False,
        "license": facts.license,
        "tags": ["evaluate", "metric", *facts.tags],
        "description": " ".join(facts.description.split()) or None,
    }
    metadata = {key: value for key, value in metadata.items() if value is not None}
    return update_card(folder, metadata, render_sections("metric_card.md.jinja", facts=facts))
