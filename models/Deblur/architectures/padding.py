"""Images of any size for networks that halve them."""

from torch import Tensor
from torch.nn import functional


def padded(image: Tensor, multiple: int) -> Tensor:
    """An image (N, C, H, W) with zeros to the right and below, so that its sides are multiples."""
    height, width = image.shape[-2:]
    return functional.pad(image, (0, -width % multiple, 0, -height % multiple))


def cut(image: Tensor, like: Tensor) -> Tensor:
    """The part of a padded image that was there before."""
    height, width = like.shape[-2:]
    return image[..., :height, :width]
