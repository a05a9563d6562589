# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""How a model is shared: its card, the cards of data sets and metrics, and the pictures that show what it learned."""

from .dataset_card import DatasetCardFacts, SplitFacts, describe_dataset, write_dataset_card
from .facts import CardFacts, DatasetFacts, EvaluationResult, FoundImages, ObjectiveFacts, merge_seeds
from .metric_card import MetricFacts, describe_metric, write_metric_card
from .model_card import write_model_card
from .pictures import (
    plot_grounding,
    plot_retrieval_grid,
    plot_training_curves,
    plot_weight_histogram,
    visualize_patch_selection,
)
from .sections import CardError
from .validation import validate_card


__all__ = [
    "CardError",
    "CardFacts",
    "DatasetCardFacts",
    "DatasetFacts",
    "EvaluationResult",
    "FoundImages",
    "MetricFacts",
    "ObjectiveFacts",
    "SplitFacts",
    "describe_dataset",
    "describe_metric",
    "merge_seeds",
    "plot_grounding",
    "plot_retrieval_grid",
    "plot_training_curves",
    "plot_weight_histogram",
    "validate_card",
    "visualize_patch_selection",
    "write_dataset_card",
    "write_metric_card",
    "write_model_card",
]
