"""A bundle, carried elsewhere and run there without torch and without this project; its results read again."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from compress.errors import UserError
from compress.export import on_device
from compress.export.bundle import ROW, check_free, read_device_results, write_bundle
from compress.export.on_device import measured
from compress.export.onnx.export_report import ExportSettings
from compress.export.runtimes.base import Source
from tests.compress.export.carrying import carried
from tests.compress.export.runtimes.broken_packages import ABORTS, HANGS, REFUSES, BrokenPackage, broken_package
from tests.compress.export.runtimes.test_measure import net, quantized

__all__ = ["broken_package"]
WHOLE = {"cpu": "", "machine": "", "cores": 1, "system": "", "date": ""}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "bundle"
    example = (torch.rand(1, 3, 9, 9),)
    networks = {"dense": net(), "int8": quantized(net(), example[0])}
    assert write_bundle(folder, networks, example, ["onnxruntime"], "my_run") == []
    return folder


def test_it_measures_where_neither_torch_nor_this_project_is(bundle: Path, tmp_path: Path) -> None:
    """Modules that refuse stand in for torch and onnx; the project is not on the path."""
    there = tmp_path / "device"
    _, printed = carried(bundle, there)
    found = read_device_results(there / "device.json", "my_run")
    dense, int8 = found["rows"]
    assert dense["error"] is None, dense
    assert dense["max"] < 1e-5
    assert int8["max"] < 0.02 * int8["largest"]
    assert int8["integer"] == 2
    assert int8["ms"] > 0
    assert dense["ratio"] == 1
    assert int8["ratio"] > 0
    assert found["machine"]["cores"] > 0
    assert "onnxruntime, int8, int8, rest float32: " in printed
    assert "2 of 3 layers in integers" in printed


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
    other = {"run": "other", "machine": WHOLE, "rows": [], "how": {"threads": 1, "rounds": 2}}
    (tmp_path / "b.json").write_text(json.dumps(other))
    with pytest.raises(UserError, match="is of run other, not of r"):
        read_device_results(tmp_path / "b.json", "r")
    (tmp_path / "c.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read as JSON"):
        read_device_results(tmp_path / "c.json", "r")
    for damaged in (
        ["run", "machine", "rows", "how"],
        {"run": "r", "machine": {}, "rows": [], "how": {"threads": 1, "rounds": 2}},
        {"run": "r", "machine": WHOLE, "rows": [{"runtime": "onnxruntime"}], "how": {"threads": 1, "rounds": 2}},
        *(
            {
                "run": "r",
                "machine": WHOLE,
                "rows": [{**dict.fromkeys(ROW), "ms": ms}],
                "how": {"threads": 1, "rounds": 2},
            }
            for ms in (-3, 0, float("nan"), float("inf"), "1", True)
        ),
    ):
        (tmp_path / "d.json").write_text(json.dumps(damaged))
        with pytest.raises(UserError, match=r"was not written by a bundle's measure\.py"):
            read_device_results(tmp_path / "d.json", "r")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written: .*; nothing was written"):
        write_bundle(tmp_path / "file" / "bundle", {"a": net()}, (torch.rand(1, 3, 9, 9),), ["onnxruntime"], "r")
    with pytest.raises(UserError, match="no runtime can convert here: tensorrt"):
        write_bundle(tmp_path / "new", {"a": net()}, (torch.rand(1, 3, 9, 9),), ["tensorrt"], "r")
    assert not (tmp_path / "new").exists()


def test_nothing_is_left_where_no_runtime_could_convert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def source(*given: object) -> Source:
        (tmp_path / "bundle" / "sources" / "0").mkdir(parents=True)
        return Source("a", False, (), ((1, 4),), faults=(("onnx", "no operation"),))

    monkeypatch.setattr("compress.export.bundle.write_source", source)
    for _ in range(2):  # a new folder, and one that was there
        with pytest.raises(UserError, match="no runtime could convert: onnxruntime, a: no operation; nothing was wr"):
            write_bundle(tmp_path / "bundle", {"a": net()}, (torch.rand(1, 4),), ["onnxruntime"], "r")
        assert not list((tmp_path / "bundle").glob("*"))
        (tmp_path / "bundle").mkdir(exist_ok=True)
    check_free(tmp_path / "another" / "bundle")
    assert not (tmp_path / "another").exists()


@pytest.mark.parametrize(("source", "message"), [
    (ABORTS, r"onnxruntime crashes when it loads or runs it, with signal 6 (SIGABRT)"),
    (HANGS, "onnxruntime did not load and run it within 1 s"),
    (REFUSES, ""),
])  # fmt: skip
def test_a_runtime_that_crashes_on_the_device_ends_nothing_else(
    source: str, message: str, tmp_path: Path, broken_package: BrokenPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_package("onnxruntime", source)
    if source == HANGS:
        monkeypatch.setattr(on_device, "LIMIT", 1.0)
    np.savez(tmp_path / on_device.INPUTS, **{"000": np.zeros((1, 2), np.float32)})
    file = {"runtime": "onnxruntime", "file": "a.onnx", "precision": "float32"}
    assert on_device._crash_of(tmp_path, file, 1) == message


@pytest.mark.slow
def test_outputs_of_any_type_and_narrow_formats(tmp_path: Path) -> None:
    """A mask and an index beside a float; measured by the same code in this process."""

    class Several(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            found = self.layer(x)
            return found, found > 0, found.argmax(1)

    folder, half = tmp_path / "bundle", ExportSettings(format="float16")
    torch.manual_seed(0)
    given = {"net": Several().eval()}
    assert not write_bundle(
        folder, given, (torch.rand(2, 4),), ["onnxruntime"], "r", narrow={"net, float16": ("net", half)}
    )
    files = json.loads((folder / "manifest.json").read_text())["files"]
    rows = measured(folder, files, 1, 2, 0.001)
    assert [row["error"] for row in rows] == [None, None]
    assert rows[0]["max"] < 1e-6
    assert 1e-7 < rows[1]["max"] < 1e-2


@pytest.mark.parametrize(("arguments", "said"), [
    (["--rounds", "1"], "given 1; a whole number, 2 or more"),
    (["--threads", "0"], "given 0; a whole number, 1 or more"),
    (["--out", "no_such_folder/a.json"], "cannot be written"),
    (["no_such"], "this bundle has no files for no_such, but for onnxruntime"),
])  # fmt: skip
def test_what_measure_refuses(
    bundle: Path, arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(on_device, "__file__", str(bundle / "measure.py"))
    with pytest.raises(SystemExit) as ended:
        on_device.main(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_a_bundle_in_parts_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(on_device, "__file__", str(tmp_path / "measure.py"))
    with pytest.raises(SystemExit, match="2"):
        on_device.main([])
    assert "lacks manifest.json, inputs.npz, expected.npz; copy the whole folder" in capsys.readouterr().err


def test_a_bundle_without_one_of_its_files_is_refused(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(bundle, tmp_path / "copied")
    gone = json.loads((bundle / "manifest.json").read_text())["files"][0]["file"]
    (tmp_path / "copied" / gone).unlink()
    monkeypatch.setattr(on_device, "__file__", str(tmp_path / "copied" / "measure.py"))
    with pytest.raises(SystemExit, match="2"):
        on_device.main([])
    assert f"lacks {gone}; copy the whole folder" in capsys.readouterr().err


def test_a_wrong_row_of_a_device_has_no_ratio(bundle: Path) -> None:
    """What was expected is ten times what the file gives: its time is not that of this network."""
    files = json.loads((bundle / "manifest.json").read_text())["files"]
    load = np.load
    expected = {name: 10 * each for name, each in load(bundle / "expected.npz").items() if name.startswith("int8")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(on_device.np, "load", lambda path: _Held(load(path), expected))
        dense, int8 = on_device.measured(bundle, files, 1, 2, 0.001)
    assert (dense["wrong"], dense["ratio"]) == ("", 1)
    assert int8["ratio"] is None
    assert int8["ms"] > 0
    assert "wrong results" in on_device.line_of(int8)


class _Held:
    def __init__(self, arrays: Any, instead: dict[str, Any]) -> None:
        self._arrays = {**dict(arrays), **{name: each for name, each in instead.items() if name in arrays}}
        self.files = list(self._arrays)

    def __getitem__(self, name: str) -> Any:
        return self._arrays[name]
