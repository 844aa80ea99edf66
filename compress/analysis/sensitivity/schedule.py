"""The suggestion as a schedule that is ready to train.

Its text. Weights that tolerate nothing are written as comments.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from compress.analysis.sensitivity.group_pruner import GROUPS
from compress.analysis.sensitivity.suggestion import Tolerated, chosen
from compress.config.templates.new_schedule import modeline
from compress.errors import UserError
from compress.io.files import why, write_text

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger("run")
TRAINABLE = (*range(2, 9), 16)  # bits that the quantizer takes

HEAD = """\
{modeline}
# Purpose: the levels that a sensitivity analysis by {sense_type} suggests, {purpose}.
# Command:
#   {command}
# Measured on the {data} before any training,
#   {note}
{caution}version: 1
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
CAUTION = """\
# The levels are chosen by these test images, so the quality that they show afterwards is flattered: judge by others,
#   or choose the levels with --sense-data=validation.
"""


@dataclass(frozen=True)
class Header:
    """What the schedule's header says.

    Attributes:
        command: what trains the network, without `--compress`; '' where that is a loop of one's own.
        data: which data the levels were chosen on, `test` or `validation`; None where that is not known.
        note: what the levels mean and cost.
    """

    command: str
    data: str | None
    note: str


def write_schedule(
    path: Path,
    suggestion: pd.DataFrame,
    goal: Tolerated,
    sense_type: str,
    header: Header,
    members: Mapping[str, Sequence[str]] | None = None,
    pinned: Collection[str] = (),
) -> None:
    """Writes the schedule.

    Args:
        path: its file.
        suggestion: a level for each weight.
        goal: what is tolerated.
        sense_type: of the analysis.
        header: what it says.
        members: weight -> all weights that are named with it, as they share its coupled group; None: itself.
        pinned: weights of which nothing can leave the network.

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
        together = {name: (members or {}).get(name, (name,)) for name in names}
        instance = _pruner(levels, together, pinned, sense_type)
        purpose, body = "pruned at once, then fine-tuning", PRUNING.format(instance=instance)
    command = f"{header.command} --compress={shlex.quote(str(path))}"
    if not header.command:
        command = f"file_config(model, optimizer, {str(path)!r}, example_inputs) in a training loop"
    head = HEAD.format(
        modeline=modeline(path),
        sense_type=sense_type,
        purpose=purpose,
        command=command,
        data=f"{header.data} data" if header.data else "data of the given function",
        caution=CAUTION if header.data == "test" else "",
        note=header.note.replace("; ", ";\n#   "),
    )
    try:
        write_text(path, head + body)
    except OSError as e:
        raise UserError(f"the schedule {path} could not be written: {why(e)}") from e
    logger.info("written: %s; %s trains it", path, command)


def _pruner(
    levels: Mapping[str, float], members: Mapping[str, Sequence[str]], pinned: Collection[str], sense_type: str
) -> str:
    element = sense_type == "element"
    kind = "SparsityLevelParameterPruner" if element else "L1RankedStructureParameterPruner"
    lines = [f"    class: {kind}", "    levels:" if element else "    reg_regims:"]
    for name, together in members.items():
        lines += [f"      # {each}: nothing of it can leave the network" for each in together if each in pinned]
        own = [each for each in together if each not in pinned]
        level = f"{levels.get(name, 0.0):.15g}"
        value = level if element else f"[{level}, {GROUPS[sense_type]}]"
        lines += [f"      {each}: {value}" if name in levels else f"      # {each}: tolerates no level" for each in own]
        if name in levels and len(own) > 1:
            lines[-len(own)] += f"  # coupled, one level for the next {len(own) - 1} too"
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
