"""Code under `torch.no_grad()`, `torch.autocast(...)` and `torch.cond` inside a forward: graph, MACs, thinning."""

import logging

import pytest
import torch
from torch import nn

from compress.analysis.macs.display import macs_text
from compress.analysis.macs.layers import macs_table
from compress.graph.channels import channel_graph
from compress.graph.macs.count import count_macs
from compress.graph.regions import has_subgraph
from compress.graph.trace import export_model, module_of, operation_name, shape_of, trace_model
from compress.quantization.range_linear import QuantAwareTrainRangeLinearQuantizer
from compress.thinning.thin import remove_units
from compress.thinning.trials.trial import prunable_graph

BATCH = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
MACS = 2 * 64 * (27 * 8 + 72 * 8 + 8 * 4)


class Plain(nn.Module):
    """The network that all the others compute too."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        return self.c(self.b(self.a(x).relu()).relu())


class NoGrad(Plain):
    def forward(self, x):
        with torch.no_grad():
            y = self.a(x).relu()
        return self.c(self.b(y).relu())


class Autocast(Plain):
    def forward(self, x):
        with torch.autocast("cpu", enabled=False):
            y = self.b(self.a(x).relu()).relu()
        return self.c(y)


class Nested(Plain):
    """A region in a region, two results, and the last one is what the network returns."""

    def forward(self, x):
        with torch.no_grad():
            y = self.a(x)
            with torch.autocast("cpu", enabled=False):
                y, z = y.relu(), torch.tensor([0.0, 0.0]).sum()
            return self.c((self.b(y) + z).relu())


class Cond(Plain):
    """Which branch runs depends on the values."""

    def __init__(self):
        super().__init__()
        self.d = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        y = super().forward(x)
        return torch.cond(x.sum() > 0, lambda t: self.d(t), lambda t: self.d(t) * 2, (y,))


@pytest.mark.parametrize("kind", [NoGrad, Autocast, Nested])
def test_a_region_is_as_if_it_were_not_there(kind, caplog):
    plain, model = Plain(), kind()
    trace = trace_model(model, BATCH)
    layers = [module_of(node) for node in trace.operations if operation_name(node) == "conv2d"]
    assert layers == ["a", "b", "c"]
    assert [shape_of(node) for node in trace.results] == [(2, 4, 8, 8)]
    assert channel_graph(model, BATCH).describe() == channel_graph(plain, BATCH).describe()
    report = count_macs(model, BATCH)
    assert (report.total, report.left_out) == (MACS, ())
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]

    graph = prunable_graph(model, BATCH)
    removed = {group.name: [0, 3] for group in graph.groups(prunable_only=True)}
    assert list(removed) == ["a.weight[0]", "b.weight[0]"]
    assert remove_units(model, graph, removed, BATCH).difference < 1e-5
    assert (model.b.weight.shape[:2], model.c.weight.shape[1]) == ((6, 6), 6)


@pytest.mark.parametrize("kind", [NoGrad, Autocast, Nested])
def test_quantizers_see_the_layers_of_a_region(kind):
    seen = []
    for model in (Plain(), kind()):
        quantizer = QuantAwareTrainRangeLinearQuantizer(8, 8, example_inputs=BATCH)
        quantizer.prepare(model, None)
        seen.append((quantizer.bits_table(), quantizer.left_float))
    assert seen[1][0] == seen[0][0]
    assert "the traced forward pass does not call it" not in seen[1][1].values()


def test_branches_are_a_boundary():
    model = Cond()
    graph = prunable_graph(model, BATCH)
    assert {group.name for group in graph.groups(prunable_only=True)} == {"a.weight[0]", "b.weight[0]"}
    assert graph.why_pinned("c.weight") == ("no rule for the operation (cond in the model)",)
    assert graph.why_pinned("d.weight") == ("no rule for the operation (cond in the model)",)
    removed = {"a.weight[0]": [0, 3], "b.weight[0]": [7]}
    assert remove_units(model, graph, removed, BATCH).difference < 1e-5
    assert model.b.weight.shape[:2] == (7, 6)


def test_macs_say_that_they_leave_branches_out(caplog):
    with caplog.at_level(logging.WARNING):
        assert count_macs(Cond(), BATCH).total == MACS
    assert [record.message for record in caplog.records if record.name == "compress"] == [
        "MACs leave out cond in the model"
    ]
    assert "not counted: cond in the model" in macs_text(macs_table(Cond(), BATCH))


def test_a_network_with_branches_is_quantized():
    model = Cond()
    quantizer = QuantAwareTrainRangeLinearQuantizer(8, 8, example_inputs=BATCH)
    quantizer.prepare(model, None)
    assert quantizer.left_float["d.input"] == "the traced forward pass does not call it"
    assert torch.isfinite(model(BATCH)).all()


def test_blocks_without_gradients_leave_no_sub_graphs() -> None:
    """A sub-graph each would cost a time that grows with the square of their number; fake quantizers have one each."""
    net = Blocks()
    program = export_model(net, torch.rand(1, 3, 8, 8))
    assert not [node for node in program.graph.nodes if has_subgraph(node)]
    torch.testing.assert_close(program.module()(x := torch.rand(1, 3, 8, 8)), net(x))
    assert torch.is_grad_enabled()


class Blocks(nn.Module):
    """A scale computed without gradients in front of each of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            with torch.no_grad():
                scale = layer.weight.abs().max()
            x = layer(x) / scale
        return x
