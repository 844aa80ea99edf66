"""Mean and standard deviation of pixels: of known sets, given, or computed.

`mean_and_std`. Values are of [0, 1] pixels, one for each channel.
"""

import math

import torch

from compress.errors import UserError
from data.Classify_data.store import ImageStore

MeanStd = tuple[tuple[float, ...], tuple[float, ...]]

KNOWN: dict[str, MeanStd] = {  # over the training part of each
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "mnist": ((0.1307,), (0.3081,)),
    "fashionmnist": ((0.2860,), (0.3530,)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "efficientnet-lite": ((127 / 255,), (128 / 255,)),  # (pixel - 127) / 128, as TensorFlow's are trained
    "half": ((0.5,), (0.5,)),
}
AUTO = "auto"


def mean_and_std(text: str, store: ImageStore) -> MeanStd:
    """What `--mean-std` means: `auto`, the name of a known set, or `M[,M,M]/S[,S,S]`.

    Args:
        text: the option.
        store: the training images, which `auto` measures.

    Raises:
        UserError: it is none of these, or has not one value for each channel.
    """
    if text == AUTO:
        return measured(store)
    mean, std = KNOWN[text] if text in KNOWN else _given(text)
    if len(mean) == 1:
        mean, std = mean * store.channels, std * store.channels
    if len(mean) != store.channels or len(std) != store.channels:
        raise UserError(f"--mean-std={text} has {len(mean)} and {len(std)} values; images have {store.channels}")
    return mean, std


def measured(store: ImageStore) -> MeanStd:
    """Mean and standard deviation over all pixels of all images, in double precision."""
    sums = torch.zeros(2, store.channels, dtype=torch.float64)
    for start in range(0, len(store), 256):
        batch = store.batch(list(range(start, min(start + 256, len(store))))).double().div_(255)
        sums += torch.stack([batch.sum((0, 2, 3)), (batch * batch).sum((0, 2, 3))])
    mean, square = sums / (len(store) * store.size**2)
    std = (square - mean**2).clamp_min(0).sqrt()
    std[std == 0] = 1.0  # a channel that never changes
    return tuple(mean.tolist()), tuple(std.tolist())


def _given(text: str) -> MeanStd:
    try:
        mean, std = (tuple(float(each) for each in part.split(",")) for part in text.split("/"))
    except ValueError as e:
        raise UserError(
            f"--mean-std={text}: give auto, one of {', '.join(KNOWN)}, or numbers such as 0.49,0.48,0.45/0.25,0.24,0.26"
        ) from e
    if not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
        raise UserError(f"--mean-std={text}: they are finite numbers, and a standard deviation is above 0")
    return mean, std
