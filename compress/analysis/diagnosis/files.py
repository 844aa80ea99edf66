"""An ONNX file's layers beside the simulation's, each on the inputs that the file itself gives it.

`file_rows`. Onnxruntime runs the file without fusions, with every intermediate value as an output.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compress.analysis.diagnosis.points import Inputs, run_forced
from compress.analysis.diagnosis.suspects import decibels
from compress.export.onnx.check import WEIGHTED
from compress.export.onnx.nan_origin import all_values
from compress.io.files import checked
from compress.io.optional import needed
from compress.quantization.modules.layers import QuantLayer
from compress.selectors import canonical_modules


def file_rows(
    file: Path, quantized: nn.Module, points: Mapping[str, str], inputs: Sequence[Inputs]
) -> dict[str, dict[str, float]]:
    """Layer -> `file_db`, what its node gives against the simulation's layer on the same input, and `file_input_db`,
    what it reads against what the simulation's layers before it give on theirs."""
    model = needed("onnx", "reading an ONNX file").load(checked(file))
    nodes = {node.name: node for node in model.graph.node if node.op_type in WEIGHTED and node.name in points}
    values = [all_values(model, each) for each in inputs]
    given = {name: _joined(values, node.input[0]) for name, node in nodes.items()}
    modules = canonical_modules(quantized)
    given = {name: each for name, each in given.items() if isinstance(modules[name], QuantLayer)}
    seen = run_forced(quantized, points, inputs, given)
    found: dict[str, dict[str, float]] = {}
    for name in given:
        reads = _rounded(modules[name], seen.reads[name])
        row = {"file_db": _near(seen.outputs.get(name), _outputs(modules[name], nodes[name], values))}
        if reads.shape == given[name].shape:
            row["file_input_db"] = decibels(reads, given[name])
        found[name] = row
    return found


def _rounded(layer: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = layer.quantized_input(x)
    return found


def _outputs(layer: Any, node: Any, values: Sequence[Mapping[str, Any]]) -> Tensor:
    result = _joined(values, node.output[0])
    if getattr(layer, "result_quantizer", None) is not None:
        with torch.no_grad():
            result = layer.result_quantizer(result)
    return result


def _near(simulated: Tensor | None, filed: Tensor) -> float:
    if simulated is None or simulated.shape != filed.shape:
        return 200.0
    return decibels(simulated, filed)


def _joined(values: Sequence[Mapping[str, Any]], name: str) -> Tensor:
    return torch.from_numpy(np.concatenate([each[name] for each in values]))
