# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""A card of two authors: what is generated lies between markers and is written anew, all else is a person's and stays.

    <!-- sacl:generated results -->
    ...
    <!-- /sacl:generated results -->

A person who wants to write a section alone puts `<!-- sacl:own results -->` into the card. In the front matter, values
that differ from what was generated last are the person's; a line of hashes in the card says what that was.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from huggingface_hub.utils import yaml_dump


CARD_NAME = "README.md"
_MOST_VALUES = 100_000

_MARKER = re.compile(r"^<!-- (?P<kind>sacl:generated|/sacl:generated|sacl:own) (?P<name>[a-z][a-z0-9-]*) -->\s*$")
_HASHES = re.compile(r"^<!-- sacl:front-matter (\{.*\}) -->$", re.MULTILINE)
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})")


class CardError(ValueError):
    """A card that cannot be updated without the risk of losing what a person wrote."""


class Part(NamedTuple):
    """A stretch of a card: of a person if it has no name, else generated (or left to a person, if `own`)."""

    text: str
    name: str | None = None
    own: bool = False


class Card(NamedTuple):
    """A card taken apart: front matter, as it was written and as it reads, and the parts of the text."""

    metadata: dict[str, Any]
    yaml_text: str
    parts: list[Part]
    hashes: dict[str, Any]


# Reading ---------------------------------------------------------------------------------------------------------


def parse_card(text: str, name: str = CARD_NAME) -> Card:
    """
    Takes a card apart.

    Raises:
        CardError: if its front matter is no YAML mapping, or its markers do not match.
    """
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    metadata, yaml_text, body = _front_matter(text, name)
    hashes = _HASHES.search(body)
    try:
        generated = {} if hashes is None else json.loads(hashes[1])
    except (ValueError, RecursionError):
        generated = {}
    return Card(metadata, yaml_text, list(_parts(body, name)), generated)


def _front_matter(text: str, name: str) -> tuple[dict[str, Any], str, str]:
    found = REGEX_YAML_BLOCK.search(text)
    if found is None:
        if text.lstrip().startswith("---\n"):
            raise CardError(f"The front matter of {name} has no end: add a line `---` below it.")
        return {}, "", text
    try:
        metadata = yaml.safe_load(found[2])
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f" in line {mark.line + 2 + found[1].count(chr(10)) - 1}"
        problem = getattr(error, "problem", None) or error
        raise CardError(
            f"The front matter of {name} is no valid YAML{where} ({problem}). Put it right, or move the file away to "
            "have it written anew; nothing was changed."
        ) from error
    if metadata is None:
        metadata = {}
    if not isinstance(metadata, dict):
        raise CardError(
            f"The front matter of {name} must be a mapping, such as `license: apache-2.0`, and is "
            f"{type(metadata).__name__}. Put it right, or move the file away; nothing was changed."
        )
    if _size(metadata, {}) > _MOST_VALUES:
        raise CardError(
            f"The front matter of {name} has more than {_MOST_VALUES:,} values, written out: its aliases (`*name`) "
            "repeat one another. Put it right, or move the file away; nothing was changed."
        )
    return metadata, found[2], text[found.end() :]


def _size(value: Any, known: dict[int, int]) -> int:
    """How many values there are with aliases written out, which no memory may hold; each is looked at once."""
    if id(value) not in known:
        known[id(value)] = _MOST_VALUES  # What contains itself has no end.
        parts = [*value.keys(), *value.values()] if isinstance(value, dict) else value
        known[id(value)] = 1 + (
            sum(_size(part, known) for part in parts) if isinstance(parts, (list, tuple, set)) else 0
        )
    return known[id(value)]


def _parts(body: str, name: str) -> Iterator[Part]:
    lines: list[str] = []
    inside: str | None = None
    seen: set[str] = set()
    advice = f"Put the markers in {name} right, or move the file away to have it written anew; nothing was changed."
    for line, in_code in with_fences(body):
        marker = None if in_code else _MARKER.match(line)
        if marker is None:
            lines.append(line)
            continue
        kind, section = marker["kind"], marker["name"]
        if (kind == "/sacl:generated") != (inside is not None):
            what = f"`{line.strip()}` stands" + (
                f" within the section {inside!r}" if inside else " without a beginning"
            )
            raise CardError(f"{what}. {advice}")
        if kind == "/sacl:generated":
            if section != inside:
                raise CardError(f"The section {inside!r} ends as {section!r}. {advice}")
            yield Part("\n".join(lines).strip("\n"), section)
            inside = None
        else:
            if section in seen:
                raise CardError(f"The section {section!r} stands there twice. {advice}")
            seen.add(section)
            yield Part("\n".join(lines))
            if kind == "sacl:own":
                yield Part(line, section, own=True)
            else:
                inside = section
        lines = []
    if inside is not None:
        raise CardError(f"The section {inside!r} has no end. {advice}")
    *_, (_, in_code) = with_fences(f"{body}\n")
    if in_code:
        # What is written below it would be code, too, and its markers would not be found again.
        raise CardError(f"A block of code in {name} has no end: add its fence; nothing was changed.")
    yield Part("\n".join(lines))


def with_fences(text: str) -> Iterator[tuple[str, bool]]:
    """The lines of a Markdown text, each with whether it belongs to a fenced block of code."""
    fence: str | None = None
    for line in text.split("\n"):
        found = _FENCE.match(line)
        if fence is None:
            fence = found[1] if found else None
            yield line, fence is not None
        else:
            yield line, True
            if found and found[1][0] == fence[0] and len(found[1]) >= len(fence) and not line.strip().strip(fence[0]):
                fence = None


# Merging ---------------------------------------------------------------------------------------------------------


def merge_parts(parts: Sequence[Part], generated: Mapping[str, str]) -> str:
    """
    The text of a card whose generated sections are these, in this order, among what a person wrote.

    A section that is new comes after the one that precedes it in the order; if a person began the card, after the
    person's text.
    """
    owned = {part.name for part in parts if part.own}
    # What a person wrote counts, and the heading of a card is written once.
    has_title = any(
        line.startswith("# ")
        for part in parts
        if part.name is None
        for line, code in with_fences(part.text)
        if not code
    )
    wanted = {
        name: text for name, text in generated.items() if name not in owned and not (name == "title" and has_title)
    }
    merged = [
        part if part.name is None or part.own else Part(wanted[part.name], part.name)
        for part in parts
        if part.name is None or part.own or part.name in wanted
    ]
    known = [part.name for part in parts if part.name is not None]
    place = len(merged) if not known else 0
    for name, text in generated.items():
        index = next((number for number, part in enumerate(merged) if part.name == name), None)
        if index is not None:
            place = index + 1
        elif name in wanted:
            merged.insert(place, Part(text, name))
            place += 1
    texts = (part.text.strip("\n") if part.name is None or part.own else _marked(part) for part in merged)
    return "\n\n".join(text for text in texts if text.strip())


def _marked(part: Part) -> str:
    return f"<!-- sacl:generated {part.name} -->\n\n{part.text}\n\n<!-- /sacl:generated {part.name} -->"


def merge_metadata(
    theirs: Mapping[str, Any], generated: Mapping[str, Any], hashes: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """
    The front matter of two authors, and the hashes that tell them apart next time.

    A value that is not as it was generated last is the person's, and stays; a key that is not there any more stays
    away. Lists are merged item by item: what a person added stays, what a person removed stays away, and the rest is
    as it is generated now. Of `model-index` the items are the results.
    """
    merged: dict[str, Any] = dict(theirs)
    new_hashes: dict[str, Any] = {}
    for key, value in generated.items():
        before = hashes.get(key)
        theirs_now = theirs.get(key)
        if key == "model-index":
            value, new_hashes[key] = _merge_model_index(theirs_now, value, before)
        elif isinstance(value, list) and (theirs_now is None or isinstance(theirs_now, list)):
            value, new_hashes[key] = _merge_list(theirs_now, value, before)
        else:
            new_hashes[key] = _hash(value)
            if key in theirs:
                value = value if before == _hash(theirs_now) else theirs_now
            elif before is not None:
                value = None
        if value is None or (value == [] and key not in theirs):
            merged.pop(key, None)
        else:
            merged[key] = value
    for key in set(hashes) - set(generated):
        # Generated last time, and not any more: gone, unless a person has changed it.
        if key in theirs:
            left = [] if key == "model-index" else _without_generated(theirs[key], hashes[key])
            if key == "model-index":
                left, _ = _merge_model_index(theirs[key], [], hashes[key])
            if left in (None, []):
                merged.pop(key, None)
            else:
                merged[key] = left
    return merged, new_hashes


def _merge_list(theirs: list | None, generated: list, before: Any) -> tuple[list | None, list[str]]:
    hashes = [_hash(item) for item in generated]
    was_generated = set(before) if isinstance(before, list) else set()
    if theirs is None:
        # A person has taken the whole list away.
        return (None if was_generated else generated), sorted({*hashes, *was_generated})
    present = {_hash(item) for item in theirs}
    removed = was_generated - present
    kept = [item for item in theirs if _hash(item) not in was_generated and _hash(item) not in hashes]
    merged = [item for item, digest in zip(generated, hashes, strict=True) if digest not in removed] + kept
    # What a person removed is remembered, so that it does not come back the time after next.
    return merged, sorted({*hashes, *removed})


def _merge_model_index(theirs: Any, generated: Any, before: Any) -> tuple[list | None, list[str]]:
    models = theirs if isinstance(theirs, list) and all(isinstance(model, dict) for model in theirs) else []
    results = [result for model in models for result in (model.get("results") or []) if isinstance(result, dict)]
    ours = [result for model in generated for result in model["results"]]
    hashes = [_hash(result) for result in ours]
    was_generated = set(before) if isinstance(before, list) else set()
    if theirs is None and was_generated:
        return None, hashes
    kept = [result for result in results if _hash(result) not in was_generated and _hash(result) not in hashes]
    # What a person says of a data set is said instead of what is generated.
    ours = [result for result in ours if not any(_about_the_same(result, other) for other in kept)]
    name = next((model["name"] for model in [*generated, *models] if model.get("name")), "model")
    return ([{"name": name, "results": ours + kept}] if ours or kept else None), hashes


def _about_the_same(result: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(result.get(key) == other.get(key) for key in ("task", "dataset"))


def _without_generated(value: Any, before: Any) -> Any:
    if isinstance(value, list) and isinstance(before, list):
        return [item for item in value if _hash(item) not in set(before)]
    return None if _hash(value) == before else value


def _hash(value: Any) -> str:
    # What YAML reads back is what is compared: no tuples, dates as they are written.
    text = json.dumps(value, sort_keys=True, default=str, ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


# Writing ---------------------------------------------------------------------------------------------------------


def update_card(folder: str | os.PathLike, metadata: Mapping[str, Any], sections: Mapping[str, str]) -> Path:
    """
    Writes the card of a folder, or writes its generated parts anew.

    Args:
        folder (`str` or `os.PathLike`): The folder, which is made if it is not there.
        metadata (`dict`): The generated front matter.
        sections (`dict[str, str]`): The generated sections in their order; the first, `notice`, gets the hashes.

    Returns:
        `Path`: the card.

    Raises:
        CardError: if the present card cannot be read. It is left as it is.
    """
    path = Path(folder, CARD_NAME)
    text = _read(path)
    card = parse_card(text, str(path))
    if _is_untouched_template(text):
        card = Card({}, "", [], {})
    merged, hashes = merge_metadata(card.metadata, metadata, card.hashes)
    notice = f"{sections['notice']}\n<!-- sacl:front-matter {json.dumps(hashes, sort_keys=True)} -->"
    body = merge_parts(card.parts, {**sections, "notice": notice})
    # Untouched, the front matter keeps its comments and its form.
    front = card.yaml_text if merged == card.metadata and card.yaml_text else yaml_dump(merged, sort_keys=False)
    written = f"---\n{front.strip(chr(10))}\n---\n\n{body}\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{CARD_NAME}.tmp")
    newline = "\r\n" if "\r\n" in text else "\n"
    temporary.write_text(written, encoding="utf-8", newline=newline)
    os.replace(temporary, path)
    return path


@contextmanager
def keeping_card(folder: str | os.PathLike) -> Iterator[None]:
    """
    Inside, others may write a card into the folder; afterwards it is as it was, and not there if it was not.

    Args:
        folder (`str` or `os.PathLike`): The folder, which need not be there.
    """
    path = Path(folder, CARD_NAME)
    before = path.read_bytes() if path.is_file() else None
    try:
        yield
    finally:
        if before is None:
            path.unlink(missing_ok=True)
        elif not path.is_file() or path.read_bytes() != before:
            path.write_bytes(before)


def _read(path: Path) -> str:
    if not path.exists():
        return ""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return file.read()
    except UnicodeDecodeError as error:
        raise CardError(
            f"{path} is not UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8, or move it away; nothing "
            "was changed."
        ) from error


def _is_untouched_template(text: str) -> bool:
    """Whether nobody wrote in it: the empty form of `huggingface_hub`, which peft saves beside adapters."""
    body = text[found.end() :] if (found := REGEX_YAML_BLOCK.search(text)) else text
    lines = {line.strip() for line in body.splitlines()}
    form = {line.strip() for line in ModelCard.from_template(ModelCardData()).content.splitlines()}
    added = {line for line in lines - form if not re.fullmatch(r"### Framework versions|- PEFT \S+", line)}
    return bool(lines - {""}) and "[More Information Needed]" in body and not added
