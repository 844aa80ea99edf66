"""Packages of a runtime that abort, hang or refuse, in front of the real ones, for this process and its workers."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

ABORTS = "import os\nos.abort()\n"
HANGS = "import time\ntime.sleep(60)\n"
REFUSES = "raise ImportError('libgomp.so.1: cannot open shared object file')\n"
BrokenPackage = Callable[[str, str], None]


@pytest.fixture
def broken_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BrokenPackage:
    """Puts a package of a name and a source in front."""

    def put(name: str, source: str) -> None:
        folder = tmp_path / "broken"
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "__init__.py").write_text(source)
        monkeypatch.syspath_prepend(folder)
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))

    return put
