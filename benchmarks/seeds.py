"""One training with several seeds: mean and spread of what it gives.

    python benchmarks/seeds.py --optform=Classify --arch=lenet5 --compress=agp_lenet5.yaml
    python benchmarks/seeds.py --seeds 0 1 2 3 4 --validation --optform=SR --compress=agp_prune.yaml

For each seed it does what `python train.py ... --seed=SEED` and `python test.py --no-export --no-report --sense=none`
do, in one process; all other options are train.py's. Printed are the metrics of each seed on the test data, their
mean and their standard deviation (n - 1), beside the trivial method's. With `--validation` nothing is tested: that is
how settings are chosen, so that the test data have no part in the choice. The runs are called NAME-s0, NAME-s1, ...
and kept; NAME is `--name`. A run that is there already is not trained again if its options are the same.
"""

import argparse
import dataclasses
import logging
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from apputils.checkpoints.file import load_checkpoint
from apputils.report.records import read_json
from apputils.runs.console import exit_codes
from apputils.runs.folders import Run
from compress.errors import UserError
from engine.commands.find_checkpoint import find_subject
from engine.state import plain_options
from options.applications import DEFAULT, Application, find_application, named_on_command_line

QUICK = ("--no-export", "--no-report", "--sense=none")  # of test.py: quality alone
OURS = ("--seed", "--run", "--resume")  # options that are set here

Quality = dict[str, dict[str, float]]  # metric -> {baseline's name: value, "model": value}


@exit_codes
def main() -> None:
    """Runs the command."""
    for handler in logging.getLogger().handlers:  # the runs' own lines go to their log.txt alone
        handler.setLevel(logging.WARNING)
    print(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> str:
    """Trains and measures with each seed; returns the table.

    Raises:
        UserError: an option that is set here, or a fault of a run.
    """
    parser = argparse.ArgumentParser(
        prog="python benchmarks/seeds.py", description="One training with several seeds.", allow_abbrev=False,
        epilog="All other options are those of train.py.",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N")
    parser.add_argument("--name", default=None, help="of the runs, before -sN (default: seeds-DATE-TIME)")
    parser.add_argument("--validation", action="store_true", help="measure on the validation data, test nothing")
    given, training = parser.parse_known_args(list(arguments))
    if taken := [word for word in training if word.split("=")[0] in OURS]:
        raise UserError(f"{taken[0]} is set here for each run; give --seeds and --name")
    application = find_application(named_on_command_line("--optform", training) or DEFAULT)
    name = given.name or f"seeds-{time.strftime('%Y%m%d-%H%M%S')}"
    found: dict[int, Quality] = {}
    for seed in given.seeds:
        started = time.perf_counter()
        found[seed] = one(application, [*training, f"--seed={seed}"], f"{name}-s{seed}", given.validation)
        scores = ", ".join(f"{metric} {values['model']:.4f}" for metric, values in found[seed].items())
        print(f"seed {seed}: {scores}, {time.perf_counter() - started:.0f} s", flush=True)
    return f"\n{table(found)}\n\nmeasured on the {'validation' if given.validation else 'test'} data; runs {name}-s*"


def one(application: Application, training: Sequence[str], run_name: str, validation: bool) -> Quality:
    """Trains with one seed, unless the run of that name is there, and measures.

    Raises:
        UserError: a fault of the options, or another run of that name.
    """
    config = dataclasses.replace(application.load("train_options")().parse(training), run=run_name)
    quality: Quality = (_finished(config) or trained(application, config))["quality"]
    if validation:
        return quality
    threads = [f"--threads={config.threads}"] if config.threads else []
    opt, checkpoint = find_subject(application.load("test_options")().parse([f"--run={config.run}", *QUICK, *threads]))
    return application.load("tester")(opt, application.load("testing_loader")(opt, checkpoint)).run(opt)["quality"]  # type: ignore[no-any-return]


def trained(application: Application, config: Any) -> dict[str, Any]:
    """Trains; returns the summary."""
    summary: dict[str, Any] = application.load("trainer")(config, *application.load("training_loaders")(config)).run()
    return summary


def _finished(config: Any) -> dict[str, Any] | None:
    """The summary of a finished run of that name with these options."""
    summary: dict[str, Any] | None = read_json(Run(config.run).results / "summary.json")
    if summary is not None:
        saved = load_checkpoint(Run(config.run).last)["options"]
        others = [name for name, value in plain_options(config).items() if saved.get(name, value) != value]
        if others:
            raise UserError(f"there is a run {config.run} with another --{others[0]}; give another --name")
    return summary


def table(found: dict[int, Quality]) -> str:
    """Seeds, their mean, their standard deviation and the baseline, a column for each metric."""
    first = next(iter(found.values()))
    rows: list[list[Any]] = [
        [f"seed {seed}", *(quality[metric]["model"] for metric in first)] for seed, quality in found.items()
    ]
    spread = {metric: mean_and_spread([quality[metric]["model"] for quality in found.values()]) for metric in first}
    rows.append(["mean", *(mean for mean, _ in spread.values())])
    rows.append(["standard deviation", *(deviation for _, deviation in spread.values())])
    baseline = next(name for name in next(iter(first.values())) if name != "model")
    rows.append([baseline, *(values[baseline] for values in first.values())])
    return tabulate(rows, ["", *first], floatfmt=".4f")


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation (n - 1; of a single value it is not known, NaN)."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else float("nan")


if __name__ == "__main__":
    main()
