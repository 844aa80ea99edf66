"""`passing` and `first_input`: a layer's own output, and its input by place or by name."""

import torch
import torch.nn.modules.module as every_module
from torch import Tensor, nn

from compress.calibration.replay import first_input, passing


class Scaled(nn.Module):
    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return x * scale


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(input=x)  # type: ignore[no-any-return]


def test_the_first_input_is_found_by_place_and_by_name() -> None:
    x = torch.ones(1)
    assert first_input(Scaled(), (x,), {"scale": 2.0}) is x
    assert first_input(Scaled(), (), {"scale": 2.0, "x": x}) is x
    assert first_input(nn.Linear(1, 1), (), {"input": x}) is x


def test_the_output_is_the_layers_own() -> None:
    network, x = Network(), torch.ones(1, 2)
    own = network(x).detach()
    network.layer.register_forward_hook(lambda _, __, output: 2 * output + 1)
    ((given, output),) = passing(network, network.layer, [x])
    assert torch.equal(given, x)
    assert torch.equal(output, own)


def test_the_output_is_the_layers_own_where_a_hook_is_on_all_modules() -> None:
    network, x = Network(), torch.ones(1, 2)
    own = network(x).detach()
    handle = every_module.register_module_forward_hook(lambda _, __, output: 2 * output + 1)
    try:
        hooks = dict(every_module._global_forward_hooks), dict(every_module._global_forward_hooks_with_kwargs)
        ((given, output),) = passing(network, network.layer, [x])
        assert (every_module._global_forward_hooks, every_module._global_forward_hooks_with_kwargs) == hooks
    finally:
        handle.remove()
    assert torch.equal(given, x)
    assert torch.equal(output, own)
