"""Channels pruned with the least-squares repair of what is left: `FMReconstructionChannelPruner`."""

import logging
import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from compress.context import StepContext
from compress.distributed import sum_over_ranks
from compress.errors import UserError
from compress.groups import Tile, group_norms, group_size
from compress.levels import as_level
from compress.pruning.base import LevelArgument
from compress.pruning.forward_watch import LayerCall
from compress.pruning.structure import StructurePruner, Target
from compress.registry import PRUNERS
from compress.selectors import WeightSelectors

logger = logging.getLogger("compress")


@PRUNERS.register
class FMReconstructionChannelPruner(StructurePruner):
    """Prunes input channels, then sets the surviving weights so that the layer's outputs change least.

    Paper: He, Zhang & Sun 2017, Channel Pruning for Accelerating Very Deep Neural Networks, arXiv 1707.06168, eq. 1,
    with the channels ranked by norm in place of LASSO, as Distiller does for AMC. Positions all over the layer's
    feature maps over `batches` minibatches are samples; the new weights solve the least-squares problem from the
    surviving input channels to the present outputs, without an intercept. Their normal equations are kept and not the
    samples, so memory is (I * h * w)^2 for each layer, and processes can add theirs up. A layer with fewer samples than
    unknowns keeps its weights, with a warning. Of n channels floor(s * n) go.

    When to use: one-shot pruning with little or no fine-tuning (`epochs: [k]`).

    Sample:
        pruners:
          reconstruct:
            class: FMReconstructionChannelPruner
            desired_sparsity: 0.5
            weights: ['conv2.weight']
            batches: 8

    Args:
        weights: selectors of weights of 2-D convolutions (not grouped, not transposed) and linear layers.
        desired_sparsity: fraction of input channels to prune, [0, 1], or a level in place (`compress/levels.py`).
        group_type: `Channels`.
        magnitude_fn: norm that ranks the channels, `L1` or `L2`.
        group_size: the number of pruned channels is a multiple of it, >= 1.
        ranking_noise: probability that the norms are multiplied by normal random numbers, [0, 1].
        batches: minibatches to sample, >= 1.
        points: positions to sample from each image, >= 1.

    Raises:
        UserError: the layer was not called, or is of a kind that cannot be sampled.
    """

    listens: ClassVar[bool] = True

    def __init__(
        self,
        weights: WeightSelectors,
        desired_sparsity: LevelArgument,
        group_type: Literal["Channels"] = "Channels",
        magnitude_fn: Literal["L1", "L2"] = "L1",
        group_size: Annotated[int, Field(ge=1)] = 1,
        ranking_noise: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0,
        batches: Annotated[int, Field(ge=1)] = 8,
        points: Annotated[int, Field(ge=1)] = 10,
    ) -> None:
        level = as_level(desired_sparsity)
        super().__init__({name: Target(level, group_type) for name in weights}, group_size=group_size)
        self.order = int(magnitude_fn[1])
        self.ranking_noise = ranking_noise
        self.batches = batches
        self.points = points
        self.begin_gathering()

    def begin_gathering(self) -> None:
        """Forgets the samples."""
        self.equations: dict[str, tuple[Tensor, Tensor, int]] = {}  # X^T X, X^T Y, number of samples

    def on_layer(self, name: str, call: LayerCall) -> None:
        """Adds samples of one call to the normal equations."""
        inputs, outputs = sample_layer(name, call, self.points)
        square, cross = inputs.T @ inputs, inputs.T @ outputs
        if name in self.equations:
            before = self.equations[name]
            square, cross = square + before[0], cross + before[1]
            self.equations[name] = (square, cross, before[2] + len(inputs))
        else:
            self.equations[name] = (square, cross, len(inputs))

    def scores(self, name: str, weight: Tensor, tile: Tile, ctx: StepContext) -> Tensor:
        """The norm of each input channel over its length."""
        scores = group_norms(weight.detach(), tile, self.order) / group_size(tile)
        if self.ranking_noise and float(torch.rand((), generator=ctx.generator)) < self.ranking_noise:
            scores = scores * torch.randn(scores.shape, generator=ctx.generator).to(scores)
        return scores

    def rewrite(
        self, weights: Mapping[str, Tensor], masks: Mapping[str, Tensor], ctx: StepContext
    ) -> dict[str, Tensor]:
        """The least-squares weights of each layer."""
        found = {}
        for name in self.weights:
            if name not in self.equations:
                raise UserError(f"pruner of {name!r}: its layer was not called in the forward pass")
            square, cross, count = self.equations[name]
            square, cross = sum_over_ranks(square), sum_over_ranks(cross)
            samples = int(sum_over_ranks(torch.tensor(count)))
            columns = masks[name].flatten(1).any(dim=0).cpu()  # the same for each filter that stays
            if samples < int(columns.sum()):
                logger.warning("%r: %d samples are too few to rebuild its weights; they stay", name, samples)
                continue
            found[name] = solve_columns(square, cross, columns).reshape(weights[name].shape).to(weights[name])
        return found

    def state_dict(self) -> dict[str, Any]:
        """The equations so far."""
        return {"equations": {name: list(parts) for name, parts in self.equations.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores them."""
        self.equations = {name: (parts[0], parts[1], parts[2]) for name, parts in state["equations"].items()}


def solve_columns(square: Tensor, cross: Tensor, columns: Tensor) -> Tensor:
    """The least-squares weights that read some inputs only.

    Args:
        square: X^T X, shape (inputs, inputs).
        cross: X^T Y, shape (inputs, outputs).
        columns: bool, shape (inputs,), True = may be read.

    Returns:
        shape (outputs, inputs), zero where `columns` is False.
    """
    weight = torch.zeros(cross.shape[1], cross.shape[0], dtype=cross.dtype)
    kept = columns.nonzero().reshape(-1)
    if len(kept):
        # X^T X is often singular (a dead channel, equal neighbouring pixels): gelsd gives the solution of least norm
        # then, while the default driver on a GPU, gels, assumes full rank.
        weight[:, kept] = torch.linalg.lstsq(square[kept][:, kept], cross[kept], driver="gelsd").solution.T
    return weight


def sample_layer(name: str, call: LayerCall, points: int) -> tuple[Tensor, Tensor]:
    """Inputs and outputs of a layer at evenly spread positions, in double precision on the CPU, the bias taken off.

    Returns:
        shapes (samples, inputs of a filter) and (samples, filters).

    Raises:
        UserError: the layer is neither a linear one nor a 2-D convolution without groups.
    """
    given, output = call.arguments, call.output.detach()
    bias = given.get("bias")
    if call.function == "linear":
        inputs, outputs = given["input"].detach().flatten(0, -2), output.flatten(0, -2)
    elif call.function == "conv2d" and given.get("groups", 1) == 1 and not isinstance(given.get("padding"), str):
        kernel = tuple(given["weight"].shape[2:])
        options = {key: given[key] for key in ("dilation", "padding", "stride") if key in given}
        patches = functional.unfold(given["input"].detach(), kernel, **options)
        chosen = _spread_positions(patches.shape[2], points)
        inputs = patches[:, :, chosen].movedim(1, 2).flatten(0, 1)
        outputs = output.flatten(2)[:, :, chosen].movedim(1, 2).flatten(0, 1)
    else:
        raise UserError(f"pruner of {name!r}: a {call.function} (in groups, or with padding by name) cannot be sampled")
    if bias is not None:
        outputs = outputs - bias.detach()
    return inputs.cpu().double(), outputs.cpu().double()


def _spread_positions(count: int, points: int) -> list[int]:
    """`points` of `count` positions, an irrational step apart, so that they fall on no grid line; no random draw."""
    # Multiples of the golden ratio modulo 1: any number of them is spread evenly (Weyl), whatever the image's width.
    return sorted({int(count * ((i + 1) * (math.sqrt(5) - 1) / 2 % 1)) for i in range(points)})
