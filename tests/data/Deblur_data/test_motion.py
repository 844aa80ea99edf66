"""Camera motion: speed, kernels, blur against an independent convolution."""

import numpy as np
import pytest
from scipy.signal import convolve2d

from data.Deblur_data.motion import blur, blur_whole, kernel_of, random_kernel, random_trajectory


def draw(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_a_trajectory_has_constant_speed_and_the_given_length() -> None:
    way = random_trajectory(draw(), 30.0, 400)
    strides = np.abs(np.diff(way))
    assert way[0] == 0
    assert strides == pytest.approx(30 / 399)
    assert strides.sum() == pytest.approx(30)


def test_the_same_seed_gives_the_same_kernel_and_another_does_not() -> None:
    assert np.array_equal(random_kernel(draw(1), 20), random_kernel(draw(1), 20))
    first, second = random_kernel(draw(1), 20), random_kernel(draw(2), 20)
    assert first.shape != second.shape or not np.array_equal(first, second)


@pytest.mark.parametrize("seed", range(5))
def test_a_kernel_keeps_the_light_and_the_place(seed: int) -> None:
    kernel = random_kernel(draw(seed), 25)
    side = kernel.shape[0]
    place = np.arange(side) - side // 2
    assert side % 2 == 1
    assert kernel.min() >= 0
    assert kernel.sum() == pytest.approx(1, abs=1e-5)
    assert (kernel.sum(0) @ place, kernel.sum(1) @ place) == pytest.approx((0, 0), abs=1e-4)


def test_the_kernel_of_a_straight_way_is_a_line() -> None:
    kernel = kernel_of(np.linspace(0, 4, 401) + 0j)  # 4 pixels along x
    assert kernel.shape == (5, 5)
    assert kernel[2].sum() == pytest.approx(1, abs=1e-6)
    assert kernel[2, 1:4] == pytest.approx([0.25, 0.25, 0.25], abs=0.002)
    assert kernel[2, 0] == pytest.approx(0.125, abs=0.002)


def test_blur_is_a_convolution() -> None:
    image = draw().integers(0, 256, (3, 40, 44), dtype=np.uint8)
    kernel = random_kernel(draw(3), 20)
    wanted = np.stack([convolve2d(plane.astype(float), kernel, "valid") for plane in image])
    assert np.abs(blur(image, kernel).astype(float) - wanted).max() <= 0.51
    whole = np.stack([convolve2d(plane.astype(float), kernel, "same", "symm") for plane in image])
    assert np.abs(blur_whole(image, kernel).astype(float) - whole).max() <= 0.51
