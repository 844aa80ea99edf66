"""Integers in PyTorch's own operations: the same numbers as the trained network, the very integers of the ONNX file."""

from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from compress.export.decomposed import (
    DEQUANTIZE,
    QUANTIZE,
    drop_aliases,
    explicit_grids,
    fit_program_biases,
    is_call,
    join_on_one_grid,
    load_program,
    put_values,
    weights_of,
)  # fmt: skip
from compress.export.onnx.qdq import deployable
from compress.export.runtimes.sources import write_source
from compress.quantization.post_training.quantizer import PostTrainLinearQuantizer
from compress.quantization.range_linear import QuantAwareTrainRangeLinearQuantizer


def net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8), nn.ReLU6(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    )  # fmt: skip


def quantized(model: nn.Module, example: Tensor, bits: int = 8) -> nn.Module:
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):  # one gamma below 0, one of 0
                module.weight.copy_(torch.linspace(-0.5, 1.25, 8))
                module.weight[2], module.bias[1] = 0, 0.3
                module.running_mean.copy_(torch.linspace(-0.2, 0.2, 8))
    quantizer = QuantAwareTrainRangeLinearQuantizer(
        bits_activations=bits, bits_weights=bits, per_channel_wts=True, example_inputs=example,
        mode={"activations": "ASYMMETRIC_UNSIGNED", "weights": "SYMMETRIC_RESTRICTED"},
    )  # fmt: skip
    quantizer.prepare(model, None)
    quantizer.convert(model)
    with torch.no_grad():
        for _ in range(3):
            model.train()(example)
    return model.eval()


@pytest.mark.parametrize("bits", [8, 4])
def test_it_computes_what_the_network_computes(bits: int) -> None:
    """Half a step apart where a value lies between two integers, so the mean is compared too."""
    example = torch.rand(2, 3, 9, 9)
    model = quantized(net(), example, bits)
    found, wanted = deployable(model, "program").model(example), model(example)
    assert (found - wanted).abs().max() <= 0.02 * wanted.abs().max()
    assert (found - wanted).abs().mean() <= 1e-3 * wanted.abs().max()


def test_batch_norms_are_gone_and_the_integers_are_those_of_the_onnx_file(tmp_path: Path) -> None:
    example = torch.rand(1, 3, 9, 9)
    model = quantized(net(), torch.rand(4, 3, 9, 9))
    source = write_source("net", model, [(example,)], tmp_path, {"onnx", "program"})
    module = load_program(source.program).module()
    assert not [node for node in module.graph.nodes if "batch_norm" in str(node.target)]
    weights = list(weights_of(module))
    assert [each.layer for each in weights] == list(source.layers) == ["0", "3", "8"]
    graph = onnx.load(source.onnx).graph
    held = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
    nodes = {node.output[0]: node for node in graph.node}
    for each in weights:
        (layer,) = (node for node in graph.node if node.name == each.layer)
        stored = torch.from_numpy(held[nodes[layer.input[1]].input[0]].copy())
        stored = stored if stored.shape == each.integers.shape else stored.T
        assert torch.equal(stored, each.integers) or torch.equal(stored.abs(), each.integers.abs())
    before = module(example)
    put_values(module, weights)
    torch.testing.assert_close(module(example), before, atol=1e-6, rtol=1e-5)
    assert list(weights_of(module)) == []


def test_aliases_go_and_an_output_stays() -> None:
    """pnnx knows no `aten::alias`, and loads a file that holds one as a network without inputs."""

    class Aliased(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return torch.ops.aten.alias.default(x) + 1, torch.ops.aten.alias.default(x)

    module = torch.fx.symbolic_trace(Aliased())
    assert drop_aliases(module) == 1
    assert [str(node.target) for node in module.graph.nodes].count("aten.alias.default") == 1
    x = torch.rand(2)
    torch.testing.assert_close(module(x), (x + 1, x))


class Joined(nn.Module):
    """A value that is pooled and joined with another one, each on a grid of its own."""

    def forward(self, x: Tensor) -> Tensor:
        rounded, operations = [], torch.ops.quantized_decomposed
        for values, scale in ((x, 0.5), (3 * x, 0.25)):
            grid = (scale, -3, -128, 127)
            integers = operations.quantize_per_tensor(values, *grid, torch.int8)
            rounded.append(operations.dequantize_per_tensor(integers, *grid, torch.int8))
        pooled = nn.functional.conv2d(nn.functional.max_pool2d(rounded[0], 2), torch.ones(1, 1, 1, 1))
        grid = (0.75, 1, -128, 127)
        integers = operations.quantize_per_tensor(torch.cat(rounded, 1), *grid, torch.int8)
        joined: Tensor = operations.dequantize_per_tensor(integers, *grid, torch.int8)
        return nn.functional.max_pool2d(joined, 2) + pooled


def test_pooled_and_joined_values_stand_on_one_grid_and_no_value_changes() -> None:
    x = torch.linspace(-20, 20, 64).reshape(1, 1, 8, 8)
    module = torch.export.export(Joined(), (x,)).module()
    wanted = module(x)
    join_on_one_grid(module)
    explicit_grids(module)
    assert torch.equal(module(x), wanted)
    nodes = list(module.graph.nodes)
    assert all(len(node.users) == 1 for node in nodes if is_call(node, DEQUANTIZE))
    (joined,) = (node for node in nodes if is_call(node, "cat"))
    assert {each.args[1] for each in joined.args[0]} == {0.75}
    pools = [node for node in nodes if is_call(node, "max_pool2d")]
    assert [is_call(user, QUANTIZE) for node in pools for user in node.users] == [True, True]
    assert [next(iter(node.users)).args[1] for node in pools] == [0.5, 0.75]


@pytest.mark.parametrize("layer", [nn.Conv2d(3, 8, 1), nn.Linear(3, 8)])
def test_a_bias_that_32_bits_do_not_hold_gets_a_coarser_weight(layer: nn.Module) -> None:
    """ExecuTorch and LiteRT cut it off otherwise: outputs were off by 60 % of the largest value."""
    with torch.no_grad():
        layer.weight[3] *= 1e-9
        layer.bias[3] = 2.0
    x = torch.rand(2, 3, 4, 4) if isinstance(layer, nn.Conv2d) else torch.rand(2, 4, 4, 3)
    model = PostTrainLinearQuantizer(
        bits_activations=8, bits_parameters=8, per_channel_wts=True, example_inputs=x
    ).quantize(nn.Sequential(nn.Flatten(2, 2), layer).eval(), [x])
    module = torch.export.export(deployable(model, "program").model, (x,)).module()
    (before,) = weights_of(module)
    wanted = module(x)
    assert fit_program_biases(module) == 1
    (after,) = weights_of(module)
    step = next(node.args[1] for node in module.graph.nodes if is_call(node, DEQUANTIZE))
    assert 2.0 / (step * float(after.scale[3])) <= 2**31 - 1 < 2.0 / (step * float(before.scale[3]))
    others = [k for k in range(8) if k != 3]
    assert torch.equal(after.integers[others], before.integers[others])
    torch.testing.assert_close(module(x), wanted, atol=1e-6, rtol=0)
    assert fit_program_biases(module) == 0
