"""A network as a graph that can be run from any point.

`Program` (which operations depend on which weight) and its pieces, each compiled by torch.fx.

    conv1 -> relu -> conv2 -> relu -> add(first relu) -> linear

With conv2's weight changed, `dirty` are conv2 and all that follows; `boundary` is the first relu's output, for it is
read by dirty operations and does not change. A piece from the boundary to the output gives the changed output.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import Graph, GraphModule, Node
from torch.utils import _pytree as pytree

from compress.analysis.sensitivity import graph_rewrites
from compress.errors import UserError
from compress.graph.recording.leaks import without_leaks
from compress.graph.trace import ExampleInputs, as_arguments, export_model

Values = dict[Node, Any]
READ = ("USER_INPUT", "PARAMETER", "BUFFER", "CONSTANT_TENSOR")


@dataclass(frozen=True)
class Piece:
    """Some consecutive operations.

    Attributes:
        reads: the nodes whose values it is given, in order.
        gives: the nodes whose values it returns, in order.
        run: the compiled function.
    """

    reads: list[Node]
    gives: list[Node]
    run: Callable[..., tuple[Any, ...]]

    def __call__(self, values: Values) -> Values:
        """The values that it gives, from a mapping that holds those that it reads."""
        return dict(zip(self.gives, self.run(*(values[node] for node in self.reads)), strict=True))


class Program:
    """The graph of one forward pass in evaluation mode, for inputs of one set of shapes.

    Args:
        model: the network; its tensors are read anew at each run.
        inputs: example inputs; shapes and types matter.

    Attributes:
        inputs: nodes of the inputs.
        state: nodes of parameters, buffers and constants -> the tensors, the model's own where it has them.
        fixed: operations that depend on no input, such as a weight with BatchNorm folded in.
        outputs: what the pass returns, flattened: nodes or plain values.
        channels_last: whether 4-dimensional inputs are laid out so; convolutions on a CPU are quicker then.

    Raises:
        UserError: the network cannot be traced, or changes its own state in evaluation.
    """

    def __init__(self, model: nn.Module, inputs: ExampleInputs) -> None:
        with without_leaks(model):
            exported = export_model(model, inputs)
        if not graph_rewrites.made_pure(exported.graph_module.graph):
            exported = exported.run_decompositions({})  # as little as that, in-place operations become pure ones
        _check(exported, model)
        self.graph = exported.graph_module.graph
        placeholders = [node for node in self.graph.nodes if node.op == "placeholder"]
        specs = dict(zip(placeholders, exported.graph_signature.input_specs, strict=True))
        self.inputs = [node for node in placeholders if specs[node].kind is InputKind.USER_INPUT]
        tensors = _tensors(model, exported)
        self.state = {node: tensors[specs[node].target or ""] for node in placeholders if node not in self.inputs}
        graph_rewrites.fold_batch_norm(self.graph, set(self.state))
        self.channels_last = graph_rewrites.lay_out(self.graph, set(self.state), next(iter(self.state.values()), None))
        self.graph.eliminate_dead_code()
        self.operations = [node for node in self.graph.nodes if node.op == "call_function"]
        self.outputs = list(next(node for node in self.graph.nodes if node.op == "output").args[0])
        self.fixed = set(self.operations) - self.after(self.inputs)
        self._order = {node: place for place, node in enumerate(self.graph.nodes)}
        self._output_spec = exported.call_spec.out_spec

    @property
    def results(self) -> list[Node]:
        """The nodes among the outputs."""
        return [each for each in self.outputs if isinstance(each, Node)]

    @cached_property
    def whole(self) -> Piece:
        """From the inputs to the results."""
        return self.piece(self.results, self.fixed)

    def after(self, roots: Iterable[Node]) -> set[Node]:
        """The operations that depend on any of these nodes."""
        reached = set(roots)
        for node in self.operations:  # in the order of execution
            if not reached.isdisjoint(node.all_input_nodes):
                reached.add(node)
        return reached & set(self.operations)

    def dirty(self, *parameters: Tensor) -> set[Node]:
        """The operations whose values change with some parameters, under all names of their memory."""
        changed = {memory(each) for each in parameters}
        return self.after(node for node, tensor in self.state.items() if memory(tensor) in changed)

    def boundary(self, dirty: set[Node]) -> list[Node]:
        """Operations that are not dirty and whose values are read by dirty ones, or returned; `fixed` ones left out."""
        read = {source for node in dirty - self.fixed for source in node.all_input_nodes}
        return self.sorted((read.union(self.results) - dirty - self.fixed) & set(self.operations))

    def sorted(self, nodes: Iterable[Node]) -> list[Node]:
        """In the order of execution."""
        return sorted(nodes, key=self._order.__getitem__)

    def place(self, *parameters: Tensor) -> int:
        """When any of the parameters is first used; those that never are come last."""
        return min((self._order[node] for node in self.dirty(*parameters)), default=len(self._order))

    def piece(self, wanted: Collection[Node], known: Collection[Node]) -> Piece:
        """The operations that lead from known values (and the state and the inputs) to wanted ones, compiled."""
        known = {*known, *self.inputs, *self.state}
        needed, waiting = set(), [node for node in wanted if node not in known]
        while waiting:
            node = waiting.pop()
            if node not in needed:
                needed.add(node)
                waiting += [source for source in node.all_input_nodes if source not in known]
        reads = self.sorted(
            {source for node in needed for source in node.all_input_nodes} & known | set(wanted) & known
        )
        gives = self.sorted(set(wanted))
        return Piece(reads, gives, _compile(reads, self.sorted(needed), gives))

    def flat_inputs(self, inputs: ExampleInputs) -> Values:
        """The values of the input nodes."""
        flat = pytree.tree_flatten((as_arguments(inputs), {}))[0]
        return {node: self._laid_out(value) for node, value in zip(self.inputs, flat, strict=True)}

    def output(self, values: Values) -> Any:
        """What the network returns, from the values of the output nodes."""
        flat = [values[each] if isinstance(each, Node) else each for each in self.outputs]
        return pytree.tree_unflatten(flat, self._output_spec)

    def _laid_out(self, value: Any) -> Any:
        if self.channels_last and isinstance(value, Tensor) and value.dim() == 4:
            return value.contiguous(memory_format=torch.channels_last)
        return value


def _check(exported: ExportedProgram, model: nn.Module) -> None:
    """Refuses what a replay would get wrong."""
    signature = exported.graph_signature
    written = {spec.kind.name for spec in signature.output_specs} - {"USER_OUTPUT"}
    if written:
        what = ", ".join(sorted(each.lower().replace("_mutation", "s") for each in written))
        raise UserError(f"{type(model).__name__} changes its own {what.replace('user_', '')} in evaluation mode")
    odd = {spec.kind.name for spec in signature.input_specs} - set(READ)
    if odd:
        raise UserError(f"{type(model).__name__} reads what cannot be replayed: {', '.join(sorted(odd))}")
    for node in exported.graph_module.graph.nodes:
        if node.op == "get_attr" or isinstance(node.target, torch._ops.HigherOrderOperator):
            raise UserError(f"{type(model).__name__} has a nested graph ({node.target})")


def memory(tensor: Tensor) -> int:
    """What parameters, and views of them that the code keeps, have in common; of tensors without strides themselves."""
    return tensor.untyped_storage()._cdata if tensor.layout is torch.strided else id(tensor)


def _tensors(model: nn.Module, exported: ExportedProgram) -> dict[str, Tensor]:
    """Every tensor that the graph reads by name, the model's own object where it has one."""
    own = dict(model.named_parameters(remove_duplicate=False)), dict(model.named_buffers(remove_duplicate=False))
    return {**exported.constants, **exported.state_dict, **own[1], **own[0]}


def _compile(reads: list[Node], operations: list[Node], gives: list[Node]) -> Callable[..., tuple[Any, ...]]:
    """A function of those operations; torch.fx writes it so that values are dropped after their last use."""
    graph, copies = Graph(), {}
    for node in reads:
        copies[node] = graph.placeholder(node.name)
        copies[node].meta["val"] = node.meta.get("val")
    for node in operations:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(tuple(copies[node] for node in gives))
    graph_rewrites.fuse_relu(graph)
    graph_rewrites.work_in_place(graph)
    forward: Callable[..., tuple[Any, ...]] = GraphModule(nn.Module(), graph).forward
    return forward
