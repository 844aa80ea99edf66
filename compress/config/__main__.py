"""The schedule language on the command line.

    python -m compress.config list                      every class, by section
    python -m compress.config show AutomatedGradualPruner   arguments, ranges, paper, sample
    python -m compress.config check my.yaml --model models.C2SRCNN.model:Net
    python -m compress.config schema [FILE]             the JSON Schema that editors complete and check with

The four commands.
"""

import argparse
import importlib
import json
import logging
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer

from compress.config.build import file_config
from compress.config.describe import describe, list_classes, schedule_schema
from compress.distillation.teachers import UnseenTeacher
from compress.epoch_window import MAX_EPOCHS
from compress.errors import UserError, shown
from compress.graph.calls import declare_unused
from compress.io.files import write_text
from compress.io.terminal import answer, guard_screen

LARGEST_SIZE = 65_536


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit code, 2 after a fault of the user's."""
    guard_screen()
    logging.basicConfig(format="%(levelname)s: %(message)s")
    parser = argparse.ArgumentParser(prog=_called(), description="The schedule language.")
    commands = parser.add_subparsers(required=True, dest="command")
    commands.add_parser("list", help="every class, by section")
    show = commands.add_parser("show", help="one class: arguments, ranges, paper, sample")
    show.add_argument("name", metavar="CLASS")
    check = commands.add_parser("check", help="every fault of a schedule")
    check.add_argument("file")
    check.add_argument(
        "--model", required=True, metavar="MODULE:NAME", help="a network's class or function, called bare"
    )
    check.add_argument("--epochs", type=_epochs, help="the run's length")
    check.add_argument(
        "--example-shape", type=_shape, metavar="1x3x64x64", help="of an input, for the checks that trace the network"
    )
    check.add_argument("--unused", nargs="+", default=(), metavar="PART", help="parts of the network that nobody runs")
    check.add_argument("--strict", action="store_true", help="warnings are errors")
    schema = commands.add_parser("schema", help="write the JSON Schema")
    schema.add_argument("file", nargs="?", default="schedules/schedule.schema.json")
    given = parser.parse_args(arguments)
    return answer(lambda: COMMANDS[given.command](given))


def _called() -> str:
    """The command as it was typed: the one that pip installs, or the module."""
    name = Path(sys.argv[0]).stem
    return name if name == "compress-schedule" else "python -m compress.config"


def _epochs(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 1 <= (number := int(text[:20])) <= MAX_EPOCHS:
        raise argparse.ArgumentTypeError(f"given {shown(text)}, it must be a whole number from 1 to {MAX_EPOCHS:,}")
    return number


def _check(given: argparse.Namespace) -> str:
    model = _network(given.model)
    declare_unused(model, given.unused)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    outside = _OfTheLoop(optimizer)
    scheduler = file_config(
        model,
        optimizer,
        given.file,
        None if given.example_shape is None else torch.zeros(given.example_shape),
        given.epochs,
        strict=given.strict,
        teachers=outside.teacher,
        optimizers=outside,
    )
    count = len(scheduler.policies)
    good = f"{given.file} is good: {count} policies over {scheduler.last_epoch} epochs act on {given.model}"
    return "\n".join([good, *(f"not looked up: {each}, which the training loop has to know" for each in outside.asked)])


class _OfTheLoop(Mapping[str, Optimizer]):
    """Teachers and optimizers of any name: only the training loop knows which there are.

    Attributes:
        asked: those that the schedule names, for messages.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self.asked: list[str] = []

    def teacher(self, name: str) -> nn.Module:
        """A stand-in."""
        self.asked.append(f"the teacher {name!r}")
        return UnseenTeacher()

    def __getitem__(self, name: str) -> Optimizer:
        self.asked.append(f"the optimizer {name!r}")
        return self._optimizer

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 1


def _shape(text: str) -> tuple[int, ...]:
    sizes = tuple(int(size) for size in text.split("x"))
    if not all(0 < size <= LARGEST_SIZE for size in sizes):
        raise ValueError(text)
    return sizes


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
