"""The doctor: each of 20 faults put into one layer is named first, and in 10 healthy networks nothing is named."""

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from compress.analysis.diagnosis.diagnose import diagnose
from compress.analysis.diagnosis.suspects import _range_suspects, activation_figures, simulation_suspects, slot_piece
from compress.errors import UserError
from compress.export.onnx.export import export_onnx, transform_to_onnx
from compress.quantization.dorefa import DorefaQuantizer
from compress.quantization.pact import PACTQuantizer
from compress.quantization.post_training.quantizer import PostTrainLinearQuantizer
from compress.quantization.range_linear import QuantAwareTrainRangeLinearQuantizer

X = [(torch.randn(4, 3, 10, 10, generator=torch.Generator().manual_seed(i)),) for i in range(2)]


class Net(nn.Module):
    """Convolutions with BatchNorm, an addition, a PReLU, a linear layer."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        c = channels
        self.conv1, self.bn1, self.relu1 = nn.Conv2d(3, c, 3, padding=1), nn.BatchNorm2d(c), nn.ReLU()
        self.conv2, self.bn2, self.relu2 = nn.Conv2d(c, c, 3, padding=1), nn.BatchNorm2d(c), nn.ReLU()
        self.conv3, self.act3 = nn.Conv2d(c, c, 3, padding=1), nn.PReLU()
        self.fc = nn.Linear(c, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.relu2(self.bn2(self.conv2(x)) + x)
        return self.fc(self.act3(self.conv3(x)).mean((2, 3)))


def dense(seed: int = 0, channels: int = 8) -> nn.Module:
    torch.manual_seed(seed)
    net = Net(channels)
    with torch.no_grad():
        for norm in (net.bn1, net.bn2):
            norm.weight.uniform_(0.6, 1.4)
            norm.bias.uniform_(-0.3, 0.3)
        for _ in range(30):
            net.train()(torch.cat([each[0] for each in X]))
    return net.eval()


def calibrated(net: nn.Module, bits: int = 8, **settings: Any) -> nn.Module:
    settings = {"per_channel_wts": True, **settings}
    quantizer = PostTrainLinearQuantizer(bits_activations=bits, bits_parameters=bits, **settings)
    return quantizer.quantize(net, [each[0] for each in X])


def calibrated_on(net: nn.Module, x: Tensor) -> nn.Module:
    return PostTrainLinearQuantizer(per_channel_wts=True).quantize(net, [x])


def trained(net: nn.Module, bits: int = 8, **settings: Any) -> nn.Module:
    net = copy.deepcopy(net)
    quantizer = QuantAwareTrainRangeLinearQuantizer(
        bits_activations=bits, bits_weights=bits, example_inputs=X[0][0], **settings
    )
    quantizer.prepare(net, None)
    quantizer.convert(net)
    with torch.no_grad():
        for _ in range(20):
            for each in X:
                net.train()(*each)
    return net.eval()


def learned(quantizer: Any, steps: int = 6) -> nn.Module:
    """Convolutions with BatchNorm whose rounding is trained along."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 4, 1),
    )  # fmt: skip
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    quantizer.prepare(net, optimizer)
    quantizer.convert(net)
    for step in range(steps):
        optimizer.zero_grad()
        (net.train()(*X[step % 2]) - 1).square().mean().backward()
        optimizer.step()
    quantizer.freeze(net)
    return net.eval()


_LEARNED: dict[str, Callable[[], Any]] = {
    "DoReFa, 8": lambda: DorefaQuantizer(8, 8, example_inputs=X[0][0]),
    "DoReFa, 4": lambda: DorefaQuantizer(4, 4, example_inputs=X[0][0]),
    "DoReFa, largest weight kept": lambda: DorefaQuantizer(8, 8, weight_scale="max", example_inputs=X[0][0]),
    "PACT": lambda: PACTQuantizer(8, 8, example_inputs=X[0][0]),
    "PACT, clipping": lambda: PACTQuantizer(8, 8, act_clip_init_val=1.0, example_inputs=X[0][0]),
}


@pytest.mark.parametrize("name", _LEARNED)
def test_nothing_is_named_where_the_methods_own_squeeze_or_clip_was_trained_along(name: str) -> None:
    """DoReFa's tanh and unit scale, a clip to [0, 1] and a learned one are the network's, not losses of rounding."""
    net = learned(_LEARNED[name]())
    before = {key: value.clone() for key, value in net.state_dict().items()}
    found = diagnose(None, net, X)
    assert found.suspects == [], str(found)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_a_fault_of_a_network_trained_with_its_squeeze_is_still_named() -> None:
    net: Any = learned(_LEARNED["DoReFa, 8"]())
    net[3].weight_quantizer.bits = 1
    net[3].weight_quantizer.magnitude.fill_(20.0)
    net[3].weight_quantizer.__class__ = type("Coarse", (type(net[3].weight_quantizer),), {"unrounded": _tanh})
    assert diagnose(None, net, X).suspects[0].layer == "3"


@pytest.mark.slow
def test_recurrent_layers_keep_their_squeeze_in_the_reference() -> None:
    torch.manual_seed(0)
    x = torch.rand(2, 5, 4)

    class Read(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru, self.fc = nn.GRU(4, 6, batch_first=True), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.gru(x)[0])

    net = Read()
    quantizer = PACTQuantizer(8, 8, act_clip_init_val=2.0, weight_scale="max", example_inputs=x)
    quantizer.prepare(net, torch.optim.SGD(net.parameters(), lr=0.1))
    quantizer.convert(net)
    quantizer.freeze(net)
    assert diagnose(None, net.eval(), [(x,)]).suspects == []


def _tanh(self: Any, x: Tensor) -> Tensor:
    return torch.tanh(x) / torch.tanh(x).abs().max()


HEALTHY: dict[str, Callable[[], tuple[nn.Module | None, nn.Module]]] = {
    "8 bits, after training": lambda: (dense(), calibrated(dense())),
    "8 bits, one scale a weight": lambda: (dense(), calibrated(dense(), per_channel_wts=False)),
    "6 bits": lambda: (dense(1), calibrated(dense(1), 6)),
    "4 bits": lambda: (dense(2), calibrated(dense(2), 4)),
    "asymmetric": lambda: (dense(3), calibrated(dense(3), mode="ASYMMETRIC_UNSIGNED")),
    "equalized": lambda: (None, calibrated(dense(4), equalization=True)),
    "trained": lambda: (None, trained(dense(5), ema_decay=0.5)),
    "trained, 4 bits": lambda: (None, trained(dense(6), bits=4, per_channel_wts=True, ema_decay=0.5)),
    "wide": lambda: (dense(7, 24), calibrated(dense(7, 24))),
    "bias corrected": lambda: (dense(8), calibrated(dense(8), bias_correction=True)),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_nothing_is_named_in_a_healthy_network(name: str) -> None:
    found = diagnose(*HEALTHY[name](), X)
    assert found.suspects == [], str(found)
    assert {"conv1", "relu1", "conv2", "conv3", "fc"} <= {row["layer"] for row in found.rows}
    assert all(5 < row["db"] < 100 for row in found.rows if row["layer"].startswith("conv"))  # something is rounded


def test_bits_that_are_too_few_are_named_where_nothing_else_is_wrong() -> None:
    net = dense(2)
    found = diagnose(net, calibrated(net, 3), X)
    assert not found.suspects
    assert 1 <= len(found.costly) <= 3
    assert "but some have few bits; these cost most:\n1. " in str(found)
    assert re.search(r"3 bits for its \w+.* are few. Remedy: 8 bits", str(found))
    worst = min((row for row in found.rows if "own_db" in row), key=lambda row: row["own_db"])
    assert found.costly[0].layer == worst["layer"]
    overrides = {name: bits for each in found.named for name, bits in (each.overrides or {}).items()}
    better = diagnose(net, calibrated(net, 3, overrides=overrides), X)
    assert better.rows[-1]["db"] > found.rows[-1]["db"] + 1  # what is advised helps
    assert not diagnose(net, calibrated(net, 8), X).costly


def test_one_layer_of_two_bits_among_others_of_eight_is_named() -> None:
    net = dense(3)
    found = diagnose(net, calibrated(net, 8, overrides={"conv2": {"bits_weights": 2}}), X)
    assert found.named[0].layer == "conv2"
    assert found.named[0].overrides == {"conv2": {"bits_weights": 8}}


def scaled_weight(net: Any, layer: str, factor: float) -> None:
    getattr(net, layer).weight_quantizer.step.mul_(factor)


def scaled_range(piece: Any, factor: float) -> None:
    piece.ranges[:2].mul_(factor)


def lost_relu(net: Any, name: str) -> None:
    piece = getattr(net, name).output_quantizer
    piece.signed, piece.mode = True, "SYMMETRIC"


def saturating(net: Any, layer: str) -> None:
    """An accumulator of too few bits: what a layer gives stays below a quarter of its largest value."""
    module = getattr(net, layer)
    module.register_forward_hook(lambda m, x, y: y.clamp(-0.1 * float(y.abs().max()), 0.1 * float(y.abs().max())))


SIMULATED: dict[str, tuple[str, Callable[[Any], None]]] = {
    "weight's scale too small": ("conv2", lambda net: scaled_weight(net, "conv2", 0.1)),
    "weight's scale too large": ("conv1", lambda net: scaled_weight(net, "conv1", 12.0)),
    "one channel's scale wrong": ("conv3", lambda net: net.conv3.weight_quantizer.step[2:5].mul_(0.05)),
    "scale of the last layer": ("fc", lambda net: scaled_weight(net, "fc", 0.1)),
    "activation saturated": ("relu1", lambda net: scaled_range(net.relu1.output_quantizer, 0.15)),
    "activation's range too wide": ("relu2", lambda net: scaled_range(net.relu2.output_quantizer, 30.0)),
    "PReLU saturated": ("act3", lambda net: scaled_range(net.act3.output_quantizer, 0.1)),
    "network's input saturated": ("conv1", lambda net: scaled_range(net.conv1.input_quantizer, 0.1)),
    "network's input too coarse": ("conv1", lambda net: scaled_range(net.conv1.input_quantizer, 60.0)),
    "ReLU lost": ("relu1", lambda net: lost_relu(net, "relu1")),
    "bias lost": ("conv2", lambda net: net.conv2.bias.data.zero_().add_(1.5)),
    "channels rounded to zero": ("conv3", lambda net: net.conv3.weight_quantizer.step[:4].mul_(1e4)),
    "accumulator of 16 bits": ("conv3", lambda net: saturating(net, "conv3")),
    "weights of another checkpoint": ("fc", lambda net: net.fc.weight.data.copy_(net.fc.weight.flip(0))),
}


@pytest.mark.parametrize("name", SIMULATED)
def test_a_fault_of_the_simulation_is_named_first(name: str) -> None:
    layer, breaks = SIMULATED[name]
    net = dense()
    broken = calibrated(net)
    with torch.no_grad():
        breaks(broken)
    found = diagnose(net, broken, X)
    assert found.suspects, found.rows
    assert found.suspects[0].layer == layer, str(found)
    assert found.suspects[0].where == "simulation"


def gained(net: Any, layer: str, factor: float) -> None:
    """A layer that is right but for a factor: weight, scale and bias alike, so that nothing is rounded otherwise."""
    module = getattr(net, layer)
    module.weight.mul_(factor), module.weight_quantizer.step.mul_(factor), module.bias.mul_(factor)


@pytest.mark.parametrize("factor", [0.95, 1.05, 1.1])
@pytest.mark.parametrize("layer", ["conv3", "fc"])
def test_a_layer_is_named_that_is_a_little_too_large_or_small(layer: str, factor: float) -> None:
    """20 to 26 dB where rounding leaves more than 40."""
    net = dense()
    broken = calibrated(net)
    with torch.no_grad():
        gained(broken, layer, factor)
    found = diagnose(net, broken, X)
    assert [each.layer for each in found.suspects] == [layer], str(found)
    assert "something else" in found.suspects[0].cause


@pytest.mark.slow
@pytest.mark.parametrize("bits", [8, 4, 3])
@pytest.mark.parametrize("method", ["bias_correction", "gptq", "adaround"])
def test_weights_and_biases_that_make_up_for_rounding_are_no_other_operation(method: str, bits: int) -> None:
    net = dense(8)
    settings: dict[str, Any] = {method: True}
    settings |= {"adaround_steps": 100} if method == "adaround" else {}
    found = diagnose(net, calibrated(net, bits, **settings), X)
    assert not any("something else" in each.cause for each in found.suspects), str(found)


def test_what_is_cut_off_a_little_is_called_so() -> None:
    """One value in 1000 reaches 1.3 times beyond the range: more bits would not help, a wider range would."""
    net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1)).eval()
    nn.init.ones_(net[0].weight)
    x = torch.cat([torch.linspace(0, 0.1, 4000), torch.full((4,), 1.3), torch.ones(40)]).unsqueeze(1)
    broken: Any = calibrated_on(net, x.clamp_max(1.0))
    found = next(each for each in diagnose(net, broken, [(x,)]).suspects if each.layer == "1")
    assert "cut off" in found.cause
    assert "wider range" in found.remedy


def test_what_is_rounded_coarsely_is_not_called_cut_off() -> None:
    """Twice the largest value is cut off, but nearly all that is lost is lost by rounding."""
    values = torch.cat([torch.full((4000,), 0.45), torch.tensor([1.51])]).unsqueeze(1)
    piece = calibrated_on(nn.Sequential(nn.Linear(1, 1), nn.ReLU()).eval(), torch.ones(4, 1))
    row = {**activation_figures(slot_piece(piece[0]), values), "act_best_db": 60.0, "act_db": 15.0}
    row["cut_db"] = 40.0
    cause = simulation_suspects("0", piece[0], row)[0].cause
    assert "rounded too coarsely" in cause


def test_one_scale_for_a_wide_weight_is_named_with_its_remedy() -> None:
    net: Any = dense()
    with torch.no_grad():
        net.conv3.weight[0].mul_(300)
    found = diagnose(net, calibrated(net, per_channel_wts=False), X)
    assert found.suspects[0].layer == "conv3", str(found)
    assert "per_channel_wts" in found.suspects[0].remedy


def test_a_batch_norm_that_is_gone_is_named() -> None:
    net = dense()
    broken: Any = calibrated(net, fold_batchnorm=False)
    broken.bn1 = nn.Identity()
    found = diagnose(net, broken, X)
    assert found.suspects[0].layer == "conv1", str(found)
    assert "BatchNorm" in found.suspects[0].remedy


class Residual(Net):
    """Without its addition, with its output halved, or with what a layer reads scaled."""

    broken = ""

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(x))
        x = self.relu2(y if self.broken == "addition" else y + x)
        x = self.act3(self.conv3(0.8 * x if self.broken == "scaling" else x)).mean((2, 3))
        return 0.5 * self.fc(x) if self.broken == "output" else self.fc(x)


@pytest.mark.parametrize(("broken", "place"), [
    ("addition", "between conv2 and relu2"), ("scaling", "between relu2 and conv3"),
    ("output", "between fc and the network's output"),
])  # fmt: skip
def test_what_is_wrong_between_layers_is_named_first(broken: str, place: str) -> None:
    """Every layer is right by itself."""
    net = dense()
    small: Any = calibrated(net)
    small.__class__ = type("Broken", (Residual,), {"broken": broken})
    found = diagnose(net, small, X)
    assert found.suspects[0].cause.startswith(place), str(found)
    assert len(found.suspects) == 1


class Noisy(nn.Module):
    """Noise between its layers; calls one of them twice, the second time by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x) + torch.randn_like(x))
        return self.second(input=x) + self.first(x)


def test_noise_between_layers_is_no_fault() -> None:
    torch.manual_seed(0)
    net, x = Noisy().eval(), torch.rand(8, 4)
    assert not any("between" in each.cause for each in diagnose(net, calibrated_on(net, x), [(x,)]).suspects)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, nn.Module, Path]:
    net = dense()
    small = calibrated(net)
    file = tmp_path_factory.mktemp("files") / "net.onnx"
    transform_to_onnx(small, file, X[0][0], True, "qdq", X)
    return net, small, file


def initializer(model: Any, name: str) -> Any:
    return next(each for each in model.graph.initializer if each.name == name)


def changed(model: Any, name: str, change: Callable[[Any], Any]) -> None:
    held = initializer(model, name)
    array = numpy_helper.to_array(held)
    held.CopyFrom(numpy_helper.from_array(np.asarray(change(array)).astype(array.dtype), name))


def weight_of(model: Any, layer: str) -> Any:
    """The DequantizeLinear of a layer's weight."""
    node = next(each for each in model.graph.node if each.name == layer)
    return next(each for each in model.graph.node if each.output[0] == node.input[1])


def wrong_scale(model: Any) -> str:
    changed(model, weight_of(model, "conv2").input[1], lambda scale: scale * 2)
    return "conv2"


def wrong_integers(model: Any) -> str:
    changed(model, weight_of(model, "conv3").input[0], lambda integers: integers[::-1])
    return "conv3"


def swapped_zero_point(model: Any) -> str:
    """The rounding of what conv3 reads takes the zero point of another."""
    node = next(each for each in model.graph.node if each.name == "conv3")
    dequantize = next(each for each in model.graph.node if each.output[0] == node.input[0])
    other = numpy_helper.from_array(np.array(97, np.uint8), "other_zero_point")
    model.graph.initializer.append(other)
    dequantize.input[2] = "other_zero_point"
    return "conv3"


def lost_bias(model: Any) -> str:
    node = next(each for each in model.graph.node if each.name == "conv1")
    changed(model, node.input[2], np.zeros_like)
    return "conv1"


FILED = {
    "wrong scale": wrong_scale,
    "wrong integers": wrong_integers,
    "swapped zero point": swapped_zero_point,
    "bias": lost_bias,
}


@pytest.mark.parametrize("name", FILED)
def test_a_fault_of_the_file_is_named_first(
    name: str, exported: tuple[nn.Module, nn.Module, Path], tmp_path: Path
) -> None:
    net, small, file = exported
    model = onnx.load(file)
    layer = FILED[name](model)
    onnx.save(model, tmp_path / "broken.onnx")
    found = diagnose(net, small, X, tmp_path / "broken.onnx")
    assert found.suspects, found.rows
    assert found.suspects[0].layer == layer, str(found)
    assert found.suspects[0].where == "broken.onnx"


def test_nothing_is_named_in_a_healthy_file(exported: tuple[nn.Module, nn.Module, Path]) -> None:
    found = diagnose(*exported[:2], X, exported[2])
    assert found.suspects == [], str(found)
    assert sum("file_db" in row for row in found.rows) == 4


def test_bits_that_a_layer_has_are_no_remedy() -> None:
    coarse = {"act_best_db": 41.0, "act_db": 19.0, "cut_db": 60.0, "used": 0.9, "clipped": 0.0}
    for bits, overrides in ((8, None), (4, {"layer": {"bits_activations": 8}})):
        (found,) = _range_suspects("layer", nn.ReLU(), {**coarse, "bits_activations": bits})
        assert found.overrides == overrides
        assert ("more bits" in found.remedy) == (bits < 8)


def test_the_order_of_the_networks_is_checked() -> None:
    net = dense()
    with pytest.raises(UserError, match="a float network with its quantized form"):
        diagnose(calibrated(net), net, X)


class Windows(nn.Module):
    """Its middle layer reads four windows of each image as a batch of their own, and a head the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.head = nn.Conv2d(3, 4, 1), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        x = x.unflatten(2, (2, -1)).unflatten(4, (2, -1)).permute(0, 2, 4, 3, 5, 1).flatten(0, 2).flatten(1, 2)
        return self.head(self.middle(x).mean((0, 1)))


def test_batches_need_not_stand_in_the_first_dimension_of_what_a_layer_reads() -> None:
    """Windows multiply them, and a vector has none: each pass reads its own part, two passes are healthy together."""
    torch.manual_seed(0)
    inputs = [(torch.rand(2, 3, 4, 4),), (torch.rand(2, 3, 4, 4),)]
    model = Windows().eval()
    quantizer = QuantAwareTrainRangeLinearQuantizer(
        bits_activations=8, bits_weights=8, per_channel_wts=True, example_inputs=inputs[0]
    )
    quantizer.prepare(model, None)
    quantizer.convert(model)
    with torch.no_grad():
        model.train()(torch.cat([each for (each,) in inputs]))
    found = diagnose(None, model.eval(), inputs)
    assert not found.suspects, str(found)
    rows = {row["layer"]: row for row in found.rows}
    assert rows["middle"]["own_db"] > 30
    assert rows["head"]["own_db"] > 30


@pytest.mark.slow
def test_a_bias_that_the_file_adds_in_a_node_of_its_own_is_the_layers(tmp_path: Path) -> None:
    """A linear layer of rows of features is MatMul and Add; most of what it gives may be its bias."""
    torch.manual_seed(0)
    inputs = [(torch.rand(4, 3, 4, 4),)]
    model = Windows().eval()
    model.middle.bias.data.fill_(3.0)
    settings = {"bits_activations": 8, "bits_parameters": 8, "per_channel_wts": True}
    quantizer = PostTrainLinearQuantizer(**settings, example_inputs=inputs[0])
    small = quantizer.quantize(copy.deepcopy(model), [inputs[0][0]])
    file = tmp_path / "net.onnx"
    export_onnx(small.eval(), file, inputs[0])
    healthy = diagnose(model, small, inputs, file)
    assert not healthy.suspects, str(healthy)
    (row,) = (row for row in healthy.rows if row["layer"] == "middle")
    assert row["file_db"] > 60
    broken = onnx.load(file)
    node = next(each for each in broken.graph.node if each.name == "middle")
    add = next(each for each in broken.graph.node if node.output[0] in each.input)
    changed(broken, next(name for name in add.input if name != node.output[0]), np.zeros_like)
    onnx.save(broken, tmp_path / "broken.onnx")
    assert diagnose(model, small, inputs, tmp_path / "broken.onnx").suspects[0].layer == "middle"
