# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The feature queue: embeddings of past pairs as further candidates of the contrastive loss."""

from typing import NamedTuple

import torch


class PairFeatures(NamedTuple):
    """
    Embeddings of pairs, of shape `(num_pairs, dim)` and L2-normalised, and the pair ids of shape `(num_pairs,)` by
    which an anchor recognises itself among them.
    """

    image_embeds: torch.Tensor
    text_embeds: torch.Tensor
    pair_ids: torch.Tensor


class FeatureQueue:
    r"""
    A ring of the last `size` pairs' embeddings (MoCo; ALBEF keeps 65,536). Any size goes with any batch size, and
    while the ring fills up only what is filled counts.

    Args:
        size (`int`):
            How many pairs are kept, >= 1.

    Example:

    ```python
    >>> queue = FeatureQueue(4096)
    >>> queue.enqueue(image_embeds, text_embeds, pair_ids)
    >>> image_embeds, text_embeds, pair_ids = queue.features()
    ```
    """

    def __init__(self, size: int):
        if size < 1:
            raise ValueError(f"A queue holds at least one pair, got `size={size}`.")
        self.size = size
        self._rows: PairFeatures | None = None
        self._next = 0
        self._filled = 0

    def __len__(self) -> int:
        return self._filled

    @torch.no_grad()
    def enqueue(self, image_embeds: torch.Tensor, text_embeds: torch.Tensor, pair_ids: torch.Tensor) -> None:
        """Adds the pairs of a batch, over the oldest. Of a batch larger than the queue, the last pairs stay."""
        new = PairFeatures(image_embeds.detach(), text_embeds.detach(), pair_ids)
        if not len(image_embeds) == len(text_embeds) == len(pair_ids):
            raise ValueError(
                f"A batch has as many images as texts and pair ids, got {[len(tensor) for tensor in new]}."
            )
        new = PairFeatures(*(tensor[-self.size :] for tensor in new))
        if self._rows is None:
            self._rows = PairFeatures(*(tensor.new_zeros(self.size, *tensor.shape[1:]) for tensor in new))
        count = len(new.pair_ids)
        positions = (self._next + torch.arange(count, device=new.pair_ids.device)) % self.size
        for rows, tensor in zip(self._rows, new, strict=True):
            rows[positions] = tensor.to(rows.dtype)
        self._next = (self._next + count) % self.size
        self._filled = min(self.size, self._filled + count)

    def features(self) -> PairFeatures | None:
        """The filled part of the queue, or `None` while it is empty."""
        if self._rows is None or self._filled == 0:
            return None
        return PairFeatures(*(tensor[: self._filled] for tensor in self._rows))

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The filled rows as they lie, and where the next one goes."""
        features = self.features()
        if features is None:
            return {}
        return {**features._asdict(), "next": torch.tensor(self._next), "size": torch.tensor(self.size)}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Restores a queue exactly; one of another size keeps as many of the latest pairs as fit."""
        self._rows, self._next, self._filled = None, 0, 0
        if not state:
            return
        rows = PairFeatures(state["image_embeds"], state["text_embeds"], state["pair_ids"])
        next_row, saved_size = int(state["next"]), int(state["size"])
        if saved_size != self.size and len(rows.pair_ids) == saved_size:
            rows = PairFeatures(*(tensor.roll(-next_row, dims=0) for tensor in rows))
        self.enqueue(*rows)
        if saved_size == self.size:
            self._next = next_row
