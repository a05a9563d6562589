# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The command line: `sacl train`, `evaluate`, `embed`, `search`, `push`, `card`, `convert`, `audit`, `demo`."""

from .main import main


__all__ = ["main"]
