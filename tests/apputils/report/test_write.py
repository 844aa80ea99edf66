"""The report: its numbers are the files', its page stands alone."""

import json
import os
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import openpyxl
import pytest
import torch
from PIL import Image
from torch import nn

from apputils.platform_summaries import draw_model_to_file, macs_display, sparsity_display
from apputils.report.charts import importance_charts
from apputils.report.content import find_sensitivity
from apputils.report.removed import reasons_of_removal, removed_units, unexplained
from apputils.report.svg import bar_chart, epoch_ticks, line_chart, number, tick_labels, ticks, timeline
from apputils.report.timeline import policies_of, runs_of
from apputils.report.write import finite, write_report
from compress.analysis.activations.statistics import ActivationStatistics, write_activations
from compress.analysis.macs.layers import macs_table
from tests.browser import show

EXAMPLE = torch.empty(1, 3, 8, 8)
SCHEDULE = {
    "pruners": {"agp": {"class": "AutomatedGradualPruner"}},
    "lr_schedulers": {"<lr>": {"class": "StepLR"}},
    "policies": [
        {"pruner": {"instance_name": "agp"}, "starting_epoch": 0, "ending_epoch": 3, "frequency": 2},
        {"lr_scheduler": {"instance_name": "<lr>"}, "epochs": [1]},
    ],
}
MEASURED = {
    "measured_on": {"data": "<folder>", "part": "test", "images": 4}, "checkpoint": "c.pt",
    "sparsity": {"weights": {}, "scheduled": 0.5, "overall": 0.125},
}  # fmt: skip
RECIPES = [
    {"kept": {"0.weight": {0: torch.tensor([0, 2, 3, 5])}}, "sizes": {"0.weight": {0: 6}}},
    {"kept": {"0.weight": {0: torch.tensor([1, 3])}}, "sizes": {"0.weight": {0: 4}}},
]
REASON = {"epoch": 2, "scores": torch.tensor([0.5, 0.25, 1.0]), "threshold": 0.25, "removed": [1]}
PARTS = ("ms", "low", "high", "ratio", "ratio_low", "ratio_high")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, Any], Path]]:
    """A run with every analysis, one picture, one sensitivity record and one export report; made once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place := tmp_path_factory.mktemp("run"))
        content, folder = write_example(network())
        yield content, place / folder


def network() -> nn.Sequential:
    """The shared `net`, with two dead filters of four."""
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 2),
    )  # fmt: skip
    net[0].weight.data[:2], net[0].bias.data[:2] = 0, -1
    return net


def write_example(net: nn.Module) -> tuple[dict[str, Any], Path]:
    """Everything that a run may have, written below the present folder."""
    folder = Path("results/<run>")
    sparsity_display(net, folder / "sparsity.xlsx")
    macs_display(net, folder / "macs.xlsx", EXAMPLE)
    macs = json.loads((folder / "macs.json").read_text())
    (folder / "macs.json").write_text(json.dumps({**macs, "left_out": ["fft_rfft in mixer"]}))
    draw_model_to_file(net, folder / "arch.png", EXAMPLE)
    with torch.no_grad(), ActivationStatistics(net) as activations:
        net(torch.randn(2, 3, 8, 8))
    write_activations(activations.report(), folder / "activations.xlsx")
    (folder / "images").mkdir()
    for kind, color in (("bicubic", "red"), ("output", "green"), ("target", "blue"), ("input", "white")):
        size = (8, 8) if kind == "input" else (16, 16)
        Image.new("RGB", size, color).save(folder / "images" / f"one_{kind}.png")
    rows = [{"level": level, "zeros": level, "metrics": {"psnr": 30 - level}} for level in (0.0, 0.5)]
    record = {"kind": "sensitivity analysis", "complete": True, "sense_type": "element", "dense": {"psnr": 30.0}}
    (folder / "sense.json").write_text(json.dumps({**record, "weights": {"0.weight": rows}}))
    gone = dict.fromkeys(f"torch_{part}" for part in PARTS)
    times = [
        dict(zip((f"{runtime}_{part}" for part in PARTS), figures, strict=True))
        for runtime, figures in (
            ("onnxruntime", (5.0, 4.0, 6.0, 1.0, 1.0, 1.0)),
            ("torch", (9.0, 8.0, 9.5, 1.0, 1.0, 1.0)),
            ("onnxruntime", (2.5, 2.0, 3.0, 0.5, 0.375, 0.625)),
        )
    ]
    rows = [{"name": "dense network", **times[0], **times[1]}, {"name": "net.onnx", **times[2], **gone}]
    latency = {"rows": rows, "rounds": 7, "threads": 3, "others_cores": 0.0, "input_shapes": [[1, 3, 8, 8]]}
    export = {"file": "net.onnx", "mode": "float", "bytes": 1234, "compared_with": "the network"}
    export |= {
        "difference": {"max": 1e-6, "mean": 1e-7, "largest": 1.0, "inputs": 2},
        "warnings": ["<careful>", "and slow"],
        "weights": [{"layer": "0", "stored": "int8"}, {"layer": "2", "stored": "float"}],
    }
    (folder / "export.json").write_text(
        json.dumps(
            {
                "files": {"net.onnx": export, "net.pt2": {"file": "net.pt2", "bytes": 9}},
                "latency": latency,
                "error": "no <kernel>",
            }
        )
    )
    checkpoint = {
        "run": "<run>", "optform": "SR", "epoch": 1, "schedule": SCHEDULE, "model": net.state_dict(),
        "history": [
            {"epoch": e, "loss": 1.0 / (e + 1), "agp_loss": 0.1, "psnr": 20.0 + e, "lr": 1e-3, "sparsity": 0.25 * e,
             "sparsity/0.weight": 0.5 * e, "images_per_second": 9.0} for e in (0, 1)
        ],
        "options": {"optform": "SR", "seed": 3, "amp": True, "compile": False, "run": "x", "compress": "a b.yaml"},
        "scheduler": {"recipes": [RECIPES[0], {**RECIPES[1], "reasons": {"0.weight[0]": REASON}}]},
    }  # fmt: skip
    summary = {
        **MEASURED, "quality": {"psnr": {"bicubic": 19.0, "model": 21.0}}, "params": 270, "macs": 100,
        "warnings": [{"epoch": 1, "text": "<reaches 26 %>", "count": 2}], "planned_epochs": 3,
        "details": {
            "classes": [{"class": "<cat>", "accuracy": 97.22222}, {"class": "dog", "accuracy": None}],
            "exits": [{"threshold": 0.5, "left": [0.25, 0.75]}],
            "remark": "no table",
        },
        "commands": {"train": "python train.py '--run=<run>'", "test": "python test.py"},
    }  # fmt: skip
    return write_report(folder, checkpoint, summary, macs_table(net, EXAMPLE)), folder


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
        "Latency, 3 threads", "Zeros in outputs of layers", "0.weight[0], ranked in epoch 2",
    ):  # fmt: skip
        assert f"<figcaption>{title}" in text, title
    assert text.count('class="chart"') == 12
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
    curve = list(book["sensitivity element psnr"].iter_rows(min_row=2, values_only=True))
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


def test_latency_stands_beside_the_dense_networks(written: tuple[dict[str, Any], Path]) -> None:
    text = (written[1] / "report.html").read_text()
    table = text[text.index('aria-label="latency"') :].split("</table>")[0]
    assert re.findall(r"<td[^>]*>([^<]*)</td>", table)[5:] == ["net.onnx", "", "", "2.5 [2, 3]", "0.5 [0.375, 0.625]"]
    assert "<b>0.5</b> of the dense network's time<small>[0.375, 0.625] (quartiles), " in text
    assert "Not exported: no &lt;kernel&gt;" in text


def test_a_share_of_an_analysis_is_no_analysis(tmp_path: Path) -> None:
    record = json.dumps({"kind": "sensitivity analysis", "complete": True, "sense_type": "element"})
    for name in ("sensitivity_element.json", "sensitivity_element_part_conv-0a1b2c3d.json"):
        (tmp_path / name).write_text(record)
    assert [each["file"] for each in find_sensitivity(tmp_path)] == ["sensitivity_element.json"]


def test_what_is_older_than_the_checkpoint_is_left_out(here: Path, net: nn.Module) -> None:
    """Such as an analysis from before the run went on."""
    folder = Path("results/a")
    folder.mkdir(parents=True)
    record = {"kind": "sensitivity analysis", "complete": True, "sense_type": "element", "dense": {}, "weights": {}}
    Path("c.pt").write_text("")
    (folder / "sensitivity_element.json").write_text(json.dumps(record))
    (folder / "export.json").write_text(json.dumps({"files": {"net.onnx": {"file": "net.onnx", "bytes": 9}}}))
    checkpoint = {
        "run": "a", "optform": "SR", "epoch": 0, "schedule": {}, "history": [], "options": {},
        "scheduler": {"recipes": []}, "model": net.state_dict(),
    }  # fmt: skip
    summary = {**MEASURED, "quality": {"acc": {"majority": 0.1, "model": 0.9}}, "params": 1, "macs": 1}
    found = [write_report(folder, checkpoint, summary, macs_table(net, EXAMPLE))]
    for name in ("sensitivity_element.json", "export.json"):
        os.utime(folder / name, (1, 1))
    found.append(write_report(folder, checkpoint, summary, macs_table(net, EXAMPLE)))
    assert [(len(each["sensitivity"]), len(each["export"])) for each in found] == [(1, 1), (0, 0)]
    assert "of another network: export.json, sensitivity_element.json" in (folder / "report.html").read_text()


def test_what_the_tester_tells_beyond_its_metrics_is_shown(written: tuple[dict[str, Any], Path]) -> None:
    text = (written[1] / "report.html").read_text()
    table = text[text.index('aria-label="classes"') :].split("</table>")[0]
    assert re.findall(r"<td[^>]*>([^<]*)</td>", table) == ["&lt;cat&gt;", "97.2222", "dog", ""]
    assert "0.25, 0.75" in text
    assert 'aria-label="remark"' not in text
    book = openpyxl.load_workbook(written[1] / "report.xlsx")
    assert list(book["classes"].iter_rows(values_only=True)) == [
        ("class", "accuracy"), ("<cat>", 97.22222), ("dog", None),
    ]  # fmt: skip


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


def test_policies_are_drawn_for_the_epochs_that_were_trained(written: tuple[dict[str, Any], Path]) -> None:
    text = (written[1] / "report.html").read_text()
    assert "2 epochs were trained, and the schedule goes on to epoch 2" in text
    chart = text[text.index("Policies by epoch") :].split("</svg>")[0]
    assert "agp: epoch 0" in chart
    assert "agp: epoch 2" not in chart  # planned, never reached
    assert "&lt;lr&gt;: epoch 1" in chart


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


def test_removed_units_have_the_dense_networks_numbers() -> None:
    [row] = removed_units(RECIPES)
    assert row == {"weight": "0.weight", "dimension": 0, "before": 6, "now": 2, "removed": [0, 1, 3, 4]}


def test_why_units_were_removed_is_shown_with_the_threshold() -> None:
    [row] = reasons_of_removal([RECIPES[0], {**RECIPES[1], "reasons": {"0.weight[0]": REASON}}])
    assert (row["group"], row["epoch"], row["units"], row["removed"]) == ("0.weight[0]", 2, 3, [1])
    assert (row["highest_removed"], row["lowest_kept"], row["threshold"]) == (0.25, 0.5, 0.25)
    assert unexplained([RECIPES[0], {**RECIPES[1], "reasons": {"0.weight[0]": REASON}}]) == 1
    [chart] = importance_charts({"reasons": [row]})
    tips = re.findall(r"<title>([^<]*)</title>", chart.svg)
    assert tips == [
        "removed: 0.25 at 0",
        "kept: 0.5 at 1",
        "kept: 1 at 2",
        "threshold: 0.25 at 0",
        "threshold: 0.25 at 2",
    ]


def test_epochs_of_policies() -> None:
    assert [row["epochs"] for row in policies_of(SCHEDULE)] == [[0, 2], [1]]
    assert runs_of([0, 1, 2, 5]) == [(0, 3), (5, 6)]


def test_curves_lie_where_their_numbers_are() -> None:
    svg = line_chart("t", {"a": [(0, 0.0), (10, 1.0), (5, float("nan"))]}, "x", "y").svg
    spots = [(float(x), float(y)) for x, y in re.findall(r'<circle [^>]*cx="([\d.]+)" cy="([\d.]+)"', svg)]
    assert spots == [(62.0, 200.0), (626.0, 12.0)]


def test_bars_are_as_long_as_their_numbers() -> None:
    svg = bar_chart("t", [("a", {"s": 50.0}), ("b", {"s": 100.0})], "%", most=100.0).svg
    first, second = (float(width) for width in re.findall(r'<rect [^>]*width="([\d.]+)"', svg))
    assert first == pytest.approx(second / 2, abs=0.1)


def test_a_timeline_has_a_bar_for_each_stretch() -> None:
    svg = timeline("t", [("a", "pruner", [(0, 2), (5, 6)])], 10).svg
    assert "epochs 0 to 1" in svg
    assert "epoch 5" in svg
    assert svg.count("<rect") == 2


@pytest.mark.parametrize(
    ("low", "high", "first", "last"), [(0.13, 0.92, 0, 1), (0, 0, 0, 1), (-3, 12, -5, 15), (5, 5, 2, 8)]
)
def test_ticks_enclose_the_range(low: float, high: float, first: float, last: float) -> None:
    marks = ticks(low, high)
    assert marks[0] <= low <= high <= marks[-1]
    assert (marks[0], marks[-1]) == (first, last)


def test_numbers_in_few_digits() -> None:
    assert [number(each) for each in (0, 0.04612, 9248, 43468, 2.12e9)] == ["0", "0.04612", "9248", "43.5 k", "2.12 G"]


def test_tick_labels_differ() -> None:
    """Four ticks that all read 33.66 say nothing."""
    assert tick_labels([33.655, 33.66, 33.665]) == ["33.655", "33.660", "33.665"]
    assert tick_labels([0.95705, 0.9571, 0.95715]) == ["0.95705", "0.95710", "0.95715"]
    assert tick_labels([43_400, 43_420, 43_440]) == ["43,400", "43,420", "43,440"]
    assert tick_labels([0, 0.5, 1]) == ["0", "0.5", "1"]


@pytest.mark.parametrize(("last", "marks"), [(1, [0, 1]), (3, [0, 1, 2, 3]), (30, [0, 5, 10, 15, 20, 25, 30])])
def test_there_is_no_half_an_epoch(last: int, marks: list[int]) -> None:
    assert epoch_ticks(0, last) == marks


def test_what_json_cannot_hold_is_none() -> None:
    assert finite({"a": float("nan"), 1: (float("inf"), 2)}) == {"a": None, "1": [None, 2]}
