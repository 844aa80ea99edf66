"""`test.py --quantize`: float beside quantized, files, the ladder, bits under a budget, refusals."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from compress.errors import UserError
from data.loaders import sr_testing_loader
from engine.commands.quantize import QuantizeRequest, generated_data
from engine.saved.find_checkpoint import find_subject
from models.SR.tester import XSRCNNTester
from options.Normal_options.test_options import TestOptions
from tests.engine.conftest import TrainerOf


def subject_of(*arguments: str) -> Any:
    calibration = ["--calibration=2"] * any(each.startswith("--quantize") for each in arguments)
    options = ["--testdata=images/val", "--no-report", "--sense=none", *calibration, *arguments]
    opt, checkpoint = find_subject(TestOptions().parse(options))
    return XSRCNNTester(opt, sr_testing_loader(opt, checkpoint)), opt


def test_quantized_float_and_reloaded(trainer_of: TrainerOf) -> None:
    trainer_of("--nEpochs=1", "--run=a").run()
    tester, opt = subject_of("--quantize=ptq.yaml", "--no-export")
    result = tester.run(opt)
    assert json.loads(Path("results/a/post_training.json").read_text()) == result
    psnr = result["quality"]["psnr"]
    assert psnr["float"] == pytest.approx(tester.test(tester.build_model())["psnr"])
    assert psnr["quantized"] != psnr["float"]
    assert psnr["quantized"] == pytest.approx(psnr["float"], abs=0.3)
    assert result["bits"]["mid_part.1"].startswith("W8")
    again, _ = subject_of("--model=results/a/quantized.pt")
    assert again.test(again.build_model())["psnr"] == pytest.approx(psnr["quantized"])
    stats = yaml.safe_load(Path("results/a/activation_stats.yaml").read_text())
    assert stats["first_part.1"]["output"]["shape"] == "(4, 32, 12, 12)"  # training crops, in training minibatches
    refused, opt = subject_of("--model=results/a/quantized.pt", "--quantize=auto")
    with pytest.raises(UserError, match="is quantized already"):
        refused.run(opt)


def test_the_ladder_is_judged_by_validation_data(trainer_of: TrainerOf, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer_of("--nEpochs=1", "--run=a").run()
    tester, opt = subject_of("--quantize=auto", "--max-drop=5", "--no-export")
    loaders = []
    monkeypatch.setattr(XSRCNNTester, "test", lambda self, model: loaders.append(self.testing_loader) or {"psnr": 30.0})
    result = tester.run(opt)
    assert result["ladder"]["chosen"] == "min-max"
    assert result["ladder"]["within"]
    assert [loader is tester.testing_loader for loader in loaders] == [False, False, True, True]


def test_mixed_writes_its_settings(trainer_of: TrainerOf) -> None:
    trainer_of("--nEpochs=1", "--run=a").run()
    tester, opt = subject_of("--quantize=mixed", "--bits-budget=size:0.15", "--no-export")
    result = tester.run(opt)
    overrides = yaml.safe_load(Path("results/a/mixed.yaml").read_text())["quantizers"]["mixed"]["overrides"]
    sizes = {name: tester.build_model().get_submodule(name).weight.numel() for name in overrides}
    assert sum(sizes[name] * each["bits_weights"] for name, each in overrides.items()) <= 0.15 * 32 * sum(
        sizes.values()
    )
    assert all(f"W{each['bits_weights']}" in result["bits"][name] for name, each in overrides.items())


@pytest.mark.slow
def test_it_is_exported_as_int8(trainer_of: TrainerOf) -> None:
    trainer_of("--nEpochs=1", "--run=a").run()
    tester, opt = subject_of("--quantize=ptq.yaml")
    result = tester.run(opt)
    files = json.loads(Path("results/a/export.json").read_text())["files"]
    exported = files["network_int8.onnx"]
    assert exported["quality"]["psnr"] == pytest.approx(result["quality"]["psnr"]["quantized"], abs=0.5)
    assert all(each["stored"] == "int8" and each["error"] < 1e-6 for each in exported["weights"])
    tester, opt = subject_of("--quantize=ptq.yaml", "--reduce-range", "--complete")
    tester.run(opt)
    other = json.loads(Path("results/a/export.json").read_text())["files"]["network_int8.onnx"]
    assert all(each["error"] > 1e-6 for each in other["weights"])  # 7 bits
    assert any("outputs are rounded that were not" in warning for warning in other["warnings"])
    assert not any("--reduce-range" in warning for warning in other["warnings"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-drop=1"], "--max-drop belongs to --quantize=auto"),
        (["--quantize=mixed"], "needs --bits-budget"),
        (["--quantize=auto", "--bits-budget=size:0.1"], "--bits-budget belongs to --quantize=mixed"),
        (["--quantize=mixed", "--bits-budget=size:2"], "a share of the float network's"),
        (["--quantize=mixed", "--bits-budget=weight:0.1"], "give size:X or bitops:X"),
    ],
)
def test_wrong_requests_are_refused_before_anything_is_done(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        QuantizeRequest.of(TestOptions().parse(arguments))


def test_a_file_that_is_not_there(trainer_of: TrainerOf) -> None:
    trainer_of("--nEpochs=1", "--run=a").run()
    tester, opt = subject_of("--quantize=ptqq.yaml")
    with pytest.raises(UserError, match=r"--quantize=ptqq.yaml: no such file.*did you mean 'ptq.yaml'"):
        tester.run(opt)
    assert not torch.is_inference_mode_enabled()


def test_generated_data_have_the_form_and_limits_of_the_inputs() -> None:
    x, limits = torch.zeros(1, 3, 5, 5), (torch.tensor(-1.0), torch.tensor(0.5))
    tester: Any = SimpleNamespace(
        example_inputs=lambda: (x,), input_limits=lambda: limits, checkpoint={"options": {"batchSize": 6}}
    )
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.BatchNorm2d(2))
    made = generated_data(tester, network, 2)
    assert [each.shape for each in made] == [(6, 3, 5, 5)] * 2
    assert all(-1 <= float(each.min()) < float(each.max()) <= 0.5 for each in made)
    tester.example_inputs = lambda: (x, x)
    with pytest.raises(UserError, match="for a network that takes one tensor"):
        generated_data(tester, network, 2)
