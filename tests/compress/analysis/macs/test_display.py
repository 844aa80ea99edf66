"""Costs of layers, against formulas by hand and torch's own counter."""

import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import openpyxl
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from compress.analysis.macs.display import macs_display, macs_text
from compress.analysis.macs.layers import macs_table
from compress.analysis.macs.roofline import Machine, measure_machine
from compress.graph.macs.count import count_macs

EXAMPLE = torch.empty(2, 3, 8, 8)


class Rounded(nn.Module):
    """A quantizer as far as counting is concerned: whole `bits`, and values on a grid."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits

    def forward(self, values: Tensor) -> Tensor:
        return torch.round(values * 2**self.bits) / 2**self.bits


class QuantConv(nn.Conv2d):
    """A convolution that rounds its weight, un-scales it, and rounds its input."""

    def __init__(self, channels_in: int, channels_out: int, weight_bits: int, input_bits: int | None) -> None:
        super().__init__(channels_in, channels_out, 3, padding=1)
        self.weight_quantizer = Rounded(weight_bits)
        self.input_quantizer = Rounded(input_bits) if input_bits else None

    def forward(self, values: Tensor) -> Tensor:
        values = self.input_quantizer(values) if self.input_quantizer else values
        return self._conv_forward(values, self.weight_quantizer(self.weight) / 2.0, self.bias)


def test_a_row_has_the_numbers_of_its_layer(net: nn.Module) -> None:
    net[0].weight.data[:1] = 0  # a quarter
    first, second, last = macs_table(net, EXAMPLE).layers.to_dict("records")
    assert (first["layer"], first["kind"], first["operation"]) == ("0", "Conv2d", "conv2d")
    assert (first["input_shape"], first["output_shape"]) == ((2, 3, 8, 8), (2, 4, 8, 8))
    assert first["parameters"] == 4 * 3 * 9 + 4
    assert first["macs"] == 2 * 64 * 4 * 27
    assert first["effective_macs"] == first["macs"] * 3 // 4
    assert first["activation_bytes"] == 2 * 4 * 64 * 4
    moved = 4 * (2 * 3 * 64 + 4 * 27 + 4 + 2 * 4 * 64)
    assert first["bytes_moved"] == moved
    assert first["intensity"] == pytest.approx(2 * first["macs"] / moved)
    assert second["macs"] == 2 * 64 * 4 * 36
    assert last["macs"] == 2 * 4 * 2


def test_totals_agree_with_both_other_counters(net: nn.Module) -> None:
    table = macs_table(net, EXAMPLE)
    assert table.total["macs"] == count_macs(net, EXAMPLE).total
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        net(torch.zeros(2, 3, 8, 8))
    assert 2 * table.total["macs"] == flops.get_total_flops()
    assert table.layers["share"].sum() == pytest.approx(1)
    assert table.total["parameters"] == sum(p.numel() for p in net.parameters())
    assert "bitops" not in table.total
    assert table.input_shapes == ((2, 3, 8, 8),)


def test_masked_weights_are_products_that_can_be_skipped() -> None:
    """The count of products of a direct convolution whose weight is not zero."""
    torch.manual_seed(1)
    conv = nn.Conv2d(2, 3, 3)
    conv.weight.data *= torch.rand_like(conv.weight) > 0.5
    by_hand = sum(int((conv.weight[o] != 0).sum()) for o in range(3) for _ in range(4 * 4))
    assert macs_table(conv, torch.empty(1, 2, 6, 6)).total["effective_macs"] == by_hand


def test_peak_memory_is_what_lives_at_once() -> None:
    wide = nn.Sequential(nn.Conv2d(1, 8, 1), nn.ReLU(inplace=True), nn.Conv2d(8, 2, 1), nn.Flatten())
    plane = 16 * 4  # bytes of a channel of 4 x 4
    # in the second convolution eight channels are read and two written; the ReLU is in place, the flattening a view
    assert macs_table(wide, torch.empty(1, 1, 4, 4)).total["peak_activation_bytes"] == 10 * plane
    out_of_place = nn.Sequential(nn.Conv2d(1, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1))
    assert macs_table(out_of_place, torch.empty(1, 1, 4, 4)).total["peak_activation_bytes"] == 16 * plane


def test_bitops_follow_bits_through_the_graph() -> None:
    net = nn.Sequential(QuantConv(3, 4, 4, 8), nn.ReLU(), Rounded(6), nn.Flatten(1), nn.Linear(4 * 64, 2))
    table = macs_table(net, EXAMPLE)
    first, last = table.layers.to_dict("records")
    assert (first["weight_bits"], first["input_bits"]) == (4, 8)
    assert first["bitops"] == first["macs"] * 4 * 8
    assert (last["weight_bits"], last["input_bits"]) == (32, 6)  # flattening keeps the grid
    assert table.total["bitops"] == first["macs"] * 32 + last["macs"] * 32 * 6
    assert first["parameters"] == 4 * 27 + 4  # found through the quantizer
    assert len(table.layers) == 2  # rounding a weight is not a layer


def test_inputs_that_nothing_rounds_are_float() -> None:
    row = macs_table(nn.Sequential(QuantConv(3, 4, 2, None), nn.Sigmoid()), EXAMPLE).layers.iloc[0]
    assert (row["weight_bits"], row["input_bits"], row["bitops"]) == (2, 32, row["macs"] * 64)


def test_values_of_the_dummy_input_do_not_matter(net: nn.Module) -> None:
    poison = torch.full((2, 3, 8, 8), float("nan"))
    assert macs_table(net, poison).layers.equals(macs_table(net, EXAMPLE).layers)


def test_files_hold_the_numbers(net: nn.Module, tmp_path: Path) -> None:
    table = macs_display(net, tmp_path / "macs.xlsx", EXAMPLE)
    book = openpyxl.load_workbook(tmp_path / "macs.xlsx")
    head, *rows = list(book["macs"].iter_rows(min_row=3, max_row=6, values_only=True))
    first = dict(zip(head, rows[0], strict=False))
    assert (first["macs"], first["input_shape"]) == (2 * 64 * 4 * 27, "2 x 3 x 8 x 8")
    assert sum(row[head.index("macs")] for row in rows) == table.total["macs"]
    assert dict(book["total"].iter_rows(min_row=2, values_only=True))["macs"] == table.total["macs"]
    assert len(book["macs"]._charts) == 2
    data = json.loads((tmp_path / "macs.json").read_text())
    assert data["layers"][0]["output_shape"] == [2, 4, 8, 8]
    assert data["machine"]["flops"] > 0
    assert (tmp_path / "macs.png").read_bytes()[:4] == b"\x89PNG"
    assert f"{table.total['macs']:,}" in macs_text(table)


def test_the_roof_bends_at_the_ridge() -> None:
    machine = Machine("cpu", 1, flops=100.0, bandwidth=20.0)
    assert machine.ridge == 5
    assert [machine.bound(each) for each in (1, 5, 50)] == [20, 100, 100]


def test_a_machine_is_measured_by_the_fastest_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each reading of this clock is later than the one before by 1 s, 2 s, ...: the first round but one is fastest."""
    readings = itertools.accumulate(itertools.count())
    monkeypatch.setattr("compress.analysis.macs.roofline.time", SimpleNamespace(perf_counter=lambda: next(readings)))
    machine = measure_machine(torch.device("cpu"), side=16, megabytes=1)
    fastest = [3, 15]  # seconds between readings 2 and 3 of a product, 14 and 15 of a copy
    assert machine.flops == pytest.approx(2 * 16**3 / fastest[0])
    assert machine.bandwidth == pytest.approx(2 * 2**20 / fastest[1])
