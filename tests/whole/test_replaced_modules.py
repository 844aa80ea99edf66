"""Every kind of module that thinning or quantization puts in place of another: pickled, copied, exported, compiled."""

import copy
import importlib
import io
import pickle

import pytest
import torch
from torch import nn

from compress.quantization.dorefa import DorefaQuantizer
from compress.quantization.lsq import LSQQuantizer
from compress.quantization.modules.activations import ACTIVATIONS
from compress.quantization.modules.layers import LAYERS, normed
from compress.quantization.modules.norms import NORMS
from compress.quantization.pact import PACTQuantizer
from compress.quantization.range_linear import QuantAwareTrainRangeLinearQuantizer
from compress.quantization.wrpn import WRPNQuantizer
from compress.thinning.attention.modules import Headed
from compress.thinning.thin import remove_units
from compress.thinning.trials.trial import prunable_graph
from tests.compress.thinning.attentions import KNOWN, build_attention

QUANTIZERS = [DorefaQuantizer, LSQQuantizer, PACTQuantizer, QuantAwareTrainRangeLinearQuantizer, WRPNQuantizer]
SHAPES = {1: (2, 4, 6), 2: (2, 4, 6, 6), 3: (2, 4, 3, 3, 3)}


def saved_and_loaded(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


WAYS = {
    "pickle": lambda model, inputs: pickle.loads(pickle.dumps(model)),
    "torch.save": lambda model, inputs: saved_and_loaded(model),
    "deepcopy": lambda model, inputs: copy.deepcopy(model),
    "export": lambda model, inputs: torch.export.export(model, (inputs,)).module(),
    "compile": lambda model, inputs: torch.compile(model, backend="eager"),
}


def check(model, inputs, ways=tuple(WAYS)):
    """Whatever it is sent through, it computes the same; and every class can be imported by its name."""
    for module in model.modules():
        kind = type(module)
        if kind.__module__.startswith("compress."):
            assert getattr(importlib.import_module(kind.__module__), kind.__qualname__) is kind
    with torch.no_grad():
        expected = model.eval()(inputs)
        for way in ways:
            torch.testing.assert_close(WAYS[way](model, inputs)(inputs), expected, rtol=1e-12, atol=1e-12, msg=way)
    torch.compiler.reset()


@pytest.mark.parametrize("name", KNOWN)
def test_thinned_attention(name):
    model, inputs = build_attention(name)
    graph = prunable_graph(model, inputs)
    remove_units(model, graph, {group.name: [1] for group in graph.groups(prunable_only=True)}, inputs)
    assert any(isinstance(module, Headed) for module in model.modules())
    check(model, inputs, ("pickle", "torch.save", "deepcopy"))


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("encoder layer", "Swin", "Swin v2", "Swin, video")]


@pytest.mark.parametrize("name", ["multi-head", "MaxViT", *SLOW])
def test_thinned_attention_in_graphs(name):
    model, inputs = build_attention(name)
    graph = prunable_graph(model, inputs)
    remove_units(model, graph, {group.name: [1] for group in graph.groups(prunable_only=True)}, inputs)
    check(model, inputs, ("export", "compile"))


def layer_of(kind):
    """A small float layer, and an input."""
    if kind is nn.Linear:
        return nn.Linear(4, 3), torch.randn(2, 4)
    if kind is nn.Embedding:
        return nn.Embedding(5, 4), torch.arange(4)
    if issubclass(kind, nn.RNNBase | nn.RNNCellBase):
        return kind(4, 3), torch.randn((3, 2, 4) if issubclass(kind, nn.RNNBase) else (2, 4))
    dims = int(kind.__name__[-2])
    return kind(4, 4, 2, groups=2), torch.randn(SHAPES[dims])


class Side(nn.Module):
    """Layers side by side, each with its own example."""

    def __init__(self, kinds):
        super().__init__()
        pairs = [layer_of(kind) if kind in LAYERS else (kind(), torch.randn(2, 4)) for kind in kinds]
        self.layers = nn.ModuleList([layer for layer, _ in pairs])
        for number, (_, example) in enumerate(pairs):
            self.register_buffer(f"example{number}", example)

    def forward(self, x):
        examples = [getattr(self, f"example{number}") for number in range(len(self.layers))]
        return [
            layer(example + x) if example.is_floating_point() else layer(example)
            for layer, example in zip(self.layers, examples, strict=True)
        ]


def quantized_layers(kinds, cls):
    """A network of quantized layers of these kinds, and an input."""
    torch.manual_seed(0)
    model, inputs = Side(kinds), torch.ones(())
    quantizer = cls(bits_activations=8, bits_weights=4, example_inputs=inputs)
    quantizer.prepare(model, torch.optim.SGD(model.parameters(), 0.1))
    quantizer.convert(model)
    model.train()(inputs)
    return model, inputs


@pytest.mark.parametrize("cls", QUANTIZERS)
def test_quantized_layers(cls):
    model, inputs = quantized_layers([*LAYERS, *ACTIVATIONS], cls)
    kinds = {type(layer) for layer in model.layers}
    assert kinds >= {*LAYERS.values()}, {kind.__name__ for kind in kinds}
    check(model, inputs, ("pickle", "torch.save", "deepcopy"))


@pytest.mark.parametrize("cls", [*QUANTIZERS[:1], *(pytest.param(c, marks=pytest.mark.slow) for c in QUANTIZERS[1:])])
def test_quantized_layers_in_graphs(cls):
    check(*quantized_layers([nn.Conv2d, nn.ReLU], cls), ("export", "compile"))


@pytest.mark.slow
def test_every_quantized_layer_in_graphs():
    check(*quantized_layers([*LAYERS, *ACTIVATIONS], QuantAwareTrainRangeLinearQuantizer), ("export", "compile"))


@pytest.mark.parametrize("kind", NORMS, ids=lambda kind: kind.__name__)
def test_held_norms(kind):
    model = normed(kind(4))
    model.hold()
    inputs = torch.randn(SHAPES[int(kind.__name__[-2])])
    check(model, inputs, ("pickle", "torch.save", "deepcopy"))
    assert copy.deepcopy(model).train().training is False
