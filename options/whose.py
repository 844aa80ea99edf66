"""Which command and which application an option belongs to, for a message where another one was given it."""

import dataclasses
import importlib
from typing import Any

from options.applications import APPLICATIONS
from options.option import dashed

COMMANDS = {"train_options": "train.py", "test_options": "test.py"}
SEARCH = "search.py", "options.search_options"  # which uses this module


def belongs_to(option: str) -> str:
    """The commands that take an option, such as `test.py and train.py --optform=Classify`; empty where none does.

    Args:
        option: as it is typed, `--NAME`.
    """
    found = []
    for part, command in COMMANDS.items():
        takes = [name for name, each in APPLICATIONS.items() if option in _names(each.load(part).config)]
        if len(takes) == len(APPLICATIONS):
            found.append(command)
        elif takes:
            found.append(f"{command} {' or '.join(f'--optform={name}' for name in takes)}")
    command, module = SEARCH
    found += [command] if option in _names(importlib.import_module(module).SearchConfig) else []
    return " and ".join(found)


def _names(config: Any) -> set[str]:
    fields = [each for each in dataclasses.fields(config) if "help" in each.metadata]
    return {f"--{dashed(name)}" for each in fields for name in (each.name, each.metadata["former"]) if name}
