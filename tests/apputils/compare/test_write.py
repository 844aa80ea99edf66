"""Networks side by side: the numbers are counted by other means, the page stands alone."""

import gzip
import json
import re
from pathlib import Path
from typing import Any

import openpyxl
import pytest
import torch
from torch import nn

from apputils.compare.candidate import Candidate, cost_row
from apputils.compare.page import render
from apputils.compare.pareto import pareto_charts, pareto_front
from apputils.compare.write import compared, table_text, write_comparison
from apputils.report.svg import scatter_chart
from compress.export.latency import measure_latency
from compress.export.timing import Timing
from tests.browser import show
from tests.clock import Clock

ABOUT = {
    "optform": "SR", "written": "today", "measured_on": "<images>", "baseline": "bicubic",
    "baseline_quality": {"psnr": 20.0, "loss": 1.0}, "command": "python test.py --compare a b", "notes": ["<left out>"],
    "warnings": [{"name": "a", "text": "<cut short>"}],
}  # fmt: skip


CLOCK = Clock()


class Slow(nn.Module):
    """Does the same as its layer, a few times, a millisecond each."""

    def __init__(self, layer: nn.Module, times: int) -> None:
        super().__init__()
        self.layer, self.times = layer, times

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(self.times):
            CLOCK.sleep(0.001)
            found: torch.Tensor = self.layer(x)
        return found


def candidate(name: str, times: int, psnr: float, file: Path | None = None) -> Candidate:
    model = Slow(nn.Conv2d(3, 4, 3, bias=False), times)
    model.layer.weight.data[0] = 0
    facts = {"architecture": "conv", "schedule": "none"}
    return Candidate(name, model.eval(), (torch.rand(1, 3, 34, 34),), {"psnr": psnr, "loss": -psnr}, file, facts)


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    candidates = [candidate("a", 1, 30.0), candidate("<b>", 2, 31.0), candidate("c", 3, 29.0)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("compress.export.latency.time", CLOCK)
        return compared(candidates, {"psnr": True, "loss": False}, Timing(rounds=5, seconds=0.01, spread=100.0), ABOUT)


def test_costs_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "net.onnx"
    file.write_bytes(bytes(1000))
    row = cost_row(candidate("a", 1, 30.0, file))
    assert row["parameters"] == 4 * 27
    assert row["macs"] == 32 * 32 * 4 * 27
    assert row["effective_macs"] == 32 * 32 * 3 * 27
    assert row["sparsity"] == pytest.approx(0.25)
    assert row["file_bytes"] == 1000
    assert row["file_gzip_bytes"] == len(gzip.compress(bytes(1000), 6)) < 100
    assert row["bitops"] is None


def test_rows_are_in_order_and_the_first_is_what_ratios_refer_to(content: dict[str, Any]) -> None:
    assert [row["name"] for row in content["rows"]] == ["a", "<b>", "c"]
    first, second, third = content["rows"]
    assert first["torch_ratio"] == 1.0
    assert [second["torch_ratio"], third["torch_ratio"]] == pytest.approx([2.0, 3.0])
    assert [first[f"torch_{part}"] for part in ("low", "ms", "high")] == pytest.approx([1.0] * 3)
    assert first["onnxruntime_ms"] is None
    assert content["timing"]["threads"] == 1


def test_the_table_names_the_baseline_and_the_threads(content: dict[str, Any]) -> None:
    text = table_text(content)
    assert re.search(r"bicubic\s+20.00 ", text)
    assert "measured on <images>" in text
    assert "5 rounds in turns, 1 thread;" in text


def test_files(content: dict[str, Any], tmp_path: Path) -> None:
    write_comparison(tmp_path, content)
    assert json.loads((tmp_path / "compare.json").read_text()) == content
    sheet = openpyxl.load_workbook(tmp_path / "compare.xlsx")["compare"]
    assert [row[0].value for row in sheet.iter_rows(min_row=4)] == ["a", "<b>", "c"]
    assert len(sheet._charts) == 4
    page = (tmp_path / "compare.html").read_text()
    assert "<b>" not in page.split('class="tile')[0].split("</style>")[1]
    assert "&lt;left out&gt;" in page
    assert not re.search(r'(src|href)="(?!#|data:)', page)


def test_the_page_has_a_plot_for_each_metric_and_cost_that_differs(content: dict[str, Any]) -> None:
    titles = [chart.title for chart in pareto_charts(content)]
    assert "PSNR over latency in PyTorch" in titles
    assert "loss over MACs" in titles
    assert not [title for title in titles if "onnxruntime" in title or "file" in title]
    assert render(content).count('class="chart"') == len(titles) + 2


@pytest.mark.slow
def test_a_browser_shows_the_page_without_errors_or_requests(content: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "compare.html"
    file.write_text(render(content))
    page = show(file, tmp_path)
    assert page.console == []
    assert page.html.count('class="chart"') == len(pareto_charts(content)) + 2
    assert "&lt;b&gt;" in page.html
    assert page.requests == []


@pytest.mark.parametrize(
    ("points", "higher", "front"),
    [
        ([(1, 30), (2, 29), (3, 31)], True, [0, 2]),
        ([(1, 30), (2, 29), (3, 31)], False, [0, 1]),
        ([(2, 30), (1, 30)], True, [1]),
        ([(1, 30), (1, 31)], True, [1]),
        ([(1, 30), (1, 30)], True, [0, 1]),
        ([], True, []),
    ],
)
def test_the_front_is_what_no_other_beats(points: list[tuple[float, float]], higher: bool, front: list[int]) -> None:
    sign = 1 if higher else -1
    beaten = {
        i
        for i, (cost, quality) in enumerate(points)
        for other, better in points
        if other <= cost and sign * better >= sign * quality and (other, better) != (cost, quality)
    }
    assert pareto_front(points, higher) == front
    assert sorted(front) == [i for i in range(len(points)) if i not in beaten]


def test_points_lie_where_their_numbers_are() -> None:
    svg = scatter_chart("t", {"a": (0.0, 0.0), "b": (10.0, 1.0)}, "x", "y", front=[(0.0, 0.0)]).svg
    spots = [(float(x), float(y)) for x, y in re.findall(r'<circle [^>]*cx="([\d.]+)" cy="([\d.]+)"', svg)]
    assert spots == [(62.0, 260.0), (626.0, 12.0)]


def test_a_ratio_may_refer_to_another_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compress.export.latency.time", clock := Clock())
    calls = {"a": lambda: clock.sleep(0.008), "b": lambda: clock.sleep(0.002), "c": lambda: clock.sleep(0.004)}
    found = measure_latency(calls, rounds=5, seconds=0.002, against={"c": "b"})
    assert [found[name].ratio for name in "abc"] == pytest.approx([1.0, 0.25, 2.0])
