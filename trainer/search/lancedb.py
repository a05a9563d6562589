# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Searching in LanceDB: a table in a folder or an object store, which does not have to fit into memory."""

import os
from typing import Any

import numpy as np
import pyarrow as pa


class LanceEngine:
    r"""
    A [LanceDB](https://lancedb.github.io/lancedb/) table as [`SearchEngine`]. Exact until an index is made of the
    table (`engine.table.create_index(metric="dot", vector_column_name="embedding")`), which other processes and
    machines then search as well.

    Args:
        uri (`str` or `os.PathLike`):
            The database: a folder, `s3://bucket/folder`, `gs://...`, `az://...`, or `db://...` for their service.
        name (`str`):
            Name of the table. [`SaclSearcher`] gives names that tell embeddings apart.
        **options:
            For `lancedb.connect`: `api_key`, `storage_options` ...

    Raises:
        `ImportError`: if LanceDB is not installed.

    Example:

    ```python
    >>> from functools import partial
    >>> from trainer import LanceEngine, SaclSearcher

    >>> searcher = SaclSearcher(model, processor, photos, engine=partial(LanceEngine, "s3://bucket/photos"))
    ```
    """

    def __init__(self, uri: str | os.PathLike, name: str, **options: Any):
        try:
            import lancedb
        except ImportError as error:
            raise ImportError("`LanceEngine` needs LanceDB: `pip install lancedb`.") from error
        self.name = name
        self._database = lancedb.connect(os.fspath(uri), **options)
        try:
            self._table: Any = self._database.open_table(name)
        except ValueError as error:
            if "not found" not in str(error):
                raise
            self._table = None

    @property
    def table(self) -> Any:
        """The table, for what LanceDB can be told; `None` before anything is added."""
        return self._table

    def __len__(self) -> int:
        return 0 if self._table is None else self._table.count_rows()

    def add(self, embeds: np.ndarray, rows: np.ndarray) -> None:
        """
        Takes more embeddings in, all or none of them.

        Args:
            embeds (`np.ndarray` of shape `(count, dim)`, float32):
                L2-normalised embeddings.
            rows (`np.ndarray` of shape `(count,)`, int64):
                Their rows in the data set.
        """
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(embeds.ravel(), type=pa.float32()), embeds.shape[1])
        table = pa.table({"row": pa.array(rows, type=pa.int64()), "embedding": vectors})
        if self._table is None:
            self._table = self._database.create_table(self.name, table)
        else:
            self._table.add(table)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """
        Finds the nearest.

        Args:
            queries (`np.ndarray` of shape `(count, dim)`, float32):
                L2-normalised embeddings.
            k (`int`):
                How many to find for each.

        Returns:
            Two `np.ndarray` of shape `(count, k)`: inner products, falling, and rows; -1 where fewer are found.
        """
        query = self._table.search(list(queries), vector_column_name="embedding").distance_type("dot").limit(k)
        found = query.select(["row", "_distance"]).to_arrow()
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        rows = np.full((len(queries), k), -1, dtype=np.int64)
        several = "query_index" in found.column_names
        numbers = found["query_index"].to_numpy() if several else np.zeros(len(found), dtype=np.int64)
        distances, found_rows = found["_distance"].to_numpy(), found["row"].to_numpy()
        for number in range(len(queries)):
            mine = numbers == number
            scores[number, : mine.sum()] = 1 - distances[mine]  # what LanceDB calls the distance is 1 - product
            rows[number, : mine.sum()] = found_rows[mine]
        return scores, rows
