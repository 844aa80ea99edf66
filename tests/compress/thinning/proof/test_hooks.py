"""Hooks on gradients wherever the code stands that registers them: the gradients are compared."""

import functools
import types

import pytest
from torch import nn

from compress.errors import UserError
from compress.graph.own_code import asks_for_gradients
from compress.thinning.thin import remove_units
from compress.thinning.trials.trial import prunable_graph
from tests.compress.thinning.proof import hooking
from tests.compress.thinning.proof.nets import IMAGE, Two, thinned_and_trained

HELPERS = [
    hooking.balanced, hooking.tried, hooking.on_node, hooking.before_node, hooking.on_saved, hooking.on_several
]  # fmt: skip


class With(Two):
    """A network that keeps a function, and calls it between its convolutions."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def between(self, y):
        return self.function(y)


class Beside(Two):
    def between(self, y):
        return hooking.balanced(y)


class InTraining(Two):
    def between(self, y):
        return hooking.in_training(self, y)


class InList(Two):
    functions = (hooking.balanced,)

    def between(self, y):
        for function in self.functions:
            y = function(y)
        return y


def enclosed():
    helper = hooking.balanced

    class Enclosed(Two):
        def between(self, y):
            return helper(y)

    return Enclosed()


def as_method():
    model = With(None)
    model.function = types.MethodType(lambda self, y: hooking.balanced(y), model)
    return model


BUILDERS = [Beside, InTraining, InList, enclosed, as_method]
BUILDERS += [functools.partial(With, each) for each in (*HELPERS, hooking.Balance())]
BUILDERS += [functools.partial(With, functools.partial(hooking.balanced))]


@pytest.mark.parametrize("build", BUILDERS)
def test_hooks_in_helpers_keep_channels(build):
    removed, why = thinned_and_trained(build())
    assert not removed
    assert "the gradient of" in why or "a number in div follows the width" in why


def behind(module, given, y):
    hooking.balanced(y)


def in_front(module, given):
    hooking.before_node(given[0])


HOOKS = [
    lambda model: model.first.register_forward_hook(behind),
    lambda model: model.last.register_forward_pre_hook(in_front),
]


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("when", ["hook", "late"])
def test_hooks_of_modules_that_hook_tensors_keep_channels(hook, when):
    removed, why = thinned_and_trained(Two(), **{when: hook})
    assert not removed
    assert "the gradient of" in why


def test_hooks_in_a_plain_sequential_keep_channels():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)).double()
    model[0].register_forward_hook(behind)
    graph = prunable_graph(model, IMAGE)
    with pytest.raises(UserError, match="a hook"):
        remove_units(model, graph, {"0.weight[0]": [1, 4]}, IMAGE)


def test_a_hook_that_does_not_go_by_the_width_lets_them_go():
    model = With(hooking.doubled)
    assert thinned_and_trained(model)[0]
    assert asks_for_gradients(model)
