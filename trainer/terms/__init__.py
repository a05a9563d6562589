# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Losses that stand beside any contrastive objective: each with its formula, its source and its citation."""

from .alignment_uniformity import AlignmentUniformityTerm
from .base import AdditiveTerm, TermBatch
from .off_diagonal import OffDiagonalTerm


TERMS: dict[str, type[AdditiveTerm]] = {term.name: term for term in (AlignmentUniformityTerm, OffDiagonalTerm)}

__all__ = [
    "TERMS",
    "AdditiveTerm",
    "AlignmentUniformityTerm",
    "OffDiagonalTerm",
    "TermBatch",
]
