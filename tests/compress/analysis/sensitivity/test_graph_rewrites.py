"""Convolutions with their ReLU: fewer passes over memory, the same bits, nothing overwritten that is still read."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.analysis.sensitivity import graph_rewrites
from compress.analysis.sensitivity.program import Program


class Block(nn.Module):
    """A residual block: its input's memory takes the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.one, self.two = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        start = functional.relu(self.first(x))
        return functional.relu(self.two(functional.relu(self.one(start))) + start)


class ReadLater(Block):
    """The term of the sum is read once more behind it."""

    def forward(self, x: Tensor) -> Tensor:
        start = functional.relu(self.first(x))
        return functional.relu(start + self.two(self.one(start))) * start


class Seen(Block):
    """The term of the sum has another name, a view, that is read behind it."""

    def forward(self, x: Tensor) -> Tensor:
        start = functional.relu(self.first(x))
        rows = start.flatten(1)
        return functional.relu(self.two(self.one(start)) + start).flatten(1) + rows


class Returned(Block):
    """The term of the sum, and what a ReLU is taken of, are results too."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        start = functional.relu(self.first(x))
        made = self.one(start)
        return start, made, functional.relu(made), functional.relu(self.two(start) + start)


class Itself(Block):
    """The term of the sum is the convolution's own input."""

    def forward(self, x: Tensor) -> Tensor:
        start = functional.relu(self.first(x))
        return functional.relu(self.one(start) + start)


class Doubled(Block):
    """The convolution is both terms of the sum."""

    def forward(self, x: Tensor) -> Tensor:
        made = self.one(x)
        return functional.relu(made + made)


class Single(nn.Module):
    """Of single pixels, strided without a bias, and in groups with padding by one number."""

    def __init__(self) -> None:
        super().__init__()
        self.point, self.strided = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, 2, bias=False)
        self.grouped = nn.Conv2d(8, 16, 3, padding=1, groups=4, dilation=1)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.strided(functional.relu(self.grouped(functional.relu(self.point(x))))[:, :8]))


def outputs_and_kinds(model: nn.Module, x: Tensor) -> tuple[list[Tensor], list[str]]:
    with torch.inference_mode():
        program = Program(model, x)
        values = {**program.state, **program.piece(program.fixed, set())(dict(program.state)), **program.flat_inputs(x)}
        found = program.whole(values)
    graph = program.whole.run.__self__.graph  # type: ignore[attr-defined]
    return [found[each] for each in program.results], [str(node.target) for node in graph.nodes]


@pytest.mark.parametrize(
    ("kind", "batch", "relus", "sums", "in_place"),
    [(Block, 2, 2, 0, 1), (ReadLater, 2, 1, 1, 0), (Seen, 2, 1, 1, 0), (Returned, 2, 1, 1, 0), (Itself, 2, 1, 1, 0),
     (Doubled, 2, 0, 0, 0),
     (Single, 2, 2, 0, 0), (Single, 16, 3, 0, 0)],
)  # fmt: skip
def test_relu_is_taken_where_the_convolution_is_stored(
    monkeypatch: pytest.MonkeyPatch, kind: type[nn.Module], batch: int, relus: int, sums: int, in_place: int
) -> None:
    torch.manual_seed(0)
    model, x = kind().eval(), torch.randn(batch, 8, 40, 40)
    found, kinds = outputs_and_kinds(model, x)
    fused = ("_convolution_pointwise.default", "_convolution_pointwise.binary", "_convolution_pointwise_.binary")
    counts = [kinds.count(f"mkldnn.{name}") for name in fused]
    monkeypatch.setattr(graph_rewrites, "_onednn", list)
    plain, before = outputs_and_kinds(model, x)
    assert not any("mkldnn" in each for each in before)
    assert all(torch.equal(one, other) for one, other in zip(found, plain, strict=True))
    if torch.backends.mkldnn.is_available():
        assert counts == [relus, sums, in_place]


def test_small_convolutions_and_other_types_stay_as_they_are() -> None:
    for x, model in ((torch.randn(1, 8, 8, 8), Block()), (torch.randn(2, 8, 40, 40).double(), Block().double())):
        assert not any("mkldnn" in each for each in outputs_and_kinds(model.eval(), x)[1])


def test_nothing_is_fused_under_autocast() -> None:
    torch.manual_seed(0)
    model, x = Block().eval(), torch.randn(2, 8, 40, 40)
    with torch.autocast("cpu", torch.bfloat16):
        found, kinds = outputs_and_kinds(model, x)
        with torch.no_grad():
            assert torch.equal(found[0], model(x))
    assert not any("mkldnn" in each for each in kinds)
