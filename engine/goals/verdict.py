"""The end of `train.py` and `test.py` where a schedule has goals: `check_goals`."""

import logging
from collections.abc import Mapping
from typing import Any

from apputils.runs.console import GoalMissed
from compress.goals.goal import number
from compress.goals.judge import MET, MISSED, NOT_MEASURED, UNDECIDED

logger = logging.getLogger("run")


def check_goals(summary: Mapping[str, Any]) -> None:
    """Warns of goals that are undecided.

    Raises:
        GoalMissed: one is missed, or could not be measured.
    """
    record = summary.get("goals")
    if not record or record["verdict"] == MET:
        return
    of = {kind: [_said(row) for row in record["rows"] if row["verdict"] == kind] for kind in WORDS}
    said = [f"{words}: {', '.join(of[kind])}" for kind, words in WORDS.items() if of[kind]]
    if record.get("error"):
        said.append(f"goals not measured: {record['error']}")
    if record["verdict"] != UNDECIDED:
        raise GoalMissed("; ".join(said))
    logger.warning("%s; the value is within the noise of its bound", "; ".join(said))


def _said(row: Mapping[str, Any]) -> str:
    """The goal, and what was measured or why nothing was."""
    if row.get("value") is None:
        return f"{row['goal']} ({row['note']})" if row.get("note") else str(row["goal"])
    how = "predicted" if str(row.get("note") or "").startswith("predicted") else "measured"
    return f"{row['goal']} ({how} {number(row['value'])})"


WORDS = {MISSED: "goals missed", NOT_MEASURED: "goals not measured", UNDECIDED: "goals undecided"}
