"""Processes that share an analysis: how they end, and what they cannot share."""

import json
import logging
import os
import signal
from pathlib import Path

import pytest
import torch
import torch.nn.modules.module as every_module
from torch import nn

from compress.analysis.sensitivity.analysis import Settings, sensitivity_analysis
from compress.analysis.sensitivity.evaluation import Evaluation
from compress.analysis.sensitivity.record import Record
from compress.analysis.sensitivity.workers import _ended_by_sigterm


def _asked(before: bool) -> None:
    with _ended_by_sigterm() as started:
        if before:
            os.kill(os.getpid(), signal.SIGTERM)
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL  # it has come, and waits
        started()
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("not ended")


@pytest.mark.parametrize("before", [True, False])
def test_sigterm_ends_it_once_all_processes_are_started(before: bool) -> None:
    with pytest.raises(SystemExit, match="143"):
        _asked(before)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_hooks_on_all_modules_are_of_this_process_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    model, inputs = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), [torch.rand(2, 4)]
    evaluation = Evaluation(inputs, lambda outputs: float(sum(each.square().sum() for each in outputs)))
    handle = every_module.register_module_forward_hook(
        lambda module, _, output: output * 2 if isinstance(module, nn.Linear) else None
    )
    try:
        table = sensitivity_analysis(model, tmp_path / "a.xlsx", evaluation, "element", [0.5], Settings(jobs=2))
        dense = evaluation(model)["quality"]
    finally:
        handle.remove()
    assert table["quality"][0] == pytest.approx(dense)
    assert "in one process instead of 2: hooks on all modules" in caplog.text


def test_the_record_has_the_order_of_the_model_whichever_came_first(tmp_path: Path) -> None:
    record = Record(tmp_path / "a.json", {"dense_zeros": {"a": 0.0, "b": 0.0, "c": 0.0}, "weights": {}})
    for name in ("c", "a", "of another share"):
        record.add(name, {"level": 0.5, "zeros": 0.5, "metrics": {}})
    record.write()
    assert list(json.loads((tmp_path / "a.json").read_text())["weights"]) == ["a", "c", "of another share"]
