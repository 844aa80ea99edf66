"""A run's schedule with what a diagnosis recommends: `test.py --diagnose --write-schedule=FILE.yaml`."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from compress.analysis.diagnosis.suspects import Suspect
from compress.errors import UserError
from compress.io.files import why, write_text
from compress.registry import QUANTIZERS

BITS = ("bits_weights", "bits_activations")
PER_CHANNEL = "per_channel_wts"


def remedied(schedule: Mapping[str, Any], suspects: Sequence[Suspect]) -> tuple[dict[str, Any], list[str]]:
    """A copy of a schedule whose quantizers have the remedies, and what was changed, a sentence each.

    A scale per channel where a weight has one scale for channels that differ, and more bits where the schedule gives a
    layer fewer; other remedies need a person and stay words.
    """
    quantizers = {name: dict(given) for name, given in (schedule.get("quantizers") or {}).items()}
    changes = []
    for name, given in quantizers.items():
        known = inspect.signature(QUANTIZERS.get(given["class"])).parameters
        if any(PER_CHANNEL in each.remedy for each in suspects) and PER_CHANNEL in known and not given.get(PER_CHANNEL):
            given[PER_CHANNEL] = True
            changes.append(f"{name}: {PER_CHANNEL}: true")
        overrides = {layer: dict(each) for layer, each in (given.get("overrides") or {}).items()}
        for layer, wanted in ((k, v) for each in suspects for k, v in (each.overrides or {}).items()):
            more = {key: bits for key, bits in wanted.items() if _bits(given, overrides.get(layer, {}), key) < bits}
            if more:
                overrides[layer] = {**overrides.get(layer, {}), **more}
                changes.append(f"{name}: {layer}: {', '.join(f'{key}: {bits}' for key, bits in more.items())}")
        if overrides:
            given["overrides"] = overrides
    return {**schedule, "quantizers": quantizers} if quantizers else dict(schedule), changes


def write_remedied(path: Path, schedule: Mapping[str, Any], suspects: Sequence[Suspect], run: str) -> list[str]:
    """Writes it; the changes. Nothing is written where none can be made.

    Raises:
        UserError: the file cannot be written.
    """
    found, changes = remedied(schedule, suspects)
    if changes:
        head = [
            f"# The schedule of the run {run} with what --diagnose recommends:",
            *(f"#   {each}" for each in changes),
        ]
        try:
            write_text(path, "\n".join([*head, yaml.safe_dump(found, sort_keys=False)]))
        except OSError as e:
            raise UserError(f"--write-schedule={path} cannot be written: {why(e)}") from e
    return changes


def _bits(given: Mapping[str, Any], own: Mapping[str, Any], key: str) -> float:
    """That a layer has now; without a number it stays float, which is the most."""
    bits = own.get(key, given.get(key))
    return float("inf") if bits is None else float(bits)
