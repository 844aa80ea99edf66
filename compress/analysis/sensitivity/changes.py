"""What an analysis does to one weight: prune elements, filters or channels, or quantize.

Pure functions weight -> changed weight, the levels, and which weights there are. Counts and rankings are those of
`SparsityLevelParameterPruner` and `L1RankedStructureParameterPruner`, so that a schedule with the same level prunes
the same elements.
"""

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from compress.analysis.sensitivity.group_pruner import GROUPS, GroupPruner
from compress.criteria import level_mask
from compress.errors import UserError, did_you_mean
from compress.graph.channels import ChannelGraph
from compress.groups import is_transposed
from compress.quantization.functions import usable
from compress.quantization.grid import Grid
from compress.selectors import canonical_parameters, expand, parameter_owner, parameter_owners

logger = logging.getLogger("run")

SenseType = Literal["element", "filter", "channel", "bits"]
SENSE_TYPES = ("element", *GROUPS, "bits")
LAYERS = (nn.modules.conv._ConvNd, nn.Linear)
DENSE_BITS = 32.0
LEVELS = tuple(round(0.05 * step, 2) for step in range(1, 20))
BITS = (8.0, 6.0, 4.0, 3.0, 2.0)


def _nothing(level: float) -> dict[str, Tensor]:
    return {}


@dataclass(frozen=True)
class Subject:
    """One weight that is changed, with what goes along.

    Attributes:
        name: its canonical name; that of the first where several share a coupled group.
        parameter: the model's own.
        change: (dense weight, level) -> changed weight, a new tensor.
        members: the analysed weights of its coupled groups, which rank together and have one level; itself first.
        along: further weights whose filters (or channels) go with theirs.
        coupled: name -> every other parameter that changes with it.
        follow: level -> new values of those that do change.
        pruner: what has ranked the groups; None where a weight goes by itself.
    """

    name: str
    parameter: nn.Parameter
    change: Callable[[Tensor, float], Tensor]
    members: tuple[str, ...] = ()
    along: tuple[str, ...] = ()
    coupled: Mapping[str, nn.Parameter] = field(default_factory=dict)
    follow: Callable[[float], Mapping[str, Tensor]] = _nothing
    pruner: GroupPruner | None = None

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Everything that changes, itself first."""
        return {self.name: self.parameter, **self.coupled}

    @property
    def is_coupled(self) -> bool:
        """Whether the network's graph says what goes with it."""
        return self.pruner is not None and self.pruner.graph is not None

    @property
    def weights(self) -> tuple[str, ...]:
        """The weights that share this curve."""
        return self.members or (self.name,)

    def values(self, level: float) -> dict[str, Tensor]:
        """Name -> new value of every parameter that changes at a level; the model's own are dense now."""
        return {self.name: self.change(self.parameter.detach(), level), **self.follow(level)}

    def zeros(self, values: Mapping[str, Tensor]) -> float:
        """Fraction of zeros in the weights that share this curve, with some of them replaced."""
        own = [values.get(name, self.parameters[name]) for name in self.weights]
        return 1.0 - sum(int(each.count_nonzero()) for each in own) / sum(each.numel() for each in own)


def dense_level(sense_type: str) -> float:
    """The level at which nothing is changed: 0 of the pruning types, 32 bits."""
    return DENSE_BITS if sense_type == "bits" else 0.0


def as_levels(sense_type: str, levels: Sequence[float] | None) -> list[float]:
    """The levels in the order of growing harm, each once, without the dense one.

    Raises:
        UserError: no such type of analysis, or a level that it cannot have.
    """
    if sense_type not in SENSE_TYPES:
        raise UserError(f"sense_type {sense_type!r} is unknown; {did_you_mean(str(sense_type), SENSE_TYPES)}")
    if sense_type == "bits":
        given = {float(bits) for bits in (BITS if levels is None else levels)} - {DENSE_BITS}
        if any(not (bits.is_integer() and 2 <= bits <= 16) for bits in given):
            raise UserError(f"levels {sorted(given)}: numbers of bits are whole, from 2 to 16; nothing was measured")
        return sorted(given, reverse=True)
    given = {float(level) for level in (LEVELS if levels is None else levels)} - {0.0}
    if any(not 0 <= level < 1 for level in given):
        raise UserError(f"levels {sorted(given)}: a level is a fraction of zeros, [0, 1); nothing was measured")
    return sorted(given)


def find_subjects(
    model: nn.Module, sense_type: str, selectors: Sequence[str] | None = None, graph: ChannelGraph | None = None
) -> list[Subject]:
    """The weights that are analysed, in the model's order; those that cannot be are named in a warning.

    Args:
        model: the network.
        sense_type: of the analysis.
        selectors: names or globs; None takes the weights of all convolutions and linear layers.
        graph: of the network: filters and channels go with what it couples to them. None: each weight by itself.

    Raises:
        UserError: a selector matches nothing, or there is no weight to analyse.
    """
    names = chosen_weights(model, selectors)
    if sense_type in GROUPS:
        found = _by_groups(GroupPruner(model, sense_type, graph), names, sense_type)
    else:
        parameters = canonical_parameters(model)
        found = [Subject(name, parameters[name], change_of(model, name, sense_type)) for name in names]
    if not found:
        raise UserError(f"{type(model).__name__} has no weight to analyse by {sense_type}; nothing was measured")
    return found


def chosen_weights(model: nn.Module, selectors: Sequence[str] | None) -> list[str]:
    """The names that selectors give; None takes the weights of all convolutions and linear layers.

    Raises:
        UserError: a selector matches nothing.
    """
    parameters, owners = canonical_parameters(model), parameter_owners(model)
    pool = [name for name, weight in parameters.items() if weight.dim() > 1]
    if selectors is None:
        return [name for name in pool if isinstance(owners[name], LAYERS)]
    wanted: set[str] = set()
    for selector in selectors:
        matched = expand(selector, pool)
        if not matched:
            raise UserError(f"weights: {selector!r} matches no weight; {did_you_mean(selector, pool)}")
        wanted.update(matched)
    return [name for name in pool if name in wanted]


def _by_groups(pruner: GroupPruner, names: Sequence[str], sense_type: str) -> list[Subject]:
    usable = []
    for name in names:
        try:
            pruner.check(name)
            usable.append(name)
        except ValueError as e:
            logger.warning("left out of the analysis by %s: %s", sense_type, e)
    return [group_subject(pruner, members) for members in pruner.together(usable)]


def group_subject(pruner: GroupPruner, members: Sequence[str]) -> Subject:
    """Some weights that share coupled groups, as one subject."""
    affected = pruner.affected(members)
    first = members[0]
    own = affected.pop(first)

    @functools.lru_cache(maxsize=1)
    def masks(level: float) -> dict[str, Tensor]:
        return pruner.masks(dict.fromkeys(members, level))

    def change(weight: Tensor, level: float) -> Tensor:
        return weight.masked_fill(~masks(level)[first], 0)

    def follow(level: float) -> dict[str, Tensor]:
        others = {name: mask for name, mask in masks(level).items() if name in affected}
        return {name: affected[name].detach().masked_fill(~mask, 0) for name, mask in others.items()}

    return Subject(first, own, change, tuple(members), tuple(pruner.along(members)), affected, follow, pruner)


def values_together(subjects: Sequence[Subject], levels: Mapping[str, float]) -> dict[str, Tensor]:
    """Name -> new value of every parameter that changes with all these levels at once.

    Args:
        subjects: of the analysis.
        levels: subject's name -> level.
    """
    chosen = [each for each in subjects if each.name in levels]
    pruner = next((each.pruner for each in chosen if each.pruner is not None), None)
    if pruner is None:  # each changes its own weight only
        return {name: value for each in chosen for name, value in each.values(levels[each.name]).items()}
    masks = pruner.masks({name: levels[each.name] for each in chosen for name in each.weights})
    parameters = {name: own for each in chosen for name, own in each.parameters.items()}
    return {name: parameters[name].detach().masked_fill(~mask, 0) for name, mask in masks.items()}


def change_of(model: nn.Module, name: str, sense_type: str) -> Callable[[Tensor, float], Tensor]:
    """The change of one weight by elements or bits."""
    if sense_type == "element":
        return prune_elements
    axis = 1 if is_transposed(parameter_owner(model, name)) else 0
    return lambda weight, bits: quantize_symmetric(weight, int(bits), axis)


def prune_elements(weight: Tensor, level: float) -> Tensor:
    """The weight with exactly round(level * n) of its n elements zero, the smallest magnitudes first."""
    return weight * level_mask(weight, level)


def quantize_symmetric(weight: Tensor, bits: int, axis: int = 0) -> Tensor:
    """The nearest values on a symmetric grid for each channel: scale = max |w| / (2^(bits-1) - 1), zero is on it.

    Args:
        weight: any shape of one dimension or more.
        bits: 2 to 16; n bits have 2^n - 1 values, so that 2 bits are {-s, 0, s}.
        axis: the dimension of the output channels.

    Source: Krishnamoorthi 2018, Quantizing deep convolutional networks, arXiv 1806.08342, section 2.3, narrow range.
    """
    top = 2 ** (bits - 1) - 1
    others = [dim for dim in range(weight.dim()) if dim != axis]
    peak = weight.detach().abs().amax(dim=others) if others else weight.detach().abs()
    scale = usable(peak / top)
    grid = Grid(scale, torch.zeros_like(scale, dtype=torch.int64), -top, top, axis)
    return grid.values(grid.integers(weight))
