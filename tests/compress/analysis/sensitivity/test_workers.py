"""Processes that share an analysis: how they end, and what they cannot share."""

import contextlib
import json
import logging
import math
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.modules.module as every_module
from torch import nn

from compress.analysis.sensitivity.analysis import Settings, sensitivity_analysis
from compress.analysis.sensitivity.evaluation import Evaluation
from compress.analysis.sensitivity.record import Record
from compress.analysis.sensitivity.workers import _difference, _ended_by_sigterm


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


@contextlib.contextmanager
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    ("setting", "reason"),
    [(lambda: torch.autocast("cpu", torch.bfloat16), "torch.autocast around"), (double, "default type torch.float64")],
)
def test_settings_of_this_process_keep_it_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, setting: Callable[[], Any], reason: str
) -> None:
    model, evaluation = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), Evaluation([torch.rand(2, 4)], squares)
    with setting():
        table = sensitivity_analysis(model, tmp_path / "a.xlsx", evaluation, "element", [0.5], Settings(jobs=2))
        assert table["quality"][0] == pytest.approx(evaluation(model)["quality"])
    assert f"in one process instead of 2: {'the ' if 'default' in reason else ''}{reason}" in caplog.text


def squares(outputs: Iterable[torch.Tensor]) -> float:
    return float(sum(each.double().square().sum() for each in outputs))


FACTOR = 1.0  # other processes import this module anew


class Scaled(nn.Module):
    """Reads a global of its module."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(self.one(x * FACTOR))


@pytest.mark.slow
@pytest.mark.parametrize("fails", [False, True])
def test_what_is_changed_at_run_time_is_found_by_the_dense_network(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    model, evaluation = Scaled(), Evaluation([torch.rand(2, 4)], squares)
    if fails:
        monkeypatch.setattr(torch.Tensor, "of_this_process", lambda x: x * 2, raising=False)
        model = Patched()
    else:
        monkeypatch.setattr(sys.modules[__name__], "FACTOR", 2.0)
    alone = sensitivity_analysis(model, tmp_path / "a.xlsx", evaluation, "element", [0.5])
    table = sensitivity_analysis(model, tmp_path / "b.xlsx", evaluation, "element", [0.5], Settings(jobs=2))
    assert table["quality"].tolist() == alone["quality"].tolist()
    reason = "the dense network fails with AttributeError" if fails else "the dense network's quality is"
    assert "in one process instead of 2" in caplog.text
    assert reason in caplog.text


class Patched(Scaled):
    """Calls a method that is added at run time."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.of_this_process())


def test_dense_metrics_of_two_processes_are_told_apart() -> None:
    assert _difference({"a": 1.0, "b": math.nan, "c": math.inf}, {"a": 1 + 1e-7, "b": math.nan, "c": math.inf}) == ""
    for other in ({"a": 1.001}, {"a": math.nan}, {}, {"a": 1.0, "b": math.nan}):
        assert "the dense network" in _difference({"a": 1.0}, other)
