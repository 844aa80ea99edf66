"""Each quantity of one run is one and the same number wherever it stands: on screen, in files, on pages."""

import json
import logging
import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import torch
from openpyxl import load_workbook

from apputils.runs.folders import Run
from compress.analysis.metric_names import words_of
from compress.config import file_config
from compress.export.timing import Timing
from data.loaders import sr_testing_loader
from engine.commands.compare import compare
from engine.saved.find_checkpoint import find_subject
from models.C2SRCNN.model import Net
from models.C2SRCNN.solver import C2SRCNNTrainer
from models.SR.tester import XSRCNNTester
from options.applications import find_application
from options.Normal_options.test_options import TestOptions
from tests.engine.conftest import TrainerOf

SCHEDULE = """\
version: 1
pruners:
  fine: {class: AutomatedGradualPruner, initial_sparsity: 0.1, final_sparsity: 0.6, weights: [mid_part.7.weight]}
  whole:
    {class: L1RankedStructureParameterPruner, group_type: Filters, desired_sparsity: 0.6, weights: [mid_part.1.weight]}
extensions:
  thinner: {class: FilterRemover}
policies:
  - {pruner: {instance_name: fine}, starting_epoch: 0, ending_epoch: 5, frequency: 1}
  - {pruner: {instance_name: whole}, epochs: [1]}
  - {extension: {instance_name: thinner}, epochs: [1]}
"""
CUT_SHORT = "the run ends after 3 epochs, inside 'fine' (epochs 0..4): it reaches"
Said = Callable[[], str]


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Said:
    """What was said on the screen since it was asked last."""
    caplog.set_level(logging.INFO)

    def take() -> str:
        text = "\n".join(record.getMessage() for record in caplog.records)
        caplog.clear()
        return text

    return take


def plan_of(schedule: str, epochs: int) -> str:
    """The table of `--plan`."""
    net = Net(2)
    optimizer = torch.optim.Adam(net.parameters())
    scheduler = file_config(net, optimizer, schedule, (torch.zeros(1, 3, 24, 24),), epochs)
    return str(scheduler.preview(epochs))


def sheets(path: Path) -> dict[str, list[list[Any]]]:
    """Every table of a workbook, by its name, as rows of values."""
    book = load_workbook(path, read_only=True)
    return {sheet.title: [list(row) for row in sheet.iter_rows(values_only=True)] for sheet in book}


def column(rows: list[list[Any]], name: str) -> list[Any]:
    """The values below a heading."""
    heads = next(row for row in rows if name in row)
    return [row[heads.index(name)] for row in rows[rows.index(heads) + 1 :]]


def on_screen(text: str, name: str) -> str:
    """What stands in a summary's table behind a name."""
    [found] = set(re.findall(rf"^{re.escape(name)} {{2,}}(\S.*?)$", text, re.MULTILINE))
    return str(found)


def plain(path: Path) -> str:
    """The words of a page."""
    text = re.sub(r"<(style|script)>.*?</\1>", " ", path.read_text(), flags=re.DOTALL)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", text)))


def test_one_number(trainer_of: TrainerOf, said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (XSRCNNTester, C2SRCNNTrainer):
        monkeypatch.setattr(kind, "example_inputs", lambda self: (torch.zeros(1, 3, 24, 24),))
    monkeypatch.setattr("engine.commands.compare.Timing", lambda: Timing(rounds=2, seconds=0.001, spread=9.0))
    monkeypatch.setattr("engine.commands.compare.export_checkpoint", lambda *_: None)  # no file: it has no number here
    Path("schedule.yaml").write_text(SCHEDULE)
    plan = plan_of("schedule.yaml", 3)
    trainer_of("--compress=schedule.yaml", "--nEpochs=3", "--run=a", "--threads=1").run()
    trained = said()
    opt, checkpoint = find_subject(TestOptions().parse(["--run=a", "--no-export", "--sense=none", "--threads=1"]))
    XSRCNNTester(opt, sr_testing_loader(opt, checkpoint)).run(opt)
    tested = said()
    compare(TestOptions().parse(["--compare", "a", "--threads=1"]), find_application)
    compared = said()

    run = Run("a")
    [comparison] = Path("results").glob("compare-SR-*")
    summary, test_summary, report = (
        json.loads((run.results / name).read_text()) for name in ("summary.json", "test_summary.json", "report.json")
    )
    other = json.loads((comparison / "compare.json").read_text())
    page, other_page = plain(run.results / "report.html"), plain(comparison / "compare.html")
    book, other_book = sheets(run.results / "report.xlsx"), sheets(comparison / "compare.xlsx")
    [row] = other["rows"]
    macs = json.loads((run.results / "macs.json").read_text())["total"]

    # parameters and MACs
    for name, key in (("parameters", "params"), ("MACs", "macs")):
        count = summary[key]
        assert [test_summary[key], report["summary"][key]] == [count, count]
        assert next(each["now"] for each in report["sizes"] if each["what"] == name) == count
        assert row["parameters" if key == "params" else "macs"] == count
        assert macs["parameters" if key == "params" else "macs"] == count
        [now] = [each[2] for each in book["size"] if each[0] == name]
        assert now == count
        assert column(other_book["compare"], "parameters" if key == "params" else "macs")[0] == count
        label = name if key == "params" else "MACs for an input of 1 x 3 x 24 x 24"
        assert on_screen(trained, label) == on_screen(tested, label) == f"{count:,}"
        for text in (compared, page, other_page):
            assert f"{count:,}" in text

    # zeros of all parameters, of scheduled weights together, of each
    overall = summary["sparsity"]["overall"]
    assert 0.05 < overall < 0.5
    assert test_summary["sparsity"] == report["summary"]["sparsity"] == summary["sparsity"]
    assert row["sparsity"] == overall
    assert column(other_book["compare"], "sparsity")[0] == pytest.approx(overall, rel=1e-12)
    total = report["sparsity"]["total"]
    assert total["all_zeros"] / total["all_parameters"] == pytest.approx(overall, rel=1e-12)
    words = f"{100 * overall:.2f} %"
    assert on_screen(trained, "all parameters") == on_screen(tested, "all parameters") == words
    for text in (page, other_page, compared):
        assert words in text
    together = f"{100 * summary['sparsity']['scheduled']:.2f} %"
    label = "scheduled weights together"
    assert on_screen(trained, label) == on_screen(tested, label) == together
    best = report["history"][report["epoch"]]
    assert best["sparsity"] == pytest.approx(summary["sparsity"]["scheduled"], rel=1e-12)
    for name in ("mid_part.1.weight", "mid_part.7.weight"):
        zeros = summary["sparsity"]["weights"][name]
        assert {each["weight"]: each["fine"] for each in report["sparsity"]["weights"]}[name] == zeros
        assert best[f"sparsity/{name}"] == pytest.approx(zeros, rel=1e-12)
        assert on_screen(trained, name).split("  ")[0] == f"{100 * zeros:.2f} %"
    last = plan.splitlines()[-2] if "counted from 0" in plan.splitlines()[-1] else plan
    assert f"{100 * summary['sparsity']['weights']['mid_part.7.weight']:.2f} %" in last
    removed = {each["weight"]: each for each in report["removed"] if each["dimension"] == 0}["mid_part.1.weight"]
    gone = len(removed["removed"]) / removed["before"]
    assert gone == 19 / 32
    assert f"{100 * gone:.2f} % removed" in last

    # quality, and what it was measured on
    for metric in ("psnr", "ssim"):
        value, baseline = (summary["quality"][metric][name] for name in ("model", "bicubic"))
        assert test_summary["quality"][metric] == report["quality"][metric] == summary["quality"][metric]
        assert (row[metric], other["baseline_quality"][metric]) == (value, baseline)
        assert best.get(metric, value) == pytest.approx(value, abs=1e-9)
        shown = words_of(metric)
        line = [shown.heading, "bicubic", shown.bare(baseline), shown.bare(value), shown.change(value - baseline)]
        assert line in report["quality_rows"]
        for text in (trained, tested):
            assert re.search(r" +".join(re.escape(each) for each in line), text)
        assert " ".join(line) in page
        assert shown.value(value) in page
        assert shown.bare(value) in other_page
        assert shown.bare(value) in compared
        assert column(other_book["compare"], metric)[0] == pytest.approx(value, rel=1e-12)
    measured = report["measured_on"]
    for text in (trained, tested, page, compared, other_page, book["quality"][0][0], other["measured_on"]):
        assert measured in str(text), measured

    # warnings
    [warning] = [each["text"] for each in summary["warnings"] if CUT_SHORT in each["text"]]
    assert [each["text"] for each in report["warnings"]] == [each["text"] for each in test_summary["warnings"]]
    assert warning in [each["text"] for each in report["warnings"]]
    assert warning in [each["text"] for each in other["warnings"]]
    for text in (trained, tested, page, compared, other_page):
        assert warning in text
    assert warning in column(book["warnings"], "warning")
    assert warning in column(other_book["warnings"], "text")
    reached = summary["sparsity"]["weights"]["mid_part.7.weight"]
    assert f"reaches {100 * reached:.1f} % instead of 60.0 %" in warning


QUANTIZED = """\
version: 1
quantizers:
  qat: {class: QuantAwareTrainRangeLinearQuantizer, bits_activations: 8, bits_weights: 8}
policies:
  - {quantizer: {instance_name: qat}, starting_epoch: 0, ending_epoch: 1, frequency: 1}
"""


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [None, QUANTIZED], ids=["float", "quantized"])
def test_one_size_of_an_exported_file(
    trainer_of: TrainerOf, said: Said, monkeypatch: pytest.MonkeyPatch, schedule: str | None
) -> None:
    """The file that `test.py` writes and the one that `--compare` times and weighs are one and the same."""
    for kind in (XSRCNNTester, C2SRCNNTrainer):
        monkeypatch.setattr(kind, "example_inputs", lambda self: (torch.zeros(1, 3, 24, 24),))
    for module in ("engine.commands.compare", "engine.commands.export"):
        monkeypatch.setattr(f"{module}.Timing", lambda **_: Timing(rounds=2, seconds=0.001, spread=9.0))
    Path("schedule.yaml").write_text(schedule or "")
    trainer_of("--nEpochs=1", "--run=a", "--samples=4", *(["--compress=schedule.yaml"] if schedule else [])).run()
    opt, checkpoint = find_subject(TestOptions().parse(["--run=a", "--sense=none", "--threads=1"]))
    XSRCNNTester(opt, sr_testing_loader(opt, checkpoint)).run(opt)
    tested = said()
    compare(TestOptions().parse(["--compare", "a", "--threads=1"]), find_application)
    compared = said()

    folder = Run("a").results
    name = "network_int8.onnx" if schedule else "network.onnx"
    size = (folder / name).stat().st_size
    [comparison] = Path("results").glob("compare-SR-*")
    assert json.loads((comparison / "compare.json").read_text())["rows"][0]["file_bytes"] == size
    assert json.loads((folder / "export.json").read_text())["files"][name]["bytes"] == size
    report = json.loads((folder / "report.json").read_text())
    assert [each["bytes"] for each in report["export"] if each["file"].endswith(name)] == [size]
    rows = sheets(folder / "report.xlsx")["export"]
    sizes = dict(zip(column(rows, "file"), column(rows, "bytes"), strict=True))
    assert sizes[str(folder / name)] == size
    assert column(sheets(comparison / "compare.xlsx")["compare"], "file_bytes")[0] == size
    for text in (tested, compared, plain(folder / "report.html"), plain(comparison / "compare.html")):
        assert f"{size:,}" in text
