"""The training loop that every application shares, with the scheduler's six hooks in sight.

`BaseTrainer.run`, `train` and the steps between epochs. An application's solver derives from it and gives
`build_model`, `compute_loss` and `validate`; see engine/application.py and docs/design.md.
"""

import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from apputils.checkpoints.file import save_checkpoint
from apputils.checkpoints.rotation import progress as progress_words
from apputils.checkpoints.rotation import save_last
from apputils.checkpoints.schema import Unfit
from apputils.runs.writable import check_places
from compress.analysis.activations.statistics import ActivationReport, ActivationStatistics
from compress.analysis.sparsity.totals import Sparsity
from compress.config import dict_config, file_config
from compress.distributed import is_first, world_size
from compress.graph.calls import declare_unused
from compress.io.progress import Bar
from compress.scheduler import CompressionScheduler
from engine.announcement import announce, samples_per_update
from engine.application import TrainedApplication
from engine.architectures.early_checks import check_network
from engine.best_epoch import EpochScore
from engine.commands.thin import story, thinned_run
from engine.distributed.data_parallel import Replicas, synchronized
from engine.distributed.elastic_restart import close_run, open_run
from engine.distributed.process_group import set_apart, told_by_first
from engine.distributed.rank_check import check_ranks
from engine.ema import AveragedWeights
from engine.environment import set_up
from engine.epoch.accumulation import mean_loss
from engine.epoch.mid_epoch import Middle
from engine.epoch.nan_guard import NanGuard, NotFinite, Place
from engine.goals.training import higher_is_better
from engine.option_conflicts import Setup, refuse_combinations
from engine.precision import resolved_precision
from engine.progress import Progress
from engine.resume import check_best_files, last_checkpoint, schedule_text, take_last
from engine.saved.best_per_width import BestOfEachSize
from engine.saved.final_summary import summarize
from engine.saved.rebuild import shape_as
from engine.saved.run_teachers import RunTeachers
from engine.saved.start import start_from
from engine.session import RunSession
from engine.state import Companion as Companion
from engine.state import TrainState, gather, plain_options, restore
from options.base_options import TrainConfig

logger = logging.getLogger("run")


class BaseTrainer(TrainedApplication):
    """Trains one network under a compression schedule.

    Args:
        config: the training options (`options.base_options.TrainConfig` or an application's extension).
        training_loader: minibatches; its sampler may have `set_epoch`.
        validation_loader: what `validate` measures on.

    Attributes:
        session: folders, lock, log files, warnings and signals of this process.
        state: what is trained and saved; `build` makes it.
        progress: where the run stands; `build` makes it.
        replicas: the network as the loop calls it; `build` makes them.
        nan_guard: looks at each loss; `build` makes it.
        left_out: places whose minibatches `--on-nan=rollback` leaves out.
        steps_limit: steps of an epoch, for a smoke run; None: all.
    """

    progress: Progress
    replicas: Replicas
    nan_guard: NanGuard

    def __init__(
        self, config: TrainConfig, training_loader: DataLoader[Any], validation_loader: DataLoader[Any]
    ) -> None:
        super().__init__(config, training_loader, validation_loader)
        self.session = RunSession()
        self.left_out: set[Place] = set()
        self.steps_limit: int | None = None

    # The loop -----------------------------------------------------------------------------------------------------

    def run(self, session: RunSession | None = None, checkpoint: dict[str, Any] | None = None) -> dict[str, Any]:
        """Trains from the first unfinished epoch to the last; returns the summary.

        Args:
            session: that has the run which is resumed; None makes a new one.
            checkpoint: that it is resumed from; None reads the last one.

        Raises:
            UserError: something the user can mend; what was saved is kept.
            Interrupted: SIGINT or SIGTERM came, and the run is saved.
        """
        self.session = session if session is not None else self.session
        with self.session, self.session.warnings:
            with self.session.interrupts:
                self.prepare(checkpoint)
                if self.progress.as_it_came:
                    self.save_all([self.session.run.best])
                while not self.progress.finished:
                    try:
                        self.run_epoch(self.progress.epoch)
                    except NotFinite as fault:
                        self.go_back(fault)
            return self.finish()

    def run_epoch(self, epoch: int) -> None:
        """Trains, validates and saves one epoch, from where it was left."""
        scheduler, middle = self.compression_scheduler, self.progress.middle
        self.session.warnings.epoch = epoch
        started, done = time.perf_counter(), middle.step if middle else 0
        losses = self.train(epoch, scheduler)
        rate = self.optimizer.param_groups[0]["lr"]  # of the last minibatch
        speed = (self.samples_per_epoch() - done * samples_per_update(self.config)) / (time.perf_counter() - started)
        model = self.state.evaluated_model()
        with ActivationStatistics(model, enabled=self.config.activation_stats) as activations:
            metrics = told_by_first(self.validate(model, epoch))  # each process measures everything
        self.note_network(epoch, model, activations.report())
        scheduler.on_epoch_end(epoch, self.optimizer, self.scheduler_metrics(losses, metrics))
        self.note_epoch(epoch, {**losses, **metrics, "lr": rate, "images_per_second": speed})
        self.progress.epoch = epoch + 1
        self.save()
        self.session.end_if_asked()

    def train(self, epoch: int, compression_scheduler: CompressionScheduler) -> dict[str, float]:
        """One epoch, from where it was left; returns the mean of the loss and of each of its components."""
        steps, optimizer, guard = self.steps_per_epoch(), self.optimizer, self.nan_guard
        self.model.train()
        self.replicas.begin_epoch()
        if self.progress.middle is None:  # an epoch that was left inside has had this hook: its state is restored
            compression_scheduler.on_epoch_begin(epoch, optimizer)
        for step, group in self.updates(epoch):  # the minibatches of one update: one, or --accumulate of them
            compression_scheduler.measure_loss = partial(self.measured_loss, group)  # for pruners by measured loss
            compression_scheduler.on_minibatch_begin(epoch, step, steps, optimizer)  # from here weights are masked
            guard.before_step((epoch, step))
            optimizer.zero_grad(set_to_none=True)  # None, not 0: momentum must not move what gets no gradient
            own_loss = mean_loss(group, self.compute_loss, self.replicas.locally)  # all but the last went backward
            loss, terms = compression_scheduler.before_backward_pass(
                epoch, step, steps, own_loss, optimizer, return_loss_components=True
            )
            if guard.passes((epoch, step), loss, group):  # else the step is as if its minibatch were not there
                loss.backward()
                self.replicas.settle()  # gradients become the mean over all processes
                self.means.add(loss, own_loss, terms)  # on the device: nothing waits for it here
            compression_scheduler.before_parameter_optimization(epoch, step, steps, optimizer)
            optimizer.step()
            compression_scheduler.on_minibatch_end(epoch, step, steps, optimizer)  # momentum moved masked weights
            if self.state.averaged is not None:  # after the masks: the average is of masked weights
                self.state.averaged.update(self.model, compression_scheduler)
            self.note_step(epoch, step + 1)
        self.replicas.end_epoch()
        self.progress.middle = None
        return self.means.values()

    def updates(self, epoch: int) -> Iterator[tuple[int, list[Any]]]:
        """Step and minibatches of each update that is left of an epoch, with a progress bar.

        It is made after `on_epoch_begin`: what the loader draws must come after what policies draw.
        """
        if hasattr(self.training_loader.sampler, "set_epoch"):
            self.training_loader.sampler.set_epoch(epoch)
        steps = self.steps_per_epoch()
        middle = self.progress.middle = self.progress.middle or Middle(steps)
        self.means, first = middle.means, middle.step
        groups = middle.groups(self.training_loader, self.config.accumulate)
        title = f"epoch {epoch}/{self.progress.epochs - 1}"
        bar = Bar(groups, steps - first, title, "img", samples_per_update(self.config))
        for step, group in enumerate(bar, first):
            yield step, group
            bar.note(self._so_far)

    def note_step(self, epoch: int, done: int) -> None:
        """After an update: saves the run inside the epoch, if that is due, and ends it if a signal came."""
        middle, every = self.progress.middle, self.config.checkpoint_every
        assert middle is not None
        middle.step = done
        due = every and (epoch * middle.steps + done) % every == 0
        if self.session.writes and (self.session.interrupts.agreed or due):
            self.save_all()
            self.session.end_if_asked()

    # Before the loop ----------------------------------------------------------------------------------------------

    def prepare(self, checkpoint: dict[str, Any] | None = None) -> None:
        """Builds everything that the loop needs, restores it when a run is resumed, and opens the run's files."""
        config, session = self.config, self.session
        if config.resume:
            checkpoint = take_last(config.resume, session) if checkpoint is None else checkpoint
            check_best_files(session.run)
        elif is_first():
            check_places(config.run)
        if checkpoint is not None and config.thin:
            before = checkpoint
            parts = self.training_loader, self.example_inputs, self.build_optimizer
            checkpoint, thinned = thinned_run(before, *parts, session.run.best, config.unused or ())
            logger.info("%s", story(thinned, before, checkpoint))
        self.set_to(checkpoint)
        check_ranks(self.state.state_dict(), "before the first step")
        run = open_run(config.resume, config.run, config.stem())
        if not session.writes:
            session.take(run)
        session.open_files(self.progress.epoch)
        session.files.write_settings(plain_options(self.config), self.compression_scheduler.resolved)
        announce(self, self.progress, session.run.name, self.steps_per_epoch())
        if checkpoint is None or config.reset_optimizer or config.reset_schedule or config.thin:
            self.save_all()  # from here on the run can be resumed, whatever happens to it
            self.config = replace(self.config, reset_optimizer=False, reset_schedule=False, thin=False)  # that is done

    def set_to(self, checkpoint: dict[str, Any] | None) -> None:
        """Builds everything new and puts it where a checkpoint left off."""
        self.build(checkpoint)
        if checkpoint is None:
            self.config = resolved_precision(self.config, self.state.scheduler, self.device, self.bfloat16)
            set_apart(self.config.seed)
            return
        with Unfit("the run cannot continue from this checkpoint"):
            self.check_task(checkpoint["task"])
            restore(self.state, self.progress, checkpoint, self.config, self.steps_per_epoch(), self.device)
            self.session.warnings.put_before(checkpoint.get("warnings", []))

    def go_back(self, fault: NotFinite) -> None:
        """After a loss that was not finite: to the last checkpoint, if `--on-nan=rollback` asks for it.

        Raises:
            NotFinite: it does not.
        """
        if not self.nan_guard.can_go_back(fault):
            raise fault
        checkpoint = last_checkpoint(self.session.run)
        logger.warning("%s\ngoing back to the last checkpoint: %s", fault, progress_words(checkpoint))
        self.set_to(checkpoint)

    def build(self, checkpoint: dict[str, Any] | None = None) -> None:
        """Network, optimizer and scheduler, new; nothing is written.

        Raises:
            ScheduleError: every fault of the schedule, in one report.
        """
        config = self.config
        set_up(config.seed, config.threads)
        if config.channels_last:
            self.memory_format = torch.channels_last
        model = self._new_model(checkpoint)
        check_network(model, getattr(config, "arch", config.optform), self.probes())
        optimizer = self.build_optimizer(model)
        teachers = RunTeachers(config.optform, self.build_architecture, self.session.run.name if checkpoint else None)
        scheduler = CompressionScheduler(model, optimizer=optimizer, seed=config.seed)
        state = self.state = TrainState(model, optimizer, scheduler, teachers)  # what follows may look at it
        state.companions = self.build_companions()
        state.averaged = AveragedWeights(model, config.ema) if config.ema else None
        state.schedule_text = schedule_text(config, checkpoint)
        scheduler = state.scheduler = self.build_scheduler(checkpoint)
        call: Any = torch.compile(model) if config.compile else model
        self.call = self.replicas = Replicas(model, call, state.companions_parameters())
        given = config.nEpochs
        epochs = given if given is not None else scheduler.suggested_epochs or self.default_epochs
        self.progress = Progress(epochs, BestOfEachSize(scheduler))
        signals = self.session.interrupts
        self.nan_guard = NanGuard(state, config.on_nan, self.device, self.loss_by_hand, signals, self.left_out)
        refuse_combinations(Setup(config, state, self.device, self.training_loader, self.probes()))

    def _new_model(self, checkpoint: dict[str, Any] | None) -> nn.Module:
        """The network on its device; one whose schedule is reset is shaped as the old schedule left it."""
        config, model = self.config, self.build_model()
        if checkpoint is None:
            self.start_model(model)
            if config.start_from:
                start_from(model, config)
        elif config.reset_schedule:
            shape_as(model, checkpoint["scheduler"])
        declare_unused(model, config.unused or ())
        model = synchronized(model, config.sync_batchnorm and world_size() > 1)
        return model.to(self.device, memory_format=self.memory_format)  # type: ignore[call-overload]

    def build_scheduler(self, checkpoint: dict[str, Any] | None) -> CompressionScheduler:
        """The scheduler of `--compress`, of the resumed run's schedule, or one without policies."""
        config, parts = self.config, (self.model, self.optimizer)
        settings: dict[str, Any] = {
            "example_inputs": self.example_inputs(), "epochs": config.nEpochs, "seed": config.seed,
            "teachers": self.state.teachers, "optimizers": self.optimizers, "metrics": higher_is_better(config.optform),
        }  # fmt: skip
        if checkpoint is not None and not config.reset_schedule:  # its own, whatever became of the file
            own = checkpoint["schedule"]
            return dict_config(*parts, own, **settings) if own else self.state.scheduler
        if config.compress:
            return file_config(*parts, config.compress, **settings, strict=config.strict)
        return self.state.scheduler

    @property
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """All optimizers by the names that learning-rate policies use, the network's own first."""
        others = {name: companion.optimizer for name, companion in self.companions.items()}
        return {self.optimizer_name: self.optimizer, **others}

    def steps_per_epoch(self) -> int:
        """Optimizer updates in an epoch."""
        steps = math.ceil(len(self.training_loader) / self.config.accumulate)
        return min(steps, self.steps_limit or steps)

    def samples_per_epoch(self) -> int:
        """Training samples that the steps of an epoch see, in all processes."""
        data: Any = self.training_loader.dataset
        return min(len(data), self.steps_per_epoch() * samples_per_update(self.config))

    # After an epoch -----------------------------------------------------------------------------------------------

    def scheduler_metrics(self, losses: dict[str, float], metrics: dict[str, float]) -> dict[str, float]:
        """What `ReduceLROnPlateau` and others read: all numbers, and `min` / `max` as Distiller names them."""
        quality = metrics[self.quality]
        low, high = (-quality, quality) if self.higher_is_better else (quality, -quality)
        return {**losses, **metrics, "min": metrics.get("loss", low), "max": high}

    def note_network(self, epoch: int, model: nn.Module, activations: ActivationReport) -> None:
        """Sends what the options ask for of the network's inside, and example images, to TensorBoard."""
        if not is_first():
            return
        files = self.session.files
        files.log_activations(epoch, activations)
        files.log_images(epoch, self.example_images(model))
        if self.config.histograms:
            files.log_histograms(epoch, model)

    def note_epoch(self, epoch: int, numbers: dict[str, float]) -> None:
        """Adds an epoch to the history, the log and the files."""
        scheduler, progress = self.compression_scheduler, self.progress
        zeros = Sparsity.of(self.state.evaluated_model(), scheduler.scheduled_weights)
        quality = numbers[self.quality] if self.higher_is_better else -numbers[self.quality]
        by_weight = {f"sparsity/{name}": fraction for name, fraction in zeros.weights.items()}
        row = {"epoch": epoch, **numbers, "sparsity": zeros.scheduled, **by_weight}
        progress.add_epoch(EpochScore(epoch, scheduler.settled(epoch), zeros.scheduled, quality), row)
        self.session.files.log_epoch(progress.history)
        logger.info(
            "epoch %d/%d  loss %.5f  %s %.3f  lr %.2e  sparsity %.1f %%  %.0f images/s",
            epoch, progress.epochs - 1, numbers["loss"], self.quality, numbers[self.quality], numbers["lr"],
            100 * zeros.scheduled, numbers["images_per_second"],
        )  # fmt: skip

    def save(self) -> None:
        """Writes what a finished epoch leaves: `best` if it is better than every one before, the best of each size.

        `last` comes last: a run that is killed in between resumes from the one before, and writes the others again.
        """
        progress, run = self.progress, self.session.run
        assert progress.score is not None
        best = [run.best] * progress.take_best()
        of_its_size = progress.sizes.add(self.state.evaluated_model(), progress.score, self.example_inputs())
        self.save_all([*best, *[progress.sizes.path(run)] * of_its_size])

    def save_all(self, also: Sequence[Path] = ()) -> None:
        """Writes the run as it is now to the other paths given, and to `last`; the one place that writes checkpoints.

        Raises:
            NotFinite: weights are not finite; what was saved before is left.
        """
        state, progress, run, config = self.state, self.progress, self.session.run, self.config
        self.nan_guard.before_saving(progress.last_update(self.steps_per_epoch()))
        if config.check_ranks:
            check_ranks(state.state_dict(), progress.where())
        progress.count_seconds()
        content = gather(state, progress, run.name, config, self.task_facts(), self.session.warnings.entries)
        if not is_first():
            return
        state.teachers.save(state.scheduler.teachers, run)
        for path in also:
            save_checkpoint(path, content)
        save_last(run, content, config.keep)

    def finish(self) -> dict[str, Any]:
        """Measures the best network on the validation data, writes the summary and shows it.

        Of several processes the first does so; the others return nothing.
        """
        if not is_first():
            return {}
        close_run(self.session.run)
        self.session.warnings.epoch = None
        return summarize(self, self.progress, self.session.run, self.session.warnings.entries)

    def _so_far(self) -> str:
        """For the progress bar: asked for now and then only, as it waits for the device."""
        rate = self.optimizer.param_groups[0]["lr"]
        text = f"loss {self.means.mean('loss'):.4f} lr {rate:.2g}"
        if not self.progress.history:
            return text
        last = self.progress.history[-1]
        return f"{text} {self.quality} {last[self.quality]:.2f} sparsity {100 * last['sparsity']:.0f} %"
