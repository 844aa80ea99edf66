"""A network with code of its own between two convolutions, thinned and trained beside its masked twin."""

import copy

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


def runs(model):
    return model(IMAGE)


def thinned_and_trained(model, hook=lambda model: None, switch=lambda model: None, late=lambda model: None, run=runs):
    """What is gone of the first layer; masked twin and thinned network agree in training (1e-9).

    Args:
        model: changed.
        hook: run on both before there is a graph.
        switch: run on both before they are trained.
        late: run on both once there is a graph.
        run: what is compared.
    """
    twin = copy.deepcopy(model)  # without hooks of parameters
    hook(twin)
    hook(model)
    graph = prunable_graph(model, IMAGE)
    late(twin)
    late(model)
    groups = [group.name for group in graph.groups(prunable_only=True)]
    try:
        result = remove_units(model, graph, {name: [1, 4] for name in groups}, IMAGE) if groups else None
    except UserError as refused:
        return {}, str(refused)
    removed = result.removed if result else {}
    masks = masks_of(graph, removed, dict(twin.named_parameters()))
    put_on(twin, masks)
    for net, keep in ((twin, masks), (model, {})):
        switch(net)
        train(net.train(), IMAGE, keep)
    torch.testing.assert_close(run(model), run(twin), rtol=1e-9, atol=1e-9)
    return removed, " ".join((*graph.why_pinned("first.weight"), *(result.notes if result else ())))


class Divided(torch.autograd.Function):
    """Whose gradient goes by the width, and whose result does not."""

    @staticmethod
    def forward(ctx, x):
        ctx.width = x.shape[1]
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient / ctx.width
