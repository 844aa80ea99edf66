"""Evaluation of super-resolution networks: PSNR and SSIM of the Y channel beside bicubic.

`XSRCNNTester`.
"""

from typing import Any

import torch
from torch import Tensor

from models.restoration.tester import RestorationTester
from models.SR.quality import QUALITY


class XSRCNNTester(RestorationTester):
    """Measures a super-resolution checkpoint by PSNR (dB) and SSIM of the Y channel."""

    image_quality = QUALITY

    def example_inputs(self) -> tuple[Tensor, ...]:
        """One low-resolution image of the size that makes 1280 x 720 pixels."""
        scale = self.checkpoint["network"]["arguments"]["upscale_factor"]
        return (torch.zeros(1, 3, 720 // scale, 1280 // scale, device=self.device),)

    def measured_on(self) -> dict[str, Any]:
        """The images by their names, and the scale."""
        return {**super().measured_on(), "scale": self.checkpoint["network"]["arguments"]["upscale_factor"]}
