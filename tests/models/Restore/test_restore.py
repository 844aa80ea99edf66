"""Restoration: trained, resumed, measured beside the degraded images, with any network that keeps the size."""

import logging
import sys
from pathlib import Path

import pytest
import torch

from apputils.checkpoints.file import load_checkpoint
from compress.errors import UserError
from engine.architectures import own_modules
from engine.architectures.zoo import arguments_of
from models.Restore.tester import folder_name
from models.Restore.zoo import ZOO
from options import own_network
from tests.models.Restore.cases import SMALL
from tests.models.Restore.conftest import RestorerOf, TesterOf

OWN = """\
def dark(pixels, draw):
    return pixels // 4
"""


@pytest.mark.parametrize("arch", ZOO.architectures)
def test_every_network_keeps_the_size_and_starts_near_its_input(arch: str) -> None:
    network = ZOO(arch, settings=SMALL[arch], upscale_factor=1).eval()
    again = ZOO(**arguments_of(network)).eval()
    again.load_state_dict(network.state_dict())
    image = torch.rand(1, 3, 24, 28)
    assert torch.equal(network(image), again(image))
    assert network(image).shape == image.shape
    assert (network(image) - image).abs().mean() < 0.3


@pytest.mark.slow
def test_it_learns_and_is_measured_beside_the_degraded_images(restorer_of: RestorerOf, tester_of: TesterOf) -> None:
    small = ("--arch-args={features: 12, shrunk: 12}", "--nEpochs=8", "--samples=48", "--lr=1e-2")
    summary = restorer_of(*small, "--degradation=noise:40", "--run=a").run()
    psnr = summary["quality"]["psnr"]
    assert set(psnr) == {"degraded", "model"}
    assert psnr["model"] > psnr["degraded"] + 1
    tester = tester_of("a", "--no-export")
    assert tester.measured_on() == {"images": "test0", "degradation": "noise:40"}
    own = tester.run(tester.config)["quality"]["psnr"]
    assert own["degraded"] == pytest.approx(tester.baseline()[1]["psnr"])
    other = tester_of("a", "--no-export", "--degradation=blur:1.5")
    assert other.measured_on()["degradation"] == "blur:1.5"


def test_a_resumed_run_is_the_same_run(restorer_of: RestorerOf) -> None:
    given = ("--degradation=blur:1+noise:20", "--arch=unet", "--arch-args={ngf: 4}")
    restorer_of(*given, "--nEpochs=2", "--run=whole").run()
    restorer_of(*given, "--nEpochs=1", "--run=cut").run()
    restorer_of("--resume=cut", "--nEpochs=2").run()
    whole, cut = (load_checkpoint(Path("checkpoints") / run / "last.pt")["model"] for run in ("whole", "cut"))
    assert all(torch.equal(value, cut[name]) for name, value in whole.items())
    with pytest.raises(UserError, match="cannot continue as another run"):
        restorer_of("--resume=cut", "--nEpochs=3", "--degradation=noise:20")


def test_ones_own_degradation_is_imported_where_it_is_named(
    restorer_of: RestorerOf, tester_of: TesterOf, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(own_network, "named", set())
    Path("mine.py").write_text(OWN)
    text = "--degradation=mine.py:dark+noise:5"
    caplog.set_level(logging.INFO, "run")
    restorer_of(text, "--nEpochs=1", "--run=a").run()
    assert f"next: python test.py --run=a {text}\n" in caplog.text
    own_network.named.clear()
    with pytest.raises(UserError, match=r"needs mine.py:dark, code that is not.*--degradation=mine.py:dark\+noise:5"):
        tester_of("a", "--no-export")
    with pytest.raises(UserError, match="a checkpoint never imports code by itself"):
        restorer_of("--resume=a", "--nEpochs=2")
    restorer_of("--resume=a", "--nEpochs=2", text).run()
    assert tester_of("a", "--no-export", text).measured_on()["degradation"] == "mine.py:dark+noise:5"


def test_a_degradation_of_other_parameters_is_refused_by_name(
    restorer_of: RestorerOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_network, "named", set())
    monkeypatch.setattr("sys.modules", dict(sys.modules))
    Path("single.py").write_text("def one(pixels):\n    return pixels\n")
    with pytest.raises(UserError, match=r"single.py:one takes \(pixels\), and .*\(pixels, draw\).*nothing was started"):
        restorer_of("--degradation=single.py:one")


def test_another_degradation_than_that_of_training_is_said(
    restorer_of: RestorerOf, tester_of: TesterOf, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "run")
    restorer_of("--degradation=noise:5", "--nEpochs=1", "--run=a").run()
    tester_of("a", "--no-export", "--degradation=noise:5")
    assert "here; the network was trained with" not in caplog.text
    tester_of("a", "--no-export").run()
    own = Path("results/a/test_summary.json").read_text()
    tester_of("a", "--no-export", "--degradation=noise:5.0")
    assert "here; the network was trained with" not in caplog.text
    summary = tester_of("a", "--no-export", "--degradation=blur:1").run()
    assert Path("results/a/test_summary.json").read_text() == own
    assert (Path("results/a") / summary["folder"]).samefile("results/a/blur-1")
    assert sorted(each.name for each in Path("results/a/blur-1/images").iterdir()) == sorted(
        each.name for each in Path("results/a/images").iterdir()
    )
    assert "images are degraded by blur:1 here; the network was trained with noise:5" in caplog.text
    assert summary["details"] == {"degradation": "blur:1", "trained_with": "noise:5"}


def test_a_degradation_that_was_edited_is_warned_of(
    restorer_of: RestorerOf, tester_of: TesterOf, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(own_network, "named", set())
    monkeypatch.setattr("sys.modules", dict(sys.modules))
    Path("edited.py").write_text(OWN)
    text = "--degradation=noise:5+edited.py:dark"
    restorer_of(text, "--nEpochs=1", "--run=a").run()
    restorer_of("--resume=a", "--nEpochs=2", text).run()
    tester_of("a", "--no-export", text)
    assert "is not the file" not in caplog.text
    Path("edited.py").write_text(OWN.replace("4", "5"))
    words = "edited.py is not the file that the run was trained with by --degradation=edited.py:dark"
    tester_of("a", "--no-export", text)
    assert words in caplog.text
    caplog.clear()
    own_modules.warn_once.cache_clear()
    restorer_of("--resume=a", "--nEpochs=3", text).run()
    assert words in caplog.text
    assert words in str(load_checkpoint(Path("checkpoints/a/last.pt"))["warnings"])


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("return pixels / 255", "gave float64 of shape"),
        ("return pixels[::2]", r"gave uint8 of shape \(64, 128, 3\)"),
        ("return None", "gave object"),
        ("raise ValueError('bad image')", r"mine.py:dark failed: ValueError: bad image \(line 4 of .*mine.py\)"),
        ("raise SystemExit(3)", "failed: SystemExit: 3"),
        ("return np.random.permutation(pixels)", "draws from, or seeds, a generator"),
    ],
)
def test_ones_own_degradation_is_tried_before_anything_is_written(
    restorer_of: RestorerOf, monkeypatch: pytest.MonkeyPatch, code: str, message: str
) -> None:
    monkeypatch.setattr(own_network, "named", set())
    monkeypatch.setattr("sys.modules", dict(sys.modules))
    Path("mine.py").write_text(f"import numpy as np\n\ndef dark(pixels, draw):\n    {code}\n")
    with pytest.raises(UserError, match=message):
        restorer_of("--degradation=mine.py:dark", "--run=a")
    assert not Path("checkpoints/a").exists()


def test_a_degradation_names_a_folder() -> None:
    assert folder_name("blur:1.5+noise:20") == "blur-1.5+noise-20"
    names = {folder_name(text) for text in ("../d.py:dark", "a/d.py:dark", "a_d.py:dark", "a/" + "d" * 300 + ".py:f")}
    assert len(names) == 4
    assert all(len(name) < 100 and "/" not in name and not name.startswith(".") for name in names)
