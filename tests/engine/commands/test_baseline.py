"""`python test.py --baseline RUN`: another run's network on the same data, as a second baseline."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from compress.errors import UserError
from data.loaders import sr_testing_loader
from engine.commands.baseline import second_baseline
from engine.saved.find_checkpoint import find_subject
from models.SR.tester import XSRCNNTester
from options.Normal_options.test_options import TestOptions
from tests.engine.commands.test_compare import renamed
from tests.engine.conftest import TrainerOf


def beside(*arguments: str) -> tuple[XSRCNNTester, Any]:
    """As test.py makes it."""
    given = ["--testdata=images/val", "--no-export", "--sense=none", "--run=a", *arguments]
    opt, checkpoint = find_subject(TestOptions().parse(given))
    tester = XSRCNNTester(opt, sr_testing_loader(opt, checkpoint))
    tester.second = partial(second_baseline, tester)
    return tester, opt


def test_it_stands_beside_the_trivial_method(trainer_of: TrainerOf, caplog: pytest.LogCaptureFixture) -> None:
    for run, samples in (("a", "--samples=4"), ("dense", "--samples=24")):
        trainer_of("--nEpochs=1", f"--run={run}", samples).run()
    tester, opt = beside("--baseline=dense")
    with caplog.at_level("INFO"):
        quality = tester.run(opt)["quality"]
    alone, _ = beside("--baseline=dense")
    dense = XSRCNNTester(
        find_subject(TestOptions().parse(["--testdata=images/val", "--run=dense"]))[0], alone.testing_loader
    )
    expected = dense.test(dense.build_model())
    for metric, values in quality.items():
        assert list(values) == ["bicubic", "run dense", "model"]
        assert values["run dense"] == pytest.approx(expected[metric])
        assert values["run dense"] != values["model"]
    assert "run dense" in caplog.text
    folder = Path("results/a")
    assert json.loads((folder / "report.json").read_text())["quality"] == quality
    assert "run dense" in (folder / "report.html").read_text()
    rows = list(openpyxl.load_workbook(folder / "report.xlsx")["quality"].iter_rows(min_row=2, values_only=True))
    assert ("psnr", "run dense") in [row[:2] for row in rows]
    assert not Path("results/dense/test_summary.json").exists()


def test_what_cannot_be_a_baseline_is_refused_before_anything_is_measured(trainer_of: TrainerOf) -> None:
    trainer_of("--nEpochs=1", "--run=a", "--samples=4").run()
    trainer_of("--nEpochs=1", "--run=large", "--samples=4", "--upscale_factor=3").run()
    renamed("a", "other", optform="Classify", task={})
    for run, message in (("other", "is of --optform=Classify"), ("large", "other data: scale 3 instead of 2")):
        tester, opt = beside(f"--baseline={run}")
        with pytest.raises(UserError, match=message):
            tester.run(opt)
    assert not Path("results/a/test_summary.json").exists()
    with pytest.raises(UserError, match="there is no run 'never'"):
        TestOptions().parse(["--baseline=never"])
    with pytest.raises(UserError, match="--baseline is beside the evaluation of a checkpoint"):
        TestOptions().parse(["--baseline=a", "--quantize=auto"])
