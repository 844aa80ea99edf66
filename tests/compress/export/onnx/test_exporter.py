"""torch's exporter: operators translated once, torch left as it was, what it cannot write with free sizes."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("onnxscript")

from torch.onnx._internal import _lazy_import
from torch.onnx._internal.exporter import _registration

from compress.errors import UserError
from compress.export.onnx.export import export_onnx
from compress.export.onnx.exporter import _nested, _operators, prepared_exporter


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


def test_operators_are_listed_without_parsing_their_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    def described(found: Any) -> list[tuple[Any, ...]]:
        return [(each.qualified_name, each.domain, each.name, each.function, each.is_complex) for each in found]

    expected = described(_lazy_import.onnxscript_apis.get_torchlib_ops())
    monkeypatch.setattr("onnxscript._internal.converter.Converter", None)  # parses
    assert described(_operators.__wrapped__()) == expected


class Several(nn.Module):
    """A convolution, and what a function makes of it."""

    def __init__(self, function) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.function = nn.Conv2d(3, 8, 3, padding=1), function

    def forward(self, *x: Tensor) -> Any:
        return self.function(self.first(x[0]), *x[1:])


@pytest.mark.slow
def test_arguments_of_any_number_are_inputs_with_free_sizes(tmp_path) -> None:
    report = export_onnx(
        Several(lambda y, z: y + z).eval(), tmp_path / "net.onnx", (torch.randn(2, 3, 8, 8), torch.randn(2, 8, 8, 8))
    )
    assert report.dynamic == {"x_0": ["batch", 3, "height", "width"], "x_1": ["batch", 8, "height", "width"]}
    assert report.difference.max < 1e-5
    assert report.warnings == []


def test_sizes_of_arguments_of_any_number_are_nested() -> None:
    class Named(nn.Module):
        def forward(self, x: Tensor, *more: Tensor) -> Tensor:
            return x

    first, second = {0: "a"}, {0: "b"}
    assert _nested(Named(), (first, second)) == (first, (second,))
    assert _nested(Named(), (first,)) == (first,)
    assert _nested(nn.ReLU(), (first,)) == (first,)


@pytest.mark.slow
@pytest.mark.parametrize(
    "function",
    [
        lambda y: torch.roll(y, (1, y.shape[3] // 2), (2, 3)),
        lambda y: torch.cat([each.mean(3, keepdim=True) for each in y.chunk(3, 3)], 3),
        lambda y: y * math.exp(-y.shape[2] / 24),
    ],
)
def test_what_the_exporter_cannot_write_with_free_sizes_is_fixed(tmp_path, function) -> None:
    report = export_onnx(Several(function).eval(), tmp_path / "net.onnx", torch.randn(2, 3, 12, 12))
    assert next(iter(report.dynamic.values()))[1:] == [3, 12, 12]
    assert report.difference.max < 1e-5
    assert "height and width are fixed in this file (fixed_size), as torch's exporter fails" in report.warnings[0]


@pytest.mark.slow
def test_an_output_that_is_no_tensor_is_named(tmp_path) -> None:
    with pytest.raises(UserError, match=r"forward returns 3 \(int\) as output\['n'\]; return tensors only"):
        export_onnx(Several(lambda y: {"y": y, "n": 3}).eval(), tmp_path / "net.onnx", torch.randn(2, 3, 8, 8))
