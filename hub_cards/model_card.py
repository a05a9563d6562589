# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The card of a model: from the facts of a run to `README.md`, its front matter and its pictures."""

import importlib.util
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from transformers.models.auto.modeling_auto import MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES
from transformers.utils import logging

from .facts import CardFacts, DatasetFacts, EvaluationResult
from .pictures import plot_retrieval_grid, plot_training_curves, plot_weight_histogram
from .rendering import render_sections
from .sections import update_card


logger = logging.get_logger(__name__)

CURVES, WEIGHTS, FOUND = "card/curves.png", "card/weights.png", "card/found.png"

# What is cited beside the objective.
CITATIONS = {
    "albef": """@inproceedings{li2021albef,
    title = {Align before Fuse: Vision and Language Representation Learning with Momentum Distillation},
    author = {Junnan Li and Ramprasaath R. Selvaraju and Akhilesh Deepak Gotmare and others},
    booktitle = {NeurIPS},
    year = {2021},
}""",
    "trips": """@inproceedings{jiang2022trips,
    title = {{TRIPS}: Efficient Vision-and-Language Pre-training with Text-Relevant Image Patch Selection},
    author = {Chaoya Jiang and Haiyang Xu and Chenliang Li and others},
    booktitle = {EMNLP},
    year = {2022},
}""",
}

# The class decides which snippets are of use; the rest are dual encoders.
_USAGE = {
    "SaclForQuestionAnswering": "question_answering",
    "SaclForImageTextClassification": "classification",
    "SaclForImagesAndTextClassification": "images_and_text",
}
_PIPELINE_TAGS = {"dual_encoder": "zero-shot-image-classification", "question_answering": "visual-question-answering"}
_TASKS = {
    "dual_encoder": ("image-text-retrieval", "Image-text retrieval"),
    "question_answering": ("visual-question-answering", "Visual question answering"),
    "classification": ("image-text-classification", "Classification of an image and a text"),
    "images_and_text": ("image-text-classification", "Classification of two images and a text"),
}

# Parts of the loss and settings of the moment are curves, not scores.
_NO_SCORE = re.compile(
    r".*_loss|loss|temperature|regulation_.*|guide_share|filtered_negatives|itm_skipped_negatives|skipped_steps|"
    r"skipped/.*|runtime|.*_per_second|model_preparation_time|epoch|step|num_.*|.*_without_(match|caption)"
)


def write_model_card(folder: str | os.PathLike, facts: CardFacts, *, draw: bool = True) -> Path:
    """
    Writes the card of a model, or writes anew what is generated of it: `README.md`, pictures and facts in `card/`.

    What a person has written outside of the markers stays where it is, and so do values of the front matter that a
    person has added or changed. Needs matplotlib for pictures; without it the card has none.

    Args:
        folder (`str` or `os.PathLike`):
            The folder of the model.
        facts ([`CardFacts`]):
            What is known of the run. What is absent is not mentioned.
        draw (`bool`, *optional*, defaults to `True`):
            Whether to draw the pictures anew; without, the card shows those that are there, if the model has not
            learned since.

    Returns:
        `Path`: the card.

    Raises:
        CardError: a `ValueError`, if the present card cannot be read. It is left as it is.

    Example:

    ```python
    >>> from hub_cards import write_model_card
    >>> from trainer.run_facts import collect_facts

    >>> write_model_card("my-model", collect_facts(trainer))
    PosixPath('my-model/README.md')
    ```
    """
    pictures = _draw(Path(folder), facts) if draw else _kept(Path(folder), facts)
    card = update_card(folder, model_metadata(facts), _sections(facts, pictures))
    facts.save(folder)
    return card


def _sections(facts: CardFacts, pictures: Mapping[str, str]) -> dict[str, str]:
    usage = _USAGE.get(facts.adapted_class or facts.model_class or "", "dual_encoder")
    return render_sections(
        "model_card.md.jinja",
        facts=facts,
        model_id=facts.model_id or facts.model_name,
        usage=usage,
        is_sacl=facts.model_type == "sacl",
        has_pipeline=_has_pipeline(facts),
        pictures=pictures,
        results=_results_table(facts.results),
        seed_note=_seed_note(facts),
        duration=None if facts.duration is None else _in_words(facts.duration),
        citations=_citations(facts),
        describe=describe_dataset_facts,
        rows=sum(dataset.rows or 0 for dataset in facts.train_datasets) or None,
    )


def _has_pipeline(facts: CardFacts) -> bool:
    return facts.model_type in {"sacl", *MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES}


# Front matter ----------------------------------------------------------------------------------------------------


def model_metadata(facts: CardFacts) -> dict[str, Any]:
    """
    The front matter of a model's card, `model-index` included.

    Args:
        facts ([`CardFacts`]): What is known of the run.
    """
    usage = _USAGE.get(facts.adapted_class or facts.model_class or "", "dual_encoder")
    results = [result for evaluation in facts.results for result in _eval_results(evaluation, usage, facts.seed)]
    data = ModelCardData(
        language=facts.language or None,
        license=facts.license,
        library_name="peft" if facts.adapted_class else "transformers",
        pipeline_tag=facts.pipeline_tag or _pipeline_tag(facts, usage),
        base_model=facts.base_model or None,
        datasets=[dataset.repo_id for dataset in facts.train_datasets if dataset.repo_id] or None,
        tags=facts.tags or None,
        metrics=sorted({_family(result.metric_type) for result in results}) or None,
        eval_results=results or None,
        model_name=facts.model_name if results else None,
    )
    metadata = data.to_dict()
    if facts.emissions is not None:
        emissions = {"emissions": round(1000 * facts.emissions, 3), "source": "codecarbon"}
        if facts.hardware:
            emissions["hardware_used"] = facts.hardware
        metadata["co2_eq_emissions"] = emissions
    return metadata


def _pipeline_tag(facts: CardFacts, usage: str) -> str | None:
    return _PIPELINE_TAGS.get(usage) if usage != "dual_encoder" or _has_pipeline(facts) else None


def _family(metric_type: str) -> str:
    """What the Hub lists a model by: recall, however deep and in whatever direction."""
    return re.sub(r"^(itm_itc_|itm_)?(text_to_image|image_to_text)_|_at_\d+$", "", metric_type)


def _eval_results(result: EvaluationResult, usage: str, seed: int | None) -> list[EvalResult]:
    task_type, task_name = _TASKS[usage]
    dataset = result.dataset
    found = []
    for metric in _scores(result):
        value, spread = result.metrics.get(metric), result.over_seeds(metric)
        args: dict[str, Any] = {}
        if spread is not None:
            mean, deviation, seeds = spread
            args = {"seeds": seeds, "mean": round(mean, 4), "standard_deviation": round(deviation, 4)}
        name = metric_title(metric)
        if value is None and spread is not None:
            value, name = spread[0], f"{name}, mean of {len(spread[2])} seeds"
        elif value is None:
            value = next(metrics[metric] for metrics in result.by_seed.values() if metric in metrics)
        elif seed is not None and spread is not None:
            args["seed"] = seed
        if result.step is not None:
            args["step"] = result.step
        found.append(
            EvalResult(
                task_type=task_type,
                task_name=task_name,
                dataset_type=dataset.repo_id or _slug(dataset.name) or "unknown",
                dataset_name=dataset.name or dataset.repo_id or "Data set of unknown origin",
                dataset_config=dataset.config,
                dataset_split=dataset.split,
                dataset_revision=dataset.revision,
                metric_type=metric.replace("@", "_at_"),
                metric_name=name,
                metric_value=round(float(value), 4),
                metric_args=args or None,
            )
        )
    return found


def _slug(name: str | None) -> str:
    return re.sub(r"[^a-z0-9]+", "-", (name or "").lower()).strip("-")


# Results ---------------------------------------------------------------------------------------------------------


def _scores(result: EvaluationResult) -> list[str]:
    """The names of what is a score, both directions of retrieval side by side."""
    names = {name: None for metrics in (result.metrics, *result.by_seed.values()) for name in metrics}
    values = {**{name: value for metrics in result.by_seed.values() for name, value in metrics.items()}}
    values |= result.metrics
    scores = [name for name in names if not _NO_SCORE.fullmatch(name) and isinstance(values[name], (int, float))]
    order = ("itm_itc_", "itm_")

    def rank(name: str) -> tuple[int, int, bool]:
        stage = next((number for number, prefix in enumerate(order, start=1) if name.startswith(prefix)), 0)
        measure = next((number for number, end in enumerate(_MEASURES) if name.endswith(end)), len(_MEASURES))
        return stage, measure, "image_to_text" in name

    return sorted(scores, key=rank)


_MEASURES = ("_recall@1", "_recall@5", "_recall@10", "ndcg@10", "median_rank", "mean_rank", "mean_recall")


def metric_title(name: str) -> str:
    """
    A metric's name in words: `"text_to_image_recall@10"` is "Text to image, recall@10".

    Args:
        name (`str`): The name as [`evaluate_retrieval`] gives it.
    """
    for prefix, words in (("itm_itc_", ", re-ranked by matching and cosine"), ("itm_", ", re-ranked by matching")):
        if name.startswith(prefix) and "_to_" in name:
            return metric_title(name.removeprefix(prefix)) + words
    for direction in ("text_to_image", "image_to_text"):
        if name.startswith(f"{direction}_"):
            measure = name.removeprefix(f"{direction}_").replace("ndcg", "nDCG").replace("_", " ")
            return f"{direction.replace('_', ' ').capitalize()}, {measure}"
    return name.replace("_", " ").capitalize()


def _results_table(results: list[EvaluationResult]) -> dict[str, Any] | None:
    """Heads and rows of the table of results: a row for each metric, a column for each data set."""
    scored = [(result, _scores(result)) for result in results]
    scored = [(result, scores) for result, scores in scored if scores]
    if not scored:
        return None
    metrics = list(dict.fromkeys(name for _, scores in scored for name in scores))
    return {
        "columns": [_column_title(result) for result, _ in scored],
        "rows": [(metric_title(name), [_cell(result, name) for result, _ in scored]) for name in metrics],
        "spread": any(result.over_seeds(name) for result, scores in scored for name in scores),
        "own": any(result.metrics and result.over_seeds(name) for result, scores in scored for name in scores),
        "single": any(result.metrics and not result.over_seeds(scores[0]) for result, scores in scored),
        "ranks": any("_rank" in name for name in metrics),
        "retrieval": any("_recall@" in name for name in metrics),
        "ndcg": any("ndcg" in name for name in metrics),
        "steps": sorted({result.step for result, _ in scored if result.step is not None}),
    }


def _column_title(result: EvaluationResult) -> tuple[str, str]:
    dataset = result.dataset
    title = ", ".join(part for part in (dataset.name or dataset.repo_id, dataset.split) if part)
    return title or "Data set of unknown origin", f"{dataset.rows:,} rows" if dataset.rows else ""


def _cell(result: EvaluationResult, metric: str) -> str:
    value, spread = result.metrics.get(metric), result.over_seeds(metric)
    if value is None and len(result.by_seed) == 1:
        value = next(iter(result.by_seed.values())).get(metric)
    own = "" if value is None else f"{value:.1f}" if abs(value) >= 1 or value == 0 else f"{value:.3f}"
    if spread is None:
        return own
    mean = f"{spread[0]:.1f} ± {spread[1]:.1f}"
    return f"{own} ({mean})" if own else mean


def _seed_note(facts: CardFacts) -> str:
    seeds = sorted({seed for result in facts.results for seed in result.by_seed})
    if len(seeds) > 1:
        return "several"
    return "one" if facts.seed is not None or seeds else "none"


def describe_dataset_facts(dataset: DatasetFacts) -> str:
    """
    What a data set is called, in words.

    Args:
        dataset ([`DatasetFacts`]): What is known of it.
    """
    return dataset.name or dataset.repo_id or "a data set of unknown origin"


def _in_words(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    if seconds < 5400:
        return f"{seconds / 60:.1f} minutes"
    return f"{seconds / 3600:.1f} hours"


def _citations(facts: CardFacts) -> str:
    entries = [] if facts.objective is None else [facts.objective.citation]
    entries += [CITATIONS["albef"]] if facts.model_type == "sacl" else []
    entries += [CITATIONS["trips"]] if facts.has_patch_selection else []
    # One entry for each key: two objectives may share a source.
    keyed: dict[str, str] = {}
    for entry in re.split(r"\n(?=@)", "\n".join(filter(None, entries))):
        key = re.match(r"@\w+\{([^,\s]+)", entry.strip())
        keyed.setdefault(key[1] if key else entry, entry.strip())
    return "\n\n".join(filter(None, keyed.values()))


# Pictures --------------------------------------------------------------------------------------------------------


def _kept(folder: Path, facts: CardFacts) -> dict[str, str]:
    """The pictures that are there, if they are of this model; of another run, or of an earlier step, they go."""
    try:
        before = CardFacts.load(folder)
    except ValueError:
        before = None
    if before is not None and (before.steps, before.log_history[:1]) == (facts.steps, facts.log_history[:1]):
        facts.found = facts.found or before.found
        facts.regulation_weights = facts.regulation_weights or before.regulation_weights
        facts.regulated_pairs = facts.regulated_pairs or before.regulated_pairs
    else:
        for name in (CURVES, WEIGHTS, FOUND):
            (folder / name).unlink(missing_ok=True)
    return _present(folder)


def _present(folder: Path) -> dict[str, str]:
    names = {"curves": CURVES, "weights": WEIGHTS, "found": FOUND}
    return {name: path for name, path in names.items() if (folder / path).is_file()}


def _draw(folder: Path, facts: CardFacts) -> dict[str, str]:
    """Draws what can be drawn and deletes what cannot any more; which pictures there are then."""
    found = facts.found
    keeps_found = found is not None and not found.images and (folder / FOUND).is_file()
    drawings: dict[str, Callable[[Path], None] | None] = {
        CURVES: (lambda path: plot_training_curves(facts.log_history, path)) if _has_curves(facts) else None,
        WEIGHTS: (lambda path: plot_weight_histogram(facts.regulation_weights, path))
        if facts.regulation_weights
        else None,
        FOUND: (lambda path: plot_retrieval_grid(found.queries, found.images, path, grades=found.grades))
        if found is not None and found.images
        else None,
    }
    has_matplotlib = importlib.util.find_spec("matplotlib") is not None
    if not has_matplotlib and any(drawings.values()):
        logger.warning("The card has no pictures, since matplotlib is missing: `pip install matplotlib` draws them.")
    for name, draw in drawings.items():
        if draw is not None and has_matplotlib:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            draw(folder / name)
        elif name != FOUND or not keeps_found:
            # A picture of an earlier run would not tell the truth about this one.
            (folder / name).unlink(missing_ok=True)
    return _present(folder)


def _has_curves(facts: CardFacts) -> bool:
    return sum("loss" in entry for entry in facts.log_history) > 1
