"""Values beside their bounds: met, missed, or undecided within the noise of the measurement. Pure functions.

`judge`, `verdict_of`, `shortfall`, `goals_table`. A record is plain data:

    {"verdict": V, "rows": [{"goal", "metric", "kind", "bound", "runtime", "value", "margin", "noise", "low", "high",
     "verdict": V, "note"}], ...}  with V of `met`, `missed`, `undecided`, `not measured`
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tabulate import tabulate

from compress.goals.goal import Goal, number

MET, MISSED, UNDECIDED, NOT_MEASURED = "met", "missed", "undecided", "not measured"


@dataclass(frozen=True)
class Value:
    """A measured value.

    Attributes:
        number: in the unit of the goal's bound; of `drop_at_most` the drop, positive where it is worse.
        noise: half the width of the interval that the number is known to, 0 for what is counted or computed on fixed
            data.
        low: first quartile of what was measured; None where there are none.
        high: third quartile.
        note: how it was measured.
    """

    number: float
    noise: float = 0.0
    low: float | None = None
    high: float | None = None
    note: str = ""


def margin_of(goal: Goal, number: float) -> float:
    """How far a value is on the right side of its bound; negative on the wrong one."""
    return number - goal.bound if goal.kind == "at_least" else goal.bound - number


def judge(goal: Goal, value: Value | str) -> dict[str, Any]:
    """The row of a goal; `value` is a text where nothing could be measured: the reason.

    `undecided` is a value whose distance from the bound is not larger than the measurement's noise.
    """
    row: dict[str, Any] = {"goal": str(goal), "metric": goal.metric, "kind": goal.kind, "bound": goal.bound}
    row["runtime"] = goal.runtime
    if isinstance(value, str):
        empty = dict.fromkeys(("value", "margin", "noise", "low", "high"))
        return {**row, **empty, "verdict": NOT_MEASURED, "note": value}
    margin = margin_of(goal, value.number)
    verdict = MET if margin >= 0 else MISSED
    if value.noise > 0 and abs(margin) <= value.noise:
        verdict = UNDECIDED
    measured = {"value": value.number, "margin": margin, "noise": value.noise, "low": value.low, "high": value.high}
    return {**row, **measured, "verdict": verdict, "note": value.note}


def verdict_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Of all goals together: the worst of theirs; a goal that could not be measured is not met."""
    found = {row["verdict"] for row in rows}
    return next((each for each in (MISSED, NOT_MEASURED, UNDECIDED) if each in found), MET)


def shortfall(record: Mapping[str, Any]) -> float:
    """How far a record is from meeting its goals: what is missed as a share of the bounds (of 0: in its unit), summed.

    0 if all are met or undecided, infinite where one was not measured or is no number.
    """
    found = 0.0
    for row in record["rows"]:
        if row["margin"] is None or math.isnan(row["margin"]):
            return math.inf
        if row["verdict"] != UNDECIDED:
            found += max(0.0, -row["margin"]) / (abs(row["bound"]) or 1.0)
    return found


def goals_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows for a screen, and below them what could not be measured or decided."""
    heads = ["goal", "value", "bound", "margin", "noise", "verdict"]
    lines = [[row["goal"], *(words_of_row(row)[key] for key in heads[1:-1]), row["verdict"]] for row in rows]
    notes = [f"{row['goal']}: {row['note']}" for row in rows if row["note"]]
    align = ("left", "right", "right", "right", "right", "left")
    return "\n".join([tabulate(lines, heads, disable_numparse=True, colalign=align), *notes])


def words_of_row(row: Mapping[str, Any]) -> dict[str, str]:
    """A row's numbers as people read them, quartiles in brackets; `-` for what is not there."""
    if row["value"] is None:
        return {"value": "-", "bound": number(row["bound"]), "margin": "-", "noise": "-"}
    quartiles = "" if row["low"] is None else f" [{row['low']:.3g}, {row['high']:.3g}]"
    noise = f"± {row['noise']:.2g}" if row["noise"] else "exact"
    margin = ("+" if row["margin"] >= 0 else "") + number(row["margin"])
    return {"value": number(row["value"]) + quartiles, "bound": number(row["bound"]), "margin": margin, "noise": noise}
