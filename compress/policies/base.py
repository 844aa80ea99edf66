"""WHEN: the base of every policy, six hooks that do nothing.

`Policy`. To add a family: one file here that overrides the hooks it needs, one entry in
`compress/config/families.py`.
"""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from compress.arguments.checked import CheckedArguments
from compress.context import PolicyLoss, StepContext
from compress.epoch_window import EpochWindow
from compress.errors import UserError, did_you_mean, shown, some
from compress.selectors import canonical_parameters, expand
from compress.thinning.expected import Demand

HOOKS = (
    "on_epoch_begin",
    "on_minibatch_begin",
    "before_backward_pass",
    "before_parameter_optimization",
    "on_minibatch_end",
    "on_epoch_end",
)


class Policy(CheckedArguments):
    """Acts at the hooks of the epochs of its window; the scheduler calls no hook in other epochs.

    Attributes:
        name: the instance's name in the schedule, for logs and plans.
        window: the epochs in which it acts.
        wants_batch: whether the scheduler is to keep some of the first batch for it (`ctx.graph.batch`).
        sees: a copy of the network as it will be when the policy acts, where blocks are fused before; else None.
    """

    only_keywords = True
    wants_batch = False

    def __init__(self, name: str, window: EpochWindow) -> None:
        self.name = name
        self.window = window
        self.sees: nn.Module | None = None

    def seen(self, model: nn.Module) -> nn.Module:
        """What stands for the network in checks and decisions that come before the policy acts."""
        return model if self.sees is None else self.sees

    def know(self, weights: Iterable[str], model: nn.Module) -> None:
        """Refuses weights that a network lacks; a schedule's selectors are written out before they come here.

        Raises:
            UserError: a name is none of the network's.
        """
        known = canonical_parameters(model)
        for name in (each for each in weights if each not in known):
            found = expand(name, known)
            help_text = f"write out what it selects: {some(found)}" if found else did_you_mean(name, known)
            raise UserError(f"{self.name!r}: {shown(name)} is no weight of this {type(model).__name__}; {help_text}")

    def prepare(self, model: nn.Module, optimizer: Optimizer | None) -> None:
        """Called once, when the scheduler takes the policy: before training and before anything is resumed."""

    def on_epoch_begin(self, ctx: StepContext) -> None:
        """Before the first minibatch of an epoch."""

    def on_minibatch_begin(self, ctx: StepContext) -> None:
        """Before the forward pass."""

    def before_backward_pass(self, ctx: StepContext, loss: Tensor) -> PolicyLoss | None:
        """After the loss is known. Returns the new loss and the terms added to it, or None to leave it."""
        return None

    def before_parameter_optimization(self, ctx: StepContext) -> None:
        """Gradients are there, the optimizer has not stepped yet."""

    def on_minibatch_end(self, ctx: StepContext) -> None:
        """After the optimizer's step; masks have just been applied again."""

    def on_epoch_end(self, ctx: StepContext) -> None:
        """After validation, before saving."""

    def needs(self, hook: str, epoch: int) -> bool:
        """Whether it does something at a hook that it overrides, so that a loop without that hook goes wrong."""
        return True

    @property
    def weights(self) -> list[str]:
        """Canonical names of the weights it acts on; default none."""
        return []

    def settled(self, epoch: int) -> bool:
        """Whether it has reached its final level when `epoch` ends; default True, for those that have none."""
        return True

    def cut_short(self, epochs: int) -> str:
        """A sentence where a run of that length ends after its first epoch and before it has settled; else ''."""
        fired = [epoch for epoch in self.window.epochs if epoch < epochs]
        if not fired or self.settled(epochs - 1):
            return ""
        now, then = self.plan(fired[-1]), self.plan(self.window.last)
        if now and now == then:  # the level that it asks for no longer changes
            return ""
        reached, final = (max(plan.values(), default=0.0) for plan in (now, then))
        levels = f": it reaches {100 * reached:.1f} % instead of {100 * final:.1f} %" if now else ""
        return (
            f"the run ends after {epochs} epochs, inside {self.name!r} ({self.window}){levels}; best.pt will be the "
            "best of the sparsest epochs"
        )

    def plan(self, epoch: int) -> dict[str, float]:
        """What it will ask for at a firing epoch: quantity (such as a weight's name) -> value. Data-driven: {}."""
        return {}

    def plan_note(self) -> str:
        """A sentence below the plan, for what its rows cannot show; mostly ''."""
        return ""

    def expected(self, epoch: int) -> dict[str, float]:
        """What `plan` comes to, where only whole elements or groups can go; what is shown to people."""
        return self.plan(epoch)

    def demand(self, epoch: int) -> Demand | None:
        """What it will ask for in units of the network's graph; None where it asks for none, or not of that graph."""
        return None

    @property
    def removable(self) -> list[str]:
        """The weights of which it masks whole filters or channels, which a thinner then removes; default none."""
        return []

    def bits(self, epoch: int) -> dict[str, str]:
        """Layer -> its bits in words (`W4 A8`) in an epoch, fired or not; {} for what does not quantize."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Plain data and tensors that a resumed run needs; default nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` gave."""
