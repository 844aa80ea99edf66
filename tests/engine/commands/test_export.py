"""`test.py --model FILE`: an exported file is measured by the application's own metrics, as the network is."""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from apputils.runs.folders import Run
from compress.errors import UserError
from compress.export.exported_model import describing
from compress.export.latency import torch_threads
from compress.export.onnx.export import transform_to_onnx
from compress.export.onnx.export_report import ExportSettings
from compress.export.pt2 import export_pt2
from data.loaders import sr_testing_loader
from engine.commands import export as command
from engine.commands.export import export_run, seen_inputs
from engine.saved.find_checkpoint import find_subject
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


# Files of a run's network, timed beside the dense network's.


class Small(nn.Module):
    """One convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).relu()


def small_tester(**options: Any) -> Any:
    """As much of a tester of `Small` as an export asks for."""
    settings = {"threads": 1, "reduce_range": False, "complete": False, "free_axes": None, "fixed_size": False}
    return SimpleNamespace(
        new_network=lambda arguments: Small(), data_facts=dict, testing_loader=None,
        test=lambda network: {"score": 1.0}, example_inputs=lambda: (torch.empty(1, 3, 16, 16),),
        folders=Run("a"), results=Path("results/a"), device=torch.device("cpu"),
        config=SimpleNamespace(**settings, formats=(), **options),
        checkpoint={"run": "a", "optform": "SR", "network": {"class": "Small", "arguments": {}}, "options": {},
                    "task": {}, "epoch": 0, "scheduler": {"recipes": []}},
    )  # fmt: skip


def test_a_network_that_only_has_zeros_is_timed_beside_the_dense_one(
    here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither thinned nor quantized: that its zeros make it no faster is what one must see."""
    model = Small().eval()
    with torch.no_grad():
        model.conv.weight[:3] = 0
    tester = small_tester()
    tester.config.formats = ("float16", "int4")
    with caplog.at_level("INFO"):
        result = export_run(tester, model, [(torch.rand(2, 3, 16, 16),)], {"score": 1.0})
    assert "error" not in result
    latency = json.loads(Path("results/a/export.json").read_text())["latency"]
    dense, half, *_, now = latency["rows"]
    names = [row["name"] for row in latency["rows"]]
    assert names == ["dense network", "network_float16.onnx", "network_int4.onnx", "network.onnx"]
    assert half["onnxruntime_ratio"] > 0
    for runtime in ("torch", "onnxruntime"):
        assert dense[f"{runtime}_ratio"] == 1.0
        assert now[f"{runtime}_ratio"] > 0
        assert now[f"{runtime}_ratio_low"] <= now[f"{runtime}_ratio"] <= now[f"{runtime}_ratio_high"]
    assert (latency["threads"], latency["input_shapes"]) == (1, [[2, 3, 16, 16]])
    assert "the dense network's, in the same runtime and rounds" in caplog.text
    assert set(result["files"]) == {"network_float16.onnx", "network_int4.onnx", "network.onnx", "network.pt2"}
    assert result["files"]["network_int4.onnx"]["format"] == "int4"
    assert result["files"]["network_float16.onnx"]["quality"] == {"score": 1.0}


@pytest.fixture
def order(here: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What this process does, in order; files are written in no time."""
    done: list[str] = []

    def write(export: Any, dense_file: Path, result: dict[str, Any]) -> None:
        done.append("files")
        command.logger.info("written by %s", "somebody")
        result["files"] = {"network.onnx": {"mode": "float"}}
        if export.tester.config.fault == "refused":
            raise UserError("it has no file")
        if export.tester.config.fault == "crash" and os.getpid() != here_too:
            os.abort()

    here_too = os.getpid()
    monkeypatch.setattr(command, "_write_files", write)
    monkeypatch.setattr(command._Export, "latency", lambda self, names, file: done.append("times") or {"rows": names})
    return done


@pytest.mark.parametrize(
    ("threads", "fault", "analysis", "expected"),
    [
        (2, "", None, ["analysis", "times"]),
        (2, "", UserError("no images"), ["analysis", "times"]),
        (2, "crash", None, ["analysis", "files", "times"]),
        (2, "refused", None, ["analysis"]),
        (1, "", None, ["files", "times"]),  # the caller analyses behind it
    ],
)
def test_another_process_writes_the_files_where_there_are_two_threads(
    order: list[str], caplog: pytest.LogCaptureFixture, threads: int, fault: str, analysis: Any, expected: list[str]
) -> None:
    def analyse() -> None:
        order.append("analysis")
        if analysis is not None:
            raise analysis

    with torch_threads(threads), caplog.at_level("INFO"):
        result = export_run(
            small_tester(fault=fault), Small(), [(torch.rand(2, 3, 16, 16),)], {"score": 1.0}, [analyse]
        )
    assert order == expected
    assert caplog.messages.count("written by somebody") == 1
    assert result["files"] == {"network.onnx": {"mode": "float"}}
    assert result.get("error") == ("it has no file" if fault == "refused" else None)
    assert ("SIGABRT" in caplog.text) == (fault == "crash")
    assert json.loads(Path("results/a/export.json").read_text()) == result


def test_seen_inputs_can_be_traced() -> None:
    """Those that an evaluation in inference mode sees, and their parts."""
    net = nn.Linear(2, 2)
    with seen_inputs(net) as inputs, torch.inference_mode():
        net(torch.rand(1, 2))
    [(x,)] = inputs
    assert not x.is_inference()
    torch.export.export(net, (x[:1],))
