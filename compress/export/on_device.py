"""Measures a bundle's files where it lies: parity with the expected outputs, time in turns, the machine; no torch.

A bundle holds this file as `measure.py`; it needs numpy and the runtimes that are to be measured.

    python measure.py                       # all runtimes of the bundle that are installed here; writes device.json
    python measure.py onnxruntime --threads 2 --rounds 15
    python measure.py --out /tmp/device.json            # where this folder cannot be written
"""

import argparse
import json
import math
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

try:
    import numpy as np
except ImportError:
    print("measure.py requires numpy, not installed: pip install numpy; nothing was measured", file=sys.stderr)
    raise SystemExit(2) from None

from compress.export.layer_times import sweep_times
from compress.export.runtimes.base import Loaded, milliseconds_text, wrong_of
from compress.export.runtimes.table import RUNTIMES

MANIFEST, RESULT, INPUTS, EXPECTED = "manifest.json", "device.json", "inputs.npz", "expected.npz"
LAYER_TABLE = "layer_table"
MEASURED = ("ms", "low", "high", "ratio", "ratio_low", "ratio_high", "max", "mean", "largest", "integer")
LIMIT = 300.0  # seconds of loading and running a file once
CODE = Path(sys.modules[Loaded.__module__].__file__ or "").resolve().parents[3]
TRIAL = """
import sys
import numpy
sys.path.insert(0, sys.argv[1])
from compress.export.runtimes.table import RUNTIMES
name, file, precision, threads = sys.argv[2:6]
inputs = numpy.load(sys.argv[6])
given = [inputs[each] for each in sorted(inputs.files)]
RUNTIMES[name].load(file, precision, int(threads), [x.shape for x in given]).run(given)
"""
Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints a line a file, writes device.json beside this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="runtimes; all of the bundle by default")
    parser.add_argument("--threads", type=_at_least(1), default=1)
    parser.add_argument("--rounds", type=_at_least(2), default=15)
    parser.add_argument("--seconds", type=float, default=0.05, help="least time of a turn")
    parser.add_argument("--no-layers", action="store_true", help="leave out the layer table of a latency model")
    parser.add_argument("--out", type=Path, help="file to write; device.json in this folder by default")
    options = parser.parse_args(arguments)
    folder = Path(__file__).resolve().parent
    out = options.out or folder / RESULT
    manifest = _manifest(folder)
    known = sorted({each["runtime"] for each in manifest["files"]})
    unknown = [name for name in options.names if name not in known]
    if unknown:
        refuse(f"this bundle has no files for {', '.join(unknown)}, but for {', '.join(known)}; nothing was measured")
    _check_writable(out)
    chosen = [each for each in manifest["files"] if not options.names or each["runtime"] in options.names]
    _check_copied(folder, [each["file"] for each in chosen])
    rows = measured(folder, chosen, options.threads, options.rounds, options.seconds)
    how = {"threads": options.threads, "rounds": options.rounds, "seconds": options.seconds, "names": options.names}
    result = {"run": manifest["run"], "machine": machine(), "how": how, "rows": rows}
    if LAYER_TABLE in manifest and not options.no_layers:
        result[LAYER_TABLE] = layers_measured(folder, manifest[LAYER_TABLE], options.threads)
    out.write_text(json.dumps(result, indent=1))
    for row in rows:
        print(line_of(row))
    if error := result.get(LAYER_TABLE, {}).get("error"):
        print(f"layers: {error}")
    print(f"written: {out}")
    if all(row["error"] for row in rows):
        refuse("none of the files runs here")


def refuse(text: str) -> NoReturn:
    """Ends with a sentence and exit code 2, as the project's own commands do."""
    print(text, file=sys.stderr)
    raise SystemExit(2)


def line_of(row: Mapping[str, Any]) -> str:
    """A file's measurement in words."""
    precision = f"int8, rest {row['precision']}" if row["quantized"] else row["precision"]
    name = f"{row['runtime']}, {row['network']}, {precision}"
    if row["error"]:
        return f"{name}: not measured: {row['error']}"
    ratio = "" if row["ratio"] is None else f", {row['ratio']:.2f}x the dense network's time there"
    layers = f", {row['integer']} of {len(row['layers'])} layers in integers" if row["integer"] is not None else ""
    if row.get("wrong"):
        return f"{name}: {row['wrong']}"
    where = f"off by {row['max']:.2g} at most (values up to {row['largest']:.3g})"
    middle, low, high = (milliseconds_text(row[key]) for key in ("ms", "low", "high"))
    return f"{name}: {middle} ms [{low}, {high}]{ratio}; {where}{layers * row['quantized']}"


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"given {text}; a whole number, {least} or more")
        return int(text)

    return number


def _manifest(folder: Path) -> dict[str, Any]:
    missing = [name for name in (MANIFEST, INPUTS, EXPECTED) if not (folder / name).is_file()]
    if missing:
        refuse(f"{folder} lacks {', '.join(missing)}; copy the whole folder of the bundle; nothing was measured")
    try:
        return dict(json.loads((folder / MANIFEST).read_text()))
    except ValueError as e:
        refuse(f"{folder / MANIFEST} is damaged ({e}); copy the bundle again; nothing was measured")


def _check_copied(folder: Path, files: Sequence[str]) -> None:
    absent = [each for each in dict.fromkeys(files) if not (folder / each).exists()]
    if absent:
        refuse(f"{folder} lacks {', '.join(absent)}; copy the whole folder of the bundle; nothing was measured")


def _check_writable(out: Path) -> None:
    try:
        with out.open("a"):
            pass
    except OSError as e:
        refuse(f"{out} cannot be written ({e.strerror}); name another file by --out; nothing was measured")


def measured(folder: Path, files: Sequence[Mapping[str, Any]], threads: int, rounds: int, seconds: float) -> list[Row]:
    """One row a file: difference to the expected outputs, time, layers in integers; `error` where it does not run."""
    inputs, expected = np.load(folder / INPUTS), np.load(folder / EXPECTED)
    given = [inputs[name] for name in sorted(inputs.files)]
    rows: list[Row] = []
    ready: list[tuple[Row, Loaded]] = []
    for each in files:
        row: Row = {**each, "version": RUNTIMES[each["runtime"]].version(), "error": None}
        row |= dict.fromkeys(
            ("ms", "low", "high", "ratio", "ratio_low", "ratio_high", "max", "mean", "largest", "integer")
        )
        row["wrong"] = ""
        rows.append(row)
        row["error"] = RUNTIMES[each["runtime"]].runs_not_here() or _crash_of(folder, each, threads) or None
        if row["error"]:
            continue
        try:
            loaded = RUNTIMES[each["runtime"]].load(
                str(folder / each["file"]), each["precision"], threads, [x.shape for x in given]
            )
            found = loaded.run(given)
            kernels = loaded.kernels(each["layers"])
            wanted = [expected[name] for name in sorted(expected.files) if name.startswith(f"{each['network']}/")]
            row |= _difference(wanted, found)
            row["wrong"] = wrong_of(row)
        except Exception as e:  # a runtime's errors share no base class
            row["error"] = " ".join(str(e).split())[:300] or type(e).__name__
            continue
        row["integer"] = None if kernels is None else len(kernels)
        ready.append((row, loaded))
    _time(ready, given, rounds, seconds, next((each["network"] for each in files), ""))
    return rows


def _crash_of(folder: Path, file: Mapping[str, Any], threads: int) -> str:
    """How a process ends that loads a file and runs it once; empty if it does not crash or hang.

    What is merely refused is said by the process that measures.
    """
    command = [sys.executable, "-c", TRIAL, str(CODE), file["runtime"], str(folder / file["file"])]
    command += [file["precision"], str(threads), str(folder / INPUTS)]
    try:
        code = subprocess.run(command, capture_output=True, timeout=LIMIT, check=False).returncode
    except subprocess.TimeoutExpired:
        return f"{file['runtime']} did not load and run it within {LIMIT:g} s"
    if 0 <= code < 256:
        return ""
    how = f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"code {code:#x}"  # of Windows
    return f"{file['runtime']} crashes when it loads or runs it, with {how}"


def layers_measured(folder: Path, table: Mapping[str, Any], threads: int) -> dict[str, Any]:
    """The layer table with the milliseconds of each layer and of each whole file; `error` where it does not run."""
    runtime = RUNTIMES[table["runtime"]]
    found = {**table, "version": runtime.version(), "threads": threads, "error": runtime.runs_not_here() or None}
    if found["error"]:
        return found
    inputs = np.load(folder / INPUTS)
    given = [inputs[name] for name in sorted(inputs.files)]
    try:
        found["sweeps"] = []
        for i, each in enumerate(table["sweeps"], 1):
            print(f"layers: {i} of {len(table['sweeps'])}", flush=True)
            files = [folder / name for name in each["files"]]
            found["sweeps"].append({**each, "ms": sweep_times(files, each["slowest"], threads, table["runtime"])})
        print(f"layers: {len(table['whole'])} whole files", flush=True)
        rows: list[Row] = [{"runtime": "", "precision": "", "network": str(i)} for i in range(len(table["whole"]))]
        precision, shapes = runtime.precisions(False)[0], [x.shape for x in given]
        loaded = [runtime.load(str(folder / each["file"]), precision, threads, shapes) for each in table["whole"]]
        _time(list(zip(rows, loaded, strict=True)), given, 15, 0.05, "0")
        times = [rows[0]["ms"] * row["ratio"] for row in rows]  # by ratios, which a busy moment leaves alone
        found["whole"] = [{**each, "ms": ms} for each, ms in zip(table["whole"], times, strict=True)]
    except Exception as e:  # a runtime's errors share no base class
        found["error"] = " ".join(str(e).split())[:300] or type(e).__name__
    return found


def _difference(wanted: Sequence[Any], found: Sequence[Any]) -> dict[str, float]:
    """The largest and the mean one, and the largest value, of the output that is off by the largest share of it."""
    if [each.shape for each in wanted] != [np.shape(each) for each in found]:
        raise ValueError(f"outputs of shapes {[np.shape(each) for each in found]}, not {[x.shape for x in wanted]}")
    pairs = [(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in zip(wanted, found, strict=True)]
    pairs = [each for each in pairs if each[0].size]
    rows = [
        {"max": float(np.abs(a - b).max()), "mean": float(np.abs(a - b).mean()), "largest": float(np.abs(a).max())}
        for a, b in pairs
    ]
    least = 1e-6 * max((each["largest"] for each in rows), default=0.0)
    none = {"max": 0.0, "mean": 0.0, "largest": 0.0}

    def share(row: dict[str, float]) -> float:
        return math.inf if math.isnan(row["mean"]) else row["mean"] / (max(row["largest"], least) or 1)

    return max(rows, key=share, default=none)


def _time(ready: Sequence[tuple[Row, Loaded]], given: list[Any], rounds: int, seconds: float, network: str) -> None:
    """Fills in times, and their ratio to those of `network` in the same runtime and precision."""
    calls = [max(1, round(seconds / max(_seconds(loaded, given, 3), 1e-9))) for _, loaded in ready]
    taken: list[list[float]] = [[] for _ in ready]
    for i in range(rounds):
        for k in range(len(ready)):
            place = (i + k) % len(ready)
            taken[place].append(_seconds(ready[place][1], given, calls[place]))
    for (row, _), times in zip(ready, taken, strict=True):
        low, middle, high = statistics.quantiles([1000 * each for each in times], n=4, method="inclusive")
        row |= {"ms": middle, "low": low, "high": high}
    pairs = [(row, times) for (row, _), times in zip(ready, taken, strict=True) if not row.get("wrong")]
    first = {(row["runtime"], row["precision"]): times for row, times in pairs if row["network"] == network}
    for row, times in pairs:
        dense = first.get((row["runtime"], row["precision"]))
        if dense:
            ratios = [a / b for a, b in zip(times, dense, strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
            row |= {"ratio": middle, "ratio_low": low, "ratio_high": high}


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
        "name": platform.node(), "system": platform.platform(), "machine": platform.machine(), "cpu": cpu,
        "cores": os.cpu_count(), "python": platform.python_version(),
        "temperatures": [int(each) / 1000 for each in heat if each.isdigit()],
        "megahertz": int(speed[0]) / 1000 if speed and speed[0].isdigit() else None,
        "date": time.strftime("%Y-%m-%d %H:%M"),
    }  # fmt: skip


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("stopped; nothing was written")
