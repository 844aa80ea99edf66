"""A network quantized after training, with folded BatchNorms, as an ONNX file of integers."""

from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from apputils.onnx_export import transform_to_onnx
from compress.quantization.post_training.quantizer import PostTrainLinearQuantizer
from tests.compress.harness import tiny_net


@pytest.mark.parametrize("per_channel", [False, True])
def test_the_file_is_the_quantized_network(tmp_path: Path, per_channel: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    net = tiny_net()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_var is not None
            module.running_var.uniform_(0.3, 3, generator=draw)
            module.weight.data.uniform_(-1, 2, generator=draw)
            module.bias.data.normal_(generator=draw)
    batches = [torch.randn(8, 3, 6, 6, generator=draw)]
    settings = {"per_channel_wts": per_channel, "equalization": True, "bias_correction": True}
    network = PostTrainLinearQuantizer(**settings).quantize(net.eval(), batches)  # type: ignore[arg-type]
    report = transform_to_onnx(network, tmp_path / "it.onnx", torch.zeros(1, 3, 6, 6), True, "qdq", batches)
    assert [(each.name, each.stored) for each in report.weights] == [(n, "int8") for n in ("conv1", "conv2", "fc")]
    assert max(each.error for each in report.weights) < 1e-6
    assert "BatchNormalization" not in report.nodes
    weights = [each for each in onnx.load(tmp_path / "it.onnx").graph.initializer if len(each.dims) > 1]
    assert {each.data_type for each in weights} == {onnx.TensorProto.INT8}
    with torch.no_grad():
        size = float(network(batches[0]).abs().max())
    assert report.unfused is not None
    assert report.unfused.max <= 0.03 * size  # a tie rounded the other way here and there
