"""What the seconds of a training command go to: imports, loader, forward, backward, hooks, optimizer, validation.

    python benchmarks/main_profile.py                                             the main command, one thread
    python benchmarks/main_profile.py --optform=Deblur --nEpochs=2 --threads=2    any arguments of train.py

Parts are told apart by timers around the loop's own calls, in the order of the code; what is inside another, as the
backward pass of a discriminator inside the loss, counts as itself alone. A call's two readings of the clock are all
that is added. Prints a table in Markdown: seconds of the clock, of the processor, share.
"""

import argparse
import functools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir
from pathlib import Path
from typing import Any

from tabulate import tabulate

STARTED = time.perf_counter(), time.process_time()
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

MAIN = ("--optform=SR", "--compress=agp_prune.yaml", "--threads=1")
HOOKS = (
    "on_epoch_begin", "on_minibatch_begin", "before_backward_pass", "before_parameter_optimization", "on_minibatch_end",
    "on_epoch_end",
)  # fmt: skip
spent: dict[str, list[float]] = {}
under_way: list[list[float]] = []  # of each part that has begun and not ended: what the parts inside it took
first_step: list[list[float]] = []


def note(part: str, since: tuple[float, float], inside: Sequence[float] = (0.0, 0.0)) -> None:
    """Adds what has passed since two readings, of the clock and of the processor, to a part, less what is inside."""
    passed = time.perf_counter() - since[0], time.process_time() - since[1]
    both = spent.setdefault(part, [0.0, 0.0])
    for i in (0, 1):
        both[i] += passed[i] - inside[i]
        if under_way:
            under_way[-1][i] += passed[i]


def timed(owner: Any, name: str, part: str) -> None:
    """Every call of a method counts as a part."""
    method: Callable[..., Any] = getattr(owner, name)

    @functools.wraps(method)
    def around(*given: Any, **named: Any) -> Any:
        since = time.perf_counter(), time.process_time()
        under_way.append([0.0, 0.0])
        try:
            return method(*given, **named)
        finally:
            inside = under_way.pop()
            note(part, since, inside)

    setattr(owner, name, around)


def watch(trainer: Any) -> None:
    """Timers around what a trainer's loop calls."""
    from torch import Tensor
    from torch.optim import Optimizer
    from torch.utils.data import dataloader

    from compress.scheduler import CompressionScheduler

    timed(dataloader._BaseDataLoaderIter, "__next__", "loader")
    timed(trainer, "compute_loss", "forward and loss")
    timed(Tensor, "backward", "backward")
    note_first_step(CompressionScheduler)
    for name in HOOKS[:1] + HOOKS[2:]:  # the second is timed once the first step has begun
        timed(CompressionScheduler, name, "hooks of the schedule")
    for kind in _kinds(Optimizer):
        timed(kind, "step", "optimizer")
    timed(trainer, "validate", "validation after each epoch")
    timed(trainer, "save", "checkpoints and logs")
    timed(trainer, "finish", "summary: the best network measured")


def note_first_step(scheduler: Any) -> None:
    """Notes when the first step begins, in seconds since this program did."""
    method: Callable[..., Any] = scheduler.on_minibatch_begin

    @functools.wraps(method)
    def around(*given: Any, **named: Any) -> Any:
        first_step.append([time.perf_counter() - STARTED[0], time.process_time() - STARTED[1]])
        scheduler.on_minibatch_begin = method  # only once
        timed(scheduler, "on_minibatch_begin", "hooks of the schedule")
        return method(*given, **named)

    scheduler.on_minibatch_begin = around


def _kinds(base: type) -> Iterator[type]:
    for kind in base.__subclasses__():
        yield from _kinds(kind)
        if "step" in vars(kind):
            yield kind


def main(arguments: list[str]) -> None:
    """Trains in an empty folder and prints the table."""
    with tempfile.TemporaryDirectory() as place, chdir(place):
        train(arguments)
    clock, processor = spent.pop("whole")
    start = spent.pop("start")
    rest = [clock - sum(each[0] for each in spent.values()), processor - sum(each[1] for each in spent.values())]
    rows = {"Python's imports": start, **spent, "data, network and schedule made; the rest": rest}
    total = sum(each[0] for each in rows.values())
    table = [[name, *each, f"{100 * each[0] / total:.1f} %"] for name, each in rows.items()]
    print(tabulate(table, ["part", "seconds", "of the processor", "share"], "github", floatfmt=".1f"))
    print(f"python train.py {' '.join(sys.argv[1:])}: {total:.1f} s; load {os.getloadavg()[0]:.1f}")
    if first_step:
        print("first step after {:.1f} s, {:.1f} of the processor".format(*first_step[0]))


def train(arguments: list[str]) -> None:
    """What train.py does, under timers."""
    from options.applications import application_on_command_line

    sys.argv = ["train.py", *(arguments or MAIN)]
    application = application_on_command_line(None)
    config = application.load("train_options")().parse()
    from engine.commands.train import act

    watch(application.load("trainer"))
    note("start", STARTED)
    since = time.perf_counter(), time.process_time()
    act(application, config)
    note("whole", since)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    main(parser.parse_known_args()[1])
