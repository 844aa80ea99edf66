"""Recurrent layers: the loop is torch's layer, what is rounded, training, resuming, zeros, post-training, names."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from compress.config import dict_config
from compress.quantization.convert import apply, structure_of
from compress.quantization.dorefa import DorefaQuantizer
from compress.quantization.lsq import LSQQuantizer
from compress.quantization.modules.layers import LAYERS, QuantLayer, kind_of, quantized, slots_of
from compress.quantization.pact import PACTQuantizer
from compress.quantization.post_training.mixed_precision import MixedPrecision
from compress.quantization.post_training.quantizer import PostTrainLinearQuantizer
from compress.quantization.range_linear import QuantAwareTrainRangeLinearQuantizer as Qat
from compress.quantization.range_linear import RangeActivation
from compress.quantization.wrpn import WRPNQuantizer

ALL = [Qat, LSQQuantizer, DorefaQuantizer, PACTQuantizer, WRPNQuantizer]
KINDS = [nn.LSTM, nn.GRU, nn.RNN]
TOKENS = torch.randint(0, 12, (3, 4), generator=torch.Generator().manual_seed(0))


class Words(nn.Module):
    """A small language model: (batch, steps) tokens -> scores of the next ones."""

    def __init__(self, kind: Any = nn.LSTM, layers: int = 2, **settings: Any) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.embed, self.rnn = nn.Embedding(12, 6), kind(6, 5, layers, batch_first=True, **settings)
        self.head = nn.Linear(5 * (2 if self.rnn.bidirectional else 1), 12)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.rnn(self.embed(tokens))[0])


def loss_of(net: nn.Module) -> Tensor:
    return functional.cross_entropy(net(TOKENS)[:, :-1].flatten(0, 1), TOKENS[:, 1:].flatten())


def converted(cls: Any, net: nn.Module, **settings: Any) -> Any:
    quantizer = cls(**{"bits_activations": 8, "bits_weights": 6, "example_inputs": TOKENS, **settings})
    assert quantizer.faults(net) == []
    quantizer.prepare(net, torch.optim.SGD(net.parameters(), 0.1))
    quantizer.convert(net)
    return quantizer


class Untouched(nn.Module):
    """Stands where a fake quantizer would: the layer takes its loop, and rounds nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clone()


def tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, PackedSequence):
        yield output.data
    else:
        for each in output:
            yield from tensors(each)


VARIANTS = [
    *((kind, {"bidirectional": both, "num_layers": 2}) for kind in KINDS for both in (False, True)),
    (nn.LSTM, {"proj_size": 3, "bidirectional": True, "bias": False}),
    (nn.GRU, {"bias": False, "batch_first": True}),
    (nn.RNN, {"nonlinearity": "relu", "batch_first": True}),
]


@pytest.mark.parametrize("loops", [False, True])
@pytest.mark.parametrize(("kind", "settings"), VARIANTS)
def test_without_rounding_it_is_the_float_layer(kind: Any, settings: dict[str, Any], loops: bool) -> None:
    """Batched, not batched and packed inputs, with and without given states, by torch's own kernel in float64."""
    torch.manual_seed(0)
    net = kind(4, 5, **settings).double()
    twin: Any = quantized(net, {})
    for slot in slots_of(twin):
        twin._modules[slot] = Untouched() if loops and slot.startswith("hidden") else None
    batch = 3 if settings.get("batch_first") else 6
    places = net.num_layers * (2 if net.bidirectional else 1)
    hidden, cell = (torch.randn(places, batch, size).double() for size in (net.proj_size or 5, 5))
    given: Any = (hidden, cell) if kind is nn.LSTM else hidden
    one: Any = (hidden[:, 0], cell[:, 0]) if kind is nn.LSTM else hidden[:, 0]
    x = torch.randn(3, 6, 4).double()
    packed = pack_sequence([torch.randn(n, 4).double() for n in (2, 5, 3, 1, 4, 4)[:batch]], enforce_sorted=False)
    for inputs in ((x,), (x, given), (x[0],), (x[0], one), (packed,), (packed, given)):
        for mine, right in zip(tensors(twin(*inputs)), tensors(net(*inputs)), strict=True):
            torch.testing.assert_close(mine, right, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
@pytest.mark.parametrize("shape", [(3,), ()])
def test_without_rounding_it_is_the_float_cell(kind: Any, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    net = kind(4, 5).double()
    twin = quantized(net, {})
    x, hidden, cell = (torch.randn(*shape, size).double() for size in (4, 5, 5))
    for inputs in ((x,), (x, (hidden, cell) if kind is nn.LSTMCell else hidden)):
        for mine, right in zip(tensors(twin(*inputs)), tensors(net(*inputs)), strict=True):
            torch.testing.assert_close(mine, right, rtol=0, atol=1e-12)


def test_what_is_rounded_by_a_plain_loop() -> None:
    """A GRU with 4-bit weights and hidden states of multiples of 1/8, against the equations written out."""
    torch.manual_seed(0)
    net = nn.GRU(3, 4)
    pieces = {f"{name}_quantizer": Qat(bits_weights=4).weight_piece(4, 0) for name in ("weight_ih_l0", "weight_hh_l0")}
    hidden = RangeActivation(5, True, "SYMMETRIC", 0.0)
    hidden.ranges.copy_(torch.tensor([-1.9375, 1.9375, 1.0]))  # 15.5 steps of 1 / 8
    twin = quantized(net, {**pieces, "hidden_l0_quantizer": hidden}).eval()
    for name in ("weight_ih_l0", "weight_hh_l0"):
        pieces[f"{name}_quantizer"].start(getattr(net, name))  # type: ignore[operator]
    w, u = twin.quantized_weight("weight_ih_l0"), twin.quantized_weight("weight_hh_l0")  # type: ignore[operator]
    assert max(len(w.unique()), len(u.unique())) <= 16
    x, h = torch.randn(5, 2, 3), torch.zeros(2, 4)
    for t in range(5):
        a, b = x[t] @ w.T + net.bias_ih_l0, h @ u.T + net.bias_hh_l0
        r, z = (a + b)[:, :4].sigmoid(), (a + b)[:, 4:8].sigmoid()
        n = (a[:, 8:] + r * b[:, 8:]).tanh()
        h = torch.round(((1 - z) * n + z * h) * 8) / 8
        torch.testing.assert_close(twin(x[: t + 1])[1][0], h, rtol=0, atol=1e-6)


@pytest.mark.parametrize("cls", ALL)
def test_it_trains_and_is_built_again_from_structure_and_state(cls: Any) -> None:
    net = Words(bidirectional=cls is LSQQuantizer)
    quantizer = converted(cls, net)
    assert quantizer.bits_table() == {"embed": "W6", "rnn": "W6 A8", "head": "W6 A8"}
    assert quantizer.left_float == {}
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        loss_of(net).backward()
        optimizer.step()
    for name, parameter in net.named_parameters():
        # no value lies beyond PACT's first clip of 8, and only those move it
        assert name.endswith(".clip") or float(parameter.grad.abs().sum()) > 0, name  # type: ignore[union-attr]
    again = apply(Words(bidirectional=cls is LSQQuantizer), structure_of(net))
    again.load_state_dict(net.state_dict())
    assert torch.equal(again.eval()(TOKENS), net.eval()(TOKENS))
    assert torch.equal(copy.deepcopy(net)(TOKENS), net(TOKENS))


@pytest.mark.parametrize("kind", KINDS)
def test_sixteen_bits_are_next_to_float_and_so_are_the_gradients(kind: Any) -> None:
    net = Words(kind)
    net.rnn.dropout = 0.0
    twin = copy.deepcopy(net)
    converted(Qat, twin, bits_activations=16, bits_weights=16, ema_decay=0.0)
    loss_of(net).backward()
    twin.train()
    loss_of(twin)  # ranges are of this minibatch
    for module in twin.modules():
        if isinstance(module, RangeActivation):
            module.ranges.copy_(torch.tensor([-4.0, 4.0, 1.0]))
            module.freeze()
    loss_of(twin).backward()
    torch.testing.assert_close(twin.eval()(TOKENS), net(TOKENS), rtol=0, atol=2e-3)
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(twin.get_parameter(name).grad, parameter.grad, rtol=2e-2, atol=2e-4)


@pytest.mark.parametrize("cls", ALL)
def test_masked_weights_stay_zero(cls: Any) -> None:
    net = Words()
    with torch.no_grad():
        for name in ("weight_ih_l0", "weight_hh_l1"):
            net.rnn.get_parameter(name)[::2] = 0
    converted(cls, net)
    for name in ("weight_ih_l0", "weight_hh_l1"):
        rounded = net.rnn.quantized_weight(name)
        assert not rounded[::2].any()
        assert rounded[1::2].any()


def test_overrides_bits_of_biases_and_float_states() -> None:
    net = Words()
    quantizer = converted(Qat, net, bits_activations=32, bits_bias=8, overrides={"rnn": {"bits_weights": 4}})
    assert quantizer.bits_table()["rnn"] == "W4 B8"
    right = nn.LSTM(6, 5, 2, batch_first=True)
    layer: Any = net.rnn.eval()
    with torch.no_grad():
        for name, parameter in right.named_parameters():
            of = layer.quantized_weight if name.startswith("weight") else layer.quantized_bias
            parameter.copy_(of(name))
    x = torch.randn(2, 4, 6)
    torch.testing.assert_close(layer(x)[0], right(x)[0])
    other = Words()
    assert "rnn" in converted(Qat, other, overrides={"rnn": None}).left_float
    assert type(other.rnn) is nn.LSTM


def test_a_cell_in_a_loop_of_its_own() -> None:
    class Unrolled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.cell, self.head = nn.Embedding(12, 6), nn.LSTMCell(6, 5), nn.Linear(5, 12)

        def forward(self, tokens: Tensor) -> Tensor:
            state, found = None, []
            for step in self.embed(tokens).unbind(1):
                state = self.cell(step, state)
                found.append(state[0])
            return self.head(torch.stack(found, 1))

    net = Unrolled()
    quantizer = converted(Qat, net)
    assert quantizer.bits_table()["cell"] == "W6 A8"
    loss_of(net).backward()
    assert net.cell.weight_hh.grad is not None


def test_a_schedule_quantizes_it() -> None:
    net = Words()
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    schedule = {
        "version": 1,
        "quantizers": {"q": {"class": "LSQQuantizer", "bits_weights": 4, "bits_activations": 8}},
        "policies": [{"quantizer": {"instance_name": "q"}, "epochs": [1]}],
    }
    scheduler = dict_config(net, optimizer, schedule, TOKENS, epochs=2)
    for epoch in range(2):
        scheduler.on_epoch_begin(epoch, optimizer)
        assert isinstance(net.rnn, QuantLayer) is (epoch == 1)
        scheduler.on_minibatch_begin(epoch, 0, 1, optimizer)
        loss = scheduler.before_backward_pass(epoch, 0, 1, loss_of(net), optimizer)
        optimizer.zero_grad()
        loss.backward()
        scheduler.before_parameter_optimization(epoch, 0, 1, optimizer)
        optimizer.step()
        scheduler.on_minibatch_end(epoch, 0, 1, optimizer)
        scheduler.on_epoch_end(epoch, optimizer)
    assert net.rnn.weight_hh_l0_quantizer.bits == 4
    assert net.rnn.hidden_l1_quantizer.bits == 8


@pytest.mark.parametrize("kind", KINDS)
def test_post_training(kind: Any, tmp_path: Path) -> None:
    net = Words(kind, layers=1, bidirectional=kind is nn.LSTM).eval()
    quantizer = PostTrainLinearQuantizer(per_channel_wts=True)
    found = quantizer.quantize(net, [TOKENS])
    right = net(TOKENS).detach()
    assert float((found(TOKENS).detach() - right).norm() / right.norm()) < 0.02
    assert quantizer.left_float == {}
    hidden = {name for name in quantizer.statistics if "hidden" in name}
    assert hidden == {
        f"rnn.hidden_{place}_quantizer" for place in (["l0", "l0_reverse"] if kind is nn.LSTM else ["l0"])
    }
    states = net.rnn(net.embed(TOKENS))[0][..., :5].detach()
    stats = quantizer.statistics["rnn.hidden_l0_quantizer"]
    assert stats.min == pytest.approx(float(states.min()), abs=1e-5)  # weights and activations are float then
    assert stats.max == pytest.approx(float(states.max()), abs=1e-5)
    quantizer.write_statistics(tmp_path / "s.yaml")
    again = PostTrainLinearQuantizer(per_channel_wts=True, model_activation_stats=str(tmp_path / "s.yaml"))
    assert torch.equal(again.quantize(net, [TOKENS])(TOKENS), found(TOKENS))


def test_post_training_steps_leave_recurrent_weights_rounded_to_nearest() -> None:
    net = Words().eval()
    quantizer = PostTrainLinearQuantizer(adaround=True, adaround_steps=2, bias_correction=True, equalization=True)
    found = quantizer.quantize(net, [TOKENS])
    assert any("leave recurrent layers as they are: rnn" in note for note in quantizer.notes)
    assert torch.equal(found.get_parameter("rnn.weight_hh_l0"), net.rnn.weight_hh_l0)
    chosen = MixedPrecision(0.2).pick(net, [TOKENS])
    assert chosen.bits["rnn"] in (2, 3, 4, 5, 6, 8)


def test_every_layer_says_its_slots() -> None:
    assert slots_of(nn.LSTM(2, 2, bidirectional=True, bias=False)) == (
        *("weight_ih_l0_quantizer", "weight_hh_l0_quantizer", "weight_ih_l0_reverse_quantizer"),
        *("weight_hh_l0_reverse_quantizer", "input_quantizer", "hidden_l0_quantizer", "hidden_l0_reverse_quantizer"),
        "result_quantizer",
    )
    assert slots_of(nn.Conv2d(1, 1, 1)) == ("weight_quantizer", "bias_quantizer", "input_quantizer", "result_quantizer")
    assert slots_of(nn.ReLU()) == ("output_quantizer",)
    assert [kind_of(slot) for slot in slots_of(nn.GRUCell(2, 2))] == ["weight"] * 2 + ["bias"] * 2 + ["activation"] * 3
    assert {nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.GRUCell, nn.RNNCell} <= set(LAYERS)


@pytest.mark.parametrize(
    ("layer", "first"),
    [
        (nn.LSTM(4, 5), 1.0), (nn.GRU(4, 5, 2), 1.0), (nn.RNN(4, 5), 1.0), (nn.LSTMCell(4, 5), 1.0),
        (nn.LSTM(4, 5, proj_size=3), 8.0), (nn.RNN(4, 5, nonlinearity="relu"), 8.0),
        (nn.RNNCell(4, 5, nonlinearity="relu"), 8.0),
    ],
)  # fmt: skip
def test_pacts_clip_of_a_state_that_a_tanh_bounds_starts_at_one(layer: nn.Module, first: float) -> None:
    for given, wanted in ((8.0, first), (0.5, 0.5)):
        net = nn.ModuleList([copy.deepcopy(layer)])
        quantizer = PACTQuantizer(4, 4, act_clip_init_val=given)
        quantizer.prepare(net, torch.optim.SGD(net.parameters(), 0.1))
        clips = {name: piece for name, piece in quantizer._pieces["0"].items() if name.startswith("hidden")}
        assert len(clips) == (2 if isinstance(layer, nn.GRU) else 1)
        assert all(float(piece.clip.detach()) == wanted for piece in clips.values())  # type: ignore[arg-type, operator]


@pytest.mark.parametrize("cls", ALL)
def test_a_projected_state_in_train_eval_and_bfloat16(cls: Any) -> None:
    """Expected: the float layer, as far as 8 bits hold it (weights of unit scale are others)."""
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.LSTM(6, 8, 2, batch_first=True, proj_size=4)), torch.randn(3, 5, 6)
    wanted = net(x)[0]
    settings = {"weight_scale": "max"} if cls in (DorefaQuantizer, PACTQuantizer) else {}
    quantizer = cls(8, 8, example_inputs=x, **settings)
    quantizer.prepare(net, torch.optim.SGD(net.parameters(), 0.1))
    quantizer.convert(net)
    for _ in range(3):
        trained = net.train()(x)[0]
    if cls is not Qat:  # its ranges move with each step
        torch.testing.assert_close(net.eval()(x)[0], trained)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = net.train()(x)[0]
        half.float().square().mean().backward()
    assert half.dtype == torch.bfloat16
    assert (half.float() - trained).norm() < 0.05 * trained.norm()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)
    if cls not in (DorefaQuantizer, PACTQuantizer):
        assert (trained - wanted).norm() < 0.06 * wanted.norm()


@pytest.mark.parametrize("packed", [True, False])
def test_the_range_of_a_state_is_that_of_the_whole_sequence(packed: bool) -> None:
    """Expected: the moving average, over minibatches, of the extremes over all steps of a plain float layer."""
    torch.manual_seed(0)
    layer = nn.LSTM(3, 4)
    twin: Any = quantized(layer, {"hidden_l0_quantizer": RangeActivation(16, True, "ASYMMETRIC_SIGNED", decay=0.5)})
    wanted, total = torch.zeros(2, dtype=torch.float64), 0.0
    for seed in range(3):
        x = torch.randn(9, 2, 3, generator=torch.Generator().manual_seed(seed)) * (1 + seed)
        states = layer(x)[0].detach()
        wanted = 0.5 * wanted + 0.5 * torch.stack([states.min(), states.max()]).double()
        total = 0.5 * total + 0.5
        twin.train()(pack_sequence(list(x.unbind(1))) if packed else x)
    found = twin.hidden_l0_quantizer.ranges
    torch.testing.assert_close(found[:2].double() / found[2], wanted / total, atol=1e-3, rtol=1e-3)
