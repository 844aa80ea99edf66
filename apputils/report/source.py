"""`Source`: what the sections of a report collect from. A file that is absent is None."""

import fnmatch
import functools
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apputils.report.records import read_json, read_table
from compress.analysis.macs.layers import MacsTable

EXPORT, RUNTIMES, DIAGNOSIS = "export.json", "runtimes.json", "diagnosis.json"
DEVICES = "device*.json"  # one a device
MEASURED = (EXPORT, RUNTIMES, DIAGNOSIS, DEVICES)


@dataclass(frozen=True)
class Source:
    """An evaluated network and what was measured of it.

    Attributes:
        folder: of its results, such as results/<run>/.
        checkpoint: of the network.
        summary: of the evaluation, in the form of apputils/runs/summary.py.
        dense: cost of the network before anything was removed.
    """

    folder: Path
    checkpoint: Mapping[str, Any]
    summary: Mapping[str, Any]
    dense: MacsTable

    def json(self, name: str) -> Any:
        """The content of a JSON file of the folder.

        Raises:
            UserError: it is damaged.
        """
        return read_json(self.folder / name)

    def table(self, name: str) -> list[dict[str, Any]] | None:
        """The rows of a CSV file of the folder.

        Raises:
            UserError: it is damaged.
        """
        return read_table(self.folder / name)

    def date(self, name: str) -> str:
        """When a file of the folder was written."""
        return time.strftime("%Y-%m-%d %H:%M", time.localtime((self.folder / name).stat().st_mtime))

    @functools.cached_property
    def stale(self) -> list[str]:
        """Names of what an analysis left in the folder before the checkpoint was written, so for another network."""
        checkpoint = Path(self.summary["checkpoint"])
        if not checkpoint.is_file():
            return []
        written = checkpoint.stat().st_mtime
        names = sorted(path.name for path in self.folder.glob("*.json") if path.stat().st_mtime < written)
        return [name for name in names if _is_measured(name) or finished_analysis(self.json(name))]

    def devices(self) -> list[Any]:
        """What devices have measured of this network, in the order of the files' names."""
        return devices_of(self.folder, Path(self.summary["checkpoint"]))


def devices_of(folder: Path, checkpoint: Path) -> list[Any]:
    """What devices have measured of a run's network since its checkpoint was written, in the order of the files' names.

    Raises:
        UserError: a file is damaged.
    """
    written = checkpoint.stat().st_mtime if checkpoint.is_file() else 0.0
    return [read_json(path) for path in sorted(folder.glob(DEVICES)) if path.stat().st_mtime >= written]


def _is_measured(name: str) -> bool:
    return any(fnmatch.fnmatch(name, each) for each in MEASURED)


def finished_analysis(record: Any) -> bool:
    """Whether a record is that of a finished sensitivity analysis."""
    return bool(isinstance(record, Mapping) and record.get("kind") == "sensitivity analysis" and record.get("complete"))
