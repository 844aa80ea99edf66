"""Every benchmark that is a script says what it does when it is asked for help, and does nothing else."""

import re
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


@pytest.mark.parametrize("name", sorted(each.name for each in FOLDER.glob("*.py")))
def test_a_file_finds_the_project_from_any_folder(name: str) -> None:
    """`python benchmarks/NAME.py` has its own folder on the path, not the one above."""
    text = (FOLDER / name).read_text(encoding="utf-8")
    ours = re.search(r"^from (apputils|benchmarks|compress|data|engine|models)\b", text, re.MULTILINE)
    assert ours is None or "sys.path.insert(0, " in text[: ours.start()]
