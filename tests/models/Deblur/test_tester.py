"""test.py's evaluation of a deblurring run: quality beside the blurred images', images, reports, a file of it."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from apputils.checkpoints.file import load_checkpoint
from apputils.report.images import images_of
from compress.analysis.sensitivity.changes import prune_elements
from compress.errors import UserError
from data.Deblur_data.loaders import deblur_testing_loader
from engine.commands.compare import compare
from engine.saved.find_checkpoint import find_subject
from models.Deblur.solver import DeblurTrainer
from models.restoration.tester import RestorationTester
from options.applications import find_application
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


@pytest.mark.slow
def test_a_thinned_run_is_evaluated_and_exported(deblurrer_of: DeblurrerOf) -> None:
    Path("filters.yaml").write_text(FILTERS)
    trainer = deblurrer_of("--compress=filters.yaml", "--run=a")
    summary = trainer.run()
    assert trainer.model.blocks[0].conv1.out_channels == 2
    assert set(summary["quality"]["psnr"]) == {"blurred", "dense network (teacher self)", "model"}
    assert "dense_loss" in trainer.progress.history[-1]
    given = TestOptions().parse(["--model=checkpoints/a/best.pt", "--optform=Deblur", "--sense=none", "--no-report"])
    loader = deblur_testing_loader(given, load_checkpoint(Path(given.model)))
    tester = RestorationTester(given, loader)
    result = tester.run(given)
    own = result["quality"]["psnr"]
    assert own["model"] == pytest.approx(tester.test(tester.build_model())["psnr"])
    assert own["blurred"] == pytest.approx(tester.baseline()[1]["psnr"])
    assert {path.name for path in Path("results/a/images").iterdir()} == {
        f"test0_{i}_{kind}.png" for i in (0, 1) for kind in ("blurred", "output", "target", "side_by_side")
    }
    all_images = images_of(Path("results/a/images"))  # the report lays the output over the first
    assert [list(image.versions) for image in all_images] == 2 * [["blurred", "output", "target"]]
    exported = json.loads(Path("results/a/export.json").read_text())["files"]["network.onnx"]
    assert exported["quality"]["psnr"] == pytest.approx(own["model"], abs=0.01)


def evaluator_of(run: str, *arguments: str) -> RestorationTester:
    given = TestOptions().parse([f"--model=checkpoints/{run}/best.pt", *arguments])
    return RestorationTester(given, deblur_testing_loader(given, load_checkpoint(Path(given.model))))


def compared(*words: str) -> dict[str, Any]:
    return compare(TestOptions().parse(["--compare", *words, "--threads=1"]), find_application)


def test_runs_under_another_blur_are_not_compared(deblurrer_of: DeblurrerOf) -> None:
    deblurrer_of("--nEpochs=1", "--run=a").run()
    deblurrer_of("--nEpochs=1", "--run=b", "--blur-length=20").run()
    assert evaluator_of("a").measured_on() == {"images": "test0_0, test0_1", "blur": "up to 12 pixels long"}
    with pytest.raises(UserError, match=r"a is measured on .* 12 pixels long; b on images test0_0, test0_1, blur up"):
        compared("a", "b")


@pytest.mark.slow
def test_two_runs_side_by_side(deblurrer_of: DeblurrerOf, monkeypatch: pytest.MonkeyPatch) -> None:
    deblurrer_of("--nEpochs=1", "--run=a").run()
    deblurrer_of("--nEpochs=1", "--run=b", "--ngf=3").run()
    monkeypatch.setattr(RestorationTester, "example_inputs", lambda self: (torch.zeros(1, 3, 24, 32),))
    content = compared("a", "b")
    assert content["baseline"] == "blurred"
    own = [evaluator.test(evaluator.build_model())["psnr"] for evaluator in map(evaluator_of, "ab")]
    assert [row["psnr"] for row in content["rows"]] == pytest.approx(own)
    assert all(row["onnxruntime_ms"] > 0 for row in content["rows"])


@pytest.mark.slow
def test_sensitivity_latency_and_the_report(deblurrer_of: DeblurrerOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that `python test.py` does without an option; a thinned network is timed against the dense one."""
    Path("filters.yaml").write_text(FILTERS)
    deblurrer_of("--compress=filters.yaml", "--run=a").run()
    monkeypatch.setattr(RestorationTester, "example_inputs", lambda self: (torch.zeros(1, 3, 24, 32),))
    tester = evaluator_of("a")
    summary = tester.run(tester.config)
    folder, model = Path("results/a"), tester.build_model()
    assert tester.evaluation()(model) == pytest.approx({"psnr": tester.test(model)["psnr"]})
    table = pd.read_excel(folder / "sensitivity_element.xlsx", sheet_name="values")
    assert set(table["weight"]) == {name for name, each in model.named_parameters() if each.dim() == 4}
    row = table[(table["weight"] == "first.1.weight") & (table["level"] == 0.9)].iloc[0]
    with torch.no_grad():
        weight = model.get_parameter("first.1.weight")
        weight.copy_(prune_elements(weight, 0.9))
    assert row["psnr"] == pytest.approx(tester.test(model)["psnr"], abs=1e-3)
    latency = json.loads((folder / "export.json").read_text())["latency"]
    assert [row["name"] for row in latency["rows"]] == ["dense network", "network.onnx"]
    content = json.loads((folder / "report.json").read_text())
    assert content["quality"] == summary["quality"]
    page = (folder / "report.html").read_text()
    assert "test0_0" in page
    assert "first.1.weight" in page


def test_a_run_is_quantized_after_training(deblurrer_of: DeblurrerOf) -> None:
    deblurrer_of("--nEpochs=1", "--run=a", "--workers=1").run()
    tester = evaluator_of("a", "--quantize=auto", "--max-drop=5", "--no-export", "--calibration=2")
    training, validation = tester.training_data()
    assert [tuple(each.shape) for each in next(iter(training))] == [(2, 3, 32, 32)] * 2
    assert [item.name for item in validation] == ["val0_0", "val0_1"]
    result = tester.run(tester.config)
    psnr = result["quality"]["psnr"]
    assert result["ladder"]["within"]
    assert set(psnr) == {"blurred", "float", "quantized"}
    assert psnr["quantized"] == pytest.approx(psnr["float"], abs=5)
    assert psnr["quantized"] != psnr["float"]


@pytest.mark.parametrize(("kind", "norm"), [("resnet", "instance"), ("mobile", "none")])
def test_networks_begin_at_the_inputs_quality(deblurrer_of: DeblurrerOf, kind: str, norm: str) -> None:
    trainer = deblurrer_of(f"--netG={kind}", f"--norm={norm}", "--halvings=2", "--ngf=4")
    image = torch.rand(2, 3, 32, 36)
    restored = trainer.build_model()(image).detach()
    assert restored.shape == image.shape
    assert float((restored - image).abs().mean()) < 0.03


# `--thin` of a generator: its discriminator stays.


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
    tester = RestorationTester(opt, deblur_testing_loader(opt, checkpoint))
    before = tester.test(tester.build_model())
    after = tester.run(opt)["quality"]["psnr"]["model"]
    assert abs(after - before["psnr"]) < 1e-3
    old, new = (load_checkpoint(Path(f"checkpoints/a/{name}.pt")) for name in ("best", "best_thin"))
    assert sum(each.numel() for each in new["model"].values()) < sum(each.numel() for each in old["model"].values())
    critic = old["companions"]["netD"]["model"]
    assert all(torch.equal(value, new["companions"]["netD"]["model"][name]) for name, value in critic.items())
    deblurrer_of("--resume=a", "--thin", "--nEpochs=2").run()
