"""The front: five names with their fixed arguments, which a caller may give by position."""

import inspect
from pathlib import Path

import torch
from torch import nn

from apputils import platform_summaries

FIXED = {
    "sensitivity_analysis": ["model", "sensitivity_file", "test_func", "sense_type"],
    "sparsity_display": ["model", "sparsity_file"],
    "macs_display": ["model", "macs_file", "dummy_input"],
    "draw_model_to_file": ["model", "png_fname", "dummy_input"],
    "transform_to_onnx": ["model", "onnx_file", "dummy_input", "quantize_flag", "mode", "check_inputs"],
}


def test_names_and_arguments_are_the_fixed_ones() -> None:
    assert sorted(FIXED) == sorted(platform_summaries.__all__)
    for name, arguments in FIXED.items():
        parameters = list(inspect.signature(getattr(platform_summaries, name)).parameters.values())
        assert [each.name for each in parameters[: len(arguments)]] == arguments, name
        assert all(each.default is not each.empty for each in parameters[len(arguments) :]), name
    assert inspect.signature(platform_summaries.transform_to_onnx).parameters["mode"].default == "clip"


def test_each_returns_what_it_wrote(net: nn.Module, tmp_path: Path) -> None:
    dummy = torch.empty(1, 3, 8, 8)
    weights = platform_summaries.sparsity_display(net, str(tmp_path / "sparsity.xlsx"))
    layers = platform_summaries.macs_display(net, str(tmp_path / "macs.xlsx"), dummy)
    boxes = platform_summaries.draw_model_to_file(net, str(tmp_path / "arch.png"), dummy)
    assert weights.weights["weight"].tolist() == ["0.weight", "2.weight", "5.weight"]
    assert layers.layers["layer"].tolist() == ["0", "2", "5"]
    assert int(boxes["macs"].sum()) == layers.total["macs"]
