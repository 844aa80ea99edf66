"""What only a backward pass computes, or code that runs only where gradients are wanted: found, pinned, or refused."""

import pytest
import torch
from torch import nn

from compress.graph.calls import Call
from compress.graph.own_code import asks_for_gradients, asks_for_training
from compress.thinning.proof.gradients import gradients
from tests.compress.thinning.proof import helpers
from tests.compress.thinning.proof.nets import IMAGE, Divided, Two, thinned_and_trained

divided = Divided.apply


class Bound(Two):
    def between(self, y):
        return divided(y)


class Kept(Two):
    def __init__(self):
        super().__init__()
        self.function = Divided.apply

    def between(self, y):
        return self.function(y)


@pytest.mark.parametrize("kind", [Bound, Kept])
def test_a_backward_by_hand_is_found_by_whatever_name_it_is_called(kind):
    removed, why = thinned_and_trained(kind())
    assert not removed
    assert "Divided changes it" in why
    assert not hasattr(Divided.forward, "__wrapped__")


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


class WithGradients(Two):
    def between(self, y):
        return y * self.first.out_channels**-0.5 if torch.is_grad_enabled() else y


class OfATensor(Two):
    def between(self, y):
        return y * y.shape[1] ** -0.5 if y.requires_grad else y


class InHelper(Two):
    def between(self, y):
        return helpers.scaled(y)


class Centered(Two):
    def between(self, y):
        return y - y.mean(1, keepdim=True) if y.requires_grad else y


class ByName(Two):
    def between(self, y):
        return helpers.scaled_by_name(y)


class Regularized(Two):
    def between(self, y):
        return helpers.regularized(self, y)


class Called(Two):
    def __init__(self):
        super().__init__()
        self.regularizer = helpers.Regularizer()

    def between(self, y):
        return self.regularizer(self, y)


class Normed(Regularized):
    def __init__(self):
        super().__init__()
        self.norm = nn.GroupNorm(8, 8).double()

    def between(self, y):
        return super().between(self.norm(y))


@pytest.mark.parametrize("kind", [WithGradients, OfATensor, InHelper, ByName, Centered, Regularized, Called, Normed])
def test_what_runs_only_in_training_is_found_wherever_it_stands(kind):
    assert not thinned_and_trained(kind())[0]
    assert not hasattr(nn.Module, "training")
    assert "requires_grad" not in vars(torch.Tensor)
    assert helpers.wanted is torch.is_grad_enabled


class InferredHere(Two):
    def between(self, y):
        return y / y.shape[1] if torch.is_inference_mode_enabled() else y


class Inferred(Two):
    def between(self, y):
        return helpers.inferred(y)


class Doubled(Two):
    def between(self, y):
        return y * 2 if torch.is_inference_mode_enabled() else y


@torch.inference_mode()
def inferred(model):
    return model.eval()(IMAGE)


class InEvalMode(Two):
    def between(self, y):
        return y / y.shape[1] if torch.is_grad_enabled() and not self.training else y


class InEvalModeByTensor(Two):
    def between(self, y):
        return y / y.shape[1] if y.requires_grad and not self.training else y


class HalvedInEvalMode(Two):
    def between(self, y):
        return y / 2 if torch.is_grad_enabled() and not self.training else y


def evaluated(model):
    return model.eval()(IMAGE)


class Later(Two):
    """From the second step of training on."""

    def between(self, y):
        return y if self.first.weight.grad is None else y / y.shape[1]


class LaterHalved(Two):
    def between(self, y):
        return y if self.first.weight.grad is None else y / 2


def in_training(model):
    return model.train()(IMAGE)


class ByItsDictionary(Two):
    def between(self, y):
        return helpers.looked_up(self, y)


CASES = [
    (Later, in_training, True), (LaterHalved, in_training, False), (ByItsDictionary, in_training, True),
    (InferredHere, inferred, True), (Inferred, inferred, True), (Doubled, inferred, False),
    (InEvalMode, evaluated, True), (InEvalModeByTensor, evaluated, True), (HalvedInEvalMode, evaluated, False),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "run", "stays"), CASES)
def test_what_runs_only_in_inference_mode_or_only_with_gradients(kind, run, stays):
    removed, why = thinned_and_trained(kind(), run=run)
    assert (not removed) == stays
    assert ("a number in" in why) == stays
    assert helpers.is_inference_mode_enabled is torch.is_inference_mode_enabled


def divides(model):
    model.first.register_forward_hook(lambda module, given, y: y / y.shape[1])


def divides_in_training(model):
    model.first.register_forward_hook(lambda module, given, y: helpers.regularized(module, y))


def divides_with_gradients(model):
    model.first.register_forward_hook(lambda module, given, y: helpers.scaled_by_name(y))


def looks(model):
    model.first.register_forward_hook(lambda module, given, y: None)


@pytest.mark.parametrize("late", [centered, scaled, divides, divides_in_training, divides_with_gradients, looks])
def test_hooks_that_are_younger_than_the_graph_are_seen(late):
    removed, why = thinned_and_trained(Two(), late=late)
    assert bool(removed) == (late is looks)
    assert removed or "hook on its gradient" in why or "follows the width" in why


class Clipped(Two):
    def between(self, y):
        if y.requires_grad:
            y = y.clamp(-2, 2)
        return helpers.doubled(self, y)


def test_what_follows_the_width_in_training_goes():
    model = Two()
    assert not asks_for_training(model)
    model = Clipped()
    assert thinned_and_trained(model)[0]
    assert asks_for_training(model)
    assert asks_for_gradients(model)


def test_without_any_of_it_they_go():
    assert thinned_and_trained(Two())[0]


def test_a_layer_under_two_names_keeps_its_parameters():
    layer = nn.Conv2d(3, 3, 1)
    net = nn.Sequential(layer, nn.ReLU(), layer)
    before = dict(net.named_parameters())
    found = gradients(net, Call(torch.rand(2, 3, 4, 4)), "eval")
    assert found.keys() == {"0.weight", "0.bias"}
    assert all(each is before[name] for name, each in net.named_parameters())
