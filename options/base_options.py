"""The command lines of `train.py` and `test.py`: what is common to all applications.

`parse_training`, `parse_testing`; the options themselves are in configs.py and found here too.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

from options.applications import APPLICATIONS
from options.architecture import ArchitectureConfig
from options.configs import LARGEST_SIDE as LARGEST_SIDE
from options.configs import MOST as MOST
from options.configs import MOST_CHANNELS as MOST_CHANNELS
from options.configs import MOST_SAMPLES as MOST_SAMPLES
from options.configs import TestConfig as TestConfig
from options.configs import TrainConfig as TrainConfig
from options.option import parse
from options.own_network import allow, constructor_arguments, texts_of
from options.rules import Rule, check_testing, check_training
from options.schedules import find_schedule
from options.whose import belongs_to

GROUPS = {
    "Training": ("optform", "compress", "traindata", "nEpochs", "batchSize", "accumulate", "lr"),
    "Inspecting a schedule; nothing is trained": (
        "plan",
        "smoke",
        "strict",
        "list_weights",
        "list_groups",
        "list_archs",
        "new_schedule",
    ),
    "The network": ("arch", "arch_args", "weights", "match", "unused"),
    "The run": ("run", "start_from", "resume", "checkpoint_every", "keep", "on_nan", "seed", "seeds", "ema"),
    "Resuming with changes": ("reset_optimizer", "reset_schedule", "thin"),
    "The machine": ("device", "threads", "workers", "precision", "amp", "compile", "channels_last"),
    "Several processes, started by torchrun": ("sync_batchnorm", "check_ranks"),
    "Further logs": ("histograms", "activation_stats"),
}


C = TypeVar("C", bound=TrainConfig)
T = TypeVar("T", bound=TestConfig)


def parse_training(
    cls: type[C], purpose: str, arguments: Sequence[str] | None = None, rules: Sequence[Rule[C]] = (),
    presets: Mapping[str, Mapping[str, Any]] | None = None,
) -> C:  # fmt: skip
    """The command line of `train.py` as an application's options, with the schedule's file found.

    Args:
        cls: the options of the application.
        purpose: one sentence for `--help`.
        arguments: without the program's name; None takes sys.argv's.
        rules: of the application, see options/rules.py.
        presets: name -> values of options that are not given themselves, for an application with `--preset`. A preset's
            length is for a run without a schedule: a schedule has its own.

    Raises:
        UserError: there is no such schedule, run, file or folder, or options do not go together.
        SystemExit: 2 after a wrong argument, 0 after `--help`.
    """
    config = parse(cls, "train.py", purpose, arguments, GROUPS, belongs_to)
    if presets:
        given = config.explicit | ({"nEpochs"} if config.compress is not None else set())
        chosen = presets.get(getattr(config, "preset", None) or "", {})
        config = dataclasses.replace(config, **{k: v for k, v in chosen.items() if k not in given})
    check_training(config, rules)  # after the preset, which may be what an option needs
    if config.precision == "bfloat16":
        config = dataclasses.replace(config, amp=True)
    if isinstance(config, ArchitectureConfig):
        # Now: what is wrong with the network's name and arguments is reported before torch is loaded.
        constructor_arguments(config.arch_args)
        if (application := APPLICATIONS.get(config.optform)) and application.named:
            application.named.check(config.arch)
    _allow_own_code(config)
    if config.compress is None:
        return config
    return dataclasses.replace(config, compress=find_schedule(config.compress, config.optform))


def parse_testing(
    cls: type[T], purpose: str, arguments: Sequence[str] | None = None, rules: Sequence[Rule[T]] = ()
) -> T:
    """The command line of `test.py` as an application's options; the arguments are those of `parse_training`.

    Raises:
        UserError: there is no such run, file or folder, or options do not go together.
        SystemExit: 2 after a wrong argument, 0 after `--help`.
    """
    config = parse(cls, "test.py", purpose, arguments, elsewhere=belongs_to)
    check_testing(config, rules)
    _allow_own_code(config)
    return config


def _allow_own_code(config: TrainConfig | TestConfig) -> None:
    """What the command line names may be imported."""
    for texts in texts_of(config).values():
        allow(texts)


class TrainingOptions(Generic[C]):
    """The command line of `train.py` for an application, whose `TrainOptions` derives from it.

    Attributes:
        config: the options.
        purpose: one sentence for `--help`.
        rules: which options need others, see options/rules.py.
        presets: see `parse_training`.
    """

    config: type[C]
    purpose: str
    rules: Sequence[Rule[Any]] = ()
    presets: Mapping[str, Mapping[str, Any]] | None = None

    def parse(self, arguments: Sequence[str] | None = None) -> C:
        """The options given (sys.argv's by default), the rest by default. A wrong one ends with exit code 2.

        Raises:
            UserError: see `parse_training`.
        """
        return parse_training(self.config, self.purpose, arguments, self.rules, self.presets)


class TestingOptions(Generic[T]):
    """The same of `test.py`; an application's `TestOptions` derives from it."""

    __test__ = False  # pytest: not a test class

    config: type[T]
    purpose: str
    rules: Sequence[Rule[Any]] = ()

    def parse(self, arguments: Sequence[str] | None = None) -> T:
        """The options given (sys.argv's by default), the rest by default. A wrong one ends with exit code 2.

        Raises:
            UserError: see `parse_testing`.
        """
        return parse_testing(self.config, self.purpose, arguments, self.rules)
