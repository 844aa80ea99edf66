"""Measuring goes on until a bound is decided, up to a stated number of rounds; no clock is asked here."""

import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import cycle
from pathlib import Path

import onnx
import pytest
import torch

from compress.analysis.latency_model.kernels import kernel_model
from compress.analysis.latency_model.layers import Kind
from compress.export import latency
from compress.export.latency import Way
from compress.goals import latency as goals_latency
from compress.goals import runtimes
from compress.goals.judge import Value
from compress.goals.latency import measure_ratio, median_noise, order_noise


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[float]], None]:
    """A dense file that takes 1 s, and another whose calls take these times in turns."""

    def use(times: list[float]) -> None:
        own = cycle(times)
        taken = {"dense.onnx": lambda: 1.0, "own.onnx": lambda: next(own)}
        found = lambda _, files, *__: nullcontext(({name: taken[f.name] for name, f in files.items()}, "float32"))  # noqa: E731
        monkeypatch.setattr(goals_latency, "timed_in", found)
        monkeypatch.setattr(latency, "_warm_up", lambda way, seconds: 1)
        monkeypatch.setattr(latency, "_seconds", lambda way, calls: way())

    return use


def ratio(bound: float | None, most: int = 100) -> Value:
    return measure_ratio(
        Path("own.onnx"), Path("dense.onnx"), (torch.zeros(1),), "onnxruntime", bound, most_rounds=most
    )


def test_a_clear_value_takes_the_first_rounds_only(ways: Callable[[list[float]], None]) -> None:
    times = [0.3, 0.4, 0.5]
    ways(times)
    found = ratio(0.8)
    assert "24 rounds in turns, 8 loads" in found.note
    assert found.number == pytest.approx(0.4)
    low, _, high = statistics.quantiles(times * 8, n=4, method="inclusive")
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert found.noise == pytest.approx(1.57 * (high - low) / 24**0.5)


def test_more_rounds_decide_a_close_one(ways: Callable[[list[float]], None]) -> None:
    ways([0.3, 0.4, 0.5])
    found = ratio(0.45)
    rounds = int(found.note.split()[0])
    assert 24 < rounds < 100
    assert found.noise < 0.05


def test_the_bound_of_measuring_is_kept_and_said(ways: Callable[[list[float]], None]) -> None:
    ways([0.3, 0.4, 0.5])
    note = ratio(0.4, 60).note
    assert note.startswith("60 rounds")
    assert "still within the noise of the bound, and no more rounds are measured" in note


def test_without_a_bound_no_round_is_added(ways: Callable[[list[float]], None]) -> None:
    ways([0.3, 0.4, 0.5])
    assert "24 rounds" in ratio(None).note


def test_loads_that_differ_are_noise(monkeypatch: pytest.MonkeyPatch, ways: Callable[[list[float]], None]) -> None:
    """A file that takes 0.45 to 0.55 s according to how it was loaded, always the same within a load."""
    of_load = cycle([0.45, 0.55, 0.46, 0.54, 0.47, 0.53, 0.48, 0.52])

    def load(_: str, files: dict[str, Path], *__: object) -> AbstractContextManager[tuple[dict[str, Way], str]]:
        taken = {"dense.onnx": 1.0, "own.onnx": next(of_load)}
        return nullcontext(({name: partial(taken.__getitem__, file.name) for name, file in files.items()}, "float32"))

    ways([])
    monkeypatch.setattr(goals_latency, "timed_in", load)
    found = ratio(None)
    assert found.number == pytest.approx(0.5, abs=0.02)
    assert found.noise == pytest.approx(0.04)  # from 0.46 to 0.54
    assert "still within the noise" in ratio(0.5).note


@pytest.mark.parametrize(("most", "loads"), [(4, 2), (5, 2), (7, 3), (24, 8), (60, 11), (300, 27)])
def test_the_most_rounds_are_all_used_and_kept(ways: Callable[[list[float]], None], most: int, loads: int) -> None:
    ways([0.3, 0.4, 0.5])
    assert ratio(0.4, most).note.startswith(f"{most} rounds in turns, {loads} load")


def test_one_load_is_refused(ways: Callable[[list[float]], None]) -> None:
    ways([0.3])
    with pytest.raises(ValueError, match="most_rounds=3"):
        ratio(None, 3)


@pytest.mark.parametrize("count", [5, 8, 20])
def test_noise_by_order_holds_the_median(count: int) -> None:
    """Of 4000 samples the interval misses in about 7 % or less."""
    draw = torch.Generator().manual_seed(0)
    samples = torch.rand(4000, count, generator=draw, dtype=torch.float64)
    missed = sum(abs(statistics.median(each.tolist()) - 0.5) > order_noise(each.tolist()) for each in samples) / len(
        samples
    )
    assert missed < 0.08
    assert order_noise([1.0, 2.0]) == 0.5


def test_noise_is_that_of_a_median() -> None:
    """Against the spread of medians of many samples of 25 normal numbers: 1.96 of its deviations, within a quarter."""
    draw = torch.Generator().manual_seed(0)
    samples = 1 + 0.1 * torch.randn(4000, 25, generator=draw, dtype=torch.float64)
    deviation = float(samples.quantile(0.5, 1).std())
    widths = []
    for sample in samples[:500]:
        found = latency._latency(sample.tolist(), [1.0] * 25, 1)
        widths.append(median_noise(found.ratio_low, found.ratio_high, found.rounds))
    assert statistics.mean(widths) == pytest.approx(1.96 * deviation, rel=0.25)


def test_another_runtime_runs_the_same_file(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    file = tmp_path / "net.onnx"
    onnx.save(kernel_model(Kind("linear", (2,)), 3, 3, False), file)
    x = torch.rand(2, 4)
    for runtime in ("onnxruntime", "openvino"):
        with runtimes.timed_in(runtime, {"a": file}, (x,), 1) as (ways, precision):
            assert ways["a"]() is not None
        assert precision in ("float32", "bfloat16")
        assert f"floats in {precision}" in measure_ratio(file, file, (x,), runtime, most_rounds=4).note
