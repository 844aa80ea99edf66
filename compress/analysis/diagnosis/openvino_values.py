"""What OpenVINO computes inside an ONNX file: `openvino_values`. OpenVINO is optional."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compress.analysis.diagnosis.points import Inputs
from compress.errors import UserError
from compress.io.files import checked


def has_openvino() -> bool:
    """Whether it is installed."""
    return importlib.util.find_spec("openvino") is not None


def openvino_values(file: Path, names: Sequence[str], inputs: Sequence[Inputs]) -> list[dict[str, Any]]:
    """Name -> array, one dictionary for each of the inputs; floats are computed in float32 on the CPU.

    Each value becomes an output, so that OpenVINO fuses nothing across it.

    Args:
        file: ONNX.
        names: of values.
        inputs: of one size.

    Raises:
        UserError: OpenVINO refuses the file.
    """
    import openvino

    try:
        return _computed(openvino.Core(), file, names, inputs)
    except RuntimeError as e:
        raise UserError(f"openvino refuses {file.name}: {' '.join(str(e).split())[:200]}") from e


def _computed(core: Any, file: Path, names: Sequence[str], inputs: Sequence[Inputs]) -> list[dict[str, Any]]:
    model = core.read_model(checked(file))
    model.reshape(dict(zip(model.inputs, ([*x.shape] for x in inputs[0]), strict=True)))
    model.add_outputs(list(dict.fromkeys(names)))
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = []
    for each in inputs:
        results = compiled(dict(enumerate(x.detach().cpu().numpy() for x in each)))
        found.append({name: value.copy() for output, value in results.items() for name in output.get_names()})
    return found
