"""The mathematics of 4-bit weights: integers of exact weights, blocks of rounded ones."""

import numpy as np
import pytest

from compress.export.onnx.narrow.int4 import block_of, four_bits, round_blocks
from compress.export.onnx.rewriting.weights import Weight


@pytest.mark.parametrize(("length", "block"), [(27, 27), (64, 64), (288, 48), (576, 64), (131, 131), (96, 48)])
def test_blocks_divide_a_row(length: int, block: int) -> None:
    assert block_of(length) == block


def test_multiples_of_a_power_of_two_are_taken_back_channel_by_channel() -> None:
    integers = np.array([[-56, 8, 0], [4, -12, 28], [0, 0, 0]], np.int8)
    scale = np.array([0.5, 2.0, 1.0], np.float32)
    found = four_bits(Weight(integers, scale, np.zeros(3, np.int8), 0))
    assert found is not None
    small, finer, zero = found
    assert small.astype(int).tolist() == [[-7, 1, 0], [1, -3, 7], [0, 0, 0]]
    np.testing.assert_array_equal((small.astype(float) - zero.astype(float)[:, None]) * finer[:, None],
                                  integers * scale[:, None])  # fmt: skip


@pytest.mark.parametrize(("integers", "held"), [([0, 15, 3], True), ([-15, -1, 0], True), ([-1, 15, 2], False)])
def test_one_sided_grids_are_unsigned(integers: list[int], held: bool) -> None:
    given = Weight(np.array(integers, np.int8), np.float32(0.25), np.int8(0), 0)
    found = four_bits(given)
    assert (found is not None) == held
    if found is not None:
        small, scale, zero = (each.astype(float) for each in found)
        np.testing.assert_array_equal((small - zero) * scale, np.array(integers) * 0.25)


def test_rows_next_to_zero_become_zero() -> None:
    integers, scales = round_blocks(np.full((2, 8), 1e-44, np.float32), 8)
    assert not integers.astype(np.float32).any()
    assert np.isfinite(scales).all()
    assert (scales > 0).all()


def test_rounding_is_as_good_as_the_best_of_many_scales() -> None:
    rows = np.random.default_rng(0).standard_normal((4, 128)).astype(np.float32)
    integers, scale = round_blocks(rows, 64)
    given = (integers.astype(np.float64).reshape(4, 2, 64) * scale[..., None]).reshape(4, 128)
    plain = np.abs(rows.reshape(4, 2, 64)).max(2, keepdims=True) / 7
    naive = (np.round(rows.reshape(4, 2, 64) / plain) * plain).reshape(4, 128)
    assert ((given - rows) ** 2).sum() <= ((naive - rows) ** 2).sum()
    assert np.abs(integers.astype(int)).max() <= 7
