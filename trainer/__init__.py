# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""How a SACL model, or any dual encoder, learns: data, objectives, trainer, evaluation."""

from .checkpoints import seal_checkpoint, verify_checkpoint
from .data import (
    ImagesAndTextClassificationCollator,
    ImageTextClassificationCollator,
    PairCollator,
    QuestionAnsweringCollator,
    frequent_answers,
    load_karpathy,
    load_pairs,
    load_vqa,
    pair_augmentation,
)
from .evaluation import (
    answer_questions,
    best_point,
    chance_grounding_metrics,
    chance_retrieval_metrics,
    compute_retrieval_metrics,
    embed_pairs,
    evaluate_grounding,
    evaluate_question_answering,
    evaluate_retrieval,
    find_candidates,
    ground_text,
    ground_texts,
    heat_map,
    match_pairs,
    score_boxes,
)
from .guide import Guide, add_guide_features
from .locked import add_tower_features
from .momentum import MomentumTeacher
from .objectives import OBJECTIVES, ContrastiveBatch, ContrastiveObjective
from .queue import FeatureQueue
from .sacl_config import SaclTrainingArguments
from .sacl_trainer import SaclTrainer
from .search import FaissEngine, LanceEngine, SaclSearcher, SearchEngine, SearchResult, embed_dataset


__all__ = [
    "OBJECTIVES",
    "ContrastiveBatch",
    "ContrastiveObjective",
    "FaissEngine",
    "FeatureQueue",
    "Guide",
    "ImageTextClassificationCollator",
    "ImagesAndTextClassificationCollator",
    "LanceEngine",
    "MomentumTeacher",
    "PairCollator",
    "QuestionAnsweringCollator",
    "SaclSearcher",
    "SaclTrainer",
    "SaclTrainingArguments",
    "SearchEngine",
    "SearchResult",
    "add_guide_features",
    "add_tower_features",
    "answer_questions",
    "best_point",
    "chance_grounding_metrics",
    "chance_retrieval_metrics",
    "compute_retrieval_metrics",
    "embed_dataset",
    "embed_pairs",
    "evaluate_grounding",
    "evaluate_question_answering",
    "evaluate_retrieval",
    "find_candidates",
    "frequent_answers",
    "ground_text",
    "ground_texts",
    "heat_map",
    "load_karpathy",
    "load_pairs",
    "load_vqa",
    "match_pairs",
    "pair_augmentation",
    "score_boxes",
    "seal_checkpoint",
    "verify_checkpoint",
]
