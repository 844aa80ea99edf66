"""When a search ends, and which latency models a study takes over."""

from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from compress.analysis.latency_model.model import LatencyModel
from engine.search import command
from engine.search.command import Clock, _facts, _search
from engine.search.study import RANDOM


def test_a_random_search_in_which_nothing_is_worth_training_ends_with_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chance may never propose a candidate that is allowed; other samplers begin with one."""
    begun: list[int] = []

    def told(study: Any, trial: Any, trials: Any) -> None:
        begun.append(1)
        study.clock.began -= 60
        if len(begun) > 5:
            raise AssertionError("it goes on after its time")

    clock = Clock(2.5, 30, 1e9)
    study = SimpleNamespace(get_trials=lambda **_: [], clock=clock)
    monkeypatch.setattr("time.monotonic", lambda: 1e9)
    monkeypatch.setattr(command, "told", told)
    monkeypatch.setattr(command, "_best", lambda *_: "none yet")
    monkeypatch.setattr(command, "next_trial", lambda *_: (None, SimpleNamespace(release=lambda: None)))
    trials: Any = SimpleNamespace(subject=SimpleNamespace(seed=0, folder=None), any_trained=lambda _: False)
    config: Any = SimpleNamespace(trials=None)
    pytest.importorskip("optuna")
    _search(study, trials, config, clock, RANDOM)
    assert len(begun) == 3
    with pytest.raises(AssertionError, match="goes on"):
        _search(study, trials, config, clock, "tpe")


def test_a_latency_model_of_two_int8_files_is_not_taken_over() -> None:
    anchors = [{"precision": "float"}] * 18 + [{"precision": "int8"}] * 2
    two, twelve = (LatencyModel((), {}, {}, 1.0, {}, tuple(each)) for each in (anchors, anchors + anchors[-2:] * 5))
    assert (two.is_well_founded, twelve.is_well_founded) == (False, True)


def test_a_dense_run_that_was_trained_anew_is_another_network() -> None:
    about, space = {"goals": []}, SimpleNamespace(described=dict)
    network = nn.Linear(2, 2)
    subject: Any = SimpleNamespace(checkpoint={"network": "a", "task": "b"}, network=network)
    before = _facts(subject, about, space)  # type: ignore[arg-type]
    assert _facts(subject, about, space) == before  # type: ignore[arg-type]
    nn.init.zeros_(network.weight)
    after = _facts(subject, about, space)  # type: ignore[arg-type]
    assert [name for name in before if before[name] != after[name]] == ["dense network (the run was trained anew)"]
