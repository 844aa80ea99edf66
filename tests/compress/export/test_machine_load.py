"""What others computed while something was timed."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from compress.export import machine_load
from compress.export.machine_load import STAT, OthersLoad, load_text

BUSY = "import time\nend = time.perf_counter() + 1.5\nwhile time.perf_counter() < end: pass"


@pytest.mark.skipif(not STAT.is_file(), reason="needs /proc/stat")
def test_another_process_is_noticed() -> None:
    with OthersLoad() as load:
        other = subprocess.Popen([sys.executable, "-c", BUSY])
        time.sleep(0.6)
    other.kill()
    other.wait()
    assert load.cores is not None
    assert load.cores > 0.1  # a whole core, less what this machine's other work takes from it


def test_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "did nothing else" in load_text(0.01)
    assert "kept 1.5 of" in load_text(1.5)
    monkeypatch.setattr(machine_load, "STAT", tmp_path / "absent")
    with OthersLoad() as load:
        pass
    assert load.cores is None
    assert "not known" in load_text(load.cores)
