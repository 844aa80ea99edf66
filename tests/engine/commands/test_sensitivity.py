"""The sensitivity analysis of `test.py`."""

import itertools
import json
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from PIL import Image

from compress.analysis.sensitivity.changes import prune_elements
from compress.errors import UserError
from data.loaders import sr_testing_loader
from engine.commands import sensitivity
from engine.commands.sensitivity import COARSE, SensitivityRequest
from engine.saved.find_checkpoint import find_subject
from engine.search.shares import SharedCurves
from models.SR.tester import XSRCNNTester
from options.Normal_options.test_options import TestOptions
from tests.engine.conftest import TrainerOf
from tests.engine.test_tester import evaluation as built


def test_the_tester_offers_its_evaluation_taken_apart(trainer_of: TrainerOf) -> None:
    trainer_of("--compress=schedule.yaml", "--run=a").run()
    tester, _ = built("--full")
    model = tester.build_model()
    assert tester.evaluation()(model) == pytest.approx(tester.test(model))
    assert tester.higher_is_better == dict.fromkeys(tester.test(model), True)


def test_a_coarse_analysis_by_default_and_its_schedule_trains(
    trainer_of: TrainerOf, caplog: pytest.LogCaptureFixture
) -> None:
    trainer_of("--compress=schedule.yaml", "--run=a").run()
    tester, opt = built("--no-export", "--no-report", "--write-schedule=tolerance=1.5")
    tester.run(opt)
    assert "runs the whole network each time" not in caplog.text
    stem = Path("results/a/sensitivity_element")
    assert all(stem.with_suffix(ending).exists() for ending in (".xlsx", ".png", ".json", ".yaml"))
    table = pd.read_excel(stem.with_suffix(".xlsx"), sheet_name="values")
    assert list(table["level"])[:5] == [0, *COARSE]
    assert len(table["weight"].unique()) == 8
    row, model = table.iloc[9], tester.build_model()
    weight = model.get_parameter(row["weight"])
    with torch.no_grad():
        weight.copy_(prune_elements(weight, row["level"]))
    assert row["psnr"] == pytest.approx(tester.test(model)["psnr"], abs=1e-3)
    levels = {row["weight"]: row["level"] for row in json.loads(stem.with_suffix(".json").read_text())["suggestion"]}
    trainer = trainer_of(f"--compress={stem}.yaml", "--nEpochs=11", "--run=b", "--strict")
    trainer.run()
    for name, level in levels.items():
        zeros = float((trainer.model.get_parameter(name) == 0).float().mean())
        assert zeros == pytest.approx(level, abs=0.02)
    assert max(levels.values()) > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--write-schedule=tolerance=-1"], "give tolerance=X, 0 or more"),
        (["--write-schedule=much"], "give tolerance=X, 0 or more"),
        (["--write-schedule=0.1", "--tolerance=0.2"], "contradict each other"),
        (["--write-schedule=0.1", "--sense=none"], "analysis, which --sense=none leaves out"),
    ],
)
def test_wrong_requests_are_refused_before_anything_is_measured(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SensitivityRequest.of(TestOptions().parse(arguments))


def test_requests() -> None:
    def request(*arguments: str) -> SensitivityRequest:
        return SensitivityRequest.of(TestOptions().parse(list(arguments)))

    assert request() == SensitivityRequest("element", False, 1, None, False)
    assert request("--write-schedule=tolerance=0.1", "--jobs=2") == SensitivityRequest("element", False, 2, 0.1, True)
    assert request("--tolerance=0.2", "--sense=bits", "--full") == SensitivityRequest("bits", True, 1, 0.2, False)
    assert request("--sense-data=validation").data == "validation"


@pytest.mark.parametrize("data", ["test", "validation"])
def test_the_levels_are_chosen_on_the_data_that_are_named(trainer_of: TrainerOf, data: str) -> None:
    trainer_of("--nEpochs=1", "--run=a", "--samples=4").run()
    images = Path("images/other")
    images.mkdir()
    Image.open("images/train/train0.png").transpose(Image.Transpose.ROTATE_90).save(images / "0.png")
    opt, checkpoint = find_subject(
        TestOptions().parse(["--testdata=images/other", f"--sense-data={data}", "--write-schedule=tolerance=50"])
    )
    tester = XSRCNNTester(opt, sr_testing_loader(opt, checkpoint))
    model = tester.build_model()
    held_out = tester.training_data()[1]
    SensitivityRequest.of(opt).run(tester, model)
    record = json.loads(Path("results/a/sensitivity_element.json").read_text())
    if data == "validation":
        tester.testing_loader = held_out
    assert record["dense"]["psnr"] == pytest.approx(tester.evaluation()(model)["psnr"])
    header = Path("results/a/sensitivity_element.yaml").read_text().split("version:")[0]
    assert f"# Measured on the {data} data before any training" in header
    assert ("chosen by these test images" in header) == (data == "test")


@pytest.mark.slow
def test_processes_share_an_analysis(trainer_of: TrainerOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three workers, of which two die inside a curve: what they left is measured, and the numbers are those of one."""
    pytest.importorskip("optuna")
    trainer_of("--nEpochs=1", "--run=a", "--samples=4").run()
    tester, opt = built("--no-export", "--no-report")
    model = tester.build_model()
    SensitivityRequest.of(opt).run(tester, model)
    whole = Path("results/a/sensitivity_element.json")
    alone = json.loads(whole.read_text())["weights"]
    whole.unlink()
    _, shared = built("--no-export", "--no-report", "--sense-queue")
    asked: list[str] = []

    def stopped_after(count: int, take: Any, names: Any) -> Any:
        for name in itertools.islice(take(names), count):
            asked.append(name)
            yield name

    take = SharedCurves.take
    with monkeypatch.context() as patch:
        for worker in ("one", "two"):  # each leaves after a curve, before it is told that this is done
            patch.setattr(sensitivity, "worker_name", lambda worker=worker: worker)
            patch.setattr(SharedCurves, "take", lambda self, names: stopped_after(2, partial(take, self), names))
            assert SensitivityRequest.of(shared).run(tester, model) is None
    assert SensitivityRequest.of(shared).run(tester, model) is not None
    parts = [json.loads(each.read_text())["weights"] for each in Path("results/a").glob("sensitivity_element_part_*")]
    assert sorted(map(len, parts)) == [2, 2, len(alone) - 2]
    together = json.loads(whole.read_text())["weights"]
    assert together.keys() == alone.keys()
    for name in alone:
        for own, other in zip(alone[name], together[name], strict=True):
            assert own["level"] == other["level"]
            assert own["metrics"] == pytest.approx(other["metrics"], abs=1e-5)
    assert asked == [*asked[:2], asked[1], asked[3]]  # what the first left is the second's first


@pytest.mark.slow
def test_several_processes_measure_what_one_does(trainer_of: TrainerOf) -> None:
    trainer_of("--nEpochs=1", "--run=a", "--samples=4").run()
    found = []
    for jobs in (1, 2):
        tester, opt = built("--no-export", "--no-report", "--sense=filter", f"--jobs={jobs}")
        SensitivityRequest.of(opt).run(tester, tester.build_model())
        record = Path("results/a/sensitivity_filter.json")
        found.append(json.loads(record.read_text())["weights"])
        record.unlink()
    assert found[0].keys() == found[1].keys()
    for name, rows in found[0].items():
        for own, other in zip(rows, found[1][name], strict=True):
            assert own["metrics"] == pytest.approx(other["metrics"], abs=1e-5)
