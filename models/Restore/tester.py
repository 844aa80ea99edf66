"""Evaluation of restoration networks: PSNR and SSIM of RGB beside the degraded images' own.

`RestoreTester`.
"""

from typing import Any

from torch import nn

from models.restoration.tester import RestorationTester
from models.Restore.solver import QUALITY


class RestoreTester(RestorationTester):
    """Measures a restoration checkpoint by PSNR (dB) and SSIM of RGB."""

    image_quality = QUALITY

    def details(self, model: nn.Module) -> dict[str, Any]:
        """What was done to the images, and what was done to those of the training."""
        trained = self.checkpoint["options"].get("degradation")
        return {"degradation": self.measured_on().get("degradation"), "trained_with": trained}
