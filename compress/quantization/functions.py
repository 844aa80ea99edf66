"""Rounding with straight-through gradients: pure tensor functions.

The roundings and their gradients, each one autograd function, because on a CPU the time goes into passes over memory:
four in the forward pass (divide, clamp, round, multiply, in place), one in the backward pass. Where there is a C
compiler, native/passes.py makes one of the four, with the same numbers.

Inside [low * scale, high * scale] the gradient passes as it is, at the ends and outside it is zero:

    >>> x = torch.tensor([-1.0, 0.3, 0.6, 2.0], requires_grad=True)
    >>> fake_quantize(x, torch.tensor(0.5), 0, 3).tolist()
    [0.0, 0.5, 0.5, 1.5]
    >>> fake_quantize(x, torch.tensor(0.5), 0, 3).sum().backward(); x.grad.tolist()
    [0.0, 1.0, 1.0, 0.0]
"""

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from compress.parameters import widened
from compress.quantization.native.passes import Passes, keep, passes_for

Bound = int | Tensor  # a multiple of the scale; a tensor where it depends on data and stays on a GPU


def fake_quantize(
    x: Tensor, scale: Tensor, low: Bound, high: Bound, scale_gradient: float = 0.0, led_back: bool = False
) -> Tensor:
    """The nearest multiple of `scale` within low * scale and high * scale; ties go to even multiples.

    Args:
        x: any shape.
        scale: > 0; shape () or one that broadcasts against x. With `scale_gradient` it has LSQ's gradient
            (arXiv 1902.08153, eq. 3): round(x / scale) - x / scale inside, `low` or `high` outside.
        low: the smallest multiple.
        high: the largest multiple.
        scale_gradient: factor of the scale's gradient (eq. 4 there); 0 gives it none.
        led_back: where the scale has lost its tensor, its gradient has the sign that leads back: up where everything
            is clipped, down where everything is rounded to 0.
    """
    if not scale_gradient and _passes_for(x, scale, low, high) is not None:
        ends: Any = (low, high)  # whole numbers
        return plainly_quantize(x, float(scale), *ends)
    return _FakeQuantize.apply(x, scale, low, high, scale_gradient, led_back)


def plainly_quantize(x: Tensor, scale: float, low: int, high: int, seen: tuple[float, float] | None = None) -> Tensor:
    """`fake_quantize` for numbers that Python knows: the same values and gradients to the bit, with fewer operations.

    Where all of x is seen to lie inside the range, the backward pass does nothing, and nothing is kept for it.

    Args:
        x: any shape, on a CPU.
        scale: > 0, one that float32 holds exactly.
        low: the smallest multiple.
        high: the largest multiple.
        seen: the smallest and the largest value of x, where they are known.
    """
    if seen is not None and torch.is_grad_enabled() and _passes_all(x, seen, scale, low, high):
        return _PassedOn.apply(x, scale, low, high)
    return _PlainlyQuantize.apply(x, scale, low, high)


def clipped_quantize(x: Tensor, clip: Tensor, low: int, high: int, led_back: bool = False) -> Tensor:
    """`fake_quantize` with scale = clip / high and PACT's gradient of the clip (arXiv 1805.06085, eq. 3).

    The clip's gradient is 1 where x >= clip, -1 where a signed x <= low * scale (by symmetry), else 0. With `led_back`
    it has the sign that leads up again where everything is clipped; where everything is rounded to 0, and the paper has
    no gradient, it is sum(|gradient * x|) / clip, which leads down.
    """
    return _ClippedQuantize.apply(x, clip, low, high, led_back)


def squeezed_quantize(weight: Tensor, levels: int, magnitude: Tensor, rescale: bool) -> Tensor:
    """DoReFa's weights (arXiv 1606.06160, eq. 9): t = tanh(w) / max |tanh(w)| rounded to odd multiples of 1 / levels.

    What is exactly zero stays zero, though that grid has no zero. The gradient is that of t, also through its maximum.

    Args:
        weight: any shape.
        levels: 2^bits - 1.
        magnitude: shape (); factor of the values.
        rescale: whether it is a factor of the gradient too.
    """
    return _SqueezedQuantize.apply(weight, levels, magnitude, rescale)


def at_least(value: Tensor, least: float) -> Tensor:
    """The larger one; below `least` the gradient is that at `least`, so that a learned scale comes back from there."""
    return _AtLeast.apply(value, least)


def straight_through(x: Tensor, values: Tensor) -> Tensor:
    """Exactly `values` in the forward pass, the gradient of x in the backward pass."""
    return _StraightThrough.apply(x, values)


def rounded(x: Tensor, scale: Tensor, low: Bound, high: Bound) -> Tensor:
    """The values of `fake_quantize`, without gradients."""
    if widened(x) is not x:
        # Half precision has too few digits for the quotient: 8.9 % of bfloat16's values went to another multiple than
        # the nearest one of 8 bits.
        return rounded(widened(x), scale, low, high).to(x.dtype)
    ends: Any = (low, high)  # two numbers or two tensors
    passes = _passes_for(x, scale, low, high)
    if passes is not None:
        return passes.quantize(x, float(scale), *ends)
    # One new tensor, then in place. Whole-number bounds: clamping before rounding gives the same as after it.
    return torch.div(x, scale).clamp_(*ends).round_().mul_(scale)


def _plainly_rounded(x: Tensor, scale: float, low: int, high: int) -> Tensor:
    if widened(x) is not x:
        return _plainly_rounded(widened(x), scale, low, high).to(x.dtype)
    passes = passes_for(x)
    if passes is not None:
        return passes.quantize(x, scale, low, high)
    return torch.div(x, scale).clamp_(low, high).round_().mul_(scale)


SMALLEST = torch.finfo(torch.float32).tiny
"""The smallest step, 1.2e-38: those below have too few digits to count by, and some processors take them for 0."""


def usable(scale: Tensor) -> Tensor:
    """A scale, with 1 where it is 0 or below `SMALLEST`: all values are next to 0 there, and become 0."""
    # float16 counts from its own smallest number on: its normal ones begin at steps that weights do have.
    least = 2.0**-24 if scale.dtype == torch.float16 else SMALLEST
    return torch.where(scale >= least, scale, 1.0)


def affine(low: Tensor, high: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """Scale and zero point (a whole number, float) of `levels` steps from low to high, of their shape.

    The range is widened to hold 0, so that 0 is on the grid; an empty range has scale 1 (`usable`).
    """
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    scale = usable((high - low) / levels)
    return scale, torch.round(-low / scale)


def ends(x: Tensor) -> tuple[float, float]:
    """The smallest and the largest value of a tensor on a CPU; NaN where any of it is."""
    passes = passes_for(x)
    if passes is not None:
        return passes.ends(x)
    low, high = torch.aminmax(x.detach())
    return low.item(), high.item()


def inner(a: Tensor, b: Tensor) -> Tensor:
    """The sum of a * b, in one pass where both lie in memory alike; of half precision it is in float32."""
    # Half precision has three digits, and who takes the difference of two such sums has none left; torch.dot of it is
    # many times slower on a CPU besides.
    a, b = widened(a), widened(b)
    if a.stride() == b.stride() and a.dtype == b.dtype and _dense(a):
        # Equal strides over dense memory: element i of the one storage
        # belongs to element i of the other, whatever the layout.
        return torch.dot(a.as_strided((a.numel(),), (1,)), b.as_strided((b.numel(),), (1,)))
    return (a * b).sum()


def _passes_all(x: Tensor, seen: tuple[float, float], scale: float, low: int, high: int) -> bool:
    """Whether the gradient passes everywhere: all values are inside, or 0 where a ReLU made them.

    A ReLU's own gradient is 0 where its output is 0, whatever the quantizer gives it there. Only who asks for the
    gradient of that output later (`torch.autograd.grad`, `retain_grad` after this pass) sees what would be 0.
    """
    first, last = low * scale, high * scale
    if x.dtype is not torch.float64:  # as float32 has them, as in passes.c
        first, last = ctypes.c_float(first).value, ctypes.c_float(last).value
    below = seen[0] > first or (seen[0] == first == 0 and _is_unseen_relu(x))
    # What is kept for the backward pass must not depend on values where it is packed away and computed anew: in a
    # checkpointed block the second forward pass has another range than the first.
    return below and seen[1] < last and torch._C._autograd._top_saved_tensors_default_hooks(True) is None


def _is_unseen_relu(x: Tensor) -> bool:
    """Whether a ReLU made it and nobody has asked for its gradient so far, which is 0 at 0 only behind the ReLU."""
    return type(x.grad_fn).__name__ == "ReluBackward0" and not (x.retains_grad or x._backward_hooks)


def _passes_for(x: Tensor, scale: Tensor, low: Bound, high: Bound) -> Passes | None:
    """The compiled passes, if they may compute with these."""
    plain = isinstance(low, int) and isinstance(high, int) and scale.dim() == 0 and scale.dtype is torch.float32
    return passes_for(x) if plain and scale.is_cpu else None


def _dense(x: Tensor) -> bool:
    return x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last))


def _inside(grad: Tensor, x: Tensor, scale: Tensor, low: Bound, high: Bound) -> Tensor:
    """The gradient where low * scale < x < high * scale, else 0."""
    plain = isinstance(low, int) and isinstance(high, int) and scale.dim() == 0
    if plain and x.is_cpu and not torch.compiler.is_compiling():
        step = float(scale)
        # Its gradient is 0 at the ends too, as the `where` below has it, and it is one pass instead of four.
        return torch.ops.aten.hardtanh_backward(grad, x, low * step, high * step)
    return torch.where((x > low * scale) & (x < high * scale), grad, 0.0)


def _above(grad: Tensor, x: Tensor, clip: Tensor) -> Tensor:
    """The sum of the gradient where x >= clip."""
    if x.is_cpu and not torch.compiler.is_compiling():
        # threshold_backward keeps the gradient where x > threshold; x >= clip is x > the next smaller float.
        below = torch.nextafter(clip, clip.new_zeros(()))
        return widened(torch.ops.aten.threshold_backward(grad, x, float(below))).sum()
    return widened(torch.where(x >= clip, grad, 0.0)).sum()


def _led_back(total: Tensor, of_values: Tensor, of_inside: Tensor) -> Tensor:
    """A scale's gradient, with the sign that leads back where the scale has lost its tensor.

    Args:
        total: as the paper has it.
        of_values: sum of gradient * y; exactly 0 where all is rounded to 0.
        of_inside: sum of gradient * x over what is inside the range; exactly 0 where all is clipped.
    """
    # An optimizer subtracts the gradient: a negative one makes the scale larger, a positive one smaller.
    total = torch.where(of_inside == 0, -of_values.abs(), total)
    return torch.where(of_values == 0, of_inside.abs(), total)


def _led_back_clip(of_clip: Tensor, grad: Tensor, inside: Tensor, x: Tensor, y: Tensor, clip: Tensor) -> Tensor:
    """PACT's gradient of the clip, with the sign that leads back where the clip has lost its tensor."""
    on_cpu = x.is_cpu and not torch.compiler.is_compiling()
    if not on_cpu or bool(of_clip != 0):
        of_clip = torch.where(inner(inside, x) == 0, -of_clip.abs(), of_clip)
    if not on_cpu or bool(of_clip == 0):
        back = (widened(inside) * widened(x)).abs().sum() / clip
        lost = (of_clip == 0) & (inner(grad, y) == 0) & back.isfinite()
        of_clip = torch.where(lost, back, of_clip)
    return of_clip


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, low: Bound, high: Bound, factor: float, back: bool) -> Tensor:
        y = rounded(x, scale, low, high)
        ctx.bounds, ctx.factor, ctx.led_back = (low, high), factor, back
        ctx.save_for_backward(x, scale, *([y] if factor else []))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, *rest = ctx.saved_tensors
        inside = _inside(grad, x, scale, *ctx.bounds)
        if not rest or not ctx.needs_input_grad[1]:
            return inside, None, None, None, None, None
        # LSQ's eq. 3 for all elements at once. Inside, round(x / s) - x / s = (y - x) / s; outside, low or high = y /
        # s. So the sum is (sum(grad * y) - sum over the inside of grad * x) / s.
        if scale.dim() == 0:
            of_values, of_inside = inner(grad, rest[0]), inner(inside, x)
            total = of_values - of_inside
        else:
            values, within = widened(grad) * widened(rest[0]), widened(inside) * widened(x)
            total = (values - within).sum_to_size(scale.shape)
            of_values, of_inside = (each.sum_to_size(scale.shape) for each in (values, within))
        if ctx.led_back:
            total = _led_back(total, of_values, of_inside)
        total = torch.where(of_values.isfinite() & ~of_inside.isfinite(), 0.0, total)  # 0 * inf, where x is infinite
        return inside, (total * ctx.factor / scale).to(scale.dtype), None, None, None, None


class _PlainlyQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float, low: int, high: int) -> Tensor:
        passes = passes_for(x)
        ctx.knows_inside = passes is not None
        if passes is not None and ctx.needs_input_grad[0]:
            # One byte an element is all that the gradient needs: x itself need not be kept.
            y, inside = passes.quantize_inside(x, scale, low, high)
            ctx.save_for_backward(inside)
            return y
        if passes is None:
            ctx.save_for_backward(x)
            ctx.ends = low * scale, high * scale
        return _plainly_rounded(x, scale, low, high)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (saved,) = ctx.saved_tensors
        if ctx.knows_inside:
            return keep(grad, saved), None, None, None
        return torch.ops.aten.hardtanh_backward(grad, saved, *ctx.ends), None, None, None


class _PassedOn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float, low: int, high: int) -> Tensor:
        return _plainly_rounded(x, scale, low, high)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad, None, None, None


class _ClippedQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, clip: Tensor, low: int, high: int, back: bool) -> Tensor:
        # Without `led_back` y is not saved: the backward pass then needs x alone.
        y = rounded(x, clip / high, low, high)
        ctx.bounds = (low, high)
        ctx.save_for_backward(x, clip, *([y] if back else []))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, clip, *rest = ctx.saved_tensors
        low, high = ctx.bounds
        inside = _inside(grad, x, clip / high, low, high)
        of_clip = None
        if ctx.needs_input_grad[1]:
            of_clip = _above(grad, x, clip)
            # The mirror image: -x >= clip at the lower end, where a larger clip makes y smaller.
            if low < 0:
                of_clip = of_clip - _above(grad, -x, clip * (-low / high))
            if rest:
                of_clip = _led_back_clip(of_clip, grad, inside, x, rest[0], clip)
            of_clip = of_clip.to(clip.dtype)
        return inside, of_clip, None, None, None


class _SqueezedQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, levels: int, magnitude: Tensor, rescale: bool) -> Tensor:
        squeezed = weight.tanh()
        largest = squeezed.abs().argmax()
        top = squeezed.take(largest).abs().clamp_min(1e-12)
        ctx.save_for_backward(squeezed, largest, top, magnitude)
        ctx.rescale = rescale
        # Eq. 9 in integers: 2 round(levels * (t / 2 + 1 / 2)) - levels is odd (levels is), from -levels to levels.
        odd = torch.mul(squeezed, levels / (2 * top)).add_(levels / 2).round_().mul_(2).sub_(levels)
        return odd.mul_(magnitude / levels).masked_fill_(weight == 0, 0.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        squeezed, largest, top, magnitude = ctx.saved_tensors
        factor = (magnitude if ctx.rescale else 1.0) / top
        inside = torch.ops.aten.tanh_backward(grad, squeezed).mul_(factor)
        at_top = squeezed.take(largest)
        # t = tanh(w) / top also depends on the weight that makes
        # the maximum: d t / d top = -t / top, for every element.
        of_top = inner(grad, squeezed) * factor / top * at_top.sign() * (1 - at_top**2)
        flat = inside.flatten().index_add_(0, largest[None], of_top[None].to(inside.dtype), alpha=-1)
        return flat.view_as(grad), None, None, None


class _AtLeast(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, least: float) -> Tensor:
        return value.clamp_min(least)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad, None


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor) -> Tensor:
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad, None
