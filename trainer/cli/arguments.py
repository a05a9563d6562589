# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Arguments of commands: dataclasses, a YAML file, and a command line that wins over it."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import NoneType
from typing import Any, NoReturn, get_args, get_type_hints

import yaml
from transformers import HfArgumentParser

from ..text import one_line
from .errors import UsageError, did_you_mean


_NONE = ("none", "null")
# What `string_to_bool` of transformers understands.
_BOOLEANS = {"yes", "true", "t", "y", "1", "no", "false", "f", "n", "0", *_NONE}


def option(help: str, default: Any = dataclasses.MISSING, **metadata: Any) -> Any:
    """
    A field of a dataclass of arguments.

    Args:
        help (`str`):
            What `--help` says about it.
        default (*optional*):
            Its default; without one it has to be given.
        metadata:
            `positional=True` for an argument that is given by its place; what `add_argument` takes.
    """
    values = {"help": help, **metadata}
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=values)
    return dataclasses.field(default=default, metadata=values)


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Each option in one spelling with its default; the description and the examples as they were written."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=30, width=100)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return str(action.metavar or action.dest)
        names = [name for name in action.option_strings if "-" not in name.lstrip("-")]
        shown = ", ".join(names or action.option_strings[:1])
        return shown if action.nargs in (0, "?") else f"{shown} {self._format_args(action, 'VALUE')}"

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help or ""
        given = action.default
        silent = given in (None, "", [], False, argparse.SUPPRESS)
        if not action.option_strings or silent or action.nargs == 0:
            return text
        shown = " ".join(map(str, given)) if isinstance(given, (list, tuple)) else getattr(given, "value", given)
        return f"{text} (default: {str(shown).replace('%', '%%')})"


class CommandParser(HfArgumentParser):
    """
    The parser of one command. Values of fields that may be `None` and are numbers can be given as `none`; a file with
    any of the fields is read by `read_config`.

    Args:
        dataclass_types (iterable of `type`):
            The dataclasses of the arguments.
        shown (`Callable[[type, dataclasses.Field], bool]`, *optional*):
            Which options `--help` describes; all by default. The others are understood as well.
        title (`Callable[[type, dataclasses.Field], str | None]`, *optional*):
            Under which title `--help` describes an option; that of its dataclass by default.
        left_out (iterable of `str`, *optional*):
            Fields that the command line has no option for; a file has.
    """

    def __init__(
        self,
        dataclass_types: Iterable[type],
        *,
        shown: Callable[[type, dataclasses.Field], bool] | None = None,
        title: Callable[[type, dataclasses.Field], str | None] | None = None,
        left_out: Iterable[str] = (),
        **options: Any,
    ):
        self._shown = shown
        self._title = title
        self._groups: dict[str, Any] = {}
        self._flags: set[str] = set()
        self._left_out = frozenset(left_out)
        self._actions_by_field: dict[str, argparse.Action] = {}
        super().__init__(dataclass_types, formatter_class=HelpFormatter, allow_abbrev=False, **options)
        positionals = [action for action in self._actions_by_field.values() if not action.option_strings]
        self.usage = " ".join([self.prog, *(_usage(action) for action in positionals), "[options]"])

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}. See `{self.prog} --help`.")

    def _add_dataclass_arguments(self, dtype: Any) -> None:
        hints = get_type_hints(dtype)
        for field in dataclasses.fields(dtype):
            if field.init:
                field.type = hints[field.name]
                self._add_field(self._group(dtype, field), dtype, field)

    def _group(self, dtype: type, field: dataclasses.Field) -> Any:
        title = self._title(dtype, field) if self._title is not None else None
        title = title or getattr(dtype, "_argument_group_name", None)
        if title is None:
            return self
        if title not in self._groups:
            self._groups[title] = self.add_argument_group(title)
        return self._groups[title]

    def _add_field(self, parser: Any, dtype: type, field: dataclasses.Field) -> None:
        is_number = {bool, int, float} & set(get_args(field.type)) and NoneType in get_args(field.type)
        if field.metadata.get("positional"):
            self._add_positional(parser, field)
        else:
            self._parse_dataclass_field(parser, field)
        action = next(action for action in reversed(self._actions) if action.dest == field.name)
        if action.default is False and action.nargs == 0:  # --no_..., which follows the option itself
            action.help = f"switch --{field.name} off"
            action = next(found for found in self._actions if found.dest == field.name)
        if is_number and action.type is not None:
            action.type = _or_none(action.type)
        if bool in (field.type, *get_args(field.type)):
            action.nargs, action.const = "?", True
            self._flags.update(action.option_strings)
        if field.name in self._left_out:
            for name in action.option_strings:
                del self._option_string_actions[name]
            action.help = argparse.SUPPRESS
        if self._shown is not None and not self._shown(dtype, field):
            for found in self._actions:
                if found.dest == field.name:
                    found.help = argparse.SUPPRESS
        self._actions_by_field[field.name] = action

    def _add_positional(self, parser: Any, field: dataclasses.Field) -> None:
        options = {name: value for name, value in field.metadata.items() if name != "positional"}
        if field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING:
            options.setdefault("nargs", "?")
            options["default"] = None if field.default is dataclasses.MISSING else field.default
        if options.get("nargs") == "*":
            options["default"] = []
        parser.add_argument(field.name, **{"metavar": field.name.upper(), **options})

    # The file --------------------------------------------------------------------------------------------------------

    def read_config(self, file: str) -> None:
        """
        Takes the values of a YAML file as defaults, so that the command line wins.

        Raises:
            UsageError: if the file is none of keys and values, has a key that is no argument or comes twice, or a
                value is of another type than the argument.
        """
        for key, value in _read_yaml(file).items():
            action = self._actions_by_field.get(key)
            if action is None:
                hint = did_you_mean(key, self._actions_by_field)
                raise UsageError(f"{file}: `{one_line(key)}` is no argument of `{self.prog}`.{hint}")
            action.default = self._converted(file, key, value, action)
            action.required = False
            if not action.option_strings and action.nargs is None:
                action.nargs = "?"
            for other in self._actions:  # --no_...
                if other.dest == action.dest:
                    other.default = action.default

    def _converted(self, file: str, key: str, value: Any, action: argparse.Action) -> Any:
        """As if it had been given on the command line: one set of rules, and of error messages."""
        several = action.nargs in ("+", "*")
        if value is None and (several or action.default is None):
            return None
        if isinstance(value, list) and not several:
            raise UsageError(f"{file}: `{key}` is one value, got the list {value!r}.")
        values = value if isinstance(value, list) else [value]
        converted = [self._one(file, key, item, action) for item in values]
        return converted if several else converted[0]

    def _one(self, file: str, key: str, value: Any, action: argparse.Action) -> Any:
        # YAML 1.1 reads `no` as false, which `eval_strategy: no` does not mean.
        word = (
            {None: "none", True: "yes", False: "no"}[value]
            if value is None or isinstance(value, bool)
            else (json.dumps(value) if isinstance(value, dict) else str(value))
        )
        make: Any = action.type or str
        try:
            made = make(word)
        except (ValueError, TypeError, argparse.ArgumentTypeError) as error:
            kind = getattr(make, "__name__", "value").replace("string_to_bool", "true or false")
            raise UsageError(f"{file}: `{key}` must be {kind}, got {value!r}.") from error
        if action.choices is not None and made not in action.choices:
            choices = ", ".join(map(str, action.choices))
            hint = did_you_mean(word, map(str, action.choices))
            raise UsageError(f"{file}: `{key}` must be one of {choices}, got {value!r}.{hint}")
        return made

    # The command line ------------------------------------------------------------------------------------------------

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """What stands behind a flag is its value only if it can be: `--dry_run FOLDER` is a flag and a folder."""
        words = list(sys.argv[1:] if args is None else args)
        words = [
            f"{word}=true" if word in self._flags and following.lower() not in _BOOLEANS else word
            for word, following in zip(words, [*words[1:], ""], strict=False)
        ]
        return super().parse_known_args(words, namespace)

    def option_names(self) -> list[str]:
        """Every option that the command line understands."""
        return list(self._option_string_actions)

    def make(self, values: argparse.Namespace) -> tuple[Any, ...]:
        """
        The dataclasses with what was given.

        Raises:
            UsageError: if a dataclass refuses its values.
        """
        made = []
        for dtype in self.dataclass_types:
            names = [field.name for field in dataclasses.fields(dtype) if field.init]
            try:
                made.append(dtype(**{name: getattr(values, name) for name in names if hasattr(values, name)}))
            except (ValueError, ImportError) as error:
                raise UsageError(" ".join(str(error).split())) from error
        return tuple(made)


def _usage(action: argparse.Action) -> str:
    name = str(action.metavar)
    return {"?": f"[{name}]", "*": f"[{name} ...]"}.get(str(action.nargs), name)


def _or_none(make: Any) -> Callable[[str], Any]:
    def convert(word: str) -> Any:
        return None if word.lower() in _NONE else make(word)

    convert.__name__ = f"{getattr(make, '__name__', 'value')} or none"
    return convert


class _UniqueKeys(yaml.SafeLoader):
    """YAML whose keys come once; PyYAML would let the last win in silence."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict:
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        if twice := [key for number, key in enumerate(keys) if key in keys[:number]]:
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice[0]!r} comes twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _read_yaml(file: str) -> Mapping[str, Any]:
    try:
        # A safe loader it is, by inheritance, which the rule does not see.
        content = yaml.load(Path(file).expanduser().read_text(encoding="utf-8"), Loader=_UniqueKeys)  # noqa: S506
    except FileNotFoundError as error:
        raise UsageError(f"There is no file {file!r} (--config).") from error
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UsageError(f"{file} cannot be read as YAML: {' '.join(str(error).split())}") from error
    if content is not None and not isinstance(content, dict):
        raise UsageError(f"{file} must have one `argument: value` a line, got a {type(content).__name__}.")
    return {str(key).replace("-", "_"): value for key, value in (content or {}).items()}
