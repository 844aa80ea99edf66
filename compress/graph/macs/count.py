"""Multiply-accumulates (MACs) of a model, operation by operation.

`count_macs` and one table operation -> formula. A MAC is one multiplication with its addition, so a count of FLOPs is
about twice as large. Counted are the products of tensors: convolutions of every kind, linear layers, matrix products,
attention, recurrent layers; what `free.py` names (element-wise work, norms, pooling, ...) costs 0. Fused attention is
counted as the two matrix products it is, which `torch.utils.flop_counter` leaves out in eval mode. Every other
operation (a Fourier transform, a solver, a product with a sparse matrix, one of the user's own) and the branches of
`torch.cond` are left out, and the report names them. Called by the training job,
`compress.analysis.macs.layers` and the channel graph.

    count_macs(nn.Conv2d(3, 8, 3, padding=1), torch.zeros(1, 3, 10, 10)).total    # 8*10*10 * 3*3*3 = 21600
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.utils import _pytree as pytree

from compress.arguments.checked import checks_arguments
from compress.errors import some
from compress.graph.macs.einsum import chain_macs, einsum_macs
from compress.graph.macs.free import is_free, plain_name
from compress.graph.regions import REPEATS, has_subgraph
from compress.graph.trace import (
    ExampleInputs,
    Trace,
    has_unknown_size,
    module_of,
    operation_name,
    shape_of,
    sizes_of,
)
from compress.graph.training import trace_calls
from compress.graph.values import bound_arguments

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


@dataclass(frozen=True, repr=False)
class MacsReport:
    """All rows in the order of execution.

    Attributes:
        rows: one per operation that multiplies or reads parameters; a module called twice has two rows.
        total: multiply-accumulates of one forward pass of the example, its batch included; of a list, of all its calls.
        parameters: elements of all parameters that they read, shared ones once.
        left_out: calls that were not counted although they may multiply, such as `fft_rfft in mixer` or `cond in the
            model`, each once.
    """

    rows: tuple[MacsRow, ...]
    left_out: tuple[str, ...] = ()

    def __repr__(self) -> str:
        left_out = f", left out: {some(self.left_out)}" if self.left_out else ""
        return (
            f"MacsReport({self.total:,} MACs, {self.parameters:,} parameters, {len(self.rows)} operations in `rows`, "
            f"by_module() adds them up{left_out})"
        )

    @property
    def total(self) -> int:
        """Multiply-accumulates of one forward pass, or of all calls of a list."""
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


@checks_arguments
def count_macs(model: nn.Module, example_inputs: ExampleInputs) -> MacsReport:
    """Count the multiply-accumulates of one forward pass in eval mode, or of a list of calls, each once.

    Args:
        model: any module; left as it was.
        example_inputs: a tensor, the tuple of `forward`'s arguments, or a list of calls (`compress/graph/calls.py`),
            which add up in any order; only shapes and types matter. A batch of n samples counts n times.

    Raises:
        UserError: the model cannot be traced.
    """
    kinds = {name: type(module).__name__ for name, module in model.named_modules(remove_duplicate=False)}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    report = report_of(trace_calls(model, example_inputs), kinds, set(parameters))
    for call in report.left_out:
        logger.warning("MACs leave out %s", call)
    return report


def report_of(traces: Sequence[Trace], kinds: dict[str, str], parameters: set[str]) -> MacsReport:
    """The rows of traces that exist already, one a call; `kinds`: module name -> class name."""
    seen: set[str] = set()
    rows = []
    for trace, node in ((each, node) for each in traces for node in each.operations):
        fresh = {
            trace.tensor_names[source]: math.prod(shape_of(source))
            for source in node.all_input_nodes
            # Shared weights count once as parameters, and each time as MACs.
            if source in trace.tensor_names and trace.tensor_names[source] in parameters - seen
        }
        seen |= set(fresh)
        macs = macs_of(node)
        if macs or fresh:
            rows.append(_row(node, kinds.get(module_of(node), "?"), sum(fresh.values()), macs))
    return MacsReport(tuple(rows), left_out(traces))


def left_out(traces: Sequence[Trace]) -> tuple[str, ...]:
    """The calls that are neither counted nor known to cost nothing, in words."""
    every = [node for trace in traces for node in trace.operations]
    calls = [node for node in every if has_subgraph(node) or (_count(node) is None and _may_multiply(node))]
    names = ((_WORDS.get(operation_name(node), operation_name(node)), module_of(node) or "the model") for node in calls)
    return tuple(dict.fromkeys(f"{name} in {module}" for name, module in names))


_WORDS = dict.fromkeys(
    ("_jvp_increment_nesting", "_make_dual", "_new_zeros_with_same_feature_meta"),
    "derivatives in forward mode (torch.func.jvp)",
)


def _may_multiply(node: Node) -> bool:
    """Whether it is an unknown operation on tensors, and not a question such as which CUDA a library was built with."""
    if is_free(node):
        return False
    values = pytree.tree_leaves([each.meta.get("val") for each in (node, *node.all_input_nodes)])
    return operation_name(node) in _WORDS or any(isinstance(value, Tensor) for value in values)


def macs_of(node: Node) -> int:
    """Multiply-accumulates of one operation; 0 for one that is not counted."""
    return _count(node) or 0


def _count(node: Node) -> int | None:
    """The same; None for an operation without a formula, or called in a way or on sizes that its formula lacks."""
    formula = FORMULAS.get(plain_name(operation_name(node)))
    found = formula(node) if formula and not has_unknown_size(node) and not _is_sparse(node) else None
    return None if found is None else found * node.meta.get(REPEATS, 1)


def _is_sparse(node: Node) -> bool:
    """Whether the work goes by how many numbers a sparse tensor stores, which shapes do not say."""
    given = (source.meta.get("val") for source in node.all_input_nodes)
    return any(isinstance(value, Tensor) and value.layout is not torch.strided for value in given)


def _row(node: Node, kind: str, parameters: int, macs: int) -> MacsRow:
    inputs = [shape_of(source) for source in node.all_input_nodes if shape_of(source)]
    first = inputs[0] if inputs else ()
    return MacsRow(module_of(node), kind, operation_name(node), first, _result(node), parameters, macs)


Formula = Callable[[Node], int | None]


def _result(node: Node) -> tuple[int, ...]:
    """Shape of the first result."""
    value = node.meta.get("val")
    first = value[0] if isinstance(value, tuple | list) and value else value
    return sizes_of(first) if isinstance(first, Tensor) else ()


def _convolution(node: Node) -> int:
    """Each output element sums over one kernel: weight is (out, in / groups, *kernel)."""
    weight = shape_of(node.args[1])
    return math.prod(_result(node)) * math.prod(weight[1:])


def _transposed(node: Node) -> int:
    """Each input element is spread over one kernel: weight is (in, out / groups, *kernel)."""
    return math.prod(shape_of(node.args[0])) * math.prod(shape_of(node.args[1])[1:])


def _general_convolution(node: Node) -> int:
    return _transposed(node) if bound_arguments(node)["transposed"] else _convolution(node)


def _convolution_tbc(node: Node) -> int:
    """Time, batch, channels; weight is (kernel, in, out)."""
    return math.prod(_result(node)) * math.prod(shape_of(node.args[1])[:2])


def _product(left: int) -> Formula:
    """A product whose left operand is argument `left`: each element of the result sums over its last size."""
    return lambda node: math.prod(_result(node)) * (shape_of(node.args[left]) or (0,))[-1]


def _along(node: Node) -> int:
    """vecdot: each element of the result sums over one dimension of both operands."""
    shape, dim = shape_of(node.args[0]), bound_arguments(node)["dim"]
    return math.prod(_result(node)) * shape[dim]


def _each(factor: int) -> Formula:
    """A fixed number of products for each element of the result."""
    return lambda node: factor * math.prod(_result(node))


def _summed_batches(node: Node) -> int:
    """addbmm: the products of all batches (b, n, m) @ (b, m, p) are added up."""
    return math.prod(shape_of(node.args[1])) * shape_of(node.args[2])[-1]


def _grouped_product(node: Node) -> int:
    """Rows (or columns) of one operand are shared out among the groups of the other; both 2d: the sums are."""
    left, right = shape_of(node.args[0]), shape_of(node.args[1])
    if len(left) == len(right) == 2:
        return math.prod(left) * right[-1]
    return math.prod(_result(node)) * left[-1]


def _tensordot(node: Node) -> int:
    bound = bound_arguments(node)
    shape = shape_of(node.args[0])
    return math.prod(_result(node)) * math.prod(shape[dim] for dim in bound["dims_self"])


def _bilinear(node: Node) -> int:
    """x1 (.., I), x2 (.., J), weight (O, I, J): x1 with the weight, and that with x2."""
    _, inputs, others = shape_of(node.args[2])
    return math.prod(_result(node)) * (inputs + 1) * others


def _chain(node: Node) -> int:
    """multi_dot and chain_matmul take the cheapest order; the first and the last may be vectors."""
    shapes = [shape_of(each) for each in _nodes(node.args[0])]
    first = shapes[0] if len(shapes[0]) == 2 else (1, *shapes[0])
    return chain_macs([*first, *(shape[-1] if len(shape) == 2 else 1 for shape in shapes[1:])])


def _distances(node: Node) -> int:
    """One product for each component of each pair of points; p = 2 is one matrix product."""
    return math.prod(_result(node)) * shape_of(node.args[0])[-1]


def _covariance(node: Node) -> int:
    """Variables in rows, observations in columns."""
    return math.prod(_result(node)) * (shape_of(node.args[0]) or (0,))[-1]


def _affine_grid(node: Node) -> int:
    """Each point (.., d) is a product of d rows of theta with its d + 1 homogeneous coordinates."""
    shape = _result(node)
    return math.prod(shape) * (shape[-1] + 1)


NEIGHBOURS = {2: (4, 1, 16), 3: (8, 1)}
"""Dimensions of space -> pixels that one sample is mixed of: bilinear, nearest, bicubic."""


def _samples(node: Node) -> int:
    """grid_sample: each element is a sum of its neighbours, weighted by the grid; nearest only picks."""
    shape, mode = _result(node), bound_arguments(node).get("interpolation_mode", 0)
    neighbours = NEIGHBOURS[len(shape) - 2][mode]
    return math.prod(shape) * neighbours if neighbours > 1 else 0


def _regions(node: Node) -> int | None:
    """roi_align: a mean of bilinear samples; how many, where that is not given, goes by the sizes of the regions."""
    ratio = bound_arguments(node)["sampling_ratio"]
    return math.prod(_result(node)) * ratio**2 * NEIGHBOURS[2][0] if ratio > 0 else None


def _norm(node: Node) -> int | None:
    """A norm of a matrix: sums are free, singular values are a solver's work."""
    bound = bound_arguments(node)
    order, dims = bound.get("ord"), bound.get("dim")
    matrix = len(dims) == 2 if isinstance(dims, list | tuple) else dims is None and len(shape_of(node.args[0])) == 2
    return None if matrix and order in ("nuc", 2, -2) else 0


def _attention(node: Node) -> int:
    """Query (..., L, E), key (..., S, E), value (..., S, V): L*S*E for scores, L*S*V for the mixture."""
    query, key, value = (shape_of(argument) for argument in node.args[:3])
    return math.prod(_result(node)[:-1]) * key[-2] * (query[-1] + value[-1])


def _attention_by_sequence(node: Node) -> int | None:
    """The kernels' own order, (N, L, heads, size); packed sequences of several lengths are not counted."""
    bound = bound_arguments(node)
    if any(isinstance(bound.get(name), Node) for name in ("cum_seq_q", "cum_seq_k", "cu_seqlens_q", "cu_seqlens_k")):
        return None
    query, key, value = (shape_of(argument) for argument in node.args[:3])
    return math.prod(query[:-1]) * key[1] * (query[-1] + value[-1])


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
    bound = bound_arguments(node)
    return einsum_macs(bound["equation"], [shape_of(each) for each in _nodes(bound["tensors"])], bound.get("path"))


def _named(text: str, formula: Formula) -> dict[str, Formula]:
    return dict.fromkeys(text.split(), formula)


FORMULAS: dict[str, Formula] = {
    **_named(
        "conv1d conv2d conv3d conv_depthwise3d _conv_depthwise2d thnn_conv2d slow_conv3d _slow_conv2d_forward "
        "slow_conv3d_forward slow_conv_dilated2d slow_conv_dilated3d cudnn_convolution mkldnn_convolution "
        "miopen_convolution miopen_depthwise_convolution _convolution_mode cudnn_convolution_relu "
        "cudnn_convolution_add_relu _nnpack_spatial_convolution torchvision.deform_conv2d",
        _convolution,
    ),
    **_named(
        "conv_transpose1d conv_transpose2d conv_transpose3d slow_conv_transpose2d slow_conv_transpose3d "
        "cudnn_convolution_transpose miopen_convolution_transpose",
        _transposed,
    ),
    **_named("convolution _convolution convolution_overrideable", _general_convolution),
    "conv_tbc": _convolution_tbc,
    **_named(
        "linear matmul linalg_matmul mm bmm mv dot vdot inner _int_mm _scaled_mm _weight_int8pack_mm "
        "_weight_int4pack_mm _mixed_dtypes_linear mkldnn_linear _sparse_mm smm hspmm",
        _product(0),
    ),
    **_named("addmm _addmm_activation baddbmm addmv _sparse_addmm", _product(1)),
    **_named("linalg_vecdot", _along),
    **_named("outer ger addr kron", _each(1)),
    **_named("cross linalg_cross", _each(2)),
    "addbmm": _summed_batches,
    **_named("_grouped_mm _scaled_grouped_mm", _grouped_product),
    "tensordot": _tensordot,
    "bilinear": _bilinear,
    **_named("linalg_multi_dot chain_matmul", _chain),
    **_named("cdist _cdist_forward _euclidean_dist pdist _pdist_forward", _distances),
    **_named("cov corrcoef", _covariance),
    "affine_grid_generator": _affine_grid,
    **_named("grid_sampler grid_sampler_2d grid_sampler_3d cudnn_grid_sampler", _samples),
    **_named("linalg_norm linalg_matrix_norm", _norm),
    **_named("torchvision.roi_align torchvision.ps_roi_align", _regions),
    "einsum": _einsum,
    **_named(
        "scaled_dot_product_attention _scaled_dot_product_flash_attention _scaled_dot_product_cudnn_attention "
        "_scaled_dot_product_efficient_attention _scaled_dot_product_flash_attention_for_cpu "
        "_scaled_dot_product_attention_math _scaled_dot_product_fused_attention_overrideable",
        _attention,
    ),
    **_named("_flash_attention_forward _efficient_attention_forward", _attention_by_sequence),
    **_named("lstm gru rnn_tanh rnn_relu lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell", _recurrent),
}
