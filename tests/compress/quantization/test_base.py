"""Which layer gets which fake quantizer: bits, overrides, what functions make, faults in words."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.config import dict_config
from compress.errors import ScheduleError, UserError
from compress.quantization.base import Quantizer
from compress.quantization.dorefa import DorefaQuantizer
from compress.quantization.lsq import LSQQuantizer
from compress.quantization.pact import PACTQuantizer
from compress.quantization.range_linear import QuantAwareTrainRangeLinearQuantizer as Qat
from compress.quantization.wrpn import WRPNQuantizer
from tests.compress.harness import one_policy, tiny_net

ALL = [DorefaQuantizer, PACTQuantizer, WRPNQuantizer, Qat, LSQQuantizer]
X = torch.zeros(2, 3, 6, 6)


class Functional(nn.Module):
    """Functions, a sum, a concatenation, a PReLU; `last` reads what `max_pool` let through, `extra` is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.c, self.d = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)
        self.prelu, self.relu, self.tail = nn.PReLU(), nn.ReLU(), nn.Tanh()
        self.last, self.extra = nn.Conv2d(4, 2, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = functional.relu(self.a(x))
        b = self.prelu(self.b(a))
        c = self.c(a + b)
        d = self.relu(self.d(torch.cat([functional.relu(c), a], 1)))
        return self.tail(self.last(functional.max_pool2d(d, 2)))


def prepared(cls: Any, model: nn.Module, **arguments: Any) -> Quantizer:
    """A quantizer after `prepare`."""
    quantizer: Quantizer = cls(**{"bits_activations": 8, "bits_weights": 4, "example_inputs": X, **arguments})
    assert quantizer.faults(model) == []
    quantizer.prepare(model, torch.optim.SGD(model.parameters(), 0.1))
    return quantizer


@pytest.mark.parametrize("cls", ALL)
def test_what_functions_make_is_quantized_where_it_is_read(cls: Any) -> None:
    quantizer = prepared(cls, Functional())
    table = quantizer.bits_table()
    own_input = cls in (Qat, LSQQuantizer)
    assert table == {
        "a": "W4 A8" if own_input else "W4",
        "b": "W4 A8",  # relu, a function
        "c": "W4 A8",  # a sum
        "d": "W4 A8",  # a concatenation
        "prelu": "A8",
        "relu": "A8",
        "last": "W4",  # max_pool2d of what relu has quantized
        "extra": "W4",
    }
    signs = {
        name: slots["input_quantizer"].signed for name, slots in quantizer._pieces.items() if "input_quantizer" in slots
    }
    assert signs == {**({"a": True} if own_input else {}), "b": False, "c": True, "d": False}
    assert quantizer._pieces["prelu"]["output_quantizer"].signed
    assert "tail" in quantizer.left_float
    assert quantizer.left_float["extra.input"] == "the traced forward pass does not call it"
    assert ("a.input" in quantizer.left_float) is not own_input


@pytest.mark.parametrize("cls", ALL)
def test_it_trains(cls: Any) -> None:
    model = Functional()
    quantizer = prepared(cls, model)
    quantizer.convert(model)
    model(torch.randn(2, 3, 6, 6)).square().sum().backward()
    for name, parameter in model.named_parameters():
        if not name.startswith("extra"):
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name


def test_bits_of_layers() -> None:
    table = prepared(
        Qat, tiny_net(), bits_bias=16, first_last_bits=8, overrides={"conv2": {"bits_weights": 2}, "relu2": None}
    ).bits_table()
    assert table == {"conv1": "W8 B16 A8", "relu1": "A8", "conv2": "W2 B16", "fc": "W8 B16"}
    assert prepared(Qat, tiny_net(), num_bits_inputs=5).bits_table()["conv1"] == "W4 A5"
    assert prepared(Qat, tiny_net(), quantize_inputs=False).bits_table()["conv1"] == "W4"
    assert prepared(DorefaQuantizer, tiny_net(), quantize_bias=True).bits_table()["fc"] == "W4 B4"
    assert prepared(DorefaQuantizer, tiny_net(), bits_weights=32).bits_table() == {"relu1": "A8", "relu2": "A8"}


def test_a_layer_left_out_reads_and_holds_floats() -> None:
    quantizer = prepared(LSQQuantizer, Functional(), overrides={"b": None, "c": 6})
    assert "b" not in quantizer.bits_table()
    assert quantizer.bits_table()["c"] == "W6 A6"
    assert quantizer.left_float["b"] == "overrides"


def test_overrides_are_names_globs_and_distillers_expressions() -> None:
    instance = {"class": "DorefaQuantizer", "bits_weights": 4, "bits_activations": 8}
    overrides = {"conv[12]$": {"bits_weights": 2}, "relu*": None, "fc": 6}
    net = tiny_net()
    scheduler = dict_config(
        net, torch.optim.SGD(net.parameters(), 0.1),
        one_policy("quantizers", {**instance, "overrides": overrides}, [0]), X,
    )  # fmt: skip
    assert scheduler.policies[0].bits(0) == {"conv1": "W2", "conv2": "W2", "fc": "W6"}
    assert scheduler.resolved["quantizers"]["it"]["overrides"]["conv1"] == {"bits_weights": 2}


def faults(**instance: Any) -> str:
    """The report of a schedule with one quantizer."""
    net = instance.pop("net", None) or tiny_net()
    with pytest.raises(ScheduleError) as caught:
        dict_config(net, torch.optim.SGD(net.parameters(), 0.1), one_policy("quantizers", instance, [0]), X)
    return str(caught.value)


@pytest.mark.parametrize(
    ("instance", "words"),
    [
        ({"class": "DorefaQuantizer"}, "nothing would be quantized"),
        ({"class": "DorefaQuantizer", "bits_weights": 9}, "bits_weights should"),
        ({"class": "WRPNQuantizer", "bits_weights": 1}, "given 1 bit for the weight; WRPNQuantizer needs at least 2"),
        ({"class": "LSQQuantizer", "bits_activations": 1}, "at least 2 there, because it may be negative"),
        ({"class": "DorefaQuantizer", "bits_weights": 4, "overrides": {"bn1": 8}}, "BatchNorm2d, which is never quant"),
        ({"class": "DorefaQuantizer", "bits_weights": 4, "overrides": {"conv7": 8}}, "did you mean 'conv2' or 'conv1'"),
        ({"class": "DorefaQuantizer", "bits_weights": 4, "overrides": {"conv1": {"wts": 8}}}, "wts"),
        ({"class": "DorefaQuantizer", "bits_bias": 4, "bits_weights": 4, "quantize_bias": False}, "leave one of the"),
        ({"class": "LSQQuantizer", "bits_weights": 4, "freeze_bn_after": 3}, "needs fold_batchnorm: true"),
        (
            {"class": "LSQQuantizer", "bits_weights": 4, "net": nn.Sequential(nn.Flatten(2), nn.LayerNorm(36))},
            "nothing of this Seq",
        ),
    ],
)
def test_faults_are_told_before_training(instance: dict[str, Any], words: str) -> None:
    assert words in faults(**instance)


def test_a_container_in_overrides_is_told() -> None:
    net = nn.Sequential(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()))
    assert "write '0.*'" in faults(**{"class": "LSQQuantizer", "bits_weights": 4, "overrides": {"0": 8}, "net": net})


def test_folding_needs_a_trace() -> None:
    with pytest.raises(ValueError, match="needs example_inputs"):
        Qat(bits_weights=8, fold_batchnorm=True)


def test_two_phases_once_each() -> None:
    model = tiny_net()
    quantizer = Qat(bits_activations=8, bits_weights=8, example_inputs=X)
    with pytest.raises(UserError, match="not prepared yet"):
        quantizer.convert(model)
    quantizer.prepare(model, None)
    with pytest.raises(UserError, match="is prepared already"):
        quantizer.prepare(model, None)
    quantizer.convert(model)
    with pytest.raises(UserError, match="converted already"):
        quantizer.convert(model)
    with pytest.raises(UserError, match="give the scheduler the optimizer"):
        LSQQuantizer(bits_weights=4).prepare(tiny_net(), None)


def test_their_parameters_are_a_group_with_options_of_its_own() -> None:
    net = tiny_net()
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, weight_decay=0.3)
    quantizer = PACTQuantizer(8, 4, act_clip_decay=0.01, act_clip_lr=0.5, example_inputs=X)
    quantizer.prepare(net, optimizer)
    own = optimizer.param_groups[1]
    assert (own["lr"], own["weight_decay"], own["momentum"], len(own["params"])) == (0.5, 0.01, 0.9, 2)
    lsq = LSQQuantizer(4, 4, example_inputs=X)
    named = torch.optim.SGD(net.named_parameters(), 0.2)
    lsq.prepare(net, named)
    assert (named.param_groups[1]["lr"], named.param_groups[1]["weight_decay"]) == (0.2, 0.0)


def test_without_a_trace_it_says_what_it_cannot_see() -> None:
    quantizer = prepared(DorefaQuantizer, Functional(), example_inputs=None)
    assert "stays float" in quantizer.notes[0]
    assert quantizer.bits_table()["b"] == "W4"


def test_a_shared_activation_is_told() -> None:
    relu = nn.ReLU()
    net = nn.Sequential(nn.Conv2d(3, 3, 1), relu, nn.Conv2d(3, 3, 1), relu, nn.Conv2d(3, 3, 1))
    quantizer = prepared(Qat, net)
    assert quantizer.notes == [
        "1 activation modules are called more than once, and all calls of one share its range: 1"
    ]


def test_folding_pairs_layers_with_the_norm_behind_them() -> None:
    quantizer = prepared(Qat, tiny_net(), fold_batchnorm=True)
    assert quantizer.structure is not None
    assert quantizer.structure["folded"] == {"conv1": "bn1", "conv2": "bn2"}


def test_modes_have_their_effect() -> None:
    model = tiny_net()
    quantizer = prepared(Qat, model, mode={"activations": "ASYMMETRIC_SIGNED", "weights": "SYMMETRIC_RESTRICTED"})
    quantizer.convert(model)
    model(torch.randn(2, 3, 6, 6))
    assert (model.conv1.weight_quantizer.grid().low, model.conv1.weight_quantizer.grid().high) == (-7, 7)
    grid = model.conv1.input_quantizer.grid()
    assert (grid.low, grid.high) == (-128, 127)
    assert int(grid.zero_point) != 0


@pytest.mark.parametrize(("dtype", "digits"), [(torch.float16, 11), (torch.bfloat16, 8)])
def test_more_bits_than_the_numbers_of_a_network_have_are_refused(dtype: torch.dtype, digits: int) -> None:
    net = tiny_net().to(dtype)
    for bits, expected in ((8, 0), (16, 1)):
        quantizer = Qat(bits, bits, example_inputs=torch.rand(2, 3, 6, 6).to(dtype))
        found = quantizer.faults(net)
        assert len(found) == expected
        assert all(f"given 16 bits, and {str(dtype)[6:]} has {digits} binary digits" in each for each in found)
    assert not Qat(16, 16).faults(tiny_net())
