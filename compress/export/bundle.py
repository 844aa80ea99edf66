"""A folder to carry to a device: a run's networks in each runtime's form, real inputs, expected outputs, `measure.py`.

`write_bundle`, `read_device_results`. What the device needs of ours are a few files without torch, copied as they are.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from compress.errors import UserError
from compress.export.on_device import EXPECTED, INPUTS, MANIFEST
from compress.export.onnx.check import Inputs, torch_outputs
from compress.export.runtimes.client import RuntimeProcess
from compress.export.runtimes.measure import LIMIT, chosen_runtimes
from compress.export.runtimes.sources import write_source
from compress.export.runtimes.table import RUNTIMES
from compress.io.files import read_text, write_json, write_text

PACKAGE = Path(__file__).resolve().parents[1]
COPIED = ("base", "coreml", "executorch", "litert", "ncnn", "onnxruntime", "openvino", "table", "tensorrt")
EMPTY = ("", "export", "export/runtimes")


def write_bundle(
    folder: Path, networks: Mapping[str, nn.Module], inputs: Inputs, names: Sequence[str] | None, run: str
) -> list[str]:
    """Writes a bundle; a sentence for each form that could not be made.

    Args:
        folder: to make; it must not exist, or be empty.
        networks: name -> network.
        inputs: of one forward pass.
        names: of runtimes; None takes those installed here.
        run: of which the networks are.

    Raises:
        UserError: the folder holds something, or a runtime is unknown.
    """
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty; give a new folder for the bundle; nothing was written")
    chosen = [name for name in chosen_runtimes(names) if not RUNTIMES[name].available()]
    folder.mkdir(parents=True, exist_ok=True)
    files: list[dict[str, Any]] = []
    faults: list[str] = []
    kinds = {RUNTIMES[name].reads for name in chosen}
    for i, (network, model) in enumerate(networks.items()):
        source = write_source(network, model, [inputs], folder / "sources" / str(i), kinds)
        for runtime in chosen:
            target = folder / runtime / str(i)
            target.mkdir(parents=True)
            try:
                with RuntimeProcess(runtime, LIMIT) as process:
                    fault = dict(source.faults).get(RUNTIMES[runtime].reads)
                    if fault:
                        raise UserError(fault)
                    converted = process.call("convert", source, str(target))
                    precisions = process.call("precisions", source.quantized)
            except UserError as e:
                faults.append(f"{runtime}, {network}: {e}")
                continue
            files += [
                {
                    "runtime": runtime, "network": network, "quantized": source.quantized, "precision": precision,
                    "file": str(Path(converted.file).resolve().relative_to(folder.resolve())),
                    "bytes": converted.bytes, "layers": list(source.layers), "notes": list(converted.notes),
                }
                for precision in precisions
            ]  # fmt: skip
    given: dict[str, Any] = {f"{i:03}": each.detach().cpu().numpy() for i, each in enumerate(inputs)}
    np.savez(folder / INPUTS, **given)
    found = {name: torch_outputs(model, [inputs])[0] for name, model in networks.items()}
    outputs: dict[str, Any] = {
        f"{name}/{i:03}": each.numpy() for name, tensors in found.items() for i, each in enumerate(tensors)
    }
    np.savez(folder / EXPECTED, **outputs)
    write_json(folder / MANIFEST, {"run": run, "files": files})
    _copy_code(folder)
    return faults


def _copy_code(folder: Path) -> None:
    for each in EMPTY:
        package = folder / "compress" / each
        package.mkdir(parents=True, exist_ok=True)
        write_text(package / "__init__.py", "")
    for name in COPIED:
        path = Path("export/runtimes") / f"{name}.py"
        shutil.copyfile(PACKAGE / path, folder / "compress" / path)
    shutil.copyfile(PACKAGE / "export" / "on_device.py", folder / "measure.py")


def read_device_results(file: Path, run: str) -> dict[str, Any]:
    """What `measure.py` wrote on a device, of this run.

    Raises:
        UserError: it is no such file, or another run's.
    """
    try:
        found = json.loads(read_text(file))
        complete = {"run", "machine", "rows", "how"} <= set(found)
    except (ValueError, TypeError, OSError, RecursionError) as e:
        raise UserError(f"--device-results={file} cannot be read as JSON: {str(e)[:100]}; nothing was done") from e
    if not complete:
        raise UserError(f"--device-results={file} was not written by a bundle's measure.py; nothing was done")
    if found["run"] != run:
        raise UserError(f"--device-results={file} is of run {found['run']}, not of {run}; nothing was done")
    return dict(found)
