"""Test options of deblurring."""

from collections.abc import Sequence
from dataclasses import dataclass

from options.base_options import TestConfig, parse_testing
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


class TestOptions:
    """The command line of `test.py` for deblurring."""

    __test__ = False  # pytest: not a test class

    def parse(self, arguments: Sequence[str] | None = None) -> DeblurTestConfig:
        """The options given (sys.argv's by default), the rest by default. A wrong one ends with exit code 2.

        Raises:
            UserError: see `parse_testing`.
        """
        return parse_testing(DeblurTestConfig, "Evaluates a deblurring network.", arguments, RULES)
