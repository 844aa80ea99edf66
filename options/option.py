"""Typed options objects from which a command line is made.

`option` declares a field, `parse` fills a dataclass from arguments and says clearly what is wrong. Imports no torch:
`--help` must be quick.
"""

import argparse
import dataclasses
import math
import operator
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar, get_args, get_origin, get_type_hints

from compress.errors import did_you_mean, shown

T = TypeVar("T")
KINDS = {int: ("N", "a whole number"), float: ("X", "a number"), str: ("TEXT", "text")}  # metavar, words
BOUNDS: Mapping[str, tuple[Callable[[float, float], bool], str]] = {  # bound -> whether it holds, in words
    "minimum": (operator.ge, "{} or more"),
    "maximum": (operator.le, "{} at most"),
    "above": (operator.gt, "more than {}"),
    "below": (operator.lt, "less than {}"),
}
NOTE = "Switches take no value and are off by default; --no-NAME turns one off. Names may be written with - or _."


def option(
    default: Any,
    help_text: str,
    *,
    choices: Sequence[Any] | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    below: float | None = None,
    metavar: str | None = None,
    may_be_empty: bool = False,
    former: str | None = None,
    own_code: bool = False,
) -> Any:
    """A field of an options dataclass.

    Args:
        default: its value where it is not given.
        help_text: what it means.
        choices: the values that it may have; None: any of its type.
        minimum: the smallest number allowed.
        maximum: the largest number allowed.
        above: a number that it must exceed.
        below: a number that it must stay below.
        metavar: how `--help` calls its value.
        may_be_empty: of several values, none is allowed too.
        former: the name that it had in older versions, which is still taken, in saved options too.
        own_code: whether it may name code of one's own, `FILE.py:NAME`, which may then be imported.
    """
    bounds = {"minimum": minimum, "maximum": maximum, "above": above, "below": below}
    metadata = {"help": help_text, "choices": choices, "bounds": bounds, "metavar": metavar, "empty": may_be_empty}
    metadata |= {"former": former, "own_code": own_code}
    return dataclasses.field(default=default, metadata=metadata)


def changed(base: Any, name: str, default: Any, help_text: str | None = None, **metadata: Any) -> Any:
    """A field of a class that another options class has too, with another default, help text or metadata.

    Args:
        base: the other class.
        name: of the field.
        default: its value where it is not given.
        help_text: what it means; None: as in the other class.
        metadata: what else is different, such as `former`.
    """
    inherited = base.__dataclass_fields__[name].metadata
    given = {**inherited, **metadata, "help": help_text or inherited["help"]}
    return dataclasses.field(default=default, metadata=given)


def former_names(cls: Any) -> dict[str, str]:
    """The names that options had in older versions -> those that they have."""
    fields = dataclasses.fields(cls)
    return {field.metadata["former"]: field.name for field in fields if field.metadata.get("former")}


class _Parser(argparse.ArgumentParser):
    """argparse with the nearest name after an unknown option; exit code 2, nothing started.

    Attributes:
        elsewhere: option -> which other commands take it.
    """

    elsewhere: Callable[[str], str] | None = None

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            message = self._unknown(unknown.split()[0])
        message = message.removeprefix("argument ")
        message = message.replace("ignored explicit argument", "it is a switch, given without a value, not")
        sys.stderr.write(f"{self.prog}: error: {message}; nothing was started (--help lists the options)\n")
        sys.exit(2)

    def _unknown(self, word: str) -> str:
        first = word.split("=")[0]
        if not first.startswith("-"):
            return f"{first!r} belongs to no option; give a schedule by --compress=FILE, others by --NAME=VALUE"
        if self.elsewhere is not None and (others := self.elsewhere(first)):
            return f"{first} belongs to {others}"
        known = [text for action in self._actions for text in action.option_strings if action.help != argparse.SUPPRESS]
        return f"unknown option {first!r}; {did_you_mean(first, known)}"


def dashed(name: str) -> str:
    """`list_weights` -> `list-weights`, as it is typed."""
    return name.replace("_", "-")


def parse(
    cls: type[T],
    prog: str,
    description: str,
    arguments: Sequence[str] | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
    elsewhere: Callable[[str], str] | None = None,
) -> T:
    """Fills an options dataclass from the command line; a field `explicit` gets the names of the options given.

    Args:
        cls: a dataclass whose fields were declared by `option`.
        prog: the command's name, for messages.
        description: one sentence for `--help`.
        arguments: without the program's name; None takes sys.argv's.
        groups: title -> fields, for `--help`; a field in none of them is listed with the application's own.
        elsewhere: option -> the other commands that take it, for the message after one that this command does not.

    Raises:
        SystemExit: 2 after a wrong argument, 0 after `--help`.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    parser = _parser(cls, fields, prog, description, groups or {})
    parser.elsewhere = elsewhere
    given = vars(parser.parse_args([_dashed(word) for word in (sys.argv[1:] if arguments is None else arguments)]))
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    if "explicit" in fields:
        given["explicit"] = frozenset(given)
    return cls(**given)


def _parser(
    cls: type, fields: Mapping[str, dataclasses.Field[Any]], prog: str, description: str,
    groups: Mapping[str, Sequence[str]],
) -> _Parser:  # fmt: skip
    parser = _Parser(
        prog=prog,
        usage=f"python {prog} [OPTIONS]",
        description=description,
        epilog=NOTE,
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=28, width=110),
    )
    hints, listed = get_type_hints(cls), {name for names in groups.values() for name in names}
    own = [name for name, field in fields.items() if "help" in field.metadata and name not in listed]
    for title, names in {**groups, f"Options of {fields['optform'].default or 'every application'}": own}.items():
        group = parser.add_argument_group(title) if groups else parser
        for name in filter(fields.__contains__, names):
            _add(group, fields[name], _plain_type(hints[name]))
    return parser


def _dashed(word: str) -> str:
    """`--new_schedule=agp` -> `--new-schedule=agp`: both spellings are one option."""
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") else word


def _add(parser: argparse._ActionsContainer, field: dataclasses.Field[Any], kind: type) -> None:
    told = "default" in field.metadata["help"] or field.default is None or field.default is False
    default = "" if told else f" (default: {field.default})"
    name = field.name.replace("_", "-")
    shared: dict[str, Any] = {"default": argparse.SUPPRESS, "dest": field.name}
    text = field.metadata["help"].replace("%", "%%") + default
    if kind is bool:
        parser.add_argument(f"--{name}", action="store_true", help=text, **shared)
        parser.add_argument(f"--no-{name}", action="store_false", help=argparse.SUPPRESS, **shared)
        return
    choices = field.metadata["choices"]
    if get_origin(kind) is tuple:
        kind, shared["nargs"] = get_args(kind)[0], "*" if field.metadata["empty"] else "+"
    metavar = field.metadata["metavar"] or (None if choices else KINDS[kind][0])
    convert = _convert(kind, field.metadata["bounds"])
    names = [f"--{each}" for each in (name, field.metadata["former"]) if each]
    parser.add_argument(*names, type=convert, choices=choices, metavar=metavar, help=text, **shared)


def _convert(kind: type, bounds: Mapping[str, float | None]) -> Callable[[str], Any]:
    def convert(text: str) -> Any:
        if not text.strip():
            raise argparse.ArgumentTypeError(f"given nothing, it must be {KINDS[kind][1]}")
        try:
            value = kind(text)
        except ValueError as e:
            raise argparse.ArgumentTypeError(f"given {shown(text)}, it must be {KINDS[kind][1]}") from e
        if kind is float and not math.isfinite(value):
            raise argparse.ArgumentTypeError(f"given {text}, it must be a finite number")
        for name, bound in bounds.items():
            holds, words = BOUNDS[name]
            if bound is not None and not holds(value, bound):
                raise argparse.ArgumentTypeError(f"given {shown(value)}, it must be {words.format(bound)}")
        return value

    return convert


def _plain_type(hint: Any) -> type:
    """`str | None` -> `str`; `tuple[str, ...]`, an option with several values, stays."""
    if isinstance(hint, types.UnionType):
        return next(kind for kind in get_args(hint) if kind is not type(None))
    return hint
