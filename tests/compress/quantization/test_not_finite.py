"""Minibatches that are NaN or infinite, which a loop skips: ranges, steps and clips stay as good as without them."""

import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress.analysis.activations.statistics import ActivationStatistics
from compress.config import dict_config
from compress.errors import UserError
from compress.quantization.lsq import LearnedStepActivation
from compress.quantization.pact import ClippedActivation
from compress.quantization.post_training.quantizer import PostTrainLinearQuantizer
from compress.quantization.range_linear import RangeActivation
from tests.compress.harness import tiny_net


def _at(sample: int, value: float) -> Any:
    def changed(x: Tensor) -> Tensor:
        x = x.clone()
        x[sample, 0, 0, 0] = value
        return x

    return changed


BAD: dict[str, Any] = {
    "all NaN": lambda x: torch.full_like(x, torch.nan),
    "one NaN": _at(0, torch.nan),
    "infinite": _at(1, torch.inf),
    "minus infinite": _at(0, -torch.inf),
    "half overflow": lambda x: x.half() * 60000 * 10,
    "empty": lambda x: x[:0],
}


def good(i: int) -> Tensor:
    return torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(i))


def pieces() -> list[Any]:
    modes: list[Any] = ["SYMMETRIC", "ASYMMETRIC_SIGNED"]
    ranges = [RangeActivation(8, signed, mode) for signed in (True, False) for mode in modes]
    return [*ranges, LearnedStepActivation(8, True), LearnedStepActivation(8, False)]


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("bad", BAD)
def test_a_bad_minibatch_leaves_no_trace(bad: str, first: bool) -> None:
    for piece, clean in zip(pieces(), pieces(), strict=True):
        batches = [good(0), good(1)]
        for batch in batches:
            clean(batch)
        for batch in [BAD[bad](good(5)), *batches] if first else [batches[0], BAD[bad](good(5)), batches[1]]:
            out = piece(batch)
            assert out.shape == batch.shape
        torch.testing.assert_close(piece.state_dict(), clean.state_dict(), rtol=0, atol=0)
        torch.testing.assert_close(piece(good(2)), clean(good(2)), rtol=0, atol=0)
        seen = isinstance(piece, RangeActivation) or first  # a step starts once and observes no more
        assert int(piece.ignored) == int(seen and bad != "empty") or isinstance(piece, LearnedStepActivation)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_an_infinite_value_that_is_clipped_gives_a_learned_scale_no_nan(signed: bool, sign: float) -> None:
    """The clip makes it finite, so that the loss is, and no loop skips the minibatch."""
    for piece in (LearnedStepActivation(8, signed), ClippedActivation(8, signed, 3.0)):
        piece(good(0))
        x = good(1).requires_grad_()
        y = piece(BAD["infinite"](x) * sign)
        (y * (y != y.max())).square().sum().backward()
        assert all(torch.isfinite(own.grad).all() for own in piece.parameters())  # type: ignore[arg-type]


WHOLE = [("QuantAwareTrainRangeLinearQuantizer", 8), ("LSQQuantizer", 8), ("PACTQuantizer", 8), ("DorefaQuantizer", 8)]
WHOLE += [("WRPNQuantizer", 8), ("DorefaQuantizer", 1), ("PACTQuantizer", 1)]


@pytest.mark.parametrize(("name", "bits"), WHOLE)
@pytest.mark.parametrize("where", [0, 3])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_loop_that_skips_a_bad_minibatch_trains_as_without_it(
    name: str, bits: int, where: int, bad: float, caplog: Any
) -> None:
    """The BatchNorms of the network would keep NaN themselves, so they are in evaluation mode."""
    if bad == torch.inf and name.startswith("Quant"):
        pytest.skip("the first clip makes the minibatch finite, so no loop skips it")

    def train(with_bad: bool) -> tuple[nn.Module, Any]:
        net = tiny_net()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
        instance = {"class": name, "bits_weights": bits, "bits_activations": 8}
        schedule = {
            "quantizers": {"q": instance},
            "policies": [{"quantizer": {"instance_name": "q"}, "epochs": [0, 1]}],
        }
        scheduler = dict_config(net, optimizer, schedule, good(0))
        scheduler.on_epoch_begin(0)
        for step in range(6):
            if step == where and with_bad:
                scheduler.on_minibatch_begin(0, step, 6)
                net.train()
                net.bn1.eval(), net.bn2.eval()
                out = net(good(9).fill_(bad))
                assert not torch.isfinite(out).all() or bad == torch.inf  # which a clip makes finite
                out.square().mean().backward()  # and the loop leaves the update out
            net.train()
            net.bn1.eval(), net.bn2.eval()
            scheduler.on_minibatch_begin(0, step, 6)
            loss = net(good(step)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            scheduler.before_parameter_optimization(0, step, 6, optimizer)
            optimizer.step()
            scheduler.on_minibatch_end(0, step, 6)
        scheduler.on_epoch_end(0)
        return net, scheduler

    clean, _ = train(False)
    with caplog.at_level(logging.WARNING):
        caplog.clear()
        net, _ = train(True)
    torch.testing.assert_close(net.state_dict(), clean.state_dict(), rtol=0, atol=0)
    said = [record.message for record in caplog.records if "left out of the ranges" in record.message]
    observes = {"QuantAwareTrainRangeLinearQuantizer": True, "LSQQuantizer": where == 0}.get(name, False)
    assert len(said) == int(observes)
    assert all("conv1.input (1)" in line for line in said)


METHODS = ["NONE", "AVG", "MOVING_AVERAGE", "N_STD", "PERCENTILE", "MSE", "GAUSS", "LAPLACE", "KL"]


CASES = [
    (bad, method) for bad in BAD if bad != "half overflow" for method in METHODS if method != "KL" or bad == "one NaN"
]


@pytest.mark.parametrize(("bad", "method"), CASES)
def test_calibration_leaves_bad_samples_out(bad: str, method: str, caplog: Any) -> None:
    net = tiny_net().eval()
    settings: Any = {"clip_acts": method, "clip_n_stds": 3.0 if method == "N_STD" else None}
    worse = BAD[bad](good(5))
    left = [0, 1, 2, 3] if bad == "empty" else [i for i in range(4) if bool(torch.isfinite(worse).flatten(1).all(1)[i])]
    clean_batches = [good(0), good(1), *([good(5)[left]] if left and bad != "empty" else [])]
    found = PostTrainLinearQuantizer(**settings).quantize(net, [good(0), good(1), worse])
    wanted = PostTrainLinearQuantizer(**settings).quantize(net, clean_batches)
    torch.testing.assert_close(found(good(7)), wanted(good(7)), rtol=0, atol=0)
    said = [record.message for record in caplog.records if "not finite and were left out" in record.message]
    assert len(said) == int(bad != "empty")


class Overflows(nn.Module):
    """Its middle is infinite for samples above 2."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.second(self.first(x) / (x.amax(1, keepdim=True) < 2))
        return result


@pytest.mark.parametrize("method", METHODS)
def test_values_that_overflow_inside_do_not_count(method: str, caplog: Any) -> None:
    torch.manual_seed(0)
    net, x = Overflows(), torch.rand(8, 3)
    settings: Any = {"clip_acts": method, "clip_n_stds": 3.0 if method == "N_STD" else None}
    settings |= {"quantize_inputs": False, "round_results": "none"}  # the first layer's results are finite, and count
    wanted = PostTrainLinearQuantizer(**settings).quantize(net, [x[:6]])
    x[6:] += 3
    found = PostTrainLinearQuantizer(**settings).quantize(net, [x])
    torch.testing.assert_close(found(x[:6]), wanted(x[:6]))
    assert "at most 2 of 8 (second.input" in caplog.text
    with pytest.raises(UserError, match="calibration: second.input is not finite .* for any of 2 samples"):
        PostTrainLinearQuantizer(**settings).quantize(net, [x[6:]])


def test_data_and_weights_that_are_not_finite_at_all_are_refused() -> None:
    with pytest.raises(UserError, match="none of 8 samples is finite"):
        PostTrainLinearQuantizer().quantize(tiny_net(), [good(0).fill_(torch.nan), good(1).fill_(torch.inf)])
    net = tiny_net()
    net.fc.weight.data[0, 0] = torch.nan
    with pytest.raises(UserError, match="not finite|NaN or infinite"):
        PostTrainLinearQuantizer(bias_correction=True).quantize(net, [good(0)])


def test_reported_statistics_leave_bad_samples_out_and_say_so(caplog: Any) -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    x = torch.randn(6, 3)
    with ActivationStatistics(net) as clean:
        net(x[1:])
    x[0, 1] = torch.nan
    with ActivationStatistics(net) as found:
        net(x)
    columns = ["layer", "sparsity", "mean", "min", "max", "std", "dead_channels"]
    assert found.report().layers[columns].equals(clean.report().layers[columns])
    assert "1 in 0" in caplog.text
