# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Contrastive objectives: one file per family, each with its formula, its source and its citation."""

from .albef import AlbefObjective, DistilledSaclObjective, distillation_loss
from .base import (
    BothDirections,
    Comparison,
    ContrastiveBatch,
    ContrastiveObjective,
    ExtraTexts,
    ObjectiveOutput,
    TextFeatures,
)
from .decoupled import DecoupledObjective
from .graded import GradedObjective
from .guided import CrossSampleObjective, GuidedNegativesObjective
from .hard_negatives import DebiasedObjective, HardNegativesObjective
from .infonce import InfoNCEObjective
from .multi_positive import MultiPositiveObjective
from .negclip import SwappedCaptionsObjective
from .one_to_k import OneToKObjective
from .sacl import FilterObjective, SaclObjective
from .siglip import SigmoidObjective
from .soft_targets import ContinuousObjective, SoftAlignmentObjective


OBJECTIVES: dict[str, type[ContrastiveObjective]] = {
    objective.name: objective
    for objective in (
        SaclObjective,
        InfoNCEObjective,
        AlbefObjective,
        DistilledSaclObjective,
        DecoupledObjective,
        DebiasedObjective,
        HardNegativesObjective,
        GuidedNegativesObjective,
        CrossSampleObjective,
        ContinuousObjective,
        SoftAlignmentObjective,
        SigmoidObjective,
        FilterObjective,
        MultiPositiveObjective,
        GradedObjective,
        SwappedCaptionsObjective,
        OneToKObjective,
    )
}

__all__ = [
    "OBJECTIVES",
    "AlbefObjective",
    "BothDirections",
    "Comparison",
    "ContinuousObjective",
    "ContrastiveBatch",
    "ContrastiveObjective",
    "CrossSampleObjective",
    "DebiasedObjective",
    "DecoupledObjective",
    "DistilledSaclObjective",
    "ExtraTexts",
    "FilterObjective",
    "GradedObjective",
    "GuidedNegativesObjective",
    "HardNegativesObjective",
    "InfoNCEObjective",
    "MultiPositiveObjective",
    "SwappedCaptionsObjective",
    "ObjectiveOutput",
    "OneToKObjective",
    "SaclObjective",
    "SigmoidObjective",
    "SoftAlignmentObjective",
    "TextFeatures",
    "distillation_loss",
]
