"""Evaluates the newest run, or the one named, or compares several: python test.py [--run=NAME | --compare all]"""

from apputils.runs.console import exit_codes
from apputils.runs.folders import recorded_optform
from apputils.runs.lasting_imports import lasting_imports
from options.applications import application_on_command_line, find_application, named_on_command_line


@exit_codes
def main() -> None:
    """Parses, builds and runs."""
    recorded = recorded_optform(named_on_command_line("--run"), named_on_command_line("--model"))
    application = application_on_command_line(recorded)
    opt = application.load("test_options")().parse()

    with lasting_imports():  # of torch, which --help and wrong options need not wait for
        from engine.commands.evaluate import evaluate
        from engine.distributed.process_group import in_one_process
        from engine.goals.verdict import check_goals

    in_one_process("test.py")
    if opt.compare or opt.benchmark:
        from engine.commands.compare import compare

        compare(opt, find_application)
    else:
        check_goals(evaluate(application, opt))


if __name__ == "__main__":
    main()
