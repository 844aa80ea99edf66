"""The schedule language on the command line.

    python -m compress.config list                      every class, by section
    python -m compress.config show AutomatedGradualPruner   arguments, ranges, paper, sample
    python -m compress.config check my.yaml --model models.C2SRCNN.model:Net
    python -m compress.config schema [FILE]             the JSON Schema that editors complete and check with

Here: the four commands. Not here: what they print (document.py), the checks (build.py).
"""

import argparse
import importlib
import json
import logging
import sys

import torch
from torch import nn

from compress.config.build import file_config
from compress.config.document import describe, list_classes, schedule_schema
from compress.errors import UserError
from compress.files import write_text
from compress.screen import answer, guard_screen


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit code, 2 after a fault of the user's."""
    guard_screen()
    logging.basicConfig(format="%(message)s")
    parser = argparse.ArgumentParser(prog="python -m compress.config", description="The schedule language.")
    commands = parser.add_subparsers(required=True, dest="command")
    commands.add_parser("list", help="every class, by section")
    show = commands.add_parser("show", help="one class: arguments, ranges, paper, sample")
    show.add_argument("name", metavar="CLASS")
    check = commands.add_parser("check", help="every fault of a schedule")
    check.add_argument("file")
    check.add_argument(
        "--model", required=True, metavar="MODULE:NAME", help="a network's class or function, called bare"
    )
    check.add_argument("--epochs", type=int, help="the run's length")
    check.add_argument("--strict", action="store_true", help="warnings are errors")
    schema = commands.add_parser("schema", help="write the JSON Schema")
    schema.add_argument("file", nargs="?", default="schedules/schedule.schema.json")
    given = parser.parse_args(arguments)
    return answer(lambda: COMMANDS[given.command](given))


def _check(given: argparse.Namespace) -> str:
    model = _network(given.model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = file_config(model, optimizer, given.file, epochs=given.epochs, strict=given.strict)
    count = len(scheduler.policies)
    return f"{given.file} is good: {count} policies over {scheduler.last_epoch} epochs act on {given.model}"


def _network(place: str) -> nn.Module:
    module, _, name = place.partition(":")
    sys.path.insert(0, "")
    try:
        network = getattr(importlib.import_module(module), name)()
    except (ImportError, AttributeError, TypeError) as e:
        raise UserError(
            f"--model={place}: give MODULE:NAME of something that makes a network without arguments; {e}"
        ) from e
    if not isinstance(network, nn.Module):
        raise UserError(f"--model={place} made a {type(network).__name__}, not a torch.nn.Module")
    return network


def _schema(given: argparse.Namespace) -> str:
    text = json.dumps(schedule_schema(), indent=1, sort_keys=True) + "\n"
    write_text(given.file, text)
    return f"written: {given.file}"


COMMANDS = {
    "list": lambda given: list_classes(),
    "show": lambda given: describe(given.name),
    "check": _check,
    "schema": _schema,
}

if __name__ == "__main__":
    sys.exit(main())
