"""What is refused before anything is computed, and which runtime times the layers on a device."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from compress.errors import UserError
from engine.commands.runtimes import _clock, check_asked


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
