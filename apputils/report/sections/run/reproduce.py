"""The commands that train and evaluate the run again, the seed, and where it was evaluated."""

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from apputils.report.blocks import Block, Heading, Lines
from apputils.report.section import Content, Section
from apputils.report.source import Source
from apputils.report.tables import Column, Row, Table, column
from compress.io.files import read_text


class Reproduce(Section):
    """What one needs to do it again."""

    name, title = "reproduce", "Reproduce"

    def collect(self, source: Source) -> dict[str, Any]:
        """Seed, commands and environment."""
        return {
            "seed": source.checkpoint["options"].get("seed"),
            "commands": source.summary.get("commands") or {},
            "environment": environment(),
        }

    def tables(self, content: Content) -> list[Table]:
        """Facts: the environment on the page, all of them in the workbook."""
        facts = {"run": content["run"], "seed": content["seed"], **content["commands"], **content["environment"]}
        return fact_tables({"seed": content["seed"], **content["environment"]}, facts)

    def blocks(self, content: Content, folder: Path) -> Sequence[Block]:
        """The commands, then where."""
        commands = [Lines("\n".join(content["commands"].values()))] if content["commands"] else []
        return [*commands, Heading("Evaluated on"), *super().blocks(content, folder)]


def fact_tables(shown: Row, facts: Row) -> list[Table]:
    """A table of the page and one of the workbook: name and value."""
    columns = [column("what"), Column("value", lambda row: ("", str(row["value"])))]
    page = Table("environment", [{"what": name, "value": value} for name, value in shown.items()], columns, sheet=None)
    rows = [{"fact": name, "value": value} for name, value in facts.items()]
    return [page, Table("reproduce", rows, columns=None)]


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


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = [line for line in read_text(info).splitlines() if line.startswith("model name")]
        if lines:
            return lines[0].split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
