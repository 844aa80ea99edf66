"""Measures a bundle's files where it lies: parity with the expected outputs, time in turns, the machine; no torch.

A bundle holds this file as `measure.py`; it needs numpy and the runtimes that are to be measured.

    python measure.py                       # all runtimes of the bundle that are installed here; writes device.json
    python measure.py onnxruntime --threads 2 --rounds 15
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from compress.export.runtimes.base import Loaded
from compress.export.runtimes.table import RUNTIMES

MANIFEST, RESULT, INPUTS, EXPECTED = "manifest.json", "device.json", "inputs.npz", "expected.npz"
Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints a line a file, writes device.json beside this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="runtimes; all of the bundle by default")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.05, help="least time of a turn")
    options = parser.parse_args(arguments)
    folder = Path(__file__).resolve().parent
    manifest = json.loads((folder / MANIFEST).read_text())
    unknown = [name for name in options.names if name not in {each["runtime"] for each in manifest["files"]}]
    if unknown:
        sys.exit(f"this bundle has no files for {', '.join(unknown)}; nothing was measured")
    chosen = [each for each in manifest["files"] if not options.names or each["runtime"] in options.names]
    rows = measured(folder, chosen, options.threads, options.rounds, options.seconds)
    result = {"run": manifest["run"], "machine": machine(), "how": vars(options), "rows": rows}
    (folder / RESULT).write_text(json.dumps(result, indent=1))
    for row in rows:
        name = f"{row['runtime']}, {row['network']}, {row['precision']}"
        print(f"{name}: {row['error']}" if row["error"] else f"{name}: {row['ms']:.3g} ms, off by {row['max']:.2g}")
    print(f"written: {folder / RESULT}")


def measured(folder: Path, files: Sequence[Mapping[str, Any]], threads: int, rounds: int, seconds: float) -> list[Row]:
    """One row a file: difference to the expected outputs, time, layers in integers; `error` where it does not run."""
    inputs, expected = np.load(folder / INPUTS), np.load(folder / EXPECTED)
    given = [inputs[name] for name in sorted(inputs.files)]
    rows: list[Row] = []
    ready: list[tuple[Row, Loaded]] = []
    for each in files:
        row: Row = {**each, "version": RUNTIMES[each["runtime"]].version(), "error": None, "ms": None, "max": None}
        rows.append(row)
        try:
            loaded = RUNTIMES[each["runtime"]].load(
                str(folder / each["file"]), each["precision"], threads, [x.shape for x in given]
            )
            found = loaded.run(given)
            kernels = loaded.kernels(each["layers"])
        except Exception as e:  # a runtime's errors share no base class
            row["error"] = " ".join(str(e).split())[:300] or type(e).__name__
            continue
        wanted = [expected[name] for name in sorted(expected.files) if name.startswith(f"{each['network']}/")]
        row["max"] = max(float(np.abs(a - b).max()) for a, b in zip(wanted, found, strict=True))
        row["largest"] = max(float(np.abs(a).max()) for a in wanted)
        row["integer"] = None if kernels is None else len(kernels)
        ready.append((row, loaded))
    _time(ready, given, rounds, seconds)
    return rows


def _time(ready: Sequence[tuple[Row, Loaded]], given: list[Any], rounds: int, seconds: float) -> None:
    calls = [max(1, round(seconds / max(_seconds(loaded, given, 3), 1e-9))) for _, loaded in ready]
    taken: list[list[float]] = [[] for _ in ready]
    for i in range(rounds):
        for k in range(len(ready)):
            place = (i + k) % len(ready)
            taken[place].append(_seconds(ready[place][1], given, calls[place]))
    for (row, _), times in zip(ready, taken, strict=True):
        low, middle, high = statistics.quantiles([1000 * each for each in times], n=4, method="inclusive")
        row |= {"ms": middle, "low": low, "high": high}


def _seconds(loaded: Loaded, given: list[Any], calls: int) -> float:
    started = time.perf_counter()
    for _ in range(calls):
        loaded.run(given)
    return (time.perf_counter() - started) / calls


def machine() -> dict[str, Any]:
    """What and how warm it is, as far as the system reports it."""
    cpu = next((line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if "model name" in line), "")
    heat = [each for path in Path("/sys/class/thermal").glob("thermal_zone*/temp") for each in _lines(str(path))]
    speed = _lines("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")
    return {
        "system": platform.platform(), "machine": platform.machine(), "cpu": cpu, "cores": os.cpu_count(),
        "python": platform.python_version(), "temperatures": [int(each) / 1000 for each in heat if each.isdigit()],
        "megahertz": int(speed[0]) / 1000 if speed and speed[0].isdigit() else None,
        "date": time.strftime("%Y-%m-%d %H:%M"),
    }  # fmt: skip


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


if __name__ == "__main__":
    main()
