"""What an analysis does to one weight: prune elements, filters or channels, or quantize.

Here: pure functions weight -> changed weight, the levels, and which weights there are. Not here: measuring. Counts and
rankings are those of `SparsityLevelParameterPruner` and `L1RankedStructureParameterPruner`, so that a schedule with the
same level prunes the same elements.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from compress.criteria import level_mask, mask_smallest
from compress.errors import UserError, did_you_mean
from compress.groups import Tile, Tilings, group_count, group_norms, is_transposed, spread
from compress.pruning.structure import groups_to_prune
from compress.quantization.grid import Grid
from compress.selectors import canonical_parameters, expand, parameter_owners

logger = logging.getLogger("run")

SenseType = Literal["element", "filter", "channel", "bits"]
GROUPS = {"filter": "Filters", "channel": "Channels"}
SENSE_TYPES = ("element", *GROUPS, "bits")
LAYERS = (nn.modules.conv._ConvNd, nn.Linear)
DENSE_BITS = 32.0
LEVELS = tuple(round(0.05 * step, 2) for step in range(1, 20))
BITS = (8.0, 6.0, 4.0, 3.0, 2.0)


@dataclass(frozen=True)
class Subject:
    """One weight that is changed.

    Attributes:
        name: its canonical name.
        parameter: the model's own.
        change: (dense weight, level) -> changed weight, a new tensor.
    """

    name: str
    parameter: nn.Parameter
    change: Callable[[Tensor, float], Tensor]


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


def find_subjects(model: nn.Module, sense_type: str, selectors: Sequence[str] | None = None) -> list[Subject]:
    """The weights that are analysed, in the model's order; those that cannot be are named in a warning.

    Args:
        model: the network.
        sense_type: of the analysis.
        selectors: names or globs; None takes the weights of all convolutions and linear layers.

    Raises:
        UserError: a selector matches nothing, or there is no weight to analyse.
    """
    parameters, tilings = canonical_parameters(model), Tilings()
    found: list[Subject] = []
    for name in _chosen(model, selectors):
        weight = parameters[name]
        try:
            found.append(Subject(name, weight, change_of(model, name, weight.shape, sense_type, tilings)))
        except ValueError as e:
            logger.warning("left out of the analysis by %s: %s", sense_type, e)
    if not found:
        raise UserError(f"{type(model).__name__} has no weight to analyse by {sense_type}; nothing was measured")
    return found


def _chosen(model: nn.Module, selectors: Sequence[str] | None) -> list[str]:
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


def change_of(
    model: nn.Module, name: str, shape: Sequence[int], sense_type: str, tilings: Tilings
) -> Callable[[Tensor, float], Tensor]:
    """The change of one weight.

    Raises:
        ValueError: it has no such groups, or only one; the message names it.
    """
    if sense_type == "element":
        return prune_elements
    owner = parameter_owners(model)[name]
    if sense_type == "bits":
        axis = 1 if is_transposed(owner) else 0
        return lambda weight, bits: quantize_symmetric(weight, int(bits), axis)
    tile = tilings.tile(model, name, shape, GROUPS[sense_type])
    if group_count(shape, tile) == 1:
        raise ValueError(f"{name!r} has one {sense_type} only, so that no part of them can go")
    return lambda weight, level: prune_groups(weight, level, tile)


def prune_elements(weight: Tensor, level: float) -> Tensor:
    """The weight with exactly round(level * n) of its n elements zero, the smallest magnitudes first."""
    return weight * level_mask(weight, level)


def prune_groups(weight: Tensor, level: float, tile: Tile) -> Tensor:
    """The weight with floor(level * n) of its n groups zero, those of the smallest L1 norm (Li et al. 2017)."""
    zeros = groups_to_prune(level, group_count(weight.shape, tile))
    return weight * spread(mask_smallest(group_norms(weight, tile, 1), zeros), weight.shape, tile)


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
    scale = torch.where(peak > 0, peak / top, torch.ones_like(peak))
    grid = Grid(scale, torch.zeros_like(scale, dtype=torch.int64), -top, top, axis)
    return grid.values(grid.integers(weight))
