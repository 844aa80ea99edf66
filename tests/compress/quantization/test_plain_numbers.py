"""The quick way of observed ranges on a CPU against that of tensors, which GPUs and tracers take: equal to the bit."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from compress.analysis.sensitivity.changes import quantize_symmetric
from compress.quantization.functions import plainly_quantize, usable
from compress.quantization.range_linear import RangeActivation, RangeWeight
from compress.quantization.range_numbers import Mode, plain_scale_and_zero, scale_and_zero

MODES: tuple[Mode, ...] = ("SYMMETRIC", "SYMMETRIC_RESTRICTED", "ASYMMETRIC_SIGNED", "ASYMMETRIC_UNSIGNED")


class OfTensors(RangeActivation):
    """The way without plain numbers."""

    def _is_plain(self, x: Tensor) -> bool:
        return False


def batches(dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    made = [torch.randn(4, 3, 5, 5, generator=generator) * size for size in (1.0, 0.7, 3.0, 1e-3, 0.0)]
    made[1][0, 0, 0, 0] = torch.nan
    made[2][0] = 7.0  # at and beyond the range's end
    return [each.to(dtype) for each in made]


def answers(piece: RangeActivation, dtype: torch.dtype) -> list[Any]:
    found: list[Any] = []
    for i, x in enumerate(batches(dtype)):
        piece.train(i != 3)
        x.requires_grad_()
        piece.check_sign(x)
        y = piece(x)
        (y.float() * torch.arange(y.numel()).reshape(y.shape)).nan_to_num().sum().backward()
        found += [y.detach(), x.grad, piece.ranges.clone(), piece.ignored.clone()]
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_values_gradients_and_ranges_are_those_of_the_way_of_tensors(
    mode: Mode, signed: bool, dtype: torch.dtype
) -> None:
    quick, slow = RangeActivation(8, signed, mode, 0.9), OfTensors(8, signed, mode, 0.9)
    for a, b in zip(answers(quick, dtype), answers(slow, dtype), strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a.nan_to_num(77.0), b.nan_to_num(77.0))
    assert torch.equal(quick.negative, slow.negative)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bits", [2, 8, 16])
def test_scales_of_many_ranges(mode: Mode, bits: int) -> None:
    generator = torch.Generator().manual_seed(bits)
    for size in (1e-45, 1e-43, 1e-40, 1e-38, 1e-37, 1e-36, 1e-6, 1.0, 1e5):
        sums = torch.randn(60, 2, generator=generator) * size
        weights = torch.rand(60, generator=generator)
        for (low, high), weight in zip(sums, weights, strict=True):
            step, zero = scale_and_zero(low / weight, high / weight, mode, bits)
            assert plain_scale_and_zero([float(low), float(high), float(weight)], mode, bits) == (
                float(step),
                int(zero),
            )


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("mode", MODES)
def test_weights_follow_the_ranges_of_their_channels(mode: Mode, axis: int | None) -> None:
    weight = torch.randn(6, 5, 3, 3, generator=torch.Generator().manual_seed(0))
    piece = RangeWeight(8, mode, axis)
    piece.start(torch.ones(6, 5, 3, 3))
    values = piece(weight)
    rows = weight.flatten()[None] if axis is None else weight.movedim(axis, 0).flatten(1)
    step, zero = scale_and_zero(rows.min(1).values, rows.max(1).values, mode, 8)
    assert torch.equal(piece.step.reshape(-1), step)
    assert torch.equal(piece.zero_point.reshape(-1), zero)
    assert torch.equal(values, piece.grid().values(piece.grid().integers(weight)))


def after_wide_range(piece: RangeActivation) -> RangeActivation:
    piece.observe(torch.tensor([-9.0, 9.0]))
    return piece


@pytest.mark.parametrize("makes", [torch.relu, torch.clone, torch.neg], ids=["ReLU", "signed", "another"])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_what_lies_inside_the_range_needs_nothing_for_its_gradient(mode: Mode, signed: bool, makes: Any) -> None:
    found = {}
    for kind in (RangeActivation, OfTensors):
        piece = after_wide_range(kind(8, signed, mode, 0.5))
        x = batches(torch.float32)[0].requires_grad_()
        made = makes(x)
        y = piece(made)
        (y * torch.arange(y.numel()).reshape(y.shape) + made.square()).sum().backward()
        found[kind] = y, x.grad
    assert all(torch.equal(a, b) for a, b in zip(found[RangeActivation], found[OfTensors], strict=True))
    if signed or makes is torch.relu:
        assert type(found[RangeActivation][0].grad_fn).__name__ == "_PassedOnBackward"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("side", [-1, 1])
@pytest.mark.parametrize("by", [-1, 0, 1])
def test_values_next_to_the_ends_pass_by_the_numbers_of_their_own_type(dtype: torch.dtype, side: int, by: int) -> None:
    step = float(torch.tensor(0.3))  # 127 of it are less than the nearest number of float32
    end = torch.tensor(side * 127 * step, dtype=dtype)
    x = torch.nextafter(end, end + by)[None].requires_grad_()
    seen = x.detach().aminmax()
    given = plainly_quantize(x, step, -127, 127, (float(seen.min), float(seen.max)))
    expected = plainly_quantize(x, step, -127, 127)
    assert torch.equal(*(torch.autograd.grad(each, x)[0] for each in (given, expected)))


@pytest.mark.parametrize("kept", [True, False], ids=["retain_grad", "hook"])
def test_who_looks_at_the_gradient_of_a_relus_output_sees_that_of_the_way_of_tensors(kept: bool) -> None:
    found = []
    for kind in (RangeActivation, OfTensors):
        x = torch.tensor([-1.0, 0.0, 2.0], requires_grad=True)
        h = torch.relu(x)
        seen: list[Tensor | None] = []
        if kept:
            h.retain_grad()
        else:
            h.register_hook(seen.append)
        after_wide_range(kind(8, False))(h).sum().backward()
        found.append((*seen, *([h.grad] if kept else []), x.grad))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_leaf_that_is_zero_has_no_gradient_there() -> None:
    x = torch.tensor([0.0, 1.0], requires_grad=True)
    after_wide_range(RangeActivation(8, False))(x).sum().backward()
    assert x.grad.tolist() == [0.0, 1.0]  # type: ignore[union-attr]


def test_a_checkpointed_block_keeps_as_much_in_both_of_its_passes() -> None:
    piece = RangeActivation(8, True, decay=0.5)
    x = torch.tensor([-3.0, 3.0], requires_grad=True)
    # Alone x has the range's ends in the first pass, and is inside of it in the second one.
    checkpoint(lambda each: piece(each) + piece(each * 3), x, use_reentrant=False).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_steps_next_to_zero_become_one(dtype: torch.dtype) -> None:
    steps = usable(torch.tensor([0.0, 1e-45, 1e-39, 1e-5], dtype=dtype))
    assert steps.tolist() == [1.0, 1.0, 1.0, torch.tensor(1e-5, dtype=dtype).item()]
    assert quantize_symmetric(torch.full((2, 3), 1e-45), 8).count_nonzero() == 0
