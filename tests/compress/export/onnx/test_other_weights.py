"""Another network's weights in a file: the same as exporting that network, or no file."""

import copy
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from compress.export.onnx.check import Comparison, compare_onnx, node_kinds
from compress.export.onnx.export import transform_to_onnx
from compress.export.onnx.other_weights import with_other_weights

X = torch.rand(1, 3, 12, 12)


class Small(nn.Module):
    """A convolution, a buffer that is no part of the state, a bias used twice."""

    def __init__(self, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride, padding=1)
        self.register_buffer("scale", torch.rand(1, 4, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x)) * self.scale


def renewed(model: nn.Module) -> nn.Module:
    other = copy.deepcopy(model)
    with torch.no_grad():
        for each in [*other.parameters(), *other.buffers()]:
            if each.is_floating_point():
                each.copy_(torch.rand_like(each) + 0.1)
    return other


def written(model: Small, file: Path) -> None:
    """What torch's exporter makes of it, by hand."""
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    held = [onnx.numpy_helper.from_array(value.detach().numpy(), name) for name, value in named.items()]
    nodes = [
        onnx.helper.make_node("Conv", ["x", "conv.weight", "conv.bias"], ["c"], pads=[1] * 4, strides=[1, 1]),
        onnx.helper.make_node("Relu", ["c"], ["r"]),
        onnx.helper.make_node("Mul", ["r", "scale"], ["y"]),
    ]
    ends = [onnx.helper.make_tensor_value_info(each, onnx.TensorProto.FLOAT, list("bchw")) for each in "xy"]
    graph = onnx.helper.make_graph(nodes, "small", ends[:1], ends[1:], held)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10), file)


@pytest.fixture
def exported(tmp_path: Path) -> tuple[Small, Path]:
    torch.manual_seed(0)
    model, file = Small().eval(), tmp_path / "network.onnx"
    written(model, file)
    return model, file


def test_the_file_is_that_of_the_other_network(exported: tuple[Small, Path], tmp_path: Path) -> None:
    model, file = exported
    other, target = renewed(model), tmp_path / "other.onnx"
    before = file.read_bytes()
    assert with_other_weights(file, model, other, target, (X,))
    assert compare_onnx(target, other, [(torch.rand(2, 3, 9, 7),)]).max < 1e-5
    assert compare_onnx(target, model, [(X,)]).max > 1e-2
    assert node_kinds(target) == node_kinds(file)
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    "other",
    [
        lambda: Small(stride=2),  # the same tensors, another computation
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding=1)),
        lambda: Small().double(),
    ],
)
def test_what_is_not_of_the_same_kind_is_not_written(
    exported: tuple[Small, Path], other: Callable[[], nn.Module], tmp_path: Path
) -> None:
    model, file = exported
    assert not with_other_weights(file, model, other().eval(), tmp_path / "other.onnx", (X,))
    assert [each.name for each in tmp_path.iterdir()] == ["network.onnx"]


def test_a_file_of_other_weights_than_the_networks_is_not_used(exported: tuple[Small, Path], tmp_path: Path) -> None:
    model, file = exported
    assert not with_other_weights(file, renewed(model), renewed(model), tmp_path / "other.onnx", (X,))
    assert [each.name for each in tmp_path.iterdir()] == ["network.onnx"]


@pytest.mark.slow
def test_a_weight_that_the_exporter_has_folded_asks_for_an_export(tmp_path: Path) -> None:
    class Folded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.rand(4, 3, 3, 3))
            self.gain = nn.Parameter(torch.rand(4, 1, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.conv2d(x, self.weight * self.gain)

    model, file = Folded().eval(), tmp_path / "network.onnx"
    transform_to_onnx(model, file, X, False, check_inputs=X)
    other, target = renewed(model), tmp_path / "other.onnx"
    if with_other_weights(file, model, other, target, (X,)):  # right where the product is still in the file
        assert compare_onnx(target, other, [(X,)]).max < 1e-4
    else:
        assert not target.exists()


def test_a_network_and_its_file_run_once_for_an_input_that_is_compared_again(tmp_path: Path) -> None:
    model, passes = nn.Conv2d(3, 4, 3).eval(), []
    transform_to_onnx(model, tmp_path / "own.onnx", X, False)
    model.register_forward_hook(lambda *_: passes.append(1))
    comparison, other = Comparison(tmp_path / "own.onnx", model), (X + 1,)
    both = comparison.difference([(X,), other])
    assert comparison.difference([other], fused=False).max < 1e-5
    assert comparison.difference([other]).largest == pytest.approx(float(model(X + 1).detach().abs().max()))
    assert len(passes) == 3  # one by this test
    assert both == compare_onnx(tmp_path / "own.onnx", model, [(X,), other])
