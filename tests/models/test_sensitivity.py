"""The sensitivity analysis of `test.py`."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from apputils.sensitivity.changes import prune_elements
from compress.errors import UserError
from models.sensitivity import COARSE, SensitivityRequest
from options.Normal_options.test_options import TestOptions
from tests.models.conftest import TrainerOf
from tests.models.test_tester import evaluation as built


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
        (["--write-schedule=0.1", "--sense=none"], "needs an analysis"),
        (["--write-schedule=0.1", "--sense=bits"], "not by bits"),
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
