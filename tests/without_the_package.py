# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The first lines of a program that runs where this package is not installed, although the tests' Python has it."""

# For a Python started with `-I`, which keeps the working directory, PYTHONPATH and the user's site-packages out. But
# this package may well be in the site-packages of the very environment that runs the tests, as a copy or as a link (an
# "editable" install is a .pth file with a path or with a finder of its own). So every finder is made blind for its
# names at the top level. The copies in a checkpoint are imported as `transformers_modules.<folder>.modeling_sacl`,
# which begins otherwise, and are found as ever.
WITHOUT_THE_PACKAGE = """
import importlib.util, sys

class Blind:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, *args, **kwargs):
        if name.partition(".")[0] in ("modeling_sacl", "trainer", "hub_cards"):
            return None
        return self.finder.find_spec(name, *args, **kwargs)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Blind(finder) for finder in sys.meta_path if hasattr(finder, "find_spec")]
for name in ("modeling_sacl", "trainer", "hub_cards"):
    assert importlib.util.find_spec(name) is None
"""
