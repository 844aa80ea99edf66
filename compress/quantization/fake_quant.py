"""What stands between a tensor and its quantized values: the base of every weight and activation quantizer.

`FakeQuantizer` with its two kinds, and the table by which saved structure names them.

A fake quantizer rounds to its grid in the forward pass and lets gradients through (straight-through estimator, Bengio
et al. 2013, arXiv 1308.3432, section 4); its tensors stay float.
"""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from compress.quantization.grid import Grid
from compress.quantization.native.passes import passes_for


class FakeQuantizer(nn.Module):
    """Rounds a tensor to a grid. The constructor's arguments are plain data and are all that a copy needs.

    Attributes:
        bits: of the grid, 1 to 16.
        frozen: whether ranges and clips stay as they are.
    """

    bits: int
    frozen: bool
    bound_to_values: ClassVar[bool] = True
    """A proof on perturbed weights leaves its numbers alone: they belong to what it rounds."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.frozen = False

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments: plain data."""
        return {"bits": self.bits}

    def grid(self) -> Grid | None:
        """The numbers that it yields now; None where it has no affine grid, or no range yet."""
        raise NotImplementedError

    def unrounded(self, x: Tensor) -> Tensor:
        """What it would yield without rounding: x, unless its method changes values before it rounds them."""
        return x

    def freeze(self) -> None:
        """Ranges stay from now on; parameters are no longer trained."""
        self.frozen = True
        for parameter in self.parameters():
            parameter.requires_grad_(False)
            # Optimizers skip what has no gradient; one left over would be applied again.
            parameter.grad = None

    def extra_repr(self) -> str:
        """For `print(model)`."""
        return ", ".join(f"{name}={value}" for name, value in self.settings().items())


class Learned:
    """Mix-in of fake quantizers whose scale is a parameter: no update makes the scale useless.

    An optimizer may take a scale of 0.002 down by 0.003 at once (Adam at a rate of 0.003), or a clip from 8 to -1, from
    where rounding gives a constant. One update changes a scale by the factors below at most, and never to less than
    `least`; smaller changes, and so all ordinary training, stay what the optimizer made them.

    Attributes:
        scale: name of the parameter.
        least: the smallest value that it may have.
        down: the smallest factor of one update.
        up: the largest factor of one update.
    """

    scale: ClassVar[str]
    least: ClassVar[float]
    down: ClassVar[float] = 0.5
    up: ClassVar[float] = 10.0
    _before: Tensor | None = None

    def note_scale(self) -> None:
        """Before an optimizer's step."""
        parameter: Tensor = getattr(self, self.scale)
        self._before = parameter.detach().clamp_min(self.least) if parameter.requires_grad else None

    @torch.no_grad()
    def keep_scale(self) -> None:
        """After an optimizer's step."""
        before, self._before = self._before, None
        if before is not None:
            parameter: Tensor = getattr(self, self.scale)
            parameter.copy_(torch.clamp(parameter, (before * self.down).clamp_min(self.least), before * self.up))


class WeightQuantizer(FakeQuantizer):
    """For weights and biases: what is exactly zero (masked) stays exactly zero, also where the grid has no zero."""

    def start(self, weight: Tensor) -> None:
        """Called once with the weight, before it is first quantized; sets what starts from its values."""

    def refresh(self, weight: Tensor) -> None:
        """Takes the range of the weight as it is now; what has a learned or a fixed range does nothing."""


class ActivationQuantizer(FakeQuantizer):
    """For activations.

    Attributes:
        signed: whether the range reaches below zero.
        statistics: names of the buffers that processes average.
        ignored: minibatches that it has not observed, since some of their values were not finite.
        negative: whether a minibatch had values below zero although it is not signed, in evaluation and in training,
            (2,); see `signs_seen.py`.
    """

    statistics: ClassVar[tuple[str, ...]] = ()

    def __init__(self, bits: int, signed: bool) -> None:
        super().__init__(bits)
        self.signed = signed
        self.register_buffer("ignored", torch.zeros((), dtype=torch.int64), persistent=False)
        self.register_buffer("negative", torch.zeros(2, dtype=torch.bool), persistent=False)

    ignored: Tensor
    negative: Tensor

    @torch.no_grad()
    def check_sign(self, x: Tensor) -> None:
        """Notes values below zero where there should be none."""
        # Tensor operations only: no `.item()`, which would wait for the GPU
        # in each minibatch. An exported file has no place for the notes.
        if self.signed or not x.numel() or torch.compiler.is_exporting():
            return
        passes = passes_for(x)
        if passes is not None:
            if -math.inf < passes.ends(x)[0] < 0:
                self.negative[int(self.training)] = True
        else:
            low = x.detach().amin()
            self.negative[int(self.training)] |= (low < 0) & torch.isfinite(low)

    def begin_minibatch(self, index: int, count: int = 0) -> None:
        """Before minibatch `index` of the `count` ones of an epoch of training; 0 where their number is not known."""

    def begin_sequence(self) -> None:
        """What comes until `end_sequence` are the steps of one sequence, which count as one minibatch."""

    def end_sequence(self) -> None:
        """The sequence is over."""

    def become_signed(self) -> None:
        """Keeps values below zero from now on; what was observed or learned of the range starts anew where it must."""
        self.signed = True

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments: plain data."""
        return {"bits": self.bits, "signed": self.signed}

    def clip_range(self) -> tuple[float, float]:
        """The smallest and the largest value that it yields; while it has no range, all of them, or all from 0 on."""
        grid = self.grid()
        if grid is not None:
            return grid.clip_range()
        return -float("inf") if self.signed else 0.0, float("inf")


class Pieces:
    """Class name -> class of the fake quantizers, by which saved structure names them."""

    table: ClassVar[dict[str, type[FakeQuantizer]]] = {}

    @classmethod
    def register(cls, piece: type[FakeQuantizer]) -> type[FakeQuantizer]:
        """Decorator; a name taken by another class raises ValueError."""
        if cls.table.setdefault(piece.__name__, piece) is not piece:
            raise ValueError(f"the fake quantizer {piece.__name__!r} is registered twice")
        return piece


def described(piece: FakeQuantizer) -> dict[str, Any]:
    """A fake quantizer as plain data."""
    return {"class": type(piece).__name__, **piece.settings()}


def made(description: dict[str, Any]) -> FakeQuantizer:
    """A fake quantizer from plain data, new."""
    settings = {key: value for key, value in description.items() if key != "class"}
    return Pieces.table[description["class"]](**settings)


def constant(value: float, like: Tensor | None = None) -> Tensor:
    """A float32 scalar on a tensor's device."""
    return torch.tensor(value, dtype=torch.float32, device=None if like is None else like.device)


def integer_range(bits: int, signed: bool) -> tuple[int, int]:
    """The integers of an activation with zero point 0: [0, 2^bits - 1], or signed and symmetric."""
    if not signed:
        return 0, 2**bits - 1
    high = 2 ** (bits - 1) - 1
    return -high, high
