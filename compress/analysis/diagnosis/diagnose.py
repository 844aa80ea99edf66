"""The quantization doctor: a float network, its quantized form, and where it is lost.

    found = diagnose(dense, quantized, images, file="network_int8.onnx")
    print(found)                  # a ranked list of suspects; empty for a healthy network

Every layer is looked at by itself, on the inputs that the float network gives it: what is lost in one layer does not
show in the next. So is every layer of a file, on the inputs that the file gives it, and what lies between the layers.
"""

import copy
import importlib.util
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compress.analysis.diagnosis.between import between_suspects
from compress.analysis.diagnosis.files import NAMES, ONNXRUNTIME, OPENVINO, file_rows
from compress.analysis.diagnosis.points import Inputs, Seen, points_of, run_forced, run_free
from compress.analysis.diagnosis.suspects import (
    LOST,
    QUIET,
    Suspect,
    activation_figures,
    costly_layers,
    decibels,
    simulation_suspects,
    slot_piece,
    weight_figures,
)
from compress.errors import UserError
from compress.export.onnx.qdq import is_quantized
from compress.quantization.modules.layers import RESULT, QuantLayer
from compress.quantization.post_training.replay import set_aside
from compress.selectors import canonical_modules

logger = logging.getLogger("compress")
PARTS = 20.0  # dB below which a file's layer computes something else than the simulation's


@dataclass(frozen=True)
class Diagnosis:
    """What was found.

    Attributes:
        rows: one a layer or activation, in the order of execution: `layer`, `kind`, `db` (signal to noise of the
            simulation against float, with what was lost before), `own_db` (by itself), `weight_db`, `act_db`,
            `clipped`, `used`, `dead_channels`, `spread`, `file_db` (of the file in onnxruntime against the
            simulation, by itself) and, where OpenVINO is installed, `openvino_db`.
        suspects: the most severe first.
        costly: where there are none, the layers whose few bits cost most (`costly_layers`).
    """

    rows: list[dict[str, Any]]
    suspects: list[Suspect] = field(default_factory=list)
    costly: list[Suspect] = field(default_factory=list)

    @property
    def named(self) -> list[Suspect]:
        """All layers with a remedy."""
        return [*self.suspects, *self.costly]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [] if self.suspects else ["no layer loses more than its bits have to lose"]
        if self.costly:
            lines = [f"{lines[0]}, but some have few bits; these cost most:"]
        for number, each in enumerate(self.named, 1):
            place = "" if each.where == "simulation" else f" (in {each.where})"
            lines.append(f"{number}. {each.layer}{place}: {each.cause}. Remedy: {each.remedy}")
        return "\n".join(lines)


def diagnose(
    dense: nn.Module | None, quantized: nn.Module, inputs: Sequence[Inputs], file: str | Path | None = None
) -> Diagnosis:
    """Looks for the layers where a quantized network loses.

    Args:
        dense: the float network of the same module names, on the CPU; None takes the quantized one without its
            rounding, as where rounding was trained along and no float network has these weights.
        quantized: the same, quantized; both are left as they were.
        inputs: real ones.
        file: its ONNX file; None leaves that out.

    Raises:
        UserError: the second network is not quantized, the first is, or their modules differ.
    """
    if not is_quantized(quantized) or (dense is not None and is_quantized(dense)):
        raise UserError("diagnose compares a float network with its quantized form; give them in this order")
    if dense is None:
        dense = copy.deepcopy(quantized)
        with set_aside(dense, trained=True):
            return _diagnosed(dense, quantized, inputs, file)
    return _diagnosed(dense, quantized, inputs, file, apart=True)


def _diagnosed(
    dense: nn.Module, quantized: nn.Module, inputs: Sequence[Inputs], file: str | Path | None, apart: bool = False
) -> Diagnosis:
    modules = canonical_modules(quantized)
    modes = [(each, each.training) for net in (dense, quantized) for each in net.modules()]
    try:
        dense.eval(), quantized.eval()
        points = points_of(dense, inputs[0])
        missing = [name for name in points if name not in modules]
        if missing:
            raise UserError(f"the quantized network has no module {missing[0]!r}, which the float one has")
        wanted, free = run_free(dense, points, inputs), run_free(quantized, points, inputs)
        alone = run_forced(quantized, points, inputs, wanted.passes)
        unrounded = _unrounded(quantized, points, inputs, wanted) if apart else None
        floats = canonical_modules(dense)
        rows = [
            _row(name, floats[name], modules[name], modules.get(points[name]), wanted, free, alone) for name in points
        ]
        if unrounded is not None:
            for row in rows:
                row |= _left_by_rounding(row, unrounded, alone)
        suspects = [each for row in rows for each in simulation_suspects(row["layer"], modules[row["layer"]], row)]
        if apart:
            kept = {row["layer"]: row["db"] for row in rows if "db" in row}
            suspects += between_suspects(dense, quantized, points, inputs, kept)
        if file is not None:
            name = Path(file).name
            suspects = _file_suspects(rows, file_rows(Path(file), quantized, points, inputs), name) + suspects
            if importlib.util.find_spec(OPENVINO) is not None:
                try:
                    found = file_rows(Path(file), quantized, points, inputs, OPENVINO)
                    suspects += _file_suspects(rows, found, name, OPENVINO)
                except UserError as e:
                    logger.warning("not looked at in OpenVINO: %s", e)
    finally:
        for module, training in modes:
            module.training = training
    best: dict[str, Suspect] = {}
    for each in sorted(suspects, key=lambda one: -one.severity):
        best.setdefault(each.layer, each)
    return Diagnosis(rows, list(best.values()), [] if best else costly_layers(rows))


def _unrounded(model: nn.Module, points: Mapping[str, str], inputs: Sequence[Inputs], wanted: Seen) -> Seen:
    """What each layer of a quantized network gives without its rounding, on the float network's inputs."""
    plain = copy.deepcopy(model)
    with set_aside(plain, trained=True):
        return run_forced(plain, points, inputs, wanted.passes)


def _left_by_rounding(row: Mapping[str, Any], unrounded: Seen, alone: Seen) -> dict[str, float]:
    name = row["layer"]
    if "own_db" not in row or name not in unrounded.outputs:
        return {}
    return {"rounding_db": decibels(unrounded.outputs[name], alone.outputs[name])}


def _row(
    name: str, dense: Any, module: nn.Module, end: nn.Module | None, wanted: Seen, free: Seen, alone: Seen
) -> dict[str, Any]:
    row: dict[str, Any] = {"layer": name, "kind": type(dense).__name__}
    if name in wanted.outputs and name in free.outputs and wanted.outputs[name].shape == free.outputs[name].shape:
        row["db"] = decibels(wanted.outputs[name], free.outputs[name])
        row["own_db"] = decibels(wanted.outputs[name], alone.outputs[name])
    with torch.no_grad():
        if isinstance(module, QuantLayer) and hasattr(dense, "weight") and dense.weight.shape == module.weight.shape:
            row |= weight_figures(module, _comparable(dense, module))
        piece = slot_piece(module)
        if piece is not None and name in wanted.inputs:
            values = wanted.inputs[name] if isinstance(module, QuantLayer) else _given(dense, wanted.inputs[name])
            row |= activation_figures(piece, values)
        result = getattr(end, RESULT, None)
        if result is not None and name in wanted.outputs:
            row["result_db"] = activation_figures(result, wanted.outputs[name]).get("act_db", 200.0)
    return row


def _comparable(dense: Any, module: QuantLayer) -> Tensor:
    """The float weight in the quantized layer's own scale: after a folding, that of the layer itself."""
    if isinstance(dense, QuantLayer):  # the same network without its rounding
        return dense.quantized_weight().detach()
    own: Tensor = module.weight.detach()
    return own if not torch.allclose(own, dense.weight, rtol=1e-4, atol=1e-6) else dense.weight.detach()


def _given(activation: nn.Module, x: Tensor) -> Tensor:
    found: Tensor = activation(x.clone())  # it may work in place
    return found


def _file_suspects(
    rows: Sequence[dict[str, Any]], found: Mapping[str, dict[str, float]], file: str, runtime: str = ONNXRUNTIME
) -> list[Suspect]:
    own_name, input_name = NAMES[runtime]
    where = file if runtime == ONNXRUNTIME else f"{file} in {runtime}"
    suspects = []
    for row in rows:
        figures = found.get(row["layer"])
        if figures is None:
            continue
        row |= figures
        if figures.get(own_name, 200.0) < PARTS:
            cause = (
                f"the file's layer gives something else than the simulation's on the same input "
                f"({figures[own_name]:.0f} dB): its scale, its integers, its bias or its accumulator"
            )
            remedy = "export it again; on CPUs without VNNI give --reduce-range"
            suspects.append(Suspect(row["layer"], cause, remedy, 2 * QUIET - figures[own_name], where=where))
        if figures.get(input_name, 200.0) < PARTS:
            cause = (
                f"what the file's layer reads is not what those before it give ({figures[input_name]:.0f} dB): "
                "the scale or zero point of the rounding in front of it, or an activation that got lost"
            )
            severity = 2 * QUIET - figures[input_name] - LOST
            suspects.append(Suspect(row["layer"], cause, "export it again", severity, where=where))
    return suspects
