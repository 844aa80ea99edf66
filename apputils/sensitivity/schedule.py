"""The suggestion as a schedule that is ready to train.

Here: its text. Not here: which levels (suggestion.py). Weights that tolerate nothing are written as comments.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from apputils.new_schedule import MODELINE
from apputils.sensitivity.changes import GROUPS, SenseType
from apputils.sensitivity.suggestion import Goal, chosen
from apputils.sensitivity.workbook import suggestion_note
from compress.errors import UserError

logger = logging.getLogger("run")
TRAINABLE = (*range(2, 9), 16)  # bits that the quantizer takes

HEAD = """\
{modeline}
# Purpose: the levels that a sensitivity analysis by {sense_type} suggests, {purpose}.
# Command: python train.py --optform={optform} --compress={path}
# Measured on the test data before any training,
#   {note}
version: 1
"""
PRUNING = """\
fine_tuning_epochs: 10        # epochs after the last policy has ended

pruners:
  suggested:
{instance}

policies:
  - pruner: {{instance_name: suggested}}
    epochs: [10]              # train densely for ten epochs, then prune once
"""
QUANTIZING = """\
fine_tuning_epochs: 2         # ranges stay as they are

quantizers:
  suggested:
{instance}

policies:
  - quantizer: {{instance_name: suggested}}
    starting_epoch: 10        # float first
    ending_epoch: 18
    frequency: 1
"""


def write_schedule(
    path: Path, suggestion: pd.DataFrame, goal: Goal, together: Mapping[str, float], sense_type: SenseType, optform: str
) -> None:
    """Writes the schedule.

    Raises:
        UserError: no weight tolerates anything, or the file cannot be written.
    """
    levels = chosen(suggestion, sense_type)
    if not levels:
        done = "quantized" if sense_type == "bits" else "pruned"
        raise UserError(f"no weight can be {done} with {goal}; no schedule was written, allow a larger tolerance")
    names = list(suggestion["weight"])
    if sense_type == "bits":
        purpose, body = "trained in after ten epochs in float", QUANTIZING.format(instance=_quantizer(levels, names))
    else:
        instance = _pruner(levels, names, sense_type)
        purpose, body = "pruned at once, then fine-tuning", PRUNING.format(instance=instance)
    head = HEAD.format(
        modeline=MODELINE,
        sense_type=sense_type,
        optform=optform,
        path=path,
        note=suggestion_note(goal, together).replace("; ", ";\n#   "),
        purpose=purpose,
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(head + body, encoding="utf-8")
    except OSError as e:
        raise UserError(f"the schedule {path} could not be written: {e}") from e
    logger.info("written: %s; python train.py --optform=%s --compress=%s trains it", path, optform, path)


def _pruner(levels: Mapping[str, float], names: list[str], sense_type: str) -> str:
    element = sense_type == "element"
    kind = "SparsityLevelParameterPruner" if element else "L1RankedStructureParameterPruner"
    lines = [f"    class: {kind}", "    levels:" if element else "    reg_regims:"]
    for name in names:
        level = f"{levels.get(name, 0.0):g}"
        value = level if element else f"[{level}, {GROUPS[sense_type]}]"
        lines.append(f"      {name}: {value}" if name in levels else f"      # {name}: tolerates no level")
    return "\n".join(lines)


def _quantizer(levels: Mapping[str, float], names: list[str]) -> str:
    lines = [
        "    class: QuantAwareTrainRangeLinearQuantizer", "    bits_activations: 8", "    bits_weights: 8",
        "    per_channel_wts: true", "    ema_decay: 0.99", "    overrides:",
    ]  # fmt: skip
    for name in names:
        layer = f"      '{name.removesuffix('.weight')}'"
        if name in levels:
            bits = next(each for each in TRAINABLE if each >= levels[name])
            lines.append(f"{layer}: {{bits_weights: {bits}}}")
        else:
            lines.append(f"{layer}: null  # tolerates no number of bits: stays float")
    return "\n".join(lines)
