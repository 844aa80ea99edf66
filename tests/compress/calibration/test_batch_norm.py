"""Estimated statistics against those of the batches, computed apart; everything else stays as it was."""

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional
from torchvision.ops import FrozenBatchNorm2d

from compress.calibration.batch_norm import carry_batch_norm, reestimate_batch_norm, with_statistics
from compress.errors import UserError


def test_statistics_are_the_means_over_batches_and_nothing_else_changes() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Dropout(0.5), nn.BatchNorm2d(3, momentum=0.3), nn.BatchNorm2d(3, track_running_stats=False)
    )
    network[0].eval()
    network[1].running_mean.fill_(9.0)
    batches = [5 + 2 * torch.randn(4, 3, 5, 5) for _ in range(3)]
    assert reestimate_batch_norm(network, batches) == 1
    means = torch.stack([batch.mean((0, 2, 3)) for batch in batches]).mean(0)
    variances = torch.stack([batch.var((0, 2, 3)) for batch in batches]).mean(0)
    torch.testing.assert_close(network[1].running_mean, means)
    torch.testing.assert_close(network[1].running_var, variances)
    assert network[1].momentum == pytest.approx(0.3)
    assert [module.training for module in network] == [False, True, True]
    assert reestimate_batch_norm(nn.Linear(2, 2), batches) == 0


def trained() -> nn.Sequential:
    """Its statistics are not those of `batches`."""
    torch.manual_seed(0)
    norms = nn.BatchNorm2d(4), nn.BatchNorm2d(3)
    layers = nn.Conv2d(2, 4, 3, bias=False), norms[0], nn.ReLU(), nn.Conv2d(4, 3, 1, bias=False), norms[1]
    with torch.no_grad():
        for norm in norms:
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    return nn.Sequential(*layers).eval()


def batches() -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [5 + torch.randn(6, 2, 8, 8) for _ in range(2)]


def test_what_a_change_does_to_a_channel_is_taken_back_and_an_unchanged_network_stays() -> None:
    dense, data = trained(), batches()
    same = copy.deepcopy(dense)
    assert carry_batch_norm(same, dense, data) == 2
    for name, each in same.state_dict().items():
        torch.testing.assert_close(each, dense.state_dict()[name])
    changed = copy.deepcopy(dense)
    with torch.no_grad():
        changed[0].weight *= torch.tensor([0.1, 1, 3, 20]).reshape(4, 1, 1, 1)
        changed[3].weight *= torch.tensor([2, 5, 0.5]).reshape(3, 1, 1, 1)
        carry_batch_norm(changed, dense, data)
        for x in data:
            torch.testing.assert_close(changed(x), dense(x), rtol=1e-3, atol=1e-3)


def test_channels_of_which_the_data_tell_nothing_keep_their_variance() -> None:
    dense = trained()
    with torch.no_grad():
        dense[0].weight[1] = 0
    changed = copy.deepcopy(dense)
    with torch.no_grad():
        changed[0].weight[0] = 0  # gone
        changed[0].weight[1] = 1  # there was nothing before
        carry_batch_norm(changed, dense, batches())
    torch.testing.assert_close(changed[1].running_var, dense[1].running_var)
    assert all(bool(torch.isfinite(each).all()) for each in changed.state_dict().values())


def test_layers_that_are_called_twice_or_never() -> None:
    class Calls(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.norm, self.unused = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.BatchNorm2d(2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(input=self.norm(self.layer(x)))  # type: ignore[no-any-return]

    dense = Calls().eval()
    changed = copy.deepcopy(dense)
    assert carry_batch_norm(changed, dense, batches()) == 2
    for name, each in changed.state_dict().items():
        torch.testing.assert_close(each, dense.state_dict()[name])


def features() -> nn.Sequential:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2), nn.BatchNorm1d(2)).eval()
    with torch.no_grad():
        network[1].running_mean.normal_()
        network[1].running_var.uniform_(0.5, 2)
    return network


@pytest.mark.parametrize("last", [0, 3])
def test_a_minibatch_of_one_sample_is_no_obstacle(last: int) -> None:
    torch.manual_seed(1)
    x, one = torch.randn(100, 2), [torch.randn(1, 2)]
    data = [*one, x] if last == 0 else [x, *one]
    dense = features()
    same, changed = copy.deepcopy(dense), copy.deepcopy(dense)
    carry_batch_norm(same, dense, data)
    for name, each in same.state_dict().items():
        torch.testing.assert_close(each, dense.state_dict()[name])
    with torch.no_grad():
        changed[0].weight *= 3
        carry_batch_norm(changed, dense, data)
        torch.testing.assert_close(changed(x), dense(x), rtol=0.02, atol=0.02)
    estimated, whole = features(), features()
    assert reestimate_batch_norm(estimated, data) == reestimate_batch_norm(whole, [x]) == 2
    torch.testing.assert_close(estimated.state_dict(), whole.state_dict())


def test_minibatches_count_by_their_samples() -> None:
    torch.manual_seed(1)
    x, few = torch.randn(100, 2), torch.tensor([[9.0, -9.0], [9.1, 8.0]])
    estimated = features()
    reestimate_batch_norm(estimated, [x, few])
    with torch.no_grad():
        parts = [features()[0](each) for each in (x, few)]
    for held, of in (("running_mean", torch.Tensor.mean), ("running_var", torch.Tensor.var)):
        wanted = (100 * of(parts[0], 0) + 2 * of(parts[1], 0)) / 102
        torch.testing.assert_close(getattr(estimated[1], held), wanted)
    dense, changed = features(), features()
    with torch.no_grad():
        changed[0].weight[:, 1] = 0
        parts += [changed[0](each) for each in (x, few)]
        carry_batch_norm(changed, dense, [x, few])
    before, now = (
        [(100 * of(a, 0) + 2 * of(b, 0)) / 102 for of in (torch.Tensor.mean, torch.Tensor.var)]
        for a, b in (parts[:2], parts[2:])
    )
    ratio = now[1] / before[1]
    torch.testing.assert_close(changed[1].running_var, (dense[1].running_var + 1e-5) * ratio - 1e-5)
    torch.testing.assert_close(
        changed[1].running_mean, now[0] - (before[0] - dense[1].running_mean) * ratio.sqrt(), rtol=1e-4, atol=1e-5
    )


def test_one_value_of_a_channel_is_refused() -> None:
    dense = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).eval()
    with pytest.raises(UserError, match="cannot be estimated again, give larger minibatches: more than 1 value"):
        carry_batch_norm(copy.deepcopy(dense), dense, [torch.randn(1, 2)])
    with pytest.raises(UserError, match="cannot be estimated again, give larger minibatches: more than 1 value"):
        reestimate_batch_norm(dense, [torch.randn(1, 2)])
    assert carry_batch_norm(nn.Linear(2, 2), nn.Linear(2, 2), [torch.randn(1, 2)]) == 0


class Own(nn.Module):
    """BatchNorm by torch's function, which does not say its eps."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.randn(channels))
        self.register_buffer("running_var", torch.rand(channels) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(functional.batch_norm(x, self.running_mean, self.running_var))


class Other(Own):
    """Holds statistics of what it reads and does not use them."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sigmoid()


KINDS = Own, FrozenBatchNorm2d, partial(nn.InstanceNorm2d, track_running_stats=True)


@pytest.mark.parametrize("kind", KINDS)
def test_other_classes_that_normalise_by_running_statistics(kind: Callable[[int], nn.Module]) -> None:
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Conv2d(2, 4, 3), kind(4), nn.Conv2d(4, 3, 1)).eval()
    dense[1].get_buffer("running_mean").normal_()
    assert with_statistics(dense, batches()[0]) == (["1"], [])
    same, changed = copy.deepcopy(dense), copy.deepcopy(dense)
    carry_batch_norm(same, dense, batches())
    torch.testing.assert_close(same.state_dict(), dense.state_dict())
    with torch.no_grad():
        changed[0].weight *= torch.tensor([0.1, 1, 3, 20]).reshape(4, 1, 1, 1)
        assert carry_batch_norm(changed, dense, batches()) == 1
        torch.testing.assert_close(changed(batches()[0]), dense(batches()[0]), rtol=1e-2, atol=1e-2)


def test_a_layer_that_does_something_else_with_running_statistics_is_named() -> None:
    dense = nn.Sequential(nn.Conv2d(2, 4, 3), Other(4), nn.BatchNorm2d(4)).eval()
    assert with_statistics(dense, batches()[0]) == (["2"], ["1"])
    changed = copy.deepcopy(dense)
    with torch.no_grad():
        changed[0].weight *= 2
    assert carry_batch_norm(changed, dense, batches()) == 1
    torch.testing.assert_close(changed[1].state_dict(), dense[1].state_dict())
