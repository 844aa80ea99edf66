"""The tiny run of super-resolution of tests/engine, and its evaluation."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from apputils.checkpoints.file import load_checkpoint
from data.loaders import sr_testing_loader
from models.SR.tester import XSRCNNTester
from options.Normal_options.test_options import TestOptions
from tests.engine.conftest import trainer_of as trainer_of


@pytest.fixture
def tester_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], XSRCNNTester]:
    """`tester_of("a")` evaluates the best network of run a on the tiny validation image, without a report."""
    monkeypatch.setattr(XSRCNNTester, "example_inputs", lambda self: (torch.zeros(1, 3, 24, 24),))

    def make(run: str) -> XSRCNNTester:
        given = TestOptions().parse([f"--model=checkpoints/{run}/best.pt", "--sense=none", "--no-report"])
        checkpoint = load_checkpoint(f"checkpoints/{run}/best.pt")
        loader = sr_testing_loader(SimpleNamespace(testdata="images/val"), checkpoint)
        return XSRCNNTester(given, loader, checkpoint)

    return make
