"""Multiply-accumulates (MACs) of a model, operation by operation.

Here: `count_macs` and one table operation -> formula. A MAC is one multiplication with its addition, so a
count of FLOPs is about twice as large. Counted are the products of tensors: convolutions of every kind,
linear layers, matrix products, attention, recurrent layers; element-wise work, norms and pooling count as 0.
Fused attention is counted as the two matrix products it is, which `torch.utils.flop_counter` leaves out in
eval mode. Nothing looks into the branches of `torch.cond`: they are left out, and the report names them. Not here:
measured time. Called by the training job, `apputils.macs` and the channel graph.

    count_macs(nn.Conv2d(3, 8, 3, padding=1), torch.zeros(1, 3, 10, 10)).total    # 8*10*10 * 3*3*3 = 21600
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.fx import Node

from compress.graph.regions import has_subgraph
from compress.graph.trace import ExampleInputs, Trace, module_of, operation_name, shape_of, trace_model

logger = logging.getLogger("compress")


@dataclass(frozen=True)
class MacsRow:
    """One operation that multiplies, or that reads parameters.

    Attributes:
        module: full name of the module that made the call ('' is the model itself).
        kind: class name of that module.
        operation: ATen name, such as `conv2d`.
        input_shape: shape of the first tensor read, batch included.
        output_shape: shape of the first result, batch included.
        parameters: elements of the parameters read here for the first time.
        macs: multiply-accumulates for the whole batch of the example.
    """

    module: str
    kind: str
    operation: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    parameters: int
    macs: int


@dataclass(frozen=True)
class MacsReport:
    """All rows in the order of execution.

    Attributes:
        rows: one per operation that multiplies or reads parameters; a module called twice has two rows.
        total: multiply-accumulates of one forward pass of the example, its batch included.
        parameters: elements of all parameters that the pass reads, shared ones once.
        left_out: calls that hide operations which were not counted, such as `cond in the model`.
    """

    rows: tuple[MacsRow, ...]
    left_out: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """Multiply-accumulates of one forward pass."""
        return sum(row.macs for row in self.rows)

    @property
    def parameters(self) -> int:
        """Elements of all parameters, shared ones once."""
        return sum(row.parameters for row in self.rows)

    def by_module(self) -> dict[str, int]:
        """Module name -> its multiply-accumulates, calls added up; modules without any are left out."""
        sums: dict[str, int] = {}
        for row in self.rows:
            if row.macs:
                sums[row.module] = sums.get(row.module, 0) + row.macs
        return sums


def count_macs(model: nn.Module, example_inputs: ExampleInputs) -> MacsReport:
    """Count the multiply-accumulates of one forward pass in eval mode.

    Args:
        model: any module; left as it was.
        example_inputs: a tensor or the tuple of `forward`'s arguments; only shapes and types matter.
            A batch of n samples counts n times.

    Raises:
        UserError: the model cannot be traced.
    """
    kinds = {name: type(module).__name__ for name, module in model.named_modules(remove_duplicate=False)}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    report = report_of(trace_model(model, example_inputs), kinds, set(parameters))
    for call in report.left_out:
        logger.warning("MACs leave out what runs inside %s", call)
    return report


def report_of(trace: Trace, kinds: dict[str, str], parameters: set[str]) -> MacsReport:
    """The rows of a trace that exists already; `kinds`: module name -> class name."""
    seen: set[str] = set()
    rows = []
    for node in trace.operations:
        fresh = {
            trace.tensor_names[source]: math.prod(shape_of(source))
            for source in node.all_input_nodes
            if source in trace.tensor_names and trace.tensor_names[source] in parameters - seen
        }
        seen |= set(fresh)
        macs = macs_of(node)
        if macs or fresh:
            rows.append(_row(node, kinds.get(module_of(node), "?"), sum(fresh.values()), macs))
    return MacsReport(tuple(rows), left_out(trace))


def left_out(trace: Trace) -> tuple[str, ...]:
    """The calls whose operations are in sub-graphs that are not counted, for people."""
    calls = [node for node in trace.operations if has_subgraph(node)]
    return tuple(f"{operation_name(node)} in {module_of(node) or 'the model'}" for node in calls)


def macs_of(node: Node) -> int:
    """Multiply-accumulates of one operation; 0 for one that is not in `FORMULAS`."""
    formula = FORMULAS.get(operation_name(node))
    return formula(node) if formula else 0


def _row(node: Node, kind: str, parameters: int, macs: int) -> MacsRow:
    inputs = [shape_of(source) for source in node.all_input_nodes if shape_of(source)]
    value = node.meta.get("val")
    first = value[0] if isinstance(value, tuple | list) else value
    output = tuple(first.shape) if isinstance(first, Tensor) else ()
    return MacsRow(module_of(node), kind, operation_name(node), inputs[0] if inputs else (), output, parameters, macs)


def _convolution(node: Node) -> int:
    """Each output element sums over one kernel: weight is (out, in / groups, *kernel)."""
    weight = shape_of(node.args[1])
    return math.prod(shape_of(node)) * math.prod(weight[1:])


def _transposed(node: Node) -> int:
    """Each input element is spread over one kernel: weight is (in, out / groups, *kernel)."""
    return math.prod(shape_of(node.args[0])) * math.prod(shape_of(node.args[1])[1:])


def _general_convolution(node: Node) -> int:
    return _transposed(node) if node.args[6] else _convolution(node)


def _product(left: int) -> Callable[[Node], int]:
    """A matrix product whose left operand is argument `left`: each element sums over its last size."""
    return lambda node: math.prod(shape_of(node)) * shape_of(node.args[left])[-1]


def _attention(node: Node) -> int:
    """Query (..., L, E), key (..., S, E), value (..., S, V): L*S*E for scores, L*S*V for the mixture."""
    query, key, value = (shape_of(argument) for argument in node.args[:3])
    return math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _recurrent(node: Node) -> int:
    """Each time step of each sequence passes every weight matrix once (biases are additions)."""
    weights = {source for argument in node.args[2:] for source in _nodes(argument) if len(shape_of(source)) == 2}
    steps = math.prod(shape_of(node.args[0])[:-1])
    return steps * sum(math.prod(shape_of(weight)) for weight in weights)


def _nodes(argument: object) -> list[Node]:
    if isinstance(argument, list | tuple):
        return [node for item in argument for node in _nodes(item)]
    return [argument] if isinstance(argument, Node) else []


def _einsum(node: Node) -> int:
    """Two operands: one product per combination of all indices (more operands: as if done in one go)."""
    equation = str(node.args[0]).replace(" ", "").split("->")[0]
    sizes: dict[str, int] = {}
    operands = node.args[1] if isinstance(node.args[1], list | tuple) else ()
    for letters, operand in zip(equation.split(","), operands, strict=True):
        if "." in letters:
            return 0
        sizes.update(zip(letters, shape_of(operand), strict=True))
    return math.prod(sizes.values()) * max(len(operands) - 1, 0)


FORMULAS: dict[str, Callable[[Node], int]] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _transposed),
    "convolution": _general_convolution,
    **dict.fromkeys(("linear", "matmul", "mm", "bmm", "mv", "dot"), _product(0)),
    **dict.fromkeys(("addmm", "baddbmm", "addmv"), _product(1)),
    "einsum": _einsum,
    "scaled_dot_product_attention": _attention,
    **dict.fromkeys(
        ("lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"),
        _recurrent,
    ),
}
