"""What runs in training mode only, and fails there on the example inputs."""

import copy

import pytest
import torch
from torch import nn

from compress.graph.calls import Unused
from compress.graph.channels import channel_graph
from compress.thinning.thin import remove_units
from compress.thinning.trials.trial import prunable_graph


class Auxiliary(nn.Module):
    """Two convolutions; an auxiliary head reads the first one's channels, in training mode only."""

    def __init__(self, head, wrap=lambda answer, aux: (answer, aux)):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
        self.third, self.answer = nn.Conv2d(8, 16, 1), nn.Conv2d(16, 2, 1)
        self.head, self.wrap = head, wrap

    def forward(self, x):
        y = self.first(x).relu()
        answer = self.answer(self.third(self.second(y).relu()).relu())
        return self.wrap(answer, self.head(y)) if self.training else answer


SMALL = torch.randn(2, 3, 10, 10)
WRAPS = {
    "pair": lambda answer, aux: (answer, aux),
    "named": lambda answer, aux: {"out": answer, "aux": aux},
    "added": lambda answer, aux: answer.mean() + 0.4 * aux.mean(),
}


def large_head():
    return nn.Sequential(nn.Conv2d(8, 16, 11), nn.ReLU(), nn.Conv2d(16, 8, 1), nn.Conv2d(8, 2, 1))


def free(graph):
    return {group.name for group in graph.groups(prunable_only=True)}


@pytest.mark.parametrize("wrap", WRAPS)
def test_a_head_for_larger_images_holds_only_what_feeds_it(wrap):
    model = Auxiliary(large_head(), WRAPS[wrap])
    graph = prunable_graph(model, SMALL)
    assert free(graph) == {"second.weight[0]", "third.weight[0]"}
    (reason,) = graph.why_pinned("first.weight")
    assert "head runs in training mode only and failed there on the example inputs (RuntimeError: Calculated" in reason
    assert "give inputs on which it runs, or if nobody runs it, --unused head (in Python Unused(" in reason
    assert "forward" not in vars(model.head)


def test_the_head_still_trains_on_larger_images():
    model = Auxiliary(large_head()).double()
    small, large = SMALL.double(), torch.randn(2, 3, 16, 16).double()
    twin, graph = copy.deepcopy(model), prunable_graph(model, small)
    remove_units(model, graph, {"second.weight[0]": [0, 3], "third.weight[0]": [5]}, small)
    with torch.no_grad():
        for weight, gone in ((twin.second, [0, 3]), (twin.third, [5])):
            weight.weight[gone], weight.bias[gone] = 0.0, 0.0
    for mine, other in zip(model.train()(large), twin.train()(large), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("inputs", [torch.randn(2, 3, 16, 16), [SMALL, Unused("head")], [SMALL, Unused("head.*")]])
def test_larger_images_or_a_declaration_free_it(inputs):
    assert "first.weight[0]" in free(channel_graph(Auxiliary(large_head()), inputs))


def test_a_batch_of_one_is_doubled_where_a_norm_needs_more():
    """Norms over one number per channel fail in training mode, in the head and in the trunk."""
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 16, 1), nn.BatchNorm2d(16), nn.Conv2d(16, 2, 1))
    model = Auxiliary(head)
    model.answer = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(16), nn.Conv2d(16, 2, 1))
    assert free(channel_graph(model, SMALL[:1])) == free(channel_graph(model, SMALL))
    assert "head.1.weight[0]" in free(channel_graph(model, SMALL[:1]))


class Fails(nn.Module):
    """Training mode fails in the network's own code."""

    def __init__(self):
        super().__init__()
        self.body, self.head, self.extra = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        y = self.body(x)
        if self.training:
            assert x.shape[2] > 99, "images of 100 pixels"
            return self.head(y) + self.extra(y)
        return self.head(y)


def test_what_failed_in_training_mode_is_in_the_reason():
    (reason,) = channel_graph(Fails(), SMALL).why_pinned("body.weight")
    assert "no example call reads extra.weight" in reason
    assert "the trace in training mode failed: AssertionError: images of 100 pixels: if nobody runs it" in reason
    assert "else give inputs on which the network trains, or example_inputs as a list" in reason


@pytest.mark.parametrize(("inputs", "count"), [(torch.randn(2, 3, 16, 16), 1), (SMALL, 0)])
def test_a_head_that_is_declared_as_unused_and_trains_is_named(inputs, count):
    notes = channel_graph(Auxiliary(large_head()), [inputs, Unused("head")]).notes
    assert "".join(notes).count("'head' is declared as unused, but the example calls run head") == count
