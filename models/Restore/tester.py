"""Evaluation of restoration networks: PSNR and SSIM of RGB beside the degraded images' own.

`RestoreTester`.
"""

from typing import Any

import torch
from torch import Tensor

from models.restoration.tester import RestorationTester
from models.Restore.solver import EXAMPLE_SIDE, QUALITY


class RestoreTester(RestorationTester):
    """Measures a restoration checkpoint by PSNR (dB) and SSIM of RGB."""

    image_quality = QUALITY

    def example_inputs(self) -> tuple[Tensor, ...]:
        """One image of 256 x 256 pixels."""
        return (torch.zeros(1, 3, EXAMPLE_SIDE, EXAMPLE_SIDE, device=self.device),)

    def measured_on(self) -> dict[str, Any]:
        """The images by their names, and what was done to them."""
        source = self.testing_loader.dataset.source  # type: ignore[attr-defined]
        return {**super().measured_on(), **source.facts()}
