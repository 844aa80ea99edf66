"""Which filters and channels thinning took out, and why: importance against threshold."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from apputils.report.blocks import Block, Charts, Heading, Text, absent
from apputils.report.removed_units import reasons_of_removal, removed_units, unexplained
from apputils.report.section import Content, Section
from apputils.report.source import Source
from apputils.report.svg import Chart, line_chart
from apputils.report.tables import Cell, Column, Plot, Row, Sheet, Table, column

MOST_GROUPS = 24
HOW = (
    "One row a coupled group and thinning; its units are counted in the network as it was then. Importance is the "
    "pruner's own; where several weights vote, each vote is divided by its mean first. The threshold is what "
    "importances were compared with, or, where a number of units was asked for, the largest importance among those "
    "that the pruner chose."
)


class Removed(Section):
    """Units by their numbers in the dense network."""

    name, title, menu = "removed", "Removed groups", "Removed"
    missing = absent("Nothing was removed", "the network has the dense one's shapes.")

    def collect(self, source: Source) -> dict[str, Any]:
        """What the recipes of the checkpoint hold."""
        recipes = source.checkpoint["scheduler"]["recipes"]
        return {
            "removed": removed_units(recipes),
            "reasons": reasons_of_removal(recipes),
            "unexplained": unexplained(recipes),
            "fused": [name for recipe in recipes for name in recipe.get("fused", ())],
        }

    def charts(self, content: Content) -> list[Chart]:
        """The importances of each group that lost units, in order, beside the threshold; the first `MOST_GROUPS`."""
        return [_chart(row) for row in content["reasons"][:MOST_GROUPS]]

    def tables(self, content: Content) -> list[Table]:
        """Units and reasons, on the page and in full in the workbook; there also the points of each chart."""
        removed, reasons = content["removed"], content["reasons"]
        full = [{**_joined(row), "scores": ", ".join(f"{score:.6g}" for score in row["scores"])} for row in reasons]
        return [
            Table("removed", removed, UNITS, sheet=None),
            Table("reasons", reasons, REASONS, sheet=None),
            Table("removed", [_joined(row) for row in removed], columns=None),
            Table("why removed", full, columns=None),
            *(_points_table(row) for row in reasons[:MOST_GROUPS]),
        ]

    def blocks(self, content: Content, folder: Path) -> Sequence[Block]:
        """Units, then reasons as far as they are known."""
        units, reasons, *_ = self.tables(content)
        fused = ", ".join(content["fused"])
        shown: list[Block] = [Text(f"Blocks of several branches that are single layers now: {fused}.")] if fused else []
        if not units.rows:
            return shown or [self.missing]
        shown += [Text("Numbers are those of the dense network."), units]
        shown.append(Heading("Why they went: importance against threshold"))
        if reasons.rows:
            shown += [Text(HOW, "quiet"), reasons, Charts(self.charts(content))]
        if len(reasons.rows) > MOST_GROUPS:
            shown.append(Text("The other groups are in report.json.", "quiet"))
        if content["unexplained"]:
            why = "thinnings came from masks of a pruner that ranks no whole groups, or from a checkpoint without this"
            shown.append(absent("Importance not kept", f"{content['unexplained']} {why} record."))
        return shown


def importance_points(row: Row) -> list[dict[str, Any]]:
    """The units of a group, the least important first: place, unit, importance under `removed` or `kept`, threshold."""
    gone = set(row["removed"])
    order = sorted(range(row["units"]), key=lambda unit: row["scores"][unit])
    return [
        {
            "place": place, "unit": unit, "removed": row["scores"][unit] if unit in gone else None,
            "kept": None if unit in gone else row["scores"][unit], "threshold": row["threshold"],
        }
        for place, unit in enumerate(order)
    ]  # fmt: skip


def _chart(row: Row) -> Chart:
    points = importance_points(row)
    series = {
        **{kind: [(p["place"], p[kind]) for p in points if p[kind] is not None] for kind in ("removed", "kept")},
        "threshold": [(0, row["threshold"]), (row["units"] - 1, row["threshold"])],
    }
    return line_chart(_title(row), series, "units by importance", "importance")


def _points_table(row: Row) -> Table:
    plot = Plot("scatter", "place", ["removed", "kept", "threshold"], _title(row), "importance")
    return Table(f"why {row['group']}", importance_points(row), columns=None, sheet=Sheet(plots=[plot]))


def _title(row: Row) -> str:
    return f"{row['group']}, ranked in epoch {row['epoch']}"


def _joined(row: Row) -> dict[str, Any]:
    return {**row, "removed": ", ".join(map(str, row["removed"]))}


def _what(row: Row) -> Cell:
    return "", {0: "filters", 1: "channels"}.get(row["dimension"], str(row["dimension"]))


def _count(row: Row) -> Cell:
    return len(row["removed"]), str(len(row["removed"]))


def _importance(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


UNITS = (
    column("weight"), Column("what", _what), column("before"), column("now"),
    Column("numbers of those removed", lambda row: ("", " ".join(map(str, row["removed"])))),
)  # fmt: skip
REASONS = (
    column("group", "group, by its first weight"), column("epoch", "ranked in epoch"), column("units"),
    Column("removed", _count), column("threshold", text=_importance),
    column("highest_removed", "most important removed", _importance),
    column("lowest_kept", "least important kept", _importance),
)  # fmt: skip
