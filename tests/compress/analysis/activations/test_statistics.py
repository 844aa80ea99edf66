"""Statistics of outputs, against the outputs themselves."""

import csv
from pathlib import Path

import numpy as np
import openpyxl
import pytest
import torch
from torch import Tensor, nn

from compress.analysis.activations.collectors import COLLECTORS, Counts, HistogramCollector, Output, StdCollector
from compress.analysis.activations.statistics import ActivationStatistics, write_activations

BATCHES = [torch.randn(n, 3, 6, 6) for n in (4, 1, 3)]  # of different sizes: a mean of means would be wrong


def outputs_of(net: nn.Sequential, layer: int) -> np.ndarray:
    with torch.no_grad():
        return torch.cat([net[: layer + 1](batch) for batch in BATCHES]).double().numpy()


@pytest.fixture
def watched(net: nn.Sequential) -> ActivationStatistics:
    with torch.no_grad(), ActivationStatistics(net) as statistics:
        for batch in BATCHES:
            net(batch)
    return statistics


def test_numbers_are_those_of_all_outputs_together(net: nn.Sequential, watched: ActivationStatistics) -> None:
    layers = watched.report().layers.set_index("layer")
    assert list(layers.index) == ["0", "1", "2", "3", "4", "5"]
    for name in ("0", "1", "5"):
        values, row = outputs_of(net, int(name)), layers.loc[name]
        assert row["sparsity"] == pytest.approx((values == 0).mean())
        assert row["mean"] == pytest.approx(values.mean(), abs=1e-7)
        assert row["std"] == pytest.approx(values.std(), rel=1e-6)
        assert (row["min"], row["max"]) == pytest.approx((values.min(), values.max()))
        assert row["calls"] == 3
    assert 0.3 < layers.loc["1", "sparsity"] < 0.7  # behind a ReLU
    assert layers.loc["0", "kind"] == "Conv2d"


def test_apoz_is_of_each_channel(net: nn.Sequential, watched: ActivationStatistics) -> None:
    channels = watched.report().channels
    values = outputs_of(net, 1)
    expected = (values == 0).mean(axis=(0, 2, 3))
    assert channels[channels["layer"] == "1"]["apoz"].tolist() == pytest.approx(expected.tolist())
    assert len(channels[channels["layer"] == "5"]) == 2  # a linear layer's outputs


def test_channels_of_sequences_come_last() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    with torch.no_grad(), ActivationStatistics(net) as statistics:
        net(torch.randn(2, 7, 3))
    channels = statistics.report().channels
    assert channels.groupby("layer").size().to_dict() == {"0": 4, "1": 4}


def test_histogram_counts_every_value_through_growing_ranges() -> None:
    collector = HistogramCollector()
    parts = [torch.rand(1, 500) * 0.4, torch.randn(1, 500), 30 * torch.randn(1, 500), torch.zeros(1, 9)]
    for part in parts:
        collector.add(Output(part))
    found, every = collector.value(), torch.cat(parts, dim=1).numpy()
    assert sum(found.counts) == 1500
    expected, _ = np.histogram(every[every != 0], bins=np.array(found.edges))
    assert np.abs(expected - np.array(found.counts)).sum() <= 2  # a value on an edge may fall to either side


def test_every_collector_agrees_with_a_plain_count() -> None:
    torch.manual_seed(3)
    values = torch.relu(torch.randn(5, 70_000)) - torch.rand(5, 1).round()  # zeros, and negative channels
    found = {}
    for kind in COLLECTORS:
        collector = kind()
        for part in values.split(30_000, dim=1):
            collector.add(Output(part))
        found[kind.name] = collector.value()
    plain = values.double().numpy()
    assert found["sparsity"] == (plain == 0).mean()
    assert found["apoz"] == (plain == 0).mean(axis=1).tolist()
    assert (found["min"], found["max"]) == (plain.min(), plain.max())
    assert (found["mean"], found["std"]) == pytest.approx((plain.mean(), plain.std()), rel=1e-12)
    bins = found["histogram"]
    assert isinstance(bins, Counts)
    assert bins.counts == np.histogram(plain[plain != 0], bins=np.array(bins.edges))[0].tolist()


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
def test_a_sample_that_is_not_finite_is_left_out_whole(wrong: float) -> None:
    batch = torch.randn(3, 4, 5, 5)
    batch[1, 2, 3, 3] = wrong
    with ActivationStatistics(nn.Identity()) as statistics:
        statistics._model(batch)
    row, rest = statistics.report().layers.iloc[0], batch[[0, 2]].double()
    assert row["mean"] == pytest.approx(float(rest.mean()), rel=1e-12)
    assert (row["min"], row["max"]) == (float(rest.min()), float(rest.max()))


def test_counts_of_more_values_than_float32_can_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compress.analysis.activations.collectors.COUNTED", 7)
    collector = HistogramCollector()
    collector.add(Output(torch.tensor([[0.0, 0.0, 0.5, -0.5, 1.0] * 10])))
    assert sum(collector.value().counts) == 30


def test_deviations_far_from_zero_keep_their_digits() -> None:
    collector = StdCollector()
    values = 1e4 + torch.randn(4, 1000, dtype=torch.float64)
    for part in values:
        collector.add(Output(part[None]))
    assert collector.value() == pytest.approx(float(values.std(correction=0)), rel=1e-9)


def test_only_the_first_calls_are_watched_and_hooks_are_gone_afterwards(net: nn.Sequential) -> None:
    with torch.no_grad(), ActivationStatistics(net, calls=1) as statistics:
        before = [net(batch) for batch in BATCHES]
    assert set(statistics.report().layers["calls"]) == {1}
    with torch.no_grad():
        assert all(torch.equal(a, net(batch)) for a, batch in zip(before, BATCHES, strict=True))
    assert not any(module._forward_hooks for module in net.modules())


def test_disabled_it_watches_nothing(net: nn.Sequential, tmp_path: Path) -> None:
    with torch.no_grad(), ActivationStatistics(net, enabled=False) as statistics:
        net(BATCHES[0])
    assert len(statistics.report().layers) == 0


def test_files_hold_the_numbers(watched: ActivationStatistics, tmp_path: Path) -> None:
    report = watched.report()
    write_activations(report, tmp_path / "a.xlsx")
    book = openpyxl.load_workbook(tmp_path / "a.xlsx")
    head, first = list(book["activations"].iter_rows(min_row=3, max_row=4, values_only=True))
    assert dict(zip(head, first, strict=True))["mean"] == pytest.approx(report.layers.iloc[0]["mean"])
    assert book["apoz"].max_row == 3 + len(report.channels)
    with (tmp_path / "a.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[1]["sparsity"]) == pytest.approx(report.layers.iloc[1]["sparsity"])
    with (tmp_path / "a_apoz.csv").open() as file:
        apoz = [(row["layer"], int(row["channel"]), float(row["apoz"])) for row in csv.DictReader(file)]
    assert apoz == list(report.channels.itertuples(index=False, name=None))
    with (tmp_path / "a_histograms.csv").open() as file:
        counts = [int(row["count"]) for row in csv.DictReader(file) if row["layer"] == "1"]
    assert counts == report.histograms["1"].counts


def test_dead_channels_are_counted(net: nn.Sequential) -> None:
    with torch.no_grad():
        net[0].bias[1:3] = -1e3
        with ActivationStatistics(net) as statistics:
            net(BATCHES[0])
    rows = statistics.report().layers
    assert dict(zip(rows["layer"], rows["dead_channels"], strict=True)) == {
        "0": 0,
        "1": 2,
        "2": 0,
        "3": 0,
        "4": 0,
        "5": 0,
    }


def test_layers_that_return_several_tensors_are_read_by_the_first() -> None:
    net = nn.LSTM(3, 4)
    with torch.no_grad(), ActivationStatistics(net) as statistics:
        result, _ = net(torch.randn(5, 2, 3))
    row = statistics.report().layers.iloc[0]
    assert row["mean"] == pytest.approx(float(result.mean()))


def test_every_statistic_has_its_own_name() -> None:
    names = [collector.name for collector in COLLECTORS]
    assert len(set(names)) == len(names) == 7


def test_whole_numbers_are_no_activations() -> None:
    class Count(nn.Module):
        def forward(self, values: Tensor) -> Tensor:
            return values.argmax(dim=1)

    with ActivationStatistics(Count()) as statistics:
        statistics._model(torch.randn(2, 3))
    assert len(statistics.report().layers) == 0
