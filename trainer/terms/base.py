# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""What an additive term is given, what it returns, and the page that all of them share."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import torch

from ..objectives.base import Comparison, ContrastiveBatch, ObjectiveOutput
from ..queue import PairFeatures


class Mixture(NamedTuple):
    """
    Pairs mixed with others: L2-normalised embeddings of the mixed images and texts, of shape `(num_pairs, dim)`, the
    ids of the pair and of its partner, and the share of the pair itself, of shape `(num_pairs,)`.
    """

    image_embeds: torch.Tensor
    text_embeds: torch.Tensor
    pair_ids: torch.Tensor
    partner_ids: torch.Tensor
    share: torch.Tensor


@dataclass
class TermBatch(ContrastiveBatch):
    r"""
    Everything that an additive term may look at. The candidates of its comparisons are the batches of all processes,
    and never the queue: what a term says of pairs, it says of those that are learned from.

    Args:
        reference ([`Comparison`], *optional*):
            The same pairs as the model saw them when the training began.
        views (`tuple[PairFeatures, PairFeatures]`, *optional*):
            Second views of the anchors, and of the candidates, in their order.
        mixture (`tuple[Mixture, Mixture]`, *optional*):
            The anchors mixed with others, and the candidates.
    """

    reference: Comparison | None = None
    views: tuple[PairFeatures, PairFeatures] | None = None
    mixture: tuple[Mixture, Mixture] | None = None

    def require(self, name: str) -> Any:
        """A part that may be absent; a ValueError if it is."""
        part = getattr(self, name)
        if part is None:
            raise ValueError(f"A term needs the `{name}` of a batch; there is none.")
        return part


class AdditiveTerm:
    r"""
    A loss of a batch of pairs, beside the contrastive objective: `SaclTrainingArguments(<name>_weight=...)` adds it,
    and it is logged as `<name>_loss`. With weight 0 there is no such term.

    Attributes:
        name (`str`): what its weight and its loss are called by.
        citation (`str`): BibTeX of its source, for model cards.
        reads (`tuple[str, ...]`): what it needs of a batch beside the pairs. Batches of an evaluation are made without
            chance, so they may lack it: then the term is left out.
        rows (`str`): the prefix in a batch of the rows that it wants embedded with the pairs, if any.
        needs_reference (`bool`): whether it compares with the model of the beginning, of which the trainer then keeps
            a copy.
    """

    name: ClassVar[str]
    citation: ClassVar[str]
    reads: ClassVar[tuple[str, ...]] = ()
    rows: ClassVar[str] = ""
    needs_reference: ClassVar[bool] = False

    @classmethod
    def from_arguments(cls, args: Any) -> Self:
        """The term with the settings that [`SaclTrainingArguments`] hold for it."""
        return cls()

    def is_given(self, inputs: Mapping[str, Any]) -> bool:
        """Whether a batch has what the term reads."""
        return all(name in inputs for name in self.reads)

    def prepare(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """
        A batch of the training with what the term adds to it before the model is called.

        Raises:
            ValueError: if the batch lacks what the term reads.
        """
        missing = [name for name in self.reads if name not in inputs]
        if missing:
            raise ValueError(
                f"`{self.name}_weight` needs {' and '.join(f'`{name}`' for name in missing)} in every batch of the "
                f"training, and this one has {', '.join(f'`{name}`' for name in inputs)}. Have the data collator make "
                f"them, as `PairCollator(..., second_views=True)` does, or set `{self.name}_weight=0`."
            )
        return dict(inputs)

    def get_config_dict(self) -> dict:
        """The settings that this term adds, for model cards and configs."""
        return {}

    def __call__(self, batch: TermBatch) -> ObjectiveOutput:
        """The loss, under its name, and what to log beside it."""
        raise NotImplementedError

    def _output(self, loss: torch.Tensor, **metrics: torch.Tensor) -> ObjectiveOutput:
        detached = {name: value.detach() for name, value in metrics.items()}
        return ObjectiveOutput(losses={f"{self.name}_loss": loss}, metrics=detached)


__all__ = ["AdditiveTerm", "Mixture", "TermBatch"]
