"""`together`: batches as one where the network treats samples alone; `on_first_call` changes what layers give."""

import pytest
import torch
import torch.nn.modules.module as every_module
from torch import Tensor, nn

from compress.calibration import together as module
from compress.calibration.together import on_first_call, together


class OneSize(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(2, -1)


class Mixing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


def test_batches_become_one() -> None:
    torch.manual_seed(0)
    batches = [torch.randn(2, 3), torch.randn(2, 3), torch.randn(1, 3)]
    merged = together(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), batches)
    assert merged is not None
    assert torch.equal(merged, torch.cat(batches))


@pytest.mark.parametrize("network", [OneSize(), Mixing()], ids=["one size", "mixing"])
def test_networks_that_do_not_treat_each_sample_alone(network: nn.Module) -> None:
    assert together(network, [torch.randn(2, 3), torch.randn(2, 3)]) is None


def test_other_batches_and_too_much_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Sequential(nn.Linear(3, 4))
    x = torch.randn(2, 3)
    assert together(network, [(x,), (x,)]) is None
    assert together(network, [x, torch.randn(2, 2, 3)]) is None
    monkeypatch.setattr(module, "ROOM", 15)
    assert together(network, [x, x]) is None  # 16 numbers


def test_only_the_first_call_is_changed() -> None:
    layer = nn.Identity()
    with on_first_call({"a": layer}, lambda _, __, ___, output: output + 1):
        assert [float(layer(torch.zeros(()))) for _ in range(2)] == [1, 0]
    assert float(layer(torch.zeros(()))) == 0


def test_hooks_of_the_user_come_after_the_change() -> None:
    layer, seen = nn.Identity(), []
    layer.register_forward_hook(lambda _, __, output: 10 * output)
    with on_first_call({"a": layer}, lambda _, __, ___, output: seen.append(output.clone()) or output + 1):
        assert float(layer(input=torch.ones(()))) == 20
    assert [float(each) for each in seen] == [1]


def test_hooks_on_all_modules_come_after_the_change() -> None:
    layer, other, seen = nn.Identity(), nn.Identity(), []
    handle = every_module.register_module_forward_hook(lambda _, __, output: 10 * output)
    try:
        with on_first_call({"a": layer}, lambda _, __, ___, output: seen.append(output.clone()) or output + 1):
            assert float(other(torch.ones(()))) == 10
            assert [float(layer(torch.ones(()))) for _ in range(2)] == [20, 10]
    finally:
        handle.remove()
    assert [float(each) for each in seen] == [1]
