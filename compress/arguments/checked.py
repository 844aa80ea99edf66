"""Arguments given from Python, held to the same signature as a schedule's.

`CheckedArguments`, the base of classes whose constructors schedules face; `checks_arguments`, a decorator of functions.

    PostTrainLinearQuantizer(clip_acts="mse")    # ArgumentError: ... one of NONE, AVG, ..., MSE; did you mean 'MSE'?
"""

import functools
import inspect
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, is_dataclass
from typing import Any, ClassVar, ParamSpec, TypeVar, Union, get_args, get_origin

import numpy as np
from pydantic import ValidationError
from torch import Tensor, nn

from compress.arguments.schema import AS_GOOD_AS_LISTS, arguments_model, faults_of_arguments, type_hints
from compress.errors import UserError, did_you_mean, shown

P = ParamSpec("P")
R = TypeVar("R")


class ArgumentError(UserError, ValueError):
    """An argument that its function or class cannot take."""


class _SignatureOfInit:
    """A class's signature is that of its `__init__`; Python would take that of `CheckedArguments.__new__`."""

    def __get__(self, instance: object, owner: type) -> inspect.Signature:
        signature = inspect.signature(owner.__init__)  # type: ignore[misc]
        return signature.replace(parameters=list(signature.parameters.values())[1:])


class CheckedArguments:
    """A class whose constructor refuses, with the nearest name, what a schedule could not write for it.

    Attributes:
        only_keywords: a schedule writes the keyword-only arguments alone.
    """

    only_keywords: ClassVar[bool] = False
    __signature__: ClassVar[Any] = _SignatureOfInit()

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Checks the arguments.

        Raises:
            ArgumentError: a value is none that the signature allows, or a name is unknown; all faults in one message.
        """
        made = super().__new__(cls)
        check_call(cls, args, kwargs)
        return made


def checks_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator: a call with a value outside of its annotation's closed set or range raises `ArgumentError`."""

    @functools.wraps(function)
    def with_check(*args: P.args, **kwargs: P.kwargs) -> R:
        check_call(function, args, kwargs)
        return function(*args, **kwargs)

    return with_check


def check_call(target: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Compares what is given with the signature; what no schedule could hold (a tensor, an object) is passed over.

    Raises:
        ArgumentError: as above.
    """
    if not args and not kwargs:
        return
    parameters = inspect.signature(target).parameters
    try:
        given = {**inspect.signature(target).bind_partial(*args).arguments, **kwargs}
    except TypeError:
        return  # too many: Python's own message
    name = getattr(target, "__name__", "this function")
    unknown = [key for key in given if key not in parameters]
    found = [f"{name} has no argument {shown(key)}; {did_you_mean(key, parameters)}" for key in unknown]
    wrong = _wrong_kinds(target, name, given)
    found += wrong.values()
    found += _wrong_values(target, name, {key: given[key] for key in parameters if key in given and key not in wrong})
    if found:
        raise ArgumentError("; ".join(found))


def _wrong_values(target: Callable[..., Any], name: str, given: Mapping[str, Any]) -> list[str]:
    model, objects = arguments_model(target), {} if inspect.isclass(target) else _objects(target)
    plain = {key: _plain(value) for key, value in given.items() if key in model.model_fields and _is_plain(value)}
    missing = [key for key in plain if key in objects and not (plain[key] is None and objects[key].may_be_none)]
    if missing:
        return [f"{name}: given {shown(plain[key])}; {key} should be of class {objects[key].name}" for key in missing]
    try:
        model.model_validate(plain)
    except ValidationError as e:
        faults = faults_of_arguments(e, plain, name, model)
        return [f"{name}: {message}" for place, message in faults if place[0] in plain]
    return []


def _wrong_kinds(target: Callable[..., Any], name: str, given: Mapping[str, Any]) -> dict[str, str]:
    """A class in the place of a network, a list in that of a dictionary of tensors, a text in that of a function."""
    found = {}
    hints = type_hints(target)
    for key, value in given.items():
        hint = hints.get(key)
        options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
        if value is None and types.NoneType in options:
            continue
        kinds = [get_origin(each) or each for each in options if each is not types.NoneType]
        if kinds == [nn.Module] and inspect.isclass(value):
            made = value.__name__
            found[key] = f"{name}: {key} is the class {made}, and not a network; make one: {made}(...)"
        elif kinds == [nn.Module] and not isinstance(value, nn.Module):
            found[key] = f"{name}: {key} should be a network (torch.nn.Module); given a {type(value).__name__}"
        elif kinds == [Callable] and not callable(value):
            found[key] = f"{name}: {key} should be a function; given a {type(value).__name__}"
        elif hint in TENSORS and not isinstance(value, Mapping):
            found[key] = f"{name}: {key} should be a dictionary, name of a parameter -> tensor; given {_what(value)}"
    return found


TENSORS = (Mapping[str, Tensor], Mapping[str, Tensor] | None)


def _what(value: Any) -> str:
    return shown(value) if _is_plain(value) else f"a {type(value).__name__}"


@dataclass(frozen=True)
class _Object:
    """The only kind of object that an argument may be."""

    name: str
    may_be_none: bool


@functools.cache
def _objects(function: Callable[..., Any]) -> dict[str, _Object]:
    """The arguments of a function that are objects of one dataclass, which in Python no mapping stands for."""
    found = {}
    for key, hint in type_hints(function).items():
        options = get_args(hint) or (hint,)
        kinds = [each for each in options if each is not types.NoneType]
        if len(kinds) == 1 and is_dataclass(kinds[0]):
            found[key] = _Object(getattr(kinds[0], "__name__", str(kinds[0])), len(options) > len(kinds))
    return found


def _is_plain(value: Any) -> bool:
    """Whether a value is text, numbers, lists and mappings throughout."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str | int) and _is_plain(each) for key, each in value.items())
    if isinstance(value, (list, *AS_GOOD_AS_LISTS)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int | float | np.generic)


def _plain(value: Any) -> Any:
    """The same with Python's numbers in place of numpy's."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return type(value)(map(_plain, value)) if type(value) in (list, tuple) else value
