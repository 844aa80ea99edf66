"""What every architecture must take: an element-wise pruner, resuming, thinning to fewer MACs, 8 bits, export.

The steps as functions; each application's `test_architectures.py` calls them with its own trainer and tester.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from apputils.checkpoints.file import load_checkpoint
from compress.thinning.trials.trial import prunable_graph
from engine.tester import BaseTester
from engine.trainer import BaseTrainer

TrainerOf = Callable[..., BaseTrainer]
TesterOf = Callable[[str], BaseTester]

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


def convolutions(network: nn.Module) -> list[str]:
    """Names of the weights of its convolutions that are more than a few numbers."""
    return [name for name, each in network.named_parameters() if each.dim() == 4 and each.numel() >= 16]


def prunable_convolutions(network: nn.Module, example: torch.Tensor) -> list[str]:
    """Those whose filters can leave."""
    graph = prunable_graph(network, example)
    free = {name for group in graph.groups(prunable_only=True) for name, dim in group.members if dim == 0}
    return [name for name in convolutions(network) if name in free]


def check_agp_and_resume(trainer_of: TrainerOf, arguments: list[str]) -> None:
    """Half of the weights go, and a run that was cut and resumed is the same run."""
    probe = trainer_of(*arguments)
    probe.build()
    Path("agp.yaml").write_text(AGP.replace("NAMES", json.dumps(convolutions(probe.model))))
    trainer_of(*arguments, "--compress=agp.yaml", "--nEpochs=2", "--run=whole").run()
    trainer_of(*arguments, "--compress=agp.yaml", "--nEpochs=1", "--run=cut").run()
    trainer_of("--resume=cut", "--nEpochs=2").run()
    whole, cut = (load_checkpoint(Path("checkpoints") / run / "last.pt")["model"] for run in ("whole", "cut"))
    assert all(torch.equal(value, cut[name]) for name, value in whole.items())
    masked = [whole[name] for name in convolutions(probe.model)]
    zeros = sum(int((each == 0).sum()) for each in masked) / sum(each.numel() for each in masked)
    assert 0.35 < zeros < 0.6


def check_fewer_macs(
    trainer_of: TrainerOf, tester_of: TesterOf, arguments: list[str], example: torch.Tensor, share: float
) -> None:
    """Channels leave until a share of the MACs is left; the network comes back from the checkpoint and is exported."""
    probe = trainer_of(*arguments)
    probe.build()
    names = json.dumps(prunable_convolutions(probe.model, example))
    Path("half.yaml").write_text(HALF.replace("NAMES", names).replace("SHARE", str(share)))
    trainer = trainer_of(*arguments, "--compress=half.yaml", "--run=half")
    summary = trainer.run()
    assert load_checkpoint(Path("checkpoints/half/best.pt"))["scheduler"]["recipes"]
    assert summary["params"] < sum(each.numel() for each in probe.model.parameters())
    check_export(tester_of("half"), "network.onnx")


def check_int8(trainer_of: TrainerOf, tester_of: TesterOf, arguments: list[str]) -> None:
    """It trains with 8 bits, and its integer file computes what was trained."""
    Path("int8.yaml").write_text(INT8)
    trainer_of(*arguments, "--compress=int8.yaml", "--nEpochs=2", "--run=int8").run()
    check_export(tester_of("int8"), "network_int8.onnx")


def check_export(tester: BaseTester, file: str) -> None:
    """The file's quality is the network's; the exporter has compared outputs already."""
    summary: dict[str, Any] = tester.run(tester.config)
    files = json.loads((tester.results / "export.json").read_text())["files"]
    assert file in files, sorted(files)
    for metric, values in summary["quality"].items():
        assert abs(files[file]["quality"][metric] - values["model"]) < 0.05, (metric, files[file]["quality"], values)
