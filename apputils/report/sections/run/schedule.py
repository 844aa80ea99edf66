"""What acted when: the policies of the resolved schedule."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from apputils.report.blocks import Block, Lines, absent
from apputils.report.section import Content, Section
from apputils.report.source import Source
from apputils.report.svg import Chart, timeline
from apputils.report.tables import Table
from compress.config.families import FAMILIES


class Schedule(Section):
    """A timeline of the epochs that were trained, and the schedule itself."""

    name, title = "schedule", "Schedule"
    missing = absent("No schedule", "the run was trained plainly, without --compress.")

    def collect(self, source: Source) -> dict[str, Any]:
        """The policies as rows, and the schedule."""
        schedule = source.checkpoint["schedule"]
        return {"policies": policies_of(schedule), "schedule": schedule}

    def charts(self, content: Content) -> list[Chart]:
        """A row a policy."""
        trained = content["trained_epochs"]
        rows = [
            (p["name"], p["family"].replace("_", " "), runs_of([epoch for epoch in p["epochs"] if epoch < trained]))
            for p in content["policies"]
        ]
        return [timeline(_title(content), rows, max(trained, 1))] if rows else []

    def tables(self, content: Content) -> list[Table]:
        """For the workbook."""
        rows = [{**p, "epochs": ", ".join(map(str, p["epochs"]))} for p in content["policies"]]
        return [Table("schedule", rows, columns=None)]

    def blocks(self, content: Content, folder: Path) -> Sequence[Block]:
        """The timeline, and the schedule folded."""
        shown = super().blocks(content, folder)
        if not content["policies"]:
            return shown
        text = yaml.safe_dump(_lists(content["schedule"]), sort_keys=False, allow_unicode=True)
        return [*shown, Lines(text, "the resolved schedule")]


def policies_of(schedule: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a policy, in the schedule's order: name, family, class, and the epochs in which it fires."""
    rows = []
    for policy in schedule.get("policies", []):
        family = next((each for each in FAMILIES if each.key in policy), None)
        if family is None:
            continue
        name = policy[family.key]["instance_name"]
        settings = schedule.get(family.section, {}).get(name, {})
        rows.append({
            "name": name, "family": family.key, "class": settings.get("class", "?"), "epochs": _epochs(policy),
        })  # fmt: skip
    return rows


def runs_of(epochs: list[int]) -> list[tuple[int, int]]:
    """Neighbouring epochs joined: [0, 1, 2, 5] -> [(0, 3), (5, 6)], ends exclusive."""
    found: list[tuple[int, int]] = []
    for epoch in epochs:
        if found and found[-1][1] == epoch:
            found[-1] = (found[-1][0], epoch + 1)
        else:
            found.append((epoch, epoch + 1))
    return found


def _epochs(policy: Mapping[str, Any]) -> list[int]:
    if "epochs" in policy:
        return sorted(policy["epochs"])
    return list(range(policy.get("starting_epoch", 0), policy["ending_epoch"], policy.get("frequency", 1)))


def _title(content: Content) -> str:
    """Says how much of the schedule the run had, where that is not all of it."""
    trained = content["trained_epochs"]
    asked = max((epoch + 1 for p in content["policies"] for epoch in p["epochs"]), default=0)
    if asked <= trained:
        return "Policies by epoch"
    return f"Policies by epoch: {trained} epochs were trained, and the schedule continues to epoch {asked - 1}"


def _lists(value: Any) -> Any:
    """Tuples as lists, which is how YAML has them."""
    if isinstance(value, Mapping):
        return {name: _lists(each) for name, each in value.items()}
    return [_lists(each) for each in value] if isinstance(value, list | tuple) else value
