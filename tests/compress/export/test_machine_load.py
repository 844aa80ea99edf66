"""What others computed while something was timed."""

import os
from pathlib import Path

import pytest

from compress.export import machine_load
from compress.export.machine_load import STAT, OthersLoad, load_text
from tests.clock import Clock


def test_what_others_compute_is_the_machines_work_less_ones_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clock, own, ticks = Clock(), [0.0], os.sysconf("SC_CLK_TCK")
    monkeypatch.setattr(machine_load, "time", clock)
    monkeypatch.setattr(machine_load, "_own_seconds", lambda: own[0])
    monkeypatch.setattr(machine_load, "STAT", tmp_path / "stat")
    user, nice, system, idle, waiting = 500, 20, 100, 9000, 70
    (tmp_path / "stat").write_text(f"cpu  {user} {nice} {system} {idle} {waiting} 0 0 0 0 0\n")
    with OthersLoad() as load:
        clock.sleep(2.0)
        own[0] = 1.5
        user, system, idle, waiting = user + 4 * ticks, system + ticks // 2, idle + 99 * ticks, waiting + 9 * ticks
        (tmp_path / "stat").write_text(f"cpu  {user} {nice} {system} {idle} {waiting} 0 0 0 0 0\n")
    assert load.cores == pytest.approx((4.5 - 1.5) / 2)


@pytest.mark.skipif(not STAT.is_file(), reason="needs /proc/stat")
def test_this_machine_tells() -> None:
    with OthersLoad() as load:
        pass
    assert load.cores is not None


def test_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "did nothing else" in load_text(0.01)
    assert "kept 1.5 of" in load_text(1.5)
    monkeypatch.setattr(machine_load, "STAT", tmp_path / "absent")
    with OthersLoad() as load:
        pass
    assert load.cores is None
    assert "not known" in load_text(load.cores)
