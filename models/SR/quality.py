"""Quality of super-resolution networks: PSNR and SSIM of the Y channel, beside bicubic.

`QUALITY`.
"""

from torch import Tensor

from apputils.SR_apputils.metrics import psnr_y, ssim_y
from data.restoration import RestorationItem
from models.restoration.quality import Quality


def luma_psnr(image: Tensor, item: RestorationItem) -> float:
    """PSNR of the Y channel, dB; a border as wide as the scale is cut."""
    return psnr_y(image, item.target, item.scale)


def luma_ssim(image: Tensor, item: RestorationItem) -> float:
    """SSIM of the Y channel, with the same border."""
    return ssim_y(image, item.target, item.scale)


SIZE = (720, 1280)  # pixels, the field's for MACs
QUALITY = Quality("bicubic", {"psnr": luma_psnr, "ssim": luma_ssim}, SIZE)
