"""Constructor signatures -> checks. The signature *is* the schema; nothing is written down twice.

Here: the pydantic model of a constructor, its faults in people's words, and the expansion of selectors. Not here:
YAML (loader.py), objects (build.py).
"""

import collections.abc
import functools
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from compress.config.loader import Document, Path, dotted
from compress.errors import Fault, did_you_mean, shown
from compress.policies.base import Policy
from compress.registry import InstanceOf
from compress.selectors import SelectorOf, expand, expand_mapping

INJECTED = frozenset({"model", "optimizer", "last_epoch", "example_inputs"})  # given by the builder, not by YAML


class Report:
    """Gathers every fault of a document, each with its place."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.faults: list[Fault] = list(document.faults)

    def add(self, message: str, path: Path, fatal: bool = True) -> None:
        """Notes one fault at a path; `fatal=False` is a warning."""
        self.faults.append(Fault(message, self.document.where(path), dotted(path), fatal))

    def in_order(self) -> list[Fault]:
        """The faults in the order of the file."""
        return sorted(self.faults, key=lambda fault: [int(n) for n in re.findall(r":(\d+)", fault.where)[-2:]])

    @property
    def fatal(self) -> bool:
        """Whether anything noted so far stops the run."""
        return any(fault.fatal for fault in self.faults)


@functools.cache
def arguments_model(target: Callable[..., Any]) -> type[BaseModel]:
    """The schema of what a schedule may write for a class: its constructor's parameters but for the injected ones.

    Of a policy these are the keyword-only ones, which `args` may hold. Types are strict (the text '0.4' is not a
    number, `yes` is not 1), unknown arguments are refused.
    """
    hints = _hints(target)
    fields: dict[str, Any] = {}
    args_only = inspect.isclass(target) and issubclass(target, Policy)
    for parameter in inspect.signature(target).parameters.values():
        if args_only and parameter.kind is not parameter.KEYWORD_ONLY:
            continue
        if parameter.name not in INJECTED and not _holds_function(hints.get(parameter.name)):
            default = ... if parameter.default is parameter.empty else parameter.default
            fields[parameter.name] = (hints.get(parameter.name, Any), default)
    config = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True, protected_namespaces=())
    return create_model(getattr(target, "__name__", "arguments"), __config__=config, **fields)


def check_arguments(target: type, given: Any, path: Path, report: Report) -> dict[str, Any] | None:
    """Validates the arguments written for a class.

    Returns:
        every argument by name, defaults filled in; None when there were faults, which are in the report.
    """
    if not isinstance(given, Mapping):
        report.add(f"given {shown(given)}, but the arguments of {target.__name__} are written as `name: value`", path)
        return None
    model = arguments_model(target)
    try:
        checked = model.model_validate({str(key): value for key, value in given.items()})
    except ValidationError as e:
        for error in e.errors(include_url=False):
            place = tuple(part for part in error["loc"] if _in_data(part))
            report.add(_explain(dict(error), target, model), path + place)
        return None
    return {name: getattr(checked, name) for name in model.model_fields}


def expand_selectors(
    values: dict[str, Any], target: type, names: Mapping[str, Iterable[str]], path: Path, report: Report
) -> dict[str, Any]:
    """Replaces every selector among checked arguments by the full names that it means.

    Args:
        values: checked arguments.
        target: the class whose annotations tell which arguments hold selectors.
        names: kind of selector ("weight", "module") -> canonical names of the model.
        path: of the arguments in the document.
        report: takes a fault for each selector that matches nothing.
    """
    hints = _hints(target)
    return {name: _expand(value, hints.get(name, Any), names, (*path, name), report) for name, value in values.items()}


def _expand(value: Any, hint: Any, names: Mapping[str, Iterable[str]], path: Path, report: Report) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if value is None:
        return value
    if origin is Annotated:
        return _expand_annotated(value, args, names, path, report)
    if origin is list and isinstance(value, list):
        found = [_expand(item, args[0], names, (*path, i), report) for i, item in enumerate(value)]
        marker = _selector_of(args[0])
        if marker is None:
            return found
        if not value:
            _add_empty(marker, path, report)
        return list(dict.fromkeys(name for group in found for name in group))
    if origin is dict and isinstance(value, dict):
        return _expand_dict(value, args, names, path, report)
    if origin in (Union, types.UnionType):
        for option in args:
            value = _expand(value, option, names, path, report) if _holds_marker(option) else value
    return value


def _expand_annotated(
    value: Any, args: tuple[Any, ...], names: Mapping[str, Iterable[str]], path: Path, report: Report
) -> Any:
    for extra in args[1:]:
        if isinstance(extra, SelectorOf):
            return _matches(value, extra, names, path, report)
        if isinstance(extra, InstanceOf) and isinstance(value, Mapping):
            return check_instance(value, extra, names, path, report)
    return _expand(value, args[0], names, path, report)


def _expand_dict(
    value: dict[Any, Any], args: tuple[Any, ...], names: Mapping[str, Iterable[str]], path: Path, report: Report
) -> dict[Any, Any]:
    value = {key: _expand(item, args[1], names, (*path, key), report) for key, item in value.items()}
    marker = _selector_of(args[0])
    if marker is None:
        return value
    if not value:
        _add_empty(marker, path, report)
    found = [_matches(selector, marker, names, (*path, selector), report) for selector in value]
    return expand_mapping(value, names[marker.kind]) if all(found) else value


def check_instance(
    given: Mapping[str, Any], marker: InstanceOf, names: Mapping[str, Iterable[str]], path: Path, report: Report
) -> dict[str, Any]:
    """Checks an instance written in place; returns it with defaults filled in (as given when it has faults)."""
    registry = marker.registry
    if "class" not in given:
        report.add(f"the class is missing; {did_you_mean('', registry)}", path)
        return dict(given)
    if not isinstance(given["class"], str) or given["class"] not in registry:
        known = did_you_mean(str(given["class"]), registry)
        report.add(f"unknown class {shown(given['class'])} in {registry.section}; {known}", (*path, "class"))
        return dict(given)
    cls = registry.get(given["class"])
    arguments = check_arguments(cls, {key: value for key, value in given.items() if key != "class"}, path, report)
    if arguments is None:
        return dict(given)
    return {"class": given["class"], **expand_selectors(arguments, cls, names, path, report)}


def _selector_of(hint: Any) -> SelectorOf | None:
    extras = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    return next((extra for extra in extras if isinstance(extra, SelectorOf)), None)


def _holds_marker(hint: Any) -> bool:
    """Whether a selector or an instance written in place is somewhere in a type."""
    extras = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    found = any(isinstance(extra, SelectorOf | InstanceOf) for extra in extras)
    return found or any(_holds_marker(part) for part in get_args(hint))


def _matches(
    selector: str, marker: SelectorOf, names: Mapping[str, Iterable[str]], path: Path, report: Report
) -> list[str]:
    pool = list(names[marker.kind])
    try:
        found = expand(selector, pool)
    except ValueError as e:
        report.add(str(e), path)
        return []
    if not found:
        help_text = did_you_mean(selector, pool)
        report.add(
            f"{shown(selector)} matches no {marker.kind} of this model, so nothing would be done; {help_text}",
            path,
        )
    return found


def _add_empty(marker: SelectorOf, path: Path, report: Report) -> None:
    report.add(f"given no {marker.kind} at all, so nothing would be done", path)


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    """Type hints of a constructor or function; names that torch imports for type checkers only are supplied."""
    function = target.__init__ if inspect.isclass(target) else target
    supplied = {name: getattr(collections.abc, name) for name in collections.abc.__all__}
    hints = typing.get_type_hints(function, localns={**supplied, **vars(typing)}, include_extras=True)
    return {name: _eager(hint) for name, hint in hints.items()}


def _eager(hint: Any) -> Any:
    """`Iterable[int]` -> `list[int]`: pydantic would check an Iterable only when somebody iterates."""
    if get_origin(hint) in (collections.abc.Iterable, collections.abc.Sequence):
        return list[get_args(hint)[0]]  # type: ignore[misc]
    return hint


def _holds_function(hint: Any) -> bool:
    """Whether an argument is a function, which YAML cannot hold: such an argument keeps its default."""
    return get_origin(hint) is collections.abc.Callable or any(_holds_function(part) for part in get_args(hint))


def _in_data(part: str | int) -> bool:
    """Whether a part of pydantic's location is one of the document's (it also names union members and keys)."""
    return isinstance(part, int) or not re.search(r"[\[\(]|^(float|int|str|bool)$|^(constrained|list|dict)-", part)


def _explain(error: dict[str, Any], target: type, model: type[BaseModel]) -> str:
    name, known = str(error["loc"][0]), list(model.model_fields)
    if error["type"] == "missing":
        return f"{target.__name__} needs the argument {name!r}: {describe_type(model, name)}"
    if error["type"] == "extra_forbidden":
        owner = "args" if issubclass(target, Policy) else target.__name__
        return f"{owner} has no argument {shown(name)}; {did_you_mean(name, known)}"
    message = error["msg"].removeprefix("Input ").removeprefix("should").strip()
    return f"given {shown(error['input'])}; {name} should {message}"


def describe_type(model: type[BaseModel], name: str) -> str:
    """One argument's type and range in words, such as `number, >= 0, < 1` or `list of strings`."""
    return _words(model.model_json_schema()["properties"][name])


def _words(info: Mapping[str, Any]) -> str:
    if "anyOf" in info:
        return " or ".join(_words(option) for option in info["anyOf"])
    if "enum" in info or "const" in info:
        return "one of " + ", ".join(map(str, info.get("enum", [info.get("const")])))
    kind = str(info.get("type", "any value"))
    if "class" in info.get("properties", {}):
        return f"{info['properties']['class']['description']} in place"
    if kind == "array":
        return f"list of {_words(info.get('items', {}))}"
    if kind == "object" and isinstance(info.get("additionalProperties"), dict):
        return f"mapping of name: {_words(info['additionalProperties'])}"
    limits = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    return ", ".join([kind, *(f"{sign} {info[key]:g}" for key, sign in limits.items() if key in info)])
