"""A latency model of another machine: the files that a bundle carries there, and the model of what was measured.

`add_layer_table`, `read_model`. `measure.py` of the bundle times the files.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compress.analysis.latency_model.build import REFERENCE, described, fitted
from compress.analysis.latency_model.layers import Layer, layers_of
from compress.analysis.latency_model.model import LatencyModel
from compress.analysis.latency_model.plan import Sweep, sweeps_of
from compress.analysis.latency_model.whole import write_whole_files
from compress.errors import UserError
from compress.export.on_device import INPUTS, LAYER_TABLE, MANIFEST
from compress.export.runtimes.base import bytes_of
from compress.io.files import read_text, write_json
from compress.thinning.trials.trial import prunable_graph


def add_layer_table(bundle: Path, model: nn.Module, inputs: tuple[Tensor, ...], runtime: str = REFERENCE) -> int:
    """Adds to a bundle what a latency model of a dense network is measured with; the bytes of it.

    Args:
        bundle: of `write_bundle`, for these inputs.
        model: dense, float, on the CPU.
        inputs: whose sizes are those of use.
        runtime: that times the layers there, one of `PROFILED`.

    Raises:
        UserError: the network cannot be traced or exported.
    """
    model, folder = model.eval(), bundle / LAYER_TABLE
    layers, precisions = layers_of(model, inputs), ("float", "int8")
    sweeps: list[dict[str, Any]] = []
    for i, sweep in enumerate(sweeps_of(layers, precisions)):
        files = sweep.write(folder / str(i))
        places = [each.relative_to(bundle).as_posix() for each in files]
        sweeps.append({**sweep.to_dict(), "slowest": sweep.slowest, "files": places})
    (folder / "whole").mkdir()
    whole = write_whole_files(model, layers, prunable_graph(model, inputs), inputs, folder / "whole", precisions)
    manifest = json.loads(read_text(bundle / MANIFEST))
    manifest[LAYER_TABLE] = {
        "runtime": runtime,
        "inputs": described(inputs),
        "layers": [each.to_dict() for each in layers],
        "sweeps": sweeps,
        "whole": [{**each, "file": each["file"].relative_to(bundle).as_posix()} for each in whole],
    }
    write_json(bundle / MANIFEST, manifest)
    assert (bundle / INPUTS).is_file(), "whole files run on the bundle's inputs"
    return bytes_of(folder)


def read_model(file: Path | str) -> LatencyModel:
    """The latency model of another machine: of a `device.json` with the layer table's times, or saved before.

    Raises:
        UserError: the file cannot be read, or has no such times.
    """
    try:
        found = json.loads(read_text(file))
    except (OSError, ValueError, RecursionError) as e:
        raise UserError(f"{file} cannot be read as JSON: {str(e)[:150]}") from e
    if not isinstance(found, Mapping):
        raise UserError(f"{file} is neither a device.json nor a latency_model.json")
    try:
        return _of_device(found, Path(file)) if "rows" in found else LatencyModel.of_dict(found)
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration, IndexError) as e:
        raise UserError(f"{file} is damaged or no latency model: {type(e).__name__} {str(e)[:150]}") from e


def _of_device(found: Mapping[str, Any], file: Path) -> LatencyModel:
    table, machine = found.get(LAYER_TABLE), found["machine"]
    if not table:
        raise UserError(
            f"{file} has the times of whole files only; a latency model needs those of layers: write the bundle by "
            "python test.py --bundle=FOLDER --layer-table, and run its measure.py without --no-layers"
        )
    if table.get("error"):
        raise UserError(f"{file}: the layers were not timed: {table['error']}")
    origin = {
        "processor": machine["cpu"] or machine["machine"], "cores": machine["cores"], "system": machine["system"],
        "runtime": table["runtime"], "version": table["version"], "threads": table["threads"],
        "date": machine["date"], "inputs": table["inputs"],
    }  # fmt: skip
    layers = [Layer.of_dict(each) for each in table["layers"]]
    sweeps = [Sweep.of_dict(each) for each in table["sweeps"]]
    return fitted(layers, sweeps, [each["ms"] for each in table["sweeps"]], table["whole"], origin)


def inputs_of(model: LatencyModel) -> tuple[Tensor, ...]:
    """Inputs of the sizes that a model's times are for: zeros, as time does not depend on values.

    Raises:
        UserError: the model is of an older version, which did not keep them.
    """
    if "inputs" not in model.origin:
        raise UserError("the latency model does not say for which input size it was measured; measure it again")
    return tuple(torch.zeros(each["shape"], dtype=getattr(torch, each["dtype"])) for each in model.origin["inputs"])
