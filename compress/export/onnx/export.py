"""Networks as ONNX files that are what was trained: exported, checked, run, compared.

`transform_to_onnx`, and the short way `export_onnx`; export_report.py has the settings and the report.

    report = transform_to_onnx(model, "net.onnx", dummy, quantize_flag=True, mode="qdq", check_inputs=images)
    print(report)
"""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from compress.arguments.checked import checks_arguments
from compress.errors import UserError, did_you_mean
from compress.export.latency import Latency, measure_latency, onnx_way
from compress.export.onnx.check import (
    Comparison,
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
from compress.export.onnx.export_report import ExportReport, ExportSettings
from compress.export.onnx.exporter import prepared_exporter, quiet_exporter, write_exported
from compress.export.onnx.nan_origin import blame_of, name_layers, places_of
from compress.export.onnx.narrow.formats import check_format, narrow
from compress.export.onnx.other_sizes import REMEDY, OneSize, check_free, check_sizes
from compress.export.onnx.qdq import Choices, Deployable, deployable, is_quantized
from compress.export.onnx.session import has_vnni, open_session
from compress.io.files import checked, replacing, why
from compress.io.optional import needed, require
from compress.io.progress import said_when_long

CheckInputs = Tensor | Sequence[Tensor | Inputs]
CRASH = (
    "A known cause is a forward that replaces a weight (`layer.weight.data = ...`): compute the weight as a tensor and "
    "call the function (`F.conv2d(x, weight)`) instead"
)
SLOW = (
    "where padding is computed from the image's size, as TensorFlow's \"same\", it may never end with free sizes: "
    "ExportSettings(fixed_size=True), `test.py --fixed-size`, exports for one size"
)
FORMS = ("float", "clip", "qdq")
METADATA = "compress-bench"  # the key in the file's metadata


@checks_arguments
def export_onnx(
    model: nn.Module,
    onnx_file: str | Path,
    example_inputs: Tensor | Inputs,
    mode: Literal["float", "clip", "qdq"] | None = None,
    settings: ExportSettings | None = None,
) -> ExportReport:
    """Writes a network as an ONNX file, runs the file in onnxruntime and compares it with the network.

    Args:
        model: any network on any device; left as it was.
        onnx_file: where to write; the folder is made if needed. Nothing is left there if the export fails.
        example_inputs: real inputs: a batch, or the tuple of `forward`'s arguments. The comparison runs on them.
        mode: `float`; of a quantized network `qdq` (integers) or `clip` (a float file with clipped activations). None
            chooses `qdq` for a quantized network and `float` for any other.
        settings: see `ExportSettings`.

    Returns:
        the report: size, difference to the network, kernels, warnings.

    Raises:
        MissingPackageError: onnx, onnxscript or onnxruntime is missing.
        UserError: as for `transform_to_onnx`.
    """
    require("export_onnx", "onnx", "onnxscript", "onnxruntime")
    if mode is None:
        mode = "qdq" if is_quantized(model) else "float"
    if mode not in FORMS:
        raise UserError(f"unknown mode {mode!r} of export_onnx; {did_you_mean(mode, FORMS)}")
    quantized = mode != "float"
    checks = [example_inputs] if isinstance(example_inputs, tuple) else example_inputs
    return transform_to_onnx(
        model, onnx_file, example_inputs, quantized, "clip" if mode == "clip" else "qdq", checks, settings
    )


@checks_arguments
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
    if settings.format:
        check_format(settings.format, kind)
    dummies = dummy_input if isinstance(dummy_input, tuple) else (dummy_input,)
    _check_precision(model, dummies)
    inputs = inputs_to_check(check_inputs, dummies)
    ready = deployable(model, "qdq" if kind == "qdq" else "clip", Choices(settings.reduce_range, settings.clip_first))
    real = check_inputs is not None
    exported, places, notes = _exported(type(model).__name__, ready, kind, dummies, inputs, real, settings)
    import onnx_ir as ir  # as in `_exported`

    file = temporary = Path(onnx_file)
    try:
        with replacing(file) as temporary, said_when_long(f"{file}: onnxruntime runs it, beside the network"):
            ir.save(exported, temporary)
            check_file(temporary)
            if settings.format:  # onnxruntime has few kernels for these, and may crash where it has none
                _try_to_open(temporary, settings.format)
            report = _report(temporary, kind, model, ready, inputs, dummies, real, notes, settings)
    except NotFinite as e:
        raise UserError(f"{e}. {blame_of(exported, e.inputs, places)}; nothing was written") from e
    except OneSize as e:
        if settings.fixed_size or settings.free_axes:
            raise UserError(f"{_named(e, temporary, file)}. {REMEDY}; nothing was written") from e
        once_more = replace(settings, fixed_size=True)
        report = transform_to_onnx(model, file, dummy_input, quantize_flag, mode, check_inputs, once_more)
        fixed = f"{_named(e, temporary, file)}. Height and width are fixed in this file (fixed_size); {REMEDY}"
        return replace(report, warnings=[fixed, *report.warnings])
    except UserError as e:
        others = _other_sizes(inputs, dummies)
        raise UserError(f"{_named(e, temporary, file)}{others}; nothing was written") from e
    except OSError as e:
        raise UserError(f"{file} could not be written: {why(e)}") from e
    return replace(report, file=str(file))


def _exported(
    name: str, ready: Deployable, kind: str, dummies: Inputs, inputs: list[Inputs], real: bool, settings: ExportSettings
) -> tuple[Any, dict[str, str], list[str]]:
    """The graph to be written (`onnx_ir.Model`), which module each of its nodes comes from, and notes."""
    import onnx_ir as ir  # may be missing until `require` has said so

    with quiet_exporter(), prepared_exporter(), tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "exported.onnx"
        what = f"torch's exporter, given {name},"
        try:
            free = settings.free_axes, settings.fixed_size, _smaller(inputs[0], dummies)
            advice = "" if settings.fixed_size else SLOW
            notes = apart(lambda: write_exported(ready.model, dummies, raw, settings.opset, *free), what, advice)
        except Ended as e:
            raise UserError(f"{e}; nothing was written. {CRASH}") from e
        exported = ir.load(raw)
        places = places_of(exported)
        name_layers(exported, places)
        if kind == "qdq":
            from compress.export.onnx.rewriting.passes import improve

            notes += improve(exported)
    if kind == "qdq":
        notes += _completed(exported, inputs, real) if settings.complete else []
    places = places_of(exported) | places
    if settings.format:
        notes += narrow(exported, settings.format, kind, inputs, real)
    _strip(exported)
    exported.metadata_props[METADATA] = json.dumps({**settings.description, "mode": kind})
    return exported, places, notes


def _named(error: UserError, temporary: Path, file: Path) -> str:
    return str(error).replace(str(temporary), str(file))


def _smaller(real: Inputs, dummies: Inputs) -> Inputs | None:
    """Real inputs, if a pass on them is no more work than one on the dummies (the child process has no GPU)."""
    sizes = [sum(each.numel() for each in inputs) for inputs in (real, dummies)]
    return tuple(each.detach().cpu() for each in real) if sizes[0] <= sizes[1] else None


def _other_sizes(inputs: list[Inputs], dummies: Inputs) -> str:
    """What a file may fail at where it is run on other sizes than it was exported for."""
    shapes = [tuple(x.shape[1:]) for x in dummies]
    if all([tuple(x.shape[1:]) for x in each] == shapes for each in inputs):
        return ""
    return (
        f". It was exported for {' and '.join(map(str, shapes))}, and may run at that size only: then something inside "
        "the network has fixed it, as a reshape to numbers or adaptive max pooling does"
    )


def _try_to_open(file: Path, form: str) -> None:
    try:
        apart(lambda: bool(open_session(file, threads=1)), f"onnxruntime, given the file in {form},")
    except Ended as e:
        raise UserError(
            f"{e}. onnxruntime 1.32 is known to end so at a float16 product with a transposed tensor, as behind an "
            "LSTM or in attention; format='bfloat16' has the same bytes"
        ) from e


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


def _check_precision(model: nn.Module, dummies: Inputs) -> None:
    """Raises where a network computes in float64: exported weights do not keep it."""
    name = next((name for name, each in model.named_parameters() if each.dtype == torch.float64), None)
    if name is not None or any(each.dtype == torch.float64 for each in dummies):
        what = "its inputs are" if name is None else f"{name} is"
        raise UserError(
            f"{type(model).__name__} cannot be exported to ONNX: {what} float64, and files hold float32; give "
            "model.float() and inputs.float(); nothing was written"
        )


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
    # 0 and 1 are valid as indices of any embedding with two rows, and as masks.
    return torch.randint(0, 2, dummy.shape, generator=source).to(dummy.dtype)


def _report(
    file: Path,
    kind: str,
    model: nn.Module,
    ready: Deployable,
    inputs: list[Inputs],
    dummies: Inputs,
    real: bool,
    notes: list[str],
    settings: ExportSettings,
) -> ExportReport:
    reference = ready.model if kind == "clip" else model
    opset, dynamic = _facts(file)
    kernels = kernel_kinds(file)
    integers, floats = layers_in_integers(file) if kind == "qdq" else ([], [])
    latency = _latency(file, inputs[0], settings) if settings.against else {}
    comparison = Comparison(file, reference)
    difference = comparison.difference(inputs)
    rounded = kind == "qdq" or bool(settings.format)
    check_free(comparison, inputs[0], settings.free_axes)
    unfused = comparison.difference(inputs, fused=False) if rounded else None
    found = _kernel_warnings(kind, floats, settings.reduce_range) + fusion_warnings(difference, unfused)
    found += check_sizes(comparison, inputs[0], dummies, list(dynamic.values()), rounded)
    if settings.opset not in {None, opset}:
        found.append(
            f"opset {settings.opset} was asked for, and the file has {opset}: it cannot be written in that one"
        )
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
        format=settings.format,
    )


def _kernel_warnings(kind: str, floats: Sequence[str], reduce_range: bool) -> list[str]:
    if kind != "qdq":
        return []
    found = []
    if floats:
        found.append(
            f"onnxruntime computes quantized layers in float, as what they give is not rounded before it is used: "
            f"{', '.join(floats)}; --complete (ExportSettings(complete=True)) rounds it"
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
    if unfused is None:
        return []
    pairs = list(zip(difference.parts, unfused.parts, strict=True))
    far = [(index, *each) for index, each in enumerate(pairs) if _is_far(*each)]
    if not far:
        return []
    index, fused, written = max(far, key=lambda each: each[1].mean / (each[1].largest or 1))
    where = f"output {index} of the file" if len(pairs) > 1 else "the file"
    return [
        f"{where} as it is written is off by {written.mean:.3g} in the mean, but onnxruntime's fusions make "
        f"{fused.mean:.3g} of it ({100 * fused.mean / (fused.largest or 1):.2g} % of the largest value): they "
        "round each bias to multiples of input scale x weight scale, coarse ones where both have few bits or wide "
        "ranges. Judge by the metric through the file; 8 bits where activations have fewer, narrower ranges of them "
        "(clip_acts), or a scale per channel of weights (per_channel_wts) make it less"
    ]


def _is_far(fused: Difference, written: Difference) -> bool:
    return fused.mean > max(0.01 * fused.largest, 10 * written.mean)


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
