"""A tensor that the trace takes as never negative, and that minibatches show to be negative, is quantized as signed."""

import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.config import dict_config
from compress.errors import UserError
from compress.quantization.convert import structure_of
from compress.quantization.post_training.quantizer import PostTrainLinearQuantizer as Ptq
from tests.compress.harness import one_policy


class Shifts(nn.Module):
    """linear -> relu -> minus 1, but only where the tracer does not go -> linear."""

    def __init__(self, only: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.only = nn.Linear(6, 8), nn.Linear(8, 3), only

    def forward(self, x: Tensor, shift: bool = True) -> Tensor:
        y = functional.relu(self.first(x))
        here = {
            "running": not torch.compiler.is_exporting(),
            "training": self.training,
            "evaluation": not self.training and not torch.compiler.is_exporting(),
            "gradients": torch.is_grad_enabled() and not torch.compiler.is_exporting(),
        }
        if here[self.only] and shift:
            y = y - 1.0
        return self.second(y)


def x_of(seed: int) -> Tensor:
    return torch.randn(16, 6, generator=torch.Generator().manual_seed(seed))


QUANTIZERS: dict[str, dict[str, Any]] = {
    "QuantAwareTrainRangeLinearQuantizer": {},
    "LSQQuantizer": {},
    "PACTQuantizer": {"weight_scale": "max"},
    "DorefaQuantizer": {"weight_scale": "max"},
    "WRPNQuantizer": {},
}


def schedule_of(name: str, bits: int = 8) -> dict[str, Any]:
    settings = {"class": name, "bits_weights": 8, "bits_activations": bits, **QUANTIZERS[name]}
    return one_policy("quantizers", settings, [0, 1])


class Trained:
    """A run of a few steps."""

    def __init__(self, name: str, only: str, bits: int = 8) -> None:
        self.net = Shifts(only)
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.0)
        self.scheduler = dict_config(self.net, self.optimizer, schedule_of(name, bits), x_of(0))

    def steps(self, epoch: int, count: int = 3) -> Tensor:
        self.scheduler.on_epoch_begin(epoch, self.optimizer)
        self.net.train()
        for i in range(count):
            self.scheduler.on_minibatch_begin(epoch, i, count, self.optimizer)
            out: Tensor = self.net(x_of(i))
            loss = self.scheduler.before_backward_pass(epoch, i, count, out.square().mean(), self.optimizer)
            self.optimizer.zero_grad()
            loss.backward()
            self.scheduler.before_parameter_optimization(epoch, i, count, self.optimizer)
            self.optimizer.step()
            self.scheduler.on_minibatch_end(epoch, i, count, self.optimizer)
        self.scheduler.on_epoch_end(epoch, self.optimizer)
        return out


@pytest.mark.parametrize("only", ["training", "running"])
@pytest.mark.parametrize("name", QUANTIZERS)
def test_training_shows_the_sign_and_says_so_once(name: str, only: str, caplog: Any) -> None:
    """Expected: the float network's own output, as far as 8 bits hold it (DoReFa and WRPN clip to [-1, 1])."""
    run = Trained(name, only)
    with caplog.at_level(logging.WARNING):
        out = run.steps(0)
        out = run.steps(1)
    told = [record.getMessage() for record in caplog.records if "negative values" in record.getMessage()]
    assert len(told) == 1
    assert "second" in told[0]
    assert "signed from now on" in told[0]
    hidden = functional.relu(run.net.first(x_of(2))) - 1.0
    if name in ("DorefaQuantizer", "WRPNQuantizer"):
        hidden = hidden.clamp(-1, 1)
    wanted = functional.linear(hidden, run.net.second.weight, run.net.second.bias)
    assert (out - wanted).norm() < (
        0.15 if name in ("PACTQuantizer", "LSQQuantizer") else 0.05
    ) * wanted.norm()  # first clips
    assert structure_of(run.net) == run.scheduler.structures[0]


@pytest.mark.parametrize("name", ["QuantAwareTrainRangeLinearQuantizer", "LSQQuantizer", "PACTQuantizer"])
def test_it_is_resumed(name: str) -> None:
    run, again = Trained(name, "training"), Trained(name, "training")
    run.steps(0)
    again.scheduler.load_state_dict(run.scheduler.state_dict())
    again.net.load_state_dict(run.net.state_dict())
    again.optimizer.load_state_dict(run.optimizer.state_dict())
    torch.testing.assert_close(again.steps(1), run.steps(1), rtol=0, atol=0)


def test_one_bit_has_no_sign() -> None:
    run = Trained("DorefaQuantizer", "training", bits=1)
    with pytest.raises(UserError, match=r"second reads negative values.*at least 2 bits"):
        run.steps(0)


def test_what_is_never_negative_stays_as_it_is(caplog: Any) -> None:
    run = Trained("QuantAwareTrainRangeLinearQuantizer", "training")
    run.net.only = "gradients"
    run.net.forward = lambda x: Shifts.forward(run.net, x, shift=False)  # type: ignore[method-assign]
    with caplog.at_level(logging.WARNING):
        run.steps(0)
    assert not [record for record in caplog.records if "negative" in record.getMessage()]
    assert not run.scheduler.structures[0]["layers"]["second"]["input_quantizer"]["signed"]


def test_evaluation_alone_shows_the_sign_and_says_so_once(caplog: Any) -> None:
    run = Trained("QuantAwareTrainRangeLinearQuantizer", "evaluation")
    with caplog.at_level(logging.WARNING):
        for epoch in range(2):
            run.scheduler.on_epoch_begin(epoch)
            run.net.eval()(x_of(9))
            run.scheduler.on_epoch_end(epoch)
    told = [record.getMessage() for record in caplog.records if "negative values" in record.getMessage()]
    assert len(told) == 1
    assert "in evaluation 1 layers" in told[0]
    assert "overrides: {second: {bits_activations: null}}" in told[0]


@pytest.mark.parametrize("mode", ["SYMMETRIC", "ASYMMETRIC_UNSIGNED"])
def test_calibration_shows_the_sign(mode: Any) -> None:
    net, x = Shifts("running").eval(), x_of(3)
    quantizer = Ptq(mode=mode, per_channel_wts=True)
    network = quantizer.quantize(net, [x])
    with torch.no_grad():
        assert (network(x) - net(x)).norm() < 0.03 * net(x).norm()
    assert any("second reads negative values" in note for note in quantizer.notes)
