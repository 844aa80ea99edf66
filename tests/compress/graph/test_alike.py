"""Whether training mode is the same computation as eval mode, which `alike` tells from two traces."""

import pytest
import torch
from torch import nn

from compress.graph.trace import trace_model
from compress.graph.training import alike, traces_of


class Modes(nn.Module):
    """Computes something of its own in each mode."""

    def __init__(self, evaluated, trained):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.register_buffer("kept", torch.ones(4))
        self.evaluated, self.trained = evaluated, trained

    def forward(self, x, y):
        return (self.trained if self.training else self.evaluated)(self, x, y)


def are_alike(evaluated, trained):
    inputs = torch.rand(2, 4), torch.rand(2, 4)
    model = Modes(evaluated, trained)
    return alike(trace_model(model, inputs), trace_model(model, inputs, training=True))


SAME = {
    "the same": (lambda m, x, y: m.first(x) + y, lambda m, x, y: m.first(x) + y),
    "dropout": (
        lambda m, x, y: nn.functional.dropout(m.first(x), 0.1, False) + y,
        lambda m, x, y: nn.functional.dropout(m.first(x), 0.5, True) + y,
    ),
    "an equal constant": (lambda m, x, y: x * torch.full((4,), 2.0), lambda m, x, y: x * torch.full((4,), 2.0)),
}
OTHER = {
    "one operation more": (lambda m, x, y: m.first(x), lambda m, x, y: m.first(x).relu()),
    "another operation": (lambda m, x, y: m.first(x).sigmoid(), lambda m, x, y: m.first(x).tanh()),
    "another number": (lambda m, x, y: m.first(x) * 2, lambda m, x, y: m.first(x) * 3),
    "another type of number": (lambda m, x, y: m.first(x) * 2, lambda m, x, y: m.first(x) * 2.0),
    "another parameter": (lambda m, x, y: m.first(x), lambda m, x, y: m.second(x)),
    "another input": (lambda m, x, y: m.first(x), lambda m, x, y: m.first(y)),
    "a parameter for a buffer": (lambda m, x, y: x * m.first.bias, lambda m, x, y: x * m.kept),
    "other operands": (lambda m, x, y: (x.relu(), y.relu())[0] + x, lambda m, x, y: (x.relu(), y.relu())[1] + x),
    "another result": (lambda m, x, y: (x.relu(), y.relu())[0], lambda m, x, y: (x.relu(), y.relu())[1]),
    "another shape": (lambda m, x, y: x.reshape(4, 2), lambda m, x, y: x.reshape(2, 4)),
}


@pytest.mark.parametrize("kind", SAME)
def test_the_same_operations_on_the_same_tensors_are_alike(kind):
    assert are_alike(*SAME[kind])


@pytest.mark.parametrize("kind", OTHER)
def test_anything_else_is_not(kind):
    assert not are_alike(*OTHER[kind])


def test_a_training_trace_is_kept_where_it_says_anything_new():
    inputs = torch.rand(2, 4), torch.rand(2, 4)
    (only,) = traces_of(Modes(*SAME["dropout"]), inputs)
    assert only.alike
    evaluated, trained = traces_of(Modes(*OTHER["another parameter"]), inputs)
    assert (evaluated.alike, evaluated.training, trained.training) == (False, False, True)
    (unasked,) = traces_of(nn.Sequential(nn.Linear(4, 4), nn.Dropout()), torch.rand(2, 4))
    assert not unasked.alike  # nothing asks for training mode, so that nobody compares
