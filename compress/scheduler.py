"""The loop over policies: `CompressionScheduler`.

Six hooks that hand the moment to the policies of the epoch, the masks after the optimizer's step, state. Called by a
training loop:

    on_epoch_begin
      for each minibatch:
        on_minibatch_begin -> forward -> loss -> before_backward_pass -> backward
        -> before_parameter_optimization -> optimizer.step -> on_minibatch_end
    validate -> on_epoch_end -> save
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from compress.context import Change, LayersExchanged, LossComponent, NetworkCut, PolicyLoss, StepContext
from compress.distillation.teachers import Teachers
from compress.errors import UserError
from compress.graph.channels import ChannelGraph
from compress.masks import MaskTable
from compress.plan import Plan, make_plan
from compress.policies.base import HOOKS, Policy
from compress.policies.fusing import fuse_again
from compress.policies.hook_order import HookOrder
from compress.thinning.current import CurrentGraph
from compress.thinning.recipe import Recipe, cut_state

STATE_VERSION = 1


class CompressionScheduler:
    """Lets policies act at the hooks of a training loop, and keeps masked weights at zero.

    Args:
        model: the network; wrapped ones (DataParallel, torch.compile) are fine.
        policies: in the order in which they act within a hook.
        optimizer: whose learning rates a preview starts from.
        seed: of the scheduler's own random generator, which random pruners draw from.
        resolved: the schedule as plain data with defaults filled in and selectors expanded.
        graph: of the model; None makes one that takes its example inputs from the first batch seen.
        teachers: of the distillers.

    Attributes:
        graph: the model's coupled channels as they are now.
        masks: name -> `ParameterMasker` of every parameter.
        policies: the policies.
        recipes: what thinning has removed from the model so far, in order, as plain data.
        structures: what quantization has exchanged in the model, as plain data; empty while it is float.
        teachers: what the distillers learn from; empty without distillers.
        resolved: see above; `{}` when the scheduler was built by hand.
        measure_loss: for pruners by measured loss, set by the loop before each `on_minibatch_begin`: a function without
            arguments that gives the loss of this minibatch with the weights as they are when it is called, and leaves
            the network as it was. None: those pruners compare the network's outputs instead.
    """

    def __init__(
        self,
        model: nn.Module,
        policies: list[Policy] | None = None,
        *,
        optimizer: Optimizer | None = None,
        seed: int = 0,
        resolved: dict[str, Any] | None = None,
        graph: CurrentGraph | None = None,
        teachers: Teachers | None = None,
    ) -> None:
        self.model = model
        self.teachers = teachers if teachers is not None else Teachers()
        self.graph = graph if graph is not None else CurrentGraph(model)
        self.masks = MaskTable(model)
        self.policies: list[Policy] = list(policies or [])
        self.resolved = resolved or {}
        self.recipes: list[dict[str, Any]] = []
        self.structures: list[dict[str, Any]] = []
        self.measure_loss: Callable[[], float] | None = None
        self._optimizer = optimizer
        self.generator = torch.Generator().manual_seed(seed)
        self._epoch = -1
        self._order = HookOrder(model, lambda: [each.name for each in self.masks.masked()])
        self._wants_batch = False
        self._acting: dict[str, list[Policy]] = {hook: [] for hook in HOOKS}
        for policy in self.policies:
            policy.prepare(model, optimizer)

    def add_policy(self, policy: Policy) -> None:
        """Appends a policy; it acts after those already there."""
        policy.prepare(self.model, self._optimizer)
        self.policies.append(policy)
        self._epoch = -1

    def allow_skipped_epochs(self) -> None:
        """Epochs may be left out from now on without a warning, as a smoke run does."""
        self._order.skips = True

    def on_epoch_begin(self, epoch: int, optimizer: Optimizer | None = None) -> None:
        """Before the first minibatch of `epoch` (from 0): masks and learning rates of the epoch are set."""
        optimizer = self._taken("on_epoch_begin", optimizer)
        self._order.begin_epoch(epoch, self._needs)
        self._enter(epoch)
        self.masks.begin_epoch()
        self._notify("on_epoch_begin", self._context(epoch, optimizer))

    def on_minibatch_begin(
        self, epoch: int, minibatch_id: int, minibatches_per_epoch: int, optimizer: Optimizer | None = None
    ) -> None:
        """Before the forward pass; the weights are masked when it returns."""
        optimizer = self._taken("on_minibatch_begin", optimizer)
        self._enter(epoch)
        self._order.begin_minibatch(epoch, minibatch_id, self._needs)
        ctx = self._context(epoch, optimizer, minibatch_id, minibatches_per_epoch)
        self._notify("on_minibatch_begin", ctx)
        if self._wants_batch:
            self.graph.watch()

    def before_backward_pass(
        self,
        epoch: int,
        minibatch_id: int,
        minibatches_per_epoch: int,
        loss: Tensor,
        optimizer: Optimizer | None = None,
        return_loss_components: bool = False,
    ) -> Tensor | PolicyLoss:
        """After the loss is known; each policy sees the loss that the one before it returned.

        Returns:
            the scalar to backpropagate, or with `return_loss_components` a `PolicyLoss` that also names its terms.
        """
        optimizer = self._taken("before_backward_pass", optimizer)
        self._enter(epoch)
        self._order.within("before_backward_pass", epoch, minibatch_id, self._needs)
        ctx = self._context(epoch, optimizer, minibatch_id, minibatches_per_epoch)
        components: list[LossComponent] = []
        for policy in self._acting["before_backward_pass"]:
            added = policy.before_backward_pass(ctx, loss)
            if added is not None:
                loss = added.overall_loss
                components += added.loss_components
        return PolicyLoss(loss, components) if return_loss_components else loss

    def before_parameter_optimization(
        self, epoch: int, minibatch_id: int, minibatches_per_epoch: int, optimizer: Optimizer
    ) -> None:
        """After backward(), before optimizer.step(). May be left out by loops whose schedules do not need it."""
        known = self._taken("before_parameter_optimization", optimizer)
        self._enter(epoch)
        self._order.within("before_parameter_optimization", epoch, minibatch_id, self._needs)
        ctx = self._context(epoch, known, minibatch_id, minibatches_per_epoch)
        self._notify("before_parameter_optimization", ctx)

    def on_minibatch_end(
        self, epoch: int, minibatch_id: int, minibatches_per_epoch: int, optimizer: Optimizer | None = None
    ) -> None:
        """After optimizer.step(): masked weights that momentum moved are zero again, in every epoch."""
        optimizer = self._taken("on_minibatch_end", optimizer)
        self._enter(epoch)
        self._order.end_minibatch(epoch, minibatch_id, self._needs)
        ctx = self._context(epoch, optimizer, minibatch_id, minibatches_per_epoch)
        self.masks.after_step()
        self._notify("on_minibatch_end", ctx)
        if ctx.is_last_step:  # validation, saving and export see masked weights
            self.masks.show_masked()

    def on_epoch_end(
        self, epoch: int, optimizer: Optimizer | None = None, metrics: dict[str, Any] | None = None
    ) -> None:
        """After validation of `epoch`, before saving: learning rates of the next epoch are set."""
        optimizer = self._taken("on_epoch_end", optimizer)
        self._enter(epoch)
        self._order.end_epoch(epoch, self._needs)
        self._notify("on_epoch_end", self._context(epoch, optimizer, metrics=metrics))

    def preview(self, epochs: int | None = None, optimizers: Mapping[str, Optimizer] | None = None) -> Plan:
        """What will act in each epoch, without training; `epochs` defaults to the schedule's last.

        Args:
            epochs: number of them, from 0.
            optimizers: those of the loop by name, where it has several; the rates of all are shown.
        """
        others = {name: each for name, each in (optimizers or {}).items() if each is not self._optimizer}
        length = self.last_epoch if epochs is None else epochs
        return make_plan(self.policies, self._optimizer, length, others, self._graph_before_training())

    def _graph_before_training(self) -> ChannelGraph | None:
        if self.graph.inputs is None or self.recipes or self.structures:
            return None
        try:
            return self.graph.get()
        except UserError:  # said when the schedule was loaded; each weight is then masked by itself
            return None

    @property
    def last_epoch(self) -> int:
        """The first epoch after every policy's window; 0 without policies."""
        return max((policy.window.ending_epoch for policy in self.policies), default=0)

    @property
    def suggested_epochs(self) -> int:
        """The run's length that the schedule asks for: its last epoch and its `fine_tuning_epochs`; 0 without."""
        return self.last_epoch + int(self.resolved.get("fine_tuning_epochs", 0))

    @property
    def scheduled_weights(self) -> list[str]:
        """The weights that some policy acts on, by canonical name, in the model's order."""
        acted_on = {name for policy in self.policies for name in policy.weights}
        return [name for name in self.masks if name in acted_on]

    def settled(self, epoch: int) -> bool:
        """Whether every policy has reached its final level when `epoch` ends."""
        return all(policy.settled(epoch) for policy in self.policies)

    def cut_short(self, epochs: int) -> list[str]:
        """One line for each policy that a run of that length ends inside of, with the level it will have reached."""
        return [line for policy in self.policies if (line := policy.cut_short(epochs))]

    def state_dict(self, teachers: bool = True) -> dict[str, Any]:
        """Everything that a resumed run needs, as plain data and tensors (loads with `weights_only=True`).

        Args:
            teachers: with the teachers' weights, which never change; a loop that saves often may leave them out and
                save `self.teachers.state_dict()` once, to be put in as `state["teachers"]` before it is loaded.
        """
        return {
            "version": STATE_VERSION,
            "recipes": list(self.recipes),
            "structures": list(self.structures),
            "teachers": self.teachers.state_dict(weights=teachers),
            "masks": self.masks.state_dict(),
            "awaited": sorted(self.masks.awaited),
            "zeroed": sorted(self.masks.zeroed),
            "policies": [{"name": policy.name, "state": policy.state_dict()} for policy in self.policies],
            "generator": self.generator.get_state(),
            "inputs": self.graph.state_dict(),
            "reasons": dict(self.graph.reasons),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` gave; the schedule must be the same.

        Raises:
            UserError: another version, or other policies than the schedule's; or it is damaged, and this scheduler and
                its network are partly restored.
        """
        version = state.get("version") if isinstance(state, Mapping) else None
        if not (isinstance(version, int) and version == STATE_VERSION):
            raise UserError(f"the scheduler's state is of version {version}, not {STATE_VERSION}")
        try:
            self._restore(state)
        except (KeyError, TypeError, AttributeError, IndexError, ValueError, RuntimeError) as e:  # of any part of it
            what = f"{type(e).__name__}: {str(e).partition(chr(10))[0]}"
            raise UserError(
                f"the scheduler's state is damaged ({what}); "
                "what it restored so far is not to be used: start from a new network and scheduler"
            ) from e

    def _restore(self, state: dict[str, Any]) -> None:
        saved, here = (
            [entry["name"] for entry in state["policies"]],
            [policy.name for policy in self.policies],
        )
        if saved != here:
            raise UserError(f"the checkpoint was made with the policies {saved}, the schedule has {here}")
        self._order.restart()
        self.teachers.load_state_dict(state.get("teachers", {}), self.model, state["recipes"], len(self.recipes))
        # Only those that this network has not been cut by yet.
        for recipe in state["recipes"][len(self.recipes) :]:
            self._apply(Recipe.from_dict(recipe))
        self.graph.forget()
        self.graph.load_state_dict(state["inputs"])
        self.graph.reasons.update(state.get("reasons", {}))
        self.recipes[:] = state["recipes"]
        self.masks.load_state_dict(state["masks"])
        self.masks.awaited = set(state.get("awaited", ()))
        self.masks.zeroed = set(state.get("zeroed", ()))
        for policy, entry in zip(self.policies, state["policies"], strict=True):
            policy.load_state_dict(entry["state"])
        self.structures[:] = state.get("structures", [])
        self.generator.set_state(state["generator"].cpu())

    def _enter(self, epoch: int) -> None:
        """Finds out once per epoch which policy overrides which hook, so that a step pays only for those."""
        if epoch == self._epoch:
            return
        self._epoch = epoch
        self._wants_batch = any(policy.wants_batch and epoch <= policy.window.last for policy in self.policies)
        firing = [policy for policy in self.policies if policy.window.fires(epoch)]
        for hook in HOOKS:
            self._acting[hook] = [p for p in firing if getattr(type(p), hook) is not getattr(Policy, hook)]

    def _taken(self, hook: str, optimizer: Optimizer | None) -> Optimizer | None:
        """The optimizer of a hook: the known one where a loop gives none; one that wraps it counts as the same.

        Raises:
            UserError: it is another one.
        """
        known = self._optimizer
        if known is None:
            self._optimizer = known = optimizer
        # A wrapper, such as accelerate's, shares the list of groups; another optimizer has its own.
        elif optimizer is not None and optimizer.param_groups is not known.param_groups:
            raise UserError(
                f"{hook} was given another optimizer ({type(optimizer).__name__}) than the schedule was built with "
                f"({type(known).__name__}): learning rates, learned scales and adaptors are the latter's. Build the "
                "scheduler (file_config, dict_config) with the optimizer that trains; nothing was changed"
            )
        self._order.watch(known)
        return known

    def _needs(self, hook: str) -> list[str]:
        """Who needs a hook in the present epoch."""
        masks = hook == "on_minibatch_end" and any(not masker.may_recover for masker in self.masks.masked())
        acting = [policy for policy in self._acting[hook] if policy.needs(hook, self._epoch)]
        return [*(repr(policy.name) for policy in acting), *(["the masks"] if masks else [])]

    def _notify(self, hook: str, ctx: StepContext) -> None:
        for policy in self._acting[hook]:
            getattr(policy, hook)(ctx)

    def _take(self, change: Change) -> None:
        """A policy has exchanged or cut a part of the network, and says so at once."""
        match change:
            case LayersExchanged(structure):
                self.structures.append(structure)
            case NetworkCut(recipe):
                self.recipes.append(recipe)
                self._cut_states(Recipe.from_dict(recipe))

    def _apply(self, recipe: Recipe) -> None:
        """What a saved run has done to its network, to a new one; the optimizer and the masks follow new parameters."""
        recipe.check(self.model)
        if recipe.fused:
            fuse_again(self.model, recipe.fused, self.graph.network, self._optimizer, self.masks)
        else:
            recipe.apply(self.model)

    def _cut_states(self, recipe: Recipe) -> None:
        """Whatever policies remember element by element follows the thinned parameters."""
        for policy in self.policies:
            state = policy.state_dict()
            cut = cut_state(state, recipe)
            if cut is not state:
                policy.load_state_dict(cut)

    def _context(
        self,
        epoch: int,
        optimizer: Optimizer | None,
        step: int = -1,
        steps_per_epoch: int = 0,
        metrics: dict[str, Any] | None = None,
    ) -> StepContext:
        now, so_far = (optimizer, step, steps_per_epoch, metrics), (self.recipes, self.graph, self.structures)
        return StepContext(epoch, self.model, self.masks, self.generator, *now, *so_far, self.measure_loss, self._take)
