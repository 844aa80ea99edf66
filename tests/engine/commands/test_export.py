"""`test.py --model FILE`: an exported file is measured by the application's own metrics, as the network is."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from compress.export.exported_model import describing
from compress.export.onnx.export import ExportSettings, transform_to_onnx
from compress.export.pt2 import export_pt2
from data.loaders import sr_testing_loader
from engine.commands.find_checkpoint import find_subject
from models.SR.tester import XSRCNNTester
from options.Normal_options.test_options import TestOptions
from tests.engine.conftest import TrainerOf


def subject(*arguments: str) -> tuple[XSRCNNTester, Any]:
    opt, checkpoint = find_subject(TestOptions().parse(["--testdata=images/val", "--no-report", *arguments]))
    return XSRCNNTester(opt, sr_testing_loader(opt, checkpoint)), opt


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_an_exported_file_is_measured_and_not_its_checkpoint(trainer_of: TrainerOf, kind: str) -> None:
    trainer_of("--nEpochs=1", "--run=a").run()
    tester, _ = subject("--run=a")
    network, file, description = tester.build_model(), Path(f"elsewhere/net.{kind}"), describing(tester.checkpoint)
    checkpoints = tester.test(network)
    with torch.no_grad():
        list(network.parameters())[-1].add_(0.05)  # the file is told from the checkpoint by its quality
    files = tester.test(network)
    assert abs(files["psnr"] - checkpoints["psnr"]) > 0.01
    example = tester.example_inputs()
    if kind == "onnx":
        transform_to_onnx(network, file, example, False, settings=ExportSettings(description=description))
    else:
        export_pt2(network, file, example, [torch.rand_like(example[0])], description)
    it, opt = subject(f"--model={file}")
    summary = it.run(opt)
    name, trivial = tester.baseline()
    for metric, value in files.items():
        assert summary["quality"][metric]["model"] == pytest.approx(value, abs=1e-3)
        assert summary["quality"][metric][name] == pytest.approx(trivial[metric])
    assert (summary["run"], summary["file"], summary["bytes"]) == ("a", str(file), file.stat().st_size)
    assert json.loads(Path(f"results/a/exported_net_{kind}.json").read_text()) == summary
