"""GPTQ: weights rounded one input after the other, each error made good by the weights that are not rounded yet.

`gptq`. Papers: Frantar & Alistarh 2022, "Optimal Brain Compression", arXiv 2208.11580 (the update); Frantar et al.
2022, arXiv 2210.17323 (one order for all rows, by a Cholesky factor). For every output channel with weights w, what is
minimised is (w - q)' H (w - q), H = sum of x x' over what the layer reads in calibration. What differs: inputs are
taken in the order of their power (diag H), an output channel keeps the rounding to nearest where that is better, a
weight that is exactly zero stays zero, so that pruning holds, and its error is made good too.

Rounding to nearest treats the errors of a filter's taps as independent. They are not: on smooth images all taps of a
depthwise filter read nearly the same value, so the sum of their errors is what counts, above all where the taps
nearly cancel.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from compress.calibration.patches import inputs_of_a_channel, patches, thinned_rows
from compress.calibration.replay import first_input
from compress.graph.calls import run_on
from compress.quantization.post_training.replay import set_aside
from compress.quantization.post_training.rounding.candidates import Candidates, LayerResult, rounded_input
from compress.selectors import submodule

logger = logging.getLogger("compress")
DAMPING = 0.01  # of H's mean diagonal, added to its diagonal (2210.17323, section 3.3)
TOGETHER = 1 << 27  # numbers of all H that are gathered in one pass


@torch.no_grad()
def gptq(quantized: nn.Module, layers: Sequence[str], batches: Sequence[Any]) -> tuple[list[LayerResult], list[str]]:
    """Sets the weights of the layers to values on their grids, in place.

    Args:
        quantized: the network, with all ranges and with its float weights.
        layers: with weight quantizers; convolutions of one or two dimensions and linear layers are rounded.
        batches: calibration data, gone through once or a few times.

    Returns:
        what came of each layer; and layers of other kinds, or too wide, which are rounded to nearest.
    """
    usable = [name for name in layers if inputs_of_a_channel(submodule(quantized, name)) is not None]
    results: list[LayerResult] = []
    rounded: dict[str, Tensor] = {}
    for some in _in_passes(quantized, usable):
        for name, gathered in _hessians(quantized, some, batches).items():
            result, rounded[name] = _round(name, submodule(quantized, name), gathered)
            results.append(result)
    for name, weight in rounded.items():  # not before: later passes go through float weights too
        submodule(quantized, name).get_parameter("weight").copy_(weight)
    return results, [name for name in layers if name not in usable]


def _in_passes(network: nn.Module, layers: Sequence[str]) -> Iterator[list[str]]:
    """Groups of layers whose H have room together."""
    some: list[str] = []
    room = TOGETHER
    for name in layers:
        layer = submodule(network, name)
        size = (inputs_of_a_channel(layer) or 0) ** 2 * int(getattr(layer, "groups", 1))
        if some and size > room:
            yield some
            some, room = [], TOGETHER
        some.append(name)
        room -= size
    if some:
        yield some


class _Gathered:
    """The sum of x x' of one layer, (groups, inputs, inputs) in double precision, and of how many positions."""

    def __init__(self) -> None:
        self.sum: Tensor | None = None
        self.positions = 0

    def __call__(self, layer: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        rows = patches(layer, rounded_input(layer, first_input(layer, arguments, named).detach()))
        rows = thinned_rows(rows).double()
        product = rows.transpose(1, 2) @ rows
        self.sum = product if self.sum is None else self.sum + product
        self.positions += rows.shape[1]


def _hessians(quantized: nn.Module, layers: Sequence[str], batches: Sequence[Any]) -> dict[str, _Gathered]:
    """Of what the layers read behind weights that are not rounded: rounded to nearest, they would be another network's.

    With few bits or filters that nearly cancel, that other network gives little that this one will read.
    """
    found = {name: _Gathered() for name in layers}
    with ExitStack() as hooks, set_aside(quantized, weights_only=True):
        for name, gathered in found.items():
            layer = submodule(quantized, name)
            hooks.callback(layer.register_forward_pre_hook(gathered, with_kwargs=True).remove)
        for batch in batches:
            run_on(quantized, batch)
    return {name: gathered for name, gathered in found.items() if gathered.sum is not None}


def _round(name: str, layer: Any, gathered: _Gathered) -> tuple[LayerResult, Tensor]:
    """What comes of one layer, and its rounded weight; each output channel takes the better of the two roundings."""
    assert gathered.sum is not None
    candidates, groups = Candidates(layer), gathered.sum.shape[0]
    nearest = candidates.nearest()
    shape = (groups, len(nearest) // groups, -1)
    weight, plain = candidates.weight.double().reshape(shape), nearest.double().reshape(shape)
    made = compensated(weight, gathered.sum, candidates, shape)
    # (w - q)' H (w - q) of every row; the sum is of all positions, not their mean.
    errors = [((each - weight) @ gathered.sum * (each - weight)).sum(-1) for each in (plain, made)]
    chosen = torch.where((errors[1] < errors[0])[..., None], made, plain)
    rounded = chosen.reshape(nearest.shape).to(layer.weight)
    count = gathered.positions * len(nearest)
    changed = float((rounded != nearest).double().mean())
    before, after = (float(each.sum()) / count for each in (errors[0], torch.minimum(*errors)))
    return LayerResult(name, before, after, changed), rounded


def compensated(weight: Tensor, hessian: Tensor, candidates: Candidates, shape: tuple[int, ...]) -> Tensor:
    """The weight (groups, channels, inputs) on its grid, by the algorithm of this module's docstring.

    Args:
        weight: double precision.
        hessian: (groups, inputs, inputs).
        candidates: the grid.
        shape: of `weight`.
    """
    assert candidates.grid is not None
    power = hessian.diagonal(dim1=1, dim2=2)
    # One order for all groups, so that rows stay tensors; the
    # strongest inputs first, while many weights are left to correct.
    order = power.mean(0).argsort(descending=True)
    factor = _factor(hessian[:, order][:, :, order])
    scale, zero = (each.double().expand_as(candidates.weight).reshape(shape)[..., order] for each in
                   (candidates.scale, candidates.zero))  # fmt: skip
    low, high = candidates.grid.low - zero, candidates.grid.high - zero
    left, is_zero = weight[..., order].clone(), weight[..., order] == 0
    done = torch.zeros_like(left)
    for i in range(left.shape[-1]):
        multiples = torch.clamp(torch.round(left[..., i] / scale[..., i]), low[..., i], high[..., i])
        done[..., i] = torch.where(is_zero[..., i], 0.0, multiples * scale[..., i])
        # Eq. 2 of 2210.17323: w -= (w_i - q_i) / [F^-1]_ii * [F^-1]_i, F being H of the
        # inputs from i on. With H^-1 = U' U, row i of U is [F^-1]_i / sqrt([F^-1]_ii)
        # (section 3.3, step 3), so that F is not inverted anew for each i.
        error = (left[..., i] - done[..., i]) / factor[:, i, i, None]
        left[..., i:] -= error[..., None] * factor[:, None, i, i:]
    # argsort of a permutation is its inverse.
    return done[..., order.argsort()]


def _factor(hessian: Tensor) -> Tensor:
    """Upper Cholesky factor of the inverse of H, damped until it has one."""
    size, power = hessian.shape[-1], hessian.diagonal(dim1=1, dim2=2).mean(1)
    damping = (DAMPING * power + 1e-12)[:, None, None] * torch.eye(size, dtype=hessian.dtype, device=hessian.device)
    for _ in range(8):
        lower, failed = torch.linalg.cholesky_ex(hessian + damping)
        inverse = torch.cholesky_inverse(lower)
        upper, also = torch.linalg.cholesky_ex(inverse, upper=True)
        if not bool(failed.any() or also.any()):
            return upper
        damping = damping * 10
    return torch.eye(size, dtype=hessian.dtype, device=hessian.device).expand_as(hessian)  # nothing is made good
