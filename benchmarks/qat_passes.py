"""How often a fake quantizer goes over its tensor's memory in a training step, forward and backward.

    python benchmarks/qat_passes.py

Counted, not timed: torch's profiler names every operation that reads or writes a tensor of that size, and the calls of
the compiled passes are counted by themselves. Prints the table of docs/quantization.md.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor, nn
from torch.profiler import profile

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from compress.quantization.dorefa import DorefaWeight, FixedRangeActivation
from compress.quantization.lsq import LearnedStepActivation, LearnedStepWeight
from compress.quantization.modules.activations import QuantReLU
from compress.quantization.native.passes import Passes, left_out, passes_for
from compress.quantization.pact import ClippedActivation
from compress.quantization.range_linear import RangeActivation, RangeWeight

SHAPE = (8, 16, 32, 32)
VIEWS = (
    "empty", "detach", "view", "as_strided", "reshape", "flatten", "movedim", "permute", "transpose", "to", "alias",
    "expand", "squeeze", "ones_like", "result_type", "is_nonzero", "item",
)  # fmt: skip
PIECES: dict[str, Callable[[], nn.Module]] = {
    "activation, QAT": lambda: RangeActivation(8, False),
    "ReLU and activation, QAT": lambda: _relu(RangeActivation(8, False)),
    "activation, QAT, frozen": lambda: _frozen(RangeActivation(8, False)),
    "activation, LSQ": lambda: LearnedStepActivation(8, False),
    "activation, PACT": lambda: ClippedActivation(8, False),
    "activation, DoReFa, WRPN": lambda: FixedRangeActivation(8, False),
    "weight, QAT": lambda: RangeWeight(8),
    "weight, QAT, per channel": lambda: RangeWeight(8, axis=0),
    "weight, LSQ": lambda: LearnedStepWeight(8),
    "weight, DoReFa": lambda: DorefaWeight(8),
}


def _relu(piece: RangeActivation) -> nn.Module:
    module = QuantReLU()
    module.output_quantizer = piece
    return module


def _frozen(piece: RangeActivation) -> nn.Module:
    piece.observe(torch.rand(SHAPE))
    piece.freeze()
    return piece


@contextmanager
def counted() -> Iterator[list[str]]:
    """The operations over whole tensors that run inside the block."""
    names: list[str] = []
    originals = {name: getattr(Passes, name) for name in vars(Passes) if not name.startswith("_")}
    for name, original in originals.items():
        setattr(Passes, name, lambda *given, _name=name, _run=original: (names.append(_name), _run(*given))[1])
    try:
        with profile(record_shapes=True) as profiler:
            yield names
    finally:
        for name, original in originals.items():
            setattr(Passes, name, original)
    for event in profiler.events():
        short = event.name.removeprefix("aten::")
        inner = [each for each in event.cpu_children if each.name.startswith("aten::") and _whole(each)]
        if event.name.startswith("aten::") and _whole(event) and not inner and not short.startswith(VIEWS):
            names.append(short)


def _whole(event: Any) -> bool:
    short = event.name.removeprefix("aten::")
    size = torch.Size(SHAPE).numel()
    large = any(torch.Size(shape).numel() == size for shape in event.input_shapes or [] if _is_shape(shape))
    return large and not short.startswith(VIEWS)


def _is_shape(shape: Any) -> bool:
    return bool(shape) and all(isinstance(each, int) for each in shape)


def passes_of(make: Callable[[], nn.Module]) -> tuple[list[str], list[str]]:
    """The passes of the second step, forward and backward."""
    piece, grad = make().train(), torch.rand(SHAPE)
    if hasattr(piece, "start"):
        piece.start(torch.randn(SHAPE))
    piece(torch.randn(SHAPE, requires_grad=True)).backward(grad)
    x: Tensor = torch.randn(SHAPE, requires_grad=True)
    with counted() as forward:
        y = piece(x)
    with counted() as backward:
        torch.autograd.grad(y, [x, *piece.parameters()], grad)  # without the pass that a leaf's `.grad` may take
    return forward, backward


def table() -> str:
    """In Markdown: how many, with torch's operations and compiled, and which these are."""
    passes_for(torch.rand(1 << 16))
    rows = []
    for name, make in PIECES.items():
        row: list[Any] = [name]
        for way in (left_out(), nullcontext()):
            with way:
                forward, backward = passes_of(make)
            row += [f"{len(forward)} + {len(backward)}", ", ".join(forward) + "; " + (", ".join(backward) or "-")]
        rows.append([row[0], row[1], row[3], row[4]])
    head = ["in a step", "torch's operations", "compiled", "which these are (forward; backward)"]
    return tabulate(rows, head, "github")


def main() -> None:
    """Prints the table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print(table())


if __name__ == "__main__":
    main()
