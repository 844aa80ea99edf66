"""On which machine, by which runtime and with how many threads times were measured; another one has other times."""

import os
import platform
from pathlib import Path
from typing import Any

from compress.export.runtimes.table import RUNTIMES
from compress.io.files import read_text

CPU = Path("/proc/cpuinfo")


def fingerprint(runtime: str, threads: int) -> dict[str, Any]:
    """Plain data: processor, cores, system, runtime with version, threads."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "runtime": runtime,
        "version": RUNTIMES[runtime].version(),
        "threads": threads,
    }


def differences(saved: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """What differs, in words."""
    return [f"{name} {saved.get(name)} instead of {value}" for name, value in here.items() if saved.get(name) != value]


def _processor() -> str:
    try:
        lines = read_text(CPU).splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
