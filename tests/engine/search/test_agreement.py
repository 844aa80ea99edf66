"""Which dense run a new study starts from, and whose clock it has."""

import json
import logging
from pathlib import Path

import pytest

pytest.importorskip("optuna")

from compress.analysis.latency_model.carried import read_model
from compress.errors import UserError
from compress.goals.goal import Goal
from engine.search.agreement import _device_of, _newest_dense, _on_a_device
from models.C2SRCNN.solver import C2SRCNNTrainer
from tests.compress.analysis.latency_model.test_carried import device_json
from tests.compress.analysis.latency_model.test_latency_model import Small, X
from tests.engine.conftest import TrainerOf


def test_a_dense_run_that_has_not_finished_is_passed_over_and_named(
    trainer_of: TrainerOf, caplog: pytest.LogCaptureFixture
) -> None:
    trainer_of("--nEpochs=1", "--run=whole").run()
    trainer = trainer_of("--nEpochs=2", "--run=half")
    with trainer.session, trainer.session.warnings:
        trainer.prepare(None)
        trainer.run_epoch(0)
    Path("logs/half/schedule.yaml").write_text("version: 1\n")
    Path("logs/whole/schedule.yaml").write_text("version: 1\n")
    caplog.set_level(logging.WARNING, "search")
    assert _newest_dense("SR") == "whole"
    assert (
        "the dense run half ended after 1 of 2 epochs and is passed over; python train.py --resume=half" in caplog.text
    )


def test_a_dense_run_of_the_default_length_is_taken(trainer_of: TrainerOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(C2SRCNNTrainer, "default_epochs", 1)
    trainer_of("--run=dense").run()
    assert _newest_dense("SR") == "dense"
    Path("results/dense/summary.json").unlink()
    assert _newest_dense("SR") is None


def test_a_study_keeps_the_model_of_its_device(here: Path) -> None:
    Path("device.json").write_text(json.dumps(device_json(Small().eval(), (X,))))
    kept, psnr = Path("studies/s/latency_model.json"), Goal("psnr", drop_at_most=0.1)
    goals = [Goal("latency", at_most=0.5), psnr]
    assert _on_a_device(goals, None, kept) == goals
    timed, other = _on_a_device(goals, "device.json", kept)
    assert (timed.to_dict()["device"], other) == (str(kept), psnr)
    assert read_model(kept).origin["processor"] == "Other"
    assert _device_of([Goal("latency", at_most=0.5, device="device.json")], None) == "device.json"
    with pytest.raises(UserError, match="is the clock of goals on latency, and there is none; nothing was started"):
        _device_of([psnr], "device.json")
    two = [Goal("latency", at_most=0.5, device="a.json"), Goal("latency", at_most=0.4, device="b.json")]
    with pytest.raises(UserError, match=r"about several machines \(a\.json, b\.json\); a search has one clock"):
        _device_of(two, None)
    with pytest.raises(UserError, match="has the times of onnxruntime, not of openvino; nothing was started"):
        _device_of([Goal("latency", at_most=0.5, runtime="openvino")], "device.json")
