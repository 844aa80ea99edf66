"""Trains a network under a compression schedule: python train.py --optform=SR --compress=agp_prune.yaml"""

from apputils.console import exit_codes
from options.applications import DEFAULT, find_application, named_on_command_line


@exit_codes
def main() -> None:
    """Parses, builds and runs."""
    application = find_application(named_on_command_line("--optform") or DEFAULT)
    config = application.load("train_options")().parse()

    from models.run_state import resumed  # imports torch, which --help and wrong options need not wait for

    config = resumed(config)
    training_loader, validation_loader = application.load("training_loaders")(config)
    application.load("trainer")(config, training_loader, validation_loader).run()


if __name__ == "__main__":
    main()
