"""A quantized network as it would be without rounding.

`set_aside`.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from compress.quantization.fake_quant import FakeQuantizer
from compress.quantization.modules.activations import QuantActivation
from compress.quantization.modules.layers import OUTPUT, QuantLayer, kind_of, slots_of
from compress.quantization.modules.norms import LateFrozen


class _Unrounded(nn.Module):
    """A fake quantizer without its rounding."""

    def __init__(self, piece: Any) -> None:
        super().__init__()
        self._held = (piece,)  # no child: its tensors are the model's, which holds it again behind the block

    def forward(self, x: Tensor) -> Tensor:
        unrounded: Tensor = self._held[0].unrounded(x)
        return unrounded


@contextlib.contextmanager
def set_aside(model: nn.Module, weights_only: bool = False, trained: bool = False) -> Iterator[None]:
    """Inside the block nothing is rounded; a fused ReLU stays a ReLU.

    Args:
        model: quantized; changed inside the block.
        weights_only: activations are rounded as ever.
        trained: what a method does to all values before it rounds them (tanh of DoReFa's weights, PACT's clip) stays,
            as the weights were trained with it.
    """
    held: list[tuple[nn.Module, str, nn.Module]] = []
    for module in list(model.modules()):
        if isinstance(module, QuantLayer):
            slots = [slot for slot in slots_of(module) if not (weights_only and kind_of(slot) == "activation")]
            held += [(module, slot, getattr(module, slot)) for slot in slots if getattr(module, slot) is not None]
        elif isinstance(module, QuantActivation | LateFrozen) and not weights_only:
            own = ((slot, getattr(module, slot)) for slot in slots_of(module))
            held += [(module, slot, piece) for slot, piece in own if piece is not None]
    for module, slot, piece in held:
        if trained and type(piece).unrounded is not FakeQuantizer.unrounded:  # type: ignore[attr-defined]
            setattr(module, slot, _Unrounded(piece))
            continue
        # QuantReLU has no ReLU of its own: its quantizer's clip at 0 is it.
        stand_in = nn.Identity() if getattr(piece, "signed", True) else nn.ReLU()
        setattr(module, slot, stand_in if slot == OUTPUT else None)
    try:
        yield
    finally:
        for module, slot, piece in held:
            setattr(module, slot, piece)
