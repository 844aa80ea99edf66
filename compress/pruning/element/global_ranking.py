"""One ranking over many weights: `GlobalMagnitudePruner`, `SNIPPruner`, `MovementPruner`.

Pruners whose single threshold spans all the weights named.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor, nn

from compress.context import StepContext
from compress.criteria import global_masks
from compress.epoch_window import EpochWindow
from compress.levels import as_level
from compress.parameters import widened
from compress.pruning.base import GradientSums, LevelArgument, Pruner
from compress.registry import PRUNERS
from compress.selectors import WeightSelectors


class GlobalPruner(Pruner):
    """What global rankings share: a level over all elements together; each weight keeps one element at least."""

    def __init__(self, weights: list[str], desired_sparsity: Any) -> None:
        self.weights = weights
        self.level = as_level(desired_sparsity)

    @abstractmethod
    def scores(self, weights: Mapping[str, Tensor], ctx: StepContext) -> dict[str, Tensor]:
        """Importance of each element, by name."""

    def masks(self, weights: Mapping[str, Tensor], ctx: StepContext, window: EpochWindow) -> dict[str, Tensor]:
        """Exactly round(s * n) zeros among the n elements of all weights together."""
        return global_masks(self.scores(weights, ctx), self.level.at(ctx.epoch, window))

    def plan(self, epoch: int, window: EpochWindow) -> dict[str, float]:
        """The level of all weights together; what each one loses is the data's affair."""
        return dict.fromkeys(self.weights, self.level.at(epoch, window))


@PRUNERS.register
class GlobalMagnitudePruner(GlobalPruner):
    """Prunes the smallest magnitudes of many weights together: layers with small weights lose more.

    Paper: Han et al. 2015, arXiv 1506.02626; global against layer-wise ranking is studied in Blalock et al. 2020, What
    is the State of Neural Network Pruning, arXiv 2003.03033. Of the n elements of all weights round(s * n) go, exactly,
    but no weight loses its last element unless s is 1.

    When to use: the strongest simple baseline when only the total counts; the first and last layer mostly protect
    themselves.

    Sample:
        pruners:
          global_pruner:
            class: GlobalMagnitudePruner
            weights: ['*.weight']
            desired_sparsity: {class: AgpLevel, initial_sparsity: 0.05, final_sparsity: 0.8}

    Args:
        weights: selectors of the weights to prune.
        desired_sparsity: fraction of zeros over all weights together, [0, 1], or a level in place.
    """

    def __init__(self, weights: WeightSelectors, desired_sparsity: LevelArgument) -> None:
        super().__init__(weights, desired_sparsity)

    def scores(self, weights: Mapping[str, Tensor], ctx: StepContext) -> dict[str, Tensor]:
        """|w|."""
        return {name: weights[name].abs() for name in self.weights}


@PRUNERS.register
class SNIPPruner(GlobalPruner):
    """Prunes at initialisation the connections whose removal changes the loss least: |gradient * weight|.

    Paper: Lee, Ajanthan & Torr 2019, SNIP: Single-shot Network Pruning based on Connection Sensitivity,
    arXiv 1810.02340, eq. 6. The gradient is summed over `batches` minibatches, during which the optimizer already
    steps; the weight is that of the last of them. Ranked over all weights together.

    When to use: once, in the first epoch (`epochs: [0]`), for a sparse network from the start of training.

    Sample:
        pruners:
          snip:
            class: SNIPPruner
            weights: ['*.weight']
            desired_sparsity: 0.8

    Args:
        weights: selectors of the weights to prune.
        desired_sparsity: fraction of zeros over all weights together, [0, 1], or a level in place.
        batches: minibatches to sum gradients over, >= 1.
    """

    def __init__(
        self, weights: WeightSelectors, desired_sparsity: LevelArgument, batches: Annotated[int, Field(ge=1)] = 1
    ) -> None:
        super().__init__(weights, desired_sparsity)
        self.batches = batches
        self.gradients = GradientSums()

    def begin_gathering(self) -> None:
        """Starts the sums anew."""
        self.gradients = GradientSums()

    def observe(self, parameters: Mapping[str, nn.Parameter], ctx: StepContext) -> None:
        """Adds each weight's gradient."""
        self.gradients.add_gradients(parameters)

    def scores(self, weights: Mapping[str, Tensor], ctx: StepContext) -> dict[str, Tensor]:
        """|sum of gradients * w|."""
        return {name: (self.gradients.of(name, weights[name].device) * weights[name]).abs() for name in self.weights}

    def state_dict(self) -> dict[str, Any]:
        """The sums so far."""
        return {"sums": self.gradients.sums}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the sums."""
        self.gradients.sums = dict(state["sums"])


@PRUNERS.register
class MovementPruner(GlobalPruner):
    """Keeps weights that move away from zero: the score is -sum of w * gradient over all minibatches so far.

    Paper: Sanh, Wolf & Rush 2020, Movement Pruning: Adaptive Sparsity by Fine-Tuning, arXiv 2005.07683, eq. 4, the hard
    form with a level. A weight's score grows while gradient steps enlarge it, however small it is. Scores are gathered
    in each minibatch of the policy's epochs; new masks come after `batches` minibatches of each one, and more often
    with the policy's `mini_batch_pruning_frequency`.

    When to use: fine-tuning a trained network to high sparsity, where magnitudes still belong to the old task. With
    `use_double_copies: true` masked weights keep learning and may return, as in the paper; else the score of a masked
    weight stands still.

    Sample:
        pruners:
          movement:
            class: MovementPruner
            weights: ['*.weight']
            desired_sparsity: {class: AgpLevel, initial_sparsity: 0.0, final_sparsity: 0.7}

    Args:
        weights: selectors of the weights to prune.
        desired_sparsity: fraction of zeros over all weights together, [0, 1], or a level in place.
        batches: minibatches of each firing epoch before its masks are made, >= 1.
    """

    observes_always: ClassVar[bool] = True

    def __init__(
        self, weights: WeightSelectors, desired_sparsity: LevelArgument, batches: Annotated[int, Field(ge=1)] = 1
    ) -> None:
        super().__init__(weights, desired_sparsity)
        self.batches = batches
        self.movement = GradientSums()

    def observe(self, parameters: Mapping[str, nn.Parameter], ctx: StepContext) -> None:
        """Adds -w * gradient."""
        for name, parameter in parameters.items():
            if parameter.grad is not None:
                self.movement.add(name, -widened(parameter.detach()) * widened(parameter.grad))

    def scores(self, weights: Mapping[str, Tensor], ctx: StepContext) -> dict[str, Tensor]:
        """The movement so far."""
        return {name: self.movement.of(name, weights[name].device) for name in self.weights}

    def state_dict(self) -> dict[str, Any]:
        """The movement so far."""
        return {"sums": self.movement.sums}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores it."""
        self.movement.sums = dict(state["sums"])
