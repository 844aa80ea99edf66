"""`python test.py --compare`: which networks are meant, and which are refused."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import engine.commands.export
from apputils.checkpoints.file import load_checkpoint, save_checkpoint
from compress.errors import UserError
from compress.export.onnx.export_report import ExportSettings
from engine.commands.compare import compare, words_of_data
from engine.saved.compared_runs import find_subjects
from models.C2SRCNN.model import Net
from models.SR.tester import XSRCNNTester
from options.applications import find_application
from options.Normal_options.test_options import TestOptions
from tests.engine.conftest import TrainerOf


def options(*arguments: str) -> Any:
    return TestOptions().parse(["--testdata=images/val", "--device=cpu", *arguments])


@pytest.fixture
def two_runs(trainer_of: TrainerOf) -> None:
    """Runs `a` (pruned) and `b` (a new, narrower network), of one application."""
    trainer_of("--compress=schedule.yaml", "--nEpochs=2", "--run=a").run()
    narrow = Net(2, shrunk=8)
    network = {"class": "Net", "arguments": narrow.arguments}
    renamed("a", "b", network=network, model=narrow.state_dict(), averaged=None, scheduled_weights=[])


def renamed(source: str, name: str, **changes: Any) -> None:
    """A copy of a run's checkpoints with changes."""
    content = {
        key: value for key, value in load_checkpoint(Path(f"checkpoints/{source}/best.pt")).items() if key != "format"
    }
    for file in ("best.pt", "last.pt"):
        save_checkpoint(Path(f"checkpoints/{name}/{file}"), {**content, "run": name, **changes})


@pytest.mark.slow
def test_two_architectures_of_one_application(
    two_runs: None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(XSRCNNTester, "example_inputs", lambda self: (torch.zeros(1, 3, 24, 32),))
    threads = torch.get_num_threads()
    with caplog.at_level("INFO"):
        content = compare(options("--compare", "a", "checkpoints/b/last.pt", "--batch=2"), find_application)
    torch.set_num_threads(threads)
    first, second = content["rows"]
    assert (first["name"], second["name"]) == ("a", "checkpoints/b/last.pt")
    assert second["parameters"] < first["parameters"]
    assert first["sparsity"] > 0.05
    assert content["input_shapes"] == [[2, 3, 24, 32]]
    assert content["baseline_quality"]["psnr"] > 0
    assert all(row["onnxruntime_ms"] > 0 and row["torch_ms"] > 0 and row["file_bytes"] > 0 for row in content["rows"])
    [folder] = Path("results").glob("compare-SR-*")
    assert (folder / "compare.html").is_file()
    assert "rounds in turns, 1 thread;" in caplog.text


def test_compared_files_are_exported_as_the_options_say(two_runs: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(XSRCNNTester, "example_inputs", lambda self: (torch.zeros(1, 3, 24, 32),))
    given: list[ExportSettings] = []
    monkeypatch.setattr(engine.commands.export, "transform_to_onnx", lambda *arguments: given.append(arguments[-1]))
    threads = torch.get_num_threads()
    own = ["--free-axes", "1", "--reduce-range", "--complete"]
    compare(options("--compare", "a", "--bits=8", "--calibration=1", *own), find_application)
    torch.set_num_threads(threads)
    assert [each.free_axes for each in given] == [(1,), (1,)]
    assert [(each.reduce_range, each.complete) for each in given] == [(False, False), (True, True)]


@pytest.mark.slow
def test_bits_adds_each_network_quantized_after_training(two_runs: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(XSRCNNTester, "example_inputs", lambda self: (torch.zeros(1, 3, 24, 32),))
    threads = torch.get_num_threads()
    content = compare(options("--compare", "a", "--bits=8", "--calibration=1"), find_application)
    torch.set_num_threads(threads)
    full, small = content["rows"]
    assert (full["name"], small["name"]) == ("a", "a, 8 bits")
    assert (full["bitops"], small["architecture"]) == (None, "Net, quantized")
    assert small["bitops"] == pytest.approx(64 * small["macs"], rel=0.2)
    assert small["file_bytes"] < full["file_bytes"]
    assert small["psnr"] != full["psnr"]
    assert small["psnr"] == pytest.approx(full["psnr"], abs=1.0)


def test_who_may_be_compared(two_runs: None) -> None:
    renamed("a", "c", optform="Classify")
    found, notes = find_subjects(options("--compare", "all", "--optform=SR"))
    assert {each.name for each in found} == {"a", "b"}
    assert "1 runs of other applications (Classify) are left out: their metrics are not mixed" in notes[0]
    with pytest.raises(UserError, match=r"not mixed.*of --optform=SR: a; of --optform=Classify: c;"):
        find_subjects(options("--compare", "a", "c"))
    with pytest.raises(UserError, match=r"there is no run 'aa'"):
        find_subjects(options("--compare", "aa"))
    with pytest.raises(UserError, match=r"--compare: a is named twice, and beside itself a network shows no"):
        find_subjects(options("--compare", "a", "b", "a"))
    path = str(find_subjects(options("--compare", "a"))[0][0].path)
    with pytest.raises(UserError, match=rf"{path} is a, and beside itself"):
        find_subjects(options("--compare", "a", path))
    with pytest.raises(UserError, match=r"give `all` alone"):
        find_subjects(options("--compare", "all", "a"))
    with pytest.raises(UserError, match=r"of --optform=Classify: c, not of SR"):
        find_subjects(options("--compare", "c", "--optform=SR"))
    with pytest.raises(UserError, match=r"exported files are not compared"):
        find_subjects(options("--compare", "a", "x.onnx"))
    with pytest.raises(UserError, match=r"no run in checkpoints/ is of --optform=Deblur"):
        find_subjects(options("--compare", "all", "--optform=Deblur"))
    [alone], _ = find_subjects(options("--benchmark", "--run=b"))
    assert alone.name == "b"


def test_all_leaves_out_what_cannot_be_read(two_runs: None) -> None:
    Path("checkpoints/b/best.pt").write_bytes(b"cut off")
    found, notes = find_subjects(options("--compare", "all"))
    assert [each.name for each in found] == ["a"]
    assert len(notes) == 1
    assert notes[0].startswith("b is left out, as it cannot be read: checkpoints/b/best.pt")
    with pytest.raises(UserError, match=r"checkpoints/b/best.pt"):
        find_subjects(options("--compare", "a", "b"))
    Path("checkpoints/a/best.pt").write_bytes(b"cut off")
    with pytest.raises(UserError, match=r"(?s)no run in checkpoints/ can be read:.*b is left out.*a is left out"):
        find_subjects(options("--compare", "all"))


@pytest.mark.slow
def test_all_leaves_out_what_cannot_be_measured(two_runs: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(XSRCNNTester, "example_inputs", lambda self: (torch.zeros(1, 3, 24, 32),))
    renamed("a", "lost", run="lost")
    application, threads = find_application("SR"), torch.get_num_threads()

    def load(part: str) -> Any:
        return loader if part == "testing_loader" else application.load(part)

    def loader(opt: Any, checkpoint: dict[str, Any]) -> Any:
        if checkpoint["run"] == "lost":
            raise UserError("its images are gone")
        return application.load("testing_loader")(opt, checkpoint)

    content = compare(options("--compare", "all"), lambda name: SimpleNamespace(load=load))
    torch.set_num_threads(threads)
    assert {row["name"] for row in content["rows"]} == {"a", "b"}
    assert "lost is left out, as it cannot be measured: its images are gone" in content["notes"]
    with pytest.raises(UserError, match="its images are gone"):
        compare(options("--compare", "a", "lost"), lambda name: SimpleNamespace(load=load))
    torch.set_num_threads(threads)


def test_other_data_are_refused(two_runs: None) -> None:
    network = load_checkpoint(Path("checkpoints/a/best.pt"))["network"]
    renamed("a", "four", network={**network, "arguments": {**network["arguments"], "upscale_factor": 4}})
    with pytest.raises(UserError, match=r"a is measured on images val0, scale 2; four on images val0, scale 4"):
        compare(options("--compare", "a", "four"), find_application)


def test_that_results_cannot_be_written_is_found_before_anything_is_measured(
    two_runs: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.commands.compare.compared", lambda *_: pytest.fail("it measures"))
    shutil.rmtree("results")
    Path("results").write_text("")
    with pytest.raises(UserError, match="results could not be written, so nothing was measured: results: "):
        compare(options("--compare", "a"), find_application)


def test_a_thousand_classes_do_not_fill_the_page() -> None:
    words = words_of_data({"images": "9 of x", "classes": ", ".join(f"class{i}" for i in range(1000))}, 80)
    assert words == "images 9 of x, classes " + ", ".join(f"class{i}" for i in range(10)) + ", and 990 more"
