"""Weights from elsewhere for a network: as far as names and shapes agree, or in order.

`match_weights` and its report. Called by whatever starts from other weights; weight_checks.py says what is refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor, nn

from apputils.checkpoints.weight_checks import MAKE, SHOWN, by_own_names, check_order, check_weights
from compress.errors import UserError, some
from compress.selectors import canonical


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

    @property
    def doubtful(self) -> bool:
        """Whether the report is a warning: few were loaded, or by order not all of the file's."""
        return self.few or bool(self.pairs and self.unused)

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
                lines.append(f"  {kind} ({len(names)}): {some(names, SHOWN)}")
        return "\n".join(lines)


def _prefix(given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """What some of the file's names have in front of names of the network; '' without one."""
    for name in given:
        for place in range(1, name.count(".") + 1):
            parts = name.split(".")
            if ".".join(parts[place:]) in own:
                return ".".join(parts[:place]) + "."
    return ""


def match_weights(model: nn.Module, weights: Mapping[str, Tensor], by_order: bool = False) -> Match:
    """Loads what fits, in place; the rest of the network stays as it is.

    Args:
        model: the network.
        weights: tensors by name; `module.` and `_orig_mod.` in names are ignored.
        by_order: pair tensors of equal shape in the order of both instead of by name, for a file whose names differ but
            whose layers do not, or hardly. As many are paired as can be; what only one side has is left out.

    Raises:
        UserError: nothing fits, the order is no way to tell which tensor is which, or as for `check_weights`.
    """
    own = {canonical(name, model): tensor for name, tensor in model.state_dict().items()}
    given: dict[str, Tensor] = by_own_names(weights, own)
    pairs = _in_order(own, given) if by_order else {name: name for name in own if name in given}
    loaded = [name for name, source in pairs.items() if own[name].shape == given[source].shape]
    if not loaded:
        none = ", and no tensor has the shape of one of the network's" if by_order else ""
        other = f"--match=order pairs tensors of equal shape in their order{none}"
        if prefix := _prefix(given, own):
            other = f"without {prefix!r} names agree: {MAKE} --strip={prefix}; or {other}"
        raise UserError(
            f"none of the {len(given)} tensors fits this network ({', '.join(islice(given, 3))}, ... for "
            f"{', '.join(islice(own, 3))}, ...); nothing was loaded; {other}"
        )
    check_weights({name: given[pairs[name]] for name in loaded}, own)
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

    Raises:
        UserError: a name of the network's would go to another tensor of it, the order leaves a choice, or names
            contradict it.
    """
    names, others = list(own), list(given)
    shapes, other_shapes = [own[name].shape for name in names], [given[name].shape for name in others]
    if shapes == other_shapes:
        pairs = dict(zip(names, others, strict=True))
    else:
        choices = _choices(shapes, other_shapes)
        pairs = _first_choices(names, others, choices)
        _check_choice(own, {names[i]: [others[j] for j in choice] for i, choice in enumerate(choices)})
    agreeing = [name for name in own if name in given and own[name].shape == given[name].shape]
    astray = [name for name in agreeing if pairs.get(name) != name]
    if astray:
        raise UserError(
            f"the file names {len(agreeing)} of {len(own)} tensors as the network does and of the same shape, and by "
            f"--match=order {len(astray)} of these would go elsewhere or nowhere ({some(astray, SHOWN)}); nothing was "
            "loaded. Leave --match out to load by name; if equal names are other layers here, rename the file's tensors"
        )
    check_order(pairs, given)
    return pairs


def _choices(shapes: Sequence[torch.Size], others: Sequence[torch.Size]) -> list[list[int]]:
    """For each shape the places in `others` that it has in any longest common subsequence.

    Toy example: [a, b] and [a, a, b] -> [[0, 1], [2]], since a could be either one.
    """
    before, behind = _lengths(shapes, others), _lengths(shapes[::-1], others[::-1])
    m, n = len(shapes), len(others)
    return [
        [
            j
            for j in range(n)
            if shapes[i] == others[j] and before[i][j] + 1 + behind[m - i - 1][n - j - 1] == before[m][n]
        ]
        for i in range(m)
    ]


def _lengths(shapes: Sequence[torch.Size], others: Sequence[torch.Size]) -> list[list[int]]:
    """[i][j]: the length of the longest common subsequence of the first i and the first j."""
    longest = [[0] * (len(others) + 1)]
    for shape in shapes:
        row = [0]
        for j, other in enumerate(others):
            row.append(longest[-1][j] + 1 if shape == other else max(longest[-1][j + 1], row[j]))
        longest.append(row)
    return longest


def _first_choices(names: Sequence[str], others: Sequence[str], choices: Sequence[Sequence[int]]) -> dict[str, str]:
    """Each name with the first place that is left for it."""
    pairs: dict[str, str] = {}
    last = -1
    for name, choice in zip(names, choices, strict=True):
        free = next((j for j in choice if j > last), None)
        if free is not None:
            pairs[name], last = others[free], free
    return pairs


def _check_choice(own: Mapping[str, Tensor], choices: Mapping[str, list[str]]) -> None:
    """Refuses more than one way to pair as many tensors; counters of steps, which no answer depends on, may be any."""
    weights = {name: choice for name, choice in choices.items() if own[name].ndim or own[name].is_floating_point()}
    places: dict[str, list[str]] = {}
    for name, choice in weights.items():
        for other in choice:
            places.setdefault(other, []).append(name)
    several = [
        f"the network's {name} could be {some(choice, SHOWN)}" for name, choice in weights.items() if len(choice) > 1
    ]
    several += [
        f"the file's {other} could be {some(found, SHOWN)}" for other, found in places.items() if len(found) > 1
    ]
    if several:
        raise UserError(
            f"--match=order leaves a choice, since one side has tensors that the other lacks beside others of their "
            f"shape: {several[0]}; nothing was loaded. Take these tensors out of the file ({MAKE} "
            "--without=PATTERN); or, where only a prefix differs, take that off (--strip=PREFIX) and leave --match out"
        )
