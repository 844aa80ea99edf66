"""Half precision: sums and averages of many values are taken in float32, and autocast keeps no old weights."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from compress.calibration.batch_norm import reestimate_batch_norm
from compress.errors import UserError
from compress.pruning.base import GradientSums
from compress.pruning.network_wide.measured_loss import Measure
from compress.quantization.functions import fake_quantize, plainly_quantize
from compress.quantization.post_training.mixed_precision import MixedPrecision
from compress.quantization.range_linear import QuantAwareTrainRangeLinearQuantizer, RangeActivation
from compress.regularization.group_terms import GroupVarianceRegularizer
from engine.ema import AveragedWeights
from engine.epoch.running_means import Means
from tests.compress.harness import Run, batch, one_policy, tiny_net
from tests.compress.pruning.network_wide.test_measured_loss import GREEDY, alive, begun, net

HALVES = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("scale", [0.013, 0.8 / 255])
def test_a_value_goes_to_the_nearest_multiple(dtype: torch.dtype, scale: float) -> None:
    x = torch.rand(20_000).to(dtype)
    wanted = torch.div(x.double(), float(torch.tensor(scale))).clamp(0, 255).round() * float(torch.tensor(scale))
    step = torch.tensor(scale)
    for given in (
        fake_quantize(x, step, 0, 255),
        fake_quantize(x, step, 0, 255, 1.0),
        plainly_quantize(x, scale, 0, 255),
    ):
        assert given.dtype is dtype
        assert (given.double() - wanted).abs().max() < 0.5 * scale  # the value's own rounding


@pytest.mark.parametrize("loss", [True, False])
def test_losses_of_pruned_networks_are_measured_in_autocast_around_the_steps(
    loss: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, own = [], Measure.__call__
    monkeypatch.setattr(Measure, "__call__", lambda measure, masks: found.append(own(measure, masks)) or found[-1])
    plain, inside = net(), net()
    begun(plain, {**GREEDY, "gradual": False}, [0], loss)
    tried = len(found)
    with torch.autocast("cpu", torch.bfloat16):
        begun(inside, {**GREEDY, "gradual": False}, [0], loss)
    assert len(found) == 2 * tried
    assert found[tried:] == pytest.approx(found[:tried], rel=0.05, abs=1e-3)
    assert alive(inside) == alive(plain)


def test_bits_are_measured_in_autocast() -> None:
    batches = [batch(0, step) for step in range(2)]
    plan = MixedPrecision(0.15, candidates=(8, 4, 2)).pick(tiny_net().eval(), batches)
    with torch.autocast("cpu", torch.bfloat16):
        inside = MixedPrecision(0.15, candidates=(8, 4, 2)).pick(tiny_net().eval(), batches)
    assert all(loss > 0 for losses in inside.losses.values() for loss in losses.values())
    assert inside.bits == plan.bits


@pytest.mark.parametrize("dtype", HALVES)
def test_a_range_moves_on_in_a_network_that_became_one_of_half_precision(dtype: torch.dtype) -> None:
    piece = nn.Sequential(RangeActivation(8, True, decay=0.99)).to(dtype)[0].train()
    for i in range(600):
        piece(torch.linspace(-1, 1, 8).to(dtype) * (1 + i / 200))
    low, high, weight = piece.ranges.tolist()
    assert weight > 0.99
    assert high / weight == pytest.approx(3.5, rel=0.02) == -low / weight


def test_sums_of_gradients_and_of_losses_go_on() -> None:
    sums, means = GradientSums(), Means()
    for _ in range(3000):
        sums.add("w", torch.ones(2, dtype=torch.bfloat16))
        means.note("loss", torch.tensor(1.5, dtype=torch.bfloat16))
    assert sums.of("w", torch.device("cpu")).tolist() == [3000.0, 3000.0]
    assert means.mean("loss") == 1.5


def test_an_average_of_half_precision_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"--ema: this network has parameters of bfloat16, whose average would not move"
    ):
        AveragedWeights(tiny_net().bfloat16(), 0.999)


def test_statistics_over_many_minibatches_of_half_precision() -> None:
    layer = nn.BatchNorm1d(2).bfloat16()
    drifting = [torch.randn(64, 2).bfloat16() + 3 + 3 * i / 600 for i in range(600)]
    reestimate_batch_norm(nn.Sequential(layer), drifting)
    assert layer.running_mean is not None
    assert layer.running_mean.dtype is layer.weight.dtype is torch.bfloat16
    assert layer.running_mean.tolist() == pytest.approx([4.5, 4.5], abs=0.05)


def test_taylors_scores_do_not_underflow() -> None:
    instance = {"class": "TaylorRankedFilterPruner", "desired_sparsity": 0.5, "weights": ["conv1.weight"]}
    run = Run(one_policy("pruners", instance, [0]))
    pruner: Any = run.scheduler.policies[0].pruner  # type: ignore[attr-defined]
    scores = []
    for dtype in (torch.float32, torch.float16):
        parameter = nn.Parameter(run.net.conv1.weight.detach().to(dtype))
        parameter.grad = torch.full_like(parameter, 1e-4)
        pruner.begin_gathering()
        pruner.observe({"conv1.weight": parameter}, SimpleNamespace(model=run.net))
        scores.append(pruner.gathered.of("conv1.weight", torch.device("cpu")))
    assert bool((scores[0] > 0).all())
    torch.testing.assert_close(scores[1], scores[0], rtol=0.05, atol=1e-12)


@pytest.mark.parametrize("dtype", HALVES)
def test_nearly_equal_channels_have_a_variance(dtype: torch.dtype) -> None:
    regularizer = GroupVarianceRegularizer({"conv1.weight": [1.0, "Filters"]})  # type: ignore[dict-item]
    weight = torch.full((8, 3, 3, 3), 0.5) * (1 + torch.arange(8.0)[:, None, None, None] / 250)
    context: Any = SimpleNamespace(model=tiny_net())
    given, wanted = (
        regularizer.loss({"conv1.weight": w}, context) for w in (weight.to(dtype), weight.to(dtype).float())
    )
    assert given is not None
    torch.testing.assert_close(given, wanted)


@pytest.mark.parametrize("inside", [True, False], ids=["autocast", "bfloat16"])
def test_a_quantized_cell_goes_on(inside: bool) -> None:
    """Expected: what the same quantized layer gives in float32."""
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(1, 1), nn.LSTM(1, 4, batch_first=True)), torch.ones(1, 600, 1)
    with torch.no_grad():
        for name, value in net[1].named_parameters():
            value.fill_(0.0 if name.startswith("weight") else 0.05)
        net[1].bias_ih_l0[4:8] = 8.5  # the forget gates
    quantizer = QuantAwareTrainRangeLinearQuantizer(8, 8, example_inputs=x)
    quantizer.prepare(net, None)
    quantizer.convert(net)
    net(x)
    wanted = net.eval()(x)[1][1]
    if inside:
        with torch.autocast("cpu", torch.bfloat16):
            given = net(x)[1][1]
    else:
        given = net.bfloat16()(x.bfloat16())[1][1]
    torch.testing.assert_close(given.float(), wanted, rtol=0.05, atol=0.0)
