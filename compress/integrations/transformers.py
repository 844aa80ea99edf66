"""The scheduler in a transformers `Trainer`: `CompressionCallback`. Needs the package `transformers`.

    optimizer = torch.optim.AdamW(model.parameters(), 5e-5)
    scheduler = file_config(model, optimizer, "agp.yaml")
    Trainer(model, arguments, train_dataset=data, optimizers=(optimizer, None),
            callbacks=[CompressionCallback(scheduler)]).train()

transformers' event -> the scheduler's hook:

    on_epoch_begin                        -> on_epoch_begin
    on_step_begin                         -> on_minibatch_begin, and before_backward_pass, whose terms' gradients are
                                             there first: so they are clipped together with the loss's
    on_pre_optimizer_step                 -> before_parameter_optimization
    on_optimizer_step                     -> on_minibatch_end
    on_evaluate, or on_epoch_end if no evaluation follows it -> on_epoch_end
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from compress.errors import UserError
from compress.integrations.driver import LoopDriver, Schedule
from compress.io.files import checked
from compress.policies.lr import LRPolicy, copied_setting, set_in_place
from compress.scheduler import CompressionScheduler

try:
    from transformers import TrainerCallback
except ImportError as e:
    raise UserError(
        "compress.integrations.transformers needs the package transformers: pip install 'transformers[torch]'"
    ) from e

STATE_FILE = "compression_scheduler.pt"


class CompressionCallback(TrainerCallback):
    """Drives a compression scheduler from the Trainer's events.

    Its state is written beside each checkpoint of the Trainer; before `train(resume_from_checkpoint=FOLDER)` call
    `load(FOLDER)`. Learning-rate policies of the schedule set the rates; the Trainer's own scheduler is then
    overruled.

    Args:
        schedule: the scheduler, or a function (model, optimizer) -> scheduler, called when training starts.
        metrics: `min` or `max` -> name of an evaluation metric, for `ReduceLROnPlateau` of that mode.
    """

    def __init__(self, schedule: Schedule, metrics: Mapping[str, str] | None = None) -> None:
        self.driver = LoopDriver(schedule)
        self.metrics = dict(metrics or {"min": "eval_loss"})
        self._awaiting_metrics = False

    @property
    def scheduler(self) -> CompressionScheduler:
        """The scheduler; one that a function makes is there from the start of training on."""
        return self.driver.scheduler

    def load(self, folder: str | Path) -> None:
        """Takes the scheduler's state from a checkpoint's folder; it is restored when training starts.

        Raises:
            UserError: the folder holds none.
        """
        path = Path(folder) / STATE_FILE
        if not path.is_file():
            raise UserError(f"{str(path)!r} is not there: the checkpoint was not written with this callback")
        self.driver.load_state_dict(torch.load(checked(path), weights_only=True))

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Makes the scheduler.

        Raises:
            UserError: gradients are scaled (fp16), or the length of an epoch is unknown.
        """
        if args.fp16:
            raise UserError("fp16 scales the gradients, to which the schedule's terms are added unscaled; use bf16")
        try:
            len(given["train_dataloader"])
        except TypeError as e:
            raise UserError("the length of an epoch is unknown: the training data has no length") from e
        self.driver.start(given["model"], given["optimizer"])

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Masks and learning rates of the epoch."""
        self._end_epoch(given["optimizer"], None)
        self._put_back_rates(given["optimizer"])
        steps = math.ceil(len(given["train_dataloader"]) / args.gradient_accumulation_steps)
        self.driver.begin_epoch(state.global_step // steps, steps)
        self._note_rates(given["optimizer"])

    def on_step_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Weights are masked, and the gradients of the terms are there before those of the loss."""
        self._put_back_rates(given["optimizer"])
        self.driver.begin_update(state.global_step % self.driver.steps)
        self._note_rates(given["optimizer"])
        self.driver.add_terms()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """All gradients are there."""
        self.driver.before_step()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Masked weights that momentum moved are zero again."""
        self.driver.end_update()

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Evaluation and saving see masked weights, also inside an epoch."""
        if control.should_evaluate or control.should_save:
            self.driver.show_masked()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """The epoch ends now, or after the evaluation that follows."""
        self.driver.show_masked()
        self._awaiting_metrics = True
        if not control.should_evaluate:
            self._end_epoch(given["optimizer"], None)

    def on_evaluate(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """The metrics of the epoch that has ended."""
        self._end_epoch(given["optimizer"], given.get("metrics"))

    def on_save(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Writes the state beside the Trainer's checkpoint."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and folder.is_dir():
            torch.save(self.driver.state_dict(), folder / STATE_FILE)

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Ends an epoch whose evaluation never came, or that a run resumed behind its last step had yet to end."""
        self._end_epoch(given["optimizer"], None)
        if self.driver.steps:
            self._put_back_rates(given["optimizer"])
            self.driver.end_before(state.global_step // self.driver.steps)
            self._note_rates(given["optimizer"])

    def _end_epoch(self, optimizer: Any, metrics: Mapping[str, float] | None) -> None:
        if not self._awaiting_metrics:
            return
        self._awaiting_metrics = False
        found = {mode: metrics[name] for mode, name in self.metrics.items() if name in metrics} if metrics else None
        self._put_back_rates(optimizer)
        self.driver.end_epoch(found or None)
        self._note_rates(optimizer)

    def _note_rates(self, optimizer: Any) -> None:
        """Remembers what the schedule set, for the Trainer's own scheduler sets rates after each step."""
        if any(isinstance(policy, LRPolicy) for policy in self.scheduler.policies):
            self.driver.rates = [copied_setting(group["lr"]) for group in optimizer.param_groups]

    def _put_back_rates(self, optimizer: Any) -> None:
        for group, rate in zip(optimizer.param_groups, self.driver.rates or [], strict=False):
            set_in_place(group, "lr", rate)
