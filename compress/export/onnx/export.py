"""Networks as ONNX files that are what was trained: exported, checked, run, compared.

`transform_to_onnx` and its report; export_onnx.py has the short way.

    report = transform_to_onnx(model, "net.onnx", dummy, quantize_flag=True, mode="qdq", check_inputs=images)
    print(report)
"""

import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from compress.errors import UserError, did_you_mean
from compress.export.latency import Latency, measure_latency, onnx_way
from compress.export.onnx.check import (
    Difference,
    Inputs,
    NotFinite,
    check_file,
    compare_onnx,
    kernel_kinds,
    layers_in_integers,
    node_kinds,
)
from compress.export.onnx.crash_guard import Ended, apart
from compress.export.onnx.nan_origin import blame_of, name_layers, places_of
from compress.export.onnx.qdq import Choices, Deployable, WeightNote, deployable, is_quantized
from compress.export.onnx.session import has_vnni
from compress.io.files import checked, replacing, why
from compress.io.optional import needed, require

CheckInputs = Tensor | Sequence[Tensor | Inputs]
CRASH = (
    "A known cause is a forward that replaces a weight (`layer.weight.data = ...`): compute the weight as a tensor and "
    "call the function (`F.conv2d(x, weight)`) instead"
)
METADATA = "compress-bench"  # the key in the file's metadata


@dataclass(frozen=True)
class ExportSettings:
    """What may be chosen beside the mode.

    Attributes:
        opset: of the file; None is the exporter's own.
        free_axes: of the inputs that may change besides batch, height and width (or the last of three dimensions), such
            as (1,) for the length of sequences (batch, length, features) of an LSTM or of an attention network. The
            network runs the example with another length too; where it fixes the size, the report's `dynamic` says so.
        reduce_range: 7-bit weights in `qdq` mode, for x86 CPUs without VNNI, where 8 x 8 bits can saturate.
        clip_first: grids narrower than 8 bits are clipped in front of QuantizeLinear, as compilers but onnxruntime
            expect it, instead of behind it, where onnxruntime still fuses the layer.
        complete: round to 8 bits, over the range that they have on `check_inputs`, the outputs that training left
            unrounded, so that every layer has an integer kernel; see full_integer.py. Not what was trained any more.
        against: name -> ONNX file that the new one is timed against, such as the float and the dense one.
        threads: for timing.
        description: plain data kept in the file's metadata; `test.py --model FILE.onnx` reads it.
    """

    opset: int | None = None
    free_axes: tuple[int, ...] = ()
    reduce_range: bool = False
    clip_first: bool = False
    complete: bool = False
    against: Mapping[str, Path] = field(default_factory=dict)
    threads: int = 1
    description: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ExportReport:
    """What was written and how far it can be trusted.

    Attributes:
        file: the ONNX file.
        mode: `float`, `clip` or `qdq`.
        bytes: its size.
        opset: its operator set.
        dynamic: the input's dimensions that may change, by name; the others are fixed.
        compared_with: the PyTorch network that `difference` refers to.
        difference: of the file, run with all of onnxruntime's fusions, to that network.
        unfused: the same without fusions: what the file says, word by word; None in `float` and `clip` mode.
        to_quantized: of a `clip` file, to the quantized network; None otherwise.
        real_inputs: whether `check_inputs` were given; else the comparison used noise.
        nodes: operation -> count, in the file.
        kernels: operation -> count, as onnxruntime runs it on this CPU.
        integer_layers: layers with 8-bit weights that onnxruntime runs in integers on this CPU.
        float_layers: those of them that it computes in float all the same.
        weights: one note a quantized layer.
        warnings: what is not as one would expect, each a sentence.
        latency: name -> time in one interleaved run, the new file under `file`; ratios refer to the first of `against`.
        threads: that were timed with; None if nothing was.
    """

    file: str
    mode: str
    bytes: int
    opset: int
    dynamic: dict[str, list[int | str]]
    compared_with: str
    difference: Difference
    unfused: Difference | None
    to_quantized: Difference | None
    real_inputs: bool
    nodes: dict[str, int]
    kernels: dict[str, int]
    integer_layers: list[str]
    float_layers: list[str]
    weights: list[WeightNote]
    warnings: list[str]
    latency: dict[str, Latency]
    threads: int | None

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [
            f"{self.file}: {self.mode}, {self.bytes:,} bytes, opset {self.opset}",
            f"difference to {self.compared_with} on {self.difference.inputs} {self._inputs()}: {self.difference}",
        ]
        if self.to_quantized is not None:
            lines.append(f"distance to the quantized network: {self.to_quantized}")
        lines.append("onnxruntime runs " + ", ".join(f"{count} {kind}" for kind, count in self.kernels.items()))
        if self.mode == "qdq":
            lines.append(integers_text(self.integer_layers, self.float_layers))
        lines += [f"latency of {name} ({self.threads} threads): {each}" for name, each in self.latency.items()]
        return "\n".join(lines + [f"warning: {each}" for each in self.warnings])

    def _inputs(self) -> str:
        return "real inputs" if self.real_inputs else "inputs of noise"


def transform_to_onnx(
    model: nn.Module,
    onnx_file: str | Path,
    dummy_input: Tensor | Inputs,
    quantize_flag: bool,
    mode: Literal["clip", "qdq"] = "clip",
    check_inputs: CheckInputs | None = None,
    settings: ExportSettings | None = None,
) -> ExportReport:
    """Writes a network as an ONNX file, with a free batch size and image size, and proves what was written.

    Args:
        model: any network on any device; left as it was.
        onnx_file: where to write; the folder is made if needed. Nothing is left there if the export fails.
        dummy_input: gives shape and type only; its values are never used.
        quantize_flag: False exports the network in float as it is; True deploys the quantizers.
        mode: of a quantized network. `clip`: weights on their grids, quantized activations become plain clips, a float
            file. `qdq`: weights stored as int8, activations in uint8 by QuantizeLinear / DequantizeLinear.
        check_inputs: real inputs: a batch, or a sequence of inputs (a tuple where the network takes several).
        settings: see `ExportSettings`.

    Returns:
        the report; print it, or `to_dict()`.

    Raises:
        UserError: onnx, onnxscript or onnxruntime is missing; the network holds something ONNX has no operation for;
            the network is quantized and `quantize_flag` is False, or the other way round; the mode is unknown; the file
            fails its check or does not run.
    """
    require("transform_to_onnx", "onnx", "onnxscript", "onnxruntime")
    settings = settings or ExportSettings()
    _check_arguments(model, quantize_flag, mode)
    kind = mode if quantize_flag else "float"
    dummies = dummy_input if isinstance(dummy_input, tuple) else (dummy_input,)
    inputs = inputs_to_check(check_inputs, dummies)
    ready = deployable(model, "qdq" if kind == "qdq" else "clip", Choices(settings.reduce_range, settings.clip_first))
    import onnx_ir as ir  # may be missing until `require` has said so

    with _quiet(), tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "exported.onnx"
        what = f"torch's exporter, given {type(model).__name__},"
        try:
            notes = apart(lambda: _exported(ready.model, dummies, settings, raw), what)
        except Ended as e:
            raise UserError(f"{e}; nothing was written. {CRASH}") from e
        exported = ir.load(raw)
        places = places_of(exported)
        name_layers(exported, places)
        if kind == "qdq":
            from compress.export.onnx.passes import improve

            improve(exported)
    if kind == "qdq":
        notes += _completed(exported, inputs, check_inputs is not None) if settings.complete else []
    places = places_of(exported) | places
    _strip(exported)
    exported.metadata_props[METADATA] = json.dumps({**settings.description, "mode": kind})
    file = temporary = Path(onnx_file)
    try:
        with replacing(file) as temporary:
            ir.save(exported, temporary)
            check_file(temporary)
            report = _report(temporary, kind, model, ready, inputs, check_inputs is not None, notes, settings)
    except NotFinite as e:
        raise UserError(f"{e}. {blame_of(exported, e.inputs, places)}; nothing was written") from e
    except UserError as e:
        raise UserError(f"{str(e).replace(str(temporary), str(file))}; nothing was written") from e
    except OSError as e:
        raise UserError(f"{file} could not be written: {why(e)}") from e
    return replace(report, file=str(file))


def integers_text(integers: Sequence[str], floats: Sequence[str]) -> str:
    """`layers in integer kernels: 7 of 8; in float: last_part.0`."""
    text = f"quantized layers in integer kernels: {len(integers)} of {len(integers) + len(floats)}"
    return text + (f"; in float: {', '.join(floats)}" if floats else "")


def _check_arguments(model: nn.Module, quantize_flag: bool, mode: str) -> None:
    if mode not in ("clip", "qdq"):
        raise UserError(f"unknown mode {mode!r} of ONNX export; {did_you_mean(mode, ['clip', 'qdq'])}")
    if quantize_flag and not is_quantized(model):
        raise UserError(
            f"quantize_flag=True, but {type(model).__name__} holds no quantizer; quantize it first (section "
            "`quantizers` of a schedule), or give quantize_flag=False; nothing was written"
        )
    if not quantize_flag and is_quantized(model):
        raise UserError(
            f"quantize_flag=False, but {type(model).__name__} is quantized: a float file is not what was trained. "
            "Give quantize_flag=True with mode='clip' (a float file, activations clipped) or mode='qdq' (integers)"
        )


def _exported(model: nn.Module, dummies: Inputs, settings: ExportSettings, file: Path) -> list[str]:
    """Writes the exporter's file; its notes. Sizes are tried free, then free where the network allows it."""
    examples = tuple(example_of(each) for each in dummies)
    named = tuple(free_sizes(each, index, settings.free_axes) for index, each in enumerate(examples))
    notes = replaced_weights(model, examples)
    try:
        program = _trace(model, examples, named, settings.opset)
    except Exception:  # the exporter's errors share no base class; the second try tells what is wrong
        automatic = tuple({axis: torch.export.Dim.AUTO for axis in each} for each in named)
        try:
            program = _trace(model, examples, automatic, settings.opset)
        except Exception as e:
            raise UserError(_reason(model, e)) from e
        notes.append("the network fixes some of its input's sizes; `dynamic` says which may change")
    program.save(str(file), external_data=False)
    return notes


@torch.no_grad()
def replaced_weights(model: nn.Module, examples: Inputs) -> list[str]:
    """Runs a network once; says which of its weights that has replaced: the file holds those of this pass."""
    before = {name: parameter.data_ptr() for name, parameter in model.named_parameters()}
    try:
        model(*examples)
    except Exception:  # whatever it raises, the exporter says better
        return []
    names = [name for name, parameter in model.named_parameters() if parameter.data_ptr() != before[name]]
    if not names:
        return []
    return [
        f"forward replaces {', '.join(names[:3])}{' ...' if len(names) > 3 else ''} through `.data`: the file holds "
        "what one pass in eval mode has made of it"
    ]


def _trace(model: nn.Module, examples: Inputs, dynamic: Any, opset: int | None) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.onnx.export(
            model, examples, dynamo=True, opset_version=opset, dynamic_shapes=dynamic, verbose=False
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's own log lines, which speak of its passes, are left out."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnx_ir", "onnxscript")]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)


def _strip(model: Any) -> None:
    """Drops the exporter's notes on each node (stack traces with paths of this machine), half of a small file."""
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    for value in [*model.graph.inputs, *model.graph.initializers.values()]:
        value.metadata_props.clear()
    model.graph.metadata_props.clear()


def _completed(model: Any, inputs: list[Inputs], real: bool) -> list[str]:
    from compress.export.onnx.full_integer import complete  # as above

    if not real:
        raise UserError("ExportSettings(complete=True) calibrates on real inputs; give check_inputs")
    with tempfile.TemporaryDirectory() as folder:
        added = complete(model, inputs, Path(folder))
    return [f"{len(added)} outputs are rounded that were not rounded in training (complete=True)"] if added else []


def _reason(model: nn.Module, error: Exception) -> str:
    """The first of the chained errors that says something, which is the innermost."""
    causes: list[BaseException] = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    lines = [line for line in str(causes[-1]).strip().splitlines() if line.strip()]
    text = " ".join(lines[:3])[:400] if lines else type(causes[-1]).__name__
    return f"{type(model).__name__} cannot be exported to ONNX: {text}; nothing was written"


def example_of(dummy: Tensor) -> Tensor:
    """Zeros of a dummy's shape and type; a batch of 1 becomes 2, because the exporter takes a size of 1 for fixed."""
    shape = list(dummy.shape)
    if shape and shape[0] == 1:
        shape[0] = 2
    return torch.zeros(shape, dtype=dummy.dtype)


def free_sizes(example: Tensor, index: int, more: Sequence[int] = ()) -> dict[int, str]:
    """Names of the sizes that may change: batch, of images height and width, and `more` axes."""
    names = {0: "batch"} if example.dim() else {}
    spatial = {3: ["length"], 4: ["height", "width"], 5: ["depth", "height", "width"]}.get(example.dim(), [])
    suffix = f"_{index}" if index else ""
    for axis, name in enumerate(spatial, start=2):
        names[axis] = f"{name}{suffix}"
    for axis in more:
        if axis < example.dim():
            names.setdefault(axis, f"axis{axis}{suffix}")
    if more and example.dim() == 3:  # the last one is the features'
        names = {axis: name for axis, name in names.items() if axis < 2 or axis in more}
    return names


def inputs_to_check(check_inputs: CheckInputs | None, dummies: Inputs) -> list[Inputs]:
    """What the exported file is compared on: the inputs given, or noise of the dummy inputs' shapes and types."""
    if check_inputs is None:
        source = torch.Generator().manual_seed(0)
        return [tuple(_noise(each, source) for each in dummies)]
    if isinstance(check_inputs, Tensor):
        return [(check_inputs,)]
    found = [each if isinstance(each, tuple) else (each,) for each in check_inputs]
    if not found:
        raise UserError("check_inputs is empty; give real inputs, or None to compare on noise")
    return found


def _noise(dummy: Tensor, source: torch.Generator) -> Tensor:
    if dummy.dtype.is_floating_point:
        return torch.rand(dummy.shape, generator=source).to(dummy.dtype)
    return torch.randint(0, 2, dummy.shape, generator=source).to(dummy.dtype)


def _report(
    file: Path,
    kind: str,
    model: nn.Module,
    ready: Deployable,
    inputs: list[Inputs],
    real: bool,
    notes: list[str],
    settings: ExportSettings,
) -> ExportReport:
    reference = ready.model if kind == "clip" else model
    opset, dynamic = _facts(file)
    kernels = kernel_kinds(file)
    integers, floats = layers_in_integers(file) if kind == "qdq" else ([], [])
    latency = _latency(file, inputs[0], settings) if settings.against else {}
    difference = compare_onnx(file, reference, inputs)
    _check_free(file, reference, inputs[0], settings.free_axes)
    unfused = compare_onnx(file, reference, inputs, fused=False) if kind == "qdq" else None
    found = _kernel_warnings(kind, kernels, settings.reduce_range) + fusion_warnings(difference, unfused)
    return ExportReport(
        file=str(file),
        mode=kind,
        bytes=file.stat().st_size,
        opset=opset,
        dynamic=dynamic,
        compared_with="the clip-only network" if kind == "clip" else "the network",
        difference=difference,
        unfused=unfused,
        to_quantized=compare_onnx(file, model, inputs) if kind == "clip" else None,
        real_inputs=real,
        nodes=node_kinds(file),
        kernels=kernels,
        integer_layers=integers,
        float_layers=floats,
        weights=ready.weights,
        warnings=notes + ready.warnings + found,
        latency=latency,
        threads=settings.threads if latency else None,
    )


def _check_free(file: Path, reference: nn.Module, inputs: Inputs, axes: Sequence[int]) -> None:
    """Raises UserError where the file fails on another size of the axes that were asked to be free."""
    if not axes:
        return
    absent = [axis for axis in axes if all(axis >= x.dim() for x in inputs)]
    if absent:
        shapes = ", ".join(str(tuple(x.shape)) for x in inputs)
        raise UserError(f"free_axes={tuple(axes)}: no input has axis {absent[0]} (counted from 0); they are {shapes}")
    other = inputs
    for axis in axes:
        other = tuple(torch.cat([x, x.narrow(axis, 0, 1)], axis) if axis < x.dim() else x for x in other)
    try:
        with torch.no_grad():
            reference(*other)
    except Exception as e:  # the network's own, of any kind
        raise UserError(
            f"free_axes={tuple(axes)}: the network itself does not run on another size of them, "
            f"{', '.join(str(tuple(x.shape)) for x in other)}: {next(iter(str(e).splitlines()), type(e).__name__)}. "
            "Leave out the axes that it fixes, such as channels and features"
        ) from e
    try:
        compare_onnx(file, reference, [other])
    except UserError as e:
        raise UserError(
            f"free_axes={tuple(axes)}: the file does not run on another size of them; the exporter has fixed it inside "
            f"(it does behind a recurrent layer). Export without free_axes, or the network's parts one by one: {e}"
        ) from e


def _kernel_warnings(kind: str, kernels: Mapping[str, int], reduce_range: bool) -> list[str]:
    if kind != "qdq":
        return []
    found = []
    floats = sum(kernels.get(name, 0) for name in ("Conv", "FusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul"))
    if floats:
        found.append(
            f"onnxruntime computes {floats} layers in float: those that are not quantized, and those whose output "
            "is not quantized before it is used (the last layer, or one in front of an addition)"
        )
    if has_vnni() is False and not reduce_range:
        found.append(
            "this CPU has no VNNI: onnxruntime's uint8 x int8 kernels can saturate on it, so the file may give other "
            "results here than compared above (without saturation). `test.py --reduce-range` "
            "(ExportSettings(reduce_range=True)) stores 7-bit weights, which cannot saturate; so does training with "
            "7-bit weights"
        )
    return found


def fusion_warnings(difference: Difference, unfused: Difference | None) -> list[str]:
    """What to say where onnxruntime's fusions, not the file, put the outputs far off: a mean of 1 % of the largest."""
    if unfused is None or difference.mean <= max(0.01 * difference.largest, 10 * unfused.mean):
        return []
    return [
        f"the file as it is written is off by {unfused.mean:.3g} in the mean, but onnxruntime's fusions make "
        f"{difference.mean:.3g} of it ({100 * difference.mean / difference.largest:.2g} % of the largest value): they "
        "round each bias to multiples of input scale x weight scale, coarse ones where both have few bits. Judge by "
        "the metric through the file; activations of 8 bits make it less"
    ]


def _facts(file: Path) -> tuple[int, dict[str, list[int | str]]]:
    """Opset, and the shape of each input: a number is fixed, a name may change."""
    model = needed("onnx", "reading an ONNX file").load(checked(file), load_external_data=False)
    opset = next(each.version for each in model.opset_import if each.domain in ("", "ai.onnx"))
    shapes = {
        each.name: [size.dim_param or size.dim_value for size in each.type.tensor_type.shape.dim]
        for each in model.graph.input
    }
    return opset, shapes


def _latency(file: Path, inputs: Inputs, settings: ExportSettings) -> dict[str, Latency]:
    files = {**settings.against, "file": file}
    return measure_latency({name: onnx_way(each, inputs, settings.threads) for name, each in files.items()})
