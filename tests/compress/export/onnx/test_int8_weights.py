"""Quantized weights as int8: exact where there is such a form, else the nearest and its error."""

import pytest
import torch

from compress.export.onnx.int8_weights import fitted, int8_form
from compress.quantization.grid import Grid


def grid(scale: object, zero: object, low: int, high: int, axis: int | None = None) -> Grid:
    return Grid(torch.tensor(scale), torch.tensor(zero), low, high, axis)


def on_grid(made: Grid, shape: tuple[int, ...]) -> torch.Tensor:
    return made.values(torch.randint(made.low, made.high + 1, shape))


@pytest.mark.parametrize("bits", range(1, 8))
def test_dorefa_up_to_seven_bits_is_odd_integers_over_its_levels(bits: int) -> None:
    levels = 2**bits - 1
    odd = 2 * torch.randint(0, 2**bits, (8, 3, 3, 3)) - levels
    values = odd / levels
    values[0] = 0  # masked
    found = int8_form(values, grid(1 / levels, 0, -levels, levels))
    assert found.exact
    factor = 2 ** max(6 - bits, 0)
    assert torch.equal(found.integers[1:].long(), factor * odd[1:])
    assert not found.integers[0].any()
    torch.testing.assert_close(found.values(), values, rtol=1e-6, atol=0)


def test_small_integers_become_larger_over_a_finer_scale_for_the_sake_of_the_bias() -> None:
    made = grid([0.3, 0.1, 0.7, 0.2], [0, 0, 0, 0], -127, 127, 0)
    rows = torch.tensor([[-7, 3, 1], [32, -4, 0], [0, 0, 0], [1, 0, -1]])
    found = int8_form(made.values(rows), made)
    assert found.exact
    factors = torch.tensor([8, 1, 1, 32])
    assert torch.equal(found.integers.long(), rows * factors[:, None])
    torch.testing.assert_close(found.scale * factors, torch.tensor([0.3, 0.1, 1.0, 0.2]))
    assert torch.equal(found.values(), made.values(rows))
    whole = grid(0.3, 0, -8, 7)
    found = int8_form(whole.values(rows[:1]), whole)
    assert torch.equal(found.integers.long(), 8 * rows[:1])
    assert float(found.scale) == pytest.approx(0.3 / 8)


def test_dorefa_with_eight_bits_has_none_and_says_how_far_the_nearest_is() -> None:
    values = (2 * torch.arange(256) - 255).reshape(4, 64) / 255
    for given in (grid(1 / 255, 0, -255, 255), None):
        found = int8_form(values, given)
        assert not found.exact
        assert found.error == pytest.approx(float((found.values() - values).abs().max()), rel=1e-4)
        assert found.error <= 0.5 / 127 + 1e-6
        assert found.relative_error == pytest.approx(found.error / 1.0)


def test_half_integer_zero_points_are_odd_multiples_of_half_a_step() -> None:
    values = (torch.randint(0, 16, (4, 9)) - 7.5) * 0.2
    found = int8_form(values, grid(0.2, 0, -8, 7))
    assert found.exact
    torch.testing.assert_close(found.values(), values)


def test_per_channel_scales() -> None:
    made = grid([0.1, 0.02, 0.5], [0, 0, 0], -127, 127, 0)
    values = on_grid(made, (3, 5))
    found = int8_form(values, made)
    assert found.exact
    assert found.axis == 0
    torch.testing.assert_close(found.values(), values)


def test_an_asymmetric_grid_with_one_zero_point_is_shifted() -> None:
    made = grid(0.01, 30, 0, 255)
    values = on_grid(made, (16, 64))
    found = int8_form(values, made)
    assert found.exact
    assert int(found.zero_point) == 30 - 128
    torch.testing.assert_close(found.values(), values)


def test_zero_points_of_their_own_are_exact_only_as_far_as_int8_reaches() -> None:
    made = grid([0.1, 0.1], [30, 100], 0, 255, 0)
    assert int8_form(made.values(torch.tensor([[0, 157], [0, 227]])), made).exact
    assert not int8_form(made.values(torch.tensor([[0, 255], [0, 255]])), made).exact


def test_a_batch_norms_scale_stretches_the_grid_and_may_turn_it_round() -> None:
    made = grid([0.1, 0.2], [0, 0], -127, 127, 0)
    values = on_grid(made, (2, 6))
    stretch = torch.tensor([[3.0], [-0.5]])
    found = int8_form(values * stretch, made, 0, stretch)
    assert found.exact
    torch.testing.assert_close(found.scale, torch.tensor([0.3, 0.1]))
    torch.testing.assert_close(found.values(), values * stretch)


def test_the_lowest_integer_turned_round_gives_its_channel_a_negative_scale() -> None:
    made = grid([0.1, 0.2], [0, 0], -128, 127, 0)
    values = made.values(torch.tensor([[-128, 100, 1], [-128, 127, 1]]))
    stretch = torch.tensor([[3.0], [-0.5]])
    found = int8_form(values * stretch, made, 0, stretch)
    assert found.exact
    torch.testing.assert_close(found.scale, torch.tensor([0.3, -0.1]))
    torch.testing.assert_close(found.values(), values * stretch)


def test_reduced_range() -> None:
    made = grid(0.1, 0, -127, 127)
    values = on_grid(made, (4, 100))
    found = int8_form(values, made, reduce_range=True)
    assert int(found.integers.abs().max()) <= 63
    assert 0 < found.error <= 0.1 * 127 / 63 / 2 + 1e-6
    narrow = grid(0.1, 0, -63, 63)
    assert int8_form(on_grid(narrow, (4, 100)), narrow, reduce_range=True).exact


def test_a_masked_channel_gets_a_scale_that_a_bias_can_be_divided_by() -> None:
    found = int8_form(torch.tensor([[0.0, 0.0], [0.1, 0.2]]), grid([1e-30, 0.1], [0, 0], -127, 127, 0))
    assert found.exact
    assert float(found.scale[0]) == 1.0


@pytest.mark.parametrize("zero", [0, -3])
def test_scales_too_fine_for_a_bias_become_coarser(zero: int) -> None:
    """bias / (0.01 * scale) fits 32 bits; weights keep their values to half a scale, others their integers."""
    integers = torch.tensor([[100, -50], [100, -50], [90, 7]], dtype=torch.int8)
    scale, zeros, bias = torch.tensor([0.1, 1e-12, -1e-12]), torch.full((3,), zero), torch.tensor([0.5, 0.5, -0.5])
    found = fitted(integers, scale, zeros, 0, bias, 0.01)
    assert found is not None
    coarse, new = found
    assert (new[0], new[1] > 0, new[2] < 0) == (scale[0], True, True)
    assert torch.equal(coarse[0], integers[0])
    assert (bias.double().abs() / (0.01 * new.double().abs()) <= 2**31 - 1).all()
    wanted, values = (((each.double() - zero) * by[:, None]) for each, by in ((integers, scale), (coarse, new)))
    assert ((values - wanted).abs() <= 0.501 * new.abs()[:, None]).all()
    assert fitted(coarse, new, zeros, 0, bias, 0.01) is None
    assert fitted(integers, scale, zeros, 0, torch.zeros(1), 0.01) is None
