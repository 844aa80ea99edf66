"""Weights from elsewhere for a network: as far as names and shapes agree, or in order.

`match_weights` and its report. Called by whatever starts from other weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor, nn

from compress.errors import UserError
from compress.selectors import canonical, same_names

SHOWN = 8


@dataclass(frozen=True)
class Match:
    """What came of it.

    Attributes:
        loaded: the network's tensors that were loaded.
        mismatched: those for which there was a tensor of another shape, as `NAME (4, 3) instead of (4, 5)`.
        missing: those for which there was none.
        unused: tensors that the network has no place for.
        pairs: by order alone: the network's tensors that were loaded -> the file's.
    """

    loaded: list[str]
    mismatched: list[str]
    missing: list[str]
    unused: list[str]
    pairs: Mapping[str, str] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """The network's tensors."""
        return len(self.loaded) + len(self.mismatched) + len(self.missing)

    @property
    def few(self) -> bool:
        """Whether more than half of the network starts as it was made."""
        return 2 * len(self.loaded) < self.total

    def story(self, source: str) -> str:
        """The report in words."""
        lines = [f"{source}: {len(self.loaded)} of {self.total} tensors loaded"]
        if self.few:
            lines[0] += ", fewer than half; the others start as the network made them"
        pairs = [f"{name} = {other}" for name, other in self.pairs.items()]
        kinds = (
            ("paired by order", pairs), ("of another shape", self.mismatched), ("not there", self.missing),
            ("without a place", self.unused),
        )  # fmt: skip
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
        by_order: pair tensors of equal shape in the order of both instead of by name, for a file whose names differ but
            whose layers do not, or hardly. As many are paired as can be; what only one side has is left out.

    Raises:
        UserError: nothing fits.
    """
    own = {canonical(name, model): tensor for name, tensor in model.state_dict().items()}
    meant = same_names(weights, own)
    given = {meant.get(name, name): tensor for name, tensor in weights.items()}
    pairs = _in_order(own, given) if by_order else {name: name for name in own if name in given}
    loaded = [name for name, source in pairs.items() if own[name].shape == given[source].shape]
    if not loaded:
        none = ", and no tensor has the shape of one of the network's" if by_order else ""
        other = f"--match=order pairs tensors of equal shape in their order{none}"
        raise UserError(
            f"none of the {len(given)} tensors fits this network ({', '.join(islice(given, 3))}, ... for "
            f"{', '.join(islice(own, 3))}, ...); nothing was loaded; {other}"
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
    missing = [name for name in own if name not in pairs]
    return Match(loaded, mismatched, missing, unused, pairs if by_order else {})


def _in_order(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, str]:
    """Own name -> given name: as many pairs of equal shape as there can be without one crossing another.

    That is the longest common subsequence of the two lists of shapes; a layer that only one side has costs no other.
    """
    names, others = list(own), list(given)
    shapes, other_shapes = [own[name].shape for name in names], [given[name].shape for name in others]
    longest = [[0] * (len(others) + 1) for _ in range(len(names) + 1)]  # of what is left from here on
    for i in reversed(range(len(names))):
        for j in reversed(range(len(others))):
            same = shapes[i] == other_shapes[j]
            longest[i][j] = longest[i + 1][j + 1] + 1 if same else max(longest[i + 1][j], longest[i][j + 1])
    pairs: dict[str, str] = {}
    i = j = 0
    while i < len(names) and j < len(others):
        if shapes[i] == other_shapes[j]:
            pairs[names[i]] = others[j]
            i, j = i + 1, j + 1
        elif longest[i + 1][j] >= longest[i][j + 1]:
            i += 1
        else:
            j += 1
    return pairs
