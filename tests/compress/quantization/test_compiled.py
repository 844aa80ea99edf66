"""Quantizers under torch.compile: the same losses, and no warning of what it could not follow."""

import logging
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

from compress.config import dict_config
from compress.quantization.lsq import LearnedStepActivation
from compress.quantization.range_linear import RangeActivation
from tests.compress.harness import tiny_net

BITS = {"bits_activations": 8, "bits_weights": 8}
QUANTIZERS: dict[str, dict[str, Any]] = {
    "QAT": {"class": "QuantAwareTrainRangeLinearQuantizer", **BITS},
    "QAT folded": {
        "class": "QuantAwareTrainRangeLinearQuantizer",
        **BITS,
        "fold_batchnorm": True,
        "per_channel_wts": True,
        "mode": "ASYMMETRIC_UNSIGNED",
    },
    "LSQ": {"class": "LSQQuantizer", **BITS},
    "PACT": {"class": "PACTQuantizer", **BITS},
    "DoReFa": {"class": "DorefaQuantizer", **BITS},
    "WRPN": {"class": "WRPNQuantizer", **BITS},
}


def losses(quantizer: dict[str, Any], compiled: bool) -> list[float]:
    """Of four epochs of two steps: two epochs quantized, a float one before and a frozen one behind."""
    torch.manual_seed(0)
    torch._dynamo.reset()
    net, x = tiny_net(), torch.randn(4, 3, 6, 6)
    optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)
    policies = [{"quantizer": {"instance_name": "q"}, "epochs": [1, 2]}]
    scheduler = dict_config(net, optimizer, {"quantizers": {"q": quantizer}, "policies": policies}, x)
    forward: Any = torch.compile(net, backend="aot_eager") if compiled else net
    found = []
    for epoch in range(4):
        net.train()
        scheduler.on_epoch_begin(epoch, optimizer)
        for step in range(2):
            scheduler.on_minibatch_begin(epoch, step, 2, optimizer)
            loss = scheduler.before_backward_pass(epoch, step, 2, forward(x + step).square().mean(), optimizer)
            optimizer.zero_grad()
            loss.backward()
            scheduler.before_parameter_optimization(epoch, step, 2, optimizer)
            optimizer.step()
            scheduler.on_minibatch_end(epoch, step, 2, optimizer)
            found.append(float(loss))
        scheduler.on_epoch_end(epoch, optimizer)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", QUANTIZERS)
def test_compiled_training_is_the_same(name: str) -> None:
    assert losses(QUANTIZERS[name], True) == pytest.approx(losses(QUANTIZERS[name], False), rel=1e-4)


def test_the_first_learned_step_is_compiled_without_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    torch._dynamo.reset()
    logging.getLogger("torch._dynamo").propagate = True
    piece, x = LearnedStepActivation(4, False), torch.rand(3, 5)
    found = torch.compile(piece, backend="aot_eager")(x)
    assert bool(piece.started)
    torch.testing.assert_close(found, piece(x))
    assert not [each for each in caplog.records if "raph break" in each.getMessage()]


@pytest.mark.slow
def test_activations_of_all_kinds_are_one_graph_before_and_after_they_have_a_range() -> None:
    torch._dynamo.reset()
    kinds = [(8, True, "SYMMETRIC"), (4, False, "SYMMETRIC"), (8, True, "ASYMMETRIC_SIGNED")] * 4
    compiled, plain = (nn.Sequential(*(RangeActivation(*kind) for kind in kinds)) for _ in range(2))
    counter = CompileCounter()
    forward: Any = torch.compile(compiled, backend=counter)
    for step in range(3):
        x = torch.randn(3, 5, generator=torch.Generator().manual_seed(step))
        torch.testing.assert_close(forward(x), plain(x))
    assert counter.frame_count == 1
    for a, b in zip(compiled, plain, strict=True):
        torch.testing.assert_close(a.ranges, b.ranges)
