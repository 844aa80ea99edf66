"""What is refused before anything is computed, and which runtime times the layers on a device."""

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

from compress.errors import UserError
from engine.commands.runtimes import _clock, check_asked, keep_device_results


def test_the_first_named_one_with_a_profiler_times_the_layers() -> None:
    assert (_clock(None), _clock(["all"]), _clock(["litert", "openvino", "onnxruntime"])) == (
        "onnxruntime", "onnxruntime", "openvino",
    )  # fmt: skip
    with pytest.raises(UserError, match="layers are timed by onnxruntime or openvino, and --runtimes names neither"):
        _clock(["litert"])


@pytest.mark.parametrize(("option", "value", "message"), [
    ("runtimes", ("openvin",), "unknown runtime 'openvin'; did you mean 'openvino'"),
    ("device_results", "a.json", "cannot be read as JSON"),
    ("bundle", ".", "is not empty"),
    ("layer_table", True, "--runtimes names neither"),
])  # fmt: skip
def test_it_is_refused_before_anything_is_computed(
    option: str, value: object, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.json").write_text("{")
    given = {"runtimes": ("ncnn",), "device_results": None, "bundle": None, "layer_table": False, option: value}
    tester = SimpleNamespace(config=SimpleNamespace(**given), folders=SimpleNamespace(name="r"))
    with pytest.raises(UserError, match=message):
        check_asked(tester)  # type: ignore[arg-type]


def test_a_bundle_for_no_runtime_leaves_no_folder(tmp_path: Path) -> None:
    given = {"runtimes": ("tensorrt",), "device_results": None, "bundle": str(tmp_path / "new"), "layer_table": False}
    tester = SimpleNamespace(config=SimpleNamespace(**given), folders=SimpleNamespace(name="r"))
    with pytest.raises(UserError, match="no runtime can convert here: tensorrt"):
        check_asked(tester)  # type: ignore[arg-type]
    assert not (tmp_path / "new").exists()


def test_results_of_several_devices_are_kept_and_a_replaced_one_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def measured(name: str, date: str, threads: int = 1) -> dict[str, object]:
        about = {"name": name, "cpu": "Cortex (A76)", "machine": "arm", "cores": 4, "date": date}
        return {"machine": about, "how": {"threads": threads}}

    caplog.set_level(logging.INFO, logger="run")
    files = [keep_device_results(tmp_path, each) for each in (
        measured("a", "1"), measured("b", "2"), measured("a", "3", 2), measured("a", "4"))]  # fmt: skip
    assert files[0] == files[3]
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted({each.name for each in files})
    assert files[0].name == "device_a_cortex_a76_4_cores_1_thread.json"
    assert [", instead of what it measured on 1" in each for each in caplog.messages] == [False, False, False, True]
