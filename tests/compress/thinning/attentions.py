"""Attention of every kind that loses heads, and positions within its heads; small, in float64."""

import torch
from torch import nn
from torch.nn import functional
from torchvision.models.maxvit import RelativePositionalMultiHeadAttention
from torchvision.models.swin_transformer import ShiftedWindowAttention, ShiftedWindowAttentionV2
from torchvision.models.video.swin_transformer import ShiftedWindowAttention3d


class Weighted(nn.Module):
    """nn.MultiheadAttention with one or several sources; `weights`: the other way through its code."""

    def __init__(self, weights=False, cross=False, **settings):
        super().__init__()
        self.attention = nn.MultiheadAttention(12, 3, **settings)
        self.weights, self.cross = weights, cross
        self.other = nn.Linear(12, settings.get("kdim", 12))

    def forward(self, x):
        y = self.other(x) if self.cross else x
        return self.attention(x, y, y, need_weights=self.weights)[0]


class Written(nn.Module):
    """Attention as people write it: linear layers, and views by numbers that the module keeps."""

    def __init__(self, size=4):
        super().__init__()
        self.num_heads, self.head_dim, self.scale = 3, size, size**-0.5
        self.q, self.k, self.v = (nn.Linear(12, 3 * size) for _ in range(3))
        self.out = nn.Linear(3 * size, 12)

    def forward(self, x):
        q, k, v = (
            layer(x).view(*x.shape[:2], self.num_heads, self.head_dim).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        return self.out((self.attend(q, k) @ v).transpose(1, 2).flatten(2))

    def attend(self, q, k):
        return (q @ k.transpose(-2, -1) * self.scale).softmax(-1)


class Joined(Written):
    """Heads are joined by a number as well."""

    def __init__(self):
        super().__init__()
        self.inner_dim = 12

    def forward(self, x):
        q, k, v = (
            layer(x).view(*x.shape[:2], self.num_heads, self.head_dim).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        return self.out((self.attend(q, k) @ v).transpose(1, 2).reshape(*x.shape[:2], self.inner_dim))


class ScaledByWidth(Written):
    """The scale of the softmax follows the size of the head: fewer positions would be another scale."""

    def attend(self, q, k):
        return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)


class Literal(Written):
    """The size of a head is a number in the code."""

    def forward(self, x):
        q, k, v = (layer(x).view(*x.shape[:2], -1, 4).transpose(1, 2) for layer in (self.q, self.k, self.v))
        return self.out(functional.scaled_dot_product_attention(q, k, v, scale=0.5).transpose(1, 2).flatten(2))


def window(kind, **settings):
    """Windows of 2x2 pixels, shifted by one, on maps of 4x4."""
    return kind(12, [2, 2], [1, 1], 3, **settings)


SEQUENCE, MAP, BLOCKED = (2, 5, 12), (2, 4, 4, 12), (2, 3, 4, 12)
KNOWN = {
    "multi-head": (lambda: Weighted(batch_first=True), SEQUENCE),
    "multi-head, sequence first, with weights": (lambda: Weighted(weights=True), SEQUENCE),
    "multi-head, without biases": (lambda: Weighted(batch_first=True, bias=False), SEQUENCE),
    "multi-head, cross": (lambda: Weighted(cross=True, batch_first=True), SEQUENCE),
    "multi-head, keys of another width": (lambda: Weighted(cross=True, batch_first=True, kdim=8, vdim=8), SEQUENCE),
    "encoder layer": (lambda: nn.TransformerEncoderLayer(12, 3, 16, 0.0, batch_first=True), SEQUENCE),
    "Swin": (lambda: window(ShiftedWindowAttention), MAP),
    "Swin v2": (lambda: window(ShiftedWindowAttentionV2), MAP),
    "Swin, padded": (lambda: window(ShiftedWindowAttention), (2, 3, 5, 12)),
    "Swin, video": (lambda: ShiftedWindowAttention3d(12, [2, 2, 2], [1, 1, 1], 3), (1, 2, 4, 3, 12)),
    "MaxViT": (lambda: RelativePositionalMultiHeadAttention(12, 4, 4), BLOCKED),
}
WRITTEN = {"written out": (Written, SEQUENCE), "written out, joined by a number": (Joined, SEQUENCE)}


def build_attention(name):
    """An attention with seeded weights that are nowhere zero, and inputs for it."""
    torch.manual_seed(0)
    make, shape = {**KNOWN, **WRITTEN}[name]
    model = make().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
    return model, torch.randn(shape, dtype=torch.float64)
