# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""A page to try a model on: with Gradio on this machine, or as a Space on the Hub."""

from .folder import push_space, write_space
from .loading import load_model, open_dataset
from .negatives import NegativesOfAnchor, WeighedNegative, explain_negatives
from .page import build_app, launch


__all__ = [
    "NegativesOfAnchor",
    "WeighedNegative",
    "build_app",
    "explain_negatives",
    "launch",
    "load_model",
    "open_dataset",
    "push_space",
    "write_space",
]
