# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""What is missing or wrong in a card, and the way out, without asking the Hub."""

import html
import math
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from huggingface_hub.repocard_data import model_index_to_eval_results

from .sections import CARD_NAME, CardError, parse_card, with_fences


# https://huggingface.co/docs/hub/repositories-licenses
LICENSES = frozenset(
    """apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0
    bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0
    cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0
    cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0
    cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl
    gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr
    mpl-2.0 odc-by odbl openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr
    deepfloyd-if-license fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4
    grok2-community gemma unknown other""".split()
)
_SDKS = ("gradio", "streamlit", "docker", "static")
_COLORS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
_LISTS = ("language", "tags", "datasets", "metrics", "task_categories", "size_categories", "models")
_REQUIRED = {
    "model": {
        "license": "`license: apache-2.0`, or what the weights may be used for",
        "library_name": "`library_name: transformers`",
        "tags": "a list of words by which the model is found",
    },
    "dataset": {
        "license": "`license: cc-by-4.0`, or what the data may be used for",
        "pretty_name": "what the data set is called",
        "language": "the languages of the texts, `[en]`",
        "task_categories": "what the data are for, such as `[image-to-text]`",
        "size_categories": "how many rows, such as `[1K<n<10K]`",
    },
    "space": {"title": "its heading", "sdk": f"one of {', '.join(_SDKS)}"},
}

_LINK = re.compile(r"(!?)\[((?:[^\[\]\\]|\\.|\[[^\]]*\])*)\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
_HTML_LINK = re.compile(r"<(img|a)\b[^>]*?\b(?:src|href)\s*=\s*[\"']([^\"']+)[\"'][^>]*>", re.IGNORECASE)
_HEADING = re.compile(r"^(#{1,6})\s+(.*?)\s*#*\s*$")
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_PLACEHOLDER = re.compile(r"\[?more information needed\]?|\bTODO\b|\[optional\]", re.IGNORECASE)
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{20,}\b")


def validate_card(path_or_text: str | os.PathLike, repo_type: str = "model") -> list[str]:
    """
    What is missing or wrong in a card, each with the way out. Nothing is asked of the Hub.

    Front matter (its form, what the Hub wants of a repository of that type, licence, languages, `model-index`), local
    links and pictures, headings without text, forms that nobody filled in, markers of generated sections, and access
    tokens that were left in.

    Args:
        path_or_text (`str` or `os.PathLike`):
            A card, or a folder with a `README.md`; or the text of a card, which has more than one line. Of a text,
            links to files are not looked up.
        repo_type (`str`, *optional*, defaults to `"model"`):
            `"model"`, `"dataset"` or `"space"` (which a metric of `evaluate` is).

    Returns:
        `list[str]`: a sentence for each problem; empty if there is none.

    Raises:
        ValueError: for another type of repository.
        FileNotFoundError: if there is no card.

    Example:

    ```python
    >>> from hub_cards import validate_card

    >>> for problem in validate_card("my-model"):
    ...     print(problem)
    `license` is missing in the front matter: add `license: apache-2.0`, or what the weights may be used for.
    ```
    """
    if repo_type not in _REQUIRED:
        raise ValueError(f"`repo_type` must be one of {', '.join(_REQUIRED)}; got {repo_type!r}.")
    text, folder = _text_of(path_or_text)
    try:
        card = parse_card(text)
    except CardError as error:
        return [str(error)]
    body = "\n".join(part.text for part in card.parts)
    problems = []
    if not card.yaml_text:
        problems.append("There is no front matter: begin the card with lines between `---` and `---`.")
    problems += _metadata_problems(card.metadata, repo_type, folder)
    problems += _section_problems(body)
    problems += _link_problems(body, folder)
    if found := _TOKEN.search(text):
        problems.append(
            f"An access token stands in the card ({found[0][:6]}...): remove it, and revoke it on the Hub."
        )
    return problems


def _text_of(path_or_text: str | os.PathLike) -> tuple[str, Path | None]:
    if isinstance(path_or_text, str) and "\n" in path_or_text:
        return path_or_text, None
    path = Path(path_or_text)
    path = path / CARD_NAME if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: pass a card, a folder with a {CARD_NAME}, or a card's text.")
    try:
        return path.read_text(encoding="utf-8"), path.parent
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8.") from error


# Front matter ----------------------------------------------------------------------------------------------------


def _metadata_problems(metadata: dict[str, Any], repo_type: str, folder: Path | None) -> Iterator[str]:
    for key, example in _REQUIRED[repo_type].items():
        if metadata.get(key) in (None, "", []):
            yield f"`{key}` is missing in the front matter: add {example}."
    yield from _license_problems(metadata)
    for key in _LISTS:
        value = metadata.get(key)
        if value is None:
            continue
        items = value if isinstance(value, list) else [value]
        if strange := [item for item in items if not isinstance(item, str)]:
            hint = " (YAML reads `no` as false: write it in quotes)" if False in strange else ""
            yield f"`{key}` must be a text or a list of texts, but holds {strange[0]!r}{hint}: put it in quotes."
        elif key == "language":
            yield from _language_problems(items)
    kinds: dict[str, Callable[[dict[str, Any], Path | None], Iterator[str]]] = {
        "model": _model_problems,
        "dataset": _dataset_problems,
        "space": _space_problems,
    }
    yield from kinds[repo_type](metadata, folder)


def _license_problems(metadata: dict[str, Any]) -> Iterator[str]:
    value = metadata.get("license")
    if value is None:
        return
    for name in value if isinstance(value, list) else [value]:
        if name not in LICENSES:
            yield (
                f"`license: {name}` is none that the Hub knows: take its name for it, such as apache-2.0, or "
                "`license: other` with `license_name` and `license_link`."
            )
    if value == "other" and not metadata.get("license_name"):
        yield "`license: other` tells nobody what is allowed: add `license_name`, and `license_link` where it stands."


def _language_problems(codes: list[str]) -> Iterator[str]:
    for code in codes:
        if code not in ("multilingual", "code") and not re.fullmatch(r"[a-z]{2,3}(-[A-Za-z0-9]+)*", code):
            yield f"`language: {code}` is no code of ISO 639: write `en` for English, `de` for German."


def _model_problems(metadata: dict[str, Any], folder: Path | None) -> Iterator[str]:
    if metadata.get("library_name") == "peft" and not metadata.get("base_model"):
        yield "`base_model` is missing in the front matter: adapters are of no use without the model that they adapt."
    if "model-index" not in metadata:
        return
    index = metadata["model-index"]
    try:
        _, results = model_index_to_eval_results(index)
    except (KeyError, TypeError, ValueError, AttributeError, UnboundLocalError) as error:
        what = f"the key {error} is missing" if isinstance(error, KeyError) else str(error)
        yield (
            f"`model-index` has another form than the Hub reads ({what}): each result needs `task.type`, "
            "`dataset.type`, `dataset.name`, and `metrics` with `type` and `value`."
        )
        return
    for result in results:
        value = result.metric_value
        if not isinstance(value, (int, float, str)) or (isinstance(value, float) and not math.isfinite(value)):
            yield f"`model-index` has the value {value!r} for {result.metric_type}: a number is expected."
    if folder is not None and not results:
        yield "`model-index` is empty: leave it out, or add results."


def _dataset_problems(metadata: dict[str, Any], folder: Path | None) -> Iterator[str]:
    configs = metadata.get("configs", [])
    if not isinstance(configs, list) or not all(isinstance(config, dict) for config in configs):
        yield "`configs` must be a list of mappings with `config_name` and `data_files`."
        return
    for config in configs:
        files = config.get("data_files", [])
        patterns = [files] if isinstance(files, str) else [item for item in files if isinstance(item, str)]
        for item in files if isinstance(files, list) else []:
            path = item.get("path") if isinstance(item, dict) else None
            patterns += [path] if isinstance(path, str) else path or []
        for pattern in patterns:
            if folder is not None and "://" not in pattern and not any(folder.glob(pattern)):
                yield f"`configs` names the files {pattern}, and there are none: put the name right, or add them."


def _space_problems(metadata: dict[str, Any], folder: Path | None) -> Iterator[str]:
    sdk = metadata.get("sdk")
    if sdk is not None and sdk not in _SDKS:
        yield f"`sdk: {sdk}` is none that the Hub runs: take one of {', '.join(_SDKS)}."
    for key in ("colorFrom", "colorTo"):
        if key in metadata and metadata[key] not in _COLORS:
            yield f"`{key}: {metadata[key]}` is no colour that the Hub has: take one of {', '.join(_COLORS)}."
    description = metadata.get("short_description")
    if isinstance(description, str) and len(description) > 60:
        yield f"`short_description` has {len(description)} characters, and the Hub takes 60: shorten it."
    # A module of `evaluate` is loaded by its script and needs no page.
    runs = sdk in ("gradio", "streamlit") and "evaluate" not in (metadata.get("tags") or [])
    file = metadata.get("app_file", "app.py")
    if runs and folder is not None and not (folder / str(file)).is_file():
        yield f"The Space would start {file}, which is not there: add it, or name another as `app_file`."


# Text ------------------------------------------------------------------------------------------------------------


def _section_problems(body: str) -> Iterator[str]:
    headings: list[tuple[int, str, bool]] = []
    plain = _without_comments(body)
    for line, is_code in with_fences(plain):
        heading = None if is_code else _HEADING.match(line)
        if heading:
            headings.append((len(heading[1]), heading[2], False))
        elif line.strip() and headings:
            level, title, _ = headings[-1]
            headings[-1] = (level, title, True)
        if not is_code and (found := _PLACEHOLDER.search(_without_code(line))):
            yield f"{found[0]!r} was left in: fill it in, or remove it."
    if not any(level == 1 for level, *_ in headings):
        yield "The card has no title: add a line `# Name`."
    for number, (level, title, has_text) in enumerate(headings):
        deeper = number + 1 < len(headings) and headings[number + 1][0] > level
        if not has_text and not deeper:
            yield f"The section {title!r} is empty: fill it in, or remove its heading."


def _link_problems(body: str, folder: Path | None) -> Iterator[str]:
    plain = _without_comments(body)
    prose = "\n".join(_without_code(line) for line, is_code in with_fences(plain) if not is_code)
    anchors = {
        _anchor(heading[2])
        for line, is_code in with_fences(plain)
        if not is_code and (heading := _HEADING.match(line))
    }
    links = [(bool(mark), words, target) for mark, words, target in _LINK.findall(prose)]
    links += [(tag.lower() == "img", "alt", target) for tag, target in _HTML_LINK.findall(prose)]
    for is_picture, words, target in links:
        kind = "picture" if is_picture else "link"
        if is_picture and not words.strip():
            yield f"The picture {target} has no description: say in `![...]` what it shows, for who cannot see it."
        if re.match(r"[a-z][a-z0-9+.-]*:|//", target, re.IGNORECASE):
            if re.match(r"(javascript|data|vbscript|file):", target, re.IGNORECASE):
                yield f"The {kind} {target[:40]} is of a kind that the Hub removes: link to https://, or to a file."
            continue
        path, _, anchor = unquote(html.unescape(target)).partition("#")
        if not path and anchor and anchor.lower() not in anchors:
            yield f"The link #{anchor} leads nowhere: there is no such heading."
        elif path.startswith("/"):
            yield f"The {kind} {target} is absolute: on the Hub it leads elsewhere. Write it relative to the card."
        elif path and folder is not None and not (folder / path).exists():
            yield f"The {kind} {target} leads nowhere: add the file beside the card, or remove the {kind}."


def _without_comments(body: str) -> str:
    return _COMMENT.sub(lambda match: "\n" * match[0].count("\n"), body)


def _without_code(line: str) -> str:
    return re.sub(r"(`+)(?:(?!\1).)+\1", "", line)


def _anchor(title: str) -> str:
    """The anchor that the Hub makes of a heading."""
    words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).lower()
    return re.sub(r"[^\w\- ]", "", words).strip().replace(" ", "-")
