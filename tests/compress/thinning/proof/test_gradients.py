"""What only a backward pass computes, or code that runs only where gradients are wanted: found, pinned, or refused."""

import copy

import pytest
import torch
from torch import nn

from compress.errors import UserError
from compress.thinning.complete import masks_of
from compress.thinning.thin import put_on, remove_units
from compress.thinning.trials.trial import prunable_graph
from tests.compress.thinning.twins import numbers, train

IMAGE = numbers(2, 3, 4, 4)


class Two(nn.Module):
    """Two convolutions, and something between them that may go by the width in silence."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.double()

    def forward(self, x):
        return self.last(self.between(self.first(x)))

    def between(self, y):
        return y


def thinned_and_trained(model, hook=lambda model: None):
    """What is gone of the first layer; masked twin and thinned network agree in training (1e-9)."""
    twin = copy.deepcopy(model)  # without hooks of parameters
    hook(twin)
    hook(model)
    graph = prunable_graph(model, IMAGE)
    groups = [group.name for group in graph.groups(prunable_only=True)]
    try:
        result = remove_units(model, graph, {name: [1, 4] for name in groups}, IMAGE) if groups else None
    except UserError as refused:
        return {}, str(refused)
    removed = result.removed if result else {}
    masks = masks_of(graph, removed, dict(twin.named_parameters()))
    put_on(twin, masks)
    for net, keep in ((twin, masks), (model, {})):
        train(net.train(), IMAGE, keep)
    torch.testing.assert_close(model(IMAGE), twin(IMAGE), rtol=1e-9, atol=1e-9)
    return removed, " ".join((*graph.why_pinned("first.weight"), *(result.notes if result else ())))


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.width = x.shape[1]
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return -gradient / ctx.width


reverse = Reversed.apply


class Bound(Two):
    def between(self, y):
        return reverse(y)


class Kept(Two):
    def __init__(self):
        super().__init__()
        self.function = Reversed.apply

    def between(self, y):
        return self.function(y)


@pytest.mark.parametrize("kind", [Bound, Kept])
def test_a_backward_by_hand_is_found_by_whatever_name_it_is_called(kind):
    removed, why = thinned_and_trained(kind())
    assert not removed
    assert "Reversed changes it" in why
    assert not hasattr(Reversed.forward, "__wrapped__")


def centered(model):
    model.last.weight.register_hook(lambda gradient: gradient - gradient.mean((1, 2, 3), keepdim=True))


def masked(model):
    kept = torch.arange(216).view(8, 3, 3, 3) % 5 > 1
    model.first.weight.register_hook(lambda gradient: gradient * kept)


def scaled(model):
    def divide(parameter):
        parameter.grad.div_(parameter.grad.numel())

    model.first.weight.register_post_accumulate_grad_hook(divide)


@pytest.mark.parametrize("hook", [centered, masked, scaled])
def test_channels_of_a_parameter_with_a_hook_on_its_gradient_stay(hook):
    removed, why = thinned_and_trained(Two(), hook)
    assert not removed
    assert "has a hook on its gradient" in why


def test_without_any_of_it_they_go():
    assert thinned_and_trained(Two())[0]
