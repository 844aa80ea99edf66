"""Evaluation of super-resolution networks: PSNR and SSIM of the Y channel beside bicubic.

`XSRCNNTester`.
"""

from models.restoration.tester import RestorationTester
from models.SR.quality import QUALITY


class XSRCNNTester(RestorationTester):
    """Measures a super-resolution checkpoint by PSNR (dB) and SSIM of the Y channel."""

    image_quality = QUALITY
