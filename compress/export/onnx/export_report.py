"""What may be chosen for an ONNX file, and what is reported of it: `ExportSettings`, `ExportReport`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from compress.arguments.checked import CheckedArguments
from compress.export.latency import Latency
from compress.export.onnx.check import Difference
from compress.export.onnx.qdq import WeightNote


@dataclass(frozen=True)
class ExportSettings(CheckedArguments):
    """What may be chosen beside the mode.

    Attributes:
        opset: of the file; None is the exporter's own.
        free_axes: of the inputs that may change besides batch, height and width (or the last of three dimensions), such
            as (1,) for the length of sequences (batch, length, features) of an LSTM or of an attention network. The
            network runs the example with another length too; where it fixes the size, the report's `dynamic` says so.
        fixed_size: keep the example's height and width; only the batch may change. Networks whose padding is computed
            from the size (TensorFlow's "same") take minutes, or forever, otherwise.
        reduce_range: 7-bit weights in `qdq` mode, for x86 CPUs without VNNI, where 8 x 8 bits can saturate.
        clip_first: grids narrower than 8 bits are clipped in front of QuantizeLinear, as compilers but onnxruntime
            expect it, instead of behind it, where onnxruntime still fuses the layer.
        complete: round to 8 bits, over the range that they have on `check_inputs`, the outputs that training left
            unrounded, so that every layer has an integer kernel; see full_integer.py. Not what was trained any more.
        format: narrower than the mode's own: `float16`, `bfloat16`, `float8` or `int4` of a float network, `int4` of an
            integer file; see narrow/. Empty keeps float32 and int8.
        against: name -> ONNX file that the new one is timed against, such as the float and the dense one.
        threads: for timing.
        description: plain data kept in the file's metadata; `test.py --model FILE.onnx` reads it.
    """

    opset: Annotated[int, Field(ge=7)] | None = None
    free_axes: tuple[int, ...] = ()
    fixed_size: bool = False
    reduce_range: bool = False
    clip_first: bool = False
    complete: bool = False
    format: str = ""
    against: Mapping[str, Path] = field(default_factory=dict)
    threads: Annotated[int, Field(ge=1)] = 1
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
        format: narrow format of the file; empty is the mode's own.
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
    format: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        narrow = f" in {self.format}" if self.format else ""
        lines = [
            f"{self.file}: {self.mode}{narrow}, {self.bytes:,} bytes, opset {self.opset}",
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
        noun = "input" if self.difference.inputs == 1 else "inputs"
        return f"real {noun}" if self.real_inputs else f"{noun} of noise"


def integers_text(integers: Sequence[str], floats: Sequence[str]) -> str:
    """`layers in integer kernels: 7 of 8; in float: last_part.0`."""
    text = f"quantized layers in integer kernels: {len(integers)} of {len(integers) + len(floats)}"
    return text + (f"; in float: {', '.join(floats)}" if floats else "")
