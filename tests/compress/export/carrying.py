"""A bundle on another machine: `carried`, for the tests of what measure.py writes there."""

import shutil
import subprocess
import sys
from pathlib import Path


def carried(bundle: Path, there: Path) -> tuple[list[str], str]:
    """Copies a bundle and measures there, where torch and onnx refuse to be imported; the command, and its output."""
    shutil.copytree(bundle, there)
    for name in ("torch", "onnx"):
        (there / f"{name}.py").write_text("raise ImportError('it is not on a device')\n")
    command = [sys.executable, "-E", "-s", str(there / "measure.py"), "--rounds", "2", "--seconds", "0.001"]
    done = subprocess.run(command, cwd=there.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return command, done.stdout
