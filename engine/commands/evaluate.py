"""What `test.py` does with a run or a file: find, build and evaluate it.

`evaluate`. The application is given by the entry point, so that nothing here knows any.
"""

from functools import partial
from pathlib import Path
from typing import Any

from apputils.runs.seed_groups import group_of
from engine.commands.baseline import second_baseline
from engine.commands.seeds import test_seeds
from engine.saved.find_checkpoint import about, find_subject
from options.applications import Application, find_application
from options.configs import TestConfig


def evaluate(application: Application, opt: TestConfig) -> dict[str, Any]:
    """Evaluates the checkpoint that the options mean, or each run of a group of seeds; returns the summary.

    Raises:
        UserError: something the user can mend.
    """
    group = group_of(opt.run)
    if group is not None:
        return test_seeds(opt, group, partial(evaluate, application))
    opt, checkpoint = find_subject(opt)  # read once, and passed on to all that need it
    if checkpoint["optform"] != application.name:  # the run's logs, which say it without torch, are gone
        application = find_application(checkpoint["optform"])
        opt = about(application.load("test_options")().parse(), Path(opt.model or ""), checkpoint)
    tester = application.load("tester")(opt, application.load("testing_loader")(opt, checkpoint), checkpoint)
    tester.second = partial(second_baseline, tester) if opt.baseline else None
    summary: dict[str, Any] = tester.run()
    return summary
