"""Is an exported file what the network is? Checked, run and compared, and looked into.

`check_file`, `compare_onnx`, `Comparison`, `difference`, `node_kinds`, `kernel_kinds`, `layers_in_integers`.
"""

import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compress.arguments.checked import checks_arguments
from compress.errors import UserError
from compress.export.onnx.session import open_session, run_session
from compress.export.runtimes.base import FLOAT32
from compress.export.runtimes.onnxruntime import Onnxruntime
from compress.io.files import checked
from compress.io.optional import needed

Inputs = tuple[Tensor, ...]
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class Difference:
    """How far two sets of outputs lie apart.

    Attributes:
        max: largest absolute difference.
        mean: mean absolute difference.
        largest: largest absolute value of the reference, for scale.
        inputs: how many inputs were compared.
        outputs: the same of each output, where a network has several: small values hide behind large ones.
    """

    max: float
    mean: float
    largest: float
    inputs: int
    outputs: tuple["Difference", ...] = ()

    @property
    def parts(self) -> tuple["Difference", ...]:
        """Of each output."""
        return self.outputs or (self,)

    @property
    def worst(self) -> "Difference":
        """Of the output that is off by the largest share; of values next to nothing beside others by less."""
        return max(self.parts, key=lambda each: each.mean / (max(each.largest, 1e-6 * self.largest) or 1))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return f"max {self.max:.3g}, mean {self.mean:.3g} (values up to {self.largest:.3g})"


def check_file(file: Path) -> None:
    """onnx.checker over the whole file, with shape inference.

    Raises:
        UserError: onnx is missing, or finds a fault.
    """
    checker = needed("onnx.checker", "checking an ONNX file")
    try:
        checker.check_model(str(file), full_check=True)
    except Exception as e:  # its errors share no base class but Exception
        raise UserError(f"onnx.checker finds a fault in {file}: {str(e).strip().splitlines()[0]}") from e


@checks_arguments
def compare_onnx(file: str | Path, model: nn.Module, inputs: Sequence[Inputs], *, fused: bool = True) -> Difference:
    """Runs a file in onnxruntime, without saturating kernels, and a network in PyTorch on the same inputs.

    Args:
        file: the ONNX file.
        model: the network; its device and mode are left as they were.
        inputs: at least one.
        fused: see `open_session`.

    Raises:
        UserError: onnxruntime is missing or refuses the file or an input.
    """
    return Comparison(Path(file), model).difference(inputs, fused=fused)


class Comparison:
    """A file beside a network, compared several times: what either gives for an input is computed once.

    Args:
        file: the ONNX file.
        model: the network; its device and mode are left as they were.
    """

    def __init__(self, file: Path, model: nn.Module) -> None:
        self.file, self.model = file, model
        self._sessions: dict[bool, Any] = {}
        self._known: dict[Any, tuple[Inputs, list[Tensor]]] = {}  # with the inputs, so that none takes another's id

    def outputs(self, inputs: Inputs) -> list[Tensor]:
        """The network's, on the CPU."""
        return self._once("network", inputs, lambda: torch_outputs(self.model, [inputs])[0])

    def difference(self, inputs: Sequence[Inputs], *, fused: bool = True) -> Difference:
        """See `compare_onnx`."""
        if fused not in self._sessions:
            self._sessions[fused] = open_session(self.file, exact=True, fused=fused)
        session = self._sessions[fused]
        wanted = [self.outputs(each) for each in inputs]
        found = [self._once(fused, each, partial(run_session, session, each)) for each in inputs]
        for each, reference, given in zip(inputs, wanted, found, strict=True):
            if not any(map(_has_nan, reference)) and any(map(_has_nan, given)):
                raise NotFinite("the file gives NaN where the network gives numbers", each)
        return difference(wanted, found)

    def _once(self, way: object, inputs: Inputs, make: Callable[[], list[Tensor]]) -> list[Tensor]:
        key = (way, *map(id, inputs))
        if key not in self._known:
            self._known[key] = inputs, make()
        return self._known[key][1]


class NotFinite(UserError):
    """A file that gives NaN where the network does not.

    Attributes:
        inputs: on which it does.
    """

    def __init__(self, message: str, inputs: Inputs) -> None:
        super().__init__(message)
        self.inputs = inputs


def _has_nan(tensor: Tensor) -> bool:
    return bool(tensor.isnan().any())


def difference(reference: Sequence[Sequence[Tensor]], found: Sequence[Sequence[Tensor]]) -> Difference:
    """Between outputs, input by input.

    Raises:
        UserError: their numbers or shapes differ, or the found ones hold NaN where the reference has none.
    """
    for wanted, given in zip(reference, found, strict=True):
        if len(wanted) != len(given):
            raise UserError(f"the file has {len(given)} outputs, the network {len(wanted)}")
        for a, b in zip(wanted, given, strict=True):
            if a.shape != b.shape:
                raise UserError(f"the file's output is {tuple(b.shape)}, the network's {tuple(a.shape)}")
    pooled = _difference([pair for each in zip(reference, found, strict=True) for pair in zip(*each, strict=True)])
    if pooled is None:
        raise UserError("the outputs hold no numbers; give inputs for which the network gives some")
    if math.isnan(pooled.mean):
        raise UserError("the file and the network differ by NaN; one of them does not compute finite numbers")
    count = min(len(each) for each in reference)  # of outputs
    each = [_difference([(a[i], b[i]) for a, b in zip(reference, found, strict=True)]) for i in range(count)]
    outputs = tuple(one for one in each if one is not None) if count > 1 else ()
    return replace(pooled, inputs=len(found), outputs=tuple(replace(one, inputs=len(found)) for one in outputs))


def _difference(pairs: Sequence[tuple[Tensor, Tensor]]) -> Difference | None:
    """Between tensors of the same shapes; None where they hold no numbers."""
    gaps = [(a.double() - b.double()).abs().flatten() for a, b in pairs]  # of booleans: 0 or 1
    joined = torch.cat(gaps) if gaps else torch.empty(0)
    if not joined.numel():
        return None
    largest = max(float(a.double().abs().max()) for a, _ in pairs if a.numel())
    return Difference(float(joined.max()), float(joined.mean()), largest, len(pairs))


@torch.no_grad()
def torch_outputs(model: nn.Module, inputs: Sequence[Inputs]) -> list[list[Tensor]]:
    """A network's outputs on the CPU in eval mode, one list an input; device and mode are left as they were."""
    device = next((each.device for each in model.parameters()), torch.device("cpu"))
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        return [tensors_of(model(*(x.to(device, copy=True) for x in each))) for each in inputs]
    finally:
        for module, training in modes.items():
            module.training = training


def tensors_of(output: Any) -> list[Tensor]:
    """The tensors of a network's output, in order, on the CPU."""
    leaves, _ = torch.utils._pytree.tree_flatten(output)
    return [each.detach().cpu() for each in leaves if isinstance(each, Tensor)]


def node_kinds(file: Path) -> dict[str, int]:
    """Operation -> how many of the file's nodes, the most frequent first."""
    model = needed("onnx", "reading an ONNX file").load(checked(file), load_external_data=False)
    return _counted(node.op_type for node in model.graph.node)


def kernel_kinds(file: Path) -> dict[str, int]:
    """Operation -> how many nodes onnxruntime runs on this CPU, after it has fused what it can.

    `QLinearConv`, `QLinearAdd`, `QGemm`, ... compute with integers; `Conv` and `FusedConv` with floats.
    """
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        open_session(file, optimized=optimized)
        return node_kinds(optimized)


def stored_in_integers(file: str | Path) -> list[str]:
    """Names of an ONNX file's convolutions and matrix products whose weights are stored in 8 bits."""
    graph = needed("onnx", "reading an ONNX file").load(checked(Path(file)), load_external_data=False).graph
    held = {each.name for each in graph.initializer}
    weights = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in held}
    return [
        node.name
        for node in graph.node
        if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul") and node.input[1] in weights
    ]


def layers_in_integers(file: Path) -> tuple[list[str], list[str]]:
    """Names of the layers with 8-bit weights that onnxruntime runs in integers here, and of those it does not."""
    layers = stored_in_integers(file)
    found = Onnxruntime().load(str(checked(file)), FLOAT32, 1).kernels(layers) or []
    return found, [each for each in layers if each not in found]


def _counted(kinds: Iterable[str]) -> dict[str, int]:
    return dict(Counter(kinds).most_common())
