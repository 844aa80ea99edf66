"""Signatures -> checks. The signature *is* the schema; nothing is written down twice.

The pydantic model of a constructor or a function, and the faults of arguments, one for each wrong value. Called for
schedules by `compress.config.schema`, for calls from Python by `compress.arguments.checked`.
"""

import collections.abc
import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model

from compress.arguments.places import Path, dotted
from compress.arguments.words import MOST_WHOLE, describe_type, keys_at, should_be, words_at
from compress.errors import did_you_mean, nearest, shown

INJECTED = frozenset({"model", "optimizer", "last_epoch", "example_inputs"})  # given by the builder, not by YAML
AS_GOOD_AS_LISTS = (tuple, set, frozenset, range, collections.abc.KeysView)  # from Python
AS_LIST = BeforeValidator(lambda value: list(value) if isinstance(value, AS_GOOD_AS_LISTS) else value)
WIDER: dict[type, dict[str, Any]] = {}
"""Class of another library -> arguments that take more than its annotation says."""


@functools.cache
def arguments_model(target: Callable[..., Any]) -> type[BaseModel]:
    """The schema of what a schedule may write for a class: its constructor's parameters but for the injected ones.

    Of a class with `only_keywords` (a policy) these are the keyword-only ones, which `args` may hold. Types are strict
    (the text '0.4' is not a number, `yes` is not 1), unknown arguments are refused.
    """
    hints = type_hints(target)
    fields: dict[str, Any] = {}
    args_only = getattr(target, "only_keywords", False)
    for parameter in inspect.signature(target).parameters.values():
        if args_only and parameter.kind is not parameter.KEYWORD_ONLY:
            continue
        if parameter.name not in INJECTED and not _holds_function(hints.get(parameter.name)):
            default = ... if parameter.default is parameter.empty else parameter.default
            fields[parameter.name] = (_bounded(hints.get(parameter.name, Any)), default)
    config = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True, protected_namespaces=())
    return create_model(getattr(target, "__name__", "arguments"), __config__=config, **fields)


def _bounded(hint: Any, limited: bool = False) -> Any:
    """A type in which every whole number has an upper bound: none stands for a size or a count without end.

    Args:
        hint: of an argument.
        limited: whether an annotation around it gives a bound.
    """
    origin, args = get_origin(hint), get_args(hint)
    if hint is int and not limited:
        return Annotated[int, Field(le=MOST_WHOLE)]
    if origin is Annotated:
        limits = [each for extra in args[1:] for each in getattr(extra, "metadata", (extra,))]
        has_limit = any(
            getattr(each, "le", None) is not None or getattr(each, "lt", None) is not None for each in limits
        )
        return Annotated[(_bounded(args[0], has_limit), *args[1:])]
    if origin in (Union, types.UnionType):
        return Union[tuple(_bounded(each, limited) for each in args)]  # noqa: UP007
    if origin in (list, dict, tuple, set, frozenset, collections.abc.Mapping):
        inner = origin[tuple(each if each is Ellipsis else _bounded(each) for each in args)]
        return Annotated[inner, AS_LIST] if origin is list else inner
    return hint


MOST_FAULTS = 20  # wrong values of one instance that are listed one by one


def faults_of_arguments(
    error: ValidationError, given: Mapping[str, Any], owner: str, model: type[BaseModel]
) -> list[tuple[Path, str]]:
    """One fault for each wrong value: pydantic reports one for each type that the value might have had.

    Args:
        error: of the model's validation.
        given: the arguments by name.
        owner: whose arguments they are, for the message.
        model: of `arguments_model`.
    """
    known = list(model.model_fields)
    unknown = [name for name in given if name not in known]
    meant = {name for each in unknown for name in nearest(each, known, 1)}  # a misspelt one is not missing too
    found: list[tuple[Path, str]] = []
    for name in unknown:
        found.append(((name,), f"{owner} has no argument {shown(name)}; {did_you_mean(name, known)}"))
    missing = [name for name, field in model.model_fields.items() if field.is_required() and name not in given]
    for name in missing:
        if name not in meant:
            found.append(((name,), f"{owner} needs the argument {name!r}: {describe_type(model, name)}"))
    wrong = {_place(each["loc"], given): each for each in error.errors(include_url=False) if each["loc"][0] in known}
    around = {place[:length] for place in wrong for length in range(len(place))}  # what holds a wrong value
    innermost = [place for place in wrong if place and place not in around]
    for place in innermost[:MOST_FAULTS]:
        found.append((place, _explain(dict(wrong[place]), place, given, model)))
    if len(innermost) > MOST_FAULTS:
        more = f"{len(innermost) - MOST_FAULTS} more values are wrong, the last of them {dotted(innermost[-1])}"
        found.append((innermost[MOST_FAULTS][:1], more))
    return found


def _place(loc: tuple[str | int, ...], given: Any) -> Path:
    """The part of pydantic's location that leads through the data (it also names union members and keys)."""
    place: Path = ()
    data: Any = given
    for part in loc:
        listed = isinstance(data, list | tuple) and isinstance(part, int) and part < len(data)
        if not listed and not (isinstance(data, Mapping) and part in data):
            continue
        data = data[part]
        place = (*place, part)
    return place


def _explain(error: dict[str, Any], place: Path, given: Any, model: type[BaseModel]) -> str:
    if error["loc"][-1] == "[key]":
        message = error["msg"].removeprefix("Input should be a valid ").replace("integer", "whole number")
        return f"the key {shown(error['input'])} of {dotted(place[:-1])} should be a {message}"
    value: Any = given
    for part in place:
        value = value[part]
    if error["type"] == "extra_forbidden":
        known = keys_at(model, place[:-1])
        return f"{dotted(place[:-1])} has no key {shown(place[-1])}; {did_you_mean(str(place[-1]), known)}"
    if error["type"] == "less_than_equal" and error["ctx"]["le"] == MOST_WHOLE:
        return f"given {shown(value)}; {dotted(place)} should be at most {MOST_WHOLE:,}"
    wanted = words_at(model, place)
    if wanted is None:
        return f"given {shown(value)}; {dotted(place)} should {error['msg'].removeprefix('Input should ')}"
    return should_be(value, dotted(place), wanted)


def type_hints(target: Callable[..., Any]) -> dict[str, Any]:
    """Type hints of a constructor or function; names that torch imports for type checkers only are supplied."""
    function = inspect.unwrap(target.__init__ if inspect.isclass(target) else target)
    given = {name: hint for name, hint in getattr(function, "__annotations__", {}).items() if name != "return"}
    holder, names = types.SimpleNamespace(__annotations__=given), getattr(function, "__globals__", {})
    supplied = {name: getattr(collections.abc, name) for name in collections.abc.__all__}
    hints = typing.get_type_hints(holder, names, {**vars(typing), **supplied, **names}, include_extras=True)
    hints |= WIDER.get(target, {}) if inspect.isclass(target) else {}
    return {name: _eager(hint) for name, hint in hints.items()}


def _eager(hint: Any) -> Any:
    """`Iterable[int]` -> `list[int]`: pydantic would check an Iterable only when somebody iterates."""
    if get_origin(hint) in (collections.abc.Iterable, collections.abc.Sequence):
        return list[get_args(hint)[0]]  # type: ignore[misc]
    return hint


def _holds_function(hint: Any) -> bool:
    """Whether an argument is a function, which YAML cannot hold: such an argument keeps its default."""
    return get_origin(hint) is collections.abc.Callable or any(_holds_function(part) for part in get_args(hint))
