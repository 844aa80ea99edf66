"""Every architecture that restores images: an epoch, a pruner, thinning to fewer MACs, 8 bits, export, resuming.

Over all applications whose cases name small networks.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from apputils.checkpoints.file import load_checkpoint
from compress.errors import ScheduleError
from compress.thinning.trials.trial import prunable_graph
from engine.resume import resumed
from engine.tester import BaseTester
from engine.trainer import BaseTrainer
from models.restoration.solver import RestorationTrainer
from models.restoration.tester import RestorationTester
from options.applications import APPLICATIONS
from tests.applications import CASES
from tests.tiny_images import tiny_images

CELLS = [(name, arch) for name, cases in CASES.items() for arch in cases.small]
EXAMPLE = (torch.zeros(1, 3, 32, 32),)
SHARE = 0.8  # of the MACs, that is left
WIDE = "ecbsr"  # its blocks are quantized once they are fused

AGP = """\
version: 1
pruners:
  agp: {class: AutomatedGradualPruner, initial_sparsity: 0.1, final_sparsity: 0.5, weights: NAMES}
policies:
  - pruner: {instance_name: agp}
    starting_epoch: 0
    ending_epoch: 2
    frequency: 1
"""
HALF = """\
version: 1
pruners:
  half: {class: GlobalRankedGroupPruner, weights: NAMES, target: macs, to: SHARE}
extensions:
  thinner: {class: FilterRemover}
policies:
  - pruner: {instance_name: half}
    epochs: [0]
  - extension: {instance_name: thinner}
    epochs: [0]
fine_tuning_epochs: 1
"""
INT8 = """\
version: 1
quantizers:
  qat: {class: QuantAwareTrainRangeLinearQuantizer, bits_activations: 8, bits_weights: 8, per_channel_wts: true}
policies:
  - quantizer: {instance_name: qat}
    starting_epoch: 0
    ending_epoch: 2
    frequency: 1
"""
FUSED_INT8 = INT8.replace("starting_epoch: 0", "starting_epoch: 1").replace(
    "policies:\n",
    "extensions: {fuser: {class: Reparameterize}}\npolicies:\n  - extension: {instance_name: fuser}\n    epochs: [0]\n",
)


class Runs:
    """Runs of one small network, in the present folder."""

    def __init__(self, name: str, arch: str) -> None:
        self.application, self.arch = APPLICATIONS[name], arch
        settings = json.dumps(CASES[name].small[arch])
        self.given = [*CASES[name].data, "--threads=1", "--lr=1e-3", f"--arch={arch}", f"--arch-args={settings}"]

    def trainer(self, *arguments: str) -> BaseTrainer:
        """A trainer; of a new run unless `--resume` is given."""
        new = not any(each.startswith("--resume") for each in arguments)
        given = [f"--optform={self.application.name}", *(self.given if new else []), *arguments]
        config = resumed(self.application.load("train_options")().parse(given))
        trainer: BaseTrainer = self.application.load("trainer")(
            config, *self.application.load("training_loaders")(config)
        )
        return trainer

    def network(self) -> nn.Module:
        """It, new."""
        trainer = self.trainer()
        trainer.build()
        return trainer.model

    def run(self, schedule: str) -> dict[str, Any]:
        """Two epochs under a schedule, whole, and resumed after the first: both end with the same bits."""
        Path("cell.yaml").write_text(schedule)
        summary = self.trainer("--compress=cell.yaml", "--nEpochs=2", "--run=whole").run()
        self.trainer("--compress=cell.yaml", "--nEpochs=1", "--run=cut").run()
        self.trainer("--resume=cut", "--nEpochs=2").run()
        whole, cut = (load_checkpoint(Path(f"checkpoints/{run}/last.pt"))["model"] for run in ("whole", "cut"))
        assert list(whole) == list(cut)
        assert all(torch.equal(value, cut[name]) for name, value in whole.items())
        return summary

    def check_export(self, file: str) -> None:
        """The file's quality is the network's; the exporter has compared outputs already."""
        path = Path("checkpoints/whole/best.pt")
        given = self.application.load("test_options")().parse([f"--model={path}", "--sense=none", "--no-report"])
        checkpoint = load_checkpoint(path)
        loader = self.application.load("testing_loader")(given, checkpoint)
        tester: BaseTester = self.application.load("tester")(given, loader, checkpoint)
        summary = tester.run(given)
        files = json.loads((tester.results / "export.json").read_text())["files"]
        assert file in files, sorted(files)
        for metric, values in summary["quality"].items():
            own = files[file]["quality"][metric]
            assert abs(own - values["model"]) < 0.05, (metric, own, values)


@pytest.fixture(params=CELLS, ids="-".join)
def runs(request: pytest.FixtureRequest, here: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """Runs of each small network, on five tiny images."""
    tiny_images(here, 48, 56, smooth=8)
    for each in (RestorationTrainer, RestorationTester):
        monkeypatch.setattr(each, "example_inputs", lambda self: EXAMPLE)
    return Runs(*request.param)


@pytest.mark.parametrize("name", [name for name, cases in CASES.items() if cases.small])
def test_no_architecture_is_missed(name: str) -> None:
    assert set(CASES[name].small) == set(APPLICATIONS[name].load("architectures").architectures)


@pytest.mark.parametrize(("name", "arch"), CELLS)
def test_without_options_it_is_the_network_that_the_list_has(name: str, arch: str) -> None:
    application = APPLICATIONS[name]
    given = application.load("train_options")().parse([f"--optform={name}", f"--arch={arch}"])
    assert application.load("trainer")(given, None, None).settings() == {}


@pytest.mark.parametrize(
    ("name", "given", "settings"),
    [
        ("SR", ["--arch=plainsr", "--depth=0"], {"depth": 0}),
        ("Deblur", ["--blocks=0", "--dropout=0"], {"blocks": 0, "dropout": 0.0}),
        ("Deblur", ["--arch=mine.py:Net", "--ngf=4"], {"ngf": 4}),
        ("Deblur", ["--arch=unet", "--preset=paper"], {"ngf": 64, "halvings": 2}),
    ],
)
def test_settings_are_the_options_that_were_given(name: str, given: list[str], settings: dict[str, Any]) -> None:
    application = APPLICATIONS[name]
    config = application.load("train_options")().parse([f"--optform={name}", *given])
    for each in (config, dataclasses.replace(config, explicit=frozenset())):  # as typed; as a resumed run has them
        assert application.load("trainer")(each, None, None).settings() == settings


def test_four_epochs_lower_the_loss(runs: Runs) -> None:
    trainer = runs.trainer("--nEpochs=1")
    trainer.build()
    batch = next(iter(trainer.training_loader))
    before = trainer.loss_to_measure(batch).item()
    for epoch in range(4):
        trainer.train(epoch, trainer.compression_scheduler)
        trainer.progress.middle = None
    assert trainer.loss_to_measure(batch).item() < before


@pytest.mark.slow
def test_agp(runs: Runs) -> None:
    names = convolutions(runs.network())
    runs.run(AGP.replace("NAMES", json.dumps(names)))
    model = load_checkpoint(Path("checkpoints/whole/last.pt"))["model"]
    zeros = sum(int((model[name] == 0).sum()) for name in names) / sum(model[name].numel() for name in names)
    assert 0.35 < zeros < 0.6
    runs.check_export("network.onnx")


@pytest.mark.slow
def test_fewer_macs(runs: Runs) -> None:
    """Channels leave; the network comes back from the checkpoint."""
    network = runs.network()
    names = json.dumps(prunable_convolutions(network))
    summary = runs.run(HALF.replace("NAMES", names).replace("SHARE", str(SHARE)))
    assert load_checkpoint(Path("checkpoints/whole/last.pt"))["scheduler"]["recipes"]
    assert summary["params"] < sum(each.numel() for each in network.parameters())
    runs.check_export("network.onnx")


@pytest.mark.slow
def test_int8(runs: Runs) -> None:
    """It trains with 8 bits, and its integer file computes what was trained."""
    if runs.arch == WIDE:
        with pytest.raises(ScheduleError, match="nothing of this ECBSR would be quantized"):
            runs.run(INT8)
    runs.run(FUSED_INT8 if runs.arch == WIDE else INT8)
    runs.check_export("network_int8.onnx")


def convolutions(network: nn.Module) -> list[str]:
    """Names of the weights of its convolutions that are more than a few numbers."""
    return [name for name, each in network.named_parameters() if each.dim() == 4 and each.numel() >= 16]


def prunable_convolutions(network: nn.Module) -> list[str]:
    """Those whose filters can leave."""
    graph = prunable_graph(network, EXAMPLE)
    free = {name for group in graph.groups(prunable_only=True) for name, dim in group.members if dim == 0}
    return [name for name in convolutions(network) if name in free]
