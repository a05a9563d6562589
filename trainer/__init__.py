# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""How a SACL model, or any dual encoder, learns: data, objectives, trainer, evaluation.

Names are imported when they are first used: the command line answers `sacl --help` without waiting for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from .audit import audit_pairs
    from .audit_report import AuditReport, Finding
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
        mix_pairs,
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
    from .sharing import load_training_arguments, save_training_arguments
    from .terms import TERMS, AdditiveTerm, TermBatch

# Where each public name is defined.
_MODULES = {
    "audit": ("audit_pairs",),
    "audit_report": ("AuditReport", "Finding"),
    "checkpoints": ("seal_checkpoint", "verify_checkpoint"),
    "data": (
        "ImagesAndTextClassificationCollator",
        "ImageTextClassificationCollator",
        "PairCollator",
        "QuestionAnsweringCollator",
        "frequent_answers",
        "load_karpathy",
        "load_pairs",
        "load_vqa",
        "mix_pairs",
        "pair_augmentation",
    ),
    "evaluation": (
        "answer_questions",
        "best_point",
        "chance_grounding_metrics",
        "chance_retrieval_metrics",
        "compute_retrieval_metrics",
        "embed_pairs",
        "evaluate_grounding",
        "evaluate_question_answering",
        "evaluate_retrieval",
        "find_candidates",
        "ground_text",
        "ground_texts",
        "heat_map",
        "match_pairs",
        "score_boxes",
    ),
    "guide": ("Guide", "add_guide_features"),
    "locked": ("add_tower_features",),
    "momentum": ("MomentumTeacher",),
    "objectives": ("OBJECTIVES", "ContrastiveBatch", "ContrastiveObjective"),
    "queue": ("FeatureQueue",),
    "sacl_config": ("SaclTrainingArguments",),
    "sacl_trainer": ("SaclTrainer",),
    "search": ("FaissEngine", "LanceEngine", "SaclSearcher", "SearchEngine", "SearchResult", "embed_dataset"),
    "sharing": ("load_training_arguments", "save_training_arguments"),
    "terms": ("TERMS", "AdditiveTerm", "TermBatch"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "OBJECTIVES",
    "TERMS",
    "AdditiveTerm",
    "AuditReport",
    "ContrastiveBatch",
    "ContrastiveObjective",
    "FaissEngine",
    "FeatureQueue",
    "Finding",
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
    "TermBatch",
    "add_guide_features",
    "add_tower_features",
    "answer_questions",
    "audit_pairs",
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
    "load_training_arguments",
    "load_vqa",
    "match_pairs",
    "mix_pairs",
    "pair_augmentation",
    "save_training_arguments",
    "score_boxes",
    "seal_checkpoint",
    "verify_checkpoint",
]


def __getattr__(name: str) -> Any:
    """A public name, or a module of this package, at its first use."""
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Whoever uses the trainer's names may load our checkpoints: this registers the Auto classes.
    import_module("modeling_sacl")
    value = getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
