# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Large contrastive batches in little memory: a batch chunk by chunk, and each chunk twice.

Gradient caching (Gao et al., 2021, [arXiv 2101.06983](https://huggingface.co/papers/2101.06983)): embed all chunks
without gradient, take the gradient of the contrast with respect to the embeddings of the whole batch, then embed each
chunk again and carry that gradient on into the model. Activations live for one chunk at a time, and the gradient is
that of the whole batch.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from transformers.utils import ModelOutput


# What the contrast sees of a pair; the last only where an objective needs it. Terms see more, by the same names.
_EMBEDDINGS = ("image_embeds", "text_embeds", "extra_text_embeds")


def split_batch(inputs: dict[str, torch.Tensor], chunk_size: int) -> list[dict[str, torch.Tensor]]:
    """
    The batch in parts of at most `chunk_size` rows.

    Args:
        inputs (`dict[str, torch.Tensor]`): tensors with one row for each pair.
        chunk_size (`int`): rows of a part, >= 1.

    Returns:
        `list[dict[str, torch.Tensor]]`: views of the tensors, in order.
    """
    parts = {name: tensor.split(chunk_size) for name, tensor in inputs.items()}
    count = len(next(iter(parts.values())))
    return [{name: tensors[index] for name, tensors in parts.items()} for index in range(count)]


def join_embeddings(outputs: Sequence[ModelOutput]) -> dict[str, torch.Tensor]:
    """The embeddings of a batch from a model's outputs for its chunks; what else there is in them is left out."""
    names = [name for name in outputs[0] if name.endswith(_EMBEDDINGS)]
    return {name: torch.cat([chunk[name] for chunk in outputs]) for name in names}


def share_of_chunk(
    name: str, chunk: Mapping[str, torch.Tensor], batch: Mapping[str, torch.Tensor]
) -> torch.Tensor | float:
    """What a chunk's mean counts in the mean of the batch: by masked tokens for language modeling, else by rows."""
    if name == "mlm_loss":
        masked, all_masked = (inputs["mlm_labels"] != -100 for inputs in (chunk, batch))
        return masked.sum() / all_masked.sum().clamp(min=1)
    return len(chunk["pair_ids"]) / len(batch["pair_ids"])


class RandomState:
    """
    The state of the random generators when it was made, to run a forward again with the same dropout.

    Example:

    ```python
    >>> state = RandomState()
    >>> first = dropout(x)
    >>> with state.replayed():
    ...     second = dropout(x)  # the same
    ```
    """

    def __init__(self):
        self._cpu = torch.get_rng_state()
        self._devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []

    def _restore(self) -> None:
        torch.set_rng_state(self._cpu)
        if self._devices:
            torch.cuda.set_rng_state_all(self._devices)

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Inside, what was drawn since the state was made is drawn again; afterwards all is as it was before."""
        now = RandomState()
        self._restore()
        try:
            yield
        finally:
            now._restore()


class GradientCache:
    r"""
    The embeddings of a batch, computed chunk by chunk and without gradient, and the gradient of its contrast with
    respect to them, which is carried on into the model chunk by chunk.

    Args:
        chunks (`list[dict[str, torch.Tensor]]`):
            The batch as [`split_batch`] gives it.
        embed (`Callable`):
            From a chunk to the output of the model, with embeddings of its rows.
        scalars_of (`Callable`):
            From an output to what the contrast is made of beside embeddings, such as the temperature.

    Example:

    ```python
    >>> cache = GradientCache(chunks, model, lambda outputs: {"logit_scale": outputs["logit_scale"]})
    >>> cache.take_gradient(contrastive_loss(**cache.leaves))
    >>> for index, chunk in enumerate(chunks):
    ...     with cache.replayed(index):
    ...         outputs = model(chunk)
    ...     cache.carried(index, outputs).backward()
    ```
    """

    def __init__(
        self,
        chunks: Sequence[Mapping[str, torch.Tensor]],
        embed: Callable[[Any], Mapping[str, Any]],
        scalars_of: Callable[[Mapping[str, Any]], Mapping[str, torch.Tensor]],
    ):
        self._scalars_of = scalars_of
        self._random_states: list[RandomState] = []
        outputs = []
        for chunk in chunks:
            self._random_states.append(RandomState())
            with torch.no_grad():
                outputs.append(embed(chunk))
        embeddings = join_embeddings(outputs)
        self._rows = {name: [len(output[name]) for output in outputs] for name in embeddings}
        scalars = {name: value.detach().clone() for name, value in scalars_of(outputs[0]).items()}
        # What the contrast is computed from.
        self.leaves = {name: tensor.requires_grad_() for name, tensor in {**embeddings, **scalars}.items()}
        self._gradients: dict[str, torch.Tensor] = {}

    def take_gradient(self, loss: torch.Tensor) -> None:
        """Keeps the gradient of a loss that was computed from `leaves`."""
        gradients = torch.autograd.grad(loss, list(self.leaves.values()))
        self._gradients = dict(zip(self.leaves, gradients, strict=True))

    def replayed(self, index: int) -> AbstractContextManager[None]:
        """Inside, a model draws what it has drawn when this chunk was embedded first."""
        return self._random_states[index].replayed()

    def carried(self, index: int, outputs: Mapping[str, Any]) -> torch.Tensor:
        """A scalar of a chunk embedded again; those of all chunks together have the gradient of the loss."""
        per_row = {name: self._gradients[name].split(rows)[index] for name, rows in self._rows.items()}
        carried: Any = sum((outputs[name] * gradient).sum() for name, gradient in per_row.items())
        if index == 0:
            scalars = self._scalars_of(outputs)
            carried = carried + sum(value * self._gradients[name] for name, value in scalars.items())
        return carried
