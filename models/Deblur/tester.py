"""Evaluation of deblurring networks: PSNR and SSIM of RGB beside the blurred images' own.

`DeblurTester`.
"""

from models.Deblur.solver import QUALITY
from models.restoration.tester import RestorationTester


class DeblurTester(RestorationTester):
    """Measures a deblurring checkpoint by PSNR (dB) and SSIM of RGB."""

    image_quality = QUALITY
