"""What an application gives to training and to evaluation; the loops around it are in trainer.py and tester.py.

`TrainedApplication` and `TestedApplication`: networks, losses, metrics, images. `BaseTrainer` and `BaseTester` derive
from them, and an application's solver and tester from those; see docs/design.md.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from torch.utils.data import DataLoader

from apputils.checkpoints.schema import built
from apputils.runs.folders import Run
from compress.analysis.activations.features import Samples
from compress.analysis.sensitivity.evaluation import Evaluation, evaluating
from compress.errors import UserError
from compress.export.exported_model import ExportedModel, is_exported
from compress.graph.calls import declare_unused
from compress.parameters import widened
from compress.scheduler import CompressionScheduler
from data.data_fingerprint import check_same_data, origin_facts, warn_of_other_data
from data.measured import facts_of
from engine.environment import choose_device
from engine.epoch.running_means import Means
from engine.saved.find_checkpoint import load_subject
from engine.saved.load_model import unused_parts
from engine.saved.rebuild import rebuild
from engine.state import Companion, TrainState
from options.applications import Application, find_application
from options.base_options import TestConfig, TrainConfig


class TrainedApplication:
    """The part of a trainer that an application gives.

    Args:
        config: the training options.
        training_loader: minibatches; its sampler may have `set_epoch`. None where nothing is trained, as in a plan.
        validation_loader: what `validate` measures on; None as above.

    Attributes:
        quality: the metric that chooses `best`, a key of what `validate` returns.
        higher_is_better: whether more of it is better.
        default_epochs: length of a run that has neither `--nEpochs` nor a schedule.
        memory_format: of the network's weights and of image batches; `--channels-last` sets it.
        gives_logits: whether the network's output is a set of logits, one a class.
        bfloat16: architectures that were trained in bfloat16 with several seeds and lost nothing; `--precision=auto`
            takes it for them.
        optimizer_name: what a learning-rate policy calls the network's optimizer (`optimizer: NAME`).
        device: that is trained on.
        call: runs the network in `forward`: itself, compiled, or in several processes.
        means: of the losses of the epoch under way.
        state: network, optimizer, companions, scheduler; built by `BaseTrainer.build`.
    """

    quality: ClassVar[str] = "quality"
    higher_is_better: ClassVar[bool] = True
    default_epochs: ClassVar[int] = 30
    memory_format: torch.memory_format = torch.contiguous_format
    optimizer_name: ClassVar[str] = "model"
    gives_logits: ClassVar[bool] = False
    bfloat16: ClassVar[frozenset[str]] = frozenset()

    config: TrainConfig
    state: TrainState
    call: Callable[..., Any]

    def __init__(
        self, config: TrainConfig, training_loader: DataLoader[Any], validation_loader: DataLoader[Any]
    ) -> None:
        self.config = config
        self.training_loader = training_loader
        self.validation_loader = validation_loader
        self.device = choose_device(config.device)
        self.means = Means()

    @property
    def model(self) -> nn.Module:
        """The network that is trained."""
        return self.state.model

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """Its optimizer."""
        return self.state.optimizer

    @property
    def companions(self) -> dict[str, Companion]:
        """What `build_companions` gave; their optimizers go by these names."""
        return self.state.companions

    @property
    def compression_scheduler(self) -> CompressionScheduler:
        """The scheduler of the run's schedule."""
        return self.state.scheduler

    # Networks and optimizers --------------------------------------------------------------------------------------

    def build_model(self) -> nn.Module:
        """The network, new, on any device."""
        raise NotImplementedError

    def start_model(self, model: nn.Module) -> None:
        """Weights that a new run starts from, in place; by default those that the network made itself."""

    def build_architecture(self, name: str, pretrained: bool = False) -> nn.Module:
        """A network of another architecture, as a teacher: new, or with pretrained weights.

        Raises:
            UserError: there is none.
        """
        raise UserError(f"--optform={self.config.optform} has no architecture {name!r}: its network is always the same")

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer; Adam at `--lr` unless an application knows better."""
        return torch.optim.Adam(model.parameters(), lr=self.config.lr)

    def build_companions(self) -> dict[str, Companion]:
        """Networks trained beside `self.model`, on its device, by name; saved and resumed like it. None by default.

        `compute_loss` updates them; the loop's step stays one update of `self.model`, and the hooks fire once for it.
        """
        return {}

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Inputs that the network can be traced with, on its device; MACs are counted for their size."""
        raise NotImplementedError

    def probes(self) -> Iterable[tuple[tuple[Tensor, ...], tuple[int, ...]]]:
        """Small inputs, and the shape of output that the task needs for each; a new network is tried with them.

        None by default: nothing is tried.
        """
        return []

    # The loss -----------------------------------------------------------------------------------------------------

    def compute_loss(self, batch: Any) -> Tensor:
        """The loss of one minibatch, a scalar; forward through `self.forward`, not through `self.model`."""
        raise NotImplementedError

    def loss_to_measure(self, batch: Any) -> Tensor:
        """The loss of one minibatch where nothing may be updated along with it; by default that of training."""
        return self.compute_loss(batch)

    def forward(self, *inputs: Any) -> Any:
        """The network's output, in float32: `--precision=bfloat16` is about what is inside, not about losses."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.amp):
            output = self.call(*inputs)
        return tree_map_only(Tensor, widened, output) if self.config.amp else output

    def note_loss(self, name: str, value: Tensor) -> None:
        """Logs the epoch's mean of a scalar that `compute_loss` knows, such as a part of the loss."""
        self.means.note(name, value)

    def measured_loss(self, group: Sequence[Any]) -> float:
        """The mean loss of some minibatches in evaluation mode, for pruners by measured loss; changes nothing."""
        with self._unnoted(), torch.random.fork_rng(), evaluating(self.model):
            return sum(float(self.loss_to_measure(batch)) for batch in group) / len(group)

    def loss_by_hand(self, batch: Any) -> Tensor:
        """The loss of a minibatch once more, by the network itself: not compiled, by this process alone, not noted."""
        call, self.call = self.call, self.model
        try:
            with self._unnoted():
                return self.compute_loss(batch)
        finally:
            self.call = call

    @contextmanager
    def _unnoted(self) -> Iterator[None]:
        means, self.means = self.means, Means()
        try:
            yield
        finally:
            self.means = means

    # The data and the quality -------------------------------------------------------------------------------------

    def task_facts(self) -> dict[str, Any]:
        """What a checkpoint keeps of the task as plain data, such as the names of classes; here which files it uses."""
        data = origin_facts(self.training_loader)
        return {} if data is None else {"data": data}

    def check_task(self, saved: dict[str, Any]) -> None:
        """Compares the task with what the resumed run's checkpoint kept of it; raises UserError if they differ."""
        check_same_data(saved.get("data"), self.task_facts().get("data"))

    def validate(self, model: nn.Module, epoch: int) -> dict[str, float]:
        """Metrics of a network on the validation data, by name."""
        raise NotImplementedError

    def measure(self, model: nn.Module) -> dict[str, dict[str, float]]:
        """The final quality: metric -> {baseline's name: value, "model": value}."""
        raise NotImplementedError

    def measured_on(self) -> dict[str, Any]:
        """What `validate` and `measure` measure on, as `data.measured` has it."""
        return facts_of(self.validation_loader)

    def example_images(self, model: nn.Module) -> dict[str, Tensor]:
        """Images for TensorBoard after each epoch: name -> RGB (3, H, W) in [0, 1]; none by default."""
        return {}


class TestedApplication:
    """The part of a tester that an application gives: one checkpoint, and how it is measured.

    Args:
        config: the test options; `config.model` is the path of a checkpoint or of an exported file.
        testing_loader: what `test` measures on.
        checkpoint: the content of that file, if it has been read already; None reads it.

    Attributes:
        higher_is_better: for each metric whether more of it is better.
        device: that is measured on.
        folders: of the run.
    """

    __test__ = False  # pytest: not a test class
    higher_is_better: ClassVar[Mapping[str, bool]] = {}

    config: TestConfig

    def __init__(
        self, config: TestConfig, testing_loader: DataLoader[Any], checkpoint: dict[str, Any] | None = None
    ) -> None:
        self.config = config
        self.testing_loader = testing_loader
        self.device = choose_device(config.device)
        self.checkpoint = load_subject(self.file) if checkpoint is None else checkpoint
        self.folders = Run(self.checkpoint["run"])

    @cached_property
    def application(self) -> Application:
        """The entry of the table that the run was trained by."""
        return find_application(self.checkpoint["optform"])

    @property
    def file(self) -> Path:
        """The evaluated file."""
        assert self.config.model is not None, "find_subject fills it in"
        return Path(self.config.model)

    @property
    def results(self) -> Path:
        """Where everything is written: the run's folder, or for another checkpoint than its best one a folder there."""
        path = self.file
        of_the_run = is_exported(path) or path.resolve() == self.folders.best.resolve()
        return self.folders.results if of_the_run else self.folders.results / path.stem

    def build_model(self) -> nn.Module:
        """The checkpoint's network, rebuilt from data, with the weights that count for quality; or the exported file.

        Raises:
            UserError: the weights do not fit, or the file cannot be run.
        """
        if is_exported(self.file):
            return ExportedModel(self.file, self.config.threads)
        model = rebuild(built(self.new_network, self.checkpoint), self.checkpoint)
        return model.to(self.device).eval()

    def new_network(self, arguments: dict[str, Any]) -> nn.Module:
        """The network of these constructor arguments: by default the application's."""
        network: nn.Module = self.application.load("network")(**arguments)
        declare_unused(network, (*unused_parts(self.checkpoint), *(self.config.unused or ())))
        return network

    def test(self, model: nn.Module) -> dict[str, float]:
        """Metrics of a network on the test data, by name; writes nothing."""
        raise NotImplementedError

    def cropped(self, shape: Sequence[int]) -> "TestedApplication | None":
        """The same evaluation on the middle of the samples that a network's input of this shape can be cut from.

        A file that takes inputs of one size is evaluated so. None: no sample is large enough, or samples are not cut.
        """
        return None

    def image_scores(self, model: nn.Module) -> dict[str, list[float]]:
        """Metric -> the score of each test image, in the data's order; `test` gives their means. {}: not known."""
        return {}

    def baseline(self) -> tuple[str, dict[str, float]]:
        """The trivial method's name and its metrics on the test data."""
        raise NotImplementedError

    def measured_on(self) -> dict[str, Any]:
        """What quality is measured on, as plain data; networks are compared only where it is equal."""
        return {}

    def data_facts(self) -> dict[str, Any]:
        """The evaluated data, their part and the number of images, as `data.measured` has them."""
        return facts_of(self.testing_loader)

    def evaluation(self) -> Evaluation | None:
        """The evaluation taken apart, which the sensitivity analysis runs faster than `test`; None: there is none."""
        return None

    def details(self, model: nn.Module) -> dict[str, Any]:
        """More that the summary keeps, under its key `details`, as plain data."""
        return {}

    def write_images(self, model: nn.Module, folder: Path) -> int:
        """Writes what can be looked at; returns the number of images."""
        return 0

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Inputs that the network can be traced with; MACs are counted for their size."""
        raise NotImplementedError

    def input_limits(self) -> tuple[Tensor, Tensor] | None:
        """The least and the largest value that an input can have, of shapes that broadcast with it; None: not known."""
        return None

    def samples(self) -> Samples:
        """The network's inputs and their labels, None where there are none, in minibatches; by default as loaded."""
        return self.testing_loader

    def training_data(self) -> tuple[Iterable[Any], Any]:
        """Minibatches that the run was trained with, the network's input first in each, and the validation loader."""
        own = {"workers": 0, "download": False}  # none for a few minibatches; what was downloaded is there
        saved = SimpleNamespace(**{**self.checkpoint["options"], **own})
        loaders: tuple[Iterable[Any], Any] = self.application.load("training_loaders")(saved)
        warn_of_other_data(self.checkpoint["task"].get("data"), origin_facts(loaders[0]))
        return loaders
