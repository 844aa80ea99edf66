"""A cheaper graph with the same outputs: BatchNorm folded, channels last, convolutions with their ReLU, work in place.

Rewritings of a torch.fx graph of pure tensor operations, as `program.py` has it; `made_pure` makes one of what
torch.export gives.
"""

import math
import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

from compress.graph.trace import shape_of

aten = torch.ops.aten
CONVOLUTIONS = (aten.conv1d.default, aten.conv2d.default, aten.conv3d.default)
NORM = aten._native_batch_norm_legit_no_training.default
PLAIN_NORM = aten.batch_norm.default  # the same before torch takes it apart
LAYOUT_BOUND = ("as_strided", "stride", "unfold", "as_strided_scatter")
IN_PLACE = {  # pure operation -> the same on its first argument's memory
    aten.relu.default: aten.relu_.default,
    aten.add.Tensor: aten.add_.Tensor,
    aten.mul.Tensor: aten.mul_.Tensor,
    aten.hardtanh.default: aten.hardtanh_.default,
    aten.leaky_relu.default: aten.leaky_relu_.default,
    aten.sigmoid.default: aten.sigmoid_.default,
    aten.silu.default: aten.silu_.default,
    aten.hardswish.default: aten.hardswish_.default,
}
NEW_MEMORY = {*CONVOLUTIONS, NORM, PLAIN_NORM, aten.linear.default, aten.addmm.default}  # nothing else can see these
MADE = {*NEW_MEMORY, aten.add.Tensor}  # the same, of operations that torch.export gives
LARGE, MANY = 20480, 16  # values of an input and samples from which on torch leaves a convolution to oneDNN
# running statistics, which their schemas do not say
WRITES_UNSAID = ("instance_norm", "cudnn_batch_norm", "miopen_batch_norm", "_batch_norm_impl_index")


def made_pure(graph: Graph) -> bool:
    """Writes operations on memory that nothing else can see as pure ones; whether no other operation writes anything.

    False leaves the graph as it was: torch can take it apart, in as much time again as the trace took.
    """
    pure, changes = {written: free for free, written in IN_PLACE.items()}, []
    for node in graph.nodes:
        if node.op in ("placeholder", "output") or node.target is operator.getitem:
            continue
        schema = getattr(node.target, "_schema", None)
        if node.op != "call_function" or schema is None or _name(node) in WRITES_UNSAID:
            return False
        if node.target is PLAIN_NORM and node.args[5]:  # of this batch's statistics, and it may keep them
            return False
        if schema.is_mutable:
            if node.target not in pure or not _written_alone(node):
                return False
            changes.append(node)
    for node in changes:
        node.target = pure[node.target]
    return True


def _written_alone(node: Node) -> bool:
    """Whether an operation writes on a new value that it alone reads, and would give the same type as a pure one."""
    value, mine = node.args[0], node.meta.get("val")
    if not isinstance(value, Node) or value.target not in MADE or len(value.users) != 1:
        return False
    found = [source.meta.get("val") for source in node.all_input_nodes]
    return all(isinstance(each, Tensor) and isinstance(mine, Tensor) and each.dtype == mine.dtype for each in found)


def fold_batch_norm(graph: Graph, state: set[Node]) -> None:
    """Puts each BatchNorm that follows a convolution into its weight and bias.

    conv(x, w, b) * s + t = conv(x, w * s, b * s + t) with s = gamma / sqrt(variance + eps) and t = beta - mean * s
    (Jacob et al. 2018, arXiv 1712.05877, eq. 14). The new weight is an operation of the graph, so that a changed w
    changes it too.
    """
    for norm in [each for each in graph.nodes if each.target in (NORM, PLAIN_NORM)]:
        plain = norm.target is PLAIN_NORM
        convolution, gamma, beta, mean, variance = norm.args[:5]
        eps = norm.args[7 if plain else 6]
        outputs = [user for user in norm.users if user.target is operator.getitem and user.args[1] == 0]
        if convolution.target not in CONVOLUTIONS or len(convolution.users) != 1:
            continue
        if not plain and len(outputs) != len(norm.users):
            continue
        if len(shape_of(convolution)) != len(shape_of(convolution.args[1])):  # the norm's channels are not the layer's
            continue
        weight, bias = convolution.args[1], _argument(convolution, 2)
        if weight not in state or not {gamma, beta, mean, variance, bias} <= state | {None}:
            continue
        with graph.inserting_before(convolution):
            folded = graph.call_function(_fold, (weight, bias, gamma, beta, mean, variance, eps))
            parts = [graph.call_function(operator.getitem, (folded, place)) for place in (0, 1)]
        parts[0].meta["val"] = weight.meta.get("val")  # of its shape and type
        convolution.args = (convolution.args[0], *parts, *convolution.args[3:])
        for each in [norm] if plain else outputs:
            each.replace_all_uses_with(convolution)
            convolution.meta.setdefault("val", each.meta.get("val"))


def _fold(
    weight: Tensor,
    bias: Tensor | None,
    gamma: Tensor | None,
    beta: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor]:
    scale = torch.rsqrt(variance + eps)
    if gamma is not None:
        scale = scale * gamma
    shift = (0 if beta is None else beta) + ((0 if bias is None else bias) - mean) * scale
    return weight * scale.reshape(-1, *[1] * (weight.dim() - 1)), shift


def lay_out(graph: Graph, state: set[Node], example: Tensor | None) -> bool:
    """Prepares a graph of 2-D convolutions on a CPU for channels-last images; whether it did.

    Weights get that layout once, and views, which would refuse it, become reshapes.
    """
    convolutions = graph.find_nodes(op="call_function", target=aten.conv2d.default)
    on_cpu = example is not None and example.device.type == "cpu"
    if not convolutions or not on_cpu or any(_name(node) in LAYOUT_BOUND for node in graph.nodes):
        return False
    for node in graph.nodes:
        if _name(node) in ("view", "_unsafe_view"):
            node.target = aten.reshape.default
    for node in convolutions:
        with graph.inserting_before(node):
            weight = graph.call_function(_channels_last, (node.args[1],))
        weight.meta["val"] = node.args[1].meta.get("val")
        node.args = (node.args[0], weight, *node.args[2:])
    return True


def _channels_last(weight: Tensor) -> Tensor:
    return weight.contiguous(memory_format=torch.channels_last)


def fuse_relu(graph: Graph) -> None:
    """Lets oneDNN apply the ReLU behind a convolution, and the addition between them, before it stores the output.

        conv -> relu    and    conv -> add -> relu

    A pass over memory less each, with the same bits: only where torch gives the convolution to oneDNN itself.
    """
    operations = _onednn()
    if not operations:
        return
    for relu in graph.find_nodes(op="call_function", target=aten.relu.default):
        fits = ((chain, other) for chain, other in _chains(relu) if _can_be_one(chain, other))
        chain, other = next(fits, ((), None))
        if not chain:
            continue
        x, weight, bias, *sizes = _arguments(chain[-1])
        with graph.inserting_before(relu):
            if other is None:
                told = (x, weight, bias, *sizes, "relu", [], "")
                fused = graph.call_function(operations[0], told)
            else:
                told = (x, other, weight, bias, *sizes, "add", 1.0, "relu", [], "")
                fused = graph.call_function(operations[1], told)
        fused.meta["val"] = relu.meta.get("val")
        relu.replace_all_uses_with(fused)
        for node in (relu, *chain):
            graph.erase_node(node)


def _chains(relu: Node) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """What lies before a ReLU, from the last operation to the first, and what an addition on the way adds."""
    source = relu.args[0]
    yield (source,), None
    if isinstance(source, Node) and source.target is aten.add.Tensor and not source.kwargs:
        one, other = source.args
        yield (source, one), other
        yield (source, other), one


def _can_be_one(chain: tuple[Any, ...], other: Any) -> bool:
    if not _is_of_onednn(chain[-1]) or any(len(each.users) != 1 for each in chain):  # the graph's output is a user too
        return False
    return len(chain) == 1 or (other is not chain[-1] and _is_like(other, chain[-1]))


def _is_of_onednn(convolution: Any) -> bool:
    """Whether torch has oneDNN compute it on a CPU; small ones, and those of single pixels, it may compute itself.

    Under autocast the result has another type than what is read; a fused operation would not cast.
    """
    if not isinstance(convolution, Node) or convolution.target is not aten.conv2d.default:
        return False
    values = [each.meta.get("val") if isinstance(each, Node) else None for each in (*convolution.args[:2], convolution)]
    if not all(isinstance(each, Tensor) and each.dtype == torch.float32 for each in values):
        return False
    (shape, kernel), size = (shape_of(each) for each in convolution.args[:2]), convolution.meta.get("val")
    large = isinstance(size, Tensor) and math.prod(shape) > LARGE and size.device.type == "cpu"
    return large and len(shape) == 4 and (shape[0] >= MANY or kernel[2:] != (1, 1))


def _is_like(value: Any, other: Node) -> bool:
    """Whether a term is a tensor of the shape and type of another."""
    mine, its = (each.meta.get("val") if isinstance(each, Node) else None for each in (value, other))
    return isinstance(mine, Tensor) and isinstance(its, Tensor) and (mine.shape, mine.dtype) == (its.shape, its.dtype)


def _arguments(convolution: Node) -> tuple[Any, ...]:
    """Input, weight, bias, then padding, stride, dilation and groups as oneDNN's operations take them."""
    given: list[Any] = [
        default if _argument(convolution, place) is None else convolution.args[place]
        for place, default in enumerate((None, None, None, (1,), (0,), (1,), 1))
    ]
    x, weight, bias, stride, padding, dilation, groups = given
    sizes = [list(each) * (2 // len(each)) for each in (padding, stride, dilation)]  # one number is for both sides
    return x, weight, bias, *sizes, groups


def work_in_place(graph: Graph) -> None:
    """Lets operations overwrite a value that was made in this graph, for them alone, and is not returned."""
    fresh: set[Node] = set()
    made = NEW_MEMORY | set(_onednn())
    for node in graph.nodes:
        if node.target not in IN_PLACE:
            if _adds_last(node, fresh, made):
                x, term, *rest = node.args
                node.target, node.args = _onednn()[2], (term, x, *rest)
            if node.target in made:
                fresh.add(node)
            continue
        if node.target is aten.add.Tensor and not node.kwargs and _may_overwrite(node.args[1], node, fresh):
            node.args = (node.args[1], node.args[0])  # a + b = b + a
        if _may_overwrite(node.args[0], node, fresh):
            node.target = IN_PLACE[node.target]
        fresh.add(node)


def _adds_last(node: Node, fresh: set[Node], made: set[Any]) -> bool:
    """Whether a convolution may add its output to the memory of the term: nothing reads or shows that any more."""
    if node.target not in _onednn()[1:2]:
        return False
    x, term = node.args[:2]
    others = [user for user in getattr(term, "users", ()) if user is not node]
    return x is not term and term in fresh and all(user.target in made and user < node for user in others)


def _onednn() -> list[Any]:
    """A convolution with its ReLU, the same with an addition between, the same in the memory of the term."""
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return []
    operations = torch.ops.mkldnn
    return [
        operations._convolution_pointwise.default,
        operations._convolution_pointwise.binary,
        operations._convolution_pointwise_.binary,
    ]


def _may_overwrite(value: Any, node: Node, fresh: set[Node]) -> bool:
    if not isinstance(value, Node) or value not in fresh or len(value.users) != 1:
        return False
    mine, other = value.meta.get("val"), node.meta.get("val")
    if not (isinstance(mine, Tensor) and isinstance(other, Tensor)):
        return False
    return mine.shape == other.shape and mine.dtype == other.dtype and node.args.count(value) == 1


def _argument(node: Node, place: int) -> Any:
    return node.args[place] if len(node.args) > place else None


def _name(node: Node) -> str:
    packet = getattr(node.target, "overloadpacket", None)
    return str(packet).removeprefix("aten.") if packet is not None else ""
