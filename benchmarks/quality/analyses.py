# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The paper's own analyses on this data: what depends on what, on validation."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from evaluation import summarize
from methods import METHODS, SEEDS, Method
from model import Heads
from records import VALIDATION, Records, Request
from towers import EmojiRelevance, load_emoji, load_features
from training import Run, train, trained_guide

from modeling_sacl.loss_sacl import log_regulation_weights


ANALYSIS_SEEDS = SEEDS[:3]


@dataclass
class Point:
    """A curve's value at one place: the metrics of each seed, and the last logs of the trainings."""

    curve: str
    place: float | str
    metrics: list[dict[str, float]]
    logs: list[dict[str, float]]


@dataclass(frozen=True)
class Analysis:
    """
    A figure: curves over something.

    Args:
        name (`str`), title (`str`), axis (`str`):
            Of the file, of the figure and of its horizontal axis.
        runs (`dict[tuple[str, float | str], Run]`):
            By curve and place, a run that is repeated for each seed.
        text (`str`):
            What was done, for the page.
        logarithmic (`bool`, *optional*, defaults to `False`):
            Whether the axis is.
    """

    name: str
    title: str
    axis: str
    runs: Mapping[tuple[str, float | str], Run]
    text: str
    logarithmic: bool = False

    def points(self, records: Records, seeds: Sequence[int] = ANALYSIS_SEEDS) -> list[Point]:
        requests = [Request(replace(run, seed=seed)) for run in self.runs.values() for seed in seeds]
        results = iter(records.get(requests, self.name))
        points = []
        for curve, place in self.runs:
            of_place = [next(results) for _ in seeds]
            metrics = [summarize(result["splits"][VALIDATION]) for result in of_place]
            points.append(Point(curve, place, metrics, [result["logs"] for result in of_place]))
        return points


def analyses(chosen: Mapping[str, Mapping[str, Any]], compared: Sequence[str]) -> list[Analysis]:
    """All analyses that are trainings; `compared` are the methods of the curves, with their chosen settings."""
    runs = {name: _chosen_run(METHODS[name], chosen) for name in compared}
    sacl = replace(METHODS["sacl"].run, settings={**METHODS["sacl"].run.settings, "learning_rate": 1e-3})
    return [
        Analysis(
            "threshold",
            "Removing negatives whose weight is under a threshold (the paper's figure 3a)",
            "threshold",
            {
                ("filter", threshold): _with(
                    sacl, objective="filter", regulation_strength=3.0, filter_threshold=threshold
                )
                for threshold in (0.1, 0.3, 0.5, 0.7, 0.9)
            },
            "Weights of strength 3; negatives under the threshold are dropped, the others count in full. *Removed*:"
            " the share of negatives that are dropped at the end of training.",
        ),
        Analysis(
            "strength",
            "Strength of the regulation",
            "regulation_strength",
            {
                ("similarity of the teacher", strength): _with(sacl, regulation_strength=strength)
                for strength in (0.0, 1.0, 2.0, 4.0, 8.0)
            },
            "Strength 0 is InfoNCE, 1 the printed formula. The similarity is the momentum teacher's.",
        ),
        Analysis(
            "guide",
            "Kinds of guide, and how they hand over to the model (strength 3)",
            "guide",
            {
                (schedule, kind): replace(
                    _with(sacl, regulation_strength=3.0, momentum=None, guide_schedule=schedule), guide=kind
                )
                for schedule in ("constant", "linear")
                for kind in ("image_text", "text", "image")
            }
            | {
                ("no guide", "own"): _with(sacl, regulation_strength=3.0, momentum=None),
                ("no guide", "teacher"): _with(sacl, regulation_strength=3.0),
            },
            "`image_text` is the paper's guide: heads that InfoNCE has trained on clean pairs, here the pictures of"
            " one vendor. `constant` keeps the guide to the end, `linear` hands over to the model. "
            "Without a guide, the model's own similarity or its momentum teacher's.",
        ),
        Analysis(
            "data",
            "Growth with the amount of data (the paper's figure 4)",
            "share of the emoji trained on",
            {
                (name, share): replace(run, data_share=share)
                for name, run in runs.items()
                for share in (0.125, 0.25, 0.5, 1.0)
            },
            "A share of the emoji, with all their pictures and the same number of steps; of a larger share all that"
            " is in a smaller one.",
            logarithmic=True,
        ),
        Analysis(
            "batch",
            "Growth with the rate of false negatives: batch size, the same number of pairs seen",
            "batch size",
            {
                (name, size): replace(run, batch_size=size)
                for name, run in runs.items()
                for size in (64, 256, 1024, 4096)
            },
            "The larger the batch, the more false negatives each anchor meets. Every training sees 102,400 pairs, "
            "so a larger batch takes fewer steps: compare within a batch size.",
            logarithmic=True,
        ),
        Analysis(
            "adversarial",
            "Growth with the rate of false negatives: batches of a few subgroups",
            "batches",
            {
                (name, place): replace(run, adversarial=place == "same subgroup")
                for name, run in runs.items()
                for place in ("random", "same subgroup")
            },
            "Batches of 256 in blocks of 64 pairs of one subgroup: nearly all similar negatives at once.",
        ),
    ]


def _with(run: Run, objective: str | None = None, **settings: Any) -> Run:
    return replace(run, objective=objective or run.objective, settings={**run.settings, **settings})


def _chosen_run(method: Method, chosen: Mapping[str, Mapping[str, Any]]) -> Run:
    return method.with_settings(chosen[method.name], seed=0)


def first_look() -> dict[str, Run]:
    """Long trainings at one learning rate, 1,500 steps: an earlier look at the question, to be repeated."""
    long = {"examples": 384_000}
    sacl = METHODS["sacl"].run
    return {
        "infonce": replace(METHODS["infonce"].run, **long),
        "albef": replace(METHODS["albef"].run, **long),
        "sacl, strength 1": replace(_with(sacl, regulation_strength=1.0), **long),
        "sacl, strength 3": replace(_with(sacl, regulation_strength=3.0), **long),
    }


@torch.inference_mode()
def weights_by_grade(folder: Path, strengths: Sequence[float] = (1.0, 3.0)) -> dict[float, dict[str, torch.Tensor]]:
    """
    The regulation weights of the validation pairs by a trained guide, by what the negatives are in truth: false
    negatives (variants of the anchor's emoji), half right (of its subgroup), and true ones.
    """
    emoji, features = load_emoji(VALIDATION), load_features(VALIDATION, folder / "features")
    cosines = _cosines(trained_guide(folder), features)
    rows = torch.arange(len(emoji))
    grades = EmojiRelevance(emoji)(rows, rows)
    kinds = {
        "variants of the same emoji": (grades >= 0.5) & (grades < 1),
        "same subgroup": grades == 0.25,
        "unrelated": grades == 0,
    }
    return {
        strength: {
            kind: log_regulation_weights(cosines, strength=strength, negative_mask=grades < 1).exp()[mask]
            for kind, mask in kinds.items()
        }
        for strength in strengths
    }


def information_of_negatives(
    folder: Path, strengths: Sequence[float] = (0.5, 1.0, 2.0, 4.0), examples: int = Run.examples
) -> list[dict[str, float]]:
    """
    Appendix A.3 of the paper, measured: E log(1/w) = E I(anchor, negative), once training under the weights has ended.

    Left, the weights that the guide gives to the negatives of the validation pairs. Right, what a model that has been
    trained under them says of the same negatives: the logarithm of f divided by its mean over all texts, which is how
    a contrastive model estimates the information that an image and a text have of one another (the pointwise mutual
    information). Beside it the same, each negative counted as often as its weight says; and the condition that the
    weights must fall where the density ratio rises, as a rank correlation.
    """
    emoji, features = load_emoji(VALIDATION), load_features(VALIDATION, folder / "features")
    rows = torch.arange(len(emoji))
    negatives = EmojiRelevance(emoji)(rows, rows) < 1
    with torch.inference_mode():
        cosines = _cosines(trained_guide(folder), features)
    results = []
    for strength in strengths:
        settings = {"regulation_strength": strength, "guide_schedule": "constant"}
        model, _ = train(Run("sacl", settings, guide="image_text", examples=examples), folder)
        with torch.inference_mode():
            logits = model.logit_scale.exp() * _cosines(model, features)
        information = logits - logits.logsumexp(dim=1, keepdim=True) + math.log(len(rows))
        log_weights = log_regulation_weights(cosines, strength=strength, negative_mask=negatives)
        ranks = torch.stack([log_weights[negatives].argsort().argsort(), information[negatives].argsort().argsort()])
        results.append(
            {
                "strength": strength,
                "mean log(1/w)": -log_weights[negatives].mean().item(),
                "mean information": information[negatives].mean().item(),
                "information weighted by w": (log_weights.exp() * information)[negatives].mean().item(),
                "rank correlation of w and the density ratio": ranks.double().corrcoef()[0, 1].item(),
            }
        )
    return results


def _cosines(model: Heads, features: Mapping[str, torch.Tensor]) -> torch.Tensor:
    return model.get_image_features(features["images"]) @ model.get_text_features(features["names"]).T
