"""A run's network as exported files: written and proved after the evaluation, and evaluated themselves.

`export_run` (results/<run>/export.json and the files beside it), `export_checkpoint`, `evaluate_exported` (`test.py
--model FILE.onnx`), `seen_inputs`.
"""

import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from apputils.runs.kept_records import kept_records, show
from apputils.runs.summary import quality_table
from compress.analysis.measured_words import measured_words
from compress.config.goals import goals_of
from compress.errors import UserError
from compress.export.exported_model import ExportedModel, describing
from compress.export.machine_load import load_text
from compress.export.onnx.crash_guard import Apart, Ended
from compress.export.onnx.export import transform_to_onnx
from compress.export.onnx.export_report import ExportReport, ExportSettings
from compress.export.onnx.other_weights import with_other_weights
from compress.export.onnx.qdq import is_quantized
from compress.export.onnx.session import has_vnni
from compress.export.pt2 import export_pt2
from compress.export.timing import Timed, Timing, threads_text, time_rows, times_table
from compress.io.files import write_json
from engine.application import TestedApplication
from engine.goals.packing import packed_format

logger = logging.getLogger("run")
MOST_INPUTS, LARGEST_BATCH = 3, 4
DENSE, DENSE_FILE = "dense network", "dense.onnx"


@contextmanager
def seen_inputs(model: nn.Module) -> Iterator[list[tuple[Tensor, ...]]]:
    """The first few inputs that a network is given inside the block, on the CPU: real ones, to compare files on."""
    seen: list[tuple[Tensor, ...]] = []

    def keep(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        if len(seen) < MOST_INPUTS and all(isinstance(each, Tensor) for each in inputs):
            with torch.inference_mode(False):  # a copy made in inference mode could not be traced
                seen.append(tuple(each.detach()[:LARGEST_BATCH].cpu().clone() for each in inputs))

    handle = model.register_forward_pre_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()


@dataclass(frozen=True)
class _Export:
    """What all files of one run are made from."""

    tester: TestedApplication
    model: nn.Module
    inputs: list[tuple[Tensor, ...]]
    threads: int

    @property
    def dummies(self) -> tuple[Tensor, ...]:
        return tuple(each.cpu() for each in self.tester.example_inputs())

    def onnx(self, file: Path, mode: str) -> dict[str, Any]:
        """One ONNX file, its report and its quality."""
        report = export_checkpoint(self.tester, self.model, file, mode, self.dummies, self.inputs)
        logger.info("%s", report)
        found = report.to_dict()
        del found["latency"], found["threads"]  # all files are timed together, at the end
        return {**found, "quality": self.quality(file)}

    def quality(self, file: Path) -> dict[str, float]:
        """The task's metrics through the file, as a plain session computes it on this CPU."""
        return self.tester.test(ExportedModel(file, self.threads))

    def dense(self) -> nn.Module:
        """The network that the files are timed against, on the CPU."""
        return self.tester.new_network(self.tester.checkpoint["network"]["arguments"]).eval()

    def latency(self, names: list[str], dense_file: Path) -> dict[str, Any]:
        """Time of the dense network and of this one, in PyTorch, and of their files, all in turns.

        In PyTorch a quantized network rounds on the way, in float: its time there tells nothing about integers.
        """
        device, dense = self.tester.device, self.dense()
        files = [self.tester.results / name for name in names if name.endswith(".onnx")]
        inputs = tuple(each.to(device) for each in self.inputs[0])
        subjects = [Timed(DENSE, dense.to(device), inputs, dense_file)]
        subjects += [Timed(file.name, self.model if file == files[-1] else None, inputs, file) for file in files]
        timing = Timing(threads=self.threads, least=4)
        times, how = time_rows(subjects, timing)
        rows = [{"name": each.name, **row} for each, row in zip(subjects, times, strict=True)]
        shapes = [list(each.shape) for each in inputs]
        note = "(x) is the time over the dense network's, in the same runtime and rounds"
        logger.info("\n%s\n%d rounds in turns, %s, inputs %s; %s; %s", times_table(rows), how["rounds"],
                    threads_text(self.threads), shapes, note, load_text(how["others_cores"]))  # fmt: skip
        return {**how, "rows": rows, "device": str(device), "input_shapes": shapes}


def export_checkpoint(
    tester: TestedApplication,
    model: nn.Module,
    file: Path,
    mode: str,
    dummies: tuple[Tensor, ...],
    inputs: list[tuple[Tensor, ...]],
) -> ExportReport:
    """A checkpoint's network as an ONNX file, the same bytes wherever it is wanted: to be shipped, weighed or timed.

    Args:
        tester: of the checkpoint, which the file describes; its options: the choices for the file.
        model: its network.
        file: to write.
        mode: `float`, `clip` or `qdq`, and in a narrow format `float:float16` or `qdq:int4`.
        dummies: inputs whose shapes are exported for.
        inputs: real ones, to compare on.
    """
    opt = tester.config
    mode, _, narrow = mode.partition(":")
    options: dict[str, Any] = {"free_axes": opt.free_axes or (), "fixed_size": opt.fixed_size, "format": narrow}
    if mode == "qdq":
        options |= {"reduce_range": opt.reduce_range, "complete": opt.complete}
    settings = ExportSettings(description=describing(tester.checkpoint), **options)
    given: Any = "qdq" if mode == "qdq" else "clip"
    return transform_to_onnx(model, file, dummies, mode != "float", given, inputs, settings)


def export_run(
    tester: TestedApplication,
    model: nn.Module,
    inputs: list[tuple[Tensor, ...]],
    quality: dict[str, float],
    meanwhile: Sequence[Callable[[], object]] = (),
) -> dict[str, Any]:
    """Writes the network of a run as ONNX and `.pt2` files into results/<run>/, and their reports as export.json.

    A float network gives network.onnx; a quantized one network_clip.onnx and network_int8.onnx. They are timed against
    the dense network, which has the checkpoint's arguments and is neither pruned nor thinned nor quantized, also where
    only zeros tell them apart: whether zeros make anything faster is what one wants to see.

    Args:
        tester: of the run; its options: threads for timing and evaluating (1 if none are given), choices for integer
            files.
        model: its network.
        inputs: real ones.
        quality: the network's own metrics.
        meanwhile: what this process does while another one writes the files, before anything is timed; only called
            where there are two threads on a CPU to share.

    Returns:
        what export.json holds; with `error` where something cannot be exported, which is said and stops nothing.
    """
    opt = tester.config
    export = _Export(tester, model, inputs, opt.threads or 1)
    result: dict[str, Any] = {"run": tester.folders.name, "vnni": has_vnni(), "quality": quality, "files": {}}
    result["measured_on"] = tester.data_facts()
    with tempfile.TemporaryDirectory() as dense_folder:
        dense_file = Path(dense_folder) / DENSE_FILE
        write = partial(_written, partial(_write_files, export, dense_file))
        result |= _beside(write, meanwhile) if meanwhile and _can_share(tester) else write()
        if "error" not in result:
            seconds, names = result["seconds"], list(result["files"])
            result |= _written(lambda timed: timed.update(latency=export.latency(names, dense_file)))
            result["seconds"] += seconds
    result["seconds"] = round(result["seconds"], 1)
    write_json(tester.results / "export.json", result)
    logger.info("written: %s", ", ".join([str(tester.results / "export.json"), *result["files"]]))
    return result


def _can_share(tester: TestedApplication) -> bool:
    """Whether another process may do a part: of the two threads at least that this one has, on a CPU, one is its."""
    workers = getattr(tester.testing_loader, "num_workers", 0)
    return hasattr(os, "fork") and tester.device.type == "cpu" and torch.get_num_threads() > 1 and not workers


def _beside(write: Callable[[], dict[str, Any]], meanwhile: Sequence[Callable[[], object]]) -> dict[str, Any]:
    """What `write` returns, from a process of its own; what it logs is shown once both are done."""

    def told() -> tuple[dict[str, Any], list[logging.LogRecord]]:
        with kept_records() as records:
            return write(), records

    with Apart(told, "writing the exported files") as other:
        for work in meanwhile:  # with all threads: with fewer, torch adds up in another order
            with suppress(UserError):  # it is raised where it has its turn
                work()
        try:
            written, records = other.result()
        except Ended as e:
            logger.warning("%s; it is done once more in this one", e)
            return write()
    show(records)
    return written


def _written(work: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """What some work puts into a mapping, as far as it comes, with its seconds, and the `error` that ended it."""
    result: dict[str, Any] = {}
    started = time.perf_counter()
    try:
        work(result)
    except UserError as e:
        logger.warning("not exported: %s", e)
        result["error"] = str(e)
    return {**result, "seconds": time.perf_counter() - started}


def _write_files(export: _Export, dense_file: Path, result: dict[str, Any]) -> None:
    tester, folder = export.tester, export.tester.results
    files = result["files"] = {}
    modes = {"network_clip.onnx": "clip", "network_int8.onnx": "qdq"}
    modes = modes if is_quantized(export.model) else {"network.onnx": "float"}
    opt = export.tester.config
    if not is_quantized(export.model) and (opt.reduce_range or opt.complete):
        logger.warning("--reduce-range and --complete change nothing here: the network is not quantized")
    modes = {**_narrow(export, next(reversed(modes.values()))), **modes}  # what is deployed stays the last
    for name, mode in modes.items():
        try:
            files[name] = export.onnx(folder / name, mode)
        except UserError as e:
            if ":" not in mode:
                raise
            logger.warning("not exported in %s: %s", mode.partition(":")[2], e)
            result.setdefault("formats_left_out", {})[name] = str(e)
    description = describing(tester.checkpoint)
    pt2 = export_pt2(export.model, folder / "network.pt2", export.dummies, export.inputs, description, opt.fixed_size)
    logger.info("%s: %s bytes, difference to the network: %s", pt2.file, f"{pt2.bytes:,}", pt2.difference)
    files["network.pt2"] = pt2.to_dict()
    own = folder / "network.onnx" if "network.onnx" in files else None
    _write_dense(export, own, export.dense(), dense_file)


def _write_dense(export: _Export, own: Path | None, dense: nn.Module, file: Path) -> None:
    """The dense network's file: this run's float one with other weights, or another export."""
    real = export.inputs[0]
    if own is None or not with_other_weights(own, export.model, dense, file, real):
        settings = ExportSettings(fixed_size=export.tester.config.fixed_size)
        transform_to_onnx(dense, file, export.dummies, False, check_inputs=[real], settings=settings)


def _narrow(export: _Export, mode: str) -> dict[str, str]:
    """The files in narrow formats that the options or a goal on bytes ask for: name -> mode and format."""
    packed = packed_format(goals_of(export.tester.checkpoint.get("schedule") or {}), export.model)
    formats = dict.fromkeys([*(export.tester.config.formats or ()), *[packed] * bool(packed)])
    return {f"network_{each}.onnx": f"{mode}:{each}" for each in formats}


def evaluate_exported(tester: TestedApplication) -> dict[str, Any]:
    """Measures an exported file by the application's metrics and writes them beside the run's other results."""
    file = tester.file
    started = time.perf_counter()
    model = tester.build_model()
    logger.info("testing %s, exported from run %s", file, tester.folders.name)
    own, (name, trivial) = tester.test(model), tester.baseline()
    summary = {
        "run": tester.folders.name,
        "optform": tester.checkpoint["optform"],
        "file": str(file),
        "bytes": file.stat().st_size,
        "quality": {metric: {name: trivial[metric], "model": own[metric]} for metric in own},
        "measured_on": tester.data_facts(),
        "seconds": round(time.perf_counter() - started, 1),
    }
    path = tester.results / f"exported_{file.stem}{file.suffix.replace('.', '_')}.json"
    write_json(path, summary)
    logger.info("\n%s\nmeasured on %s\n", quality_table(summary["quality"]), measured_words(summary["measured_on"]))
    logger.info("written: %s", path)
    return summary
