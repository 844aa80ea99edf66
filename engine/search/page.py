"""The page of a study: Pareto front with the goals as lines, knobs, prediction beside measurement, the schedule."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from apputils.compare.pareto import pareto_front
from apputils.report.blocks import Block, Lines, Text, absent
from apputils.report.page import Head, render
from apputils.report.section import Content, Section
from apputils.report.sections.run.goals import Goals
from apputils.report.svg import Chart, bar_chart, scatter_chart
from apputils.report.tables import Table, column
from compress.analysis.metric_names import words_of
from compress.goals.goal import LATENCY
from compress.io.files import write_text

TEST = "test data"
COLUMNS = (
    "quality: after so many epochs of fine-tuning, untrained: before them; time: predicted, of the dense float file's; "
    "macs: for the inputs that are timed; refused: why a trial failed. A trial without epochs was predicted to miss a "
    "goal on costs. Candidates that are still waiting are left out, and widths are in trialNNNN.yaml."
)
UNALIGNED = (
    "Files of random widths can take longer than the dense one: many widths do not fill the vector units. Candidates "
    "have widths that do."
)
NO_TEST = (
    "There are no test data: these are the validation data once more, which chose the winner; search.py "
    "--testdata=PLACE names some."
)


class Winner(Goals):
    """The goals of the winner on validation data; those on test data below it."""

    name, title = "goals", "Goals of the winner, on validation data"


class OnTest(Goals):
    """The same, once, on test data."""

    name, title = "test", "Once on test data"

    def blocks(self, content: Content, folder: Path) -> Sequence[Block]:
        """As of the winner, and whether these are test data at all."""
        found = super().blocks({"goals": content["test"]}, folder)
        return found if tested_on(content["test"]) == TEST else [Text(NO_TEST), *found]

    def tiles(self, content: Content) -> list[Any]:
        """None: the winner's are at the head."""
        return []


class Front(Section):
    """All trials over time and quality."""

    name, title = "front", "All trials"

    def charts(self, content: Content) -> list[Chart]:
        """Quality after training over predicted time, the front, and the goals."""
        metric = words_of(content["metric"])
        rows = [row for row in content["trials"] if row["quality"] is not None and row["time"] is not None]
        points = {f"trial {row['trial']} ({row['state']})": (row["time"], row["quality"]) for row in rows}
        own = list(points.values())
        front = [own[i] for i in pareto_front(own, content["higher_is_better"])]
        title = f"{metric.title} over predicted time"
        bounds = content["bounds"]["time"], content["bounds"]["quality"]
        return [scatter_chart(title, points, "of the dense float file's time", metric.heading, front, bounds=bounds)]

    def tables(self, content: Content) -> list[Table]:
        """One row a trial."""
        return [Table("trials", content["trials"])]

    def blocks(self, content: Content, folder: Path) -> Sequence[Block]:
        """The chart, the table, and how to read its columns."""
        return [*super().blocks(content, folder), Text(COLUMNS, "quiet")]


class Knobs(Section):
    """What each knob mattered."""

    name, title = "knobs", "What mattered"
    missing = absent("Not known", "importances need at least four trials that were carried to their end.")

    def charts(self, content: Content) -> list[Chart]:
        """Optuna's importances, the largest first."""
        charts = []
        for which, found in content["importances"].items():
            rows = [(name, {"importance": value}) for name, value in found.items()]
            charts.append(bar_chart(f"Importance over {which} (Optuna)", rows[:20], "share"))
        return charts


class Prediction(Section):
    """The latency model beside measurements."""

    name, title = "prediction", "Predicted and measured time"

    def blocks(self, content: Content, folder: Path) -> Sequence[Block]:
        """The table, and why a narrower file may be slower."""
        return [*super().blocks(content, folder), Text(UNALIGNED, "quiet")]

    def tables(self, content: Content) -> list[Table]:
        """Whole files that the model was fitted to (those without a share have random widths), and the winner's."""
        columns = [column(key) for key in ("file", "precision", "predicted", "measured")]
        return [Table("prediction", content["prediction"], columns)]


class Schedule(Section):
    """best.yaml."""

    name, title = "schedule", "The schedule"

    def blocks(self, content: Content, folder: Path) -> Sequence[Block]:
        """Its text."""
        return [Lines(content["schedule"]), Text(content["command"], "quiet")]


SECTIONS = (Winner(), OnTest(), Front(), Knobs(), Prediction(), Schedule())


def write_page(path: Path, content: Mapping[str, Any]) -> None:
    """Writes the page: one file that needs nothing else."""
    title = f"Study {content['study']}"
    write_text(path, render(Head(title, title, content["about"]), content, SECTIONS, path.parent))


def tested_on(record: Mapping[str, Any] | None) -> str:
    """What the last measurement was made on, in words: the data may have no test part."""
    of_validation = record is not None and record["measured_on"].get("part") == "validation"
    return "the validation data again, as there are no test data" if of_validation else TEST


def bounds_of(goals: Sequence[Any], metric: str, dense: float, higher: bool) -> dict[str, dict[str, float]]:
    """The goals as lines of the chart: those about time, and those about the metric, at the dense network's value."""
    time = {str(goal): goal.bound for goal in goals if goal.metric == LATENCY}
    quality = {}
    for goal in goals:
        if goal.metric == metric:
            drop = goal.bound if goal.kind == "drop_at_most" else None
            quality[str(goal)] = goal.bound if drop is None else dense - drop if higher else dense + drop
    return {"time": time, "quality": quality}
