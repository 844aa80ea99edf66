"""What to type to do again what an options object did.

`commands`, `schedule_command`: options as a command line that their own parser takes.
"""

import shlex
from collections.abc import Mapping
from typing import Any

from compress.errors import printable
from options.applications import find_application
from options.option import dashed, former_names

MODES = ("plan", "smoke", "list_weights", "list_groups", "list_archs", "new_schedule")  # instead of training
OF_A_SCHEDULE = frozenset({"compress", "strict", "nEpochs"})
OF_ONE_RUN = frozenset({*MODES, "run", "resume", "seeds", "thin", "explicit"})  # no part of how a run trains


def commands(evaluated: object, checkpoint: Mapping[str, Any]) -> dict[str, str]:
    """What trains the network of a checkpoint again, and what evaluates this one again.

    An option is written where it differs from its default: one that is written counts as given, and rules may refuse
    it (options/rules.py). The application and the seed are always there, and the run's name, under which the second
    command finds what the first one trains; where the run still exists, training under its name is refused.

    Args:
        evaluated: the test options, with `model` filled in.
        checkpoint: of a run.
    """
    given = {**_given(checkpoint["optform"], checkpoint["options"]), "run": checkpoint.get("run")}
    testing = {name: value for name, value in vars(evaluated).items() if value != getattr(type(evaluated)(), name)}
    testing = {name: value for name, value in testing.items() if name not in ("explicit", "optform", "run")}
    count = checkpoint.get("processes", 1)
    several = ["torchrun", "--standalone", f"--nproc-per-node={count}", "--"] if count > 1 else ["python"]
    return {
        "train": shlex.join([*several, "train.py", *_words(given)]),
        "test": shlex.join(["python", "test.py", *_words(testing)]),
    }


def schedule_command(optform: str, saved: Mapping[str, Any]) -> str:
    """What trains the same network under another schedule, when `--compress=FILE` is added; one line.

    Args:
        optform: the application.
        saved: its training options, as a checkpoint has them.
    """
    given = {name: value for name, value in _given(optform, saved).items() if name not in OF_A_SCHEDULE}
    return shlex.join(map(printable, ["python", "train.py", *_words(given)]))


def _given(optform: str, saved: Mapping[str, Any]) -> dict[str, Any]:
    """Application, seed, and what differs from its default."""
    usual, former = _usual(optform, saved.get("preset"))
    saved = {former.get(name, name): value for name, value in saved.items()}
    given = {"optform": optform, "seed": saved.get("seed", usual["seed"]), "preset": usual.get("preset")}
    return given | {name: saved[name] for name, value in usual.items() if name in saved and saved[name] != value}


def _usual(optform: str, preset: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """The values of training options that were not given, and former names of options.

    A preset, where there are presets, changes values.
    """
    parser = find_application(optform).load("train_options")()
    usual = parser.parse([])
    if hasattr(usual, "preset") and preset in usual.__dataclass_fields__["preset"].metadata["choices"]:
        usual = parser.parse([f"--preset={preset}"])
    values = {name: value for name, value in vars(usual).items() if name not in OF_ONE_RUN}
    return values, former_names(type(usual))


def _words(options: Mapping[str, Any]) -> list[str]:
    """`--name=value`; a switch that is off is `--no-name`."""
    words = []
    for name, value in options.items():
        if isinstance(value, bool):
            words.append(f"--{'' if value else 'no-'}{dashed(name)}")
        elif isinstance(value, tuple):
            words += [f"--{dashed(name)}", *map(str, value)]
        elif value is not None:
            words.append(f"--{dashed(name)}={value}")
    return words
