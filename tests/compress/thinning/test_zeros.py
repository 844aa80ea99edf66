"""Without masks only what gives zeros or what nobody reads leaves: the outputs stay as they were."""

import pytest
import torch
from torch import nn

from compress.errors import UserError
from compress.thinning.thin import thin
from compress.thinning.trials.trial import prunable_graph

X = torch.rand(2, 3, 8, 8)


class Summed(nn.Module):
    """Two readers, one of which has no weights."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 2, 1)

    def forward(self, x):
        y = self.first(x)
        return self.last(y) + y.sum(1, keepdim=True)


class Scaled(nn.Module):
    """A branch that is all but closed today, with a constant in it."""

    def __init__(self):
        super().__init__()
        self.stem, self.up, self.down = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, 1), nn.Conv2d(6, 4, 1)
        self.scale = nn.Parameter(torch.full((1, 4, 1, 1), 1e-8))

    def forward(self, x):
        x = self.stem(x)
        return x + self.scale * self.down(self.up(x).sigmoid())


def chain(*between, bias=True):
    return nn.Sequential(nn.Conv2d(3, 6, 3, bias=bias), *between, nn.Conv2d(6, 2, 1))


def with_bias():
    model = chain(nn.ReLU())
    model[0].bias.data[5] = 3.0
    return model, model[0]


def with_shift():
    model = chain(nn.BatchNorm2d(6), nn.ReLU(), bias=False)
    model[1].bias.data[5] = 2.0
    return model, model[0]


def with_mean():
    model = chain(nn.BatchNorm2d(6, affine=False), bias=False)
    model[1].running_mean[5] = 2.0
    return model, model[0]


def behind_a_sigmoid():
    model = chain(nn.Sigmoid(), bias=False)
    return model, model[0]


def behind_a_scale():
    model = Scaled()
    model.up.bias.data[5] = 0
    return model, model.up


@pytest.mark.parametrize("make", [with_bias, with_shift, with_mean, behind_a_sigmoid, behind_a_scale])
def test_a_zero_filter_that_gives_a_constant_stays_and_is_named(make):
    torch.manual_seed(0)
    model, layer = make()
    model.eval()
    with torch.no_grad():
        layer.weight[5] = 0  # a constant behind it
        before = model(X)
        result = thin(model, X)
        assert not result.removed
        assert any("1 units with zero filters stay" in note for note in result.notes)
        assert torch.equal(model(X), before)


def test_of_zero_filters_only_those_that_give_a_constant_stay():
    torch.manual_seed(0)
    model, layer = with_shift()
    with torch.no_grad():
        layer.weight[[1, 5]] = 0
        model[1].weight[1], model[1].bias[1] = 0, 0
        before = model.eval()(X)
        result = thin(model, X)
        assert result.removed == {"0.weight[0]": [1]}
        assert result.masking_change == 0
        torch.testing.assert_close(model(X), before)


def test_what_one_weight_does_not_read_and_a_sum_does_stays():
    torch.manual_seed(0)
    model = Summed()
    with torch.no_grad():
        model.last.weight[:, 2] = 0
        model.first.weight[4], model.first.bias[4] = 0, 0
        before = model.eval()(X)
        assert thin(model, X).removed == {"first.weight[0]": [4]}
        torch.testing.assert_close(model(X), before)


def test_a_graph_of_before_a_removal_is_refused():
    model = chain(nn.ReLU())
    with torch.no_grad():
        model[0].weight[4], model[0].bias[4] = 0, 0
    graph = prunable_graph(model, X)
    assert thin(model, X, graph=graph).removed == {"0.weight[0]": [4]}
    with pytest.raises(UserError, match="made before units were removed"):
        thin(model, X, graph=graph)


class Noisy(nn.Module):
    """Each pass draws other numbers, from a generator that it keeps."""

    def __init__(self):
        super().__init__()
        self.body, self.draws = chain(nn.ReLU()), torch.Generator()

    def forward(self, x):
        return self.body(x) + torch.randn(x.shape[0], 1, 1, 1, generator=self.draws)


def test_noise_of_its_own_is_not_taken_for_a_bias():
    model = Noisy()
    with torch.no_grad():
        model.body[0].weight[2] = 0
        model.body[0].bias[2] = 0
    with pytest.raises(UserError, match=r"Noisy does not compute the same twice.*draw random numbers"):
        thin(model, X)
