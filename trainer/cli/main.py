# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
# PYTHON_ARGCOMPLETE_OK
"""The entry point: which command, with which arguments, and how it ends. Libraries are imported by what needs them."""

import argparse
import os
import shutil
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module, metadata
from typing import Any

from ..text import printable, without_secrets
from .errors import FAILED, INTERRUPTED, SUCCEEDED, WRONG_USAGE, UsageError, did_you_mean, explain


# Each is a module beside this one, with `EXAMPLES`, `arguments()` and `run(output, ...)`.
COMMANDS = {
    "train": "pre-train or fine-tune SACL, CLIP and other dual encoders",
    "evaluate": "measure retrieval in both directions, with re-ranking",
    "embed": "embed images and captions into a folder that can be searched",
    "search": "search such a folder by text, by image, or both",
    "push": "put a model, a data set or a Space on the Hub",
    "card": "write the card of a model, or check one",
    "convert": "turn a published checkpoint into one of ours",
    "audit": "find likely false negatives and duplicates in a data set",
    "demo": "open a page on which a model can be tried",
}

_SHOW_ALL = "--help_all"

DESCRIPTION = "Contrastive image-text training for data whose negatives are not all wrong."
EPILOG = """\
examples:
  sacl train --model openai/clip-vit-base-patch32 --dataset user/catalogue --output_dir clip-catalogue
  sacl evaluate --model clip-catalogue --dataset user/catalogue --split test
  sacl embed --model clip-catalogue --dataset photos --output_dir photos-index
  sacl search photos-index "two dogs on a beach"
  sacl audit --model clip-catalogue --dataset user/catalogue --split train --output_dir audit

`sacl COMMAND --help` has the options of a command, with examples. Every command takes --config FILE (YAML), --json,
--quiet and --debug. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
Shell completion: eval "$(register-python-argcomplete sacl)" (pip install argcomplete)."""

COMMON = (
    ("--config", {"metavar": "FILE", "help": "YAML file with arguments; the command line wins over it"}),
    ("--json", {"action": "store_true", "help": "print one JSON document, and nothing else, on stdout"}),
    ("--quiet", {"action": "store_true", "help": "no progress bars and no remarks, only the result"}),
    ("--debug", {"action": "store_true", "help": "show the traceback of an error"}),
)


def main(argv: Sequence[str] | None = None) -> int:
    """
    Runs a command.

    Args:
        argv (sequence of `str`, *optional*):
            The words behind `sacl`; those of the process by default.

    Returns:
        `int`: the exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted.

    Example:

    ```python
    >>> from trainer.cli import main

    >>> main(["evaluate", "--model", "runs/demo/model", "--dataset", "examples/data/emoji", "--split", "validation"])
    0
    ```
    """
    words = list(sys.argv[1:] if argv is None else argv)
    command = _command(words)
    name = f"sacl {command}" if command in COMMANDS else "sacl"
    try:
        if "_ARGCOMPLETE" in os.environ:
            return _complete()
        if command is not None and command not in COMMANDS:
            known = ", ".join(COMMANDS)
            raise UsageError(f"There is no command {command!r}, only {known}.{did_you_mean(command, COMMANDS)}")
        return _run(command, words)
    except SystemExit as end:  # --help and --version
        return end.code if isinstance(end.code, int) else SUCCEEDED
    except UsageError as error:
        return _fail(name, error, words, WRONG_USAGE)
    except KeyboardInterrupt:
        sys.stderr.write("\nInterrupted.\n")
        return INTERRUPTED
    except BrokenPipeError:  # `sacl ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        return _fail(name, error, words, FAILED)


def _run(command: str | None, words: Sequence[str]) -> int:
    parser = build_parser(command, show_all=_SHOW_ALL in words)
    words = ["--help" if word == _SHOW_ALL else word for word in words]
    if command is None:
        parser.parse_args(words)
        parser.print_help()
        return WRONG_USAGE
    command_parser = _command_parser(parser, command)
    for file in _values_of("--config", words):
        command_parser.read_config(file)
    values, unknown = parser.parse_known_args(words)
    if unknown:
        word = next((word for word in unknown if word.startswith("-")), unknown[0]).partition("=")[0]
        hint = did_you_mean(word, command_parser.option_names())
        raise UsageError(f"`sacl {command}` does not know {word!r}.{hint} See `sacl {command} --help`.")
    made = command_parser.make(values)

    from .output import Output

    output = Output(as_json=getattr(values, "json", False), quiet=getattr(values, "quiet", False))
    with output.in_charge():
        code = import_module(f".{command}", __package__).run(output, *made)
    return SUCCEEDED if code is None else code


def _fail(name: str, error: Exception, words: Sequence[str], code: int) -> int:
    if "--debug" in words:
        sys.stderr.write(printable(without_secrets("".join(traceback.format_exception(error)))))
    from .output import Output

    Output(as_json="--json" in words).failure(name, explain(error))
    return code


def _command(words: Sequence[str]) -> str | None:
    """The first word that is neither an option nor the value of one."""
    remaining = iter(words)
    for word in remaining:
        if word == "--config":
            next(remaining, None)
        elif not word.startswith("-"):
            return word
    return None


def _values_of(name: str, words: Sequence[str]) -> list[str]:
    """What was given for an option, before anything else is parsed."""
    finder = _Parser(prog="sacl", add_help=False, allow_abbrev=False)
    finder.add_argument(name, action="append", default=[], dest="values")
    return finder.parse_known_args(list(words))[0].values


def build_parser(command: str | None = None, *, show_all: bool = False) -> argparse.ArgumentParser:
    """
    The parser of the whole command line. Only the command that is named gets its arguments: those of the others would
    have libraries imported that nobody needs.

    Args:
        command (`str`, *optional*):
            One of `COMMANDS`.
        show_all (`bool`, *optional*, defaults to `False`):
            Whether its help has all options; by default those that most people need.
    """
    width = min(100, shutil.get_terminal_size().columns)
    parser = _Parser(
        prog="sacl",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=24, width=width),
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"sacl {_version()}")
    _add_common(parser, hidden=True)
    # Anything callable will do as the class.
    make: Any = _parser_of_command
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=make)
    for name, summary in COMMANDS.items():
        commands.add_parser(name, help=summary, command=name, full=name == command, show_all=show_all)
    return parser


def _add_common(parser: argparse.ArgumentParser, hidden: bool = False) -> None:
    group = parser if hidden else parser.add_argument_group("common options")
    for name, options in COMMON:
        shown: dict[str, Any] = {"help": argparse.SUPPRESS} if hidden else {}
        # Suppressed defaults: an option before the command is not forgotten behind it.
        group.add_argument(name, **{**options, "default": argparse.SUPPRESS, **shown})


class _Parser(argparse.ArgumentParser):
    """A parser that raises what is wrong instead of leaving the program."""

    def error(self, message: str) -> Any:
        raise UsageError(f"{message}. See `sacl --help`.")


def _parser_of_command(*, command: str, full: bool, show_all: bool, prog: str, **_: Any) -> argparse.ArgumentParser:
    if not full:
        return argparse.ArgumentParser(prog=prog)
    from .arguments import CommandParser

    module = import_module(f".{command}", __package__)
    types, options = _arguments_of(module)
    if show_all:
        options.pop("shown", None)
    description = (module.__doc__ or "").strip()
    parser = CommandParser(
        types, prog=prog, description=description, epilog=f"examples:\n{module.EXAMPLES.strip(chr(10))}", **options
    )
    _add_common(parser)
    return parser


def _arguments_of(module: Any) -> tuple[Sequence[type], dict[str, Any]]:
    made = module.arguments()
    return (made[:-1], made[-1]) if isinstance(made[-1], dict) else (made, {})


def _command_parser(parser: argparse.ArgumentParser, command: str) -> Any:
    subparsers = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return subparsers.choices[command]


def _version() -> str:
    try:
        return metadata.version("sacl")
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _complete() -> int:
    """Answers the shell, which asks what could come next."""
    try:
        import argcomplete
    except ImportError:
        return FAILED
    line = os.environ.get("COMP_LINE", "").split()
    command = _command(line[1:])
    parser = build_parser(command if command in COMMANDS else None)
    argcomplete.autocomplete(parser, exit_method=sys.exit)
    return SUCCEEDED
