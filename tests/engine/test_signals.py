"""SIGINT and SIGTERM."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from apputils.checkpoints.file import load_checkpoint
from apputils.checkpoints.rotation import progress
from apputils.runs.console import Interrupted
from engine.signals import SIGNALS, Interrupts, raising_signals
from models.C2SRCNN.solver import C2SRCNNTrainer
from tests.engine.conftest import TrainerOf
from tests.engine.dying import differences, state_of


def interrupted_at(monkeypatch: pytest.MonkeyPatch, name: str, call: int, number: int, run: Any) -> int:
    """The exit code of a run that gets a signal at a call of a method of its trainer."""
    original, calls = getattr(C2SRCNNTrainer, name), []

    def signalled(self: C2SRCNNTrainer, *args: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), number)
        return original(self, *args)

    with monkeypatch.context() as patched:
        patched.setattr(C2SRCNNTrainer, name, signalled)
        with pytest.raises(Interrupted, match=f"{signal.Signals(number).name}: saved; --resume=cut") as end:
            run()
    return end.value.code


def test_the_step_is_finished_and_saved_and_the_run_goes_on_exactly(
    trainer_of: TrainerOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    handlers = [signal.getsignal(each) for each in SIGNALS]
    given = ("--compress=schedule.yaml", "--nEpochs=2", "--threads=1")
    trainer_of(*given, "--run=whole").run()
    new = trainer_of(*given, "--run=cut")
    assert interrupted_at(monkeypatch, "compute_loss", 2, signal.SIGTERM, new.run) == 143
    last = Path("checkpoints/cut/last.pt")
    assert progress(load_checkpoint(last)) == "epoch 0, 2 of 3 steps"
    again = trainer_of("--resume=cut")
    assert interrupted_at(monkeypatch, "validate", 1, signal.SIGINT, again.run) == 130
    assert progress(load_checkpoint(last)) == "epoch 0 finished"
    assert [signal.getsignal(each) for each in SIGNALS] == handlers
    trainer_of("--resume=cut").run()
    assert not differences(state_of("whole"), state_of("cut"))


@pytest.mark.parametrize("number", SIGNALS)
def test_a_second_signal_ends_the_process_at_once(number: signal.Signals) -> None:
    child = os.fork()
    if child == 0:
        signal.signal(number, signal.SIG_DFL)  # what nohup ignores stays ignored
        with Interrupts() as interrupts:
            os.kill(os.getpid(), number)
            if interrupts.asked is number:  # the first was noted, and the process lives
                os.kill(os.getpid(), number)
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -number


def test_workers_of_a_loader_take_no_note() -> None:
    with Interrupts() as interrupts:
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGINT)
            os._exit(7 if interrupts.asked is None else 8)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_nothing_happens_without_a_signal() -> None:
    with Interrupts() as interrupts:
        interrupts.end_if_asked("a")


def ended_between_runs() -> None:
    with raising_signals():
        with Interrupts() as inner:
            os.kill(os.getpid(), signal.SIGTERM)  # a run takes note, and ends after its step
            assert inner.asked is signal.SIGTERM
        os.kill(os.getpid(), signal.SIGTERM)


def test_between_runs_a_signal_raises() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="SIGTERM: everything is saved") as e:
        ended_between_runs()
    assert e.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before
