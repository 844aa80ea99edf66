"""Roundings against formulas written out element by element, in value and gradient, over shapes and bits."""

import math
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from compress.quantization.functions import affine, clipped_quantize, fake_quantize, inner, straight_through

SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=4)
BITS = st.integers(1, 8) | st.just(16)


def data(shape: list[int], seed: int, spread: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Values and output gradients, in float64 so that the formulas below are exact to 1e-12."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: torch.randn(shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return (draw() * spread).requires_grad_(), draw()


def by_hand(x: float, scale: float, low: int, high: int) -> tuple[float, float, float]:
    """Value, gradient of x, gradient of the scale (arXiv 1902.08153, eq. 1 to 3) of one element."""
    v = x / scale
    if v <= low:
        return low * scale, 0.0, float(low)
    if v >= high:
        return high * scale, 0.0, float(high)
    return round(v) * scale, 1.0, round(v) - v


@settings(max_examples=40, deadline=None)
@given(shape=SHAPES, bits=BITS, signed=st.booleans(), seed=st.integers(0, 1000), scale=st.floats(0.01, 2.0))
def test_fake_quantize_is_the_formula(shape: list[int], bits: int, signed: bool, seed: int, scale: float) -> None:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    x, grad = data(shape, seed)
    step = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
    y = fake_quantize(x, step, low, high, 0.5)
    y.backward(grad)
    wanted = [by_hand(each, scale, low, high) for each in x.flatten().tolist()]
    assert x.grad is not None
    assert step.grad is not None
    torch.testing.assert_close(y.flatten(), torch.tensor([w[0] for w in wanted], dtype=torch.float64))
    torch.testing.assert_close(
        x.grad.flatten(), grad.flatten() * torch.tensor([w[1] for w in wanted], dtype=torch.float64)
    )
    of_scale = 0.5 * sum(g * w[2] for g, w in zip(grad.flatten().tolist(), wanted, strict=True))
    assert math.isclose(float(step.grad), of_scale, rel_tol=1e-7, abs_tol=1e-7 * 2**bits)


@settings(max_examples=40, deadline=None)
@given(shape=SHAPES, bits=st.integers(2, 8), signed=st.booleans(), seed=st.integers(0, 1000), at=st.floats(0.1, 4.0))
def test_clipped_quantize_is_pacts_formula(shape: list[int], bits: int, signed: bool, seed: int, at: float) -> None:
    high = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
    low = -high if signed else 0
    x, grad = data(shape, seed)
    clip = torch.tensor(at, dtype=torch.float64, requires_grad=True)
    y = clipped_quantize(x, clip, low, high)
    y.backward(grad)
    total, floor = 0.0, -at if signed else 0.0
    assert x.grad is not None
    assert clip.grad is not None
    for value, g, out, slope in zip(*(t.flatten().tolist() for t in (x, grad, y, x.grad)), strict=True):
        clamped = min(max(value, floor), at)
        assert math.isclose(out, round(clamped * high / at) * at / high, abs_tol=1e-12)
        assert math.isclose(slope, g if floor < value < at else 0.0)
        total += g if value >= at else -g if signed and value <= -at else 0.0
    assert math.isclose(float(clip.grad), total, abs_tol=1e-9)


def test_the_ends_belong_to_the_clip() -> None:
    x = torch.tensor([-1.0, 0.0, 1.0, 2.0], requires_grad=True)
    clip = torch.tensor(1.0, requires_grad=True)
    clipped_quantize(x, clip, 0, 15).sum().backward()
    assert x.grad is not None
    assert clip.grad is not None
    assert x.grad.tolist() == [0.0, 0.0, 0.0, 0.0]
    assert float(clip.grad) == 2.0  # x = 1 and x = 2


@pytest.mark.parametrize("axis", [0, 1])
def test_a_scale_for_each_channel_has_a_gradient_each(axis: int) -> None:
    x, grad = data([3, 4, 2], 1)
    shape = [1, 1, 1]
    shape[axis] = -1
    scales = torch.rand(x.shape[axis], dtype=torch.float64).add_(0.2).requires_grad_()
    fake_quantize(x, scales.reshape(shape), -4, 3, 1.0).backward(grad)
    for i in range(x.shape[axis]):
        own = x.detach().select(axis, i).clone().requires_grad_()
        step = scales.detach()[i].clone().requires_grad_()
        fake_quantize(own, step, -4, 3, 1.0).backward(grad.select(axis, i))
        assert scales.grad is not None
        torch.testing.assert_close(scales.grad[i], step.grad)


@pytest.mark.parametrize("signed", [False, True])
def test_eager_and_compiled_form_agree(monkeypatch: pytest.MonkeyPatch, signed: bool) -> None:
    """On a GPU and under torch.compile no number may leave its tensor: other operations, the same results."""

    def run() -> list[Any]:
        x, grad = data([4, 3, 5], 7)
        step = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        clip = torch.tensor(1.7, dtype=torch.float64, requires_grad=True)
        low = -7 if signed else 0
        (fake_quantize(x, step, low, 7, 1.0) + clipped_quantize(x, clip, low, 7)).backward(grad)
        return [x.grad, step.grad, clip.grad]

    eager = run()
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    for one, other in zip(eager, run(), strict=True):
        torch.testing.assert_close(one, other)


def test_ties_go_to_even_as_onnx_says() -> None:
    x = torch.tensor([0.5, 1.5, 2.5, -0.5])
    assert fake_quantize(x, torch.tensor(1.0), -8, 7).tolist() == [0.0, 2.0, 2.0, 0.0]


def test_straight_through_is_exactly_the_values() -> None:
    x, values = torch.rand(100, requires_grad=True), torch.rand(100)
    y = straight_through(x, values)
    assert torch.equal(y, values)
    y.backward(torch.arange(100.0))
    assert torch.equal(x.grad, torch.arange(100.0))


@settings(max_examples=50, deadline=None)
@example(low=0.0, high=-2.194932580093453e-42, bits=7)
@given(low=st.floats(-9, 9), high=st.floats(-9, 9), bits=st.integers(2, 8))
def test_affine_ranges_hold_zero_exactly(low: float, high: float, bits: int) -> None:
    low, high = min(low, high), max(low, high)
    scale, zero = affine(torch.tensor(low), torch.tensor(high), 2**bits - 1)
    assert float(scale) > 0
    assert float(zero) == int(zero)
    assert 0 <= int(zero) <= 2**bits - 1
    width = max(high, 0.0) - min(low, 0.0)
    if width > 1e-30:
        assert math.isclose(float(scale), width / (2**bits - 1), rel_tol=1e-5)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_inner_follows_memory(layout: torch.memory_format) -> None:
    a = torch.randn(2, 3, 4, 5).to(memory_format=layout)
    b = torch.randn(2, 3, 4, 5)
    for other in (b, b.to(memory_format=layout), b.transpose(2, 3).contiguous().transpose(2, 3)):
        torch.testing.assert_close(inner(a, other), (a * other).sum())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("signed", [False, True])
def test_a_steps_gradient_does_not_drown_in_half_precision(dtype: torch.dtype, signed: bool) -> None:
    """It is the small difference of two large sums, each of thousands of values."""
    x, grad = (each.detach().to(dtype) for each in data([64, 1000], 3))
    x, grad = x if signed else x.abs(), grad + 2  # sums far from 0
    low, high = (-8, 7) if signed else (0, 15)
    step = torch.tensor(0.75, requires_grad=True)
    fake_quantize(x.requires_grad_(), step, low, high, 1.0).backward(grad)
    right = torch.tensor(0.75, dtype=torch.float64, requires_grad=True)
    fake_quantize(x.detach().double().requires_grad_(), right, low, high, 1.0).backward(grad.double())
    assert step.grad is not None
    assert right.grad is not None
    assert float(step.grad) == pytest.approx(float(right.grad), rel=0.01)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_clips_gradient_does_not_drown_in_half_precision(dtype: torch.dtype) -> None:
    x, grad = (each.detach().to(dtype) for each in data([64, 1000], 5))
    clip, right = (torch.tensor(2.0, dtype=each, requires_grad=True) for each in (torch.float32, torch.float64))
    clipped_quantize(x.requires_grad_(), clip, -7, 7, led_back=True).backward(grad + 2)
    clipped_quantize(x.detach().double().requires_grad_(), right, -7, 7, led_back=True).backward((grad + 2).double())
    assert clip.grad is not None
    assert right.grad is not None
    assert float(clip.grad) == pytest.approx(float(right.grad), rel=0.01)
