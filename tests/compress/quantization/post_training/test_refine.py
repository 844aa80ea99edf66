"""The second stage of the range search: less error of the output, zero stays an end, settings reach it."""

import pytest
import torch
from torch import nn

from compress.quantization.post_training.quantizer import PostTrainLinearQuantizer
from compress.quantization.post_training.refine import refine_ranges
from compress.quantization.range_linear import RangeActivation


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)).eval()


def data() -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.randn(16, 6) ** 3 for _ in range(2)]  # long tails: the extremes are poor ranges


def error(quantized: nn.Module, batches: list[torch.Tensor]) -> float:
    with torch.no_grad():
        return sum(float((quantized(batch) - network()(batch)).square().sum()) for batch in batches)


def test_the_output_comes_nearer_and_only_ranges_change() -> None:
    settings = {"bits_activations": 4, "bits_parameters": 8, "per_channel_wts": True}
    first = PostTrainLinearQuantizer(**settings).quantize(network(), data())
    second = PostTrainLinearQuantizer(**settings, refine_ranges=True).quantize(network(), data())
    assert error(second, data()) < 0.8 * error(first, data())
    changed = {name for name, each in second.state_dict().items() if not torch.equal(each, first.state_dict()[name])}
    assert changed
    assert all("quantizer" in name for name in changed), changed


def test_what_is_reported_is_the_error_and_an_end_at_zero_stays() -> None:
    quantized = PostTrainLinearQuantizer(bits_activations=4, per_channel_wts=True).quantize(network(), data())
    pieces = {name: each for name, each in quantized.named_modules() if isinstance(each, RangeActivation)}
    low = {name: float(each.ranges[0]) for name, each in pieces.items()}
    with torch.no_grad():
        power = sum(float(network()(batch).square().sum()) for batch in data())
    before = error(quantized, data()) / power
    found = refine_ranges(quantized, network(), pieces, data())
    assert found == pytest.approx((before, error(quantized, data()) / power), rel=1e-4)
    assert all(float(pieces[name].ranges[0]) == 0 for name, end in low.items() if end == 0)
    assert 0 in low.values()
