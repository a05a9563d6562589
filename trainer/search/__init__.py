# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Searching: data sets with embeddings beside their rows, and what finds the nearest of them."""

from .embed import embed_dataset
from .engines import FaissEngine, SearchEngine
from .lancedb import LanceEngine
from .searcher import SaclSearcher, SearchResult


__all__ = ["FaissEngine", "LanceEngine", "SaclSearcher", "SearchEngine", "SearchResult", "embed_dataset"]
