"""torchvision's attention modules with explicit head sizes: the classes that thinned ones are exchanged for.

At the top of a module, so that a thinned network can be pickled. Imported by `exchange.py` only where a network has
such a module, since torchvision need not be there.
"""

from torchvision.models.maxvit import RelativePositionalMultiHeadAttention
from torchvision.models.swin_transformer import ShiftedWindowAttention, ShiftedWindowAttentionV2
from torchvision.models.video.swin_transformer import ShiftedWindowAttention3d

from compress.thinning.attention.modules import HeadedRelative, HeadedWindow, HeadedWindow3d


class HeadedShiftedWindowAttention(HeadedWindow, ShiftedWindowAttention):
    """Swin's window attention."""


class HeadedShiftedWindowAttentionV2(HeadedWindow, ShiftedWindowAttentionV2):
    """Swin V2's window attention."""


class HeadedShiftedWindowAttention3d(HeadedWindow3d, ShiftedWindowAttention3d):
    """Video Swin's window attention."""


class HeadedRelativePositionalMultiHeadAttention(HeadedRelative, RelativePositionalMultiHeadAttention):
    """MaxViT's attention within a window or a grid."""
