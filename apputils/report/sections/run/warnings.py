"""Every warning of the run and of its evaluation, and what was left out: at the head of the page."""

from typing import Any

from apputils.report.blocks import Text, absent
from apputils.report.section import Content, Section
from apputils.report.source import Source
from apputils.report.tables import Sheet, Table
from apputils.runs.run_warnings import place_of


class Warnings(Section):
    """Notes on the page, a sheet in the workbook."""

    name = "warnings"

    def collect(self, source: Source) -> dict[str, Any]:
        """The warnings, each with its place, and the files that are of another network."""
        entries = source.summary.get("warnings", [])
        return {"warnings": [{**entry, "place": place_of(entry)} for entry in entries], "stale": source.stale}

    def notes(self, content: Content) -> list[Text]:
        """What was left out, then each warning."""
        how = f"older than the checkpoint, so of another network: {', '.join(content['stale'])}; test again to measure"
        left_out = [absent("Left out", f"{how} this one.")] if content["stale"] else []
        return left_out + [absent("Warning", each["place"] + each["text"]) for each in content["warnings"]]

    def tables(self, content: Content) -> list[Table]:
        """Epoch, text and number of times."""
        rows = [{"epoch": w["epoch"], "warning": w["text"], "times": w["count"]} for w in content["warnings"]]
        return [Table("warnings", rows, columns=None, sheet=Sheet())]
