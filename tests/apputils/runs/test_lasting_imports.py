"""The collector's pause while modules are imported."""

import gc
import subprocess
import sys

import pytest

from apputils.runs.lasting_imports import lasting_imports


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_as_it_was_whatever_happens(monkeypatch: pytest.MonkeyPatch, enabled: bool) -> None:
    calls: list[str] = []
    monkeypatch.setattr(gc, "isenabled", lambda: enabled)
    for name in ("enable", "disable", "freeze"):
        monkeypatch.setattr(gc, name, lambda name=name: calls.append(name))
    with pytest.raises(ImportError), lasting_imports():
        raise ImportError
    assert calls == ["disable", "freeze", *["enable"] * enabled]


def test_it_imports_nothing_heavy_itself() -> None:
    code = (
        "import sys, apputils.runs.lasting_imports, options.applications\n"
        "sys.exit(str({'torch', 'numpy', 'pandas', 'matplotlib', 'scipy'} & set(sys.modules) or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert not done.stderr.strip()
