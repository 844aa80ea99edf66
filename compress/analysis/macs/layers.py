"""What each layer of a network costs: the numbers behind `macs_display`.

The table of layers, as data.

A row is one operation that multiplies. Its columns:

    effective_macs       MACs without those whose weight is exactly zero: each weight of a convolution or linear layer
                         takes part in equally many products, so it is MACs times the fraction that is not zero
    activation_bytes     of the operation's result
    bytes_moved          input, weights and result once each, as stored in the traced types
    intensity            arithmetic intensity: 2 * MACs / bytes_moved, floating point operations a byte (Williams et al.
                         2009, Roofline, CACM 52:4)
    bitops               MACs * bits of the weight * bits of the input (Baskin et al. 2018, UNIQ, arXiv 1804.10969,
                         section 4.2, without the additions); only when some layer is quantized
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from compress.analysis.macs.bits import FLOAT_BITS, Bits
from compress.analysis.macs.memory import peak_bytes, tensor_bytes
from compress.arguments.checked import checks_arguments
from compress.graph.macs.count import left_out, macs_of
from compress.graph.trace import ExampleInputs, Trace, canonical_names, module_of, operation_name, shape_of
from compress.graph.training import trace_calls
from compress.io.optional import on_use

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = on_use("pandas")

COLUMNS = [
    "layer", "kind", "operation", "input_shape", "output_shape", "parameters", "macs", "share", "effective_macs",
    "activation_bytes", "bytes_moved", "intensity",
]  # fmt: skip
BIT_COLUMNS = ["weight_bits", "input_bits", "bitops"]


@dataclass(frozen=True)
class MacsTable:
    """What `macs_display` found.

    Attributes:
        layers: one row an operation that multiplies, in the order of execution; see the module's docstring. `share` is
            of all MACs, in [0, 1].
        total: parameters (all of the model's), macs, effective_macs, activation_bytes (of all results that multiply),
            peak_activation_bytes, and bitops when some layer is quantized.
        input_shapes: of the example, batch included; of a list of calls, of one after the other.
        left_out: calls that were not counted although they may multiply, such as `fft_rfft in mixer`.
    """

    layers: pd.DataFrame
    total: dict[str, int]
    input_shapes: tuple[tuple[int, ...], ...]
    left_out: tuple[str, ...] = ()


def layer_label(row: Mapping[str, Any]) -> str:
    """What a layer's row is called: its module's name; what the network's own forward computes by its operation."""
    return str(row["layer"]) or f"{row['operation']} in {row['kind']} itself"


@checks_arguments
def macs_table(model: nn.Module, example_inputs: ExampleInputs) -> MacsTable:
    """Counts one forward pass in eval mode, or a list of calls, each once.

    Args:
        model: any module; left as it was.
        example_inputs: a tensor, the tuple of `forward`'s arguments, or a list of calls; only shapes and types matter.

    Raises:
        UserError: the model cannot be traced.
    """
    return table_of(trace_calls(model, example_inputs), model)


def table_of(traces: Sequence[Trace], model: nn.Module) -> MacsTable:
    """The same of traces that exist already, one a call."""
    kinds = {name: type(module).__name__ for name, module in model.named_modules(remove_duplicate=False)}
    seen: set[str] = set()
    rows = []
    for trace in traces:
        constants, bits = Constants(trace, model, seen), Bits(trace, model)
        for node in trace.operations:
            if macs_of(node) and node not in constants.sources:
                rows.append({**_row(node, kinds, constants), **_bits_of(node, constants, bits)})
    quantized = any(row[name] < FLOAT_BITS for row in rows for name in ("weight_bits", "input_bits"))
    layers = pd.DataFrame(rows, columns=COLUMNS + (BIT_COLUMNS if quantized else []))
    layers["share"] = layers["macs"] / max(int(layers["macs"].sum()), 1)
    sums = ["macs", "effective_macs", "activation_bytes"] + (["bitops"] if quantized else [])
    total = {"parameters": sum(p.numel() for p in model.parameters())}
    total |= {name: int(layers[name].sum()) for name in sums}
    total["peak_activation_bytes"] = max(peak_bytes(trace) for trace in traces)
    inputs = [
        node for trace in traces for node in trace.placeholders if node not in trace.tensor_names and shape_of(node)
    ]
    return MacsTable(layers, total, tuple(shape_of(node) for node in inputs), left_out(traces))


class Constants:
    """Which results depend on parameters and buffers alone, such as a weight that was just quantized.

    Attributes:
        sources: such a node -> the names of the parameters and buffers it was made of.
    """

    def __init__(self, trace: Trace, model: nn.Module, seen: set[str] | None = None) -> None:
        self.sources: dict[Node, frozenset[str]] = {n: frozenset([name]) for n, name in trace.tensor_names.items()}
        for node in trace.operations:
            inputs = node.all_input_nodes
            if inputs and all(source in self.sources for source in inputs):
                self.sources[node] = frozenset().union(*(self.sources[source] for source in inputs))
        first = canonical_names(model)
        every = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
        self._tensors = {first[name]: tensor.detach() for name, tensor in every}
        self._parameters = {first[name] for name, _ in model.named_parameters()}
        self._seen: set[str] = set() if seen is None else seen  # parameters that earlier calls have counted

    def names(self, node: Node) -> list[str]:
        """The parameters and buffers that an operation multiplies with, directly or after a transformation."""
        found = [name for source in node.all_input_nodes for name in sorted(self.sources.get(source, ()))]
        return list(dict.fromkeys(found))

    def fresh_parameters(self, names: list[str]) -> int:
        """Elements of those that are parameters and were not counted before."""
        new = (set(names) & self._parameters) - self._seen
        self._seen |= new
        return sum(self._tensors[name].numel() for name in new)

    def density(self, names: list[str]) -> float:
        """Fraction of the elements of weights (two or more dimensions) that is not zero; 1 without any."""
        weights = [self._tensors[name] for name in names if self._tensors[name].dim() > 1]
        size = sum(weight.numel() for weight in weights)
        return sum(int(torch.count_nonzero(weight)) for weight in weights) / size if size else 1.0


def _row(node: Node, kinds: dict[str, str], constants: Constants) -> dict[str, Any]:
    layer, kind = _layer_of(node, kinds)
    names, macs = constants.names(node), macs_of(node)
    inputs = [source for source in node.all_input_nodes if source not in constants.sources and shape_of(source)]
    moved = sum(tensor_bytes(each) for each in (*node.all_input_nodes, node))
    return {
        "layer": layer,
        "kind": kind,
        "operation": operation_name(node),
        "input_shape": shape_of(inputs[0]) if inputs else (),
        "output_shape": _result_shape(node),
        "parameters": constants.fresh_parameters(names),
        "macs": macs,
        "share": 0.0,
        "effective_macs": round(macs * constants.density(names)),
        "activation_bytes": tensor_bytes(node),
        "bytes_moved": moved,
        "intensity": 2 * macs / moved if moved else math.inf,
    }


def _bits_of(node: Node, constants: Constants, bits: Bits) -> dict[str, int]:
    """Bits of the two operands; an operation of two activations counts the second as its weight."""
    operands = [source for source in node.all_input_nodes if len(shape_of(source)) > 1]
    fixed = [source for source in operands if source in constants.sources]
    moving = [source for source in operands if source not in constants.sources]
    first = max((bits.of(source) for source in moving[:1]), default=FLOAT_BITS)
    second = max((bits.of(source) for source in (fixed or moving[1:] or moving)), default=FLOAT_BITS)
    return {"weight_bits": second, "input_bits": first, "bitops": macs_of(node) * first * second}


def _layer_of(node: Node, kinds: dict[str, str]) -> tuple[str, str]:
    name = module_of(node)
    return name, kinds.get(name, "?")


def _result_shape(node: Node) -> tuple[int, ...]:
    value = node.meta.get("val")
    first = value[0] if isinstance(value, tuple | list) else value
    return tuple(int(size) for size in first.shape) if isinstance(first, Tensor) else ()
