"""The least that a row's work can cost on this machine: hand-made, with the fewest passes over memory.

A limit is no other tool: it does not do the whole work, only touches what must be touched. It is measured in turns with
the row, so that a ratio can be judged on any CPU.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.step_overhead import Batch, Loop, convolutions
from compress.quantization.convert import PiecesOf
from compress.quantization.fake_quant import ActivationQuantizer, FakeQuantizer
from compress.quantization.functions import ends, plainly_quantize
from compress.quantization.native.passes import passes_for


class _Clipped(nn.Module):
    """An activation's quantizer: one pass that finds the range, one that writes; backward one pass.

    By the compiled passes where they are (compress/quantization/native), without anything around them.
    """

    def forward(self, x: Tensor) -> Tensor:
        if passes_for(x) is None:
            torch.aminmax(x.detach())
            return functional.hardtanh(x, -3.0, 3.0)
        return plainly_quantize(x, 0.03125, -96, 96, ends(x))


class _Passed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        return weight.clamp(-3.0, 3.0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


class _PassedOn(nn.Module):
    """A weight's quantizer: one pass that finds the range, one that writes; the gradient passes as it is."""

    def forward(self, weight: Tensor) -> Tensor:
        torch.aminmax(weight.detach())
        return _Passed.apply(weight)


def quantized_step(model: nn.Module, batch: Batch, loss: Callable[..., Tensor]) -> Loop:
    """A step of a network whose fake quantizers are replaced; it is changed in place.

    Args:
        model: one that a quantizer has converted.
        batch: of the step.
        loss: of output and target.
    """
    slots: PiecesOf = {}
    for name, module in model.named_modules():
        slots[name] = {slot: each for slot, each in module.named_children() if isinstance(each, FakeQuantizer)}
    for name, found in slots.items():
        for slot, piece in found.items():
            setattr(model.get_submodule(name), slot, _least(piece))
    return Loop(model, batch, loss)


def _least(piece: FakeQuantizer) -> nn.Module:
    return _Clipped() if isinstance(piece, ActivationQuantizer) else _PassedOn()


class MaskedStep(Loop):
    """A step that sets one tensor, of as many elements as all masked weights have, to zero by one mask."""

    def __init__(self, model: nn.Module, batch: Batch, loss: Callable[..., Tensor]) -> None:
        super().__init__(model, batch, loss)
        self.flat = torch.rand(elements(model))
        self.off = self.flat < 0.5

    def __call__(self) -> None:
        """One step."""
        super().__call__()
        self.flat.masked_fill_(self.off, 0)


class RegularizedStep(Loop):
    """A step that reads all weights once for their norms and adds two terms to one tensor of gradients."""

    def __init__(self, model: nn.Module, batch: Batch, loss: Callable[..., Tensor]) -> None:
        super().__init__(model, batch, loss)
        rows = sum(each.weight.shape[0] for each in convolutions(model).values())
        self.rows = torch.rand(rows, elements(model) // rows)
        self.gradients = torch.zeros_like(self.rows)

    def __call__(self) -> None:
        """One step."""
        super().__call__()
        norms = torch.linalg.vector_norm(self.rows, dim=1, keepdim=True)
        self.gradients.addcdiv_(self.rows, norms, value=1e-4)
        self.gradients.add_(self.rows.sign(), alpha=1e-5)


def elements(model: nn.Module) -> int:
    """Weights of all convolutions."""
    return sum(each.weight.numel() for each in convolutions(model).values())


def threshold_masks(arrays: list[Any], level: float) -> Callable[[], None]:
    """Masks of arrays whose thresholds are known: one pass over the magnitudes, one that writes the mask."""
    thresholds = [np.partition(np.abs(each), int(level * each.size))[int(level * each.size)] for each in arrays]
    buffer = np.empty(max(each.size for each in arrays), arrays[0].dtype)

    def masks() -> None:
        for array, threshold in zip(arrays, thresholds, strict=True):
            np.greater(np.abs(array, out=buffer[: array.size]), threshold)

    return masks


if __name__ == "__main__":
    # Nothing runs: `results.py` calls it.
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
