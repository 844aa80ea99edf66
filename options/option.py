"""Typed options objects from which a command line is made.

Here: `option` declares a field, `parse` fills a dataclass from arguments and says clearly what is wrong. Not here:
which options exist (base_options.py and the applications' packages). Imports no torch: `--help` must be quick.
"""

import argparse
import dataclasses
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar, get_args, get_type_hints

from compress.errors import did_you_mean

T = TypeVar("T")


def option(default: Any, help_text: str, *, choices: Sequence[Any] | None = None, minimum: float | None = None) -> Any:
    """A field of an options dataclass: its default, what it means, and what it may be."""
    return dataclasses.field(default=default, metadata={"help": help_text, "choices": choices, "minimum": minimum})


class _Parser(argparse.ArgumentParser):
    """argparse with the nearest name after an unknown option; exit code 2, nothing started."""

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            first = unknown.split()[0].split("=")[0]
            known = [text for action in self._actions for text in action.option_strings]
            message = f"unknown option {first!r}; {did_you_mean(first, known)}"
        sys.stderr.write(f"{self.prog}: error: {message}; nothing was started (--help lists the options)\n")
        sys.exit(2)


def parse(cls: type[T], prog: str, description: str, arguments: Sequence[str] | None = None) -> T:
    """Fills an options dataclass from the command line; a field `explicit` gets the names of the options given.

    Args:
        cls: a dataclass whose fields were declared by `option`.
        prog: the command's name, for messages.
        description: one sentence for `--help`.
        arguments: without the program's name; None takes sys.argv's.

    Raises:
        SystemExit: 2 after a wrong argument, 0 after `--help`.
    """
    parser = _Parser(prog=prog, description=description, allow_abbrev=False)
    hints = get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for name, field in fields.items():
        if "help" in field.metadata:
            _add(parser, field, _plain_type(hints[name]))
    given = vars(parser.parse_args(arguments))
    if "explicit" in fields:
        given["explicit"] = frozenset(given)
    return cls(**given)


def _add(parser: _Parser, field: dataclasses.Field[Any], kind: type) -> None:
    default = "" if field.default in (None, False) else f" (default: {field.default})"
    shared: dict[str, Any] = {
        "default": argparse.SUPPRESS,
        "help": field.metadata["help"].replace("%", "%%") + default,
        "dest": field.name,
    }
    names = list(dict.fromkeys((f"--{field.name}", f"--{field.name.replace('_', '-')}")))
    if kind is bool:
        parser.add_argument(*names, action=argparse.BooleanOptionalAction, **shared)
    else:
        convert = _at_least(kind, field.metadata["minimum"])
        metavar = None if field.metadata["choices"] else kind.__name__.upper().replace("STR", "TEXT")
        parser.add_argument(*names, type=convert, choices=field.metadata["choices"], metavar=metavar, **shared)


def _at_least(kind: type, minimum: float | None) -> Callable[[str], Any]:
    def convert(text: str) -> Any:
        value = kind(text)
        if minimum is not None and not value >= minimum:
            raise argparse.ArgumentTypeError(f"given {text}, it must be {minimum} or more")
        return value

    convert.__name__ = kind.__name__
    return convert


def _plain_type(hint: Any) -> type:
    """`str | None` -> `str`."""
    if isinstance(hint, types.UnionType):
        return next(kind for kind in get_args(hint) if kind is not type(None))
    return hint  # type: ignore[no-any-return]
