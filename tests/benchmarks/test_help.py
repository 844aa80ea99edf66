"""Every benchmark that is a script says what it does when it is asked for help, and does nothing else."""

import runpy
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
SCRIPTS = sorted(each.name for each in FOLDER.glob("*.py") if "__main__" in each.read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_help_is_printed_and_nothing_runs(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(SystemExit, match="^0$"):
        runpy.run_path(str(FOLDER / name), run_name="__main__")
    printed = capsys.readouterr().out
    assert "usage:" in printed
    assert len(printed.splitlines()) > 5, "what it measures, not only its options"
    assert not list(tmp_path.iterdir())
