# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""How a SACL model, or any dual encoder, learns: data, objectives, trainer, evaluation."""

from .checkpoints import seal_checkpoint, verify_checkpoint
from .data import PairCollator, load_pairs, pair_augmentation
from .evaluation import chance_retrieval_metrics, compute_retrieval_metrics, embed_pairs, evaluate_retrieval
from .guide import Guide, add_guide_features
from .locked import add_tower_features
from .momentum import MomentumTeacher
from .objectives import OBJECTIVES, ContrastiveBatch, ContrastiveObjective
from .queue import FeatureQueue
from .sacl_config import SaclTrainingArguments
from .sacl_trainer import SaclTrainer


__all__ = [
    "OBJECTIVES",
    "ContrastiveBatch",
    "ContrastiveObjective",
    "FeatureQueue",
    "Guide",
    "MomentumTeacher",
    "PairCollator",
    "SaclTrainer",
    "SaclTrainingArguments",
    "add_guide_features",
    "add_tower_features",
    "chance_retrieval_metrics",
    "compute_retrieval_metrics",
    "embed_pairs",
    "evaluate_retrieval",
    "load_pairs",
    "pair_augmentation",
    "seal_checkpoint",
    "verify_checkpoint",
]
