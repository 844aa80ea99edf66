"""The table of narrow formats, and which networks they are for: `narrow`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from compress.errors import UserError, did_you_mean
from compress.export.onnx.narrow.float8 import to_float8
from compress.export.onnx.narrow.graphs import still_wide
from compress.export.onnx.narrow.halves import to_bfloat16, to_float16
from compress.export.onnx.narrow.int4 import to_int4
from compress.export.onnx.rewriting.passes import remove_unused

if TYPE_CHECKING:
    import onnx_ir as ir

Narrow = Callable[[Any, Sequence[tuple[Tensor, ...]]], list[str]]
FORMATS: dict[str, Narrow] = {
    "float16": to_float16,
    "bfloat16": to_bfloat16,
    "float8": to_float8,
    "int4": to_int4,
}
OF_QUANTIZED = ("int4",)  # formats that hold a quantized network's own integers
OF_LAYERS = ("float8", "int4")  # formats that only the weights of layers take
CALIBRATED = ("float8",)  # formats with ranges of what layers read


def narrow(model: ir.Model, name: str, kind: str, inputs: Sequence[tuple[Tensor, ...]], real: bool) -> list[str]:
    """Rewrites an exported graph in a narrow format, in place.

    Args:
        model: the graph.
        name: of the format, a key of `FORMATS`.
        kind: what the graph is: `float`, `clip` or `qdq`.
        inputs: what the format may observe ranges on.
        real: whether they are real inputs.

    Returns:
        what is to be known of the file, a sentence each.

    Raises:
        UserError: the format is unknown, or not for such a network.
    """
    check_format(name, kind)
    if name in CALIBRATED and not real:
        raise UserError(f"format={name!r} observes ranges on real inputs; give check_inputs")
    notes = FORMATS[name](model, inputs)
    remove_unused(model)
    return [*notes, *(still_wide(model.graph) if name in OF_LAYERS else [])]


def check_format(name: str, kind: str) -> None:
    """Raises UserError where a format is unknown, or not for a graph of that kind."""
    if name not in FORMATS:
        raise UserError(f"unknown format {name!r} of ONNX files; {did_you_mean(name, FORMATS)}")
    if kind == "clip" or (kind == "qdq" and name not in OF_QUANTIZED):
        known = ", ".join(OF_QUANTIZED)
        raise UserError(
            f"format={name!r} is for float networks; a quantized one has its own grids, and its integer file (mode "
            f"'qdq') may be narrower in {known}; nothing was written"
        )
