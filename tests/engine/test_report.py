"""`python test.py` writes what the network is made of, and the page that shows it."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from compress.analysis.macs.layers import macs_table
from data.loaders import sr_testing_loader
from engine.commands.find_checkpoint import find_subject
from models.C2SRCNN.model import Net
from models.SR.tester import XSRCNNTester
from options.Normal_options.test_options import TestOptions
from tests.engine.conftest import TrainerOf


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
