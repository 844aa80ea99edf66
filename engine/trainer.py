"""The training loop that every application shares, with the scheduler's six hooks in sight.

`BaseTrainer.run`, `train` and the steps between epochs. An application's solver derives from it and gives
`build_model`, `compute_loss` and `validate`; see docs/design.md.
"""

import logging
import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from apputils.checkpoints.file import load_checkpoint, save_checkpoint
from apputils.checkpoints.rotation import progress, remove_leftovers, save_last
from apputils.runs.folders import Run, run_to_resume
from apputils.runs.lock import hold
from apputils.runs.logger import NoFiles, RunLogger
from apputils.runs.measured_words import measured_words
from apputils.runs.run_warnings import RunWarnings
from apputils.runs.summary import Cost, make_summary, summary_table, whereabouts
from apputils.runs.writable import check_places
from compress.analysis.activations.statistics import ActivationReport, ActivationStatistics
from compress.analysis.sensitivity.evaluation import evaluating
from compress.analysis.sparsity.totals import Sparsity
from compress.config import dict_config, file_config
from compress.distributed import is_first, world_size
from compress.errors import UserError
from compress.io.files import write_json
from compress.io.progress import Bar
from compress.scheduler import CompressionScheduler
from data.data_fingerprint import check_same_data
from data.measured import facts_of
from engine import state as run_state
from engine.best_epoch import EpochScore
from engine.commands.thin import story, thinned_content
from engine.distributed.data_parallel import Replicas, synchronized
from engine.distributed.elastic_restart import close_run, open_run
from engine.distributed.process_group import set_apart, told_by_first
from engine.distributed.rank_check import check_ranks
from engine.ema import AveragedWeights
from engine.environment import choose_device, random_state, restore_random_state, set_up
from engine.epoch.accumulation import mean_loss
from engine.epoch.mid_epoch import Middle, doubts
from engine.nan_guard import NanGuard, NotFinite
from engine.option_conflicts import refuse_combinations
from engine.resume import check_best_files, last_checkpoint, schedule_text, shape_as
from engine.saved.best_per_width import BestOfEachSize
from engine.saved.dense_baseline import beside_dense, dense_teachers
from engine.saved.load_model import new_network
from engine.saved.run_teachers import RunTeachers
from engine.signals import Interrupts

logger = logging.getLogger("run")


class Companion(NamedTuple):
    """A network that is trained beside the one that is wanted, such as a GAN's discriminator, with its optimizer."""

    network: nn.Module
    optimizer: torch.optim.Optimizer


class BaseTrainer:
    """Trains one network under a compression schedule.

    Args:
        config: the training options (`options.base_options.TrainConfig` or an application's extension).
        training_loader: minibatches; its sampler may have `set_epoch`.
        validation_loader: what `validate` measures on.

    Attributes:
        quality: the metric that chooses `best`, a key of what `validate` returns.
        higher_is_better: whether more of it is better.
        default_epochs: length of a run that has neither `--nEpochs` nor a schedule.
        memory_format: of the network's weights and of image batches; `--channels-last` sets it.
        gives_logits: whether the network's output is a set of logits, one a class.
        optimizer_name: what a learning-rate policy calls the network's optimizer (`optimizer: NAME`).
        companions: name -> what `build_companions` gave; their optimizers go by these names.
    """

    quality: ClassVar[str] = "quality"
    higher_is_better: ClassVar[bool] = True
    default_epochs: ClassVar[int] = 30
    memory_format: torch.memory_format = torch.contiguous_format
    optimizer_name: ClassVar[str] = "model"
    gives_logits: ClassVar[bool] = False

    model: nn.Module
    optimizer: torch.optim.Optimizer
    companions: dict[str, Companion]

    def __init__(self, config: Any, training_loader: DataLoader[Any], validation_loader: DataLoader[Any]) -> None:
        self.config = config
        self.training_loader = training_loader
        self.validation_loader = validation_loader
        self.device = choose_device(config.device)
        self.history: list[dict[str, float]] = []
        self.best: EpochScore | None = None
        self.first_epoch = 0
        self.seconds, self.since = 0.0, time.perf_counter()  # of work so far; when it was counted last
        self.folders: Run | None = None  # None while nothing is written, as in a smoke run
        self.middle: Middle | None = None  # where a run that was resumed inside an epoch stands
        self.interrupts = Interrupts()
        self.nan_guard = NanGuard(self)
        self.warnings = RunWarnings()
        self.steps_limit: int | None = None  # of an epoch, for a smoke run

    # What an application gives ------------------------------------------------------------------------------------

    def build_model(self) -> nn.Module:
        """The network, new, on any device."""
        raise NotImplementedError

    def start_model(self, model: nn.Module) -> None:
        """Weights that a new run starts from, in place; by default those that the network made itself."""

    def build_architecture(self, name: str, pretrained: bool = False) -> nn.Module:
        """A network of another architecture, as a teacher: new, or trained by whoever made it.

        Raises:
            UserError: there is none.
        """
        raise UserError(f"--optform={self.config.optform} has no architecture {name!r}: its network is always the same")

    def task_facts(self) -> dict[str, Any]:
        """What a checkpoint keeps of the task as plain data, such as the names of classes; here which files it uses."""
        origin = getattr(getattr(self.training_loader, "dataset", None), "origin", None)
        return {} if origin is None else {"data": origin.facts}

    def check_task(self, saved: dict[str, Any]) -> None:
        """Compares the task with what the resumed run's checkpoint kept of it; raises UserError if they differ."""
        check_same_data(saved.get("data"), self.task_facts().get("data"))

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer; Adam at `--lr` unless an application knows better."""
        return torch.optim.Adam(model.parameters(), lr=self.config.lr)

    def build_companions(self) -> dict[str, Companion]:
        """Networks trained beside `self.model`, on its device, by name; saved and resumed like it. None by default.

        `compute_loss` updates them; the loop's step stays one update of `self.model`, and the hooks fire once for it.
        """
        return {}

    def compute_loss(self, batch: Any) -> Tensor:
        """The loss of one minibatch, a scalar; forward through `self.forward`, not through `self.model`."""
        raise NotImplementedError

    def measured_loss(self, group: Sequence[Any]) -> float:
        """The mean loss of some minibatches in evaluation mode, for pruners by measured loss; changes nothing."""
        means, self.means = self.means, Middle(1).means
        try:
            with torch.random.fork_rng(), evaluating(self.model):
                return sum(float(self.loss_to_measure(batch)) for batch in group) / len(group)
        finally:
            self.means = means

    def loss_to_measure(self, batch: Any) -> Tensor:
        """The loss of one minibatch where nothing may be updated along with it; by default that of training."""
        return self.loss_of(batch)

    def note_loss(self, name: str, value: Tensor) -> None:
        """Logs the epoch's mean of a scalar that `compute_loss` knows, such as a part of the loss."""
        self.means.note(name, value)

    def validate(self, model: nn.Module, epoch: int) -> dict[str, float]:
        """Metrics of a network on the validation data, by name."""
        raise NotImplementedError

    def measured_on(self) -> dict[str, Any]:
        """What `validate` and `measure` measure on, as `data.measured` has it."""
        return facts_of(self.validation_loader)

    def measure(self, model: nn.Module) -> dict[str, dict[str, float]]:
        """The final quality: metric -> {baseline's name: value, "model": value}."""
        raise NotImplementedError

    def example_pictures(self, model: nn.Module) -> dict[str, Tensor]:
        """Pictures for TensorBoard after each epoch: name -> RGB (3, H, W) in [0, 1]; none by default."""
        return {}

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Inputs that the network can be traced with, on its device; MACs are counted for their size."""
        raise NotImplementedError

    # The loop -----------------------------------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        """Trains from the first unfinished epoch to the last; returns the summary.

        Raises:
            UserError: something the user can mend; what was saved is kept.
            Interrupted: SIGINT or SIGTERM came, and the run is saved.
        """
        with ExitStack() as self.held:  # the run's lock and files
            self.held.enter_context(self.warnings)
            with self.interrupts:
                self.prepare()
                while self.first_epoch < self.epochs:
                    try:
                        self.run_epoch(self.first_epoch)
                    except NotFinite as fault:
                        self.go_back(fault)
            return self.finish()

    def run_epoch(self, epoch: int) -> None:
        """Trains, validates and saves one epoch, from where it was left."""
        self.warnings.epoch = epoch
        started, done = time.perf_counter(), self.middle.step if self.middle else 0
        losses = self.train(epoch, self.compression_scheduler)
        rate = self.optimizer.param_groups[0]["lr"]  # policies move it at an epoch's begin and end only
        share = 1 - done / self.steps_per_epoch()
        speed = share * len(self.training_loader.dataset) / (time.perf_counter() - started)
        model = self.evaluated_model()
        with ActivationStatistics(model, enabled=self.config.activation_stats) as activations:
            metrics = told_by_first(self.validate(model, epoch))  # each process measures everything
        self.note_network(epoch, model, activations.report())
        self.compression_scheduler.on_epoch_end(epoch, self.optimizer, self.scheduler_metrics(losses, metrics))
        self.note_epoch(epoch, {**losses, **metrics, "lr": rate, "images_per_second": speed})
        self.first_epoch = epoch + 1
        self.save()
        self.interrupts.end_if_asked(self.folders.name)

    def train(self, epoch: int, compression_scheduler: CompressionScheduler) -> dict[str, float]:
        """One epoch, from where it was left; returns the mean of the loss and of each of its components."""
        steps, optimizer, resumed, guard = self.steps_per_epoch(), self.optimizer, self.middle, self.nan_guard
        if hasattr(self.training_loader.sampler, "set_epoch"):
            self.training_loader.sampler.set_epoch(epoch)
        self.model.train()
        self.replicas.begin_epoch()
        if resumed is None:
            compression_scheduler.on_epoch_begin(epoch, optimizer)
        middle = self.middle = resumed or Middle(steps)
        means = self.means = middle.means
        groups, first = middle.groups(self.training_loader, self.config.accumulate), middle.step
        bar = Bar(groups, steps - first, f"epoch {epoch}/{self.epochs - 1}", "img", self.samples_per_update)
        for step, group in enumerate(bar, first):
            compression_scheduler.measure_loss = partial(self.measured_loss, group)
            compression_scheduler.on_minibatch_begin(epoch, step, steps, optimizer)
            guard.before_step((epoch, step))
            optimizer.zero_grad(set_to_none=True)
            own_loss = mean_loss(group, self.loss_of, self.replicas.locally)
            loss, terms = compression_scheduler.before_backward_pass(
                epoch, step, steps, own_loss, optimizer, return_loss_components=True
            )
            if guard.passes((epoch, step), loss, group):
                loss.backward()
                self.replicas.settle()
                means.add(loss, own_loss, terms)
            compression_scheduler.before_parameter_optimization(epoch, step, steps, optimizer)
            optimizer.step()
            compression_scheduler.on_minibatch_end(epoch, step, steps, optimizer)
            if self.averaged is not None:
                self.averaged.update(self.model, compression_scheduler)
            self.note_step(epoch, step + 1)
            bar.note(lambda: f"loss {means.mean('loss'):.4f} lr {optimizer.param_groups[0]['lr']:.2g}{self._so_far()}")
        self.replicas.end_epoch()
        self.middle = None
        return means.values()

    def loss_of(self, batch: Any) -> Tensor:
        """`compute_loss`, under `--amp` in bfloat16 where that is safe."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.amp):
            return self.compute_loss(batch)

    def note_step(self, epoch: int, done: int) -> None:
        """After an update: saves the run inside the epoch, if that is due, and ends it if a signal came."""
        self.middle.step, every = done, self.config.checkpoint_every
        due = every and (epoch * self.middle.steps + done) % every == 0
        if self.folders is not None and (self.interrupts.agreed or due):
            self.save_all()
            self.interrupts.end_if_asked(self.folders.name)

    # Around the loop ----------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Builds everything that the loop needs, restores it when a run is resumed, and opens the run's files."""
        config, checkpoint = self.config, None
        if is_first():
            check_places(config.resume or config.run)
        if config.resume:
            self.take(run_to_resume(config.resume))
            checkpoint = last_checkpoint(self.folders)
            check_best_files(self.folders)
        if checkpoint is not None and config.thin:
            checkpoint = self.thinned(checkpoint)
        self.set_to(checkpoint)
        check_ranks(run_state.trained(self), "before the first step")
        folders = open_run(config.resume, config.run, self.stem())
        if self.folders is None:
            self.take(folders)
        self.files = RunLogger(self.folders, self.first_epoch) if is_first() else NoFiles()
        self.held.callback(self.files.close)
        self.files.write_settings(run_state.plain_options(config), self.compression_scheduler.resolved)
        self.announce()
        if checkpoint is None or config.reset_optimizer or config.reset_schedule or config.thin:
            self.save_all()  # from here on the run can be resumed, whatever happens to it
            self.config = replace(config, reset_optimizer=False, reset_schedule=False, thin=False)  # that is done

    def thinned(self, checkpoint: dict[str, Any]) -> dict[str, Any]:
        """A checkpoint of this run without what is zero in it."""
        loader, state = self.training_loader, random_state()
        try:  # the first samples as they are, without a step of the run's own loader
            batch = next(iter(DataLoader(loader.dataset, min(4, len(loader.dataset)), collate_fn=loader.collate_fn)))
        finally:
            restore_random_state(state)
        inputs = batch[0] if isinstance(batch[0], Tensor) else self.example_inputs()
        found, result = thinned_content(checkpoint, new_network(checkpoint), inputs, self.build_optimizer)
        logger.info("%s", story(result, checkpoint, found))
        return found

    def take(self, folders: Run) -> None:
        """Makes a run this process's own.

        Raises:
            UserError: another process has it.
        """
        if is_first():
            self.held.enter_context(hold(folders))
            remove_leftovers(folders)
        self.folders = folders

    def set_to(self, checkpoint: dict[str, Any] | None) -> None:
        """Builds everything new and puts it where a checkpoint left off."""
        self.build(checkpoint)
        if checkpoint is not None:
            run_state.restore(self, checkpoint)
        else:
            set_apart(self.config.seed)
        self.since = time.perf_counter()

    def go_back(self, fault: NotFinite) -> None:
        """After a loss that was not finite: to the last checkpoint, if `--on-nan=rollback` asks for it.

        Raises:
            NotFinite: it does not.
        """
        if not self.nan_guard.can_go_back(fault):
            raise fault
        checkpoint = last_checkpoint(self.folders)
        logger.warning("%s\ngoing back to the last checkpoint: %s", fault, progress(checkpoint))
        self.set_to(checkpoint)

    def build(self, checkpoint: dict[str, Any] | None = None) -> None:
        """Network, optimizer and scheduler, new; nothing is written.

        Raises:
            ScheduleError: every fault of the schedule, in one report.
        """
        config = self.config
        set_up(config.seed, config.threads)
        model = self.build_model()
        if checkpoint is None:
            self.start_model(model)
        elif config.reset_schedule:
            shape_as(model, checkpoint["scheduler"])
        if config.channels_last:
            self.memory_format = torch.channels_last
        self.model = synchronized(model, config.sync_batchnorm and world_size() > 1).to(
            self.device, memory_format=self.memory_format
        )
        self.optimizer = self.build_optimizer(self.model)
        self.companions = self.build_companions()
        self.averaged = AveragedWeights(self.model, config.ema) if config.ema else None
        self.teachers = RunTeachers(config.optform, self.build_architecture, self.folders.name if checkpoint else None)
        self.schedule_text = schedule_text(config, checkpoint)
        self.compression_scheduler = self.build_scheduler(checkpoint)
        others = [each for companion in self.companions.values() for each in companion.network.parameters()]
        self.replicas = Replicas(self.model, torch.compile(self.model) if config.compile else self.model, others)
        self.forward = self.replicas
        self.sizes = BestOfEachSize(self.compression_scheduler)
        self.epochs = config.nEpochs or self.compression_scheduler.suggested_epochs or self.default_epochs
        refuse_combinations(self)

    def steps_per_epoch(self) -> int:
        """Optimizer updates in an epoch."""
        steps = math.ceil(len(self.training_loader) / self.config.accumulate)
        return min(steps, self.steps_limit or steps)

    @property
    def samples_per_update(self) -> int:
        """Over all processes: `--batchSize` is of one process and one forward pass."""
        return self.config.batchSize * self.config.accumulate * world_size()

    def stem(self) -> str:
        """What a new run's name begins with: the application and the schedule."""
        return f"{self.config.optform}-{Path(self.config.compress).stem if self.config.compress else 'plain'}"

    def build_scheduler(self, checkpoint: dict[str, Any] | None) -> CompressionScheduler:
        """The scheduler of `--compress`, of the resumed run's schedule, or an empty one."""
        config, parts = self.config, (self.model, self.optimizer)
        settings = {"example_inputs": self.example_inputs(), "epochs": config.nEpochs, "seed": config.seed}
        settings |= {"teachers": self.teachers, "optimizers": self.optimizers}
        own = checkpoint is not None and not config.reset_schedule
        if own and checkpoint["schedule"]:
            return dict_config(*parts, checkpoint["schedule"], **settings)
        if not own and config.compress:
            return file_config(*parts, config.compress, **settings, strict=config.strict)
        return CompressionScheduler(self.model, optimizer=self.optimizer, seed=config.seed)

    @property
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """All optimizers by the names that learning-rate policies use, the network's own first."""
        others = {name: companion.optimizer for name, companion in self.companions.items()}
        return {self.optimizer_name: self.optimizer, **others}

    def announce(self) -> None:
        """Says what is about to happen, and warns of a run that ends inside a policy."""
        count = sum(parameter.numel() for parameter in self.model.parameters())
        if self.first_epoch >= self.epochs:
            logger.info(
                "run %s is finished: its %d epochs are trained. To train on: python train.py --resume=%s --nEpochs=%d, "
                "or more; now it is only measured again",
                self.folders.name, self.first_epoch, self.folders.name, self.first_epoch + 1,
            )  # fmt: skip
            return
        logger.info(
            "run %s: epochs %d..%d (counted from 0), %d steps each, %s, %s parameters%s",
            self.folders.name, self.first_epoch, self.epochs - 1, self.steps_per_epoch(), self.device, f"{count:,}",
            self._factors(),
        )  # fmt: skip
        logger.info("validation on %s", measured_words(self.measured_on()))
        if self.config.checkpoint_every or self.middle:
            for doubt in doubts(self.training_loader, self.device):
                logger.warning("saving inside an epoch: %s", doubt)
        for warning in self.compression_scheduler.cut_short(self.epochs):
            logger.warning("%s", warning)

    def evaluated_model(self) -> nn.Module:
        """The network that is measured and kept as best: the averaged one with `--ema`, else the trained one."""
        if self.averaged is None:
            return self.model
        return self.averaged.masked(self.model, self.compression_scheduler.masks)

    def scheduler_metrics(self, losses: dict[str, float], metrics: dict[str, float]) -> dict[str, float]:
        """What `ReduceLROnPlateau` and others read: all numbers, and `min` / `max` as Distiller names them."""
        quality = metrics[self.quality]
        low, high = (-quality, quality) if self.higher_is_better else (quality, -quality)
        return {**losses, **metrics, "min": metrics.get("loss", low), "max": high}

    def note_network(self, epoch: int, model: nn.Module, activations: ActivationReport) -> None:
        """Sends what the options ask for of the network's inside, and example pictures, to TensorBoard."""
        if not is_first():
            return
        self.files.log_activations(epoch, activations)
        self.files.log_pictures(epoch, self.example_pictures(model))
        if self.config.histograms:
            self.files.log_histograms(epoch, model)

    def note_epoch(self, epoch: int, numbers: dict[str, float]) -> None:
        """Adds an epoch to the history, the log and the files, and remembers whether it is the best."""
        scheduler = self.compression_scheduler
        zeros = Sparsity.of(self.evaluated_model(), scheduler.scheduled_weights)
        quality = numbers[self.quality] if self.higher_is_better else -numbers[self.quality]
        self.score = EpochScore(epoch, scheduler.settled(epoch), zeros.scheduled, quality)
        by_weight = {f"sparsity/{name}": fraction for name, fraction in zeros.weights.items()}
        self.history.append({"epoch": epoch, **numbers, "sparsity": zeros.scheduled, **by_weight})
        self.files.log_epoch(self.history)
        logger.info(
            "epoch %d/%d  loss %.5f  %s %.3f  lr %.2e  sparsity %.1f %%  %.0f images/s",
            epoch, self.epochs - 1, numbers["loss"], self.quality, numbers[self.quality], numbers["lr"],
            100 * zeros.scheduled, numbers["images_per_second"],
        )  # fmt: skip

    def save(self) -> None:
        """Writes what a finished epoch leaves: `best` if it is better than every one before, the best of each size.

        `last` comes last: a run that is killed in between goes on from the one before, and writes the others again.
        """
        is_best = self.best is None or self.score.beats(self.best)
        if is_best:
            self.best = self.score
        of_its_size = self.sizes.add(self.evaluated_model(), self.score, self.example_inputs())
        self.save_all([self.folders.best] * is_best + [self.sizes.path(self.folders)] * of_its_size)

    def save_all(self, also: Sequence[Path] = ()) -> None:
        """Writes the run as it is now to the other paths given, and to `last`; the one place that writes checkpoints.

        Raises:
            NotFinite: weights are not finite; what was saved before is left.
        """
        epoch, step = self.first_epoch - 1, self.steps_per_epoch() - 1
        self.nan_guard.before_saving((epoch + 1, self.middle.step - 1) if self.middle else (epoch, step))
        if self.config.check_ranks:
            check_ranks(run_state.trained(self), f"in epoch {epoch + 1}" if self.middle else f"after epoch {epoch}")
        now = time.perf_counter()
        self.seconds, self.since = self.seconds + now - self.since, now
        content = run_state.gather(self)
        if not is_first():
            return
        self.teachers.save(self.compression_scheduler.teachers, self.folders)
        for path in also:
            save_checkpoint(path, content)
        save_last(self.folders, content, self.config.keep)

    def finish(self) -> dict[str, Any]:
        """Measures the best network on the validation data, writes the summary and shows it.

        Of several processes the first does so; the others return nothing.
        """
        if not is_first():
            return {}
        close_run(self.folders)
        self.warnings.epoch = None
        self.model = run_state.rebuild(self.build_model(), load_checkpoint(self.folders.best)).to(self.device)
        teachers = dense_teachers(self.compression_scheduler.teachers, self.teachers)
        dense = {name: self.measure(network) for name, network in teachers.items()}
        summary = make_summary(
            run=self.folders.name,
            optform=self.config.optform,
            schedule=self.config.compress,
            epochs=self.epochs,
            seconds=self.seconds,
            quality=beside_dense(self.measure(self.model), dense),
            sparsity=Sparsity.of(self.model, self.compression_scheduler.scheduled_weights),
            cost=Cost.of(self.model, self.example_inputs()),
            checkpoint=self.folders.best,
            measured_on=self.measured_on(),
            dense=next(iter(dense), None),
            warnings=self.warnings.entries,
        )
        write_json(self.folders.results / "summary.json", summary)
        logger.info("%s", summary_table(summary))
        self.sizes.tell(self.folders, self.quality)
        logger.info("%s", whereabouts(self.folders))
        return summary

    def _factors(self) -> str:
        """What an update sees, where that is more than a minibatch."""
        processes, parts = world_size(), self.config.accumulate
        if self.samples_per_update == self.config.batchSize:
            return ""
        named = [f"--batchSize={self.config.batchSize}"] + [f"{processes} processes"] * (processes > 1)
        named += [f"{parts} accumulated"] * (parts > 1)
        return f"; {self.samples_per_update} samples an update = {' x '.join(named)}"

    def _so_far(self) -> str:
        if not self.history:
            return ""
        last = self.history[-1]
        return f" {self.quality} {last[self.quality]:.2f} sparsity {100 * last['sparsity']:.0f} %"
