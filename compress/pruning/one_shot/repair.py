"""The weights that are left, and BatchNorm's statistics, so that every layer gives what it gave: layer by layer.

`repair`. Papers: OSSCAR, arXiv 2403.12983, and OBSPA, arXiv 2403.18955 (a layer's weights by least squares on
calibration data); the target is the dense network's output of the layer, while its input is what the layers in front of
it, pruned and repaired, give now (as in He et al. 2017, Channel Pruning, arXiv 1707.06168, section 3.2). With few
samples least squares would fit them alone: covariances count as far as their number allows (shrinkage.py).

BatchNorm's statistics are carried over on the way (calibration/batch_norm.py), where the forward pass comes to them:
behind what is repaired in front of them, and before the layers behind, which are repaired for what they give then.
"""

from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from compress.calibration.batch_norm import Before, carrying, statistics_of, with_statistics
from compress.calibration.layers import calls_of, with_other_weights
from compress.calibration.least_squares import ridge_step
from compress.calibration.patches import inputs_of_a_channel, output_rows, patches, rows_of_a_batch, thinned_rows
from compress.calibration.replay import first_input, passing
from compress.calibration.shrinkage import Spread, rows_of_samples
from compress.calibration.together import outputs_of, together
from compress.graph.calls import run_on
from compress.graph.modes import uncached_autocast
from compress.thinning.complete import Masks

ROUNDING = 1e-10  # share of a layer's output below which there is nothing to repair
MOST_NOISE = 0.99  # above which nothing would be repaired
TOGETHER = 128  # samples whose positions are spread out at a time


@torch.no_grad()
@uncached_autocast()
def repair(
    dense: nn.Module, pruned: nn.Module, masks: Masks, batches: Sequence[Any], frozen: Container[str] = ()
) -> float:
    """Sets the weights and the BatchNorm statistics of a masked network, in place; masked weights stay zero.

    Args:
        dense: the network before, in eval mode.
        pruned: a copy whose masked weights are zero, in eval mode.
        masks: parameter name -> bool, True = kept.
        batches: inputs.
        frozen: names of weights and biases whose layers stay as they are.

    Returns:
        the share of the layers' squared errors that is left, mean over the layers that had one; 1 if none had.
    """
    norms = with_statistics(dense, batches[0])[0]
    steps, repeated = _steps(dense, pruned, norms, batches[0], frozen)
    norms = [name for name in norms if name in steps]
    merged = together(dense, batches)
    targets = None if merged is None else outputs_of(dense, [name for name in steps if name not in norms], merged)
    if merged is not None and targets is not None:
        before = statistics_of(dense, norms, [merged])
        parts = _parts(steps, repeated)
        left = [share for part in parts for share in _in_one_pass(pruned, part, targets, before, masks, merged)]
    else:
        before = statistics_of(dense, norms, batches)
        left = _in_passes(dense, pruned, steps, before, masks, batches)
    known = [share for share in left if share is not None]
    return sum(known) / len(known) if known else 1.0


def _steps(
    dense: nn.Module, pruned: nn.Module, norms: Sequence[str], batch: Any, frozen: Container[str]
) -> tuple[list[str], set[str]]:  # fmt: skip
    """What is set, in the order of first calls, and which of it is called again; a weight is set if it is read once."""
    weights = {name for name, each in pruned.named_modules() if inputs_of_a_channel(each) is not None}
    weights = {name for name in weights if f"{name}.weight" not in frozen and f"{name}.bias" not in frozen}
    calls = calls_of(pruned, [*weights, *norms], batch)
    once = {name for name in weights.intersection(calls) if calls[name] == 1} - with_other_weights(dense, batch)
    steps = [name for name in calls if name in once or name in norms]
    return steps, {name for name in steps if calls[name] > 1}


def _parts(steps: Sequence[str], repeated: Collection[str]) -> Iterator[list[str]]:
    """What can be set in one pass: statistics of a layer that is called again are known at the end of a pass only.

    >>> list(_parts(["a", "b", "c", "d"], {"b"}))
    [['a', 'b'], ['c', 'd']]
    """
    part: list[str] = []
    for name in steps:
        part.append(name)
        if name in repeated:
            yield part
            part = []
    yield part


def _in_passes(
    dense: nn.Module, pruned: nn.Module, steps: Sequence[str], before: Mapping[str, Before], masks: Masks,
    batches: Sequence[Any],
) -> list[float | None]:  # fmt: skip
    """Each by a pass of its own."""
    left: list[float | None] = []
    for name in steps:
        if name not in before:
            left.append(_of_a_pass(dense, pruned, name, masks, batches))
            continue
        with carrying(pruned, {name: before[name]}):
            for batch in batches:
                run_on(pruned, batch)
    return left


def _of_a_pass(dense: nn.Module, pruned: nn.Module, name: str, masks: Masks, batches: Sequence[Any]) -> float | None:
    """One layer, by a pass of each network up to it."""
    layer, was = pruned.get_submodule(name), dense.get_submodule(name)
    pairs = zip(passing(pruned, layer, batches), passing(dense, was, batches), strict=True)
    return _solve(layer, ((given, target) for (given, _), (_, target) in pairs), masks.get(f"{name}.weight"))


def _in_one_pass(
    pruned: nn.Module, part: Sequence[str], targets: dict[str, Tensor], before: Mapping[str, Before], masks: Masks,
    merged: Tensor,
) -> list[float | None]:  # fmt: skip
    """Each set when the pass reaches it: what it gives then is what those behind it read."""
    left: list[float | None] = []

    def mend(name: str, layer: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        given = first_input(layer, arguments, named)
        pairs = zip(given.split(TOGETHER), targets.pop(name).split(TOGETHER), strict=True)
        left.append(_solve(layer, pairs, masks.get(f"{name}.weight")))

    with ExitStack() as hooks:
        hooks.enter_context(carrying(pruned, {name: before[name] for name in part if name in before}))
        for name in targets.keys() & part:
            layer = pruned.get_submodule(name)
            hooks.callback(layer.register_forward_pre_hook(partial(mend, name), with_kwargs=True).remove)
        run_on(pruned, merged)
    return left


class _Sums:
    """Sums over the positions of one layer: of x (its inputs now), and of e, what its outputs lack."""

    def __init__(self) -> None:
        self.parts: list[Tensor] = []
        self.positions = 0
        self.spread = Spread()

    def add(self, x: Tensor, e: Tensor, y: Tensor) -> None:
        """Of (groups, positions, inputs or outputs)."""
        xt = x.transpose(1, 2)
        new = [xt @ x, xt @ e, e.square().sum(1), y.square().sum(1), x.sum(1, True), e.sum(1, True)]
        self.parts = [a + b for a, b in zip(self.parts, new, strict=True)] if self.parts else new
        self.positions += x.shape[1]

    def firmness(self) -> Tensor:
        """What stands for the noise in the covariances of few samples, (groups, inputs).

        (1 - noise) covariance + noise variance, but for a factor.
        """
        square, x_sum = self.parts[0], self.parts[4][:, 0]
        variance = square.diagonal(dim1=1, dim2=2) - x_sum.square() / self.positions
        if len(square) > 1:  # the few inputs of a group are known well
            return torch.zeros_like(variance)
        covariance = square[0] - torch.outer(x_sum[0], x_sum[0]) / self.positions
        noise = min(MOST_NOISE, self.spread.intensity(covariance / self.positions))
        return noise / (1 - noise) * variance


@torch.no_grad()  # also where forward turns gradients on
def _solve(layer: Any, pairs: Iterable[tuple[Tensor, Tensor]], mask: Tensor | None) -> float | None:
    """One layer: inputs now and outputs then -> new weights and bias; the share of the error that is left."""
    groups = getattr(layer, "groups", 1)
    kept = torch.ones_like(layer.weight, dtype=torch.bool) if mask is None else mask
    weight = layer.weight.double().reshape(groups, len(layer.weight) // groups, -1)
    bias = 0 if layer.bias is None else layer.bias.double().reshape(groups, 1, -1)
    sums = _Sums()
    for given, target in pairs:
        x, y = patches(layer, given), output_rows(layer, target, groups)
        if groups == 1:
            sums.spread.add(rows_of_samples(x[0], len(given), rows_of_a_batch(1, x.shape[2])))
        x, y = thinned_rows(x).double(), thinned_rows(y, x.shape[2]).double()
        sums.add(x, y - bias - x @ weight.transpose(1, 2), y)
    if not sums.parts:
        return None
    square, cross, power, full, x_sum, e_sum = sums.parts
    kept = kept.reshape(weight.shape)
    rows = kept.any(2)  # outputs that are there
    before = float((power * rows).sum())
    if before <= ROUNDING * float((full * rows).sum()):
        return None
    shift = torch.zeros_like(power)
    if layer.bias is not None:  # it takes the mean error, the weights what is left
        shift = e_sum[:, 0] / sums.positions
        square = square - x_sum.transpose(1, 2) @ x_sum / sums.positions
        cross = cross - x_sum.transpose(1, 2) @ e_sum / sums.positions
    step, gained = ridge_step(square, cross, kept, sums.firmness())
    layer.weight += step.reshape(layer.weight.shape).to(layer.weight)
    if layer.bias is not None:
        mean = (step @ x_sum.transpose(1, 2))[..., 0] / sums.positions
        layer.bias += ((shift - mean) * rows).reshape(layer.bias.shape).to(layer.bias)
    return 1 - float(((gained + sums.positions * shift.square()) * rows).sum()) / before
