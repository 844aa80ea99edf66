"""What the trace says about signs, checked on minibatches: an input with negative values becomes signed.

Asked by policies/quantization.py after each minibatch and after each validation; what the trace says is in signs.py,
and calibration after training has statistics of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from compress.distributed import max_over_ranks
from compress.errors import UserError
from compress.quantization.fake_quant import ActivationQuantizer, FakeQuantizer, described
from compress.quantization.modules.layers import INPUT

Pieces = dict[str, dict[str, FakeQuantizer]]
Place = tuple[str, str]  # layer and slot


@torch.no_grad()
def contradicted(pieces: Pieces, in_training: bool = True) -> list[Place]:
    """The inputs without sign that have met negative values since they were asked last, in any process.

    Args:
        pieces: the network's fake quantizers.
        in_training: in minibatches of training; else in evaluation.
    """
    watched = {
        (layer, slot): piece
        for layer, slots in pieces.items()
        for slot, piece in slots.items()
        if slot == INPUT and isinstance(piece, ActivationQuantizer) and not piece.signed
    }
    if not watched:
        return []
    mode = int(in_training)
    own = torch.stack([piece.negative for piece in watched.values()])[:, mode]
    seen = max_over_ranks(own.float()).tolist()
    for piece, value in zip(watched.values(), seen, strict=True):
        if value:
            piece.negative[mode] = False
    return [place for place, value in zip(watched, seen, strict=True) if value]


def make_signed(pieces: Pieces, structure: dict[str, Any], places: Sequence[Place]) -> None:
    """Makes inputs signed, in the network and in its structure.

    Raises:
        UserError: one has a single bit, which holds no sign.
    """
    for layer, slot in places:
        piece = pieces[layer][slot]
        assert isinstance(piece, ActivationQuantizer)
        if piece.bits == 1:
            raise UserError(
                f"{layer} reads negative values, which by the traced forward pass it never does, and 1 bit holds no "
                f"sign: give its activations at least 2 bits, or leave it float (overrides: {{{layer}: null}})"
            )
        piece.become_signed()
        structure["layers"][layer][slot] = described(piece)


def signed_as(model: nn.Module, source: nn.Module) -> None:
    """Makes the inputs of a copy signed where those of the network are signed now."""
    for own, its in zip(model.modules(), source.modules(), strict=True):
        if isinstance(own, ActivationQuantizer) and isinstance(its, ActivationQuantizer) and its.signed > own.signed:
            own.become_signed()
