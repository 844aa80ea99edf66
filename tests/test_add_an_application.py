"""A new application is a folder in each tree and one entry: Denoise is trained, thinned, tested and reported."""

import importlib
import json
import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.commands.train import act
from engine.saved.find_checkpoint import find_subject
from engine.saved.load_model import load_network
from options.applications import APPLICATIONS

GUIDE = Path(__file__).resolve().parent.parent / "docs" / "add_an_application.md"
FILE = re.compile(r"^`(\S+)`:\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def denoise(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The guide's files in a folder, as if it were laid over the trees, and the entry in the table."""
    root, before = tmp_path_factory.mktemp("denoise"), set(sys.modules)
    for name, text in FILE.findall(GUIDE.read_text(encoding="utf-8")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    for tree in ("options", "data", "models"):
        package = importlib.import_module(tree)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(root / tree)])
    monkeypatch.setitem(APPLICATIONS, "Denoise", runpy.run_path(str(root / "entry.py"))["ENTRY"])
    yield root
    for name in set(sys.modules) - before:
        if "Denoise" in name:
            del sys.modules[name]


def test_it_is_trained_thinned_tested_and_reported(here: Path, denoise: Path) -> None:
    entry = APPLICATIONS["Denoise"]
    draw = np.random.default_rng(0)
    for part in ("train", "val", "test"):
        (here / "images" / part).mkdir(parents=True)
        Image.fromarray(draw.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(here / "images" / part / f"{part}.png")
    schedule = denoise / "schedules" / "Denoise" / "filter_prune.yaml"
    config = entry.load("train_options")().parse([
        "--optform=Denoise", "--traindata=images", f"--compress={schedule}", "--nEpochs=1", "--samples=4",
        "--batchSize=2", "--patch_size=16", "--features=8", "--run=a", "--threads=1",
    ])  # fmt: skip
    act(entry, config)
    assert load_network("checkpoints/a/best.pt").conv2.out_channels == 4
    options = entry.load("test_options")().parse(["--run=a", "--no-export", "--sense=none", "--threads=1"])
    opt, checkpoint = find_subject(options)
    tester = entry.load("tester")(opt, entry.load("testing_loader")(opt, checkpoint), checkpoint)
    summary = tester.run()
    psnr = summary["quality"]["psnr"]
    assert psnr["model"] == pytest.approx(tester.test(tester.build_model())["psnr"])
    assert 15 < psnr["noisy"] < 25  # sigma 25, clipped: 20 dB and more
    assert {path.name for path in Path("results/a/images").iterdir()} == {
        f"test_{kind}.png" for kind in ("noisy", "output", "target", "side_by_side")
    }
    assert json.loads(Path("results/a/report.json").read_text())["quality"] == summary["quality"]
