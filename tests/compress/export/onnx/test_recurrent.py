"""A language model from training to onnxruntime: its quantized LSTM in a clip-only file and in one of integers."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from compress.config import dict_config
from compress.export.onnx.export import transform_to_onnx
from compress.quantization.convert import apply, structure_of
from compress.quantization.post_training.quantizer import PostTrainLinearQuantizer
from tests.compress.quantization.modules.test_recurrent import TOKENS, Words, loss_of


def trained(net: nn.Module, cls: str) -> None:
    """One epoch of two steps under a schedule."""
    optimizer = torch.optim.SGD(net.parameters(), 0.5)
    schedule = {
        "version": 1,
        "quantizers": {"q": {"class": cls, "bits_weights": 8, "bits_activations": 8}},
        "policies": [{"quantizer": {"instance_name": "q"}, "epochs": [0]}],
    }
    scheduler = dict_config(net, optimizer, schedule, TOKENS, epochs=1)
    scheduler.on_epoch_begin(0, optimizer)
    for step in range(2):
        scheduler.on_minibatch_begin(0, step, 2, optimizer)
        loss = scheduler.before_backward_pass(0, step, 2, loss_of(net), optimizer)
        optimizer.zero_grad()
        loss.backward()
        scheduler.before_parameter_optimization(0, step, 2, optimizer)
        optimizer.step()
        scheduler.on_minibatch_end(0, step, 2, optimizer)
    scheduler.on_epoch_end(0, optimizer)


def check(net: nn.Module, folder: Path) -> Path:
    """Both files are what PyTorch computes; returns that of integers."""
    net.eval()
    right = net(TOKENS).detach()
    clip = transform_to_onnx(net, folder / "clip.onnx", TOKENS, True, "clip", [TOKENS])
    assert clip.difference.max < 1e-5
    qdq = transform_to_onnx(net, folder / "qdq.onnx", TOKENS, True, "qdq", [TOKENS])
    assert qdq.unfused is not None
    assert qdq.unfused.max <= 0.02 * float(right.abs().max())  # a value on the edge of two steps may fall either way
    assert qdq.unfused.mean <= 2e-3 * float(right.abs().max())
    assert {note.stored for note in qdq.weights} == {"int8"}
    return folder / "qdq.onnx"


def integers(file: Path) -> dict[tuple[int, ...], int]:
    """Shape -> how many tensors of 8 bits of that shape a file holds."""
    found: dict[tuple[int, ...], int] = {}
    for each in onnx.load(file).graph.initializer:
        if each.data_type in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8) and len(each.dims) == 2:
            found[tuple(sorted(each.dims))] = found.get(tuple(sorted(each.dims)), 0) + 1
    return found


@pytest.mark.slow
@pytest.mark.parametrize("layers", [1, 2])
def test_a_language_model_through_the_whole_pipeline(layers: int, tmp_path: Path) -> None:
    net = Words(layers=layers)
    trained(net, "QuantAwareTrainRangeLinearQuantizer")
    torch.save({"state": net.state_dict(), "structure": structure_of(net)}, tmp_path / "c.pt")
    saved = torch.load(tmp_path / "c.pt", weights_only=True)
    again = apply(Words(layers=layers), saved["structure"])
    again.load_state_dict(saved["state"])
    assert torch.equal(again.eval()(TOKENS), net.eval()(TOKENS))
    found = integers(check(again, tmp_path))
    assert found[(6, 20)] == 1  # one copy for all steps
    assert found[(5, 20)] == 2 * layers - 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "settings"),
    [(nn.GRU, {"bidirectional": True}), (nn.RNN, {"nonlinearity": "relu"}), (nn.LSTM, {"proj_size": 3})],
)
@pytest.mark.parametrize("bits", [8, 32])
def test_every_kind_after_training(kind: Any, settings: dict[str, Any], bits: int, tmp_path: Path) -> None:
    net = Words(kind, layers=1, **settings)
    if "proj_size" in settings:
        net.head = nn.Linear(settings["proj_size"], 12)
    found = PostTrainLinearQuantizer(bits_activations=bits).quantize(net, [TOKENS])  # type: ignore[arg-type]
    check(found, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("cls", ["LSQQuantizer", "DorefaQuantizer", "PACTQuantizer", "WRPNQuantizer"])
def test_every_training_time_quantizer(cls: str, tmp_path: Path) -> None:
    net = Words(layers=1)
    trained(net, cls)
    if cls == "DorefaQuantizer" or cls == "PACTQuantizer":
        net.eval()  # their 8-bit weights have no int8 form: the nearest is stored, and said
        report = transform_to_onnx(net, tmp_path / "a.onnx", TOKENS, True, "qdq", [TOKENS])
        assert any("have no int8 form" in each for each in report.warnings)
    else:
        check(net, tmp_path)


@pytest.mark.slow
def test_the_file_of_integers_is_smaller_than_float(tmp_path: Path) -> None:
    """With layers of a size that is worth it: the graph of the steps itself takes some tens of kilobytes."""
    torch.manual_seed(0)

    class Large(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.LSTM(64, 128, batch_first=True), nn.Linear(128, 16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.rnn(x)[0])

    net, x = Large(), torch.from_numpy(np.random.default_rng(0).standard_normal((2, 4, 64)).astype("float32"))
    dense = transform_to_onnx(net, tmp_path / "float.onnx", x, False, check_inputs=[x])
    found = PostTrainLinearQuantizer(per_channel_wts=True).quantize(net, [x])
    small = transform_to_onnx(found, tmp_path / "int8.onnx", x, True, "qdq", [x])
    assert small.bytes < 0.5 * dense.bytes


def test_a_layer_called_four_times_is_stored_once_and_runs_in_integers(tmp_path: Path) -> None:
    class Four(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.again, self.relu, self.last = nn.Linear(8, 7), nn.Linear(7, 7), nn.ReLU(), nn.Linear(7, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.relu(self.first(x))
            for _ in range(4):
                x = self.relu(self.again(x))
            return self.last(x)

    x = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    found = PostTrainLinearQuantizer().quantize(Four(), [x])
    report = transform_to_onnx(found, tmp_path / "a.onnx", x, True, "qdq", [x])
    assert report.unfused is not None
    assert report.unfused.max < 1e-5
    assert report.kernels["QGemm"] == 5  # all but the last, whose output is not rounded
    assert integers(tmp_path / "a.onnx")[(7, 7)] == 1
