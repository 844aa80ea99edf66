"""Which dense run a new study starts from."""

import logging
from pathlib import Path

import pytest

pytest.importorskip("optuna")

from engine.search.agreement import _newest_dense
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
