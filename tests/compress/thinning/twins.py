"""A masked network and its thinned twin, compared in float64 before and after both are trained alike."""

import copy

import torch
from torch import nn
from torch.utils import _pytree as pytree

from compress.thinning.complete import masks_of
from compress.thinning.thin import put_on, remove_units
from compress.thinning.trials.trial import prunable_graph

TOLERANCE = 1e-9
"""Relative and absolute, after three steps of SGD in float64."""


class Between(nn.Module):
    """A convolution, a function of its output (and of the module), and a convolution behind it."""

    def __init__(self, function, widths=(3, 8, 8, 4), **attributes):
        super().__init__()
        self.first, self.last = nn.Conv2d(widths[0], widths[1], 3, padding=1), nn.Conv2d(widths[2], widths[3], 1)
        self.function = function
        self.__dict__.update(attributes)

    def forward(self, x):
        return self.last(self.function(self, self.first(x)))


def numbers(*shape):
    """Normal ones, in float64."""
    return torch.randn(shape, dtype=torch.float64)


def prepared(model):
    """Parameters and statistics of ordinary size: nothing is zero or one by chance."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.double().parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.4 + 0.1)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.uniform_(-1, 1)
    return model


def thinned_alike(model, *inputs, share=3, allow_inexact=False):
    """Thin a third of every group and hold it against the masked twin, on all inputs; the groups that lost units.

    Args:
        model: changed; in float64 from then on.
        inputs: tensors or tuples of them: the first is what it is traced with, the others are other batches and sizes.
        share: one in so many units goes.
        allow_inexact: passed on; the comparison is then left out.
    """
    prepared(model)
    graph = prunable_graph(model, inputs[0], allow_inexact)
    groups = graph.groups(prunable_only=True)
    removed = {group.name: list(range(1, group.units, share)) for group in groups}
    if not removed:
        return {}, graph
    twin = copy.deepcopy(model)
    masks = masks_of(graph, removed, dict(twin.named_parameters()))
    put_on(twin, masks)
    remove_units(model, graph, removed, inputs[0], allow_inexact=allow_inexact)
    if not allow_inexact:
        compare(twin, model, inputs)
        train(twin, inputs[0], masks)
        train(model, inputs[0], {})
        compare(twin, model, inputs)
    return removed, graph


def compare(twin, thinned, inputs):
    """Equal outputs in eval and in training mode; running statistics stay as they were."""
    for given in inputs:
        for training in (False, True):
            found = [outputs(copy.deepcopy(model).train(training), given) for model in (twin, thinned)]
            for old, new in zip(*found, strict=True):
                torch.testing.assert_close(new, old, rtol=TOLERANCE, atol=TOLERANCE)


def outputs(model, given):
    """All tensors that come out."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return [leaf for leaf in pytree.tree_leaves(model(*arguments(given))) if isinstance(leaf, torch.Tensor)]


def arguments(given):
    return given if isinstance(given, tuple) else (given,)


def train(model, given, masks, steps=3):
    """Plain SGD with momentum; masks are put on after each step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        sum(out.real.square().mean() for out in outputs(model, given)).backward()
        optimizer.step()
        put_on(model, masks)
