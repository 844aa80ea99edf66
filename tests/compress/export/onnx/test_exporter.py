"""torch's exporter: its operators are translated once for a process, and torch is left as it was."""

import pytest

pytest.importorskip("onnxscript")

from torch.onnx._internal import _lazy_import
from torch.onnx._internal.exporter import _registration

from compress.export.onnx.exporter import prepared_exporter


def registered() -> dict[str, int]:
    functions = _registration.ONNXRegistry.from_torchlib().functions
    return {str(target): len(found) for target, found in functions.items()}


def test_operators_are_translated_once_and_are_those_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = registered()
    with prepared_exporter():  # translates, or has translated for a test before
        pass
    module = _lazy_import.onnxscript_apis._module

    def translated_again() -> list[object]:
        raise AssertionError

    monkeypatch.setattr(module, "get_torchlib_ops", translated_again)
    with prepared_exporter():
        assert registered() == expected
    assert "get_torchlib_ops" not in vars(_lazy_import.onnxscript_apis)
