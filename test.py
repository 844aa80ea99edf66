"""Evaluates the newest run, or the one named, or compares several: python test.py [--run=NAME | --compare all]"""

from functools import partial
from pathlib import Path

from apputils.runs.console import exit_codes
from apputils.runs.folders import recorded_optform
from options.applications import application_on_command_line, find_application, named_on_command_line


@exit_codes
def main() -> None:
    """Parses, builds and runs."""
    recorded = recorded_optform(named_on_command_line("--run"), named_on_command_line("--model"))
    application = application_on_command_line(recorded)
    opt = application.load("test_options")().parse()

    from engine.commands.baseline import second_baseline
    from engine.commands.compare import compare  # imports torch, which --help and wrong options need not wait for
    from engine.commands.find_checkpoint import about, find_subject
    from engine.distributed.process_group import in_one_process
    from engine.goals.verdict import check_goals

    in_one_process("test.py")
    if opt.compare or opt.benchmark:
        compare(opt, find_application)
        return
    opt, checkpoint = find_subject(opt)  # read once; whoever needs it is given it
    if checkpoint["optform"] != application.name:  # the run's logs, which tell it without torch, are gone
        application = find_application(checkpoint["optform"])
        opt = about(application.load("test_options")().parse(), Path(opt.model), checkpoint)
    tester = application.load("tester")(opt, application.load("testing_loader")(opt, checkpoint), checkpoint)
    tester.second = partial(second_baseline, tester) if opt.baseline else None
    check_goals(tester.run())


if __name__ == "__main__":
    main()
