"""`--thin` of a generator: its discriminator stays."""

from pathlib import Path

import pytest
import torch

from apputils.checkpoints.file import load_checkpoint
from data.Deblur_data.loaders import deblur_testing_loader
from engine.commands.find_checkpoint import find_subject
from models.Deblur.solver import DeblurTrainer
from models.Deblur.tester import DeblurTester
from options.Deblur_options.test_options import TestOptions
from tests.models.Deblur.conftest import DeblurrerOf

MASKED = """\
pruners:
  p: {class: L1RankedStructureParameterPruner, desired_sparsity: 0.5, weights: ['blocks.0*.weight']}
policies:
  - pruner: {instance_name: p}
    epochs: [0]
fine_tuning_epochs: 1
"""


@pytest.mark.slow
def test_the_generator_is_thinned_and_trains_on(deblurrer_of: DeblurrerOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DeblurTrainer, "example_inputs", lambda self: (torch.zeros(1, 3, 32, 32),))
    Path("masked.yaml").write_text(MASKED)
    deblurrer_of("--compress=masked.yaml", "--run=a").run()
    opt, checkpoint = find_subject(TestOptions().parse(["--sense=none", "--no-export", "--no-report", "--thin"]))
    tester = DeblurTester(opt, deblur_testing_loader(opt, checkpoint))
    before = tester.test(tester.build_model())
    after = tester.run(opt)["quality"]["psnr"]["model"]
    assert abs(after - before["psnr"]) < 1e-3
    old, new = (load_checkpoint(Path(f"checkpoints/a/{name}.pt")) for name in ("best", "best_thin"))
    assert sum(each.numel() for each in new["model"].values()) < sum(each.numel() for each in old["model"].values())
    critic = old["companions"]["netD"]["model"]
    assert all(torch.equal(value, new["companions"]["netD"]["model"][name]) for name, value in critic.items())
    deblurrer_of("--resume=a", "--thin", "--nEpochs=2").run()
