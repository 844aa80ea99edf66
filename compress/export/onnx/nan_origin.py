"""Which operation of an ONNX file first gives NaN, and what to change in the network.

`blame`. Every value of the file becomes an output, and the file is run as it is written, without fusions; the first
node with NaN in its result and none in what it reads is it. Called by export.py.
"""

import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from compress.export.onnx.check import Inputs
from compress.export.onnx.session import open_session
from compress.io.files import checked
from compress.io.optional import needed

ADVICE = {
    "Div": "it divides 0 by 0. The exporter drops what is too small beside 1, such as `+ 1e-10`: write "
    "`x / y.clamp_min(1e-6)`",
    "Sqrt": "its argument is negative: write `x.clamp_min(0).sqrt()`",
    "Log": "its argument is negative: write `x.clamp_min(1e-6).log()`",
    "Pow": "its base is negative, or 0 under a negative exponent: write `x.clamp_min(1e-6) ** p`",
    "Reciprocal": "it divides by 0: write `1 / x.clamp_min(1e-6)`",
}
GENERAL = (
    "what it reads is infinite or beyond what it is defined on: bound it (`clamp`; `masked_fill` by -1e4, not -inf)"
)


def blame_of(model: Any, inputs: Inputs, places: Mapping[str, str]) -> str:
    """The same of an onnx_ir model."""
    ir = needed("onnx_ir", "reading an ONNX file")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "blamed.onnx"
        ir.save(model, file)
        return blame(file, inputs, places)


def blame(file: Path, inputs: Inputs, places: Mapping[str, str]) -> str:
    """One sentence on the first operation that gives NaN; empty if none does.

    Args:
        file: the ONNX file.
        inputs: on which an output is NaN.
        places: name of a value -> the network's module that computes it.
    """
    model = needed("onnx", "reading an ONNX file").load(checked(file))
    values = all_values(model, inputs)
    for node in model.graph.node:
        results = [values[name] for name in node.output if name in values]
        sources = [values[name] for name in node.input if name in values]
        # Nodes are in the order of execution, so the first such node is where NaN arises, not where it passes.
        if any(map(_has_nan, results)) and not any(map(_has_nan, sources)):
            where = places.get(node.output[0])
            module = f" of module {where!r}" if where else " of the network's own forward" if where == "" else ""
            return (
                f"NaN comes first from {node.op_type} ({node.output[0]}{module}): {ADVICE.get(node.op_type, GENERAL)}"
            )
    return ""


def all_values(model: Any, inputs: Inputs) -> dict[str, np.ndarray[Any, Any]]:
    """Name -> what the file computes on the inputs, what it is given and what it holds."""
    onnx = needed("onnx", "reading an ONNX file")
    feeds = {each.name: x.detach().cpu().numpy() for each, x in zip(model.graph.input, inputs, strict=True)}
    held = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    known = {each.name for each in model.graph.output}
    names = dict.fromkeys(name for node in model.graph.node for name in node.output if name and name not in known)
    model.graph.output.extend([onnx.ValueInfoProto(name=name) for name in names])
    with tempfile.TemporaryDirectory() as folder:
        watched = Path(folder) / "watched.onnx"
        onnx.save(model, str(watched))
        session = open_session(watched, fused=False)
    found = session.run(None, feeds)
    return {**held, **feeds, **dict(zip([each.name for each in session.get_outputs()], found, strict=True))}


def _has_nan(array: Any) -> bool:
    return isinstance(array, np.ndarray) and array.dtype.kind == "f" and bool(np.isnan(array).any())


def places_of(model: Any) -> dict[str, str]:
    """Name of a value -> the module that computes it, from the exporter's notes in an onnx_ir model."""
    found = {}
    for node in model.graph:
        scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes", "")
        names = [each.strip(" '\"") for each in scopes.strip("[]").split(",")]
        if len(names) > 1:
            # The last scope is the operation's own.
            found.update({value.name: names[-2] for value in node.outputs})
    return found


LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def name_layers(model: Any, places: Mapping[str, str]) -> None:
    """Calls each layer's node as the network calls the module, in place; further calls of one get a number.

    Runtimes keep these names, and so say which layers they run in integers.
    """
    used: Counter[str] = Counter()
    for node in model.graph:
        place = places.get(node.outputs[0].name)
        if node.op_type in LAYERS and place:
            used[place] += 1
            node.name = place if used[place] == 1 else f"{place}:{used[place]}"
