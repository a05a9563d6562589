# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Writes the card of a model, a data set or a metric, or says what is missing in one.

A card that was written by a training is written anew from what the folder remembers of it; what a person wrote outside
of the marked sections stays."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..paths import read_json
from .arguments import option
from .errors import FAILED, SUCCEEDED, CommandError
from .output import Output


EXAMPLES = """
  # What is missing? The exit code is 1 if something is.
  sacl card clip-catalogue --check

  # Say what a training cannot know, and what was measured afterwards.
  sacl evaluate --model clip-catalogue --dataset user/catalogue --split test --output test.json
  sacl card clip-catalogue --license apache-2.0 --language en --model_id user/clip-catalogue --metrics test.json

  # The card of a data set.
  sacl card photos --type dataset --license cc-by-4.0 --name "Holiday photos"
"""


@dataclass
class CardArguments:
    """Which card, and what it should say."""

    _argument_group_name = "card"

    folder: str = option("folder of the model, data set or metric; with --check also a card itself", positional=True)
    check: bool = option("say what is missing or wrong, and write nothing", False)
    type: str = option("what the folder is", "model", choices=["model", "dataset", "metric"])
    name: str | None = option("heading of the card", None)
    model_id: str | None = option("Hub id that the snippets of a model's card use", None)
    license: str | None = option("licence, as the Hub abbreviates it", None)
    language: list[str] | None = option("languages, as codes", None)
    tags: list[str] | None = option("further tags", None)
    base_model: list[str] | None = option("Hub ids of what a model started from", None)
    metrics: list[str] | None = option("files that `sacl evaluate --output` wrote", None)
    pictures: bool = option("draw the pictures of a model's card anew", True)


def arguments() -> tuple[type, ...]:
    """The dataclasses of this command."""
    return (CardArguments,)


def run(output: Output, options: CardArguments) -> int:
    """Writes and checks, or only checks; then a card with problems is a failure."""
    from hub_cards import validate_card

    path = Path(options.folder).expanduser()
    if not path.exists():
        raise CommandError(f"There is no {options.folder!r}: give the folder of a {options.type}.")
    written = None if options.check else str(_WRITERS[options.type](path, options))
    problems = validate_card(path, repo_type={"metric": "space"}.get(options.type, options.type))
    document = {"card": written or str(path), "written": written is not None, "problems": problems}
    lines = [f"{written} is written."] if written else []
    lines += [f"- {problem}" for problem in problems] or ["The card is complete."]
    output.result("\n".join(lines), document)
    return FAILED if options.check and problems else SUCCEEDED


def _write_model(folder: Path, options: CardArguments) -> Path:
    from hub_cards import write_model_card

    return write_model_card(folder, _facts(folder, options), draw=options.pictures)


def _facts(folder: Path, options: CardArguments) -> Any:
    """What the folder remembers, or what can be seen of it; and what was said."""
    from hub_cards import CardFacts
    from hub_cards.facts import FACTS_NAME

    facts = CardFacts.load(folder) if (folder / FACTS_NAME).is_file() else _visible_facts(folder)
    said: dict[str, Any] = {"model_name": options.name, "model_id": options.model_id, "license": options.license}
    said |= {"language": options.language, "base_model": options.base_model}
    for name, value in said.items():
        if value:
            setattr(facts, name, value)
    facts.tags = list(dict.fromkeys([*facts.tags, *(options.tags or [])]))
    for result in (_result(Path(file)) for file in options.metrics or []):
        facts.results = [other for other in facts.results if other.dataset != result.dataset] + [result]
    return facts


def _visible_facts(folder: Path) -> Any:
    from hub_cards import CardFacts

    if not (folder / "config.json").is_file():
        raise CommandError(f"{str(folder)!r} holds no model (no config.json), so there is nothing to write a card of.")
    config = read_json(folder / "config.json")
    if not isinstance(config, dict):
        raise CommandError(f"{str(folder / 'config.json')!r} is no configuration of a model: it holds no JSON object.")
    return CardFacts(
        model_name=folder.resolve().name,
        model_class=next(iter(config.get("architectures") or []), None),
        model_type=config.get("model_type"),
    )


def _result(file: Path) -> Any:
    from hub_cards import DatasetFacts, EvaluationResult

    try:
        measured = json.loads(file.read_text(encoding="utf-8"))
        name, split, metrics = measured["dataset"], measured["split"], measured["metrics"]
    except FileNotFoundError as error:
        raise CommandError(f"There is no file {str(file)!r} (--metrics).") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CommandError(f"{str(file)!r} was not written by `sacl evaluate --output`.") from error
    repo_id = name if name.count("/") == 1 and not Path(name).exists() else None
    label = name if repo_id else Path(name).name
    dataset = DatasetFacts(name=label, repo_id=repo_id, split=split, rows=measured.get("rows"))
    return EvaluationResult(dataset=dataset, metrics=metrics)


def _write_dataset(folder: Path, options: CardArguments) -> Path:
    from datasets import load_dataset

    from hub_cards import describe_dataset, write_dataset_card

    said: dict[str, Any] = {"license": options.license, "language": options.language, "tags": options.tags}
    facts = describe_dataset(
        load_dataset(str(folder)),
        options.name or folder.resolve().name,
        **{name: value for name, value in said.items() if value},
    )
    return write_dataset_card(folder, facts)


def _write_metric(folder: Path, options: CardArguments) -> Path:
    from hub_cards import describe_metric, write_metric_card

    return write_metric_card(folder, describe_metric(folder, **({"title": options.name} if options.name else {})))


_WRITERS = {"model": _write_model, "dataset": _write_dataset, "metric": _write_metric}
