"""N of every M: `NMPruner` (2:4 semi-structured sparsity)."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from compress.context import StepContext
from compress.criteria import nm_mask
from compress.epoch_window import EpochWindow
from compress.groups import is_transposed
from compress.pruning.base import Pruner
from compress.registry import PRUNERS
from compress.selectors import WeightSelectors, canonical_parameters, parameter_owners


@PRUNERS.register
class NMPruner(Pruner):
    """Keeps the N largest magnitudes of every M weights that lie next to each other along the input channels.

    Paper: Mishra et al. 2021, Accelerating Sparse Deep Neural Networks, arXiv 2104.08378, section 3: 2:4 is what
    NVIDIA's sparse tensor cores multiply. The M neighbours share filter and kernel position and differ in the input
    channel, which is the direction that the hardware sums over, also where a convolution is laid out as (O, h, w, I).
    Of tied magnitudes the later channel stays, as in every mask here.

    When to use: for GPUs with sparse tensor cores; train, apply once (`epochs: [k]`), fine-tune. There
    `compress.export.semi_structured.to_semi_structured` stores 2:4 linear layers in the sparse format and times them.

    Sample:
        pruners:
          two_of_four:
            class: NMPruner
            weights: ['conv2.weight', 'fc.weight']
            n: 2
            m: 4

    Args:
        weights: selectors of the weights to prune; their input channels (per group of a convolution) must be a multiple
            of m.
        n: how many of every m stay, >= 1, below m.
        m: length of a group, >= 2.

    Raises:
        ValueError: n is not below m.
    """

    def __init__(
        self,
        model: nn.Module,
        weights: WeightSelectors,
        n: Annotated[int, Field(ge=1)] = 2,
        m: Annotated[int, Field(ge=2)] = 4,
    ) -> None:
        if n >= m:
            raise ValueError(f"n {n} must be below m {m}: {n} of every {m} would stay")
        self.n, self.m = n, m
        self.weights = weights
        owners = parameter_owners(model)
        self._input_dims = {name: 0 if is_transposed(owners.get(name)) else 1 for name in weights}

    def masks(self, weights: Mapping[str, Tensor], ctx: StepContext, window: EpochWindow) -> dict[str, Tensor]:
        """Exactly n of every m along the input channels."""
        return {name: nm_mask(weights[name], self.n, self.m, self._input_dims[name]) for name in self.weights}

    def plan(self, epoch: int, window: EpochWindow) -> dict[str, float]:
        """1 - n / m."""
        return dict.fromkeys(self.weights, 1.0 - self.n / self.m)

    def faults(self, model: nn.Module) -> list[str]:
        """Weights that groups of m do not fill."""
        found = []
        parameters = canonical_parameters(model)
        for name in self.weights:
            shape, dim = tuple(parameters[name].shape), self._input_dims[name]
            if len(shape) < 2:
                found.append(f"{name!r} of shape {shape} has no input channels; leave it out of weights")
            elif shape[dim] % self.m:
                found.append(
                    f"{name!r} of shape {shape} has {shape[dim]} input channels, no multiple of m = {self.m}; "
                    "leave it out of weights"
                )
        return found
