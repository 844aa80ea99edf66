"""Networks of one's own in a folder outside of the checkout."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from options import own_network

NETWORKS = '''\
"""Somebody's networks."""

import os
from pathlib import Path

import torch
from torch import nn

from their_blocks import block

Path("imported").touch()


class Fine(nn.Module):
    def __init__(self, upscale_factor: int, width: int = 8) -> None:
        super().__init__()
        self.arguments = "their own"
        self.first, self.second = block(3, width), block(width, width)
        self.norm = nn.BatchNorm2d(width)
        self.last = nn.Conv2d(width, 3 * upscale_factor**2, 3, padding=1)
        self.shuffle = nn.PixelShuffle(upscale_factor)

    def forward(self, low):
        return self.shuffle(self.last(self.norm(self.second(self.first(low)))))


class Narrow(Fine):
    """Its output is a column too small."""

    def forward(self, low):
        return super().forward(low)[..., 1:]


class Untraced(Fine):
    """What it computes depends on values."""

    def forward(self, low):
        high = super().forward(low)
        if float(high.mean()) > 100:
            high = high / 100
        return high


class Multiples(Fine):
    """It takes the training crops, and no whole image."""

    def forward(self, low):
        assert low.shape[-1] % 12 == 0 and low.shape[-1] < 24, "sides must be 12"
        return super().forward(low)


class Failing(nn.Module):
    def __init__(self, size: int) -> None:
        raise KeyError("no such size")


class InPlace(Fine):
    def forward(self, low):
        low *= 2
        return super().forward(low)


class Tuple(Fine):
    def forward(self, low):
        return super().forward(low), low


class TupleInTraining(Fine):
    def forward(self, low):
        high = super().forward(low)
        return (high, high) if self.training else high


class NarrowInTraining(Fine):
    def forward(self, low):
        return super().forward(low)[..., 1:] if self.training else super().forward(low)


class InPlaceInTraining(Fine):
    def forward(self, low):
        return super().forward(low.mul_(2) if self.training else low)


class OneAtATime(Fine):
    def forward(self, low):
        return super().forward(low).reshape(1, 3, 2 * low.shape[2], -1)


class Frozen(Fine):
    def __init__(self, upscale_factor: int) -> None:
        super().__init__(upscale_factor)
        self.requires_grad_(False)


class Detached(Fine):
    def forward(self, low):
        return super().forward(low).detach()


class TornGradient(Fine):
    def forward(self, low):
        root = super().forward(low).exp()
        return root.mul_(root)


class Complex(Fine):
    def forward(self, low):
        return super().forward(low).to(torch.complex64)


class Kept(Fine):
    """Two layers that nobody runs."""

    def __init__(self, upscale_factor: int, width: int = 8) -> None:
        super().__init__(upscale_factor, width)
        self.old, self.older = nn.Conv2d(width, 3, 1), nn.Linear(width, width)


class Lazy(Fine):
    def __init__(self, upscale_factor: int) -> None:
        super().__init__(upscale_factor)
        self.norm = nn.LazyBatchNorm2d()


class Leaving(nn.Module):
    def __init__(self) -> None:
        raise SystemExit("usage: mine")


class Remembering(Fine):
    """It keeps what it computed for a size."""

    def forward(self, low):
        if not hasattr(self, "ramp"):
            self.ramp = torch.linspace(0, 1, 12)
        return super().forward(low) * (1 + self.ramp.mean())


class Replacing(Fine):
    """Its forward puts another tensor in a buffer's place."""

    def __init__(self, upscale_factor: int) -> None:
        super().__init__(upscale_factor)
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, low):
        self.mean = self.mean + low.mean().detach()
        return super().forward(low)


class MadeLate(Fine):
    def forward(self, low):
        if not hasattr(self, "scale"):
            self.scale = nn.Parameter(torch.ones(()))
        return super().forward(low) * self.scale


class Moving(Fine):
    def __init__(self, upscale_factor: int) -> None:
        super().__init__(upscale_factor)
        os.chdir(Path(__file__).parent)


class Classifier(nn.Module):
    def __init__(self, num_classes: int, in_channels: int, width: int = 4) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(in_channels, width, 3), nn.Linear(width, num_classes)

    def forward(self, images):
        return self.head(self.conv(images).relu().mean((2, 3)))


class Restorer(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.first, self.last = block(3, width), nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, image):
        return image + 0.01 * self.last(self.first(image))


def narrow_fine(upscale_factor: int) -> nn.Module:
    return Fine(upscale_factor, 4)


def nothing() -> int:
    return 3


def compiled_fine(upscale_factor: int) -> nn.Module:
    return torch.compile(nn.DataParallel(Fine(upscale_factor, 4)))


seven = 7
made = Fine(2)
'''
BLOCKS = """\
from torch import nn


def block(before, after):
    return nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.ReLU())
"""


@pytest.fixture
def nets(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of the networks; nothing that other tests typed counts."""
    folder = tmp_path_factory.mktemp("theirs")
    (folder / "their_blocks.py").write_text(BLOCKS, encoding="utf-8")
    file = folder / "nets.py"
    file.write_text(NETWORKS, encoding="utf-8")
    monkeypatch.setattr(own_network, "named", set())
    monkeypatch.syspath_prepend(str(folder))  # which also takes away what is added to the path
    yield file
    for name in ("nets", "their_blocks"):
        sys.modules.pop(name, None)
