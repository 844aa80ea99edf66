"""The tester: rebuilt from data, measured, imaged."""

import csv
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from apputils.checkpoints.file import load_checkpoint
from compress.analysis.macs.layers import macs_table
from compress.errors import UserError
from data.loaders import sr_testing_loader, sr_training_loaders
from engine.saved.find_checkpoint import find_subject
from models.C2SRCNN.model import Net
from models.SR.tester import XSRCNNTester
from options.Normal_options.test_options import TestOptions
from tests.engine.conftest import TrainerOf


def evaluation(*arguments: str) -> tuple[XSRCNNTester, SimpleNamespace]:
    opt, checkpoint = find_subject(
        TestOptions().parse(["--testdata=images/val", "--no-export", "--no-report", *arguments])
    )
    return XSRCNNTester(opt, sr_testing_loader(opt, checkpoint)), opt


def test_the_network_is_rebuilt_from_the_checkpoint(trainer_of: TrainerOf) -> None:
    trainer_of("--compress=schedule.yaml", "--upscale_factor=3", "--run=a").run()
    it, _ = evaluation("--run=a")
    model = it.build_model()
    assert model.upscale_factor == 3
    assert not model.training
    best = load_checkpoint(Path("checkpoints/a/best.pt"))["model"]
    assert all(torch.equal(value, best[name]) for name, value in model.state_dict().items())


def test_without_testdata_the_runs_own_held_out_images_are_measured(trainer_of: TrainerOf) -> None:
    trainer_of("--nEpochs=1", "--run=a").run()
    opt, checkpoint = find_subject(TestOptions().parse(["--run=a"]))
    trained, held_out = sr_training_loaders(SimpleNamespace(**checkpoint["options"]))
    tested = [item.name for item in sr_testing_loader(opt, checkpoint)]
    assert tested == [item.name for item in held_out]
    assert not set(tested) & {image.name for image in trained.dataset.store.all_images}  # type: ignore[attr-defined]


def test_summary_and_images(trainer_of: TrainerOf) -> None:
    trainer_of("--compress=schedule.yaml", "--run=a").run()
    it, opt = evaluation()
    before = set(Path().rglob("*"))
    metrics = it.test(it.build_model())
    assert set(Path().rglob("*")) == before  # `test` writes nothing
    summary = it.run(opt)
    assert json.loads(Path("results/a/test_summary.json").read_text()) == summary
    assert summary["quality"]["psnr"]["model"] == pytest.approx(metrics["psnr"])
    assert summary["sparsity"]["scheduled"] == pytest.approx(0.5)
    sheet = Image.open("results/a/images/val0_side_by_side.png")
    assert sheet.size == (4 * 48 + 3 * 4, 48 + 28)
    target = Image.open("results/a/images/val0_target.png")
    assert target.tobytes() == Image.open("images/val/val0.png").tobytes()


def test_the_newest_run_the_one_named_or_a_file(trainer_of: TrainerOf) -> None:
    for run in ("a", "b"):
        trainer_of("--nEpochs=1", f"--run={run}").run()
    find = lambda *arguments: find_subject(TestOptions().parse(list(arguments)))[0].model  # noqa: E731
    assert find() == "checkpoints/b/best.pt"
    assert find("--run=a") == "checkpoints/a/best.pt"
    assert find("--model=checkpoints/a/last.pt") == "checkpoints/a/last.pt"
    assert find("--optform=SR") == "checkpoints/b/best.pt"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--run=a", "--model=schedule.yaml"], "--model excludes --run"),
        (["--model=x.pt"], "--model=x.pt: there is no such file"),
        (["--optform=Other"], "no run in checkpoints/ is of --optform=Other"),
        (["--optform=Other", "--run=a"], "is of --optform=SR, not Other"),
    ],
)
def test_what_cannot_be_tested_is_refused(trainer_of: TrainerOf, arguments: list[str], message: str) -> None:
    trainer_of("--nEpochs=1", "--run=a").run()
    with pytest.raises(UserError, match=message):
        find_subject(TestOptions().parse(arguments))


# `test.py --dump-features`: a run's network, its layers by name.


def test_a_super_resolution_run_writes_its_features_and_nothing_else(trainer_of: TrainerOf) -> None:
    trainer_of("--nEpochs=1", "--run=a").run()
    it, opt = evaluation("--run=a", "--dump-features=out.npz", "--layers=mid_part.1,last_part", "--num=1")
    before = set(Path().rglob("*"))
    assert it.run(opt)["features"] == "out.npz"
    assert set(Path().rglob("*")) - before == {Path("out.npz")}
    found = np.load("out.npz", allow_pickle=False)
    assert found["mid_part.1"].shape == (1, 32, 24, 24)
    assert found["last_part"].shape == (1, 12, 24, 24)


def test_a_layer_that_is_not_there_is_named(trainer_of: TrainerOf) -> None:
    trainer_of("--nEpochs=1", "--run=a").run()
    it, opt = evaluation("--run=a", "--dump-features=out.npz", "--layers=mid_part.11")
    with pytest.raises(UserError, match="'mid_part.11' matches no layer"):
        it.run(opt)


# `python test.py` writes what the network is made of, and the page that shows it.


def test_the_report_of_a_run(trainer_of: TrainerOf) -> None:
    trainer_of("--compress=schedule.yaml", "--run=a").run()
    opt, checkpoint = find_subject(
        TestOptions().parse(["--testdata=images/val", "--no-export", "--sense=none", "--run=a"])
    )
    tester = XSRCNNTester(opt, sr_testing_loader(opt, checkpoint))
    summary = tester.run(opt)
    folder = Path("results/a")
    for name in ("sparsity.xlsx", "macs.xlsx", "arch.svg", "activations.xlsx", "report.html", "report.xlsx"):
        assert (folder / name).stat().st_size > 0, name
    content = json.loads((folder / "report.json").read_text())
    assert content["quality"] == summary["quality"]
    assert content["dense"]["total"]["macs"] == macs_table(Net(2), tester.example_inputs()).total["macs"]
    zeros = {row["weight"]: row["fine"] for row in content["sparsity"]["weights"]}
    assert zeros["mid_part.1.weight"] == summary["sparsity"]["weights"]["mid_part.1.weight"]
    with (folder / "activations.csv").open() as file:
        assert [row["calls"] for row in csv.DictReader(file)] == ["1"] * 15  # one test image
    assert "--seed=0" in content["commands"]["train"]
    assert "val0" in (folder / "report.html").read_text()


def evaluated(*arguments: str) -> dict[str, Any]:
    """What report.json holds after an evaluation of run `a`."""
    given = ["--no-export", "--sense=none", *arguments]
    if not any(each.startswith("--model") for each in given):
        given.append("--run=a")
    opt, checkpoint = find_subject(TestOptions().parse(given))
    tester = XSRCNNTester(opt, sr_testing_loader(opt, checkpoint))
    tester.run(opt)
    return dict(json.loads((tester.results / "report.json").read_text()))


def test_images_are_those_of_this_evaluation(trainer_of: TrainerOf) -> None:
    trainer_of("--nEpochs=1", "--run=a", "--samples=4").run()
    evaluated("--testdata=images/val")
    page = Path("results/a/report.html")
    assert ">val0<" in page.read_text()
    evaluated("--testdata=images/train")
    assert {path.name.split("_")[0] for path in Path("results/a/images").iterdir()} == {"train0", "train1", "train2"}
    assert ">train0<" in page.read_text()
    assert ">val0<" not in page.read_text()


@pytest.mark.slow
def test_an_analysis_of_other_data_says_so(trainer_of: TrainerOf) -> None:
    """Its curves stay, under the data that they were measured on."""
    trainer_of("--nEpochs=1", "--run=a", "--samples=4").run()
    page = Path("results/a/report.html")
    there = evaluated("--testdata=images/train", "--sense=filter")
    assert there["sensitivity"][0]["measured_on"] == {"data": "images/train", "part": "whole", "images": 3}
    assert there["sensitivity"][0]["other_data"] == ""
    assert "measured on 3 images: images/train" in page.read_text()
    assert "Other data" not in page.read_text()
    here = evaluated("--testdata=images/val")
    text = page.read_text()
    assert here["sensitivity"][0]["other_data"] == "3 images: images/train"
    assert "sensitivity_filter.json was measured on 3 images: images/train; this page" in text
    assert re.search(r"unchanged: [\d.]+ dB\), on 3 images: images/train", text)
    for file in Path("images/train").glob("*.png"):  # under the same name, as many
        Image.effect_noise((48, 48), 99).convert("RGB").save(file)
    again = evaluated("--testdata=images/train")
    assert re.fullmatch(
        r"other images: PSNR was \S+ dB there and is \S+ dB here", again["sensitivity"][0]["other_data"]
    )


@pytest.mark.slow
def test_half_an_analysis_of_other_data_is_not_taken_further(
    trainer_of: TrainerOf, caplog: pytest.LogCaptureFixture
) -> None:
    trainer_of("--nEpochs=1", "--run=a", "--samples=4").run()
    evaluated("--testdata=images/val", "--sense=element")
    path = Path("results/a/sensitivity_element.json")
    record = json.loads(path.read_text())
    record["measured_on"]["data"], record["complete"] = "images/train", False  # by chance of the same quality
    path.write_text(json.dumps(record))
    evaluated("--testdata=images/val", "--sense=element")
    assert "it was measured on 1 image: images/train, now it is 1 image: images/val" in caplog.text


def test_another_checkpoint_of_the_run_has_its_own_folder(trainer_of: TrainerOf) -> None:
    """Neither are results of the best one overwritten, nor are its analyses shown as the other one's."""
    trainer_of("--nEpochs=1", "--run=a", "--samples=4").run()
    best = evaluated("--testdata=images/val", "--sense=element")
    files = {path.name: path.stat().st_mtime_ns for path in Path("results/a").iterdir()}
    other = evaluated("--testdata=images/val", "--model=checkpoints/a/last.pt")
    assert {name: Path("results/a", name).stat().st_mtime_ns for name in files} == files
    assert {path.name for path in Path("results/a").iterdir()} == {*files, "last"}
    assert (len(best["sensitivity"]), len(other["sensitivity"])) == (1, 0)
    assert other["checkpoint"] == "checkpoints/a/last.pt"
    assert Path("results/a/last/report.html").is_file()
