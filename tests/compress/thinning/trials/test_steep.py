"""Masked channels whose gradient is NaN: pinned before training, and only where the masks are at fault."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from compress.thinning.trials.steep import _each
from compress.thinning.trials.trial import prunable_graph
from tests.compress.thinning.twins import Between, numbers, outputs, prepared, thinned_alike

IMAGE = numbers(2, 3, 8, 8)
SQUARED = (2, 3)


def by_space(y):
    return y.pow(2).sum(SQUARED, keepdim=True)


STEEP = {
    "root": lambda m, y: y * by_space(y).sqrt(),
    "signed root": lambda m, y: y.sign() * y.abs().sqrt(),
    "power": lambda m, y: y.abs() ** 0.5,
    "exponent": lambda m, y: y.clamp(min=0).pow(m.power).mean(SQUARED, keepdim=True).pow(1 / m.power) + y,
    "hypotenuse": lambda m, y: torch.hypot(y, y.flip(-1)),
    "quotient": lambda m, y: torch.nan_to_num(y / y.abs().sum(SQUARED, keepdim=True)),
    "logarithm": lambda m, y: y * by_space(y).log().clamp(min=-9),
}
LEVEL = {
    "root": lambda m, y: y * (by_space(y) + 1e-12).sqrt(),
    "quotient": lambda m, y: y / (y.abs().sum(SQUARED, keepdim=True) + 1e-6),
    "norm": lambda m, y: y * y.norm(dim=SQUARED, keepdim=True),
    "normalize": lambda m, y: F.normalize(y, dim=2),
    "deviation": lambda m, y: y * y.std(SQUARED, keepdim=True),
    "square": lambda m, y: y.abs() ** 1.5,
}


def made(function):
    torch.manual_seed(0)
    model = prepared(Between(function))
    if "power" in function.__code__.co_names:
        model.power = nn.Parameter(numbers() * 0 + 3)
    return model


def is_finite_once_masked(model):
    """Whether one backward pass with a masked unit leaves finite gradients."""
    twin = copy.deepcopy(model)
    for name in ("first.weight", "first.bias"):
        twin.get_parameter(name).data[5] = 0
    sum(out.square().mean() for out in outputs(twin, IMAGE)).backward()
    return all(parameter.grad.isfinite().all() for parameter in twin.parameters())


@pytest.mark.parametrize("name", STEEP)
def test_what_would_be_nan_stays(name):
    model = made(STEEP[name])
    assert not is_finite_once_masked(model)
    graph = prunable_graph(model, IMAGE)
    assert not graph.groups(prunable_only=True)
    assert "no longer finite" in graph.why_pinned("first.weight")[0]


@pytest.mark.parametrize("name", LEVEL)
def test_what_has_finite_gradients_goes(name):
    model = made(LEVEL[name])
    assert is_finite_once_masked(model)
    assert thinned_alike(model, IMAGE)[0]


class Several(nn.Module):
    """Three widths, of which the second goes through a root."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(6, 6) for _ in range(4))

    def forward(self, x):
        return self.d(torch.relu(self.c(self.b(torch.relu(self.a(x))).abs().sqrt())))


def test_the_other_widths_go():
    graph = prunable_graph(Several(), torch.randn(4, 6))
    assert [group.name for group in graph.groups(prunable_only=True)] == ["a.weight[0]", "c.weight[0]"]


def test_where_the_network_is_not_finite_without_masks_nothing_is_said():
    model = Between(lambda m, y: torch.relu(y) ** 0.5)
    assert prunable_graph(model, IMAGE.float()).groups(prunable_only=True)


def test_the_search_names_all_that_spoil_it():
    tried = []

    def spoils(names):
        tried.append(names)
        return bool({"b", "g"} & set(names))

    assert _each(list("abcdefgh"), spoils) == ["b", "g"]
    assert len(tried) == 11
    assert _each(["a"], spoils) == []
