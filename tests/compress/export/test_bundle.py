"""A bundle, carried elsewhere and run there without torch and without this project; its results read again."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from compress.errors import UserError
from compress.export.bundle import read_device_results, write_bundle
from tests.compress.export.runtimes.test_measure import net, quantized


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "bundle"
    example = (torch.rand(1, 3, 9, 9),)
    networks = {"dense": net(), "int8": quantized(net(), example[0])}
    assert write_bundle(folder, networks, example, ["onnxruntime"], "my_run") == []
    return folder


def test_it_measures_where_neither_torch_nor_this_project_is(bundle: Path, tmp_path: Path) -> None:
    """A module that refuses stands in for torch; the project is not on the path."""
    there = tmp_path / "device"
    shutil.copytree(bundle, there)
    (there / "torch.py").write_text("raise ImportError('there is no torch on a device')\n")
    command = [sys.executable, "-E", "-s", str(there / "measure.py"), "--rounds", "2", "--seconds", "0.001"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = read_device_results(there / "device.json", "my_run")
    dense, int8 = found["rows"]
    assert dense["error"] is None, dense
    assert dense["max"] < 1e-5
    assert int8["max"] < 0.02 * int8["largest"]
    assert int8["integer"] == 2
    assert int8["ms"] > 0
    assert found["machine"]["cores"] > 0
    assert "onnxruntime, int8, float32: " in done.stdout
    again = subprocess.run([*command[:4], "no_such"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "this bundle has no files for no_such" in again.stderr


def test_a_file_that_does_not_run_is_a_row(bundle: Path, tmp_path: Path) -> None:
    there = tmp_path / "device"
    shutil.copytree(bundle, there)
    files = json.loads((there / "manifest.json").read_text())
    (there / files["files"][0]["file"]).write_bytes(b"broken")
    command = [sys.executable, "-E", "-s", str(there / "measure.py"), "--rounds", "2", "--seconds", "0.001"]
    subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    rows = read_device_results(there / "device.json", "my_run")["rows"]
    assert rows[0]["error"]
    assert rows[1]["ms"] > 0


def test_what_is_refused(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not empty; give a new folder"):
        write_bundle(bundle, {"a": net()}, (torch.rand(1, 3, 9, 9),), ["onnxruntime"], "r")
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(UserError, match=r"was not written by a bundle's measure\.py"):
        read_device_results(tmp_path / "a.json", "r")
    (tmp_path / "b.json").write_text(json.dumps({"run": "other", "machine": {}, "rows": [], "how": {}}))
    with pytest.raises(UserError, match="is of run other, not of r"):
        read_device_results(tmp_path / "b.json", "r")
    (tmp_path / "c.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read as JSON"):
        read_device_results(tmp_path / "c.json", "r")
