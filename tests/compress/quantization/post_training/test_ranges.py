"""Ranges of post-training quantization, each formula against an independent computation."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from compress.quantization.post_training.aciq import (
    gauss_clip,
    gauss_error,
    gauss_slope,
    laplace_clip,
    laplace_error,
    laplace_slope,
)
from compress.quantization.post_training.histogram import least_entropy_cells, merged, percentile, relative_entropy
from compress.quantization.post_training.ranges import Clipping, activation_range, weight_range
from compress.quantization.post_training.statistics import TensorStatistics, observe
from compress.quantization.range_numbers import integers_of, scale_and_zero

DISTRIBUTIONS = {
    "gauss": (gauss_clip, gauss_error, gauss_slope, stats.norm.pdf),
    "laplace": (laplace_clip, laplace_error, laplace_slope, stats.laplace.pdf),
}
MODES = ["SYMMETRIC", "SYMMETRIC_RESTRICTED", "ASYMMETRIC_SIGNED", "ASYMMETRIC_UNSIGNED"]


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_aciq_solves_its_equation_and_the_error_is_the_integral(name, bits):
    clip, error, slope, density = DISTRIBUTIONS[name]
    alpha = clip(bits)
    assert slope(alpha, bits) == pytest.approx(0, abs=1e-12)
    clipped = 2 * integrate.quad(lambda x: density(x) * (x - alpha) ** 2, alpha, alpha + 60)[0]
    step = 2 * alpha / 2**bits
    assert error(alpha, bits) == pytest.approx(clipped + step**2 / 12, rel=1e-6)
    grid = np.linspace(0.5 * alpha, 1.5 * alpha, 2001)
    assert alpha == pytest.approx(min(grid, key=lambda each: error(each, bits)), abs=alpha / 1000)


def test_aciq_clips_are_those_of_the_paper():
    assert [laplace_clip(bits) for bits in (2, 3, 4)] == pytest.approx([2.83, 3.89, 5.03], abs=0.01)
    assert [gauss_clip(bits) for bits in (2, 3, 4)] == pytest.approx([1.71, 2.15, 2.55], abs=0.02)


def statistics_of(x: torch.Tensor) -> TensorStatistics:
    """Through the real gathering, in two batches."""
    module = torch.nn.Identity()
    return observe(module, list(x.reshape(2, -1, 10)), {"it": module}, 0.5)["it"]


def rounding_error(x: torch.Tensor, low: float, high: float, mode: str, bits: int) -> float:
    """Mean square error of the values themselves, by the definition of the grid."""
    scale, zero = scale_and_zero(torch.tensor(float(low)), torch.tensor(float(high)), mode, bits)  # type: ignore[arg-type]
    least, most = integers_of(mode, bits)  # type: ignore[arg-type]
    integers = (x / scale + zero).round().clamp(least, most)
    return float((((integers - zero) * scale - x) ** 2).mean())


def skewed(count: int = 20_000) -> torch.Tensor:
    x = torch.randn(count, generator=torch.Generator().manual_seed(1))
    return torch.where(x > 0, x**3, 0.3 * x)


def test_statistics():
    x = skewed()
    found = statistics_of(x)
    first, second = x.reshape(2, -1, 10)
    assert (found.min, found.max) == (float(x.min()), float(x.max()))
    assert found.mean == pytest.approx(float(x.double().mean()), rel=1e-5)
    assert found.std == pytest.approx(float(x.double().std(correction=0)), rel=1e-5)
    assert found.b == pytest.approx(float((x - x.mean()).abs().mean()), rel=1e-4)
    assert found.avg_max == pytest.approx(float(torch.cat([first, second]).amax(1).mean()), rel=1e-5)
    assert found.moving_max == pytest.approx(0.5 * float(first.max()) + 0.5 * float(second.max()), rel=1e-5)
    assert found.histogram.sum() == x.numel()
    counted, _ = np.histogram(x.numpy(), len(found.histogram), (-found.peak, found.peak))
    assert np.abs(found.histogram - counted).sum() <= 10  # values on an edge
    assert found.absolute().sum() == x.numel()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bits", [3, 4])
def test_the_mse_range_of_an_activation_is_the_best_there_is(mode, bits):
    x = skewed()
    found = statistics_of(x)
    low, high = activation_range(found, Clipping("MSE"), bits, mode, signed=True)
    own = rounding_error(x, low, high, mode, bits)
    peak, steps = found.peak, np.linspace(0.02, 1, 99)
    if mode.startswith("SYMMETRIC"):
        others = [rounding_error(x, -peak * s, peak * s, mode, bits) for s in steps]
    else:
        coarse = np.linspace(0.04, 1, 25)
        others = [rounding_error(x, found.min * s, found.max * t, mode, bits) for s in coarse for t in coarse]
    assert own <= 1.01 * min(others)
    assert own < 0.8 * rounding_error(x, found.min, found.max, mode, bits)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("axis", [None, 1])
def test_the_mse_range_of_a_weight_is_the_best_factor_in_each_channel(mode, axis):
    weight = torch.randn(6, 3, 5, generator=torch.Generator().manual_seed(2)) ** 3
    low, high = weight_range(weight, Clipping("MSE"), 4, mode, axis)
    rows = [weight] if axis is None else list(weight.unbind(axis))
    for i, row in enumerate(rows):
        ends = (low, high) if axis is None else (low[i], high[i])
        own = rounding_error(row, float(ends[0]), float(ends[1]), mode, 4)
        factors = np.linspace(0.1, 1, 91)
        assert own <= 1.001 * min(rounding_error(row, row.min() * f, row.max() * f, mode, 4) for f in factors)


def test_percentile_is_numpys():
    x = skewed()
    found = statistics_of(x)
    cell = 2 * found.peak / len(found.histogram)
    low, high = activation_range(found, Clipping("PERCENTILE", percent=99.0), 8, "ASYMMETRIC_SIGNED", True)
    expected = np.percentile(x.numpy(), [1, 99])
    assert [low, high] == pytest.approx(expected.tolist(), abs=3 * cell)
    assert percentile(np.array([1.0, 0, 3]), 0, 3, 50) == pytest.approx(2 + 1 / 3)
    rows = torch.randn(2, 1000)
    ends = weight_range(rows, Clipping("PERCENTILE", percent=95.0), 8, "SYMMETRIC", 0)
    assert ends[1].tolist() == pytest.approx(np.percentile(rows.numpy(), 95, axis=1).tolist(), rel=1e-5)


def test_merging_is_that_of_the_talk():
    assert merged(np.array([1.0, 0, 2, 3, 5, 3, 1, 7]), 2).tolist() == [2, 0, 2, 2, 4, 4, 4, 4]


def slow_entropy(counts: list[float], kept: int, levels: int) -> float:
    """The relative entropy for one number of cells, written out in loops."""
    p = list(counts[:kept])
    q = [0.0] * kept
    for level in range(levels):
        cells = [j for j in range(kept) if j * levels // kept == level and p[j] > 0]
        for j in cells:
            q[j] = sum(p[k] for k in cells) / len(cells)
    p[-1] += sum(counts[kept:])
    if any(a > 0 and b == 0 for a, b in zip(p, q, strict=True)):
        return math.inf
    return sum(a / sum(p) * math.log((a / sum(p)) / (b / sum(q))) for a, b in zip(p, q, strict=True) if a > 0)


def test_the_entropy_clip_is_the_minimum_over_all_numbers_of_cells():
    draw = np.random.default_rng(0)
    counts, _ = np.histogram(np.abs(draw.laplace(size=3000)), 96, (0, 8))
    expected = min(range(16, 97), key=lambda kept: slow_entropy(counts.tolist(), kept, 16))
    assert least_entropy_cells(counts.astype(float), 16) == expected
    assert 16 < expected < 96
    p, q = draw.random(20), draw.random(20)
    assert relative_entropy(p, q) == pytest.approx(float(stats.entropy(p, q)))
    assert relative_entropy(np.array([1.0, 1]), np.array([1.0, 0])) == math.inf


def test_entropy_clips_outliers_and_keeps_what_has_none():
    x = torch.randn(40_000, generator=torch.Generator().manual_seed(0))
    x[0] = 60.0
    _, high = activation_range(statistics_of(x), Clipping("KL"), 8, "SYMMETRIC", True)
    assert high < 20
    flat = torch.linspace(0, 1, 40_000)
    assert activation_range(statistics_of(flat), Clipping("KL"), 8, "SYMMETRIC", False)[1] == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("signed", [True, False])
def test_aciq_finds_the_width_of_halves_too(signed):
    draw = np.random.default_rng(0)
    for method, values, clip in (
        ("GAUSS", draw.normal(0, 3, 200_000), gauss_clip),
        ("LAPLACE", draw.laplace(0, 3, 200_000), laplace_clip),
    ):
        x = torch.from_numpy(values).float()
        found = statistics_of(x if signed else x.clamp_min(0))
        low, high = activation_range(found, Clipping(method), 3, "SYMMETRIC", signed)  # type: ignore[arg-type]
        assert high == pytest.approx(3 * clip(3 if signed else 4), rel=0.02)
        assert low == pytest.approx(-high, rel=0.02) if signed else low == 0


def test_simple_methods():
    found = TensorStatistics(-2.0, 6.0, -1.0, 4.0, -1.5, 5.0, 1.0, 2.0)
    for how, expected in (
        (Clipping("NONE"), (-2, 6)), (Clipping("AVG"), (-1, 4)), (Clipping("MOVING_AVERAGE"), (-1.5, 5)),
        (Clipping("N_STD", 1.0), (-1, 3)), (Clipping("N_STD", 9.0), (-2, 6)),
    ):  # fmt: skip
        assert activation_range(found, how, 8, "SYMMETRIC", True) == expected
    assert activation_range(found, Clipping("NONE"), 8, "SYMMETRIC", False) == (0, 6)
    assert activation_range(TensorStatistics(1.0, 6.0), Clipping("NONE"), 8, "SYMMETRIC", True) == (0, 6)


def test_a_tensor_of_zeros_has_a_range():
    found = statistics_of(torch.zeros(400))
    for method in ("NONE", "MSE", "KL", "PERCENTILE", "GAUSS", "LAPLACE"):
        assert activation_range(found, Clipping(method), 8, "SYMMETRIC", True) == (0, 0)  # type: ignore[arg-type]


@pytest.mark.parametrize(("method", "clip"), [("GAUSS", gauss_clip), ("LAPLACE", laplace_clip)])
def test_weights_widths(method, clip):
    weight = torch.randn(2, 5000, generator=torch.Generator().manual_seed(0)) + 1
    low, high = weight_range(weight, Clipping(method), 3, "ASYMMETRIC_SIGNED", 0)
    for i, row in enumerate(weight):
        width = float(row.std(correction=0)) if method == "GAUSS" else float((row - row.mean()).abs().mean())
        assert float(high[i]) == pytest.approx(float(row.mean()) + clip(3) * width, rel=1e-4)
        assert float(low[i]) == pytest.approx(float(row.mean()) - clip(3) * width, rel=1e-4)
