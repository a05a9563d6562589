# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""How a model is shared: the pictures that show what it learned."""

from .pictures import plot_grounding, plot_retrieval_grid, plot_training_curves, visualize_patch_selection


__all__ = ["plot_grounding", "plot_retrieval_grid", "plot_training_curves", "visualize_patch_selection"]
