"""ncnn on the CPU, converted by pnnx. Integers are written into its files here, in the form of its int8 table.

ncnn rounds what a layer reads to [-127, 127] around 0: an activation of 8 bits without sign keeps 7 of them there.
"""

import json
import math
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.export.runtimes.base import Array, Converted, Loaded, Runtime, RuntimeFault, Source, bytes_of
from compress.export.runtimes.executorch import KERNELS

if TYPE_CHECKING:
    from compress.export.decomposed import HeldWeight

LARGEST = 127  # of ncnn's integers
_INT8_TAG = (0x000D4B38).to_bytes(4, "little")  # in front of int8 weights; 0 stands in front of float ones
_CONVOLUTION = ("6", "5", "0")  # where a layer's options have the size of its weight, whether a bias, its outputs
_LAYERS = {"Convolution": _CONVOLUTION, "ConvolutionDepthWise": _CONVOLUTION, "InnerProduct": ("2", "1", "0")}
_FLOAT = {
    "Deconvolution": _CONVOLUTION, "DeconvolutionDepthWise": _CONVOLUTION, "Convolution1D": _CONVOLUTION,
    "ConvolutionDepthWise1D": _CONVOLUTION, "Deconvolution1D": _CONVOLUTION, "Convolution3D": _CONVOLUTION,
}  # fmt: skip
# Other layers with weights: options whose values are multiplied, tensors of that many floats, option that switches them
_PLAIN = {
    "PReLU": (("0",), 1, ""), "BatchNorm": (("0",), 4, ""), "InstanceNorm": (("0",), 2, "2"),
    "GroupNorm": (("1",), 2, "3"), "LayerNorm": (("0",), 2, "2"), "MemoryData": (("0", "1", "11", "2"), 1, ""),
}  # fmt: skip
# What gives values of its input
_ON_GRID = ("max_pool2d", "pixel_shuffle", "view", "reshape", "permute", "flatten", "clone")
_TYPES = {"torch.float64": "f64", "torch.int32": "i32", "torch.int64": "i64"}  # in pnnx's words; float32 needs none
_TERM = " 8=1"  # int8_scale_term of all


class Ncnn(Runtime):
    """Traces the program for pnnx; int8 weights are the trained integers."""

    name, packages, install, least = "ncnn", ("ncnn", "pnnx"), "ncnn pnnx", (1, 0)
    to_run = ("ncnn",)
    reads, fixed_sizes = "program", True

    def convert(self, source: Source, folder: str) -> Converted:
        """A `.param` and a `.bin` file."""
        from compress.export.decomposed import asymmetric_note, drop_aliases, load_program, weights_of

        module = load_program(source.program).module()
        drop_aliases(module)
        held = told_apart(weights_of(module))
        weights = list(_weights(held))
        _without_rounding(module, held)
        param, binary = _pnnx(module, source, Path(folder))
        done, notes = _put_integers(param, binary, weights)
        size = bytes_of(folder)
        (Path(folder) / KERNELS).write_text(json.dumps(done))
        return Converted(str(param), size, (*notes, *asymmetric_note(held, self.name)))

    def load(self, file: str, precision: str, threads: int, shapes: Sequence[Sequence[int]] | None = None) -> Loaded:
        """See `Runtime`."""
        return _Net(file, threads)


@dataclass(frozen=True, eq=False)
class _Weight:
    """A quantized layer: value = scale * integer; what it reads is rounded to steps, so many to either side of 0."""

    layer: str
    integers: Any
    scale: Any
    values: Any
    step: float
    reach: int

    @property
    def coarser(self) -> bool:
        """Whether ncnn's integers, up to 127, are fewer than those of the input; -128 is cut off to -127."""
        return self.reach > 128

    @property
    def factor(self) -> float:
        """Of what the layer reads, to ncnn's integers."""
        return LARGEST / (self.reach * self.step) if self.coarser else 1 / self.step


def told_apart(weights: "Iterable[HeldWeight]") -> "list[HeldWeight]":
    """Weights of which no two have the same values: a layer is found in ncnn's file by them, and a weight that several
    layers share belongs to inputs of several scales. What tells them apart is a multiple of 2**-22 of a value.
    """
    seen: Counter[bytes] = Counter()
    found = []
    for each in weights:
        values = each.values.numpy().tobytes()
        found.append(replace(each, values=each.values * (1 + seen[values] * 2**-22)))
        seen[values] += 1
    return found


def _reach(quantize: Any) -> int:
    """Steps from 0 to the farthest integer of a grid, of the part that is used: grids below 8 bits have a clip."""
    from compress.export.decomposed import is_call

    values, step, zero, lowest, highest = quantize.args[:5]
    low, high = lowest - zero, highest - zero
    if is_call(values, "clamp") and len(values.args) == 3 and None not in values.args:
        low, high = max(low, round(values.args[1] / step)), min(high, round(values.args[2] / step))
    return max(-low, high)


def _weights(weights: "Iterable[HeldWeight]") -> Iterator[_Weight]:
    """The quantized weights that ncnn can hold in integers and whose layer reads something quantized."""
    from compress.export.decomposed import is_call

    for each in weights:
        if not each.symmetric:
            continue
        layer: Any = next(iter(each.node.users)) if len(each.node.users) == 1 else None
        read: Any = layer.args[0] if layer is not None else None
        while is_call(read, *_ON_GRID):
            read = read.args[0]
        if is_call(read, "dequantize_per_tensor"):
            integers, scale, values = (part.numpy() for part in (each.integers, each.scale, each.values))
            yield _Weight(each.layer, integers, scale, values, read.args[1], _reach(read.args[0]))


def _without_rounding(module: Any, weights: "Iterable[HeldWeight]") -> None:
    """The module in floats, in place: weights as `weights` have them, activations passed on; ncnn rounds them."""
    import torch

    from compress.export.decomposed import is_call, put_values

    for node in list(module.graph.nodes):
        if is_call(node, "dequantize_per_tensor"):
            values, zero = node.args[0].args[0], node.args[2]
            if zero == -128:  # its clip at 0 is the ReLU that was merged into it
                with module.graph.inserting_before(node):
                    values = module.graph.call_function(torch.ops.aten.relu.default, (values,))
            node.replace_all_uses_with(values)
    put_values(module, weights)


def _flat_outputs(module: Any) -> None:
    """Leaves a program's module its tensors as outputs, in their order, in place: pnnx traces no dictionaries."""
    import torch

    (output,) = (node for node in module.graph.nodes if node.op == "output")
    leaves = tuple(each for each in torch.utils._pytree.tree_leaves(output.args[0]) if isinstance(each, torch.fx.Node))
    if not leaves:
        raise RuntimeFault("the network gives no tensor, and ncnn computes nothing else")
    output.args = (leaves,)
    code = module.graph._codegen
    spec = torch.utils._pytree.tree_structure(leaves if len(leaves) > 1 else 0)
    code.pytree_info = code.pytree_info._replace(out_spec=spec)
    module.recompile()


def _pnnx(module: Any, source: Source, folder: Path) -> tuple[Path, Path]:
    import pnnx
    import torch

    from compress.export.decomposed import zeros_like_inputs

    inputs = zeros_like_inputs(source)
    _flat_outputs(module)
    torch.jit.trace(module, inputs, check_trace=False).save(folder / "network.pt")
    shapes = ",".join(str([*each.shape]).replace(" ", "") + _TYPES.get(str(each.dtype), "") for each in inputs)
    command = [pnnx.EXEC_PATH, "network.pt", f"inputshape={shapes}", "fp16=0"]
    found = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    param, binary = folder / "network.ncnn.param", folder / "network.ncnn.bin"
    if found.returncode or not param.is_file():
        raise RuntimeFault(f"pnnx refuses the network: {(found.stderr or found.stdout).strip()[-200:]}")
    for file in folder.iterdir():
        if file not in (param, binary):
            file.unlink()
    return param, binary


def _put_integers(param: Path, binary: Path, weights: Sequence[_Weight]) -> tuple[list[str], list[str]]:
    """Replaces the float weights of quantized layers by their integers; their names, and what ncnn cannot hold."""
    lines, data = param.read_text().splitlines(), binary.read_bytes()
    done: list[str] = []
    coarser, waiting = 0, list(weights)
    for i, place in reversed(_places(lines, len(data))):  # from the end, so that places before stay
        kind, options = _options(lines[i])
        weight = next((each for each in waiting if _is_at(each, data, place, kind, options)), None)
        if weight is None:
            continue
        data = _with_integers(data, place, weight, has_bias=options.get(_LAYERS[kind][1]) == "1")
        lines[i] += _TERM
        done.append(weight.layer)
        coarser += weight.coarser
        waiting.remove(weight)
    param.write_text("\n".join(lines) + "\n")
    binary.write_bytes(data)
    notes = [f"{weight.layer} is written for ncnn in float, its weights on their grid" for weight in waiting]
    if coarser:
        notes.append(f"{coarser} layers read activations whose zero is not the middle: ncnn holds 7 of their 8 bits")
    return done[::-1], notes


def _options(line: str) -> tuple[str, dict[str, str]]:
    """A layer's kind, and its options by their numbers."""
    words = line.split()
    own = words[4 + int(words[2]) + int(words[3]) :]
    return words[0], dict(word.split("=", 1) for word in own)


def _places(lines: Sequence[str], size: int) -> list[tuple[int, int]]:
    """Line and place in the `.bin` of each layer that can be in integers; none if not every byte there is understood.

    A `.bin` has no index: the weights of the layers follow one another.
    """
    found, place = [], 0
    for i, line in enumerate(lines[2:], 2):
        if not line.strip():
            continue
        kind, options = _options(line)
        if kind in _LAYERS:
            found.append((i, place))
        place += _bytes(kind, options)
    return found if place == size else []


def _bytes(kind: str, options: Mapping[str, str]) -> int:
    """Of a layer's float weights."""
    if kind in _LAYERS or kind in _FLOAT:
        size, bias, outputs = (int(options.get(each, 0)) for each in {**_LAYERS, **_FLOAT}[kind])
        return len(_INT8_TAG) + 4 * size + 4 * outputs * bias
    if kind in _PLAIN:
        sizes, tensors, switch = _PLAIN[kind]
        return 4 * tensors * math.prod(int(options.get(each, 0)) or 1 for each in sizes) * int(options.get(switch, 1))
    return 0


def _is_at(weight: _Weight, data: bytes, place: int, kind: str, options: Mapping[str, str]) -> bool:
    """Whether a layer's weight, in floats behind the tag of floats, lies there, and ncnn has as many scales."""
    if kind == "ConvolutionDepthWise" and int(options.get("7", 1)) != weight.scale.size:
        return False
    return data.startswith(bytes(len(_INT8_TAG)) + weight.values.tobytes(), place)


def _with_integers(data: bytes, place: int, weight: _Weight, has_bias: bool) -> bytes:
    """Tag, integers and padding; the bias as it was; scales of weights (steps in 1) and of the input."""
    import numpy as np

    begin, count = place + 4 + weight.values.nbytes, weight.scale.size
    end = begin + (4 * count if has_bias else 0)
    integers = weight.integers.tobytes()
    padding = bytes(-len(integers) % 4)
    scales = np.concatenate([1 / weight.scale, [weight.factor]]).astype(np.float32).tobytes()
    return data[:place] + _INT8_TAG + integers + padding + data[begin:end] + scales + data[end:]


def _unloaded(param: str) -> str:
    """Why ncnn does not load a file: operations that pnnx left as PyTorch calls them, such as `aten::cross`."""
    kinds = dict.fromkeys(line.split()[0] for line in param.splitlines()[2:] if line.strip())
    unknown = [each for each in kinds if not each.isidentifier()]
    return f"ncnn has no layer for {', '.join(unknown)}" if unknown else "ncnn does not load the file that pnnx made"


class _Net(Loaded):
    def __init__(self, file: str, threads: int) -> None:
        import ncnn

        self._file, self._ncnn = file, ncnn
        self._net = ncnn.Net()
        options = self._net.opt
        options.num_threads = threads
        options.use_vulkan_compute = False
        options.use_fp16_packed = options.use_fp16_storage = options.use_fp16_arithmetic = False
        options.use_bf16_storage = False
        if self._net.load_param(file) or self._net.load_model(str(Path(file).with_suffix(".bin"))):
            raise RuntimeFault(_unloaded(Path(file).read_text()))

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """See `Loaded`; ncnn has no batches."""
        import numpy as np

        if any(len(each) != 1 for each in inputs):
            raise RuntimeFault(f"ncnn takes one sample at a time, given are {len(inputs[0])}")
        extractor = self._net.create_extractor()
        held = [self._ncnn.Mat(np.ascontiguousarray(each[0])).clone() for each in inputs]
        names = self._net.input_names()
        if len(names) != len(held):
            raise RuntimeFault(f"the file that pnnx made takes {len(names)} inputs, the network {len(held)}")
        for name, mat in zip(names, held, strict=True):
            extractor.input(name, mat)
        found = []
        for name in self._net.output_names():
            code, mat = extractor.extract(name)
            if code:
                raise RuntimeFault(
                    f"ncnn loads the file but cannot compute its output {name!r} (its code {code}): a layer on the way "
                    "there gets a shape that it does not take, such as a size that pnnx fixed, or finds no memory"
                )
            found.append(np.array(mat)[None])
        return found

    def kernels(self, layers: Sequence[str]) -> list[str]:
        """Those whose integers are in the file."""
        found = set(json.loads(Path(self._file).with_name(KERNELS).read_text()))
        return [each for each in layers if each in found]
