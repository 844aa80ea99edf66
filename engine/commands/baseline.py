"""The quality of another run's network, beside which the evaluated one is put: `test.py --baseline RUN`.

`second_baseline`.
"""

import dataclasses
import logging

from apputils.runs.folders import find_run
from compress.errors import UserError
from engine.application import TestedApplication
from engine.saved.find_checkpoint import load_subject

logger = logging.getLogger("run")


def second_baseline(tester: TestedApplication) -> tuple[str, dict[str, float]]:
    """The name and the metrics of the run of `--baseline`, its best network measured on the same data.

    Args:
        tester: of the evaluated network; its options name the run.

    Raises:
        UserError: there is no such run, it is of another application, or it cannot be measured on the same data.
    """
    run = find_run(tester.config.baseline)
    checkpoint = load_subject(run.best)
    if checkpoint["optform"] != tester.checkpoint["optform"]:
        raise UserError(
            f"--baseline={run.name} is of --optform={checkpoint['optform']}, and {tester.config.model} of "
            f"{tester.checkpoint['optform']}: metrics of different applications are not mixed"
        )
    opt = dataclasses.replace(tester.config, model=str(run.best), run=None)
    application = tester.application
    other: TestedApplication = application.load("tester")(
        opt, application.load("testing_loader")(opt, checkpoint), checkpoint
    )
    here, there = tester.measured_on(), other.measured_on()
    if here != there:
        differing = ", ".join(f"{name} {there.get(name)} instead of {here[name]}" for name in here
                              if here[name] != there.get(name))  # fmt: skip
        raise UserError(f"--baseline={run.name} is measured on other data: {differing}; give --testdata for both")
    logger.info("the second baseline: %s (epoch %d)", run.best, checkpoint["epoch"])
    return f"run {run.name}", other.test(other.build_model())
