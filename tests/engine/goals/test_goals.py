"""`train.py` and `test.py` measure a schedule's goals on the exported file, keep the record, and end with 4."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import nn

from apputils.checkpoints.file import load_checkpoint
from apputils.runs.console import GoalMissed, exit_codes
from compress.errors import UserError
from compress.goals.goal import Goal
from data.loaders import sr_testing_loader
from engine.goals.deployed import Deployed, judge_goals
from engine.goals.testing import judge_tested
from engine.goals.verdict import check_goals
from engine.saved.dense_baseline import DenseQuality
from engine.saved.find_checkpoint import find_subject
from models.SR.tester import XSRCNNTester
from options.Normal_options.test_options import TestOptions
from tests.engine.conftest import SCHEDULE, TrainerOf

QUICK = "  - {metric: file_bytes, at_most: 1_000_000}\n  - {metric: psnr, drop_at_most: 0.5}\n"


def with_goals(goals: str) -> None:
    Path("goals.yaml").write_text(SCHEDULE + "goals:\n" + goals)


def verdicts(record: dict[str, Any]) -> dict[str, str]:
    return {row["metric"]: row["verdict"] for row in record["rows"]}


def test_training_and_testing_measure_the_exported_file(
    trainer_of: TrainerOf, caplog: pytest.LogCaptureFixture
) -> None:
    trainer_of("--nEpochs=1", "--run=dense").run()
    with_goals(QUICK + "  - {metric: latency, at_most: 100}\n  - {metric: macs, at_most: 1}\n")
    trainer = trainer_of("--compress=goals.yaml", "--nEpochs=3", "--run=a", "--start-from=dense")
    with caplog.at_level("INFO"):
        summary = trainer.run()
    record = summary["goals"]
    assert verdicts(record) == {"file_bytes": "met", "psnr": "met", "latency": "met", "macs": "missed"}
    assert (record["verdict"], record["dense"]) == ("missed", "run dense")
    assert "goals: missed; measured on results/a/network.onnx, dense network: run dense" in caplog.text
    assert json.loads(Path("results/a/summary.json").read_text())["goals"] == record
    rows = {row["metric"]: row for row in record["rows"]}
    assert rows["file_bytes"]["value"] == Path("results/a/network.onnx").stat().st_size
    assert rows["macs"]["value"] == summary["macs"]
    assert rows["latency"]["noise"] > 0
    of_dense, own = psnr_of("dense"), summary["quality"]["psnr"]["model"]
    assert rows["psnr"]["value"] == pytest.approx(of_dense - own, abs=2e-3)  # the file's rounding
    with pytest.raises(GoalMissed, match="goals missed: macs at most 1"):
        check_goals(summary)
    x = torch.rand(1, 3, 24, 24)
    session = onnxruntime.InferenceSession("results/a/network.onnx")
    [found] = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), trainer.model.eval()(x), rtol=1e-4, atol=1e-5)
    _test_data_have_their_own_record(x)


def _test_data_have_their_own_record(x: torch.Tensor) -> None:
    """What `test.py` finds on other images, the dense run found without being named."""
    tester, dense = evaluation("--run=a"), evaluation("--run=dense")
    tester.checkpoint["options"]["start_from"] = None
    tester.checkpoint["schedule"]["goals"] = [{"metric": "psnr", "drop_at_most": 0.5}]
    model, exported = tester.build_model(), {"files": {"network.onnx": {"quality": {"psnr": 12.0}}}}
    record = judge_tested(tester, model, [(x,)], exported, {})
    assert record is not None
    assert record["dense"] == "run dense"
    assert record["measured_on"] == tester.data_facts()
    assert record["rows"][0]["value"] == pytest.approx(dense.test(dense.build_model())["psnr"] - 12)
    known = judge_tested(tester, model, [(x,)], exported, {"teacher": {"psnr": 11.0}})
    assert known is not None
    assert known["rows"][0]["value"] == -1
    with pytest.raises(GoalMissed, match="goals not measured: --no-export leaves the file out"):
        check_goals({"goals": judge_tested(tester, model, [(x,)], None, {})})


def psnr_of(run: str) -> float:
    """The validation PSNR that a run's own summary tells."""
    return float(json.loads(Path(f"results/{run}/summary.json").read_text())["quality"]["psnr"]["model"])


def evaluation(*arguments: str) -> XSRCNNTester:
    opt, checkpoint = find_subject(TestOptions().parse(["--testdata=images/val", *arguments]))
    return XSRCNNTester(opt, sr_testing_loader(opt, checkpoint))


def test_without_a_dense_network_a_drop_cannot_be_judged(net: nn.Module, tmp_path: Path) -> None:
    file = tmp_path / "network.onnx"
    file.write_bytes(b"12345")
    inputs, none = (torch.zeros(1, 3, 8, 8),), lambda: "no dense network to compare with"
    subject = Deployed(net, file, {"psnr": 30.0, "loss": 1.0}, {"loss": False}, net, none, inputs, inputs, 1, {})
    goals = [Goal("psnr", drop_at_most=0.1), Goal("ssim", at_least=1), Goal("file_bytes", at_most=5)]
    summary = {"goals": judge_goals(goals, subject)}
    assert [row["verdict"] for row in summary["goals"]["rows"]] == ["not measured", "not measured", "met"]
    said = r"goals not measured: psnr drop at most 0.1 \(no dense network to compare with\), ssim at least 1 \(the app"
    with pytest.raises(GoalMissed, match=said):
        check_goals(summary)
    known = replace(subject, dense_quality=lambda: DenseQuality("run d", {"psnr": 30.05, "loss": 1.5}))
    record = judge_goals([Goal("psnr", drop_at_most=0.1), Goal("loss", drop_at_most=0.1)], known)
    assert [row["value"] for row in record["rows"]] == [pytest.approx(0.05), -0.5]  # less of a loss is better


def test_a_new_run_starts_from_the_weights_of_another(trainer_of: TrainerOf) -> None:
    trainer_of("--nEpochs=1", "--run=dense").run()
    trainer = trainer_of("--nEpochs=1", "--start-from=dense", "--seed=7")
    trainer.build()
    best = load_checkpoint(Path("checkpoints/dense/best.pt"))["model"]
    assert all(torch.equal(value, best[name]) for name, value in trainer.model.state_dict().items())


def test_what_cannot_be_started_from_is_refused(trainer_of: TrainerOf) -> None:
    trainer_of("--nEpochs=1", "--run=dense").run()
    with pytest.raises(UserError, match=r"--start-from=dense: its network was made with .*nothing was started"):
        trainer_of("--start-from=dense", "--upscale_factor=3").build()
    with pytest.raises(UserError, match="dens"):
        trainer_of("--start-from=dens")
    with pytest.raises(UserError, match="--start-from starts a new run, and --resume continues"):
        trainer_of("--resume=dense", "--start-from=dense")


def test_the_exit_code_of_a_missed_goal_is_4(capsys: pytest.CaptureFixture[str]) -> None:
    @exit_codes
    def main() -> None:
        check_goals({"goals": {"verdict": "missed", "rows": [{"goal": "macs at most 1", "verdict": "missed"}]}})

    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 4
    assert capsys.readouterr().err == "goals missed: macs at most 1\n"
    check_goals({})
    check_goals({"goals": {"verdict": "undecided", "rows": [{"goal": "macs at most 1", "verdict": "undecided"}]}})
