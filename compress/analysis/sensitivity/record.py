"""What an analysis has measured so far, on disk after each level, so that a stopped one continues.

`Record`, a JSON file beside the workbook, and the fingerprint that ties it to the network and the settings. Not
here: measuring. The finished file is the analysis's result as data.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel, ValidationError
from torch import nn

from compress.analysis.measured_words import measured_words
from compress.analysis.sensitivity.changes import Subject, dense_level
from compress.analysis.sensitivity.group_pruner import GROUPS
from compress.errors import UserError
from compress.io.files import read_text, why, write_text
from compress.io.optional import on_use
from compress.selectors import canonical_parameters

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = on_use("pandas")

logger = logging.getLogger("run")
KIND = "sensitivity analysis"
FORMAT = 1
SECONDS = 2.0  # between two writings
SAME = 1e-6  # relative: what the dense metrics may differ between two machines' sums


class Record:
    """Levels measured, by weight.

    Args:
        path: the JSON file.
        content: what is in it.
    """

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self.path, self.content = path, content
        self._written = 0.0

    @property
    def dense(self) -> dict[str, float]:
        """The dense network's metrics."""
        return _numbers(self.content["dense"])

    def done(self, weight: str) -> dict[float, dict[str, Any]]:
        """Level -> row, of a weight's levels measured so far."""
        rows = self.content["weights"].get(weight, [])
        return {float(row["level"]): {**row, "metrics": _numbers(row["metrics"])} for row in rows}

    def add(self, weight: str, row: dict[str, Any]) -> None:
        """Remembers one measured level; the file is written every two seconds."""
        self.content["weights"].setdefault(weight, []).append(row)
        if time.monotonic() - self._written > SECONDS:
            self.write()

    def finish(self, extra: dict[str, Any]) -> None:
        """Marks the analysis as whole, and adds what came of it."""
        self.content.update(complete=True, **extra)
        self.write()

    def write(self) -> None:
        """Writes the file, whole or not at all.

        Raises:
            UserError: it cannot be written.
        """
        done, order = self.content["weights"], self.content["dense_zeros"]
        # In the model's order, whichever was measured first.
        self.content["weights"] = {name: done[name] for name in (*filter(done.__contains__, order), *done)}
        try:
            write_text(self.path, json.dumps(_plain(self.content), indent=1) + "\n")
        except OSError as e:
            raise UserError(f"the record {self.path} could not be written: {why(e)}") from e
        self._written = time.monotonic()

    def table(self, weights: Sequence[str], levels: Sequence[float]) -> pd.DataFrame:
        """One row a weight and level, the dense one first; levels that were left out have none."""
        first = dense_level(self.content["sense_type"])
        rows = []
        for weight in weights:
            zeros, done = self.content["dense_zeros"][weight], self.done(weight)
            own = [{"level": first, "zeros": zeros, "metrics": self.dense}, *(done[lv] for lv in levels if lv in done)]
            named = {"members": self._members(weight)} if "members" in self.content else {}
            for row in own:
                rows.append({"weight": weight, "level": row["level"], "zeros": row["zeros"], **row["metrics"], **named})
        return pd.DataFrame(rows)

    def _members(self, weight: str) -> str:
        """The weights that share a curve; those that go along without a vote are marked, as no pruner names them."""
        ranked = self.content.get("ranked", {}).get(weight, [weight])
        return ", ".join(each if each in ranked else f"{each} (no vote)" for each in self.content["members"][weight])


def fingerprint(model: nn.Module, sense_type: str, coupled: bool = False) -> str:
    """SHA-256 of the kind of analysis, and of every parameter and buffer with its name, type and shape."""
    digest = hashlib.sha256(f"{KIND} {FORMAT} {sense_type}{' coupled' if coupled else ''}".encode())
    for name, tensor in [*canonical_parameters(model).items(), *model.named_buffers()]:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def open_record(
    path: Path,
    model: nn.Module,
    sense_type: str,
    subjects: Sequence[Subject],
    dense: dict[str, float],
    resume: bool,
    measured_on: Mapping[str, Any] | None = None,
) -> Record:
    """The half-written record at `path` if it is of this network, analysis and test data; else a new one, saying why.

    Raises:
        UserError: there is a file of that name that is not a record.
    """
    content = {
        "kind": KIND,
        "format": FORMAT,
        "sense_type": sense_type,
        "fingerprint": fingerprint(model, sense_type, any(each.is_coupled for each in subjects)),
        "complete": False,
        "dense": dense,
        "measured_on": None if measured_on is None else dict(measured_on),
        "dense_zeros": {each.name: each.zeros({}) for each in subjects},
        "weights": {},
    }
    if sense_type in GROUPS:
        content["ranked"] = {each.name: list(each.weights) for each in subjects}
        content["members"] = {each.name: [*each.weights, *each.along] for each in subjects}
    found = _read(path)
    if found is None or found["complete"] or not resume:
        return Record(path, content)
    stale = _stale(found, content)
    if stale:
        logger.warning("%s is not gone on with: %s; the analysis starts anew", path, stale)
        return Record(path, content)
    weights = {name: rows for name, rows in found["weights"].items() if _same_group(name, found, content)}
    count = sum(map(len, weights.values()))
    logger.info("resuming %s: %d levels are measured already", path, count)
    return Record(path, {**content, "weights": weights})


def take_parts(record: Record, paths: Sequence[Path]) -> None:
    """Takes over what other analyses have measured of the same network, such as one machine's share of the weights.

    Raises:
        UserError: a file is not a record.
    """
    for path in paths:
        found = _read(path)
        if found is None:
            continue
        stale = _stale(found, record.content)
        if stale:
            logger.warning("%s is not taken over: %s", path, stale)
            continue
        taken = 0
        for weight, rows in found["weights"].items():
            if not _same_group(weight, found, record.content):
                ranked = ", ".join(found.get("ranked", {}).get(weight, [weight]))
                logger.warning("%s: %s was ranked by %s only; it is measured again", path, weight, ranked)
                continue
            known = record.done(weight)
            new = [row for row in rows if float(row["level"]) not in known]
            record.content["weights"].setdefault(weight, []).extend(new)
            taken += len(new)
        logger.info("taken over from %s: %d levels", path, taken)


def _same_group(weight: str, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether a weight's curve was ranked by the weights that are to rank it now; one not asked for may be kept."""
    old, new = (content.get("ranked", {}).get(weight) for content in (found, wanted))
    return new is None or old == new


def _stale(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """Why a half-written record cannot be gone on with; empty when it can."""
    if found["fingerprint"] != wanted["fingerprint"]:
        return "it is of other weights or another kind of analysis"
    before, now = found.get("measured_on"), wanted["measured_on"]
    if before and now and before != now:
        return f"it was measured on {measured_words(before)}, now it is {measured_words(now)}"
    old, new = _numbers(found["dense"]), wanted["dense"]
    if old.keys() != new.keys():
        return f"it measured {', '.join(old)}, now it is {', '.join(new)}"
    for name, value in new.items():
        same = math.isclose(value, old[name], rel_tol=SAME) or (math.isnan(value) and math.isnan(old[name]))
        if not same:
            return f"the dense network's {name} was {old[name]:.6g} then and is {value:.6g} now (other test data?)"
    return ""


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(read_text(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as e:
        raise UserError(f"{path} is there and cannot be read as a sensitivity record: {e}; move it away") from e
    if not isinstance(content, dict) or content.get("kind") != KIND or content.get("format") != FORMAT:
        raise UserError(f"{path} is there and is not a sensitivity record of this version; move it away")
    try:
        _Form.model_validate(content)
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(map(str, first["loc"]))[:80]
        raise UserError(f"{path} is there and is damaged: {where}: {first['msg'][:200]}; move it away") from e
    return content


class _Row(BaseModel):
    level: float
    metrics: dict[str, float]


class _Form(BaseModel):
    """What of a record is relied on."""

    sense_type: str
    fingerprint: str
    complete: bool
    dense: dict[str, float]
    measured_on: dict[str, str | int | None] | None = None
    dense_zeros: dict[str, float]
    weights: dict[str, list[_Row]]
    ranked: dict[str, list[str]] = {}


def _numbers(metrics: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}


def _plain(value: Any) -> Any:
    """For strict JSON: NaN and infinities as text, which `float` reads again."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
