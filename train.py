"""Trains a network under a compression schedule: python train.py --optform=SR --compress=agp_prune.yaml"""

from apputils.runs.console import exit_codes
from apputils.runs.folders import recorded_optform
from apputils.runs.lasting_imports import lasting_imports
from options.applications import application_on_command_line, named_on_command_line


@exit_codes
def main() -> None:
    """Parses, builds and runs."""
    resumed = named_on_command_line("--resume")
    application = application_on_command_line(recorded_optform(resumed, None) if resumed else None)
    config = application.load("train_options")().parse()

    with lasting_imports():  # of torch, which --help and wrong options need not wait for
        from engine.commands.train import act

    act(application, config)


if __name__ == "__main__":
    main()
