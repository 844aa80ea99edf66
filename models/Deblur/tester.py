"""Evaluation of deblurring networks: PSNR and SSIM of RGB beside the blurred images' own.

`DeblurTester`.
"""

from typing import Any

import torch
from torch import Tensor

from data.pairs import PairSource
from models.Deblur.solver import EXAMPLE_SIDE, QUALITY
from models.restoration.tester import RestorationTester


class DeblurTester(RestorationTester):
    """Measures a deblurring checkpoint by PSNR (dB) and SSIM of RGB."""

    image_quality = QUALITY

    def example_inputs(self) -> tuple[Tensor, ...]:
        """One image of 256 x 256 pixels."""
        return (torch.zeros(1, 3, EXAMPLE_SIDE, EXAMPLE_SIDE, device=self.device),)

    def measured_on(self) -> dict[str, Any]:
        """The images by their names, and how they are blurred."""
        source: PairSource = self.testing_loader.dataset.source  # type: ignore[attr-defined]
        return {**super().measured_on(), **source.facts()}
