# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The command line as a module: `python -m trainer.cli`, `accelerate launch -m trainer.cli train`."""

import sys

from .main import main


if __name__ == "__main__":
    sys.exit(main())
