# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Contrastive objectives: one file per family, each with its formula, its source and its citation."""

from .albef import AlbefObjective, DistilledSaclObjective, distillation_loss
from .base import BothDirections, Comparison, ContrastiveBatch, ContrastiveObjective, ObjectiveOutput
from .infonce import InfoNCEObjective
from .sacl import SaclObjective


OBJECTIVES: dict[str, type[ContrastiveObjective]] = {
    objective.name: objective
    for objective in (SaclObjective, InfoNCEObjective, AlbefObjective, DistilledSaclObjective)
}

__all__ = [
    "OBJECTIVES",
    "AlbefObjective",
    "BothDirections",
    "Comparison",
    "ContrastiveBatch",
    "ContrastiveObjective",
    "DistilledSaclObjective",
    "InfoNCEObjective",
    "ObjectiveOutput",
    "SaclObjective",
    "distillation_loss",
]
