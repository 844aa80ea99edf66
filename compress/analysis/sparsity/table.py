"""Zeros of every weight, by element and by structure: the numbers behind `sparsity_display`.

The table and the histograms, as data. The seven granularities are those of compress/groups.py; for a weight of shape
(O, I, h, w):

    fine      elements that are zero
    filters   of the O filters, those that are zero altogether
    channels  of the I input channels
    rows      of the O rows of the matrix (O, I*h*w)
    columns   of its I*h*w columns
    2D        of the O*I kernels
    blocks    of the blocks of `block_shape`; empty where they do not fill the weight
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from compress.arguments.checked import checks_arguments
from compress.groups import as_groups, is_transposed, tile_of
from compress.io.optional import on_use
from compress.selectors import canonical_parameters, parameter_owners

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = on_use("pandas")

GRANULARITIES = ("fine", "filters", "channels", "rows", "columns", "2D", "blocks")
COLUMNS = ["weight", "layer", "shape", "elements", "zeros", *GRANULARITIES, "std", "mean", "mean_abs"]
BLOCK = (1, 8, 1, 1)  # eight input channels at one place of the kernel
_KINDS = {"filters": "Filters", "channels": "Channels", "rows": "Rows", "columns": "Cols", "2D": "2D"}
_BINS = 41


@dataclass(frozen=True)
class SparsityReport:
    """What `sparsity_display` found.

    Attributes:
        weights: one row a parameter of two or more dimensions: weight, layer, shape, elements, zeros, the seven
            granularities (fractions in [0, 1], NaN where a weight has no such groups), std, mean, mean_abs.
        total: the same over all these weights together, and of all parameters; a granularity's total is the fraction
            of all groups of that kind.
        histograms: weight -> counts and edges of its elements that are not zero.
    """

    weights: pd.DataFrame
    total: dict[str, Any]
    histograms: dict[str, Histogram]


@dataclass(frozen=True)
class Histogram:
    """Counts of values.

    Attributes:
        counts: of each bin.
        edges: of the bins, one more than counts.
    """

    counts: list[int]
    edges: list[float]


BlockShape = Annotated[Sequence[Annotated[int, Field(ge=1)]], Field(min_length=4, max_length=4)]


@checks_arguments
def sparsity_report(model: nn.Module, block_shape: BlockShape = BLOCK) -> SparsityReport:
    """Counts the zeros of a network's weights.

    Args:
        model: its parameters are read as they are.
        block_shape: filters, channels, height, width of a block.
    """
    owners, parameters = parameter_owners(model), canonical_parameters(model)
    weights = {name: parameter.detach() for name, parameter in parameters.items() if parameter.dim() > 1}
    rows, groups = [], []
    for name, weight in weights.items():
        zero_groups = structures(weight, block_shape, is_transposed(owners[name]))
        rows.append(_row(name, type(owners[name]).__name__, weight, zero_groups))
        groups.append(zero_groups)
    total = _total(weights, groups)
    every = sum(parameter.numel() for parameter in parameters.values())
    zeros = every - sum(int(torch.count_nonzero(parameter)) for parameter in parameters.values())
    total |= {"all_parameters": every, "all_zeros": zeros, "all_fine": zeros / every if every else 0.0}
    return SparsityReport(
        pd.DataFrame(rows, columns=COLUMNS), total, {name: histogram(weight) for name, weight in weights.items()}
    )


def structures(weight: Tensor, block_shape: Sequence[int], transposed: bool) -> dict[str, tuple[int, int]]:
    """Granularity -> (groups that are zero, groups) of a weight; without those that it has no groups of."""
    found = {"fine": (weight.numel() - int(torch.count_nonzero(weight)), weight.numel())}
    for granularity in GRANULARITIES[1:]:
        try:
            tile = tile_of(_KINDS.get(granularity, "Blocks"), weight.shape, block_shape, transposed)
        except ValueError:  # a matrix has no kernels; blocks that do not fill the weight
            continue
        alive = (as_groups(weight, tile) != 0).any(dim=1)
        found[granularity] = (len(alive) - int(alive.sum()), len(alive))
    return found


def histogram(weight: Tensor, bins: int = _BINS) -> Histogram:
    """Of the elements that are not zero, in bins symmetric about zero."""
    values = weight[weight != 0].float().cpu()
    edge = float(values.abs().max()) if len(values) else 1.0
    counts, edges = torch.histogram(values, bins, range=(-edge, edge))
    return Histogram([int(count) for count in counts], edges.tolist())


def _row(name: str, layer: str, weight: Tensor, groups: dict[str, tuple[int, int]]) -> dict[str, Any]:
    return {
        "weight": name,
        "layer": layer,
        "shape": tuple(weight.shape),
        "elements": weight.numel(),
        "zeros": groups["fine"][0],
        **_fractions(groups),
        **_moments([weight]),
    }


def _total(weights: dict[str, Tensor], groups: list[dict[str, tuple[int, int]]]) -> dict[str, Any]:
    sums = {kind: [each[kind] for each in groups if kind in each] for kind in GRANULARITIES}
    pairs = {kind: (sum(zero for zero, _ in found), sum(all_ for _, all_ in found)) for kind, found in sums.items()}
    return {
        "weights": len(weights),
        "elements": pairs["fine"][1],
        "zeros": pairs["fine"][0],
        **_fractions(pairs),
        **_moments(list(weights.values())),
    }


def _fractions(groups: dict[str, tuple[int, int]]) -> dict[str, float]:
    pairs = {kind: groups.get(kind, (0, 0)) for kind in GRANULARITIES}
    return {kind: zero / count if count else math.nan for kind, (zero, count) in pairs.items()}


def _moments(weights: list[Tensor]) -> dict[str, float]:
    """Population standard deviation, mean and mean magnitude of all elements, zeros included."""
    count = sum(weight.numel() for weight in weights)
    if count == 0:
        return dict.fromkeys(("std", "mean", "mean_abs"), math.nan)
    mean = sum(float(weight.double().sum()) for weight in weights) / count
    spread = sum(float((weight.double() - mean).square().sum()) for weight in weights) / count
    return {
        "std": math.sqrt(spread),
        "mean": mean,
        "mean_abs": sum(float(weight.double().abs().sum()) for weight in weights) / count,
    }
