"""Names in a schedule -> classes, one table per section.

`Registry` and the table of each section.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from compress.errors import UserError, did_you_mean

T = TypeVar("T", bound=type)


class Registry:
    """A table from class name to class. A name registered twice raises, so nothing is replaced silently.

    Attributes:
        section: the schedule's section, such as `pruners`.
    """

    def __init__(self, section: str) -> None:
        self.section = section
        self._classes: dict[str, type] = {}

    def register(self, cls: T, name: str | None = None) -> T:
        """Adds `cls` under `name` (its own by default). Usable as a decorator.

        Raises:
            ValueError: the name is taken by another class.
        """
        key = name or cls.__name__
        if self._classes.setdefault(key, cls) is not cls:
            raise ValueError(f"{self.section}: the class name {key!r} is registered twice")
        return cls

    def alias(self, name: str) -> Callable[[T], T]:
        """Decorator: a further name for the same class, as Distiller's schedules know it."""
        return lambda cls: self.register(cls, name)

    def get(self, name: str) -> type:
        """The class of that name.

        Raises:
            UserError: no such class; the nearest names are given.
        """
        if name not in self._classes:
            raise UserError(f"no class {name!r} in {self.section}; {did_you_mean(name, self)}")
        return self._classes[name]

    def __contains__(self, name: object) -> bool:
        return name in self._classes

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._classes))


@dataclass(frozen=True)
class InstanceOf:
    """Marks an argument `{class: CLASS, ...}` of a constructor's signature: an instance written in place.

    The schedule's schema checks it against the constructor of CLASS; the algorithm receives the checked mapping.

    Attributes:
        registry: where CLASS is found.
    """

    registry: Registry

    def __get_pydantic_json_schema__(self, core: Any, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """For editors: a mapping with one of the registered classes."""
        names = {"enum": list(self.registry), "description": f"a class of {self.registry.section}"}
        marked = {"properties": {"class": names}, "required": ["class"], "instances": self.registry.section}
        return {**handler(core), **marked}


PRUNERS = Registry("pruners")
REGULARIZERS = Registry("regularizers")
QUANTIZERS = Registry("quantizers")
DISTILLERS = Registry("distillers")
LR_SCHEDULERS = Registry("lr_schedulers")
EXTENSIONS = Registry("extensions")
LEVELS = Registry("levels")  # no section of its own: levels are written in place
SECTIONS = {
    registry.section: registry
    for registry in (PRUNERS, REGULARIZERS, QUANTIZERS, DISTILLERS, LR_SCHEDULERS, EXTENSIONS)
}
