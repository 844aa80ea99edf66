"""The report: its numbers are the files', its page stands alone."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from torch import nn

from apputils.report.write import finite, write_report
from compress.analysis.macs.layers import macs_table
from tests.apputils.report.example import EXAMPLE, MEASURED, network
from tests.browser import show

REFERENCES = frozenset({"src", "href", "xlink:href", "srcset", "data", "poster", "action"})


class Page(HTMLParser):
    """What a page refers to, and whether its elements are closed."""

    VOID = frozenset({"meta", "link", "input", "img", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in REFERENCES]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in REFERENCES]

    def handle_endtag(self, tag: str) -> None:
        if tag == "option" and self.open[-1] != "option":
            return
        assert self.open.pop() == tag


def test_the_page_stands_alone_and_has_every_part(written: tuple[dict[str, Any], Path]) -> None:
    text = (written[1] / "report.html").read_text()
    page = Page()
    page.feed(text)
    assert page.open == []
    assert all(source.startswith(("#", "data:")) for source in page.sources)
    assert "@import" not in text
    assert "url(" not in text.split("</style>")[0]
    for title in (
        "Policies by epoch", "Loss and its components", "PSNR", "Learning rate", "Zeros in scheduled weights",
        "Zeros by weight", "MACs by layer", "Parameters by layer", "PSNR when one weight is changed",
        "Latency, 3 threads", "Time in each runtime", "Zeros in outputs of layers", "0.weight[0], ranked in epoch 2",
    ):  # fmt: skip
        assert f"<figcaption>{title}" in text, title
    assert text.count('class="chart"') == 14
    assert "conv2d" in text
    assert "Conv2d 3x3, 3 to 4" in text  # the drawing
    assert text.count("<img ") == 3  # the input has another size


def test_what_people_name_things_is_no_html(written: tuple[dict[str, Any], Path]) -> None:
    text = (written[1] / "report.html").read_text()
    assert "<run>" not in text
    assert "<lr>" not in text
    assert "<careful>" not in text
    assert "python train.py &#39;--run=&lt;run&gt;&#39;\npython test.py" in text
    assert "&lt;careful&gt;" in text


def test_numbers_are_those_of_the_analyses(written: tuple[dict[str, Any], Path]) -> None:
    content, folder = written
    net = network()
    assert json.loads((folder / "report.json").read_text()) == content
    size = {row["what"]: (row["dense"], row["now"]) for row in content["sizes"]}
    elements = sum(p.numel() for p in net.parameters())
    assert size["parameters"] == (elements, 270)
    assert size["parameters that are not zero"] == (elements, elements - 54)
    macs = 64 * (4 * 27 + 4 * 36) + 8
    assert size["MACs"] == (macs, 100)
    assert size["MACs, zeros skipped"][1] == macs - 64 * 54
    assert content["policies"][0] == {
        "name": "agp", "family": "pruner", "class": "AutomatedGradualPruner", "epochs": [0, 2],
    }  # fmt: skip
    assert content["sensitivity"][0]["file"] == "sense.json"
    assert content["export"][0]["bytes"] == 1234


def test_the_workbook_has_the_same_numbers_and_charts(written: tuple[dict[str, Any], Path]) -> None:
    content, folder = written
    book = openpyxl.load_workbook(folder / "report.xlsx")
    rows = {row[0]: row[1:] for row in book["size"].iter_rows(min_row=2, values_only=True)}
    assert rows["MACs"] == (content["sizes"][1]["dense"], 100)
    assert [row[0].value for row in book["training"].iter_rows(min_row=2)] == [0, 1]
    curve = list(book["sensitivity element psnr"].iter_rows(min_row=4, values_only=True))
    assert curve == [(0, 30), (0.5, 29.5)]
    assert all(book[name]._charts for name in ("size", "training", "sparsity", "macs", "sensitivity element psnr"))
    assert book["macs"]["A1"].value == "not counted: fft_rfft in mixer"
    assert "Not counted: fft_rfft in mixer." in (folder / "report.html").read_text()
    head, first, second, third = book["export"].iter_rows(values_only=True)
    assert dict(zip(head, first, strict=True))["difference.max"] == 1e-6
    assert dict(zip(head, first, strict=True))["warnings"] == "<careful>; and slow"
    assert dict(zip(head, second, strict=True))["file"] == "net.pt2"
    assert dict(zip(head, third, strict=True))["not exported"] == "no <kernel>"
    assert list(book["export layers"].iter_rows(min_row=2, values_only=True)) == [
        ("net.onnx", "0", "int8"), ("net.onnx", "2", "float"),
    ]  # fmt: skip
    head, dense, now = book["latency"].iter_rows(min_row=3, values_only=True)
    assert dict(zip(head, now, strict=True))["onnxruntime_ratio"] == 0.5
    assert dict(zip(head, dense, strict=True))["torch_ms"] == 9
    assert book["latency"]._charts


def test_the_workbook_has_the_charts_of_the_page(written: tuple[dict[str, Any], Path]) -> None:
    content, folder = written
    book = openpyxl.load_workbook(folder / "report.xlsx")
    head, *rows = book["by layer"].iter_rows(values_only=True)
    first = dict(zip(head, rows[0], strict=True))
    assert first["dense MACs"] == content["dense"]["layers"][0]["macs"] == 64 * 4 * 27
    assert first["MACs now, zeros skipped"] == 64 * 2 * 27
    assert len(book["by layer"]._charts) == 2
    ranked = list(book["why 0.weight_0_"].iter_rows(values_only=True))
    assert ranked == [
        ("place", "unit", "removed", "kept", "threshold"),
        (0, 1, 0.25, None, 0.25), (1, 0, None, 0.5, 0.25), (2, 2, None, 1, 0.25),
    ]  # fmt: skip
    assert book["why 0.weight_0_"]._charts
    assert book["activations"]._charts
    head, *rows = book["activations"].iter_rows(values_only=True)
    assert [dict(zip(head, row, strict=True))["dead_channels"] for row in rows][:2] == [
        0,
        2,
    ]  # of the biases ReLU leaves nothing


@pytest.mark.slow
def test_a_browser_shows_the_page_without_errors_or_requests(
    written: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    page = show(written[1] / "report.html", tmp_path, "?theme=dark")
    assert page.console == []
    assert 'data-theme="dark"' in page.html  # the script ran
    assert 'class="left"' in page.html
    assert page.html.count('class="chart"') == 12
    assert page.requests == []


def test_the_page_names_the_data_and_every_warning(written: tuple[dict[str, Any], Path]) -> None:
    content, folder = written
    text = (folder / "report.html").read_text()
    assert "Measured on 4 images: the test part of &lt;folder&gt;." in text
    assert "Warning: epoch 1, 2 times: &lt;reaches 26 %&gt;" in text
    assert "epoch 1 of 2 trained and 3 planned" in text
    assert content["quality_rows"] == [["PSNR, dB", "bicubic", "19.00", "21.00", "+2.00"]]
    assert "<b>21.00 dB</b> PSNR<small>bicubic: 19.00 dB (+2.00)" in text
    book = openpyxl.load_workbook(folder / "report.xlsx")
    assert list(book["warnings"].iter_rows(values_only=True)) == [
        ("epoch", "warning", "times"), (1, "<reaches 26 %>", 2),
    ]  # fmt: skip


def test_one_number_of_zeros_stands_everywhere(written: tuple[dict[str, Any], Path]) -> None:
    text = (written[1] / "report.html").read_text()
    assert "<b>12.50 %</b> zeros in all parameters" in text  # the summary's own


def test_a_run_without_analyses_says_what_is_absent(net: nn.Module, here: Path) -> None:
    checkpoint = {
        "run": "a", "optform": "SR", "epoch": 0, "schedule": {}, "history": [], "options": {},
        "scheduler": {"recipes": []}, "model": net.state_dict(),
    }  # fmt: skip
    summary = {**MEASURED, "quality": {"acc": {"majority": 0.1, "model": 0.9}}, "params": 1, "macs": 1}
    write_report(Path("results/a"), checkpoint, summary, macs_table(net, EXAMPLE))
    text = Path("results/a/report.html").read_text()
    assert text.count('class="absent"') >= 6
    assert "trained plainly" in text


def test_what_json_cannot_hold_is_none() -> None:
    assert finite({"a": float("nan"), 1: (float("inf"), 2)}) == {"a": None, "1": [None, 2]}
