"""Writes into what a ReLU made: through views, by index, with `out=`: the layer behind reads signed values."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.quantization.placement.inputs import read_graph
from compress.quantization.post_training.quantizer import PostTrainLinearQuantizer as Ptq

Write = Callable[[Tensor, Tensor], Tensor]  # y, which is not negative, and z, which is signed -> what is read


def written(change: Callable[[Tensor, Tensor], object]) -> Write:
    """Changes y and reads it."""

    def write(y: Tensor, z: Tensor) -> Tensor:
        change(y, z)
        return y

    return write


def without_gradient(y: Tensor, z: Tensor) -> None:
    with torch.no_grad():
        torch.sub(y, 1.0, out=y)


INDEX, WHERE = torch.tensor([0, 2]), torch.zeros(3, 2, 6, 6, dtype=torch.long)
SIGNED: dict[str, Write] = {
    "a slice": written(lambda y, z: y[:, :2].copy_(z[:, :2])),
    "an item": written(lambda y, z: y.__setitem__((slice(None), slice(None, 2)), z[:, :2])),
    "a number": written(lambda y, z: y.__setitem__((slice(None), 0), -1.0)),
    "indices": written(lambda y, z: y.__setitem__((slice(None), INDEX), z[:, :2])),
    "index_put_": written(lambda y, z: y.index_put_((torch.tensor(0),), z[0])),
    "masked_fill_": written(lambda y, z: y.masked_fill_(y < 0.3, -1.0)),
    "index_fill_": written(lambda y, z: y.index_fill_(1, INDEX, -1.0)),
    "scatter_": written(lambda y, z: y.scatter_(1, WHERE, z[:, :2])),
    "scatter_add_": written(lambda y, z: y.scatter_add_(1, WHERE, z[:, :2])),
    "scatter_ a number": written(lambda y, z: y.scatter_(1, WHERE, -1.0)),
    "index_copy_": written(lambda y, z: y.index_copy_(1, INDEX, z[:, :2])),
    "index_add_": written(lambda y, z: y.index_add_(1, INDEX, z[:, :2])),
    "masked_scatter_": written(lambda y, z: y.masked_scatter_(y < 0.3, z)),
    "sub_ of a view": written(lambda y, z: y[:, 1:].sub_(1.0)),
    "neg_ of a view of a view": written(lambda y, z: y.transpose(1, 2)[:, :, 0].neg_()),
    "a detached view": written(lambda y, z: y.detach()[:, 1].neg_()),
    "out=": written(without_gradient),
    "fill_ of a selection": written(lambda y, z: y.select(1, 0).fill_(-2.0)),
    "relu of relu, then": written(lambda y, z: functional.relu_(y)[:, :2].copy_(z[:, :2])),
    "behind a dropout": lambda y, z: written(lambda a, b: y[:, 1].neg_())(functional.dropout(y, 0.5, False), z),
    "behind pooling": lambda y, z: written(lambda a, b: a[:, 0].neg_())(functional.max_pool2d(y, 1), z),
    "behind a sum": lambda y, z: written(lambda a, b: a[:, 0].neg_())(y + y, z),
    "before a copy": lambda y, z: written(lambda a, b: a[:, 0].neg_())(y, z).clone(),
    "data": written(lambda y, z: setattr(y, "data", z)),
    "data without gradient": written(lambda y, z: torch.no_grad()(lambda: setattr(y, "data", z))()),
    "data, then a view": written(lambda y, z: (setattr(y, "data", z), y[:, 0].abs_())),
    "set_": written(lambda y, z: y.set_(z)),
    "Tensor.set_": written(lambda y, z: torch.Tensor.set_(y, z)),
    "foreach": written(lambda y, z: torch._foreach_sub_([y], [1.0])),
    "twice": written(lambda y, z: (y[:, :1].abs_(), y[:, 1:].sub_(1.0))),
    "a copy of a written one": lambda y, z: torch.cat([y, written(lambda a, b: a[:, 0].neg_())(y * 1.0, z)], 1)[:, 2:6],
}
NON_NEGATIVE: dict[str, Write] = {
    "a slice": written(lambda y, z: y[:, :2].copy_(z[:, :2].abs())),
    "of itself": written(lambda y, z: y[:, :2].copy_(y[:, 2:] + 1)),
    "masked_fill_": written(lambda y, z: y.masked_fill_(y < 0.3, 0.0)),
    "zero_ of a view": written(lambda y, z: y[:, 1:].zero_()),
    "add_": written(lambda y, z: y.add_(y)),
    "another tensor": lambda y, z: written(lambda a, b: z.neg_())(y, z),
    "a copy": lambda y, z: written(lambda a, b: y.clone()[:, 0].neg_())(y, z),
    "data": written(lambda y, z: setattr(y, "data", z.abs())),
    "data, of which a view came before": lambda y, z: (y.view_as(y), setattr(y, "data", z))[0],
    "relu in place at last": lambda y, z: functional.relu_(y.neg_()),
    "reading comes first": lambda y, z: (y * 1.0, y.neg_())[0],
}


class Reads(nn.Module):
    """conv -> relu -> a write -> the layer in question."""

    def __init__(self, write: Write, inplace: bool = False) -> None:
        super().__init__()
        self.conv, self.relu, self.read = nn.Conv2d(4, 4, 1), nn.ReLU(inplace), nn.Conv2d(4, 4, 1)
        self.write = write

    def between(self, x: Tensor) -> Tensor:
        return self.write(self.relu(self.conv(x)), 2 * x - 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.between(x))


CASES = [*((n, True) for n in SIGNED), *((n, False) for n in NON_NEGATIVE)]


@pytest.mark.parametrize(
    ("name", "signed", "inplace"),
    [pytest.param(*case, i % 4 == 0, marks=[] if i % 2 == 0 else pytest.mark.slow) for i, case in enumerate(CASES)],
)
def test_signed_is_what_can_be_negative(name: str, signed: bool, inplace: bool) -> None:
    torch.manual_seed(0)
    net, x = Reads((SIGNED if signed else NON_NEGATIVE)[name], inplace).eval(), torch.randn(3, 4, 6, 6)
    with torch.no_grad():
        assert bool((net.between(x) < 0).any()) == signed
    (reading,) = read_graph(net, x, ["conv", "read"], ["relu"], []).readings["read"]
    assert reading.signed == signed
    assert not (signed and reading.quantized)


@pytest.mark.parametrize("name", ["a slice", "masked_fill_"])
def test_what_is_written_keeps_its_sign_when_quantized(name: str) -> None:
    torch.manual_seed(0)
    net, x = Reads(SIGNED[name]).eval(), torch.randn(3, 4, 6, 6)
    network = Ptq(example_inputs=x, per_channel_wts=True).quantize(net, [x])
    with torch.no_grad():
        assert (network(x) - net(x)).norm() < 0.03 * net(x).norm()


def test_an_activation_that_is_changed_in_place_is_quantized_again_where_it_is_read() -> None:
    net, x = Reads(written(lambda y, z: y.mul_(1.37))), torch.randn(3, 4, 6, 6)
    (reading,) = read_graph(net, x, ["conv", "read"], ["relu"], []).readings["read"]
    assert not reading.quantized
    assert not reading.signed
