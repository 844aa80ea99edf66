"""The timeline of a schedule."""

from pathlib import Path
from typing import Any

from apputils.report.sections.run.schedule import policies_of, runs_of
from compress.config.families import FAMILIES
from tests.apputils.report.example import SCHEDULE


def test_epochs_of_policies() -> None:
    assert [row["epochs"] for row in policies_of(SCHEDULE)] == [[0, 2], [1]]
    assert runs_of([0, 1, 2, 5]) == [(0, 3), (5, 6)]


def test_policies_are_drawn_for_the_epochs_that_were_trained(written: tuple[dict[str, Any], Path]) -> None:
    text = (written[1] / "report.html").read_text()
    assert "2 epochs were trained, and the schedule continues to epoch 2" in text
    chart = text[text.index("Policies by epoch") :].split("</svg>")[0]
    assert "agp: epoch 0" in chart
    assert "agp: epoch 2" not in chart  # planned, never reached
    assert "&lt;lr&gt;: epoch 1" in chart


def test_every_family_of_the_schedule_language_is_drawn() -> None:
    names = {family.section: f"a {family.key}" for family in FAMILIES}
    schedule = {
        **{family.section: {names[family.section]: {"class": "Some"}} for family in FAMILIES},
        "policies": [{family.key: {"instance_name": names[family.section]}, "epochs": [1]} for family in FAMILIES],
    }
    rows = policies_of(schedule)
    assert [(row["name"], row["family"], row["class"]) for row in rows] == [
        (f"a {family.key}", family.key, "Some") for family in FAMILIES
    ]
