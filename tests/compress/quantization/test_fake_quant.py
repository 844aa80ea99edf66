"""Each fake quantizer against its paper's formula in numpy; what it yields is on the grid that it names."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.quantization.bias import LinearBias
from compress.quantization.dorefa import DorefaWeight, FixedRangeActivation
from compress.quantization.fake_quant import (
    ActivationQuantizer,
    FakeQuantizer,
    Pieces,
    WeightQuantizer,
    described,
    made,
)
from compress.quantization.lsq import LearnedStepActivation, LearnedStepWeight
from compress.quantization.pact import ClippedActivation
from compress.quantization.range_linear import RangeActivation, RangeWeight
from compress.quantization.range_numbers import integers_of
from compress.quantization.wrpn import UnitRangeWeight

MODES = ("SYMMETRIC", "SYMMETRIC_RESTRICTED", "ASYMMETRIC_SIGNED", "ASYMMETRIC_UNSIGNED")
WEIGHTS: list[Any] = [
    *(lambda bits, s=s: DorefaWeight(bits, s) for s in ("unit", "max")),
    UnitRangeWeight,
    LinearBias,
    LearnedStepWeight,
    lambda bits: LearnedStepWeight(bits, 0),
    *(lambda bits, m=m, a=a: RangeWeight(bits, m, a) for m in MODES for a in (None, 0, 1)),
]
ACTIVATIONS: list[Any] = [
    FixedRangeActivation,
    ClippedActivation,
    LearnedStepActivation,
    *(lambda bits, signed, m=m: RangeActivation(bits, signed, m) for m in MODES),
]
BITS = [2, 3, 4, 5, 6, 7, 8, 16]


def weight(shape: tuple[int, ...] = (4, 3, 3, 3), seed: int = 0) -> torch.Tensor:
    """A weight with some exact zeros."""
    w = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.3
    w.flatten()[::5] = 0
    return w.requires_grad_()


@pytest.mark.parametrize("make", WEIGHTS)
@pytest.mark.parametrize("bits", BITS)
def test_weights_are_on_the_grid_and_zeros_stay(make: Any, bits: int) -> None:
    piece, w = make(bits), weight()
    piece.start(w)
    q = piece(w)
    assert torch.count_nonzero(q[w == 0]) == 0
    grid = piece.grid()
    if grid is None:
        assert isinstance(piece, DorefaWeight)
        assert bits > 7
        return
    integers = grid.integers(q)
    assert int(integers.min()) >= grid.low
    assert int(integers.max()) <= grid.high
    torch.testing.assert_close(grid.values(integers).to(q), q, rtol=1e-6, atol=1e-7)
    q.sum().backward()
    assert w.grad is not None
    assert torch.isfinite(w.grad).all()
    assert torch.count_nonzero(w.grad[w == 0]), "a weight that is zero but not masked must be able to grow"


@pytest.mark.parametrize("make", ACTIVATIONS)
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", BITS)
def test_activations_are_on_the_grid_and_within_its_ends(make: Any, signed: bool, bits: int) -> None:
    piece = make(bits, signed)
    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(bits))
    y = piece(x)
    grid = piece.grid()
    assert grid is not None
    torch.testing.assert_close(grid.values(grid.integers(y)).to(y), y, rtol=1e-5, atol=1e-6)
    low, high = piece.clip_range()
    assert (low, high) == pytest.approx(grid.clip_range())
    assert low >= -1e-6 or signed
    y = y.detach()
    assert low - 1e-5 <= float(y.min()) <= float(y.max()) <= high + 1e-5
    assert len(torch.unique(grid.integers(y))) <= 2**bits
    piece.eval()
    assert torch.equal(piece(x), y)


def test_one_bit() -> None:
    w = torch.tensor([-3.0, 0.0, 1.0])
    assert DorefaWeight(1)(w).tolist() == [-2.0, 0.0, 2.0]  # the mean of those that are there
    assert FixedRangeActivation(1, False)(torch.tensor([0.2, 0.6, 3.0])).tolist() == [0.0, 1.0, 1.0]


@settings(max_examples=30, deadline=None)
@given(bits=st.integers(2, 8), seed=st.integers(0, 100))
def test_dorefa_weights_are_equation_9(bits: int, seed: int) -> None:
    w = weight(seed=seed)
    values = w.detach().double().numpy()
    levels = 2**bits - 1
    half = np.tanh(values) / (2 * np.abs(np.tanh(values)).max()) + 0.5
    wanted = np.where(values == 0, 0.0, 2 * np.round(half * levels) / levels - 1)
    off = np.abs(DorefaWeight(bits)(w).detach().numpy() - wanted)
    assert (off > 1e-5).mean() < 0.02  # float32 may fall to the other side of a tie
    wide = DorefaWeight(bits, "max")
    np.testing.assert_allclose(wide(w).detach(), np.abs(values).max() * DorefaWeight(bits)(w).detach(), rtol=1e-5)


def test_dorefa_weights_have_the_gradient_of_the_unrounded_formula() -> None:
    w = weight().detach().double().requires_grad_()
    direction = torch.randn_like(w)
    (DorefaWeight(4).double()(w) * direction).sum().backward()
    plain = w.detach().clone().requires_grad_()
    squeezed = torch.tanh(plain)
    (squeezed / squeezed.abs().max() * direction).sum().backward()
    torch.testing.assert_close(w.grad, plain.grad)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_range_weights_are_rounded_to_their_own_range(mode: Any, axis: int | None) -> None:
    w, bits = weight().detach(), 5
    q = RangeWeight(bits, mode, axis)
    q.start(w)
    got, (low, high) = q(w), integers_of(mode, bits)
    rows = [w] if axis is None else w.unbind(axis)
    outs = [got] if axis is None else got.unbind(axis)
    for row, out in zip(rows, outs, strict=True):
        r = row.double().numpy()
        if mode.startswith("ASYMMETRIC"):
            scale = (max(r.max(), 0) - min(r.min(), 0)) / (2**bits - 1)
            zero = np.round(-min(r.min(), 0) / scale) + low
        else:
            scale, zero = np.abs(r).max() / ((high - low) / 2), 0
        wanted = scale * (np.clip(np.round(r / scale) + zero, low, high) - zero)
        np.testing.assert_allclose(out, wanted, atol=1e-5)


def test_ranges_are_an_average_without_bias() -> None:
    piece = RangeActivation(8, True, "ASYMMETRIC_UNSIGNED", decay=0.9)
    batches = [torch.randn(50, generator=torch.Generator().manual_seed(i)) * (i + 1) for i in range(5)]
    for batch in batches:
        piece(batch)
    weights = np.array([0.1 * 0.9 ** (4 - i) for i in range(5)])
    wanted = [sum(weights * [float(f(b)) for b in batches]) / weights.sum() for f in (torch.min, torch.max)]
    grid = piece.grid()
    assert grid is not None
    assert float(grid.scale) == pytest.approx((wanted[1] - wanted[0]) / 255, rel=1e-5)
    assert int(grid.zero_point) == round(-wanted[0] / float(grid.scale))


def test_symmetric_modes_spend_no_integer_below_zero_where_nothing_is() -> None:
    piece = RangeActivation(8, False, "SYMMETRIC")
    piece(torch.tensor([-5.0, 2.0]))
    grid = piece.grid()
    assert grid is not None
    assert (grid.low, grid.high, int(grid.zero_point)) == (0, 255, 0)
    assert float(grid.scale) == pytest.approx(2 / 255)


def test_no_range_before_the_first_minibatch() -> None:
    x = torch.randn(9)
    for piece in (RangeActivation(8, True), LearnedStepActivation(8, True)):
        piece.eval()
        assert piece.grid() is None
        assert piece.clip_range() == (-float("inf"), float("inf"))
        assert torch.equal(piece(x), x)
    for piece in (RangeActivation(8, False), LearnedStepActivation(8, False)):
        piece.eval()
        assert piece.clip_range() == (0.0, float("inf"))
        assert torch.equal(piece(x), x.clamp_min(0))


def test_learned_steps_start_as_the_paper_says() -> None:
    w = weight().detach()
    piece = LearnedStepWeight(4)
    piece.start(w)
    assert piece.step.item() == pytest.approx(2 * float(w.abs().mean()) / 7**0.5)
    x = torch.randn(3, 7)
    acting = LearnedStepActivation(4, False)
    acting(x)
    assert acting.step.item() == pytest.approx(2 * float(x.clamp_min(0).abs().mean()) / 15**0.5)
    acting(100 * x)
    assert acting.step.item() == pytest.approx(2 * float(x.clamp_min(0).abs().mean()) / 15**0.5)


def test_a_weight_of_zeros_gets_a_step_that_it_can_grow_into() -> None:
    piece, w = LearnedStepWeight(4), torch.zeros(3, 3)
    piece.start(w)
    assert float(piece(w + 0.5).abs().max()) > 0.4


def test_lsq_scales_the_gradient_of_steps() -> None:
    w = weight().detach()
    piece = LearnedStepWeight(3)
    piece.start(w)
    piece(w).sum().backward()
    v, step = w / piece.step.detach(), piece.step
    inside = (v > -4) & (v < 3)
    wanted = torch.where(inside, v.round() - v, v.clamp(-4, 3)).sum() / (w.numel() * 3) ** 0.5
    assert step.grad is not None
    assert float(step.grad) == pytest.approx(float(wanted), rel=1e-4)


def test_frozen_ranges_stay() -> None:
    piece = RangeActivation(8, False)
    piece(torch.ones(3))
    piece.freeze()
    before = piece.ranges.clone()
    piece(10 * torch.ones(3))
    assert torch.equal(piece.ranges, before)
    clipped = ClippedActivation(8, False, 1.0)
    clipped(torch.full((3,), 2.0)).sum().backward()
    clipped.freeze()
    assert clipped.clip.grad is None
    x = torch.full((3,), 0.5, requires_grad=True)
    clipped(x).sum().backward()
    assert clipped.clip.grad is None


def test_ranges_after_signed_activations_are_symmetric() -> None:
    """What DoReFa and PACT mean after PReLU or a sum: nothing below zero is lost."""
    x = torch.tensor([-2.0, -0.4, 0.0, 0.4, 2.0])
    np.testing.assert_allclose(FixedRangeActivation(8, True)(x), [-1, -51 / 127, 0, 51 / 127, 1], rtol=1e-6)
    np.testing.assert_allclose(FixedRangeActivation(8, False)(x), [0, 0, 0, 102 / 255, 1], rtol=1e-6)
    wide = ClippedActivation(8, True, 1.5)(x).detach()
    np.testing.assert_allclose(wide, np.round(np.clip(x.numpy(), -1.5, 1.5) * 127 / 1.5) * 1.5 / 127, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(Pieces.table))
def test_every_piece_is_plain_data_and_back(name: str) -> None:
    cls: type[FakeQuantizer] = Pieces.table[name]
    piece = cls(4) if issubclass(cls, WeightQuantizer) else cls(4, True)  # type: ignore[call-arg]
    assert isinstance(piece, WeightQuantizer | ActivationQuantizer)
    again = made(described(piece))
    assert type(again) is cls
    assert described(again) == described(piece)
    assert set(again.state_dict()) == set(piece.state_dict())
    assert "bits=4" in repr(piece)


def test_a_name_of_a_piece_is_taken_once() -> None:
    with pytest.raises(ValueError, match="registered twice"):
        Pieces.register(type("RangeWeight", (WeightQuantizer,), {}))
