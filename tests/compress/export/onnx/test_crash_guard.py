"""Work in a process of its own."""

import os
import time
from pathlib import Path

import pytest

from compress.errors import UserError
from compress.export.onnx import crash_guard
from compress.export.onnx.crash_guard import Apart, Ended, apart


def test_the_result_comes_back() -> None:
    here = os.getpid()
    assert apart(lambda: os.getpid() != here, "it")


def test_errors_for_people_come_back() -> None:
    def refuse() -> None:
        raise UserError("what to change")

    with pytest.raises(UserError, match="what to change"):
        apart(refuse, "it")


def test_a_signal_is_an_error_message() -> None:
    with pytest.raises(Ended, match=r"it ended by signal 6 \(SIGABRT\)"):
        apart(os.abort, "it")


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="the system does not say whether a process sleeps")
def test_what_stands_still_in_the_child_is_done_here(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(crash_guard, "CHECK", 0.02)
    monkeypatch.setattr(crash_guard, "STANDS_STILL", 0.1)
    here = os.getpid()

    def work() -> int:
        if os.getpid() != here:
            time.sleep(600)
        return 5

    assert apart(work, "the export") == 5
    assert "the export stood still in a process of its own; it is done in this one instead" in caplog.text


@pytest.mark.skipif(
    not os.path.exists("/proc/self/stat"), reason="the system does not say how long a process has worked"
)
@pytest.mark.parametrize("advice", ["try it smaller", ""])
def test_what_takes_long_says_what_may_help_once(
    advice: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(crash_guard, "CHECK", 0.02)
    monkeypatch.setattr(crash_guard, "LONG", 0.0)
    with caplog.at_level("INFO", "run"):
        apart(lambda: time.sleep(0.2), "the export", advice)
    assert caplog.messages == (["the export has worked for more than a minute; try it smaller"] if advice else [])


def test_this_process_works_meanwhile(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"

    def work() -> str:
        there.touch()
        while not here.exists():
            time.sleep(0.01)
        return "both"

    with Apart(work, "it") as other:
        while not there.exists():
            time.sleep(0.01)
        here.touch()
        assert other.result() == "both"
    other.stop()  # it has ended: nothing happens


def test_an_error_meanwhile_ends_the_other_process(tmp_path: Path) -> None:
    def work() -> None:
        time.sleep(600)

    other = Apart(work, "it")
    child = other._child
    with pytest.raises(KeyError), other:
        raise KeyError
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="the system does not say which processes wait")
def test_a_process_that_waits_for_one_that_works_does_not_stand_still(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(crash_guard, "CHECK", 0.02)
    monkeypatch.setattr(crash_guard, "STANDS_STILL", 0.1)

    def work() -> int:
        until = time.monotonic() + 0.4
        while time.monotonic() < until:
            pass
        return os.getppid()

    def waits() -> tuple[int, int]:
        crash_guard.CHECK = 60
        return os.getpid(), apart(work, "the inner one")

    child, parent_of_inner = apart(waits, "the outer one")
    assert child == parent_of_inner
    assert not caplog.messages
