"""The scheduler in a Lightning `Trainer`: `CompressionCallback`. Needs the package `lightning` (or pytorch_lightning).

    def schedule(module, optimizer):
        return file_config(module.net, optimizer, "agp.yaml")

    Trainer(max_epochs=30, callbacks=[CompressionCallback(schedule)]).fit(module, loader)

Lightning's event -> the scheduler's hook:

    on_train_epoch_start                                -> on_epoch_begin
    on_train_batch_start, the first of an update        -> on_minibatch_begin
    on_before_optimizer_step (before gradients are clipped)
                          -> before_backward_pass, whose terms are added, and before_parameter_optimization
    on_train_batch_end, the last of an update           -> on_minibatch_end
    on_train_epoch_end (after validation)               -> on_epoch_end
"""

import math
from collections.abc import Mapping
from typing import Any

from compress.errors import UserError
from compress.integrations.driver import LoopDriver, Schedule
from compress.scheduler import CompressionScheduler

try:
    from lightning.pytorch import Callback
except ImportError:
    try:
        from pytorch_lightning import Callback
    except ImportError as e:
        raise UserError("compress.integrations.lightning needs the package lightning: pip install lightning") from e


class CompressionCallback(Callback):
    """Drives a compression scheduler from Lightning's events; its state is saved in Lightning's checkpoints.

    Learning-rate policies of the schedule set the optimizer's rates; then `configure_optimizers` must not return a
    scheduler of its own. A loop with `automatic_optimization = False` calls the scheduler's hooks itself.

    Args:
        schedule: the scheduler, or a function (module, optimizer) -> scheduler, called when training starts: the
            module has its device and its optimizer then.
        metrics: `min` or `max` -> name of a logged metric, for `ReduceLROnPlateau` of that mode.
    """

    def __init__(self, schedule: Schedule, metrics: Mapping[str, str] | None = None) -> None:
        self.driver = LoopDriver(schedule)
        self.metrics = dict(metrics or {"min": "val_loss"})
        self._stepping = False

    @property
    def scheduler(self) -> CompressionScheduler:
        """The scheduler, from the start of training on."""
        return self.driver.scheduler

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Makes the scheduler.

        Raises:
            UserError: optimization is manual, or the length of an epoch is unknown.
        """
        if not pl_module.automatic_optimization:
            raise UserError("automatic_optimization is off: call the scheduler's hooks in training_step instead")
        if math.isinf(trainer.num_training_batches):
            raise UserError("the length of an epoch is unknown; give the Trainer limit_train_batches")
        self.driver.start(pl_module, trainer.optimizers[0])

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Masks and learning rates of the epoch."""
        steps = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
        self.driver.begin_epoch(trainer.current_epoch, steps)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """The first batch of an update begins a minibatch."""
        if not self.driver.is_in(trainer.current_epoch):  # resumed: then Lightning leaves out on_train_epoch_start
            self.on_train_epoch_start(trainer, pl_module)
        step, within = divmod(batch_idx, trainer.accumulate_grad_batches)
        if within == 0:
            self.driver.begin_update(step)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Terms are added to the gradients, and logged under their names."""
        terms = self.driver.add_terms()
        if terms:
            pl_module.log_dict(terms)
        self.driver.before_step()
        self._stepping = True

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """The last batch of an update ends the minibatch."""
        if self._stepping:
            self.driver.end_update()
            self._stepping = False

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Validation sees masked weights, also inside an epoch."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.driver.show_masked()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Learning rates of the next epoch."""
        logged = trainer.callback_metrics
        found = {mode: float(logged[name]) for mode, name in self.metrics.items() if name in logged}
        self.driver.end_epoch(found or None)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Ends the last epoch, where the run was resumed behind its last update."""
        self.driver.end_before(trainer.current_epoch)

    def state_dict(self) -> dict[str, Any]:
        """What a Lightning checkpoint holds of the scheduler."""
        return self.driver.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the scheduler when training starts."""
        self.driver.load_state_dict(state_dict)
