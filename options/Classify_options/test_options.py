"""Test options of classification."""

from dataclasses import dataclass

from options.base_options import TestConfig, TestingOptions
from options.option import option
from options.rules import Rule


@dataclass(frozen=True)
class ClassifyTestConfig(TestConfig):
    """Options of `test.py` for classification; classes, size and normalisation are the checkpoint's."""

    testdata: str | None = option(
        None,
        "test images (default: the test part of the training data, or else what was held out of training)",
        metavar="PLACE",
    )
    predict: str | None = option(
        None, "folder of images without labels: write predictions.csv and measure nothing", metavar="FOLDER"
    )


RULES: tuple[Rule[ClassifyTestConfig], ...] = (
    Rule(("predict",), lambda c: c.testdata is None, "takes its images from its own folder, not --testdata"),
)


class TestOptions(TestingOptions[ClassifyTestConfig]):
    """The command line of `test.py` for classification."""

    config = ClassifyTestConfig
    purpose = "Evaluates a classifier."
    rules = RULES
