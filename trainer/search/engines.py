# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""What finds the nearest embeddings: the interface that an engine needs, and FAISS, which is one."""

import os
from typing import Any, Protocol

import numpy as np
from datasets.search import FaissIndex


class SearchEngine(Protocol):
    """
    What holds embeddings and finds those with the largest inner product: [`FaissEngine`], [`LanceEngine`], or a few
    lines of your own around a service.

    Example:

    ```python
    >>> class BruteForce:
    ...     def __init__(self, name):
    ...         self.embeds = np.empty((0, 512), dtype=np.float32)
    ...
    ...     def __len__(self):
    ...         return len(self.embeds)
    ...
    ...     def add(self, embeds, rows):
    ...         self.embeds = np.concatenate([self.embeds, embeds])
    ...
    ...     def search(self, queries, k):
    ...         scores = queries @ self.embeds.T
    ...         rows = np.argsort(-scores, axis=1)[:, :k]
    ...         return np.take_along_axis(scores, rows, axis=1), rows

    >>> searcher = SaclSearcher(model, processor, photos, engine=BruteForce)
    ```
    """

    def __len__(self) -> int:
        """How many embeddings it holds."""
        ...

    def add(self, embeds: np.ndarray, rows: np.ndarray) -> None:
        """
        Takes more embeddings in, all or none of them.

        Args:
            embeds (`np.ndarray` of shape `(count, dim)`, float32):
                L2-normalised embeddings.
            rows (`np.ndarray` of shape `(count,)`, int64):
                Their rows in the data set, which go on from those added before.
        """
        ...

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """
        Finds the nearest.

        Args:
            queries (`np.ndarray` of shape `(count, dim)`, float32):
                L2-normalised embeddings.
            k (`int`):
                How many to find for each, at most as many as there are.

        Returns:
            Two `np.ndarray` of shape `(count, k)`: inner products, falling, and rows; -1 where fewer are found.
        """
        ...


class FaissEngine:
    r"""
    The FAISS index of `datasets`, by inner product. What it saves, `Dataset.load_faiss_index` reads too.

    Args:
        string_factory (`str`, *optional*):
            Which index, in the words of the [index factory](https://github.com/facebookresearch/faiss/wiki/):
            `"HNSW32"` is approximate and faster, `"IVF1024,PQ64"` approximate and smaller. Exact by default. An index
            that has to be trained is trained on the embeddings that are added first (of a data set, 100,000).
        device (`int` or list of `int`, *optional*):
            GPUs to search on, with a FAISS that was built for them.

    Raises:
        `ImportError`: if FAISS is not installed.

    Example:

    ```python
    >>> engine = FaissEngine("HNSW32")
    >>> engine.add(embeds, np.arange(len(embeds)))
    >>> engine.faiss_index.hnsw.efSearch = 64  # more exact, slower
    >>> scores, rows = engine.search(queries, 10)
    ```
    """

    def __init__(self, string_factory: str | None = None, *, device: int | list[int] | None = None):
        try:
            import faiss
        except ImportError as error:
            raise ImportError("Searching needs FAISS: `pip install sacl[search]`.") from error
        self.string_factory = string_factory
        self._index = FaissIndex(device=device, string_factory=string_factory, metric_type=faiss.METRIC_INNER_PRODUCT)

    @property
    def faiss_index(self) -> Any:
        """The index itself, for what FAISS can be told (`nprobe`, `efSearch`); `None` before anything is added."""
        return self._index.faiss_index

    def __len__(self) -> int:
        return 0 if self.faiss_index is None else self.faiss_index.ntotal

    def add(self, embeds: np.ndarray, rows: np.ndarray) -> None:
        """
        Takes more embeddings in.

        Args:
            embeds (`np.ndarray` of shape `(count, dim)`, float32):
                L2-normalised embeddings.
            rows (`np.ndarray` of shape `(count,)`, int64):
                Their rows in the data set, which must go on from those added before: FAISS counts.

        Raises:
            `ValueError`: if the rows do not go on.
        """
        if not np.array_equal(rows, np.arange(len(self), len(self) + len(embeds))):
            raise ValueError(f"FAISS numbers rows itself: the next {len(embeds)} have to go on from {len(self)}.")
        to_train = len(embeds) if self.faiss_index is None else None
        self._index.add_vectors(embeds, train_size=to_train)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """
        Finds the nearest, all queries in one call to FAISS.

        Args:
            queries (`np.ndarray` of shape `(count, dim)`, float32):
                L2-normalised embeddings.
            k (`int`):
                How many to find for each.

        Returns:
            Two `np.ndarray` of shape `(count, k)`: inner products, falling, and rows; -1 where fewer are found.
        """
        found = self._index.search_batch(queries, k)
        return np.asarray(found.total_scores), np.asarray(found.total_indices)

    def save(self, file: str | os.PathLike) -> None:
        """
        Writes the index.

        Args:
            file (`str` or `os.PathLike`):
                Where to.
        """
        self._index.save(os.fspath(file))

    @classmethod
    def load(cls, file: str | os.PathLike, *, device: int | list[int] | None = None) -> "FaissEngine":
        """
        Reads an index.

        Args:
            file (`str` or `os.PathLike`):
                Where [`~FaissEngine.save`] or `Dataset.save_faiss_index` wrote it.
            device (`int` or list of `int`, *optional*):
                GPUs to search on.

        Returns:
            [`FaissEngine`]: the engine.

        Raises:
            `ImportError`: if FAISS is not installed.
        """
        engine = cls(device=device)
        engine._index = FaissIndex.load(os.fspath(file), device=device)
        return engine
