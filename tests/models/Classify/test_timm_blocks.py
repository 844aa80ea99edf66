"""timm's networks of blocks that fuse, in a whole run: trained, fused, pruned, thinned, 8 bits, resumed, exported."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from apputils.checkpoints.file import load_checkpoint
from compress.fusing.blocks import exchange, fusions_of
from compress.thinning.trials.trial import prunable_graph
from data.Classify_data.loaders import classify_testing_loader
from models.Classify.tester import ClassifyTester
from models.Classify.zoo import build_network
from options.Classify_options.test_options import TestOptions
from tests.models.Classify.conftest import ClassifierOf

pytest.importorskip("timm")

SIZE = 64  # pixels
SCHEDULE = """\
version: 1
pruners:
  fewer: {class: GlobalRankedGroupPruner, weights: NAMES, target: macs, to: 0.8}
quantizers:
  qat: {class: QuantAwareTrainRangeLinearQuantizer, bits_activations: 8, bits_weights: 8, per_channel_wts: true}
extensions:
  fuser: {class: Reparameterize}
  thinner: {class: FilterRemover}
policies:
  - extension: {instance_name: fuser}
    epochs: [1]
  - pruner: {instance_name: fewer}
    epochs: [1]
  - extension: {instance_name: thinner}
    epochs: [1]
  - quantizer: {instance_name: qat}
    starting_epoch: 2
    ending_epoch: 3
    frequency: 1
"""


def filters(arch: str) -> list[str]:
    """Weights of the fused network whose filters can leave."""
    network = build_network(arch, 3, 3, SIZE)
    exchange(network, fusions_of(network).values())
    groups = prunable_graph(network, (torch.zeros(1, 3, SIZE, SIZE),)).groups(prunable_only=True)
    free = {name for group in groups for name, dim in group.members if dim == 0}
    return [f"{n}.weight" for n, m in network.named_modules() if isinstance(m, nn.Conv2d) and f"{n}.weight" in free]


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["timm:fastvit_t8", "timm:repvit_m0_9"])
def test_fused_pruned_thinned_quantized_resumed_and_exported(arch: str, classifier_of: ClassifierOf) -> None:
    names = filters(arch)
    Path("whole.yaml").write_text(SCHEDULE.replace("NAMES", json.dumps(names)))
    given = (f"--arch={arch}", f"--size={SIZE}", "--channels=3", "--compress=whole.yaml", "--lr=1e-3", "--threads=1")
    whole = classifier_of(*given, "--nEpochs=3", "--run=whole").run()
    recipes = load_checkpoint(Path("checkpoints/whole/last.pt"))["scheduler"]["recipes"]
    assert [bool(each.get("fused")) for each in recipes] == [True, False]
    assert recipes[1]["kept"]
    assert whole["params"] < sum(each.numel() for each in build_network(arch, 3, 3, SIZE).parameters())
    for epochs in (1, 2, 3):  # before fusing, after thinning, with 8 bits
        first = (*given, "--run=cut") if epochs == 1 else ("--resume=cut",)
        classifier_of(*first, f"--nEpochs={epochs}").run()
    one, other = (load_checkpoint(Path(f"checkpoints/{run}/last.pt"))["model"] for run in ("whole", "cut"))
    assert list(one) == list(other)
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    opt = TestOptions().parse(["--model=checkpoints/whole/best.pt", "--sense=none", "--no-report"])
    checkpoint = load_checkpoint(Path("checkpoints/whole/best.pt"))
    tester = ClassifyTester(opt, classify_testing_loader(opt, checkpoint), checkpoint)
    quality = tester.run()["quality"]["top1"]["model"]
    files = json.loads((tester.results / "export.json").read_text())["files"]
    assert any(abs(each["quality"]["top1"] - quality) < 0.1 for each in files.values() if each.get("quality")), files
