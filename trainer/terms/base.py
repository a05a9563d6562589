# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""What an additive term is given, what it returns, and the page that all of them share."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch

from ..objectives.base import Comparison, ContrastiveBatch, ObjectiveOutput


@dataclass
class TermBatch(ContrastiveBatch):
    r"""
    Everything that an additive term may look at. The candidates of its comparisons are the batches of all processes,
    and never the queue: what a term says of pairs, it says of those that are learned from.

    Args:
        reference ([`Comparison`], *optional*):
            The same pairs as the model saw them when the training began.
    """

    reference: Comparison | None = None


class AdditiveTerm:
    r"""
    A loss of a batch of pairs, beside the contrastive objective: `SaclTrainingArguments(<name>_weight=...)` adds it,
    and it is logged as `<name>_loss`. With weight 0 there is no such term.

    Attributes:
        name (`str`): what its weight and its loss are called by.
        citation (`str`): BibTeX of its source, for model cards.
        reads (`tuple[str, ...]`): what it needs of a batch beside the pairs. Batches of an evaluation are made without
            chance, so they may lack it: then the term is left out.
        needs_reference (`bool`): whether it compares with the model of the beginning, of which the trainer then keeps
            a copy.
    """

    name: ClassVar[str]
    citation: ClassVar[str]
    reads: ClassVar[tuple[str, ...]] = ()
    needs_reference: ClassVar[bool] = False

    @classmethod
    def from_arguments(cls, args: Any) -> Self:
        """The term with the settings that [`SaclTrainingArguments`] hold for it."""
        return cls()

    def is_given(self, inputs: Mapping[str, Any]) -> bool:
        """Whether a batch has what the term reads."""
        return all(name in inputs for name in self.reads)

    def get_config_dict(self) -> dict:
        """The settings that this term adds, for model cards and configs."""
        return {}

    def __call__(self, batch: TermBatch) -> ObjectiveOutput:
        """The loss, under its name, and what to log beside it."""
        raise NotImplementedError

    def _output(self, loss: torch.Tensor, **metrics: torch.Tensor) -> ObjectiveOutput:
        detached = {name: value.detach() for name, value in metrics.items()}
        return ObjectiveOutput(losses={f"{self.name}_loss": loss}, metrics=detached)


__all__ = ["AdditiveTerm", "TermBatch"]
