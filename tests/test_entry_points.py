"""The two daily commands as a user types them, on a tiny setting, and the faults of newcomers."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import train

ROOT = Path(__file__).resolve().parent.parent


def command(script: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, str(ROOT / script), *arguments]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A present folder with five tiny images in `images/`."""
    place = tmp_path_factory.mktemp("work")
    (place / "images").mkdir()
    draw = np.random.default_rng(0)
    for i in range(5):
        Image.fromarray(draw.integers(0, 256, (96, 96, 3), dtype=np.uint8)).save(place / "images" / f"{i}.png")
    (place / "images" / "broken.png").write_text("no image")
    return place


def test_train_then_test(folder: Path) -> None:
    trained = command(
        "train.py", "--optform=SR", "--compress=agp_prune.yaml", "--traindata=images", "--nEpochs=2", "--samples=8",
        "--patch_size=32", "--batchSize=4", "--run=tiny", folder=folder,
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    assert "epoch 1/1" in trained.stdout
    assert "broken.png" in trained.stdout + trained.stderr
    assert "next: python test.py --run=tiny" in trained.stdout
    assert json.loads((folder / "results/tiny/summary.json").read_text())["quality"]["psnr"]["bicubic"] > 0

    tested = command("test.py", "--testdata=images", folder=folder)
    assert tested.returncode == 0, tested.stderr
    summary = json.loads((folder / "results/tiny/test_summary.json").read_text())
    assert summary["run"] == "tiny"
    assert summary["commands"]["test"] == "python test.py --model=checkpoints/tiny/best.pt --testdata=images"
    images = sorted(path.name for path in (folder / "results/tiny/images").iterdir())
    assert "0_side_by_side.png" in images
    assert {name.split("_", 1)[1] for name in images} == {
        "input.png", "bicubic.png", "output.png", "target.png", "side_by_side.png",
    }  # fmt: skip
    assert_all_tools_have_written(folder / "results/tiny", summary)


def assert_all_tools_have_written(results: Path, summary: dict[str, Any]) -> None:
    """What the five tools of a plain `test.py` leave: files, and numbers that agree with the summary's."""
    for name in (
        "sparsity.xlsx", "sparsity.png", "sparsity_histograms.png", "macs.xlsx", "macs.png", "arch.png", "arch.svg",
        "sensitivity_element.xlsx", "sensitivity_element.png", "network.onnx", "network.pt2",
        "activations.xlsx", "activations.csv", "report.html", "report.xlsx", "report.json",
    ):  # fmt: skip
        assert (results / name).stat().st_size > 0, name
    sparsity, macs, sensitivity, export = (
        json.loads((results / f"{name}.json").read_text())
        for name in ("sparsity", "macs", "sensitivity_element", "export")
    )
    zeros = {row["weight"]: row["fine"] for row in sparsity["weights"]}
    assert zeros["mid_part.1.weight"] == pytest.approx(summary["sparsity"]["weights"]["mid_part.1.weight"])
    assert macs["total"]["macs"] == summary["macs"]
    assert "mid_part" in (results / "arch.svg").read_text()
    assert sensitivity["complete"]
    assert set(summary["sparsity"]["weights"]) <= set(sensitivity["weights"])
    assert sensitivity["dense"]["psnr"] == pytest.approx(summary["quality"]["psnr"]["model"], abs=1e-3)
    network = export["files"]["network.onnx"]
    assert network["bytes"] == (results / "network.onnx").stat().st_size
    assert network["difference"]["max"] < 1e-4
    dense, now = export["latency"]["rows"]
    assert (dense["name"], now["name"]) == ("dense network", "network.onnx")
    assert (dense["torch_ratio"], dense["onnxruntime_ratio"]) == (1.0, 1.0)
    assert 0.2 < now["torch_ratio"] < 5
    assert 0.2 < now["onnxruntime_ratio"] < 5
    assert "error" not in export


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--optform=XX"], "unknown application 'XX'; --optform is one of SR"),
        (["--compress=none.yaml"], "--compress=none.yaml: no such file"),
        (["--nEpoch=3"], "unknown option '--nEpoch'; did you mean '--nEpochs'"),
        (["--traindata=nowhere"], "--traindata=nowhere: there is no such folder"),
        (["--resume=never"], "there is no run"),
        (["--traindata=images", "--compress=typo.yaml"], "did you mean 'mid_part.1.weight'"),
    ],
)
def test_newcomers_faults_get_one_clear_error_and_exit_code_2(folder: Path, arguments: list[str], message: str) -> None:
    (folder / "typo.yaml").write_text(
        "pruners:\n  p: {class: SparsityLevelParameterPruner, levels: {mid_part.1.wieght: 0.5}}\n"
        "policies:\n  - pruner: {instance_name: p}\n    epochs: [0]\n"
    )
    ended = command("train.py", *arguments, folder=folder)
    assert ended.returncode == 2
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr


def test_help_needs_no_torch(folder: Path) -> None:
    (folder / "torch.py").write_text("raise ImportError('torch was imported')")
    try:
        ended = subprocess.run(
            [sys.executable, "-c", f"import sys, runpy; sys.path.insert(0, {str(folder)!r}); sys.path.insert(1, "
             f"{str(ROOT)!r}); sys.argv = ['train.py', '--help']; runpy.run_path({str(ROOT / 'train.py')!r}, "
             "run_name='__main__')"], capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        assert "--compress" in ended.stdout
    finally:
        (folder / "torch.py").unlink()


def test_test_without_a_run_says_what_to_do(tmp_path: Path) -> None:
    ended = command("test.py", folder=tmp_path)
    assert ended.returncode == 2
    assert "train one first" in ended.stderr


@pytest.mark.slow
def test_a_classifier_is_trained_and_tested(tmp_path: Path) -> None:
    """On the embedded digits; `test.py` finds out by itself which application the run is of."""
    trained = command(
        "train.py", "--optform=Classify", "--arch=simplenet", "--size=16", "--nEpochs=3", "--run=digits",
        folder=tmp_path,
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    assert "majority class" in trained.stdout
    tested = command("test.py", folder=tmp_path)
    assert tested.returncode == 0, tested.stderr
    summary = json.loads((tmp_path / "results/digits/test_summary.json").read_text())
    assert summary["quality"]["top1"]["model"] > 50 > summary["quality"]["top1"]["majority class"]
    assert sum(row["images"] for row in summary["details"]["classes"]) == 357


def test_a_resumed_run_is_of_the_application_that_it_was_started_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("logs/a").mkdir(parents=True)
    Path("logs/a/options.yaml").write_text("optform: Deblur\n")
    for given, options in (
        (["--resume=a"], "Options of Deblur:"),
        (["--resume", "a", "--optform=SR"], "Options of SR:"),
    ):
        monkeypatch.setattr(sys, "argv", ["train.py", *given, "--help"])
        with pytest.raises(SystemExit):
            train.main()
        assert options in capsys.readouterr().out
