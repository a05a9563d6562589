# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Large contrastive batches in little memory: what it takes to run a batch chunk by chunk, and each chunk twice.

Gradient caching (Gao et al., 2021, [arXiv 2101.06983](https://huggingface.co/papers/2101.06983)): embed all chunks
without gradient, take the gradient of the contrast with respect to the embeddings of the whole batch, then embed each
chunk again and carry that gradient on into the model. Activations live for one chunk at a time, and the gradient is
that of the whole batch.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


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
