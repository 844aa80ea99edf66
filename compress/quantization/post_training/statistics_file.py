"""Statistics of activations as YAML, in Distiller's layout, and read again.

`write_statistics`, `read_statistics`.

    (network): {equalization: false}
    conv1:
      inputs: {0: {min: 0.0, max: 1.0, avg_min: ..., avg_max: ..., mean: ..., std: ..., b: ..., shape: (8, 3, 32, 32)}}
    rnn:
      hidden_l0: {min: ..., ...}
    relu1:
      output: {min: ..., max: ..., ..., histogram: [12, 0, 3, ...]}

A file of Distiller's has no histogram and no moving average: the methods that need them say so.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from compress.errors import UserError
from compress.io.files import read_text, write_text
from compress.quantization.post_training.statistics import TensorStatistics

ABOUT = "(network)"  # no module can be called so
NUMBERS = ("min", "max", "avg_min", "avg_max", "moving_min", "moving_max", "mean", "std", "b")
NEEDED = ("min", "max")
Found = dict[str, TensorStatistics]  # `conv1.input_quantizer`, `relu1.output_quantizer` -> its activation's


def write_statistics(path: Path, found: Mapping[str, TensorStatistics], equalization: bool) -> None:
    """Writes statistics by the names of the fake quantizers; the folder is made if needed."""
    data: dict[str, Any] = {ABOUT: {"equalization": equalization}}
    for name, stats in found.items():
        layer, _, slot = name.rpartition(".")
        row: dict[str, Any] = {key: float(getattr(stats, key)) for key in NUMBERS}
        row |= {"shape": str(tuple(stats.shape)), "histogram": [int(count) for count in stats.histogram]}
        kind = slot.removesuffix("_quantizer")
        data.setdefault(layer, {}).update({"inputs": {0: row}} if kind == "input" else {kind: row})
    text = yaml.safe_dump(data, sort_keys=False, default_flow_style=None, width=120)
    write_text(path, f"# Statistics of activations over calibration data.\n{text}")


def read_statistics(path: Path, equalization: bool) -> Found:
    """Reads what `write_statistics` or Distiller wrote, by the names of the fake quantizers.

    Raises:
        UserError: it cannot be read, is another kind of file, or was gathered on an equalized network and this is not,
            or the other way round.
    """
    try:
        data = yaml.safe_load(read_text(path))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError, RecursionError) as e:
        why = (str(e).splitlines() or [type(e).__name__])[0]
        raise UserError(f"model_activation_stats: {path} cannot be read: {why}") from e
    if not isinstance(data, dict) or not all(isinstance(each, dict) for each in data.values()):
        raise UserError(f"model_activation_stats: {path} holds no statistics of activations, by layers")
    equalized = bool(data.pop(ABOUT, {}).get("equalization", False))
    if equalized != equalization:
        words = ("of an equalized", "is not") if equalized else ("of a not equalized", "is")
        raise UserError(
            f"model_activation_stats: {path} was gathered on the activations {words[0]} network, and this one "
            f"{words[1]}; calibrate anew, or set equalization: {str(equalized).lower()}"
        )
    found: Found = {}
    for layer, kinds in data.items():
        inputs = kinds.get("inputs")
        first = inputs.get(0) if isinstance(inputs, dict) else None
        hidden = {kind: row for kind, row in kinds.items() if str(kind).startswith("hidden")}
        for kind, row in {"input": first, "output": kinds.get("output"), **hidden}.items():
            if row is not None:
                found[f"{layer}.{kind}_quantizer"] = _parsed(row, f"{path}: {layer}")
    return found


def _parsed(row: Any, where: str) -> TensorStatistics:
    if not isinstance(row, dict) or any(key not in row for key in NEEDED):
        raise UserError(f"model_activation_stats: {where} lacks {' or '.join(NEEDED)}")
    try:
        numbers: dict[str, Any] = {key: float(row[key]) for key in NUMBERS if key in row}
        histogram = np.asarray(row.get("histogram", []), dtype=np.float64)
    except (TypeError, ValueError) as e:
        raise UserError(f"model_activation_stats: {where} holds what is not a number: {e}") from e
    if not all(map(math.isfinite, numbers.values())) or not np.isfinite(histogram).all():
        raise UserError(f"model_activation_stats: {where} holds a number that is not finite; calibrate anew")
    missing = [key for key in NUMBERS if key not in row]
    return TensorStatistics(**numbers, histogram=histogram, missing=tuple(missing))
