"""A run that fuses blocks, prunes, thins and quantizes, with averaged weights: killed before and after, and resumed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from apputils.checkpoints.file import load_checkpoint
from data.loaders import training_loader
from engine.resume import resumed
from engine.saved.rebuild import rebuild
from models.blocks import EdgeBlock, RepVGGBlock
from options.Normal_options.train_options import TrainOptions
from tests.engine.tiny import TinySet, TinyTrainer

SCHEDULE = """\
version: 1
extensions:
  fuser: {class: Reparameterize}
  thinner: {class: FilterRemover}
pruners:
  before: {class: SparsityLevelParameterPruner, levels: {head.conv.weight: 0.5}}
  after: {class: L1RankedStructureParameterPruner, reg_regims: {mid.weight: [0.5, 3D]}}
quantizers:
  int8: {class: QuantAwareTrainRangeLinearQuantizer, bits_activations: 8, bits_weights: 8}
policies:
  - pruner: {instance_name: before}
    epochs: [0]
  - extension: {instance_name: fuser}
    epochs: [1]
  - pruner: {instance_name: after}
    epochs: [1]
  - extension: {instance_name: thinner}
    epochs: [1]
  - quantizer: {instance_name: int8}
    epochs: [3]
"""


class BlockNet(nn.Module):
    """An edge block, a RepVGG block, a linear layer, in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.arguments: dict[str, Any] = {}
        self.head, self.mid = EdgeBlock(1, 8), RepVGGBlock(8, 4)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.fc = nn.Linear(4, 3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        """(n, 1, 6, 6) -> (n, 3)."""
        answer: Tensor = self.fc(self.relu2(self.mid(self.relu1(self.head(x)))).mean((2, 3)))
        return answer


class BlockTrainer(TinyTrainer):
    """Trains a `BlockNet`."""

    network: dict[str, Any] = {}  # noqa: RUF012

    def build_model(self) -> nn.Module:
        return BlockNet()


def trainer(*arguments: str) -> BlockTrainer:
    """A trainer of few minibatches; a new run under the schedule."""
    Path("fuse.yaml").write_text(SCHEDULE)
    given = list(arguments)
    if not any(each.startswith("--resume") for each in given):
        given += ["--compress=fuse.yaml", "--batchSize=4", "--ema=0.8", "--threads=1"]
    config = resumed(TrainOptions().parse(given))
    data = TinySet(8)
    return BlockTrainer(config, training_loader(data, config.batchSize, config.workers, config.seed), data)  # type: ignore[arg-type]


def tensors(run: str) -> dict[str, Tensor]:
    """Weights, averaged weights and the optimizer's numbers of a run's last checkpoint."""
    content = load_checkpoint(Path(f"checkpoints/{run}/last.pt"))
    moments = {f"{n}.{key}": v for n, each in content["optimizer"]["state"].items() for key, v in each.items()}
    averaged = {f"averaged.{name}": value for name, value in content["averaged"]["model"].items()}
    return {**content["model"], **averaged, **{k: v for k, v in moments.items() if isinstance(v, Tensor)}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """What the run that nobody killed ends with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("whole"))
        trainer("--nEpochs=5", "--run=whole", "--strict").run()
        return tensors("whole")


@pytest.mark.parametrize(
    "epochs", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(4, marks=pytest.mark.slow)]
)
def test_killed_and_resumed_it_is_the_same_run(epochs: int, here: Path, whole: dict[str, Tensor]) -> None:
    trainer(f"--nEpochs={epochs}", "--run=a").run()
    trainer("--resume=a", "--nEpochs=5").run()
    found = tensors("a")
    assert list(found) == list(whole)
    for name, value in whole.items():
        assert torch.equal(value, found[name]), name


def test_the_best_network_is_rebuilt_and_masks_of_one_branch_are_gone(here: Path) -> None:
    run = trainer("--nEpochs=4", "--run=a")
    run.run()
    content = load_checkpoint(Path("checkpoints/a/best.pt"))
    assert [bool(recipe["fused"]) for recipe in content["scheduler"]["recipes"]] == [True, False]
    assert content["scheduled_weights"] == ["mid.weight"]
    again = rebuild(BlockNet(), content)
    assert type(again.head) is not EdgeBlock
    assert again.mid.out_channels == 2
    data = TinySet(8)
    with torch.no_grad():
        assert torch.equal(again.eval()(data.inputs), run.state.model.eval()(data.inputs))
    sizes = Path("results/a/sizes.csv").read_text()
    assert [line.partition(",")[0] for line in sizes.splitlines()[1:]] == ["0 times", '"1 times']  # both in epoch 1
    assert "1 times, fused" in sizes
