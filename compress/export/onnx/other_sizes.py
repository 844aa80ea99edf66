"""Is a file whose sizes are free right at other sizes than the example's? `check_sizes`, `check_free`.

torch's exporter stores what Python computes from a size, `math.sqrt(h)` or `int(h * .5)`, as the example's number, and
says nothing of it.
"""

import re
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from compress.errors import UserError
from compress.export.onnx.check import Comparison, Difference, Inputs

FACTORS = ((2.0, 0.5, 0.75, 0.5), (2.0, 0.5, 0.5, 0.5), (2.0, 2.0, 2.0, 2.0))  # of batch, and of each further free axis
FLOAT, ROUNDED = 1e-4, 5e-3  # mean difference, as a share of the largest value, that is no rounding any more
CAUSE = (
    "a number that Python computes from the size, as math.sqrt(h), int(h * 0.5) or torch.linspace(..., h), is stored "
    "as that of the example's size"
)
REMEDY = "to keep sizes free, compute it with operations that are exported, as h ** 0.5, h // 2 or torch.arange(h)"
Shapes = Sequence[Sequence[int | str]]


class OneSize(UserError):
    """A file that is right at the example's height and width only."""


def check_sizes(comparison: Comparison, inputs: Inputs, dummies: Inputs, dynamic: Shapes, rounded: bool) -> list[str]:
    """Runs a file at other sizes of the axes that it has free and compares it with the network there.

    Args:
        comparison: of the ONNX file with what it should be.
        inputs: to compare on; they are cut or repeated to other sizes.
        dummies: of the size that was exported for.
        dynamic: shape of each input in the file; a name is free.
        rounded: the file's values are rounded, so that a few may fall to the neighbouring step.

    Returns:
        what to warn about: sizes that the file fails at beside some that it is right at; a batch size that it fails at;
        that the network runs at none of the sizes tried.

    Raises:
        OneSize: height or width is free, and the file is right at none of the other sizes that the network runs at.
    """
    example = at_size_of(inputs, dummies)
    usual = comparison.difference([example], fused=not rounded)
    given = [inputs] if shapes_text(inputs) != shapes_text(example) else []
    faults, right, tried = [], [], []
    for other in [*given, *_others(example, dynamic)]:
        shapes = shapes_text(other)
        tried.append(shapes)
        if _runs(comparison, other):
            fault = _fault(comparison, other, usual, rounded)
            if not fault:
                right.append(shapes)
                if other is not inputs:
                    break
                continue
            faults.append(f"at {shapes} {fault}")
    if tried and not faults and not right:
        return [
            f"the network does not run at {', '.join(tried)}: whether the file is right at other sizes is not known; "
            "a file of this one size says so (fixed_size, --fixed-size)"
        ]
    if not faults:
        return []
    if right:
        return [f"{faults[0]}; it is right at {shapes_text(example)} and {right[0]}: check each other size before use"]
    if any(isinstance(size, str) for shape in dynamic for size in shape[1:]):
        raise OneSize(f"the file is right at {shapes_text(example)} only: {faults[0]}; {CAUSE}")
    return [
        f"{faults[0]}: run it with batches of {len(example[0])}, as the example; a number that Python computes from "
        "the batch size is stored as the example's"
    ]


def check_free(comparison: Comparison, inputs: Inputs, axes: Sequence[int]) -> None:
    """Raises UserError where the file fails on another size of the axes that were asked to be free."""
    if not axes:
        return
    absent = [axis for axis in axes if all(axis >= x.dim() for x in inputs)]
    if absent:
        shapes = shapes_text(inputs)
        raise UserError(f"free_axes={tuple(axes)}: no input has axis {absent[0]} (counted from 0); they are {shapes}")
    other = inputs
    for axis in axes:
        # One longer, by a repeated row: real values stay in their range.
        other = tuple(_resized(x, axis, x.shape[axis] + 1) if axis < x.dim() else x for x in other)
    try:
        comparison.outputs(other)
    except Exception as e:  # the network's own, of any kind
        raise UserError(
            f"free_axes={tuple(axes)}: the network itself does not run on another size of them, "
            f"{shapes_text(other)}: {next(iter(str(e).splitlines()), type(e).__name__)}. "
            "Leave out the axes that it fixes, such as channels and features"
        ) from e
    try:
        comparison.difference([other])
    except UserError as e:
        raise UserError(
            f"free_axes={tuple(axes)}: the file does not run on another size of them; the exporter has fixed it inside "
            f"(it does behind a recurrent layer). Export without free_axes, or the network's parts one by one: {e}"
        ) from e


def shapes_text(inputs: Sequence[Tensor]) -> str:
    """`(2, 3, 12, 12) and (2, 1)`."""
    return " and ".join(str(tuple(x.shape)) for x in inputs)


def at_size_of(inputs: Inputs, dummies: Inputs) -> Inputs:
    """Inputs cut or repeated to the dummies' sizes; their own batch size."""
    found = []
    for x, dummy in zip(inputs, dummies, strict=True):
        for axis in range(1, min(x.dim(), dummy.dim())):
            x = _resized(x, axis, dummy.shape[axis])
        found.append(x)
    return tuple(found)


def _others(example: Inputs, dynamic: Shapes) -> Iterator[Inputs]:
    """The example cut or repeated to other sizes of its free axes, in which sizes of one name stay equal."""
    for factors in FACTORS:
        sizes: dict[str, int] = {}
        other, allowed = [], True
        for x, shape in zip(example, dynamic, strict=True):
            for axis, name in enumerate(shape):
                if isinstance(name, str):
                    # axes of several inputs go together: an image and its mask
                    factor = factors[min(axis, len(factors) - 1)]
                    size = max(1, int(x.shape[axis] * factor))
                    allowed &= sizes.setdefault(name, size) == size and size % _multiple(name) == 0
                    x = _resized(x, axis, size)
            other.append(x)
        if allowed and shapes_text(other) != shapes_text(example):
            yield tuple(other)


def _multiple(name: str) -> int:
    """8 of `8*s0`, the exporter's name of a size that must be a multiple."""
    found = re.match(r"(\d+)\*", name)
    return int(found[1]) if found else 1


def _resized(x: Tensor, axis: int, size: int) -> Tensor:
    """Cut, or repeated from its beginning."""
    if x.shape[axis] in (0, size):
        return x
    return torch.cat([x] * -(-size // x.shape[axis]), axis).narrow(axis, 0, size)


def _runs(comparison: Comparison, inputs: Inputs) -> bool:
    try:
        outputs = comparison.outputs(inputs)
    except Exception:  # the network's own, of any kind
        return False
    return all(bool(each.isfinite().all()) for each in outputs) and any(each.numel() for each in outputs)


def _fault(comparison: Comparison, inputs: Inputs, usual: Difference, rounded: bool) -> str:
    """What is wrong at a size; '' if nothing."""
    try:
        found = comparison.difference([inputs], fused=not rounded)
    except UserError as e:
        return f"it fails ({e})"
    share = ROUNDED if rounded else FLOAT
    for index, (each, before) in enumerate(zip(found.parts, usual.parts, strict=False)):
        if each.mean > max(share * each.largest, 10 * before.mean):
            output = f" in output {index}" if len(found.parts) > 1 else ""
            return f"it differs from the network{output} by {each}"
    return ""
