# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Losses that stand beside any contrastive objective: each with its formula, its source and its citation."""

from .alignment_uniformity import AlignmentUniformityTerm
from .base import AdditiveTerm, Mixture, TermBatch
from .mixup import MixupTerm
from .off_diagonal import OffDiagonalTerm
from .unimodal import UnimodalSelfSupervisionTerm


TERMS: dict[str, type[AdditiveTerm]] = {
    term.name: term for term in (AlignmentUniformityTerm, UnimodalSelfSupervisionTerm, OffDiagonalTerm, MixupTerm)
}

__all__ = [
    "TERMS",
    "AdditiveTerm",
    "AlignmentUniformityTerm",
    "Mixture",
    "MixupTerm",
    "OffDiagonalTerm",
    "TermBatch",
    "UnimodalSelfSupervisionTerm",
]
