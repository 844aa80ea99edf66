"""The file that goals are measured on: weights of 4 bits lie two in a byte in it where a goal is about its bytes.

`packed_format`, `export_packed`.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from compress.errors import UserError
from compress.export.onnx.export import transform_to_onnx
from compress.export.onnx.export_report import ExportSettings
from compress.export.onnx.qdq import is_quantized
from compress.goals.goal import Goal
from compress.quantization.fake_quant import FakeQuantizer

logger = logging.getLogger("run")
PACKED, MOST_BITS = "int4", 4


def packed_format(goals: Sequence[Goal], model: nn.Module) -> str:
    """`int4` where a goal is about the file's bytes and a layer's weights have at most 4 bits; else empty.

    Without such a goal integers stay 8 bits wide in the file: that is what runtimes compute in integers.
    """
    if not any(goal.metric == "file_bytes" for goal in goals):
        return ""
    weights = (getattr(module, "weight_quantizer", None) for module in model.modules())
    few = any(isinstance(each, FakeQuantizer) and each.bits <= MOST_BITS for each in weights)
    return PACKED if few else ""


def export_packed(
    goals: Sequence[Goal],
    model: nn.Module,
    file: Path,
    dummies: tuple[Tensor, ...],
    inputs: list[Any],
    settings: ExportSettings | None = None,
) -> None:
    """Writes the ONNX file that goals are measured on, of integers if the network is quantized.

    Args:
        goals: that will be measured.
        model: the network.
        file: to write.
        dummies: inputs whose shapes are exported for, on the CPU.
        inputs: real ones, to prove the file with.
        settings: of the export; the format is chosen here.

    Raises:
        UserError: it cannot be exported.
    """
    settings, integers = settings or ExportSettings(), is_quantized(model)
    mode: Any = "qdq" if integers else "clip"
    if packed := packed_format(goals, model):
        try:
            narrow = replace(settings, format=packed)
            transform_to_onnx(model, file, dummies, integers, mode, inputs, narrow)
            return
        except UserError as e:
            logger.warning("weights of 4 bits are stored in a byte each: %s", e)
    transform_to_onnx(model, file, dummies, integers, mode, inputs, settings)
