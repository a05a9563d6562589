# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Checks that every public name is documented: `python -m tests.check_docstrings`, a part of `make quality`.

A public name is one in the `__all__` of a package. A class or function must carry a docstring of its own: an inherited
one, or the signature that `dataclass` fills in, tells nothing. Importing a package must print nothing, which also
catches the arguments that `auto_docstring` finds undocumented: it prints them at import.
"""

import contextlib
import importlib
import inspect
import io
import sys
from pathlib import Path


ROOT = Path(__file__).parent.parent
PACKAGES = ("modeling_sacl", "trainer", "hub_cards")


def packages(name: str) -> list[str]:
    """The package and all packages below it, found without importing them."""
    return [".".join(path.parent.relative_to(ROOT).parts) for path in sorted((ROOT / name).rglob("__init__.py"))]


def is_documented(value: object) -> bool:
    """Whether a class or function has a docstring of its own; other values need none."""
    if inspect.isclass(value):
        docstring = vars(value).get("__doc__") or ""
        return bool(docstring.strip()) and not docstring.startswith(f"{value.__name__}(")
    return not inspect.isroutine(value) or bool((value.__doc__ or "").strip())


def problems(name: str) -> list[str]:
    """What is wrong with the public names of one package, one line each."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        package = importlib.import_module(name)
        public = getattr(package, "__all__", None)
        values = {key: getattr(package, key, None) for key in public or ()}
    found = [f"{name}: prints at import: {line}" for line in printed.getvalue().splitlines() if line.strip()]
    if public is None:
        return [*found, f"{name}: has no `__all__`"]
    found += [f"{name}.{key}: in `__all__`, but not there" for key, value in values.items() if value is None]
    return found + [f"{name}.{key}: has no docstring" for key, value in values.items() if not is_documented(value)]


def main() -> int:
    """Prints what is wrong and returns the number of problems, at most 1."""
    names = [name for root in PACKAGES for name in packages(root)]
    found = [problem for name in names for problem in problems(name)]
    print("\n".join(found) if found else f"Every public name of {', '.join(names)} is documented.")
    return int(bool(found) or not names)


if __name__ == "__main__":
    sys.exit(main())
