"""When training mode is traced too."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence

from compress.errors import UserError
from compress.graph.own_code import asks_for_training
from compress.graph.trace import operation_name, trace_model
from compress.graph.training import traces_of


class Auxiliary(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        x = self.body(x)
        return (x, self.head(x)) if self.training else x


def test_only_code_that_asks_for_training_is_traced_twice():
    plain, auxiliary = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Dropout(), nn.BatchNorm2d(4)), Auxiliary()
    assert not asks_for_training(plain)
    assert asks_for_training(nn.Sequential(auxiliary))
    assert len(traces_of(plain, torch.zeros(2, 3, 4, 4))) == 1
    assert len(traces_of(auxiliary, torch.zeros(2, 3, 4, 4))) == 2
    hidden = type("Hidden", (nn.Module,), {"forward": lambda self, x: x})  # its source cannot be had
    assert asks_for_training(hidden())


class Drops(nn.Module):
    """Dropout and stochastic depth, switched by `self.training` in the ways that code has."""

    def __init__(self, rate=0.5):
        super().__init__()
        self.rate = rate

    def forward(self, x):
        x = functional.dropout(x, self.rate, training=self.training)
        x = functional.dropout2d(x, self.rate if self.training else 0.0)
        return functional.scaled_dot_product_attention(x, x, x, dropout_p=self.rate if self.training else 0.0)


class Depth(nn.Module):
    """Leaves whole samples out, in a function of its own."""

    def forward(self, x):
        return drop_samples(x, 0.8, self.training)


class Noise(nn.Module):
    """Not dropout: adds something."""

    def forward(self, x):
        return drop_samples(x, 0.8, self.training) + (1 if self.training else 0)


def drop_samples(x, keep, training):
    if not training:
        return x
    return x * x.new_empty(x.shape[0], *[1] * (x.dim() - 1)).bernoulli_(keep).div_(keep)


@pytest.mark.parametrize(("layer", "asks"), [(Drops(), False), (Depth(), False), (Noise(), True)])
def test_what_only_drops_at_random_is_no_reason_for_a_second_trace(layer, asks):
    assert asks_for_training(nn.Sequential(nn.Conv2d(3, 4, 1), layer)) is asks


class Asks(nn.Module):
    """Looks at values, or fails by itself."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: x if x.sum() > 0 else -x, "GuardOnDataDependentSymNode"),
        (lambda x: x * float(x.mean().item()), "GuardOnDataDependentSymNode"),
        (lambda x: torch.from_numpy(x.numpy()), r"RuntimeError: .numpy\(\) is not supported"),
        (lambda x: {}["missing"], "KeyError: 'missing'"),
    ],
)
def test_what_cannot_be_traced_says_where_and_what_to_do(function, reason, capfd):
    line = function.__code__.co_firstlineno
    with pytest.raises(UserError, match=rf"Asks cannot be traced .*{reason}.* \(at .*test_trace.py:{line}\)") as caught:
        trace_model(Asks(function), torch.zeros(2, 3))
    what = "mend that line" if "missing" in reason else "out of `forward`, or write it as `torch.where`"
    assert what in str(caught.value)
    assert capfd.readouterr() == ("", "")


class Modulated(nn.Module):
    """Names an argument as the tracer names its own."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, 3))

    def forward(self, x, mod=None):
        return x * self.weight * mod


class Modulates(nn.Module):
    def __init__(self):
        super().__init__()
        self.part = Modulated()

    def forward(self, x):
        return self.part(x, mod=x.sigmoid())


def test_an_argument_named_mod_is_traced():
    trace = trace_model(Modulates(), torch.zeros(2, 3))
    assert [operation_name(node) for node in trace.operations] == ["sigmoid", "mul", "mul"]
    assert "__call__" not in vars(Modulated)


class Packs(nn.Module):
    """A recurrent layer that leaves out the padding of shorter sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(4, 2, 2) -> packed rows."""
        packed = pack_padded_sequence(x, [4, 2])
        return self.rnn(packed)[0].data  # type: ignore[no-any-return]


def test_a_network_that_packs_is_told_to_pad() -> None:
    with pytest.raises(UserError, match="run its recurrent layer on the padded batch"):
        trace_model(Packs(), torch.zeros(4, 2, 2))
