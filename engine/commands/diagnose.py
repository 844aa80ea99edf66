"""Why a run's network lost by quantization: `test.py --diagnose`.

`diagnose_run` (results/<run>/diagnosis.json, and diagnosis.yaml with what to put into a schedule).
"""

import copy
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from tabulate import tabulate
from torch import Tensor, nn

from compress.analysis.diagnosis.diagnose import Diagnosis, diagnose
from compress.errors import UserError
from compress.export.onnx.qdq import is_quantized
from compress.io.files import write_json, write_text
from engine.application import TestedApplication
from engine.commands.remedies import write_remedied
from options.rules import of_remedies

logger = logging.getLogger("run")
FILE, SNIPPET, EXPORTED = "diagnosis.json", "diagnosis.yaml", "network_int8.onnx"
COLUMNS = ("layer", "db", "own_db", "weight_db", "act_db", "clipped", "used", "dead_channels", "file_db", "openvino_db")
HEADS = [
    "layer",
    "dB",
    "dB alone",
    "weight, dB",
    "activation, dB",
    "cut off",
    "range used",
    "dead channels",
    "file, dB",
    "in OpenVINO, dB",
]


def check_diagnosable(tester: TestedApplication) -> None:
    """Refuses `--diagnose` of a float network, before anything is computed.

    Raises:
        UserError: it is one.
    """
    if tester.config.diagnose and not is_quantized(tester.build_model()):
        raise UserError(
            f"--diagnose looks at quantized networks, and that of {tester.file} is float; quantize it by "
            f"python test.py --run={tester.folders.name} --quantize=auto first; nothing was done"
        )


def diagnose_run(
    tester: TestedApplication, model: nn.Module, inputs: Sequence[tuple[Tensor, ...]]
) -> dict[str, Any] | None:
    """Looks at every layer of a quantized network, in the simulation and in its integer file, and writes what it found.

    Args:
        tester: of the run.
        model: its network; a float one is left, and said.
        inputs: real ones; those of the first one's size are used.
    """
    if not is_quantized(model):
        logger.warning("--diagnose looks at quantized networks, and this one is float; give --quantize=auto first")
        return None
    network = copy.deepcopy(model).cpu().eval()
    same = [each for each in inputs if all(a.shape == b.shape for a, b in zip(each, inputs[0], strict=True))]
    file = tester.results / EXPORTED
    found = diagnose(None, network, same, file if tester.config.export and file.is_file() else None)
    result = {"run": tester.folders.name, **found.to_dict()}
    write_json(tester.results / FILE, result)
    logger.info("\n%s\n%s\n", rows_text(found), found)
    (tester.results / SNIPPET).unlink(missing_ok=True)  # of an earlier diagnosis
    overrides = {name: bits for each in found.named for name, bits in (each.overrides or {}).items()}
    if overrides:
        write_text(tester.results / SNIPPET, yaml.safe_dump({"overrides": overrides}, sort_keys=False))
        logger.info("written: %s, for the quantizer of a schedule", tester.results / SNIPPET)
    logger.info("written: %s", tester.results / FILE)
    if tester.config.write_schedule is not None and of_remedies(tester.config):
        _write_schedule(tester, found, Path(tester.config.write_schedule))
    return result


def _write_schedule(tester: TestedApplication, found: Diagnosis, path: Path) -> None:
    """The run's schedule with the remedies, or why there is nothing to write."""
    changes = write_remedied(path, tester.checkpoint["schedule"] or {}, found.named, tester.folders.name)
    if changes:
        logger.info("written: %s; changed: %s", path, "; ".join(changes))
        return
    why = (
        "no suspects"
        if not found.named
        else "no remedy is a scale per channel or more bits, which can be written; the others need a choice of yours"
    )
    logger.warning("%s is not written: %s", path, why)


def rows_text(found: Diagnosis) -> str:
    """One line a layer, in the order of execution."""
    lines = [[_cell(row.get(name)) for name in COLUMNS] for row in found.rows]
    return tabulate(lines, HEADS, disable_numparse=True)


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
