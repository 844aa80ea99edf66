"""Evaluates the newest run, or the one named: python test.py [--run=NAME | --model=CHECKPOINT]"""

from apputils.console import exit_codes
from apputils.runs import recorded_optform
from options.applications import DEFAULT, find_application, named_on_command_line


@exit_codes
def main() -> None:
    """Parses, builds and runs."""
    recorded = recorded_optform(named_on_command_line("--run"), named_on_command_line("--model"))
    options = find_application(named_on_command_line("--optform") or recorded or DEFAULT).load("test_options")
    opt = options().parse()

    from models.subject import find_subject  # imports torch, which --help and wrong options need not wait for

    opt, checkpoint = find_subject(opt)
    application = find_application(checkpoint["optform"])
    testing_loader = application.load("testing_loader")(opt, checkpoint)
    application.load("tester")(opt, testing_loader).run(opt)


if __name__ == "__main__":
    main()
