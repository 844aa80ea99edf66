"""What the report says, as plain data: `report.json`.

Collecting it from the checkpoint, the summary and the files that the analyses left in results/<run>/. A part whose
file is absent is None, and the page says so.
"""

import io
import json
import os
import platform
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from apputils.report.removed import reasons_of_removal, removed_units, unexplained
from apputils.report.timeline import policies_of
from apputils.runs.measured_words import measured_words
from apputils.runs.run_warnings import place_of
from apputils.runs.summary import quality_rows
from compress.analysis.macs.layers import MacsTable
from compress.analysis.workbook import records
from compress.errors import UserError
from compress.io.files import read_text

EXPORT = "export.json"
PART = r"sensitivity_\w+_part_"  # records of one machine's share of the weights


def gather(folder: Path, checkpoint: Mapping[str, Any], summary: Mapping[str, Any], dense: MacsTable) -> dict[str, Any]:
    """The report as plain data.

    Args:
        folder: what the analyses left there is read; what is older than the checkpoint is of another network.
        checkpoint: of the evaluated network.
        summary: of the evaluation, in the form of apputils/runs/summary.py.
        dense: cost of the network before anything was removed.
    """
    stale = older_than(Path(summary["checkpoint"]), folder)
    export = {} if EXPORT in stale else read_json(folder / EXPORT) or {}
    macs = read_json(folder / "macs.json")
    content = {
        "run": checkpoint["run"],
        "optform": checkpoint["optform"],
        "written": time.strftime("%Y-%m-%d %H:%M"),
        "checkpoint": summary["checkpoint"],
        "epoch": checkpoint["epoch"],
        "quality": summary["quality"],
        "quality_rows": quality_rows(summary["quality"]),
        "measured_on": measured_words(summary["measured_on"]),
        "dense_baseline": summary.get("dense"),
        "warnings": [{**entry, "place": place_of(entry)} for entry in summary.get("warnings", [])],
        "trained_epochs": len(checkpoint.get("history", [])),
        "planned_epochs": summary.get("planned_epochs"),
        "details": summary.get("details") or {},
        "summary": dict(summary),
        "history": checkpoint.get("history", []),
        "policies": policies_of(checkpoint["schedule"]),
        "schedule": checkpoint["schedule"],
        "sparsity": read_json(folder / "sparsity.json"),
        "macs": macs,
        "dense": {"total": dense.total, "layers": records(dense.layers)},
        "sensitivity": find_sensitivity(folder, stale),
        "export": find_exports(export, folder),
        "export_error": export.get("error"),
        "latency": export.get("latency"),
        "stale": stale,
        "activations": read_table(folder / "activations.csv"),
        "removed": removed_units(checkpoint["scheduler"]["recipes"]),
        "reasons": reasons_of_removal(checkpoint["scheduler"]["recipes"]),
        "unexplained": unexplained(checkpoint["scheduler"]["recipes"]),
        "seed": checkpoint["options"].get("seed"),
        "commands": summary.get("commands") or {},
        "environment": environment(),
    }
    return {**content, "sizes": sizes(content, checkpoint)}


def sizes(content: Mapping[str, Any], checkpoint: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of what a network costs: name, the dense network's, the network's now."""
    dense, summary = content["dense"]["total"], content["summary"]
    rows = [
        {"what": "parameters", "dense": dense["parameters"], "now": summary["params"]},
        {"what": "MACs", "dense": dense["macs"], "now": summary["macs"]},
    ]
    if content["sparsity"]:
        total = content["sparsity"]["total"]
        alive = total["all_parameters"] - total["all_zeros"]
        rows.append({"what": "parameters that are not zero", "dense": dense["parameters"], "now": alive})
    if content["macs"]:
        total = content["macs"]["total"]
        rows.append({"what": "MACs, zeros skipped", "dense": dense["effective_macs"], "now": total["effective_macs"]})
        name, key = "activation bytes alive at once", "peak_activation_bytes"
        rows.append({"what": name, "dense": dense[key], "now": total[key]})
        if "bitops" in total:
            rows.append({"what": "BitOps", "dense": 32 * 32 * dense["macs"], "now": total["bitops"]})
    stored = sum(tensor.numel() * tensor.element_size() for tensor in checkpoint["model"].values())
    rows.append({"what": "bytes of the state dict", "dense": None, "now": stored})
    return rows


def older_than(checkpoint: Path, folder: Path) -> list[str]:
    """Names of what an analysis left in a folder before the checkpoint was written, so for another network."""
    if not checkpoint.is_file():
        return []
    written = checkpoint.stat().st_mtime
    names = sorted(path.name for path in folder.glob("*.json") if path.stat().st_mtime < written)
    return [name for name in names if name == EXPORT or _analysis(folder / name)]


def find_sensitivity(folder: Path, without: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The finished sensitivity analyses of whole networks in a folder, by the kind that their record names."""
    paths = [path for path in sorted(folder.glob("*.json")) if path.name not in without]
    found = [(path, _analysis(path)) for path in paths if not re.match(PART, path.name)]
    return [{**content, "file": path.name, "written": _date(path)} for path, content in found if content]


def find_exports(content: Mapping[str, Any], folder: Path) -> list[dict[str, Any]]:
    """The exported files that `export.json` tells of, each with what was found out about it."""
    files = content.get("files", {})
    common = {"mode": "pt2", "compared_with": "the network", "warnings": [], "difference": {}}
    date = _date(folder / EXPORT) if files else ""
    return [{**common, **each, "written": date} for each in files.values()]


def environment() -> dict[str, str]:
    """Where this evaluation ran."""
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "CPU cores": str(os.cpu_count()),
        "CPU threads of torch": str(torch.get_num_threads()),
        "GPU": gpu,
    }


def read_json(path: Path) -> Any:
    """The content of a JSON file; None if there is none.

    Raises:
        UserError: it is damaged.
    """
    try:
        return json.loads(read_text(path)) if path.exists() else None
    except (OSError, ValueError, RecursionError) as e:
        raise UserError(f"{path} cannot be read: {str(e)[:200]}; remove it, and test again") from e


def read_table(path: Path) -> list[dict[str, Any]] | None:
    """The rows of a CSV file, in which a layer may be called `0`; None if there is none.

    Raises:
        UserError: it is damaged.
    """
    try:
        return records(pd.read_csv(io.StringIO(read_text(path)), dtype={"layer": str})) if path.exists() else None
    except (OSError, ValueError, LookupError, TypeError, OverflowError, MemoryError) as e:
        raise UserError(f"{path} cannot be read: {str(e)[:200]}; remove it, and test again") from e


def _analysis(path: Path) -> dict[str, Any] | None:
    """The record of a finished sensitivity analysis; None for anything else."""
    content = read_json(path)
    found = isinstance(content, dict) and content.get("kind") == "sensitivity analysis" and content.get("complete")
    return content if found else None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = [line for line in read_text(info).splitlines() if line.startswith("model name")]
        if lines:
            return lines[0].split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _date(path: Path) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(path.stat().st_mtime))
