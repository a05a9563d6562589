# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""What a trained model finds in a split: per query, so that models can be compared query by query."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import evaluate
import torch
from model import Heads
from towers import ROOT, EmojiRelevance, load_emoji, load_features

from trainer.data import pair_ids_tensor
from trainer.evaluation.ranking import rank_pairs


CUTOFFS = (1, 5, 10)
DIRECTIONS = ("text_to_image", "image_to_text")


@torch.inference_mode()
def evaluate_split(model: Heads, images: torch.Tensor, split: str, folder: Path) -> dict[str, Any]:
    """
    All pictures of a split, as the model wants them, query its names, and all names its pictures.

    Returns:
        `dict[str, Any]`: for each direction `ranks` and `ndcg`, a number per query; `auc`, `alignment`,
        `image_uniformity`, `text_uniformity`, `modality_gap`; and `found`, the rows of the five pictures that each
        name finds first.
    """
    features, emoji = load_features(split, folder / "features"), load_emoji(split)
    ids = pair_ids_tensor(emoji["emoji_id"])
    # Every emoji has one name, and up to three pictures.
    text_rows = torch.tensor([row for row, id in enumerate(ids) if row == 0 or not (ids[:row] == id).any()])
    image_embeds = torch.cat([model.get_image_features(batch) for batch in images.split(256)])
    text_embeds = model.get_text_features(features["names"][text_rows])
    grades = EmojiRelevance(emoji)(torch.arange(len(ids)), text_rows)

    rankings = rank_pairs(
        image_embeds, text_embeds, ids, ids[text_rows], relevance=lambda images, texts: grades[images][:, texts]
    )
    result: dict[str, Any] = {
        direction: {
            "ranks": rankings[direction].ranks.tolist(),
            "ndcg": [round(value, 5) for value in (rankings[direction].dcg / rankings[direction].ideal_dcg).tolist()],
        }
        for direction in DIRECTIONS
    }
    similarity = text_embeds @ image_embeds.T
    result["auc"] = partial_relevance_auc(similarity, grades.T)
    result["found"] = similarity.topk(5).indices.tolist()
    geometry = _geometry().compute(
        predictions=image_embeds.double().tolist(), references=model.get_text_features(features["names"]).tolist()
    )
    names = ("alignment", "image_uniformity", "text_uniformity", "modality_gap")
    return {**result, **{name: geometry[name] for name in names}}


def partial_relevance_auc(similarity: torch.Tensor, grades: torch.Tensor) -> float:
    """
    How often a half right candidate is nearer to its query than a wrong one, in percent; 50 is chance. The mean over
    the queries that have both.
    """
    values = []
    for row, grade in zip(similarity, grades, strict=True):
        partial, irrelevant = row[(grade > 0) & (grade < 1)], row[grade == 0]
        if len(partial) and len(irrelevant):
            ahead = torch.searchsorted(irrelevant.sort().values, partial)
            values.append((ahead / len(irrelevant)).mean())
    return 100 * torch.stack(values).mean().item()


@cache
def _geometry() -> evaluate.EvaluationModule:
    return evaluate.load(str(ROOT / "trainer" / "evaluation" / "metrics" / "contrastive_gap"))


def summarize(result: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a split that tables show: recall and nDCG in percent."""
    metrics = {}
    for direction in DIRECTIONS:
        ranks, ndcg = torch.tensor(result[direction]["ranks"]), result[direction]["ndcg"]
        for k in CUTOFFS:
            metrics[f"{direction}_recall@{k}"] = 100 * (ranks <= k).double().mean().item()
        metrics[f"{direction}_ndcg@10"] = 100 * sum(ndcg) / len(ndcg)
    scalars = {name: value for name, value in result.items() if isinstance(value, float)}
    return {**metrics, **scalars}
