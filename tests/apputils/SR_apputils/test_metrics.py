"""PSNR and SSIM of Y against values that are computed in another way."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d

from apputils.SR_apputils.metrics import psnr_y, ssim_y, y_channel


@pytest.fixture
def images() -> tuple[torch.Tensor, torch.Tensor]:
    """A random image and a noisy copy that leaves [0, 1] in places, (3, 40, 36)."""
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(3, 40, 36, generator=generator)
    return target + 0.1 * torch.randn(3, 40, 36, generator=generator), target


def matlab_luma(image: torch.Tensor) -> np.ndarray:
    """The Y of rgb2ycbcr by its 8-bit form, (H, W)."""
    red, green, blue = np.clip(np.rint(image.double().numpy() * 255), 0, 255)
    return 16 + (65.481 * red + 128.553 * green + 24.966 * blue) / 255


def wang_ssim(first: np.ndarray, second: np.ndarray) -> float:
    """The formula of Wang et al. with an 11-tap Gaussian, averaged where the window fits."""
    taps = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))

    def blurred(array: np.ndarray) -> np.ndarray:
        rows = correlate1d(array, taps / taps.sum(), axis=0)
        return correlate1d(rows, taps / taps.sum(), axis=1)[5:-5, 5:-5]

    mean1, mean2 = blurred(first), blurred(second)
    var1, var2 = blurred(first**2) - mean1**2, blurred(second**2) - mean2**2
    both = blurred(first * second) - mean1 * mean2
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    numerator = (2 * mean1 * mean2 + c1) * (2 * both + c2)
    return float(np.mean(numerator / ((mean1**2 + mean2**2 + c1) * (var1 + var2 + c2))))


@pytest.mark.parametrize(
    ("colour", "luma"),
    [((0, 0, 0), 16), ((1, 1, 1), 235), ((1, 0, 0), 81.481), ((0, 1, 0), 144.553), ((0, 0, 1), 40.966)],
)
def test_luma_of_pure_colours(colour: tuple[int, int, int], luma: float) -> None:
    image = torch.tensor(colour, dtype=torch.float32).view(3, 1, 1).expand(3, 2, 2)
    assert torch.allclose(y_channel(image), torch.full((2, 2), luma, dtype=torch.float64), atol=1e-9)


def test_psnr_matches_an_independent_computation(images: tuple[torch.Tensor, torch.Tensor]) -> None:
    output, target = images
    difference = (matlab_luma(output) - matlab_luma(target))[3:-3, 3:-3]
    expected = 20 * math.log10(255) - 10 * math.log10((difference**2).mean())
    assert psnr_y(output, target, border=3) == pytest.approx(expected, abs=1e-9)
    assert psnr_y(output[None], target[None], border=3) == pytest.approx(expected, abs=1e-9)


def test_ssim_matches_the_formula(images: tuple[torch.Tensor, torch.Tensor]) -> None:
    output, target = images
    expected = wang_ssim(matlab_luma(output)[2:-2, 2:-2], matlab_luma(target)[2:-2, 2:-2])
    assert ssim_y(output, target, border=2) == pytest.approx(expected, abs=1e-9)


def test_one_grey_level_everywhere() -> None:
    """A difference of one level in R, G and B moves Y by 219 / 255."""
    target = torch.full((3, 20, 20), 100 / 255)
    assert psnr_y(target + 1 / 255, target, 2) == pytest.approx(20 * math.log10(255 / (219 / 255)), abs=1e-9)


def test_equal_images() -> None:
    image = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(1))
    assert psnr_y(image, image, 2) == math.inf
    assert ssim_y(image, image, 2) == pytest.approx(1)


def test_less_than_half_a_level_does_not_count() -> None:
    target = torch.full((3, 16, 16), 100 / 255)
    assert psnr_y(target + 0.4 / 255, target, 0) == math.inf


def test_the_border_does_not_count(images: tuple[torch.Tensor, torch.Tensor]) -> None:
    output, target = images
    spoiled = output.clone()
    spoiled[:, :2], spoiled[:, :, -2:] = 0, 1
    assert psnr_y(spoiled, target, 2) == psnr_y(output, target, 2)


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match="must agree"):
        psnr_y(torch.rand(3, 8, 8), torch.rand(3, 8, 9), 0)
    with pytest.raises(ValueError, match="one RGB image"):
        psnr_y(torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8), 0)
    with pytest.raises(ValueError, match="one RGB image"):
        psnr_y(torch.rand(1, 8, 8), torch.rand(1, 8, 8), 0)
    with pytest.raises(ValueError, match="leave less than 11"):
        ssim_y(torch.rand(3, 14, 14), torch.rand(3, 14, 14), 2)
    with pytest.raises(ValueError, match="leave less than 1 "):
        psnr_y(torch.rand(3, 4, 4), torch.rand(3, 4, 4), 2)


def test_y_of_a_target_is_computed_once_until_it_is_written_to(
    images: tuple[torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    output, target = images
    made: list[torch.Tensor] = []

    def counted(image: torch.Tensor) -> torch.Tensor:
        made.append(image)
        return y_channel(image)

    monkeypatch.setattr("apputils.SR_apputils.metrics.y_channel", counted)
    first, similar = psnr_y(output, target, 2), ssim_y(output, target, 2)
    assert [each is target for each in made] == [False, True, False]
    assert (psnr_y(output, target.clone(), 2), ssim_y(output, target.clone(), 2)) == (first, similar)
    target.mul_(0.5)
    assert psnr_y(output, target, 2) == psnr_y(output, target.clone(), 2) != first
    with torch.inference_mode():
        inside = target.clone()
        assert psnr_y(output, inside, 2) == psnr_y(output, target, 2)
        assert psnr_y(output, inside.mul_(2), 2) == first
