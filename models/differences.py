"""How a checkpoint differs from what is here, in words: weights, options, the machine.

Here: functions of plain data. Not here: what is done about it (run_state.py, resumption.py).
"""

from collections.abc import Collection, Mapping
from typing import Any

import torch

SHOWN = 4  # names of a kind


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
    return lines + [f"{len(shapes)} tensors are of another shape: {_some(shapes)}"] * bool(shapes)


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


def _shape(shape: Any) -> str:
    return "no tensor" if shape is None else str(tuple(shape))


def _some(names: Collection[str]) -> str:
    shown = list(names)[:SHOWN]
    return ", ".join(shown) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
