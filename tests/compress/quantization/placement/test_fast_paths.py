"""A quantized network computes the same in training and in evaluation, with gradients and without, whoever its parents.

The zoo: parents that use a child's weight themselves, past the layer, always or in some mode.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.quantization.base import Quantizer
from compress.quantization.dorefa import DorefaQuantizer
from compress.quantization.lsq import LSQQuantizer
from compress.quantization.modules.layers import QuantLayer
from compress.quantization.pact import PACTQuantizer
from compress.quantization.post_training.quantizer import PostTrainLinearQuantizer
from compress.quantization.range_linear import QuantAwareTrainRangeLinearQuantizer as Qat
from compress.quantization.wrpn import WRPNQuantizer

QUANTIZERS: dict[str, Callable[[Any], Quantizer]] = {
    "dorefa": lambda x: DorefaQuantizer(8, 3, example_inputs=x),
    "pact": lambda x: PACTQuantizer(8, 3, example_inputs=x),
    "wrpn": lambda x: WRPNQuantizer(8, 3, example_inputs=x),
    "qat": lambda x: Qat(8, 3, example_inputs=x),
    "lsq": lambda x: LSQQuantizer(8, 3, example_inputs=x),
    "post-training": lambda x: PostTrainLinearQuantizer(8, 3, example_inputs=x),
}


class Parent(nn.Module):
    """Two layers, the first of which `forward` of a subclass reads in its own way."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.out = nn.Linear(8, 8), nn.Linear(8, 8)

    def first(self, x: Tensor) -> Tensor:
        return self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.first(x)))


class Itself(Parent):
    def first(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.fc.weight, self.fc.bias)


class InEvaluation(Parent):
    def first(self, x: Tensor) -> Tensor:
        return self.fc(x) if self.training else functional.linear(x, self.fc.weight, self.fc.bias)


class InTraining(Parent):
    def first(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.fc.weight, self.fc.bias) if self.training else self.fc(x)


class WithoutGradients(Parent):
    def first(self, x: Tensor) -> Tensor:
        return self.fc(x) if torch.is_grad_enabled() else functional.linear(x, self.fc.weight, self.fc.bias)


class InInference(Parent):
    def first(self, x: Tensor) -> Tensor:
        alone = torch.is_inference_mode_enabled()
        return functional.linear(x, self.fc.weight, self.fc.bias) if alone else self.fc(x)


class Hooked(Parent):
    """A hook of the layer itself reads the weight once more, in the layer's own call."""

    def __init__(self) -> None:
        super().__init__()
        self.fc.register_forward_hook(lambda fc, args, output: output + functional.linear(args[0], fc.weight))

    def first(self, x: Tensor) -> Tensor:
        return self.fc(x) + self.fc(-x)


class Part(Parent):
    def first(self, x: Tensor) -> Tensor:
        return torch.cat([functional.linear(x, self.fc.weight[:4]), self.fc(x)[..., 4:]], -1)


class Standardized(Parent):
    def first(self, x: Tensor) -> Tensor:
        w = self.fc.weight
        return functional.linear(x, (w - w.mean(1, keepdim=True)) / w.std(1, keepdim=True), self.fc.bias)


class Hidden(Parent):
    """Holds the weight where no module's names show it."""

    def __init__(self) -> None:
        super().__init__()
        self.held = [self.fc.weight]

    def first(self, x: Tensor) -> Tensor:
        return self.fc(x) + functional.linear(x, self.held[0])


class OnlyItsType(Parent):
    def first(self, x: Tensor) -> Tensor:
        return self.fc(x.to(self.fc.weight.dtype).type_as(self.fc.weight))


class Embedded(nn.Module):
    """The weight of an embedding is the classifier's too."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.fc = nn.Embedding(11, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        indices = x[..., 0].abs().mul(3).long().clamp(max=10)
        return functional.linear(torch.relu(self.fc(self.table(indices))), self.table.weight)


class TiedModules(Embedded):
    """As modules, each of which quantizes by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        indices = x[..., 0].abs().mul(3).long().clamp(max=10)
        return self.head(torch.relu(self.fc(self.table(indices))))


class Attention(nn.Module):
    def __init__(self, plain: bool) -> None:
        super().__init__()
        self.mha, self.fc = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 8)
        if plain:
            self.mha.out_proj = nn.Linear(8, 8)  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.mha(x, x, x, need_weights=False)[0])


class Masked(nn.Module):
    """Padding sends the encoder's nested tensors through its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoder(layer(), 2)

    def forward(self, x: Tensor) -> Tensor:
        padding = torch.zeros(x.shape[:2], dtype=torch.bool)
        padding[:, -1] = True
        return self.encoder(x, src_key_padding_mask=padding)[:, :-1]


def layer(activation: Any = "relu", norm_first: bool = False) -> nn.Module:
    return nn.TransformerEncoderLayer(8, 2, 16, 0.0, activation, batch_first=True, norm_first=norm_first)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.fc = nn.GRU(8, 8, batch_first=True), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.rnn(x)[0])


ZOO: dict[str, tuple[Callable[[], nn.Module], set[str]]] = {  # -> the layers that stay float
    "calls it": (Parent, set()),
    "itself": (Itself, {"fc"}),
    "in evaluation": (InEvaluation, {"fc"}),
    "in training": (InTraining, {"fc"}),
    "without gradients": (WithoutGradients, {"fc"}),
    "in inference": (InInference, {"fc"}),
    "a hook of it": (Hooked, {"fc"}),
    "a part": (Part, {"fc"}),
    "standardized": (Standardized, {"fc"}),
    "hidden": (Hidden, {"fc"}),
    "its type": (OnlyItsType, set()),
    "tied function": (Embedded, {"table"}),
    "tied modules": (TiedModules, set()),
    "attention": (lambda: Attention(False), set()),
    "attention, plain": (lambda: Attention(True), {"mha.out_proj"}),
    "encoder layer": (layer, set()),
    "encoder layer, GELU, norm first": (lambda: layer(nn.GELU(), True), set()),
    "encoder layer, ReLU module": (lambda: layer(nn.ReLU()), set()),
    "encoder": (lambda: nn.TransformerEncoder(layer(), 2, nn.LayerNorm(8)), set()),
    "encoder, padding": (Masked, set()),
    "nested": (lambda: nn.Sequential(nn.Sequential(layer()), Itself()), {"1.fc"}),
    "recurrent": (Recurrent, set()),
}


def quantized(net: nn.Module, quantizer: Quantizer, x: Tensor) -> nn.Module:
    """After its ranges have seen the inputs."""
    if isinstance(quantizer, PostTrainLinearQuantizer):
        return quantizer.quantize(net, [x])
    assert quantizer.faults(net) == []
    quantizer.prepare(net, torch.optim.SGD(net.parameters(), 0.1))
    quantizer.convert(net)
    net.train()(x)
    quantizer.freeze(net)
    return net


QUICK = {
    ("itself", "qat"),
    ("hidden", "lsq"),
    ("encoder layer", "qat"),
    ("encoder layer", "post-training"),
    ("encoder, padding", "qat"),
}
PAIRS = [
    pytest.param(parent, kind, marks=[] if i % 6 == j or (parent, kind) in QUICK else pytest.mark.slow)
    for i, parent in enumerate(ZOO)
    for j, kind in enumerate(QUANTIZERS)
]


@pytest.mark.parametrize(("parent", "kind"), PAIRS)
def test_every_mode_computes_the_same(parent: str, kind: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 5, 8)
    make, stay_float = ZOO[parent]
    quantizer = QUANTIZERS[kind](x)
    net = quantized(make(), quantizer, x)
    if not (parent == "in training" and kind == "post-training"):  # which is never trained again
        outputs = [net.train()(x), net.eval()(x)]
        with torch.no_grad():
            outputs += [net.train()(x), net.eval()(x)]
        with torch.inference_mode():
            outputs += [net(x).clone()]
        for output in outputs[1:]:
            assert (output - outputs[0]).norm() < 5e-3 * outputs[0].norm()  # other sums may round one value otherwise
        kept = {
            name for name in quantizer.left_float if "computes with its weight itself" in quantizer.left_float[name]
        }
        assert kept == stay_float
        assert all(any(note.startswith(f"{name} stays float") for note in quantizer.notes) for name in stay_float)
    assert any(isinstance(module, QuantLayer) for module in net.modules())


@pytest.mark.parametrize(
    "parent", [name for name, (_, kept) in ZOO.items() if kept and name not in ("standardized", "hidden")]
)
def test_it_is_known_without_example_inputs_too(parent: str) -> None:
    quantizer, (make, stay_float) = Qat(8, 3), ZOO[parent]
    assert quantizer.faults(make()) == []
    quantizer.prepare(net := make(), None)
    quantizer.convert(net)
    assert not stay_float & set(quantizer.bits_table())
    assert quantizer.bits_table()


def test_the_name_of_the_instance_does_not_matter() -> None:
    class Named(Parent):
        def first(this, x: Tensor) -> Tensor:
            return functional.linear(x, this.fc.weight)

    quantizer = Qat(8, 3)
    assert quantizer.faults(Named()) == []
    assert quantizer.left_float == {"fc": "Named computes with its weight itself"}


def test_a_layer_of_width_zero_stays_float() -> None:
    quantizer = Qat(8, 3)
    assert quantizer.faults(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 0))) == []
    assert quantizer.left_float == {"1": "its weight is empty"}


def test_evaluation_computes_with_the_quantized_weights_of_an_encoder_layer() -> None:
    x, net = torch.randn(3, 5, 8), layer().eval()
    with torch.no_grad():
        before = net(x)
    after = quantized(net, Qat(32, 2, example_inputs=x), x).eval()
    by_hand = layer()
    by_hand.load_state_dict({name: value for name, value in after.state_dict().items() if "quantizer" not in name})
    with torch.no_grad():
        for name in ("linear1", "linear2"):
            by_hand.get_submodule(name).weight.copy_(after.get_submodule(name).quantized_weight())  # type: ignore[operator]
        torch.testing.assert_close(after(x), by_hand.train()(x), rtol=1e-4, atol=1e-5)
        assert (after(x) - before).norm() > 0.01 * before.norm()
