"""Test options of super-resolution."""

from dataclasses import dataclass

from options.base_options import TestConfig, TestingOptions


@dataclass(frozen=True)
class SRTestConfig(TestConfig):
    """Options of `test.py` for super-resolution; the upscale factor is the checkpoint's."""


class TestOptions(TestingOptions[SRTestConfig]):
    """The command line of `test.py` for super-resolution."""

    config = SRTestConfig
    purpose = "Evaluates a super-resolution network."
