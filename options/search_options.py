"""Options of `search.py`. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from apputils.runs.folders import find_run
from compress.errors import UserError
from options.applications import APPLICATIONS
from options.configs import PROCESSES
from options.option import option, parse
from options.own_network import allow, texts_of
from options.rules import Rule, check
from options.whose import belongs_to

LONGEST = 10_080.0  # minutes, a week


@dataclass(frozen=True)
class SearchConfig:
    """Options of `search.py`."""

    optform: str = option("SR", f"application: {', '.join(APPLICATIONS)}", metavar="NAME")
    goals: str | None = option(None, "YAML file with `goals:`, and `search:` with knobs that are fixed", metavar="FILE")
    minutes: float = option(60.0, "how long to search, the winner's training included", above=0.0, maximum=LONGEST)
    start_from: str | None = option(
        None, "the dense run (default: the newest one of the application; without any, one is trained first)",
        metavar="RUN",
    )  # fmt: skip
    arch: str | None = option(
        None, "your own network, FILE.py:CLASS or MODULE:CLASS, that the dense run was trained with: a checkpoint "
        "imports no code by itself", metavar="NAME", own_code=True,
    )  # fmt: skip
    degradation: str | None = option(
        None, "the dense run's degradation, where it names functions of your own", metavar="NAME", own_code=True
    )
    testdata: str | None = option(
        None, "what the winner is measured on at the end (default: the test part of the dense run's data)",
        metavar="PLACE",
    )  # fmt: skip
    device_results: str | None = option(
        None, "device.json of another machine, from a bundle with --layer-table of the dense run: goals on latency are "
        "about that machine, and times are predicted for it", metavar="FILE",
    )  # fmt: skip
    study: str | None = option(None, "name of the study, its folder in studies/ (default: made of the time)")
    resume: bool = option(False, "resume --study; every further process that runs the same command joins in")
    storage: str | None = option(
        None, "URL of a database that all workers reach (default: a journal file in the study's folder)", metavar="URL"
    )
    sampler: str = option(
        "tpe", "of Optuna: tpe, or random, a baseline that begins without candidates of ours", choices=("tpe", "random")
    )
    trials: int | None = option(None, "stop after so many trials of the study, if the time allows", minimum=1)
    device: str = option("auto", "device to train on: cuda, cuda:N, cpu or auto", metavar="DEVICE")
    threads: int = option(1, "number of CPU threads, of training and of the measured runtime", minimum=1,
                          maximum=PROCESSES)  # fmt: skip
    seed: int = option(0, "seed of every random choice", minimum=0, maximum=2**31 - 1)
    explicit: frozenset[str] = field(default=frozenset(), repr=False, compare=False)


RULES: tuple[Rule[Any], ...] = (
    Rule(("resume",), lambda c: c.study, "resumes a study; name it by --study"),
    Rule(("goals",), lambda c: not c.resume, "is kept by the study; leave it out with --resume"),
    Rule(("device_results",), lambda c: not c.resume, "is kept by the study; leave it out with --resume"),
    Rule(("start_from",), lambda c: not c.resume, "is kept by the study; leave it out with --resume"),
)


class SearchOptions:
    """The command line of `search.py`."""

    def parse(self, arguments: Sequence[str] | None = None) -> SearchConfig:
        """The options given (sys.argv's by default), the rest by default.

        Raises:
            UserError: options do not go together, or name what is not there.
        """
        config = parse(
            SearchConfig, "search.py", "Finds the schedule that meets goals.", arguments, elsewhere=belongs_to
        )
        check(config, RULES)
        if config.goals is None and not config.resume:
            raise UserError("search.py needs --goals=FILE, or --study=NAME --resume; nothing was started")
        if config.optform not in APPLICATIONS:
            raise UserError(f"--optform={config.optform} is unknown; there are {', '.join(APPLICATIONS)}")
        for texts in texts_of(config).values():
            allow(texts)
        if config.start_from is not None:
            find_run(config.start_from)
        return config
