"""PSNR and SSIM of RGB against their formulas."""

import math

import pytest
import torch

from apputils.restoration.metrics import psnr_rgb, ssim_rgb
from models.Deblur.losses import ssim


def test_psnr_is_its_formula_and_rounds_to_8_bits() -> None:
    target = torch.full((3, 16, 16), 100 / 255)
    assert psnr_rgb(target + 5.2 / 255, target) == pytest.approx(20 * math.log10(255 / 5))
    assert psnr_rgb(target + 0.3 / 255, target) == math.inf


def test_ssim_of_the_loss_is_the_metrics() -> None:
    """The loss leaves out where the window crosses the border, as scikit-image's crop of 5 pixels does."""
    first = (torch.rand(3, 40, 40) * 255).round() / 255
    second = (0.7 * first + 0.3 * torch.rand(3, 40, 40)).mul(255).round() / 255
    assert float(ssim(first[None].double(), second[None].double())) == pytest.approx(ssim_rgb(first, second), abs=1e-4)
