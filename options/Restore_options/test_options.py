"""Test options of restoration."""

from collections.abc import Sequence
from dataclasses import dataclass

from options.base_options import TestConfig, TestingOptions
from options.option import option
from options.own_network import allow


@dataclass(frozen=True)
class RestoreTestConfig(TestConfig):
    """Options of `test.py` for restoration."""

    degradation: str | None = option(
        None, "what is done to the sharp images (default: what the network was trained with)", metavar="KIND:N"
    )


class TestOptions(TestingOptions[RestoreTestConfig]):
    """The command line of `test.py` for restoration."""

    config = RestoreTestConfig
    purpose = "Evaluates a restoration network."

    def parse(self, arguments: Sequence[str] | None = None) -> RestoreTestConfig:
        """See `TestingOptions`; code of one's own that is named may be imported."""
        config = super().parse(arguments)
        allow(part.strip() for part in (config.degradation or "").split("+"))
        return config
