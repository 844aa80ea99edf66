"""`python test.py` writes what the network is made of, and the page that shows it."""

import csv
import json
from pathlib import Path

from apputils.macs import macs_table
from data.loaders import sr_testing_loader
from models.C2SRCNN.model import Net
from models.subject import find_subject
from models.test_solver import XSRCNNTester
from options.Normal_options.test_options import TestOptions
from tests.models.conftest import TrainerOf


def test_the_report_of_a_run(trainer_of: TrainerOf) -> None:
    trainer_of("--compress=schedule.yaml", "--run=a").run()
    opt, checkpoint = find_subject(
        TestOptions().parse(["--testdata=pictures/val", "--no-export", "--sense=none", "--run=a"])
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
        assert [row["calls"] for row in csv.DictReader(file)] == ["1"] * 15  # one test picture
    assert "--seed=0" in content["commands"]["train"]
    assert "val0" in (folder / "report.html").read_text()
