"""Attention modules that keep working when they lose heads.

`nn.MultiheadAttention` and the attention of Swin and MaxViT derive the size of a head, and with it the scale
of the softmax, from the width of the network, which does not shrink when a head goes. Here: the same
computation with the head size as a number of its own. The module stays the same object with the same
parameters and hooks; its class becomes a subclass of what it was.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def needs_heads(module: nn.Module) -> bool:
    """Whether losing heads needs a module of ours in its place."""
    return False


def as_headed(module: nn.Module) -> None:
    """Turn a module into its subclass with an explicit head size; one that is already stays as it is."""


def head_attributes(module: nn.Module, kept: dict[str, dict[int, Tensor]], name: str) -> dict[str, Any]:
    """`num_heads` and `head_dim` after the removal."""
    return {}
