"""test.py's evaluation of a deblurring run: quality beside the blurred pictures', pictures, reports, a file of it."""

import json
from pathlib import Path

import pytest
import torch

from apputils.checkpoint import load_checkpoint
from data.Deblur_data.loaders import deblur_testing_loader
from models.Deblur.tester import DeblurTester
from options.Deblur_options.test_options import TestOptions
from tests.models.Deblur.conftest import DeblurrerOf

FILTERS = """\
pruners:
  p: {class: L1RankedStructureParameterPruner, reg_regims: {blocks.0.conv1.weight: [0.5, 3D]}}
extensions:
  t: {class: FilterRemover}
distillers:
  dense: {class: OutputDistillation, teacher: self, loss: l1}
policies:
  - distiller: {instance_name: dense}
    epochs: [1, 2]
  - pruner: {instance_name: p}
    epochs: [1]
  - extension: {instance_name: t}
    epochs: [1]
"""


def test_a_thinned_run_is_evaluated_and_exported(deblurrer_of: DeblurrerOf) -> None:
    Path("filters.yaml").write_text(FILTERS)
    trainer = deblurrer_of("--compress=filters.yaml", "--run=a")
    summary = trainer.run()
    assert trainer.model.blocks[0].conv1.out_channels == 2
    assert set(summary["quality"]["psnr"]) == {"blurred", "model"}
    assert "dense_loss" in trainer.history[-1]
    given = TestOptions().parse(["--model=checkpoints/a/best.pt", "--optform=Deblur", "--sense=none", "--no-report"])
    loader = deblur_testing_loader(given, load_checkpoint(Path(given.model)))
    tester = DeblurTester(given, loader)
    result = tester.run(given)
    own = result["quality"]["psnr"]
    assert own["model"] == pytest.approx(tester.test(tester.build_model())["psnr"])
    assert own["blurred"] == pytest.approx(tester.baseline()[1]["psnr"])
    assert {path.name for path in Path("results/a/images").iterdir()} == {
        f"test0_{i}_{kind}.png" for i in (0, 1) for kind in ("blurred", "output", "target", "side_by_side")
    }
    exported = json.loads(Path("results/a/export.json").read_text())["files"]["network.onnx"]
    assert exported["quality"]["psnr"] == pytest.approx(own["model"], abs=0.01)


@pytest.mark.parametrize(("kind", "norm"), [("resnet", "instance"), ("mobile", "none")])
def test_networks_begin_at_the_inputs_quality(deblurrer_of: DeblurrerOf, kind: str, norm: str) -> None:
    trainer = deblurrer_of(f"--netG={kind}", f"--norm={norm}", "--halvings=2", "--ngf=4")
    picture = torch.rand(2, 3, 32, 36)
    restored = trainer.build_model()(picture).detach()
    assert restored.shape == picture.shape
    assert float((restored - picture).abs().mean()) < 0.03
