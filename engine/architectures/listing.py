"""The architectures of an application as a table.

`architecture_table` of `--list-archs`.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from tabulate import tabulate

from compress.errors import UserError
from engine.architectures.zoo import Zoo

WIDTHS = [None, None, 60, 60]


def architecture_table(zoo: Zoo, given: Mapping[str, Any], default: str) -> str:
    """Name, parameters, settings with their defaults, and what it is, of each architecture.

    Args:
        zoo: of the application.
        given: arguments that follow from the data.
        default: the application's own.
    """
    rows = [
        [f"{name}{' (default)' * (name == default)}", _size(zoo, name, given), _settings(zoo, name), _words(zoo, name)]
        for name in zoo.architectures
    ]
    shown = ", ".join(f"{name} {value}" for name, value in given.items())
    lines = [tabulate(rows, ["--arch", "parameters", "settings", "what it is"], maxcolwidths=WIDTHS), ""]
    counted = f"Parameters are counted for {shown}. " if shown else ""
    lines.append(f"{counted}Settings without -- stand in --arch-args='{{NAME: VALUE}}'.")
    if zoo.libraries:
        lines.append(
            f"Networks of libraries, where they are installed: {', '.join(f'{x}:NAME' for x in zoo.libraries)}."
        )
    lines.append("Your own: --arch=path/to/net.py:CLASS or --arch=package.module:CLASS.")
    return "\n".join(lines)


def _size(zoo: Zoo, name: str, given: Mapping[str, Any]) -> str:
    try:
        with torch.device("meta"):
            return f"{sum(each.numel() for each in zoo(name, **given).parameters()):,}"
    except (UserError, NotImplementedError) as e:
        return str(e).rpartition(": ")[2]


def _settings(zoo: Zoo, name: str) -> str:
    parameters = inspect.signature(zoo.architectures[name]).parameters
    return ", ".join(
        f"{'--' * (setting in zoo.options)}{setting}={parameters[setting].default}" for setting in zoo.settings_of(name)
    )


def _words(zoo: Zoo, name: str) -> str:
    """The first sentence of its module, which says what it is and where it is from."""
    maker = zoo.architectures[name]
    module = inspect.getmodule(getattr(maker, "func", maker))
    first = (inspect.getdoc(module) or "").partition("\n\n")[0]
    return " ".join(first.split())
