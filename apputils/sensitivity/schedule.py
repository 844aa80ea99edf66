"""The suggestion as a schedule that is ready to train.

Here: its text. Not here: which levels (suggestion.py). Weights that tolerate nothing are written as comments.
"""

import logging
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from apputils.new_schedule import MODELINE
from apputils.sensitivity.changes import GROUPS
from apputils.sensitivity.suggestion import Goal, chosen
from compress.errors import UserError

logger = logging.getLogger("run")
WRITTEN = ("element", *GROUPS)

TEXT = """\
{modeline}
# Purpose: the levels that a sensitivity analysis by {sense_type} suggests, pruned at once, then fine-tuning.
# Command:
#   {command}
# Measured on the {data} data before any training,
#   {note}
{caution}version: 1
fine_tuning_epochs: 10        # epochs after the last policy has ended

pruners:
  suggested:
{pruner}

policies:
  - pruner: {{instance_name: suggested}}
    epochs: [10]              # train densely for ten epochs, then prune once
"""


CAUTION = """\
# The levels are chosen by these test pictures, so the quality that they show afterwards is flattered: judge by others,
#   or choose the levels with --sense-data=validation.
"""


@dataclass(frozen=True)
class Header:
    """What the schedule's header tells.

    Attributes:
        command: what trains the network, without `--compress`.
        data: which data the levels were chosen on, `test` or `validation`.
        note: what the levels mean and cost.
    """

    command: str
    data: str
    note: str


def check_schedule(sense_type: str) -> None:
    """Refuses what cannot be written, before anything is measured.

    Raises:
        UserError: there is no schedule for this type of analysis.
    """
    if sense_type not in WRITTEN:
        raise UserError(
            f"a schedule is written for an analysis by {', '.join(WRITTEN)}, not by {sense_type}; nothing was measured"
        )


def write_schedule(path: Path, suggestion: pd.DataFrame, goal: Goal, sense_type: str, header: Header) -> None:
    """Writes the schedule.

    Raises:
        UserError: no weight tolerates anything, or the file cannot be written.
    """
    levels = chosen(suggestion, sense_type)
    if not levels:
        raise UserError(f"no weight can be pruned with {goal}; no schedule was written, allow a larger tolerance")
    command = f"{header.command} --compress={shlex.quote(str(path))}"
    text = TEXT.format(
        modeline=MODELINE,
        sense_type=sense_type,
        command=command,
        data=header.data,
        caution=CAUTION if header.data == "test" else "",
        note=header.note.replace("; ", ";\n#   "),
        pruner=_pruner(levels, list(suggestion["weight"]), sense_type),
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as e:
        raise UserError(f"the schedule {path} could not be written: {e}") from e
    logger.info("written: %s; %s trains it", path, command)


def _pruner(levels: Mapping[str, float], names: list[str], sense_type: str) -> str:
    element = sense_type == "element"
    kind = "SparsityLevelParameterPruner" if element else "L1RankedStructureParameterPruner"
    lines = [f"    class: {kind}", "    levels:" if element else "    reg_regims:"]
    for name in names:
        level = f"{levels.get(name, 0.0):g}"
        value = level if element else f"[{level}, {GROUPS[sense_type]}]"
        lines.append(f"      {name}: {value}" if name in levels else f"      # {name}: tolerates no level")
    return "\n".join(lines)
