"""The list of sections: one entry is on the page, in the workbook and in the data."""

import json
import re
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from apputils.report.blocks import Text, Tile
from apputils.report.content import collect
from apputils.report.section import Content, Section
from apputils.report.section_list import SECTIONS
from apputils.report.source import Source
from apputils.report.tables import Plot, Sheet, Table
from apputils.report.write import write_report
from compress.analysis.macs.layers import macs_table
from tests.apputils.report.example import EXAMPLE, network, write_example

KEYS = {  # what programs read from report.json
    "run", "optform", "written", "checkpoint", "epoch", "trained_epochs", "planned_epochs", "summary",
    "goals", "quality", "quality_rows", "measured_on", "dense_baseline", "details", "warnings", "stale", "sizes",
    "policies", "schedule", "history", "sparsity", "macs", "dense", "sensitivity", "export", "export_error",
    "export_other_data", "latency", "runtimes", "diagnosis", "devices",
    "activations", "removed", "reasons", "unexplained", "fused", "seed", "commands", "environment",
}  # fmt: skip
ANCHORS = (
    "quality", "goals", "size", "schedule", "training", "sparsity", "cost", "sensitivity", "export", "runtimes",
    "diagnosis", "activations", "removed", "architecture", "reproduce",
)  # fmt: skip
SHEETS = {
    "quality", "warnings", "classes", "exits", "size", "training", "schedule", "sparsity", "macs", "macs dense",
    "by layer", "sensitivity element psnr", "activations",
    "export", "export layers", "latency", "runtimes", "diagnosis", "suspects", "removed",
    "why removed", "why 0.weight_0_", "reproduce",
}  # fmt: skip


class Outlook(Section):
    """At the head of the page, with a chart in the workbook alone."""

    name = "outlook"

    def tables(self, content: Content) -> list[Table]:
        """A sheet."""
        sheet = Sheet("outlook, in mm", plots=[Plot("bar", "month", ["mm"], "Outlook")])
        return [Table("outlook", content["rain"], columns=None, sheet=sheet)]

    def notes(self, content: Content) -> list[Text]:
        """At the head."""
        return [Text("bring an <umbrella>")]

    def tiles(self, content: Content) -> list[Tile]:
        """In short."""
        return [Tile("61.5 mm", "in May", [])]


class Bare(Section):
    """Overrides nothing."""

    name, title = "bare", "Bare"


def rain() -> Section:
    """The section that the manual adds."""
    text = (Path(__file__).parents[3] / "docs" / "extend.md").read_text(encoding="utf-8")
    (code,) = (each for each in re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S) if "(Section)" in each)
    names: dict[str, Any] = {}
    exec(code, names)
    section = names["Rain"]()
    assert isinstance(section, Section)
    return section


@pytest.fixture
def rewritten(here: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], Path]:
    """A report with three sections more."""
    given: list[Any] = []
    monkeypatch.setattr("tests.apputils.report.example.write_report", lambda *args: given.extend(args) or {})
    write_example(network())
    (given[0] / "rain.json").write_text(json.dumps([{"month": "<May>", "mm": 61.5}, {"month": "June", "mm": 7.25}]))
    return write_report(*given, sections=(*SECTIONS, rain(), Outlook(), Bare())), here / given[0]


def test_a_new_section_is_one_class_and_one_entry(rewritten: tuple[dict[str, Any], Path]) -> None:
    """That of the manual, in data, page and workbook."""
    content, folder = rewritten
    assert json.loads((folder / "report.json").read_text())["rain"] == content["rain"]
    assert [row["mm"] for row in content["rain"]] == [61.5, 7.25]
    page = (folder / "report.html").read_text()
    section = page[page.index('<section id="rain"><h2>Rain</h2>') :].split("</section>")[0]
    assert "<figcaption>Rain by month" in section
    assert '<td>&lt;May&gt;</td><td class="right" data-value="61.5">61.5</td>' in section
    assert '<a href="#rain">Rain</a>' in page
    sheet = openpyxl.load_workbook(folder / "report.xlsx")["rain"]
    assert list(sheet.iter_rows(values_only=True)) == [("month", "mm"), ("<May>", 61.5), ("June", 7.25)]


def test_a_section_may_stand_at_the_head_and_in_the_workbook_alone(rewritten: tuple[dict[str, Any], Path]) -> None:
    page = (rewritten[1] / "report.html").read_text()
    assert "<p>bring an &lt;umbrella&gt;</p>" in page
    assert "<b>61.5 mm</b> in May" in page
    assert 'id="outlook"' not in page
    assert 'aria-label="outlook"' not in page
    assert len(openpyxl.load_workbook(rewritten[1] / "report.xlsx")["outlook, in mm"]._charts) == 1


def test_a_section_without_data_says_so(rewritten: tuple[dict[str, Any], Path]) -> None:
    page = (rewritten[1] / "report.html").read_text()
    assert page[page.index('id="bare"') :].split("</section>")[0].count('<p class="absent">Not measured: ') == 1


def test_two_sections_do_not_share_a_key(tmp_path: Path) -> None:
    checkpoint = {"run": "a", "optform": "SR", "epoch": 0}
    source = Source(tmp_path, checkpoint, {"checkpoint": ""}, macs_table(network(), EXAMPLE))
    with pytest.raises(ValueError, match="section rain of the report: the key rain is another section's"):
        collect(source, (rain(), rain()))


def test_the_data_the_page_and_the_workbook_have_their_parts(written: tuple[dict[str, Any], Path]) -> None:
    """Programs read the keys, links lead to the anchors, people know the sheets."""
    content, folder = written
    assert set(content) == KEYS
    page = (folder / "report.html").read_text()
    assert [page.count(f'<section id="{name}">') for name in ANCHORS] == [1] * len(ANCHORS)
    assert [page.count(f'<a href="#{name}">') for name in ANCHORS] == [1] * len(ANCHORS)
    book = openpyxl.load_workbook(folder / "report.xlsx")
    assert set(book.sheetnames) == SHEETS
    assert book.sheetnames[0] == "quality"
    assert len({section.name for section in SECTIONS}) == len(SECTIONS)
