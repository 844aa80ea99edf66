"""How much the network's output feels a change of a layer's weights: second moments of what the layer reads and gives.

`Curvature`, `gather`. No labels are needed: what is measured is the network's own output.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from compress.calibration.patches import patches, rows_of_a_batch
from compress.calibration.replay import first_input, in_front
from compress.calibration.shrinkage import Spread, rows_of_samples
from compress.errors import UserError
from compress.graph.calls import run_on


@dataclass
class Curvature:
    """Of one layer, over calibration data.

    Attributes:
        inputs: mean of x x' over positions, (inputs, inputs), double precision.
        outputs: sum over the positions of a sample of the squared gradient of the network's output with respect to
            each of the layer's, (outputs,), double precision, mean over samples.
        mean: of x, (inputs,), double precision.
        noise: share of the inputs' covariances that few samples explain, [0, 1] (calibration/shrinkage.py).
    """

    inputs: Tensor
    outputs: Tensor
    mean: Tensor
    noise: float


class _Gathering:
    """Sums over the calls of one layer."""

    def __init__(self, zero: Tensor) -> None:
        self.zero = zero  # scalar that requires a gradient
        self.inputs: Tensor | None = None
        self.mean: Tensor | None = None
        self.outputs: Tensor | None = None
        self.spread = Spread()
        self.positions = self.samples = 0

    def __call__(self, layer: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], output: Tensor) -> Tensor:
        """The output, as one that has a gradient: also where inputs are tokens, weights frozen, under `no_grad`."""
        given = first_input(layer, arguments, named).detach()
        rows = patches(layer, given)[0]
        of_samples = rows_of_samples(rows, len(given), rows_of_a_batch(1, rows.shape[1]))
        self.spread.add(of_samples)
        rows = of_samples.flatten(0, 1).double()
        product, total = rows.T @ rows, rows.sum(0)
        self.inputs = product if self.inputs is None else self.inputs + product
        self.mean = total if self.mean is None else self.mean + total
        self.positions += len(rows)
        self.samples += len(output)
        dim = -1 if isinstance(layer, nn.Linear) else 1
        with torch.enable_grad():
            output = output + self.zero.to(output)
        output.register_hook(lambda gradient: self._feel(gradient.detach().double().movedim(dim, 0).flatten(1)))
        return output

    def _feel(self, gradient: Tensor) -> None:
        power = gradient.square().sum(1)
        self.outputs = power if self.outputs is None else self.outputs + power

    def done(self) -> Curvature | None:
        if self.inputs is None or self.mean is None or self.outputs is None:
            return None  # never called, or nothing that comes of it reaches the output
        inputs, mean = self.inputs / self.positions, self.mean / self.positions
        noise = self.spread.intensity(inputs - torch.outer(mean, mean))
        return Curvature(inputs, self.outputs / self.samples, mean, noise)


def gather(network: nn.Module, layers: Mapping[str, nn.Module], batches: Sequence[Any]) -> dict[str, Curvature]:
    """The curvature of layers without groups, by one forward and one backward pass over the data.

    The output's Jacobian J is met by random signs r: the mean of (J'r)^2 is the diagonal of J'J (Hutchinson 1990).

    Args:
        network: in eval mode; its gradients stay as they are.
        layers: convolutions and linear layers by name.
        batches: inputs.

    Returns:
        by name, without layers that no gradient reaches: never called, or detached from the output.

    Raises:
        UserError: forward overwrites what its gradient needs.
    """
    zero = torch.zeros((), requires_grad=True)
    found = {name: _Gathering(zero) for name in layers}
    draw = torch.Generator().manual_seed(0)
    with ExitStack() as hooks, torch.enable_grad():
        for name, layer in layers.items():
            hooks.callback(in_front(layer, found[name]))
        for batch in batches:
            given = run_on(network, batch)
            outputs = [each for each in pytree.tree_leaves(given) if _floats(each) and each.requires_grad]
            signs = [torch.randint(0, 2, each.shape, generator=draw).to(each) * 2 - 1 for each in outputs]
            _backward([(each * sign).sum() for each, sign in zip(outputs, signs, strict=True)], zero)
    done = {name: curvature for name, each in found.items() if (curvature := each.done()) is not None}
    return done if any(each.outputs.any() for each in done.values()) else {}  # a rounded output feels nothing


def _backward(totals: Sequence[Tensor], zero: Tensor) -> None:
    """Runs the hooks on the gradients of a sum; none where nothing has a gradient."""
    try:
        if totals:
            torch.autograd.grad(torch.stack(list(totals)).sum(), [zero], allow_unused=True)
    except RuntimeError as e:
        raise UserError(f"the output's gradient cannot be computed: {e}; nothing was pruned") from e


def _floats(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
