"""Test options of restoration."""

from dataclasses import dataclass

from options.base_options import TestConfig, TestingOptions
from options.option import option


@dataclass(frozen=True)
class RestoreTestConfig(TestConfig):
    """Options of `test.py` for restoration."""

    degradation: str | None = option(
        None, "what is done to the sharp images (default: what the network was trained with)", metavar="KIND:N",
        own_code=True,
    )  # fmt: skip


class TestOptions(TestingOptions[RestoreTestConfig]):
    """The command line of `test.py` for restoration."""

    config = RestoreTestConfig
    purpose = "Evaluates a restoration network."
