# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""What is known of a run, as plain data: what a model card says, and what a folder remembers of it."""

import json
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import PIL.Image


FACTS_NAME = "card/facts.json"


@dataclass
class DatasetFacts:
    """
    What is known of a data set, or of one split of it. What is not known stays `None`, and no card mentions it.

    Args:
        name (`str`, *optional*): What people call it.
        repo_id (`str`, *optional*): Its name on the Hub, `"user/catalogue"`.
        config (`str`, *optional*): The configuration of it.
        split (`str`, *optional*): The split.
        rows (`int`, *optional*): How many rows it has.
        license (`str`, *optional*): The Hub's name of its licence, or the licence in words.
        license_details (`str`, *optional*): What there is to say of licences beyond the name.
        homepage (`str`, *optional*): Where it is described.
        revision (`str`, *optional*): The commit that was used.
    """

    name: str | None = None
    repo_id: str | None = None
    config: str | None = None
    split: str | None = None
    rows: int | None = None
    license: str | None = None
    license_details: str | None = None
    homepage: str | None = None
    revision: str | None = None


@dataclass
class EvaluationResult:
    """
    What a model scores on a data set.

    Args:
        dataset ([`DatasetFacts`]): What it was measured on.
        metrics (`dict[str, float]`): The scores of this very model; empty if only other seeds were measured.
        by_seed (`dict[int, dict[str, float]]`): The scores of runs that differ in their seed alone.
        step (`int`, *optional*): The step at which the scores were measured, if the model has learned on since.
    """

    dataset: DatasetFacts = field(default_factory=DatasetFacts)
    metrics: dict[str, float] = field(default_factory=dict)
    by_seed: dict[int, dict[str, float]] = field(default_factory=dict)
    step: int | None = None

    def over_seeds(self, metric: str) -> tuple[float, float, list[int]] | None:
        """Mean, standard deviation and seeds of a metric; `None` if it was measured with fewer than two."""
        values = {seed: metrics[metric] for seed, metrics in self.by_seed.items() if metric in metrics}
        if len(values) < 2:
            return None
        return statistics.mean(values.values()), statistics.stdev(values.values()), sorted(values)


@dataclass
class ObjectiveFacts:
    """
    The loss of a run in its own words.

    Args:
        name (`str`): What `SaclTrainingArguments(objective=...)` calls it.
        description (`str`): Markdown: its formula and what it means.
        citation (`str`): BibTeX of its source.
        settings (`dict[str, Any]`): Its settings by name.
        regulates (`bool`): Whether it weights negatives by similarity.
    """

    name: str
    description: str = ""
    citation: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    regulates: bool = False


@dataclass
class FoundImages:
    """
    What some texts find among the images of a data set, best first.

    Args:
        queries (`list[str]`): The texts.
        images (`list[list[PIL.Image.Image]]`): For each text its images. A folder remembers their picture instead.
        grades (`list[list[float]]`): How relevant each image is, in [0, 1].
        num_candidates (`int`): Among how many images was searched.
        dataset (`str`): What the images are from, as the end of "images of ...".
    """

    queries: list[str]
    images: list[list[PIL.Image.Image]]
    grades: list[list[float]]
    num_candidates: int
    dataset: str


@dataclass
class CardFacts:
    """
    What a run knows about its model. Everything but the name may be absent, and what is absent is not mentioned.

    Args:
        model_name (`str`): The heading of the card.
        model_id (`str`, *optional*): What `from_pretrained` is called with, a Hub id; the snippets use it.
        model_class (`str`, *optional*): The class that was trained, which chooses the snippets.
        model_type (`str`, *optional*): The `model_type` of its configuration.
        adapted_class (`str`, *optional*): Of adapters, the class that they adapt.
        num_parameters, num_trained_parameters (`int`, *optional*): All parameters, and those that learned.
        architecture (`dict[str, Any]`): Sizes by name.
        pipeline_tag (`str`, *optional*): The task on the Hub. Defaults to that of the class.
        text_options (`dict[str, Any]`): How the processor is to be called with text.
        has_matching_head (`bool`): Whether its matching head was trained.
        has_patch_selection (`bool`): Whether the image tower drops patches.
        base_model (`list[str]`): Hub ids of what it started from.
        license (`str`, *optional*): Licence of the weights.
        language, tags (`list[str]`): As in the front matter.
        train_datasets (`list[DatasetFacts]`): What it learned from.
        objective ([`ObjectiveFacts`], *optional*): The contrastive objective.
        hyperparameters (`dict[str, Any]`): Arguments of the training by name, without anything personal.
        seed (`int`, *optional*): The seed of the run.
        steps, epochs (`float`, *optional*): How far it came.
        skipped (`dict[str, int]`): How many pairs could not be used in training, by reason.
        versions (`dict[str, str]`): Libraries and their versions.
        hardware (`str`, *optional*): What it ran on.
        duration (`float`, *optional*): Seconds of training.
        first_step (`int`): The step from which `duration` counts, above 0 for a resumed run.
        energy (`float`, *optional*): Kilowatt-hours, measured.
        emissions (`float`, *optional*): Kilograms of CO2 equivalents, as a tool reports them.
        results (`list[EvaluationResult]`): What it scores.
        log_history (`list[dict]`): The log of the run, for the curves.
        regulation_weights (`list[float]`): Weights of the negatives of one batch, or evenly spaced quantiles of them.
        regulated_pairs (`str`): What that batch was, as the end of "the negatives of ...".
        found ([`FoundImages`], *optional*): What some texts find.

    Example:

    ```python
    >>> from hub_cards import CardFacts, write_model_card

    >>> write_model_card("my-model", CardFacts(model_name="my-model", license="apache-2.0"))
    PosixPath('my-model/README.md')
    ```
    """

    model_name: str
    model_id: str | None = None
    model_class: str | None = None
    model_type: str | None = None
    adapted_class: str | None = None
    num_parameters: int | None = None
    num_trained_parameters: int | None = None
    architecture: dict[str, Any] = field(default_factory=dict)
    pipeline_tag: str | None = None
    text_options: dict[str, Any] = field(default_factory=lambda: {"padding": True, "truncation": True})
    has_matching_head: bool = False
    has_patch_selection: bool = False
    base_model: list[str] = field(default_factory=list)
    license: str | None = None
    language: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    train_datasets: list[DatasetFacts] = field(default_factory=list)
    objective: ObjectiveFacts | None = None
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None
    steps: int | None = None
    epochs: float | None = None
    skipped: dict[str, int] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    hardware: str | None = None
    duration: float | None = None
    first_step: int = 0
    energy: float | None = None
    emissions: float | None = None
    results: list[EvaluationResult] = field(default_factory=list)
    log_history: list[dict[str, Any]] = field(default_factory=list)
    regulation_weights: list[float] = field(default_factory=list)
    regulated_pairs: str = ""
    found: FoundImages | None = None

    def save(self, folder: str | os.PathLike) -> None:
        """
        Remembers the facts in `card/facts.json`, so that the card can be written again without the run; images are
        left to their picture.
        """
        found, images = self.found, None
        if found is not None:
            images, found.images = found.images, []
        try:
            # Through `json`, so that what it cannot hold fails here and not when the file is read.
            text = json.dumps(asdict(self), indent=1, ensure_ascii=False)
        finally:
            if found is not None and images is not None:
                found.images = images
        path = Path(folder, FACTS_NAME)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | os.PathLike) -> "CardFacts":
        """
        The facts that a folder remembers.

        Raises:
            ValueError: if it remembers none, or the file cannot be read.
        """
        path = Path(folder, FACTS_NAME)
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return _facts_from(found)
        except FileNotFoundError:
            raise ValueError(
                f"{path} does not exist: the folder was saved without a card. Write it with "
                "`SaclTrainer.create_model_card()`, or from `CardFacts` of your own."
            ) from None
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(
                f"{path} cannot be read ({error}): delete it and write the card anew, by "
                "`SaclTrainer.create_model_card()` or from `CardFacts` of your own."
            ) from error


def _facts_from(found: dict[str, Any]) -> CardFacts:
    known = {field.name for field in fields(CardFacts)}
    # A file of a later release may say more than this one understands.
    facts = CardFacts(**{name: value for name, value in found.items() if name in known})
    facts.train_datasets = [DatasetFacts(**dataset) for dataset in found.get("train_datasets", [])]
    if found.get("objective"):
        facts.objective = ObjectiveFacts(**found["objective"])
    if found.get("found"):
        facts.found = FoundImages(**found["found"])
    facts.results = [
        EvaluationResult(
            dataset=DatasetFacts(**result["dataset"]),
            metrics=result["metrics"],
            by_seed={int(seed): metrics for seed, metrics in result["by_seed"].items()},
            step=result["step"],
        )
        for result in found.get("results", [])
    ]
    return facts


def merge_seeds(
    runs: Sequence[Mapping[str, Any] | str | os.PathLike], *, results: str = "trained", dataset: str | None = None
) -> list[EvaluationResult]:
    r"""
    What several runs score that differ in their seed alone, for a card that says mean and standard deviation.

    Args:
        runs (`list` of `dict` or paths of JSON files):
            For each run a mapping with its `"seed"`, and under `results` for each split its metrics by name:
            `{"seed": 42, "trained": {"test": {"text_to_image_recall@10": 36.4}}}`. `metrics.json` of the demonstration
            is one.
        results (`str`, *optional*, defaults to `"trained"`):
            The key under which a run has its metrics.
        dataset (`str`, *optional*):
            What the data set is called.

    Returns:
        `list[EvaluationResult]`: one for each split, to be put into `CardFacts.results`.

    Raises:
        ValueError: if a run has no seed or no results, a seed occurs twice, or the runs have other splits or metrics.

    Example:

    ```python
    >>> from hub_cards import merge_seeds

    >>> runs = [{"seed": seed, "trained": {"test": {"mean_recall": 40.0 + seed}}} for seed in (1, 2, 3)]
    >>> merge_seeds(runs)[0].over_seeds("mean_recall")
    (42.0, 1.0, [1, 2, 3])
    ```
    """
    by_seed: dict[int, Mapping[str, Mapping[str, float]]] = {}
    for number, run in enumerate(runs):
        name = f"run {number}" if isinstance(run, Mapping) else os.fspath(run)
        content = run if isinstance(run, Mapping) else json.loads(Path(run).read_text(encoding="utf-8"))
        seed, splits = content.get("seed"), content.get(results)
        if not isinstance(seed, int) or not isinstance(splits, Mapping):
            raise ValueError(
                f"{name} must have an integer `seed` and, under {results!r}, metrics by split; it has the keys "
                f"{sorted(content)}. Say where the metrics are by `results=`."
            )
        if seed in by_seed:
            raise ValueError(f"{name} has the seed {seed}, like a run before it: give each run once.")
        by_seed[seed] = splits
    shapes = {seed: {split: sorted(metrics) for split, metrics in run.items()} for seed, run in by_seed.items()}
    if not shapes:
        raise ValueError("There is no run to merge: pass at least one.")
    first = next(iter(shapes))
    for seed, shape in shapes.items():
        if shape != shapes[first]:
            raise ValueError(
                f"The runs of the seeds {first} and {seed} were not measured alike: {shapes[first]} and {shape}. "
                "Measure all of them on the same splits by the same metrics."
            )
    return [
        EvaluationResult(
            dataset=DatasetFacts(name=dataset, split=split),
            by_seed={seed: dict(splits[split]) for seed, splits in by_seed.items()},
        )
        for split in shapes[first]
    ]
