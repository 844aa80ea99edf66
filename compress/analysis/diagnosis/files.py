"""An ONNX file's layers beside the simulation's, each on the inputs that the file itself gives it.

`file_rows`. Onnxruntime runs the file without fusions, with every intermediate value as an output; OpenVINO, where it
is installed, with what the layers read and give as outputs.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compress.analysis.diagnosis.points import Inputs, run_forced, together
from compress.analysis.diagnosis.suspects import decibels
from compress.export.onnx.check import WEIGHTED
from compress.export.onnx.nan_origin import all_values
from compress.export.runtimes.client import RuntimeFailure, RuntimeProcess
from compress.export.runtimes.table import RUNTIMES
from compress.io.files import checked
from compress.io.optional import needed
from compress.quantization.modules.layers import QuantLayer
from compress.selectors import canonical_modules

ONNXRUNTIME, OPENVINO = "onnxruntime", "openvino"
NAMES = {ONNXRUNTIME: ("file_db", "file_input_db"), OPENVINO: ("openvino_db", "openvino_input_db")}


def file_rows(
    file: Path, quantized: nn.Module, points: Mapping[str, str], inputs: Sequence[Inputs], runtime: str = ONNXRUNTIME
) -> dict[str, dict[str, float]]:
    """Layer -> `file_db`, what its node gives against the simulation's layer on the same input, and `file_input_db`,
    what it reads against what the simulation's layers before it give on theirs; by OpenVINO `openvino_db` and
    `openvino_input_db`.

    Raises:
        UserError: the runtime cannot be used, refuses the file, crashes or hangs.
    """
    model = needed("onnx", "reading an ONNX file").load(checked(file))
    nodes = {node.name: node for node in model.graph.node if node.op_type in WEIGHTED and node.name in points}
    modules = canonical_modules(quantized)
    gives = {name: _with_bias(node, modules[name], model.graph) for name, node in nodes.items()}
    if runtime == ONNXRUNTIME:
        values: Sequence[Mapping[str, Any]] = [all_values(model, each) for each in inputs]
    else:
        names = [each for name, node in nodes.items() for each in (node.input[0], gives[name])]
        held = {each.name for each in (*model.graph.initializer, *model.graph.input)}
        values = _in_runtime(runtime, file, [name for name in names if name not in held], inputs)
        nodes = {name: node for name, node in nodes.items() if {node.input[0], gives[name]} <= values[0].keys()}
    given = {
        name: [torch.from_numpy(each[node.input[0]]) for each in values]
        for name, node in nodes.items()
        if isinstance(modules[name], QuantLayer)
    }
    own_name, input_name = NAMES[runtime]
    seen = run_forced(quantized, points, inputs, given)
    found: dict[str, dict[str, float]] = {}
    for name in given:
        reads, own = seen.reads.get(name), together(given[name])
        if reads is None or not _alike(reads, own):
            continue
        found[name] = {input_name: decibels(_rounded(modules[name], reads).flatten(), own.flatten())}
        given_here, in_file = seen.outputs.get(name), _outputs(modules[name], gives[name], values)
        if given_here is not None and _alike(given_here, in_file):
            found[name][own_name] = decibels(given_here.flatten(), in_file.flatten())
    return found


def _in_runtime(
    runtime: str, file: Path, names: Sequence[str], inputs: Sequence[Inputs]
) -> Sequence[Mapping[str, Any]]:
    """Name -> value, one for each of the inputs, by a runtime in a process of its own."""
    if reason := RUNTIMES[runtime].available():
        raise RuntimeFailure(reason)
    arrays = [[x.detach().cpu().numpy() for x in each] for each in inputs]
    with RuntimeProcess(runtime) as process:
        found: Sequence[Mapping[str, Any]] = process.call("values", checked(file), names, arrays)
    return found


def _rounded(layer: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = layer.quantized_input(x)
    return found


def _with_bias(node: Any, layer: Any, graph: Any) -> str:
    """The value that a layer gives: behind the addition of its bias, where the node has no place for one.

    Linear layers of inputs of three dimensions and more are MatMul and Add.
    """
    readers = [each for each in graph.node if node.output[0] in each.input]
    constants = {each.name for each in graph.initializer}
    apart = node.op_type == "MatMul" and getattr(layer, "bias", None) is not None
    if apart and len(readers) == 1 and readers[0].op_type == "Add" and constants & {*readers[0].input}:
        return str(readers[0].output[0])
    return str(node.output[0])


def _outputs(layer: Any, name: str, values: Sequence[Mapping[str, Any]]) -> Tensor:
    result = _joined(values, name)
    if getattr(layer, "result_quantizer", None) is not None:
        with torch.no_grad():
            result = layer.result_quantizer(result)
    return result


def _alike(simulated: Tensor, filed: Tensor) -> bool:
    """Whether both hold the same values in the same order: a file may read or give rows of features in two dimensions.

    Where they do not, as of a transposed convolution that became another operation, nothing is said of the layer.
    """
    rows = filed.dim() == 2 and simulated.dim() > 1 and simulated.shape[-1] == filed.shape[-1]
    return simulated.shape == filed.shape or (rows and simulated.numel() == filed.numel())


def _joined(values: Sequence[Mapping[str, Any]], name: str) -> Tensor:
    return together([torch.from_numpy(each[name]) for each in values])
