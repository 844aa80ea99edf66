"""`export_onnx`: the short way to an ONNX file, for a loop of one's own."""

from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from compress.errors import UserError, did_you_mean
from compress.export.onnx.check import Inputs
from compress.export.onnx.export import ExportReport, ExportSettings, transform_to_onnx
from compress.export.onnx.qdq import is_quantized
from compress.io.optional import require

FORMS = ("float", "clip", "qdq")


def export_onnx(
    model: nn.Module,
    onnx_file: str | Path,
    example_inputs: Tensor | Inputs,
    mode: Literal["float", "clip", "qdq"] | None = None,
    settings: ExportSettings | None = None,
) -> ExportReport:
    """Writes a network as an ONNX file, runs the file in onnxruntime and compares it with the network.

    Args:
        model: any network on any device; left as it was.
        onnx_file: where to write; the folder is made if needed. Nothing is left there if the export fails.
        example_inputs: real inputs: a batch, or the tuple of `forward`'s arguments. The comparison runs on them.
        mode: `float`; of a quantized network `qdq` (integers) or `clip` (a float file with clipped activations). None
            chooses `qdq` for a quantized network and `float` for any other.
        settings: see `ExportSettings`.

    Returns:
        the report: size, difference to the network, kernels, warnings.

    Raises:
        MissingPackageError: onnx, onnxscript or onnxruntime is missing.
        UserError: as for `transform_to_onnx`.
    """
    require("export_onnx", "onnx", "onnxscript", "onnxruntime")
    if mode is None:
        mode = "qdq" if is_quantized(model) else "float"
    if mode not in FORMS:
        raise UserError(f"unknown mode {mode!r} of export_onnx; {did_you_mean(mode, FORMS)}")
    quantized = mode != "float"
    checks = [example_inputs] if isinstance(example_inputs, tuple) else example_inputs
    return transform_to_onnx(
        model, onnx_file, example_inputs, quantized, "clip" if mode == "clip" else "qdq", checks, settings
    )
