"""A folder to carry to a device: a run's networks in each runtime's form, real inputs, expected outputs, `measure.py`.

`write_bundle`, `read_device_results`. What the device needs of ours are a few files without torch, copied as they are.
"""

import json
import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from compress.errors import UserError
from compress.export.on_device import EXPECTED, INPUTS, MANIFEST
from compress.export.onnx.check import Inputs, torch_outputs
from compress.export.onnx.export_report import ExportSettings
from compress.export.runtimes.client import RuntimeProcess
from compress.export.runtimes.measure import chosen_runtimes
from compress.export.runtimes.sources import write_source
from compress.export.runtimes.table import RUNTIMES
from compress.io.files import read_text, why, write_json, write_text

PACKAGE = Path(__file__).resolve().parents[1]
COPIED = ("base", "coreml", "executorch", "litert", "ncnn", "onnxruntime", "openvino", "table", "tensorrt")
ROW = ("runtime", "network", "precision", "quantized", "version", "bytes", "error", "ms", "low", "high",
       "max", "ratio", "layers", "integer")  # fmt: skip
FILES = "files"  # a folder named like a runtime would stand in for the missing package of that name
BESIDE = ("layer_times",)  # in compress/export
EMPTY = ("", "export", "export/runtimes")


def write_bundle(
    folder: Path,
    networks: Mapping[str, nn.Module],
    inputs: Inputs,
    names: Sequence[str] | None,
    run: str,
    settings: ExportSettings | None = None,
    narrow: Mapping[str, tuple[str, ExportSettings]] | None = None,
) -> list[str]:
    """Writes a bundle; a sentence for each form that could not be made.

    Args:
        folder: to make; it must not exist, or be empty.
        networks: name -> network.
        inputs: of one forward pass.
        names: of runtimes; None takes those installed here.
        run: of which the networks are.
        settings: of ONNX files.
        narrow: further files in narrow formats, as `measure_runtimes` takes them.

    Raises:
        UserError: the folder holds something or cannot be made, a runtime is unknown, or none can convert here.
    """
    chosen, faults = usable_runtimes(names)
    check_free(folder)
    was_there = folder.exists()
    files: list[dict[str, Any]] = []
    kinds = {RUNTIMES[name].reads for name in chosen}
    given: dict[str, tuple[str, ExportSettings | None]] = {name: (name, settings) for name in networks}
    given.update(narrow or {})
    for i, (network, (name, own)) in enumerate(given.items()):
        source = write_source(network, networks[name], [inputs], folder / "sources" / str(i), kinds, own)
        for runtime in chosen:
            target = folder / FILES / runtime / str(i)
            target.mkdir(parents=True)
            try:
                with RuntimeProcess(runtime) as process:
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
    if not files:
        shutil.rmtree(folder)
        if was_there:
            folder.mkdir()
        raise UserError(f"no runtime could convert: {'; '.join(faults)}; nothing was written")
    arrays: dict[str, Any] = {f"{i:03}": each.detach().cpu().numpy() for i, each in enumerate(inputs)}
    np.savez(folder / INPUTS, **arrays)
    computed = {name: torch_outputs(model, [inputs])[0] for name, model in networks.items()}
    found = {network: computed[name] for network, (name, _) in given.items()}
    outputs: dict[str, Any] = {
        f"{name}/{i:03}": each.numpy() for name, tensors in found.items() for i, each in enumerate(tensors)
    }
    np.savez(folder / EXPECTED, **outputs)
    write_json(folder / MANIFEST, {"run": run, "files": files})
    _copy_code(folder)
    return faults


def usable_runtimes(names: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Those of the named runtimes that can convert here, and why others cannot.

    Raises:
        UserError: one is unknown, or none can.
    """
    reasons = {name: RUNTIMES[name].available() for name in chosen_runtimes(names)}
    faults = [reason for reason in reasons.values() if reason]
    chosen = [name for name, reason in reasons.items() if not reason]
    if not chosen:
        raise UserError(f"no runtime can convert here: {'; '.join(faults)}; nothing was written")
    return chosen, faults


def check_free(folder: Path) -> None:
    """Checks that a bundle's folder is empty, or new and can be made; makes nothing.

    Raises:
        UserError: it holds something or cannot be written.
    """
    try:
        there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
        if there == folder and any(folder.iterdir()):
            raise UserError(f"{folder} is not empty; give a new folder for the bundle; nothing was written")
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as e:
        raise UserError(f"the bundle's folder {folder} cannot be written: {why(e)}; nothing was written") from e


def _copy_code(folder: Path) -> None:
    for each in EMPTY:
        package = folder / "compress" / each
        package.mkdir(parents=True, exist_ok=True)
        write_text(package / "__init__.py", "")
    paths = [Path("export/runtimes") / f"{name}.py" for name in COPIED]
    for path in [*paths, *(Path("export") / f"{name}.py" for name in BESIDE)]:
        shutil.copyfile(PACKAGE / path, folder / "compress" / path)
    shutil.copyfile(PACKAGE / "export" / "on_device.py", folder / "measure.py")


def read_device_results(file: Path, run: str) -> dict[str, Any]:
    """What `measure.py` wrote on a device, of this run.

    Raises:
        UserError: it is no such file, or another run's.
    """
    try:
        found = json.loads(read_text(file))
    except (ValueError, OSError, RecursionError) as e:
        raise UserError(f"--device-results={file} cannot be read as JSON: {str(e)[:100]}; nothing was done") from e
    if not _is_complete(found):
        raise UserError(f"--device-results={file} was not written by a bundle's measure.py; nothing was done")
    if found["run"] != run:
        raise UserError(f"--device-results={file} is of run {found['run']}, not of {run}; nothing was done")
    return dict(found)


def _is_complete(found: Any) -> bool:
    """Whether it has the form of what measure.py writes, down to the values that reports show."""
    if not isinstance(found, dict) or not {"run", "machine", "rows", "how"} <= set(found):
        return False
    machine, rows, how = found["machine"], found["rows"], found["how"]
    return (
        isinstance(machine, dict)
        and isinstance(how, dict)
        and {"cpu", "machine", "cores", "system", "date"} <= set(machine)
        and {"threads", "rounds"} <= set(how)
        and isinstance(rows, list)
        and all(isinstance(each, dict) and set(ROW) <= set(each) for each in rows)
        and all(_is_time(each[key]) for each in rows for key in ("ms", "low", "high"))
    )


def _is_time(value: Any) -> bool:
    """A number above zero, or nothing, where a file was not run."""
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf)
