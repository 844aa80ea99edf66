"""A quantized network as it would be without rounding.

`set_aside`.
"""

import contextlib
from collections.abc import Iterator

from torch import nn

from compress.quantization.modules.activations import QuantActivation
from compress.quantization.modules.layers import OUTPUT, QuantLayer, kind_of, slots_of
from compress.quantization.modules.norms import LateFrozen


@contextlib.contextmanager
def set_aside(model: nn.Module, weights_only: bool = False) -> Iterator[None]:
    """Inside the block nothing is rounded (`weights_only`: no weight or bias); a fused ReLU stays a ReLU."""
    held: list[tuple[nn.Module, str, nn.Module]] = []
    for module in list(model.modules()):
        if isinstance(module, QuantLayer):
            slots = [slot for slot in slots_of(module) if not (weights_only and kind_of(slot) == "activation")]
            held += [(module, slot, getattr(module, slot)) for slot in slots if getattr(module, slot) is not None]
        elif isinstance(module, QuantActivation | LateFrozen) and not weights_only:
            own = ((slot, getattr(module, slot)) for slot in slots_of(module))
            held += [(module, slot, piece) for slot, piece in own if piece is not None]
    for module, slot, piece in held:
        # QuantReLU has no ReLU of its own: its quantizer's clip at 0 is it.
        stand_in = nn.Identity() if getattr(piece, "signed", True) else nn.ReLU()
        setattr(module, slot, stand_in if slot == OUTPUT else None)
    try:
        yield
    finally:
        for module, slot, piece in held:
            setattr(module, slot, piece)
