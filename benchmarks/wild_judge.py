"""Is a pruned network what it was without the channels that it lost? One comparison for every tool.

`kept_positions`, which reads off the weights what a tool has removed (every weight is a number of its own, so each
tells where it came from), `without`, which sets the rest of a fresh build to zero, and `distance`, which compares, in
float64, on other inputs than the tool has seen. Called by `wild_zoo.py`.

    fresh weight (3, 2)      pruned (2, 1)
    [[.1 .2]                 [[.2]           rows 0 and 2, column 1 were kept
     [.3 .4]                  [.6]]
     [.5 .6]]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from compress.thinning.proof.observe import ForwardFailed, Observation, observe

EQUAL = 1e-8
"""Largest relative difference of what computes the same, in float64."""
Kept = dict[str, list[np.ndarray]]


def kept_positions(fresh: nn.Module, pruned: nn.Module) -> Kept:
    """For each parameter that became smaller, which positions of each dimension are left.

    Raises:
        ValueError: a parameter is not a part of what it was.
    """
    before = dict(fresh.named_parameters())
    found: Kept = {}
    for name, parameter in pruned.named_parameters():
        if name not in before:
            raise ValueError(f"{name} was no parameter of its own: a tie of two parameters has been cut")
        old, new = before[name].detach().numpy(), parameter.detach().numpy()
        if old.shape != new.shape:
            found[name] = _matched(name, old, new)
    return found


def _matched(name: str, old: np.ndarray, new: np.ndarray) -> list[np.ndarray]:
    flat = old.ravel()
    order = np.argsort(flat)
    kept = []
    for dim in range(old.ndim):
        line = new[tuple(slice(None) if k == dim else 0 for k in range(new.ndim))]
        at = order[np.minimum(np.searchsorted(flat[order], line), flat.size - 1)]
        kept.append(np.unravel_index(at, old.shape)[dim])
    if not np.array_equal(old[np.ix_(*kept)], new):
        raise ValueError(f"{name} {new.shape} is no part of the weight that it was, {old.shape}")
    return kept


@torch.no_grad()
def without(fresh: nn.Module, kept: Kept) -> nn.Module:
    """A fresh build in which all other positions are zero; in place."""
    for name, parameter in fresh.named_parameters():
        if name in kept:
            stays = torch.zeros(parameter.shape, dtype=torch.bool)
            stays[np.ix_(*kept[name])] = True
            parameter.masked_fill_(~stays, 0)
    return fresh


def distance(pruned: nn.Module, masked: nn.Module, inputs: tuple[Any, ...]) -> float | None:
    """The largest relative difference of any output; None where the masked network does not take the inputs.

    Raises:
        ForwardFailed: the pruned network does not run where the masked one does.
    """
    try:
        wanted = observe(masked, inputs, "eval")
    except ForwardFailed:
        return None
    found = observe(pruned, inputs, "eval")
    return _largest(wanted, found)


def _largest(wanted: Observation, found: Observation) -> float:
    if [each.shape for each in wanted.outputs] != [each.shape for each in found.outputs]:
        return float("inf")
    return max(_relative(old, new) for old, new in zip(wanted.outputs, found.outputs, strict=True))


def _relative(old: Tensor, new: Tensor) -> float:
    if not old.numel():
        return 0.0
    old, new = old.double(), new.double()
    if not bool(old.isfinite().all()):
        return float("nan")
    return float((old - new).abs().max()) / (float(old.abs().max()) or 1.0)
