"""Zeros by structure, against counts by hand and by plain loops."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import openpyxl
import pytest
import torch
from torch import nn

from compress.analysis.sparsity.display import sparsity_display, sparsity_text
from compress.analysis.sparsity.table import GRANULARITIES, sparsity_report


@pytest.fixture
def half_dead() -> nn.Module:
    """A convolution (4, 16, 3, 3) whose first two filters, and whose input channels 8 to 15, are zero."""
    net = nn.Sequential(nn.Conv2d(16, 4, 3), nn.Flatten(), nn.Linear(4, 6))
    net[0].weight.data.fill_(0.5)
    net[0].weight.data[:2] = 0
    net[0].weight.data[:, 8:] = 0
    net[2].weight.data[:3] = 0  # three of six rows
    return net


def test_a_half_dead_filter_set_in_all_seven_granularities(half_dead: nn.Module) -> None:
    conv, linear = sparsity_report(half_dead).weights.to_dict("records")
    # alive: 2 filters x 8 channels x 9
    assert (conv["elements"], conv["zeros"]) == (576, 576 - 144)
    expected = {
        "fine": 0.75,
        "filters": 2 / 4,
        "channels": 8 / 16,
        "rows": 2 / 4,
        "columns": 72 / 144,
        "2D": (64 - 16) / 64,
        "blocks": (4 * 2 * 9 - 2 * 1 * 9) / (4 * 2 * 9),  # blocks of eight channels
    }
    assert {kind: conv[kind] for kind in GRANULARITIES} == pytest.approx(expected)
    assert linear["fine"] == linear["filters"] == linear["rows"] == 0.5
    assert linear["channels"] == linear["columns"] == 0
    assert math.isnan(linear["2D"])
    assert math.isnan(linear["blocks"])  # four inputs are no multiple of eight


def test_every_number_equals_a_plain_count(half_dead: nn.Module) -> None:
    torch.manual_seed(3)
    weight = half_dead[0].weight.data
    weight.mul_(torch.rand_like(weight) > 0.5)
    row = sparsity_report(half_dead, block_shape=(2, 4, 1, 1)).weights.iloc[0]
    w = weight.numpy()
    kernels = [not w[o, i].any() for o, i in itertools.product(range(4), range(16))]
    blocks = [
        not w[2 * o : 2 * o + 2, 4 * i : 4 * i + 4, y, x].any()
        for o, i, y, x in itertools.product(range(2), range(4), range(3), range(3))
    ]
    columns = [not w.reshape(4, -1)[:, c].any() for c in range(144)]
    assert row["2D"] == pytest.approx(np.mean(kernels))
    assert row["blocks"] == pytest.approx(np.mean(blocks))
    assert row["columns"] == pytest.approx(np.mean(columns))
    assert row["fine"] == pytest.approx((w == 0).mean())
    assert row["std"] == pytest.approx(w.astype(np.float64).std())
    assert row["mean"] == pytest.approx(w.mean(dtype=np.float64))
    assert row["mean_abs"] == pytest.approx(np.abs(w).mean(dtype=np.float64))


def test_totals_are_of_groups_not_of_layers(half_dead: nn.Module) -> None:
    total = sparsity_report(half_dead).total
    assert total["elements"] == 576 + 24
    assert total["zeros"] == 432 + 12
    assert total["filters"] == pytest.approx((2 + 3) / (4 + 6))
    assert total["2D"] == pytest.approx(48 / 64)  # the linear layer has no kernels
    assert total["all_parameters"] == 576 + 4 + 24 + 6
    every = np.concatenate([p.detach().numpy().ravel() for p in (half_dead[0].weight, half_dead[2].weight)])
    assert total["std"] == pytest.approx(every.astype(np.float64).std())


def test_filters_of_a_transposed_convolution_are_its_second_dimension() -> None:
    net = nn.Sequential(nn.ConvTranspose2d(3, 4, 2))
    net[0].weight.data[:, 1] = 0
    row = sparsity_report(net).weights.iloc[0]
    assert row["filters"] == 0.25
    assert row["channels"] == 0


def test_histograms_count_what_is_not_zero(half_dead: nn.Module) -> None:
    report = sparsity_report(half_dead)
    assert sum(report.histograms["0.weight"].counts) == 144
    assert report.histograms["0.weight"].edges[-1] == pytest.approx(0.5)


def test_files_hold_the_numbers(half_dead: nn.Module, tmp_path: Path) -> None:
    report = sparsity_display(half_dead, tmp_path / "out" / "sparsity.xlsx")
    book = openpyxl.load_workbook(tmp_path / "out" / "sparsity.xlsx")
    head, first, second = list(book["sparsity"].iter_rows(min_row=3, max_row=5, values_only=True))
    row = dict(zip(head, first, strict=False))
    assert (row["weight"], row["shape"], row["zeros"], row["fine"]) == ("0.weight", "4 x 16 x 3 x 3", 432, 0.75)
    assert dict(zip(head, second, strict=False))["2D"] is None
    assert len(book["sparsity"]._charts) == 1
    assert dict(book["total"].iter_rows(min_row=2, values_only=True))["zeros"] == 444
    counts = [line[3] for line in book["histograms"].iter_rows(min_row=4, values_only=True) if line[0] == "0.weight"]
    assert sum(counts) == 144
    data = json.loads((tmp_path / "out" / "sparsity.json").read_text())
    assert data["total"]["fine"] == report.total["fine"] == pytest.approx(444 / 600)
    for name in ("sparsity.png", "sparsity_histograms.png"):
        assert (tmp_path / "out" / name).read_bytes()[:4] == b"\x89PNG"
    assert "75.00" in sparsity_text(report)


def test_a_network_without_weights_of_two_dimensions_has_an_empty_table(tmp_path: Path) -> None:
    report = sparsity_display(nn.Sequential(nn.BatchNorm1d(3)), tmp_path / "s.xlsx")
    assert len(report.weights) == 0
    assert report.total["all_parameters"] == 6
