"""Networks as the files that runtimes convert: ONNX, and torch.export programs with fixed sizes.

`write_source`, `words_of_failure`. Called by measure.py and by bundles.
"""

import logging
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compress.errors import UserError
from compress.export.decomposed import fit_program_biases, fold_norms
from compress.export.onnx.check import Inputs, stored_in_integers
from compress.export.onnx.export import transform_to_onnx
from compress.export.onnx.export_report import ExportSettings
from compress.export.onnx.qdq import deployable, is_quantized
from compress.export.runtimes.base import Source
from compress.quantization.modules.layers import QuantLayer
from compress.selectors import canonical

logger = logging.getLogger("compress")
ONNX, PROGRAM = "onnx", "program"


def write_source(
    name: str,
    model: nn.Module,
    inputs: Sequence[Inputs],
    folder: Path,
    kinds: Collection[str],
    settings: ExportSettings | None = None,
) -> Source:
    """Writes what runtimes convert a network from.

    Args:
        name: of the network.
        model: it.
        inputs: real ones; the first one's sizes are the fixed ones.
        folder: where the files go, made if needed.
        kinds: of files that are needed.
        settings: of the ONNX file.

    Returns:
        the files; what cannot be written is named in `faults`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, Any] = {}
    faults: dict[str, str] = {}
    quantized = is_quantized(model)
    if ONNX in kinds:
        file = folder / "network.onnx"
        try:
            transform_to_onnx(model, file, inputs[0], quantized, "qdq" if quantized else "clip", inputs, settings)
            files[ONNX] = str(file)
        except Exception as e:  # of any kind: what reads the other file is still measured
            faults[ONNX] = words_of_failure(e)
    narrow = settings.format if settings is not None else ""
    if PROGRAM in kinds and narrow:
        faults[PROGRAM] = f"{narrow} is a format of ONNX files, and this runtime does not read them"
    elif PROGRAM in kinds:
        try:
            files[PROGRAM] = _write_program(model, inputs[0], folder / "network.pt2")
        except Exception as e:
            faults[PROGRAM] = words_of_failure(e)
    layers = tuple(stored_in_integers(files[ONNX]) if ONNX in files else _quantized_layers(model)) if quantized else ()
    shapes = tuple(tuple(each.shape) for each in inputs[0])
    onnx, program = files.get(ONNX, ""), files.get(PROGRAM, "")
    types = tuple(str(each.dtype).removeprefix("torch.") for each in inputs[0])
    return Source(name, quantized, layers, shapes, onnx, program, tuple(faults.items()), types)


def words_of_failure(error: Exception) -> str:
    """One line: a message of ours as it is, another with its kind before it."""
    if isinstance(error, UserError):
        return str(error)
    logger.debug("a runtime's row failed", exc_info=error)
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _quantized_layers(model: nn.Module) -> list[str]:
    """Those with one weight: recurrent layers have several, and no runtime computes them in integers."""
    layers = {canonical(name, model): each for name, each in model.named_modules() if isinstance(each, QuantLayer)}
    return [name for name, each in layers.items() if getattr(each, "weight_quantizer", None) is not None]


def _write_program(model: nn.Module, inputs: Inputs, file: Path) -> str:
    """A torch.export program for inputs of these sizes, integers in torch's own operations."""
    ready = deployable(model, "program").model
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            given = tuple(each.cpu() for each in inputs)
            program = torch.export.export(ready, given)
            module = program.module()
            changed = fold_norms(module) + fit_program_biases(module)
            program = torch.export.export(module, given) if changed else program
            torch.export.save(program, file)
    except Exception as e:  # torch.export's errors share no base class
        text = " ".join(str(e).split())[:300]
        raise UserError(f"{type(model).__name__} cannot be exported by torch.export: {text}") from e
    return str(file)
