"""The weights that are left, so that every layer gives what it gave: least squares, layer by layer.

`repair`. Papers: OSSCAR, arXiv 2403.12983, and OBSPA, arXiv 2403.18955 (a layer's weights by least squares on
calibration data); the target is the dense network's output of the layer, while its input is what the layers in front of
it, pruned and repaired, give now (as in He et al. 2017, Channel Pruning, arXiv 1707.06168, section 3.2).
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from compress.calibration.patches import (
    inputs_of_a_channel,
    multiplies_by_its_weight,
    patches,
    thinned_rows,
)  # fmt: skip
from compress.calibration.replay import passing
from compress.calibration.together import on_first_call, together
from compress.graph.calls import run_on
from compress.thinning.complete import Masks

ROUNDING = 1e-10  # share of a layer's output below which there is nothing to repair
HELD = 1 << 29  # numbers that the dense network's layers give, at most, to be held at once
TOGETHER = 128  # samples whose positions are spread out at a time
RIDGE = 0.01  # of the inputs' mean power: how firmly a weight is held where the data do not tell


def in_order(network: nn.Module, batch: Any) -> list[str]:
    """The convolutions and linear layers in the order in which they are called; those called twice are left out."""
    found: dict[str, int] = {}

    def count(name: str) -> None:
        found[name] = found.get(name, 0) + 1

    known = {name: each for name, each in network.named_modules() if inputs_of_a_channel(each) is not None}
    with ExitStack() as hooks, torch.no_grad():
        for name, module in known.items():
            hooks.callback(module.register_forward_hook(lambda *_, name=name: count(name)).remove)
        run_on(network, batch)
    return [name for name, calls in found.items() if calls == 1]


def with_other_weights(network: nn.Module, batch: Any) -> set[str]:
    """The layers that have no weight to themselves: their code standardises it, say, or another module holds it too."""
    known = {name: each for name, each in network.named_modules() if inputs_of_a_channel(each) is not None}
    holders = Counter(id(each) for module in network.modules() for each in module._parameters.values())
    found = {name for name, each in known.items() if holders[id(each._parameters.get("weight"))] > 1}

    def look(name: str, layer: nn.Module, arguments: tuple[Any, ...]) -> None:
        if arguments and not multiplies_by_its_weight(layer, arguments[0]):
            found.add(name)

    with ExitStack() as hooks, torch.no_grad():
        for name, module in known.items():
            hooks.callback(module.register_forward_pre_hook(partial(look, name)).remove)
        run_on(network, batch)
    return found


@torch.no_grad()
def repair(dense: nn.Module, pruned: nn.Module, masks: Masks, batches: Sequence[Any]) -> float:
    """Sets the weights of a masked network, in place; masked weights stay zero.

    Args:
        dense: the network before, in eval mode.
        pruned: a copy whose masked weights are zero, in eval mode.
        masks: parameter name -> bool, True = kept.
        batches: inputs.

    Returns:
        the share of the layers' squared errors that is left, mean over the layers that had one; 1 if none had.
    """
    other = with_other_weights(dense, batches[0])
    names = [name for name in in_order(pruned, batches[0]) if name not in other]
    merged = together(dense, batches)
    targets = None if merged is None else _outputs(dense, names, merged)
    if merged is not None and targets is not None:
        left = _in_one_pass(pruned, targets, masks, merged)
    else:
        left = [_of_a_pass(dense, pruned, name, masks, batches) for name in names]
    known = [share for share in left if share is not None]
    return sum(known) / len(known) if known else 1.0


def _of_a_pass(dense: nn.Module, pruned: nn.Module, name: str, masks: Masks, batches: Sequence[Any]) -> float | None:
    """One layer, by a pass of each network up to it."""
    layer, was = pruned.get_submodule(name), dense.get_submodule(name)
    pairs = zip(passing(pruned, layer, batches), passing(dense, was, batches), strict=True)
    return _solve(layer, ((given, target) for (given, _), (_, target) in pairs), masks.get(f"{name}.weight"))


def _outputs(network: nn.Module, names: Sequence[str], merged: Tensor) -> dict[str, Tensor] | None:
    """What each layer gives, on all data at once; None if that is too much to hold."""
    found: dict[str, Tensor] = {}
    sizes = [0]

    def keep(name: str, _: nn.Module, __: Any, output: Tensor) -> None:
        sizes[0] += output.numel()
        if sizes[0] <= HELD:
            found[name] = output.clone()  # an activation in place may follow
        else:
            found.clear()

    with ExitStack() as hooks:
        for name in names:
            hooks.enter_context(on_first_call({name: network.get_submodule(name)}, partial(keep, name)))
        run_on(network, merged)
    return found if sizes[0] <= HELD else None


def _in_one_pass(
    pruned: nn.Module, targets: dict[str, Tensor], masks: Masks, merged: Tensor
) -> list[float | None]:  # fmt: skip
    """All layers, each set when the pass reaches it: what it gives then is what those behind it read."""
    left: list[float | None] = []

    def mend(name: str, layer: nn.Module, arguments: tuple[Any, ...]) -> None:
        pairs = zip(arguments[0].split(TOGETHER), targets.pop(name).split(TOGETHER), strict=True)
        left.append(_solve(layer, pairs, masks.get(f"{name}.weight")))

    with ExitStack() as hooks:
        for name in list(targets):
            hooks.callback(pruned.get_submodule(name).register_forward_pre_hook(partial(mend, name)).remove)
        run_on(pruned, merged)
    return left


class _Sums:
    """Sums over the positions of one layer: of x (its inputs now), and of e, what its outputs lack."""

    def __init__(self) -> None:
        self.parts: list[Tensor] = []
        self.positions = 0

    def add(self, x: Tensor, e: Tensor, y: Tensor) -> None:
        """Of (groups, positions, inputs or outputs)."""
        xt = x.transpose(1, 2)
        new = [xt @ x, xt @ e, e.square().sum(1), y.square().sum(1), x.sum(1, True), e.sum(1, True)]
        self.parts = [a + b for a, b in zip(self.parts, new, strict=True)] if self.parts else new
        self.positions += x.shape[1]


def _solve(layer: Any, pairs: Iterable[tuple[Tensor, Tensor]], mask: Tensor | None) -> float | None:
    """One layer: inputs now and outputs then -> new weights and bias; the share of the error that is left."""
    groups = getattr(layer, "groups", 1)
    kept = torch.ones_like(layer.weight, dtype=torch.bool) if mask is None else mask
    weight = layer.weight.double().view(groups, len(layer.weight) // groups, -1)
    bias = 0 if layer.bias is None else layer.bias.double().view(groups, 1, -1)
    sums = _Sums()
    for given, target in pairs:
        x, y = thinned_rows(patches(layer, given)).double(), _as_rows(layer, target, groups)
        y = thinned_rows(y, x.shape[2]).double()
        sums.add(x, y - bias - x @ weight.transpose(1, 2), y)
    if not sums.parts:
        return None
    square, cross, power, full, x_sum, e_sum = sums.parts
    kept = kept.view_as(weight)
    rows = kept.any(2)  # outputs that are there
    before = float((power * rows).sum())
    if before <= ROUNDING * float((full * rows).sum()):
        return None
    shift = torch.zeros_like(power)
    if layer.bias is not None:  # it takes the mean error, the weights what is left
        shift = e_sum[:, 0] / sums.positions
        square = square - x_sum.transpose(1, 2) @ x_sum / sums.positions
        cross = cross - x_sum.transpose(1, 2) @ e_sum / sums.positions
    step, gained = _step(square, cross, kept)
    layer.weight += step.view_as(layer.weight).to(layer.weight)
    if layer.bias is not None:
        mean = (step @ x_sum.transpose(1, 2))[..., 0] / sums.positions
        layer.bias += ((shift - mean) * rows).view_as(layer.bias).to(layer.bias)
    return 1 - float(((gained + sums.positions * shift.square()) * rows).sum()) / before


def _step(square: Tensor, cross: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """The change of the weights by ridge regression, (groups, outputs, inputs), and the squared error that it takes."""
    held = RIDGE * square.diagonal(dim1=1, dim2=2).mean(1) + 1e-12
    firm = square + held[:, None, None] * torch.eye(square.shape[-1], dtype=square.dtype)
    step = torch.linalg.solve(firm, cross).transpose(1, 2) * kept
    gained = 2 * (step.transpose(1, 2) * cross).sum(1) - ((step @ square) * step).sum(2)
    step = step * (gained > 0)[..., None]  # a row that it would make worse stays
    return step, gained.clamp_min(0)


def _as_rows(layer: nn.Module, output: Tensor, groups: int) -> Tensor:
    """(groups, positions, outputs of a group), in the order of `patches`."""
    if isinstance(layer, nn.Linear):
        return output.reshape(1, -1, output.shape[-1])
    columns = output.flatten(2).reshape(len(output), groups, -1, output[0, 0].numel())
    return columns.permute(1, 0, 3, 2).flatten(1, 2)
