"""How a checkpoint differs from what is here, in words: weights, options, the machine.

Functions of plain data and text.
"""

from collections.abc import Collection, Mapping
from typing import Any

import torch

from compress.arguments.places import dotted
from compress.config.loader import load_text
from compress.errors import ScheduleError, shown

SHOWN = 4  # names of a kind
MOST_LINES = 12  # of a schedule's differences


def of_shapes(here: Mapping[str, Any], saved: Mapping[str, Any]) -> list[str]:
    """What is missing, unknown or of another shape; [] if every tensor's name and shape is the same."""
    missing, unknown = [name for name in here if name not in saved], [name for name in saved if name not in here]
    shapes = [
        f"{name} is {_shape(saved[name])} there and {_shape(here[name])} here"
        for name in here
        if name in saved and saved[name] != here[name]
    ]
    lines = [f"{len(missing)} tensors of this network are not in it: {_some(missing)}"] * bool(missing)
    lines += [f"{len(unknown)} tensors in it are not of this network: {_some(unknown)}"] * bool(unknown)
    lines += [f"{len(shapes)} tensors are of another shape: {_some(shapes)}"] * bool(shapes)
    return lines + _prefix(here, saved)


def of_schedules(file: str, saved: str) -> list[str] | None:
    """What was changed in a schedule's text, a line for each place; None where one of the two is not YAML."""
    try:
        here, there = (_leaves(load_text(text, "").data) for text in (file, saved))
    except ScheduleError:
        return None
    found = [
        f"{dotted(path)}: {_leaf(there, path)} in the run, {_leaf(here, path)} in the file"
        for path in dict.fromkeys([*there, *here])
        if path not in here or path not in there or here[path] != there[path]
    ]
    more = [f"and {len(found) - MOST_LINES} places more"] if len(found) > MOST_LINES else []
    return found[:MOST_LINES] + more


def of_options(given: Mapping[str, Any], saved: Mapping[str, Any], may_change: Collection[str]) -> dict[str, str]:
    """Options that differ -> the difference, those that may change left out."""
    return {
        name: f"--{name}={value}: the run was trained with {saved.get(name)}"
        for name, value in sorted(given.items())
        if name not in may_change and value != saved.get(name)
    }


def machine() -> dict[str, Any]:
    """What the last bits of a sum depend on."""
    return {"torch": str(torch.__version__), "threads": torch.get_num_threads()}


def of_machines(saved: Mapping[str, Any] | None) -> str | None:
    """One sentence where the present machine differs from the checkpoint's; None where it does not, or is unknown."""
    here = machine()
    found = [f"{name} {saved[name]} there, {here[name]} here" for name in here if saved and saved[name] != here[name]]
    return f"{'; '.join(found)}: the resumed run may differ in the last bits of its weights" if found else None


def _prefix(here: Mapping[str, Any], saved: Mapping[str, Any]) -> list[str]:
    """A hint where the names differ by what stands in front, as where one schedule tells several networks apart."""
    for longer, shorter, (one, other) in ((here, saved, ("here", "there")), (saved, here, ("there", "here"))):
        for prefix in dict.fromkeys(name.split(".")[0] + "." for name in longer):
            if shorter and all(prefix + name in longer for name in shorter):
                return [
                    f"the names {one} have {prefix!r} in front and those {other} have not: write the schedule's names "
                    "as the run's own schedule does"
                ]
    return []


def _leaves(value: Any, path: tuple[str | int, ...] = ()) -> dict[tuple[str | int, ...], Any]:
    """Place -> value; a list of plain values is one value."""
    if isinstance(value, dict) and value:
        children: Any = value.items()
    elif isinstance(value, list) and any(isinstance(each, dict | list) for each in value):
        children = enumerate(value)
    else:
        return {path: value}
    return {place: leaf for key, child in children for place, leaf in _leaves(child, (*path, _key(key))).items()}


def _key(key: Any) -> str | int:
    return key if isinstance(key, int) else str(key)


def _leaf(leaves: Mapping[tuple[str | int, ...], Any], path: tuple[str | int, ...]) -> str:
    return shown(leaves[path]) if path in leaves else "nothing"


def _shape(shape: Any) -> str:
    return "not a tensor" if shape is None else str(tuple(shape))


def _some(names: Collection[str]) -> str:
    shown = list(names)[:SHOWN]
    return ", ".join(shown) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
