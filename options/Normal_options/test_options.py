"""Test options of super-resolution."""

from collections.abc import Sequence
from dataclasses import dataclass

from options.base_options import TestConfig, parse_testing


@dataclass(frozen=True)
class SRTestConfig(TestConfig):
    """Options of `test.py` for super-resolution; the upscale factor is the checkpoint's."""


class TestOptions:
    """The command line of `test.py` for super-resolution."""

    __test__ = False  # pytest: not a test class

    def parse(self, arguments: Sequence[str] | None = None) -> SRTestConfig:
        """The options given (sys.argv's by default), the rest by default. A wrong one ends with exit code 2.

        Raises:
            UserError: see `parse_testing`.
        """
        return parse_testing(SRTestConfig, "Evaluates a super-resolution network.", arguments)
