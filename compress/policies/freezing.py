"""WHEN parameters are frozen: the policy of `LayerFreezer`.

`FreezePolicy`.
"""

from torch import nn
from torch.optim import Optimizer

from compress.context import StepContext
from compress.epoch_window import EpochWindow
from compress.errors import UserError
from compress.freezing import HeldStatistics, LayerFreezer, take_from_update
from compress.policies.base import Policy


class FreezePolicy(Policy):
    """Freezes in every minibatch of the firing epochs. List it after pruners that rank by gradients.

    Args:
        name: the instance's name.
        window: the firing epochs.
        freezer: what is frozen.
    """

    def __init__(self, name: str, window: EpochWindow, freezer: LayerFreezer) -> None:
        super().__init__(name, window)
        self.freezer = freezer
        self._held = HeldStatistics()
        self._waiting = False

    def prepare(self, model: nn.Module, optimizer: Optimizer | None) -> None:
        """Looks the weights up; errors as of `know`."""
        self.know(self.freezer.weights, self.seen(model))

    def on_minibatch_begin(self, ctx: StepContext) -> None:
        """Statistics are held, if asked."""
        self._waiting = True
        self._held.hold(self.freezer.norms(ctx.model))

    def before_parameter_optimization(self, ctx: StepContext) -> None:
        """Gradients are taken away."""
        self._waiting = False
        take_from_update(self.freezer.parameters(ctx.model))

    def on_minibatch_end(self, ctx: StepContext) -> None:
        """Statistics are let go.

        Raises:
            UserError: the loop leaves out `before_parameter_optimization`, without which nothing is frozen.
        """
        self._held.release()
        if self._waiting:
            raise UserError(
                f"policy of {self.name!r}: LayerFreezer needs the hook before_parameter_optimization, which this "
                "training loop does not call between backward() and optimizer.step()"
            )
