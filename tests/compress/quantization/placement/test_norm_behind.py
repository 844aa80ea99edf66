"""DoReFa's and PACT's weights of unit scale in layers without a normalisation behind: said loudly, with what to do."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress.quantization.base import Quantizer
from compress.quantization.dorefa import DorefaQuantizer
from compress.quantization.pact import PACTQuantizer


class Residual(nn.Module):
    """conv -> a block whose sum is normalised only behind, or not at all -> conv -> norm -> mean."""

    def __init__(self, norm: bool) -> None:
        super().__init__()
        self.first, self.inner, self.last = (nn.Conv2d(i, 4, 3, padding=1) for i in (3, 4, 4))
        self.norm = nn.GroupNorm(2, 4) if norm else nn.Identity()
        self.end = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        x = self.norm(x + self.inner(x))
        return self.end(self.last(torch.relu(x))).mean((2, 3))


class ByHand(nn.Module):
    """A root-mean-square normalisation that is written out."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        y = self.last(y * torch.rsqrt(y.square().mean(-1, keepdim=True) + 1e-6))
        return y / torch.linalg.vector_norm(y, dim=-1, keepdim=True)


def conv_net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Flatten(1))


IMAGE = torch.zeros(2, 3, 8, 8)
NETS: dict[str, tuple[Callable[[], nn.Module], Tensor, set[str]]] = {
    "none behind the first": (conv_net, IMAGE, {"0"}),
    "residual with norms": (lambda: Residual(True), IMAGE, set()),
    "residual without": (lambda: Residual(False), IMAGE, {"first", "inner"}),
    "by hand": (ByHand, torch.zeros(2, 6), set()),
    "the output": (lambda: nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 2)), torch.zeros(2, 6), {"2"}),
}
QUANTIZERS: list[type[Any]] = [DorefaQuantizer, PACTQuantizer]


def told(quantizer: Quantizer, net: nn.Module) -> str:
    assert not quantizer.faults(net)
    found = [note for note in quantizer.notes if "normalisation" in note]
    assert len(found) <= 1
    return found[0] if found else ""


@pytest.mark.parametrize("cls", QUANTIZERS)
@pytest.mark.parametrize("name", NETS)
def test_layers_without_a_norm_are_named_with_what_to_do(cls: type[Any], name: str) -> None:
    torch.manual_seed(0)
    make, x, wanted = NETS[name]
    net = make()
    note = told(cls(4, 3, example_inputs=x), net)
    assert bool(note) == bool(wanted)
    for layer, module in net.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            factor = 1.0 / float(module.weight.detach().abs().max())
            assert (f"{layer} ({factor:.3g} times)" in note) == (layer in wanted)
    assert not note or all(word in note for word in ("weight_scale: max", "BatchNorm", "LSQQuantizer", "diverge"))


@pytest.mark.parametrize("cls", QUANTIZERS)
def test_nothing_is_said_of_what_keeps_its_size(cls: type[Any]) -> None:
    for settings in ({"weight_scale": "max"}, {"overrides": {"0": None}}, {"overrides": {"0": {"bits_weights": 1}}}):
        assert not told(cls(4, 3, example_inputs=IMAGE, **settings), conv_net())


@pytest.mark.parametrize("cls", QUANTIZERS)
def test_without_example_inputs_it_is_said_of_networks_without_any_norm(cls: type[Any]) -> None:
    assert not told(cls(4, 3), conv_net())
    assert "0 (" in told(cls(4, 3), nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2)))


def test_the_note_is_a_warning_of_the_schedule(caplog: Any) -> None:
    from compress.config import dict_config
    from tests.compress.harness import one_policy

    net = conv_net()
    settings = {"class": "PACTQuantizer", "bits_weights": 4, "bits_activations": 4}
    dict_config(net, torch.optim.SGD(net.parameters(), 0.1), one_policy("quantizers", settings, [0]), IMAGE)
    assert [r.levelname for r in caplog.records if "no normalisation" in r.getMessage()] == ["WARNING"]
