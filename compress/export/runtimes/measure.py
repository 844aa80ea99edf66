"""Networks in every runtime, side by side: parity, quality, layers in integers, and time, all in turns.

    table = measure_runtimes({"dense": dense, "thin": model}, images, names=["onnxruntime", "openvino"])
    print(table)

Each runtime has a process of its own (client.py), with as many threads as the others; turns are taken across them.
What fails is a row with `error`, and the other rows are still measured.
"""

import logging
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from compress.arguments.checked import checks_arguments
from compress.errors import UserError, did_you_mean, shown
from compress.export.latency import Turn, Way, take_turns
from compress.export.machine_load import OthersLoad
from compress.export.onnx.check import Inputs, difference, torch_outputs
from compress.export.onnx.export import inputs_to_check
from compress.export.onnx.export_report import ExportSettings
from compress.export.runtimes.base import Converted, Source, wrong_of
from compress.export.runtimes.client import (
    LIMIT,
    OtherSizes,
    RuntimeFailure,
    RuntimeModel,
    RuntimeProcess,
    RuntimeTurn,
)
from compress.export.runtimes.sources import words_of_failure, write_source
from compress.export.runtimes.table import RUNTIMES, installed
from compress.export.runtimes.text import table_text, warnings_of
from compress.export.timing import Timing

logger = logging.getLogger("compress")
ALL, REFERENCE = "all", "onnxruntime"
Quality = Callable[[nn.Module], Mapping[str, float]]
Cropped = Callable[[Sequence[int]], tuple[str, Quality] | None]


@dataclass(frozen=True)
class RuntimeTable:
    """What was measured.

    Attributes:
        rows: one a runtime, network and precision: `runtime`, `version`, `network`, `quantized`, `precision`, `bytes`,
            `max`, `mean` and `largest` (of the worst output, to PyTorch), `wrong` (in words, where that is more
            than rounding: such a row has no ratios and is never named the fastest), `quality` (metric -> value), `ms`,
            `low`, `high`, `ratio` (to the first network in the same runtime and precision of floats),
            `ratio_onnxruntime` (to the first network in onnxruntime), `integer` and `layers` (how many 8-bit layers run
            in integers, and are there), `float_layers` (names of those that do not), `notes`, `quality_on` (what the
            metrics were measured on, where that is not what the others were), `error` (why there is nothing more).
        missing: `runtime` and `reason` of those that cannot be used here.
        how: `rounds`, `seconds`, `threads`, `others_cores`, `input_shapes`.
    """

    rows: list[dict[str, Any]]
    missing: list[dict[str, str]] = field(default_factory=list)
    how: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return "\n".join([table_text(self.to_dict()), *warnings_of(self.to_dict())])

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)


def chosen_runtimes(names: Sequence[str] | None) -> list[str]:
    """The runtimes that are meant: those installed by default, `all` for every one that is known.

    Raises:
        UserError: one is unknown.
    """
    if not names:
        return installed()
    if tuple(names) == (ALL,):
        return list(RUNTIMES)
    for name in names:
        if name not in RUNTIMES:
            raise UserError(f"unknown runtime {name!r}; {did_you_mean(name, [*RUNTIMES, ALL])}; nothing was measured")
    return list(dict.fromkeys(names))


@checks_arguments
def measure_runtimes(
    networks: nn.Module | Mapping[str, nn.Module],
    example_inputs: Tensor | Inputs,
    names: Sequence[str] | None = None,
    *,
    check_inputs: Sequence[Inputs] | None = None,
    quality: Mapping[str, Quality] | None = None,
    timing: Timing | None = None,
    limit: float = LIMIT,
    settings: ExportSettings | None = None,
    narrow: Mapping[str, tuple[str, ExportSettings]] | None = None,
    cropped: Mapping[str, Cropped] | None = None,
) -> RuntimeTable:
    """Converts networks for runtimes, runs them there, compares with PyTorch, and times all of it in turns.

    Args:
        networks: name -> network, float or quantized, left as they are; times are compared with the first, float one.
        example_inputs: of one forward pass, which is timed.
        names: of runtimes; None takes those that are installed.
        check_inputs: real inputs for parity; None compares on noise.
        quality: name of a network -> what evaluates a module in its place.
        timing: how time is taken; None is the default.
        limit: seconds that a conversion, or any other answer of a runtime, may take.
        settings: of ONNX files.
        narrow: further rows: label -> one of the networks, and settings of its ONNX file with a narrow `format`, for
            the runtimes that read ONNX files.
        cropped: name of a network -> shape of the only input that a file takes -> what evaluates a module on data cut
            to it, and what that is in words (None: no data are large enough); for files that do not take the data of
            `quality`.

    Raises:
        UserError: a runtime is unknown, or a network is none.
    """
    chosen, given = chosen_runtimes(names), networks if isinstance(networks, Mapping) else {"network": networks}
    if strange := [each for each in given.values() if not isinstance(each, nn.Module)]:
        raise UserError(f"networks should be a network, or a mapping of names to networks; given {shown(strange[0])}")
    example = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    reasons = {name: RUNTIMES[name].available() for name in chosen}
    usable = [name for name in chosen if not reasons[name]]
    missing = [{"runtime": name, "reason": reason} for name, reason in reasons.items() if reason]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        inputs = inputs_to_check(check_inputs, example)
        kinds = {RUNTIMES[name].reads for name in usable}
        sources = [
            write_source(name, model, [example, *inputs], Path(folder) / str(i), kinds, settings)
            for i, (name, model) in enumerate(given.items())
        ]
        for label, (name, own) in (narrow or {}).items():
            target = Path(folder) / str(len(sources))
            sources.append(write_source(label, given[name], [example, *inputs], target, kinds, own))
        given = {**given, **{label: given[name] for label, (name, _) in (narrow or {}).items()}}
        candidates = []
        for name in usable:
            began = time.monotonic()
            candidates += _candidates(stack.enter_context(RuntimeProcess(name, limit)), sources, Path(folder))
            logger.info("%s: converted in %.0f s", name, time.monotonic() - began)
        for each in candidates:
            with each.failing():
                name = each.source.name
                each.load(given, example, inputs, timing or Timing())
                if name not in (narrow or {}) and not (settings and settings.format):  # these round far more
                    each.row["wrong"] = wrong_of(each.row)
                each.evaluate((quality or {}).get(name), (cropped or {}).get(name), given[name])
        how = _time(candidates, sources[0].name, timing or Timing())
    how["input_shapes"] = [list(each.shape) for each in example]
    return RuntimeTable([each.row for each in candidates], missing, how)


class _Failing:
    """Puts a failure into a row and continues."""

    def __init__(self, row: dict[str, Any]) -> None:
        self._row = row

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, Exception):
            return False
        self._row["error"] = words_of_failure(error)
        return True


@dataclass
class _Candidate:
    """A network in a runtime at a precision."""

    process: RuntimeProcess
    source: Source
    precision: str
    converted: Converted | None
    row: dict[str, Any]

    @property
    def key(self) -> str:
        return f"{self.process.name}/{self.source.name}/{self.precision}"

    @property
    def fixed(self) -> bool:
        return RUNTIMES[self.process.name].fixed_sizes

    @property
    def works(self) -> bool:
        return self.row["error"] is None

    def failing(self) -> _Failing:
        return _Failing(self.row)

    def load(self, given: Mapping[str, nn.Module], example: Inputs, inputs: Sequence[Inputs], timing: Timing) -> None:
        """Loads the file for timing, and for any size; compares; counts layers."""
        if self.converted is None:
            return
        arrays = [each.detach().cpu().numpy() for each in example]
        for key, fixed in [(self.key, True), *([] if self.fixed else [(self._free, False)])]:
            self.process.load(key, self.converted.file, self.precision, timing.threads, arrays, fixed)
        fitting = [each for each in inputs if not self.fixed or _shapes(each) == _shapes(example)] or [example]
        model = given[self.source.name]
        runner = RuntimeModel(self.process, self.key if self.fixed else self._free)
        found = difference(torch_outputs(model, fitting), [runner.outputs(each) for each in fitting]).worst
        self.row |= {"max": found.max, "mean": found.mean, "largest": found.largest}
        integers = self.process.call("kernels", self.key, self.source.layers)
        if integers is not None:
            left = [name for name in self.source.layers if name not in integers]
            self.row |= {"integer": len(integers), "float_layers": left}

    @property
    def _free(self) -> str:
        return f"{self.key}/any size"

    def evaluate(self, quality: Quality | None, cropped: Cropped | None, network: nn.Module) -> None:
        """The task's metrics through the file; where it does not take the data, on data cut to its size."""
        if self.works and quality is not None and self.converted is not None:
            shapes = self.source.shapes if self.fixed else None
            model = RuntimeModel(self.process, self.key if self.fixed else self._free, shapes)
            try:
                self.row["quality"] = dict(quality(model))
            except OtherSizes as e:
                found = None if cropped is None else cropped(self.source.shapes[0])
                note = str(e) if found is None else self._on_crops(model, network, *found)
                self.row["notes"] = [*self.row["notes"], note]

    def _on_crops(self, model: nn.Module, network: nn.Module, where: str, quality: Quality) -> str:
        """Puts the metrics into the row; PyTorch's own, on the same data, in words."""
        self.row |= {"quality": dict(quality(model)), "quality_on": where}
        own = ", ".join(f"{name} {value:.4f}" for name, value in quality(network).items())
        return f"the file takes inputs of one size, so it was evaluated on {where}; PyTorch's there: {own}"


def _shapes(inputs: Inputs) -> list[tuple[int, ...]]:
    return [tuple(each.shape) for each in inputs]


def _candidates(process: RuntimeProcess, sources: Sequence[Source], folder: Path) -> list[_Candidate]:
    """Every network in every precision of a runtime, converted."""
    found = []
    for i, source in enumerate(sources):
        row = _empty(process.name, source)
        try:
            target = folder / process.name / str(i)
            target.mkdir(parents=True)
            converted = _converted(process, source, target)
            precisions = process.call("precisions", source.quantized)
        except Exception as e:  # of any kind: the other rows are still measured
            row["error"] = words_of_failure(e)
            found.append(_Candidate(process, source, "", None, row))
            continue
        for precision in precisions:
            own = {**row, "precision": precision, "bytes": converted.bytes, "notes": list(converted.notes)}
            found.append(_Candidate(process, source, precision, converted, own))
    return found


def _converted(process: RuntimeProcess, source: Source, folder: Path) -> Converted:
    fault = dict(source.faults).get(RUNTIMES[process.name].reads)
    if fault is not None:
        raise RuntimeFailure(fault)
    converted: Converted = process.call("convert", source, str(folder))
    return converted


def _empty(runtime: str, source: Source) -> dict[str, Any]:
    """A row without figures."""
    numbers = ("precision", "bytes", "max", "mean", "largest", "ms", "low", "high", "ratio", "ratio_onnxruntime")
    return {
        "runtime": runtime, "version": RUNTIMES[runtime].version(), "network": source.name,
        "quantized": source.quantized, **dict.fromkeys(numbers), "quality": {}, "quality_on": "", "integer": None,
        "layers": len(source.layers), "float_layers": [], "notes": [], "wrong": "", "error": None,
    }  # fmt: skip


class _Remote(Turn):
    def __init__(self, candidate: _Candidate, processor: bool) -> None:
        self._candidate, self._turn = candidate, RuntimeTurn(candidate.process, candidate.key, processor)

    def seconds(self, calls: int) -> float:
        if not self._candidate.works:
            return float("nan")
        with self._candidate.failing():
            return self._turn.seconds(calls)
        return float("nan")


def _time(candidates: Iterable[_Candidate], first: str, timing: Timing) -> dict[str, Any]:
    """Fills in times of those that work; how they were taken."""
    ready = {each.key: each for each in candidates if each.works and each.converted is not None}
    if not ready:
        return {}
    ways: dict[str, Way] = {key: _Remote(each, timing.processor) for key, each in ready.items()}
    dense = {each.key: f"{each.process.name}/{first}/{each.precision}" for each in ready.values()}
    against = {key: name if name in ready else key for key, name in dense.items()}
    with OthersLoad() as others:
        taken = take_turns(ways, timing.rounds, timing.seconds, against, timing.spread)
    right = [key for key, each in ready.items() if not each.row["wrong"]]  # the time of a wrong result is no gain
    reference = next((key for key in right if key.startswith(f"{REFERENCE}/{first}/")), None)
    for key, each in ready.items():
        if each.works:
            own = taken.latency(key, against[key])
            each.row |= {"ms": own.milliseconds, "low": own.low, "high": own.high}
            if key in right:
                each.row["ratio"] = own.ratio if dense[key] in right else None
                each.row["ratio_onnxruntime"] = taken.latency(key, reference).ratio if reference else None
    rounds = len(next(iter(taken.seconds.values())))
    how = {"rounds": rounds, "seconds": timing.seconds, "threads": timing.threads,
           "processor": timing.processor}  # fmt: skip
    return {**how, "others_cores": others.cores}
