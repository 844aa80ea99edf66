"""Evaluation of super-resolution networks: PSNR and SSIM of the Y channel beside bicubic.

`XSRCNNTester`.
"""

from models.restoration.tester import RestorationTester


class XSRCNNTester(RestorationTester):
    """Measures a super-resolution checkpoint by PSNR (dB) and SSIM of the Y channel."""
