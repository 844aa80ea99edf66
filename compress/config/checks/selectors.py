"""Selectors among the arguments of a class -> the full names that they mean, and instances written in place.

`Selection`, which walks values along the annotations of a constructor.
"""

import types
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Union, get_args, get_origin

from compress.arguments.places import Path
from compress.arguments.schema import type_hints
from compress.config.errors.faults import Report
from compress.config.schema import check_arguments
from compress.errors import did_you_mean, shown
from compress.registry import InstanceOf
from compress.selectors import SelectorOf, expand, expand_mapping


class Selection:
    """Finds what selectors mean, for one instance.

    It may be given values of a wrong form too: what can be looked up in them is, the rest is passed over.

    Args:
        names: kind of selector ("weight", "module") -> canonical names of the model.
        report: takes a fault for each selector that matches nothing.
        second_names: kind of selector -> other names of what is shared -> the name in `names`.

    Attributes:
        unusable: whether nothing can be made of the values: all of a list's selectors failed, or an instance in place
            has faults.
    """

    def __init__(
        self,
        names: Mapping[str, Iterable[str]],
        report: Report,
        second_names: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        self.names = names
        self.second_names = second_names or {}
        self.report = report
        self.unusable = False

    def expand(self, values: Mapping[str, Any], target: type, path: Path) -> dict[str, Any]:
        """Every selector among the arguments of `target` replaced by full names.

        Args:
            values: arguments by name.
            target: the class whose annotations show which arguments hold selectors.
            path: of the arguments in the document.
        """
        hints = type_hints(target)
        return {name: self._expand(value, hints.get(name, Any), (*path, name)) for name, value in values.items()}

    def _expand(self, value: Any, hint: Any, path: Path) -> Any:
        origin, args = get_origin(hint), get_args(hint)
        if value is None:
            return value
        if origin is Annotated:
            return self._expand_annotated(value, args, path)
        if origin is list and isinstance(value, list | str):
            return self._expand_list(value, args[0], path)
        if origin is dict and isinstance(value, Mapping):
            return self._expand_mapping(value, args, path)
        if origin in (Union, types.UnionType):
            for option in args:
                value = self._expand(value, option, path) if _holds_marker(option) else value
        return value

    def _expand_annotated(self, value: Any, args: tuple[Any, ...], path: Path) -> Any:
        for extra in args[1:]:
            if isinstance(extra, SelectorOf):
                return self._matches(value, extra, path)
            if isinstance(extra, InstanceOf) and isinstance(value, Mapping):
                return self._in_place(value, extra, path)
        return self._expand(value, args[0], path)

    def _expand_list(self, value: list[Any] | str, hint: Any, path: Path) -> Any:
        marker = _selector_of(hint)
        if isinstance(value, str):
            value = [value] if marker else []
        found = [self._expand(item, hint, (*path, i)) for i, item in enumerate(value)]
        if marker is None:
            return found
        if not value:
            self._add_empty(marker, path)
        names = list(dict.fromkeys(name for group in found for name in group or []))  # null is reported as no text
        self.unusable |= not names
        return names

    def _expand_mapping(self, value: Mapping[Any, Any], args: tuple[Any, ...], path: Path) -> dict[Any, Any]:
        value = {key: self._expand(item, args[1], (*path, key)) for key, item in value.items()}
        marker = _selector_of(args[0])
        if marker is None:
            return value
        if not value:
            self._add_empty(marker, path)
        found = {
            selector: item for selector, item in value.items() if self._matches(selector, marker, (*path, selector))
        }
        self.unusable |= not found
        return expand_mapping(found, self.names[marker.kind], marker.expression)

    def _in_place(self, given: Mapping[str, Any], marker: InstanceOf, path: Path) -> dict[str, Any]:
        """Checks an instance written in place; returns it with defaults filled in (as given when it has faults)."""
        registry, before = marker.registry, len(self.report.faults)
        name = given.get("class")
        if not isinstance(name, str) or name not in registry:
            what = f"unknown class {shown(name)} in {registry.section}" if "class" in given else "the class is missing"
            self.report.add(f"{what}; {did_you_mean(str(name or ''), registry)}", (*path, "class"))
            arguments = None
        else:
            cls, written = registry.get(name), {key: value for key, value in given.items() if key != "class"}
            arguments = check_arguments(cls, written, path, self.report, name)
            arguments = None if arguments is None else self.expand(arguments, cls, path)
        self.unusable |= len(self.report.faults) > before
        return dict(given) if arguments is None else {"class": name, **arguments}

    def _matches(self, selector: Any, marker: SelectorOf, path: Path) -> list[str]:
        pool = list(self.names[marker.kind])
        if not isinstance(selector, str):
            return []
        try:
            found = expand(selector, pool, marker.expression)
        except ValueError as e:
            self.report.add(str(e), path)
            return []
        if not found:
            second = self.second_names.get(marker.kind, {})
            help_text = _shared(selector, second) or _slip(selector, pool) or did_you_mean(selector, pool)
            message = f"{shown(selector)} matches no {marker.kind} of this model, so nothing would be done; {help_text}"
            self.report.add(message, path)
        return found

    def _add_empty(self, marker: SelectorOf, path: Path) -> None:
        self.report.add(f"given no {marker.kind} at all, so nothing would be done", path)


def _shared(selector: str, second_names: Mapping[str, str]) -> str:
    """That a selector means what is shared by its other name."""
    name = next(iter(expand(selector, second_names)), None) if second_names else None
    return "" if name is None else f"{name!r} is the same as {second_names[name]!r}: write that name, its first one"


def _slip(selector: str, pool: list[str]) -> str:
    """What is wrong with a selector that is a layer's name, or holds a space because two entries became one text."""
    if f"{selector}.weight" in pool:
        return f"did you mean '{selector}.weight'?"
    if selector.startswith("re:") or not any(c.isspace() or c == "," for c in selector):
        return ""
    return "it holds more than one name: in `[..]` a comma between them, in a list a line beginning with '- ' for each"


def _selector_of(hint: Any) -> SelectorOf | None:
    extras = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    return next((extra for extra in extras if isinstance(extra, SelectorOf)), None)


def _holds_marker(hint: Any) -> bool:
    """Whether a selector or an instance written in place is somewhere in a type."""
    extras = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    found = any(isinstance(extra, SelectorOf | InstanceOf) for extra in extras)
    return found or any(_holds_marker(part) for part in get_args(hint))
