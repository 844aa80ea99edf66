"""A latency model: from tables to predictions, steps and widths, by times that the test makes up; no clock decides."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from compress.analysis.latency_model import __main__ as main_module
from compress.analysis.latency_model import budget, build
from compress.analysis.latency_model.__main__ import main
from compress.analysis.latency_model.advice import advice_of
from compress.analysis.latency_model.kernels import ENDS, WEIGHTS, kernel_model, write_kernels
from compress.analysis.latency_model.knapsack import widths_for
from compress.analysis.latency_model.layers import Kind, layers_of, without
from compress.analysis.latency_model.model import LatencyModel
from compress.analysis.latency_model.plan import Sweep, evenly
from compress.analysis.latency_model.table import (
    nonnegative,
    step_of,
    table_of,
    useful_widths,
    value_at,
    widths_to_measure,
)  # fmt: skip
from compress.config import dict_config
from compress.errors import UserError
from compress.export.layer_times import layer_times
from compress.graph.channels import ChannelGraph
from compress.thinning.trials.trial import prunable_graph

X = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
STEP = 4


class Small(nn.Module):
    """A convolution, a depthwise one, a residual pair and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.depth = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.second, self.head = nn.Conv2d(16, 16, 1), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 3, 8, 8) -> (n, 5)."""
        x = self.depth(torch.relu(self.first(x)))
        return self.head(torch.relu(self.second(x) + x).mean((2, 3)))  # type: ignore[no-any-return]


def stairs(channels: int) -> int:
    return -(-channels // STEP) * STEP


def invented(kind: Kind, widths: Any, int8: bool, threads: int, rounds: int = 0) -> list[float]:
    """Milliseconds of a machine whose blocks have 4 channels; integers take half the time."""
    per = 1e-4 * np.prod(kind.size[1:]) if kind.operation == "conv2d" else 1e-4
    inner = [1 if kind.groups == 0 else stairs(a) for a, _ in widths]
    return [float(per * a * stairs(b) * (0.5 if int8 else 1)) for a, (_, b) in zip(inner, widths, strict=True)]


@pytest.fixture
def subject(monkeypatch: pytest.MonkeyPatch) -> tuple[nn.Module, ChannelGraph, LatencyModel]:
    """A network, its graph, and a model measured on the invented machine, whose files take 0.1 ms beside the layers."""
    network = Small().eval()
    graph = prunable_graph(network, X)
    layers = layers_of(network, (X,))

    def sweep(_: object, each: Sweep, threads: int) -> list[float]:
        return invented(each.kind, each.widths, each.precision == "int8", threads)

    def whole(*given: Any) -> list[dict[str, Any]]:
        anchors, precisions = [], given[-1]
        for precision in precisions:
            for share in (1.0, 0.5, 0.25):
                now = without(layers, graph, evenly(graph, share))
                widths = [(each.channels_in, each.channels_out) for each in now]
                times = [
                    invented(each.kind, [pair], precision == "int8", 1)[0]
                    for each, pair in zip(now, widths, strict=True)
                ]
                anchors.append({"share": share, "precision": precision, "widths": widths, "file": 0.1 + sum(times),
                                "bytes": 0, "params": 0})  # fmt: skip
        return anchors

    monkeypatch.setattr(build, "measured_sweep", sweep)
    monkeypatch.setattr(build, "write_whole_files", whole)
    monkeypatch.setattr(build, "measured_files", lambda _, files, *__: files)  # the file is its time
    return network, graph, build.measure_latency_model(network, (X,), graph=graph)


def test_the_layers_of_a_network_and_of_its_thinned_copy(subject: Any) -> None:
    _, graph, model = subject
    assert [str(layer.kind) for layer in model.layers] == [
        "conv 3x3 at 8x8", "depthwise conv 3x3 at 8x8", "conv 1x1 at 8x8", "linear, 1 rows",
    ]  # fmt: skip
    [group] = graph.groups(prunable_only=True)
    removed = {group.name: [1, 2, 7]}
    cut = without(model.layers, graph, removed)
    assert [(each.channels_in, each.channels_out) for each in cut] == [(3, 13), (13, 13), (13, 13), (13, 5)]


def test_a_prediction_is_what_the_invented_machine_takes(subject: Any) -> None:
    _, graph, model = subject
    [group] = graph.groups(prunable_only=True)
    for gone in (0, 3, 4, 9):
        removed = {group.name: list(range(gone))}
        for int8 in (False, True):
            layers = without(model.layers, graph, removed)
            times = [invented(e.kind, [(e.channels_in, e.channels_out)], int8, 1)[0] for e in layers]
            assert model.removed(graph, removed, int8) == pytest.approx(0.1 + sum(times), rel=0.02)
    mixed = model.time(model.layers, ["first"])
    assert model.time(model.layers, True) < mixed < model.time(model.layers)


def test_it_finds_the_machines_steps(subject: Any) -> None:
    _, graph, model = subject
    [(widths, step)] = model.steps(graph).values()
    assert (widths, step) == ([4, 8, 12, 16], STEP)


def test_the_advice_states_its_error_and_is_withheld_where_that_exceeds_the_step(subject: Any) -> None:
    """Every layer has the group's width at least once, so a step of 4 of 16 saves a quarter of their time or more."""
    _, graph, model = subject
    [before] = advice_of(model, graph, "float").values()
    assert before.holds
    assert "4: 4, 8, 12, 16 (a step saves " in str(before)
    wrong = {key: replace(table, error=0.96) for key, table in model.tables.items()}
    [after] = advice_of(replace(model, tables=wrong), graph, "float").values()
    assert after.saves == before.saves
    assert 0.25 <= after.saves < 0.5
    assert str(after) == f"withheld: a step saves {after.saves:.0%}, and the tables err by 96%"
    assert main_module.WITHHELD in main_module.describe(replace(model, tables=wrong), graph)


def test_it_is_kept_with_its_machine(subject: Any, tmp_path: Path) -> None:
    model = subject[2]
    path = tmp_path / "latency_model.json"
    model.save(path)
    again = LatencyModel.load(path)
    assert again.to_dict() == model.to_dict()
    assert again.time(again.layers) == model.time(model.layers)
    path.write_text(path.read_text().replace('"threads": 1', '"threads": 3'))
    LatencyModel.load(path)  # is about three threads; here the runtime may have them too
    path.write_text(path.read_text().replace('"processor": "', '"processor": "Other '))
    with pytest.raises(UserError, match="was measured elsewhere: processor Other .* measure it here"):
        LatencyModel.load(path)
    path.write_text("{}")
    with pytest.raises(UserError, match="is no latency model"):
        LatencyModel.load(path)


def test_another_runtime_has_no_profiler(net: nn.Module) -> None:
    with pytest.raises(UserError, match="which onnxruntime and openvino have, and not litert; goals"):
        build.measure_latency_model(net, (X,), runtime="litert")


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("kind", [
    Kind("conv2d", (2, 6, 5), (3, 3), (2, 2), (1, 1), (1, 1)),
    Kind("conv2d", (1, 6, 5), (3, 3), (1, 1), (1, 1), (1, 1), 0),
    Kind("linear", (3,)),
])  # fmt: skip
def test_a_layers_file_runs_and_its_time_can_be_read(kind: Kind, int8: bool, tmp_path: Path) -> None:
    session = onnxruntime.InferenceSession(kernel_model(kind, 8, 4, int8).SerializeToString())
    shape = session.get_inputs()[0].shape
    assert shape[1] == ENDS
    [out] = session.run(None, {"x": np.zeros(shape, np.float32)})
    assert out.shape[:2] == (kind.size[0], ENDS)
    files = write_kernels(kind, [(8, 4), (4, 4)], int8, tmp_path)
    assert all(each > 0 for each in layer_times(files, 1, rounds=2))
    # The layers of all files read their weights from the beginning of one file, and no further than its end.
    own = next(each for each in onnx.load(files[0]).graph.initializer if each.name == "LAYER_w")
    stored = np.fromfile(tmp_path / WEIGHTS, np.int8 if int8 else np.float32)
    assert onnx.numpy_helper.to_array(own).ravel() == pytest.approx(stored[: int(np.prod(own.dims))])


def test_tables_take_unaligned_widths_once() -> None:
    """Where either width is odd the machine takes twice the time, and not four times where both are."""

    def time(a: int, b: int) -> float:
        return a * b * (2 if a % 4 or b % 4 else 1)

    pairs = [(a, 32) for a in range(1, 33)] + [(32, b) for b in range(1, 33)]
    table = table_of({(a, b): float(time(a, b)) for a, b in pairs}, (32, 32))
    for a, b in ((8, 16), (17, 16), (16, 17), (17, 19)):
        assert table.time(a, b) == pytest.approx(time(a, b), rel=0.15)


def test_widths_between_those_measured() -> None:
    assert widths_to_measure(6) == [1, 2, 3, 4, 5, 6]
    wide = widths_to_measure(320)
    assert len(wide) < 30
    assert {1, 2, 320} <= set(wide)
    curve = tuple((w, float(w)) for w in (8, 16, 24, 32))
    assert value_at(curve, 16) == 16
    assert value_at(curve, 20) == pytest.approx(20)
    assert value_at(curve, 40) == 24  # beyond the last of its alignment
    sparse = tuple((w, float(w)) for w in (1, 2, 64, 128))
    assert value_at(sparse, 32) == pytest.approx(32)  # below the first of its alignment


def test_useful_widths_are_the_right_edges_of_stairs() -> None:
    assert useful_widths([2, 2, 6, 6]) == [2, 4]
    assert useful_widths([1, 2, 3, 4]) == [1, 2, 3, 4]
    assert step_of([16, 32, 48], 48) == 16
    assert step_of([1, 2, 3, 5], 5) == 1


def test_least_squares_without_negative_coefficients() -> None:
    rows = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]])
    assert nonnegative(rows, rows @ [2.0, 3.0]) == pytest.approx([2.0, 3.0])
    assert nonnegative(rows, rows @ [4.0, -1.0])[1] == 0.0


def test_the_knapsack_is_near_the_best_of_all_choices() -> None:
    """Against trying every choice of four groups in a chain, 20 random networks and budgets."""
    found = []
    for seed in range(20):
        draw = np.random.default_rng(seed)
        names, edges = [f"g{i}" for i in range(4)], draw.uniform(0.2, 2, 5)
        choices = dict.fromkeys(names, (2, 4, 8, 12, 16))
        scores = {name: draw.gamma(1, 1, 16) for name in names}
        kept = {name: np.concatenate([[0], np.cumsum(np.sort(each)[::-1])]) for name, each in scores.items()}

        def time(widths: dict[str, int], names: Any = names, edges: Any = edges) -> float:
            chain = [16, *(widths[name] for name in names), 16]
            return float(sum(e * a * b / 256 for e, a, b in zip(edges, chain, chain[1:], strict=False)))

        limit = draw.uniform(0.3, 0.8) * time(dict.fromkeys(names, 16))
        every = [dict(zip(names, each, strict=True)) for each in itertools.product(*choices.values())]
        value = lambda widths, kept=kept: sum(kept[name][w] for name, w in widths.items())  # noqa: E731
        best = max(value(each) for each in every if time(each) <= limit)
        own = widths_for(limit, scores, choices, time)
        assert time(own) <= limit
        found.append(value(own) / best)
    assert min(found) > 0.95
    assert np.mean(found) > 0.99


def test_a_pruner_meets_a_budget_of_time_in_a_runtime(subject: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    network, graph, model = subject
    monkeypatch.setattr(budget, "measure_latency_model", lambda *_, **__: model)
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    pruner = {"class": "GlobalRankedGroupPruner", "target": "latency", "to": 0.6, "runtime": "onnxruntime",
              "weights": ["first.weight"]}  # fmt: skip
    schedule = {"pruners": {"p": pruner}, "policies": [{"pruner": {"instance_name": "p"}, "epochs": [0]}]}
    scheduler = dict_config(network, optimizer, schedule, example_inputs=X)
    scheduler.on_epoch_begin(0, optimizer)
    scheduler.on_minibatch_begin(0, 0, 1, optimizer)
    left = int((network.first.weight.abs().sum((1, 2, 3)) > 0).sum())
    assert left % STEP == 0
    [group] = graph.groups(prunable_only=True)
    assert model.ratio(graph, {group.name: list(range(16 - left))}) <= 0.6
    assert model.ratio(graph, {group.name: list(range(16 - left - STEP))}) > 0.6
    state = scheduler.state_dict()
    assert scheduler.policies[0].pruner.state_dict()["runtime"] == model.to_dict()  # type: ignore[attr-defined]
    again = dict_config(network, optimizer, schedule, example_inputs=X)
    again.load_state_dict(state)
    assert again.policies[0].state_dict() == scheduler.policies[0].state_dict()


def test_a_runtime_is_of_a_latency_target(net: nn.Module) -> None:
    pruner = {"class": "GlobalRankedGroupPruner", "to": 0.6, "runtime": "onnxruntime", "weights": ["0.weight"]}
    schedule = {"pruners": {"p": pruner}, "policies": [{"pruner": {"instance_name": "p"}, "epochs": [0]}]}
    with pytest.raises(UserError, match="runtime 'onnxruntime' is of `target: latency`, and the target is macs"):
        dict_config(net, torch.optim.SGD(net.parameters(), 0.1), schedule, example_inputs=X)


@pytest.mark.parametrize(("arguments", "message"), [
    ([], "give --run=RUN or --model=MODULE:NAME"),
    (["--model=models.C2SRCNN.model:Net"], "--model needs --example-shape"),
    (["--model=no.such:Net", "--example-shape=1x3x8x8"], "No module named"),
    (["--run=absent"], "there is no run in checkpoints/ yet"),
])  # fmt: skip
def test_what_the_command_refuses(
    arguments: list[str], message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_measures_a_network(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = "tests.compress.analysis.latency_model.test_latency_model:Small"
    assert main([f"--model={model}", "--example-shape=1x3x8x8"]) == 0
    assert "widths worth having" in capsys.readouterr().out
    assert LatencyModel.load(Path("results/network/latency_model.json")).precisions == ("float", "int8")
