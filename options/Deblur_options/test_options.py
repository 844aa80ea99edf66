"""Test options of deblurring."""

from dataclasses import dataclass

from options.base_options import TestConfig, TestingOptions
from options.option import option
from options.rules import Rule


@dataclass(frozen=True)
class DeblurTestConfig(TestConfig):
    """Options of `test.py` for deblurring; the network and how blur is made are the checkpoint's."""

    testdata: str | None = option(
        None, "folder of test pairs (default: the test part of the training data)", metavar="FOLDER"
    )
    sharp_only: bool = option(False, "take the images of --testdata as sharp ones, and blur them with fixed seeds")


RULES: tuple[Rule[DeblurTestConfig], ...] = (
    Rule(("sharp_only",), lambda c: c.testdata, "says what --testdata holds; name that too"),
)


class TestOptions(TestingOptions[DeblurTestConfig]):
    """The command line of `test.py` for deblurring."""

    config = DeblurTestConfig
    purpose = "Evaluates a deblurring network."
    rules = RULES
