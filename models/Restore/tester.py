"""Evaluation of restoration networks: PSNR and SSIM of RGB beside the degraded images' own.

`RestoreTester`.
"""

from models.restoration.tester import RestorationTester
from models.Restore.solver import QUALITY


class RestoreTester(RestorationTester):
    """Measures a restoration checkpoint by PSNR (dB) and SSIM of RGB."""

    image_quality = QUALITY
