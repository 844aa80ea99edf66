"""Weights from elsewhere for a network: as far as names and shapes agree, or in order.

Here: `match_weights` and its report. Not here: files (checkpoint.py). Called by whatever starts from other weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from compress.errors import UserError
from compress.selectors import canonical

SHOWN = 8


@dataclass(frozen=True)
class Match:
    """What came of it.

    Attributes:
        loaded: the network's tensors that were loaded.
        mismatched: those for which there was a tensor of another shape, as `NAME (4, 3) instead of (4, 5)`.
        missing: those for which there was none.
        unused: tensors that the network has no place for.
    """

    loaded: list[str]
    mismatched: list[str]
    missing: list[str]
    unused: list[str]

    def story(self, source: str) -> str:
        """The report for people."""
        total = len(self.loaded) + len(self.mismatched) + len(self.missing)
        lines = [f"{source}: {len(self.loaded)} of {total} tensors loaded"]
        kinds = (("of another shape", self.mismatched), ("not there", self.missing), ("without a place", self.unused))
        for kind, names in kinds:
            if names:
                more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
                lines.append(f"  {kind} ({len(names)}): {', '.join(names[:SHOWN])}{more}")
        return "\n".join(lines)


def match_weights(model: nn.Module, weights: Mapping[str, Tensor], by_order: bool = False) -> Match:
    """Loads what fits, in place; the rest of the network stays as it is.

    Args:
        model: the network.
        weights: tensors by name; `module.` and `_orig_mod.` in names are ignored.
        by_order: pair tensors by position instead of by name: each of the network's takes the next one of its shape,
            for a file whose names differ but whose layers do not.

    Raises:
        UserError: nothing fits.
    """
    own = {canonical(name): tensor for name, tensor in model.state_dict().items()}
    given = {canonical(name): tensor for name, tensor in weights.items()}
    pairs = _in_order(own, given) if by_order else {name: name for name in own if name in given}
    loaded = [name for name, source in pairs.items() if own[name].shape == given[source].shape]
    if not loaded:
        raise UserError(
            f"none of the {len(given)} tensors fits this network ({', '.join(islice(given, 3))}, ... for "
            f"{', '.join(islice(own, 3))}, ...); nothing was loaded. --match=order pairs them by position"
        )
    with torch.no_grad():
        for name in loaded:
            own[name].copy_(given[pairs[name]])
    mismatched = [
        f"{name} {tuple(given[source].shape)} instead of {tuple(own[name].shape)}"
        for name, source in pairs.items()
        if name not in loaded
    ]
    unused = [name for name in given if name not in pairs.values()]
    return Match(loaded, mismatched, [name for name in own if name not in pairs], unused)


def _in_order(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, str]:
    """Own name -> given name: each takes the first tensor of its shape behind the one that was taken last."""
    pairs: dict[str, str] = {}
    left = list(given)
    for name, tensor in own.items():
        found = next((i for i, other in enumerate(left) if given[other].shape == tensor.shape), None)
        if found is not None:
            pairs[name] = left[found]
            left = left[found + 1 :]
    return pairs
