"""Repaired weights against numpy's least squares."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from compress.calibration import together as data
from compress.calibration.layers import in_order
from compress.calibration.least_squares import RIDGE
from compress.calibration.shrinkage import Spread
from compress.pruning.one_shot import repair as module
from compress.pruning.one_shot.repair import repair


def test_a_linear_layer_is_solved_for_what_it_gave() -> None:
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3)).double().eval()
    x = torch.randn(40, 5, dtype=torch.float64)
    masks = {"0.weight": torch.ones(4, 5, dtype=torch.bool), "1.weight": torch.ones(3, 4, dtype=torch.bool)}
    masks["0.weight"][1], masks["1.weight"][:, 1] = False, False
    pruned = copy.deepcopy(dense)
    with torch.no_grad():
        pruned[0].weight.mul_(masks["0.weight"])
        pruned[0].bias[1] = 0
        pruned[1].weight.mul_(masks["1.weight"])
        given, wanted = pruned[0](x).numpy(), dense(x).numpy()
        held = np.hstack([pruned[1].weight.numpy(), pruned[1].bias.numpy()[:, None]])
    error = repair(dense, pruned, masks, [x[:20], x[20:]])
    spread = Spread()
    spread.add(torch.from_numpy(given[:, None]))
    noise = spread.intensity(torch.from_numpy(np.cov(given.T, bias=True)))
    firm = RIDGE * given.var(0).mean() + noise / (1 - noise) * given.var(0)
    ridge = np.sqrt(firm * 40)[:, None] * np.eye(4, 5)  # holds the weights as they were, not the bias
    given = np.hstack([given, np.ones((40, 1))])
    expected = np.linalg.lstsq(np.vstack([given, ridge]), np.vstack([wanted, ridge @ held.T]), rcond=None)[0].T
    np.testing.assert_allclose(pruned[1].weight.detach().numpy(), expected[:, :4], rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(pruned[1].bias.detach().numpy(), expected[:, 4], rtol=1e-6, atol=1e-8)
    assert torch.equal(pruned[1].weight[:, 1], torch.zeros(3, dtype=torch.float64))
    assert torch.equal(pruned[0].weight[2], dense[0].weight[2])  # it had no error: its inputs are the same
    new = ((wanted - given @ expected.T) ** 2).sum() / ((wanted - given @ held.T) ** 2).sum()
    assert 0 < error < 1
    assert error == pytest.approx(new, rel=1e-6)


def test_depthwise_and_strided_layers_are_repaired_too() -> None:
    torch.manual_seed(0)
    layers = nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 1, groups=4), nn.Conv2d(4, 3, 1)
    dense = nn.Sequential(*layers).double().eval()
    pruned, x = copy.deepcopy(dense), torch.randn(6, 2, 9, 9, dtype=torch.float64)
    with torch.no_grad():
        pruned[2].weight.mul_(1.1)  # what comes of it is wrong everywhere
        repair(dense, pruned, {}, [x])
        torch.testing.assert_close(pruned[2].weight, dense[2].weight, rtol=0.01, atol=1e-3)  # the ridge holds a little
        before, after = dense(x), pruned(x)
    assert float((after - before).square().sum()) < 1e-4 * float(before.square().sum())


def test_a_layer_that_is_called_twice_is_left_alone() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(self.a(x)))

    assert in_order(Twice(), torch.randn(2, 3)) == ["b"]


def test_one_pass_gives_what_passes_for_each_layer_give(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layers = nn.Conv2d(2, 6, 3), nn.ReLU(inplace=True), nn.Conv2d(6, 6, 3, 2, 1, groups=2), nn.ReLU(inplace=True)
    dense = nn.Sequential(*layers, nn.Flatten(), nn.Linear(96, 4)).double().eval()
    masks = {"0.weight": torch.ones(6, 2, 3, 3, dtype=torch.bool)}
    masks["0.weight"][1] = False
    pruned, x = copy.deepcopy(dense), torch.randn(40, 2, 9, 9, dtype=torch.float64)
    with torch.no_grad():
        pruned[0].weight[1], pruned[0].bias[1] = 0, 0
    made = []
    monkeypatch.setattr(module, "TOGETHER", 16)  # as the first minibatch, whose means the noise is measured about
    for way in (None, lambda *_: None):
        network = copy.deepcopy(pruned)
        if way is not None:
            monkeypatch.setattr(module, "together", way)
        made.append((repair(dense, network, masks, [x[:16], x[16:]]), network.state_dict()))
    monkeypatch.undo()
    monkeypatch.setattr(module, "TOGETHER", 16)
    monkeypatch.setattr(data, "HELD", 1000)
    made.append((repair(dense, pruned, masks, [x[:16], x[16:]]), pruned.state_dict()))
    for error, tensors in made[1:]:
        assert error == pytest.approx(made[0][0])
        assert all(torch.allclose(tensors[name], each) for name, each in made[0][1].items())
    assert 0 < made[0][0] < 0.9


@pytest.mark.parametrize("way", ["one pass", "layer by layer"])
def test_what_a_hook_makes_of_an_output_is_no_target(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 4), nn.Linear(4, 3)).double().eval()
    dense[1].register_forward_hook(lambda _, __, output: output * 2 + 1)
    pruned, x = copy.deepcopy(dense), torch.randn(4000, 5, dtype=torch.float64)
    with torch.no_grad():
        pruned[1].weight.mul_(1.1)
        if way != "one pass":
            monkeypatch.setattr(module, "together", lambda *_: None)
        repair(dense, pruned, {}, [x])
        torch.testing.assert_close(pruned[1].weight, dense[1].weight, rtol=0.02, atol=1e-2)
        torch.testing.assert_close(pruned[2].weight, dense[2].weight, rtol=0.02, atol=1e-2)


def test_a_surrounding_autocast_sees_the_weights_that_are_set() -> None:
    torch.manual_seed(0)
    dense, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 2, 3)), [torch.rand(4, 3, 9, 9)]
    mask = torch.ones_like(dense[0].weight, dtype=torch.bool)
    mask[::2] = False
    made = []
    for cached in (False, True):
        pruned = copy.deepcopy(dense)
        pruned[0].weight.data.mul_(mask)
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=cached):
            made.append((repair(dense, pruned, {"0.weight": mask}, x), pruned.state_dict()))
    assert made[0][0] == made[1][0]
    assert all(torch.equal(made[0][1][name], made[1][1][name]) for name in made[0][1])


def test_few_samples_of_many_inputs_are_not_fitted_alone() -> None:
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(60, 60), nn.Linear(60, 5)).double().eval()
    mask = {"0.weight": torch.ones(60, 60, dtype=torch.bool), "1.weight": torch.ones(5, 60, dtype=torch.bool)}
    mask["0.weight"][:20], mask["1.weight"][:, :20] = False, False
    pruned, masked = copy.deepcopy(dense), copy.deepcopy(dense)
    with torch.no_grad():
        for network in (pruned, masked):
            network[0].weight[:20], network[0].bias[:20], network[1].weight[:, :20] = 0, 0, 0
        repair(dense, pruned, mask, [torch.randn(30, 60, dtype=torch.float64)])
        others = torch.randn(500, 60, dtype=torch.float64)
        wanted = dense(others)
        assert float((pruned(others) - wanted).square().sum()) < 1.1 * float((masked(others) - wanted).square().sum())


def test_what_many_samples_tell_is_repaired_as_before() -> None:
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Conv2d(2, 8, 3), nn.Conv2d(8, 3, 1)).double().eval()  # eight of eighteen dimensions
    with torch.no_grad():
        dense[0].weight[1::2] = 3 * dense[0].weight[::2]
    mask = {"0.weight": torch.ones_like(dense[0].weight, dtype=torch.bool)}
    mask["1.weight"] = torch.ones_like(dense[1].weight, dtype=torch.bool)
    mask["0.weight"][1::2], mask["1.weight"][:, 1::2] = False, False
    pruned = copy.deepcopy(dense)
    with torch.no_grad():
        pruned[0].weight[1::2], pruned[0].bias[1::2], pruned[1].weight[:, 1::2] = 0, 0, 0
        x = torch.randn(300, 2, 8, 8, dtype=torch.float64)
        assert repair(dense, pruned, mask, [x]) < 1e-3
