"""A model, traced once to a graph of tensor operations.

`trace`, which runs the model on shapes only (recording/record.py; torch.export for what that cannot write down) and
gives back the operations in the order of execution; each knows the module it ran in and the parameters it reads.
In-place and composite operations stay as the model wrote them (`relu_`, `linear`, `scaled_dot_product_attention`,
`lstm`), so that about a hundred rules cover what networks do. What torch.export cannot follow is code that looks at
values, and symbolic tracing (torch.fx) cannot follow it either.

    trace = trace_model(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), torch.zeros(1, 3, 9, 9))
    [operation_name(node) for node in trace.operations]     # ['conv2d', 'relu']
    module_of(trace.operations[0])                          # '0'
    trace.tensor_names[trace.operations[0].args[1]]         # '0.weight'
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
import torch.fx.config as fx_config
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import OutputKind
from torch.fx import Node
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from compress.errors import UserError
from compress.graph.calls import Call, Inputs, Unused, callable_by_name, calling, calls_of, unused_in
from compress.graph.modes import in_mode
from compress.graph.own_code import dropping
from compress.graph.recording.leaks import without_leaks
from compress.graph.recording.record import record
from compress.graph.recording.untraced import advice_on, place_of, refuse_lost, refuse_unusable, tried
from compress.graph.regions import follow_data, inline_regions, skip_idle_casts, with_repeats
from compress.graph.sizes.elsewhere import Elsewhere
from compress.graph.sizes.numbers import DECISIONS, Decision
from compress.graph.sizes.origins import counted

ExampleInputs = Inputs


@dataclass(frozen=True)
class Trace:
    """The operations of one forward pass.

    Attributes:
        operations: the calls in the order of execution (`torch.fx` nodes, `meta['val']` carries the shapes). What
            runs under `torch.no_grad()` or `torch.autocast(...)` is among them; `torch.cond` is one call.
        placeholders: what the calls read from outside: parameters, buffers, constants and inputs.
        tensor_names: for the placeholders that are parameters or buffers of the model, their full name; a
            tensor that is registered under several names has the first of them.
        results: the nodes that the model returns.
        training: whether the pass ran in training mode.
        constants: the placeholders that are tensors which the code holds or makes.
        unused: what the user declares to be in no use.
        failed: parts that are left out because they run in training mode only and fail there -> why; ''
            if nobody runs them.
        untrained: of a trace in eval mode: why there is none in training mode; empty if there is, or none is needed.
        hidden_names: for constants that are a parameter, which the code holds in a list or a closure, its name.
        alike: of a trace in eval mode: training mode was traced, too, and has the same operations.
        decisions: comparisons of sizes, by which the code may have chosen its path.
        elsewhere: of the first trace of several: what methods that none of them shows may count.
    """

    operations: list[Node]
    placeholders: list[Node]
    tensor_names: dict[Node, str]
    results: list[Node]
    training: bool
    constants: frozenset[Node] = frozenset()
    unused: tuple[Unused, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)
    untrained: str = ""
    hidden_names: dict[Node, str] = field(default_factory=dict)
    alike: bool = False
    elsewhere: tuple[Elsewhere, ...] = ()
    decisions: tuple[Decision, ...] = ()

    @functools.cached_property
    def sources(self) -> dict[Node, frozenset[Node]]:
        """What is made of nothing but parameters, buffers and constants (a masked weight) -> which of them it reads."""
        found = {node: frozenset({node}) for node in self.placeholders if node in self.tensor_names}
        found |= dict.fromkeys(self.constants, frozenset())
        for node in self.operations:
            if all(source in found for source in node.all_input_nodes):
                found[node] = frozenset[Node]().union(*(found[source] for source in node.all_input_nodes))
        return found

    @property
    def read(self) -> set[str]:
        """Names of the parameters and buffers that some operation reads."""
        return {name for node, name in self.tensor_names.items() if node.users}


def trace_model(model: nn.Module, example_inputs: ExampleInputs, training: bool = False) -> Trace:
    """Trace one forward pass; only shapes and types of the inputs matter.

    Args:
        model: any module; its weights, buffers, training flags and hooks are as before afterwards.
        example_inputs: one tensor, the tuple of the positional arguments of `forward`, a dictionary of named ones, or
            a `Call`; of a list the first call.
        training: trace what `model.train()` computes (auxiliary heads, ...) instead of `model.eval()`.

    Raises:
        UserError: the model cannot be traced; the message carries the tracer's own first line.
    """
    call = calls_of(example_inputs)[0]
    # Any code runs here. What fails may be beyond the recorder; torch.export knows more, and has the message.
    with contextlib.suppress(Exception), without_leaks(model), torch.random.fork_rng(devices=[]):
        return _recorded(model, call, training, unused_in(example_inputs, model))
    with without_leaks(model), torch.random.fork_rng(devices=[]):
        return _exported(model, call, training, unused_in(example_inputs, model))


def _recorded(model: nn.Module, call: Call, training: bool, unused: tuple[Unused, ...]) -> Trace:
    names = canonical_names(model)
    with _mode(model, training), _quiet(), counted(model), calling(model, call), plain_outputs(model):
        made = record(model, call.arguments, call.keywords, names)
    nodes = list(made.graph.nodes)
    _name_owner(nodes, call, model)
    return Trace(
        operations=[node for node in nodes if node.op == "call_function"],
        placeholders=[node for node in nodes if node.op == "placeholder"],
        tensor_names=made.tensors,
        results=[node for node in nodes if node in made.results],
        training=training,
        constants=frozenset(made.constants),
        hidden_names=_hidden_names(model, made.constants),
        unused=unused,
        decisions=tuple(DECISIONS),
    )


def _exported(model: nn.Module, call: Call, training: bool, unused: tuple[Unused, ...]) -> Trace:
    program = _counted_program(model, call, training)
    signature = program.graph_signature
    canonical = canonical_names(model)
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    # Both change the graph in place, so `names` (by placeholder) is taken before and `nodes` after.
    inline_regions(program.graph_module)
    follow_data(program.graph_module)
    skip_idle_casts(program.graph_module)
    nodes = with_repeats(program.graph_module)
    placeholders = [node for node in nodes if node.op == "placeholder"]
    given: Any = nodes[-1].args[0]
    specs = zip(given, signature.output_specs, strict=True)
    _name_owner(nodes, call, model)
    returned = [node for node, spec in specs if spec.kind is OutputKind.USER_OUTPUT]
    return Trace(
        operations=[node for node in nodes if node.op == "call_function"],
        placeholders=placeholders,
        tensor_names={
            node: canonical.get(names[node.name], names[node.name]) for node in placeholders if node.name in names
        },
        results=[node for node in nodes if node in returned],
        training=training,
        constants=frozenset(n for n in placeholders if n.name in signature.inputs_to_lifted_tensor_constants),
        hidden_names=_hidden_names(model, _constants(model, program, placeholders)),
        unused=unused,
        decisions=tuple(DECISIONS),
    )


def _constants(model: nn.Module, program: ExportedProgram, placeholders: list[Node]) -> dict[Node, Tensor]:
    """Tensors that the code holds or makes; each node knows its one."""
    targets = program.graph_signature.inputs_to_lifted_tensor_constants
    found = {node: program.constants.get(targets[node.name]) for node in placeholders if node.name in targets}
    constants = {node: each for node, each in found.items() if isinstance(each, Tensor)}
    refuse_lost(model, constants.values())
    for node, each in constants.items():
        node.meta["value"] = each
    return constants


def _hidden_names(model: nn.Module, constants: Mapping[Node, Tensor]) -> dict[Node, str]:
    """Constants that lie where a parameter lies: export takes a parameter in a list or a closure for a constant."""
    # The tracer hands the constant on as another tensor object, but over the same memory.
    places = {(own.data_ptr(), own.shape): name for name, own in model.named_parameters() if own.numel()}
    dense = {node: each for node, each in constants.items() if each.layout is torch.strided and each.data_ptr()}
    found = {node: places.get((each.data_ptr(), each.shape)) for node, each in dense.items()}
    return {node: name for node, name in found.items() if name is not None}


def _counted_program(model: nn.Module, example_inputs: ExampleInputs, training: bool) -> ExportedProgram:
    """A program whose operations know where their numbers come from, or a plain one if the model's code fails then."""
    try:
        with counted(model):
            return export_model(model, example_inputs, training)
    # `Number` is an int, but code may ask for exactly that (`type(n) is int`, a C extension): then sizes are literals.
    except UserError:
        return export_model(model, example_inputs, training)


def _name_owner(nodes: list[Node], call: Call, model: nn.Module) -> None:
    """What the method of a part runs itself belongs to that part, although nobody called the part."""
    for node in nodes if call.owner else ():
        if node.op == "call_function" and not module_of(node):
            kind = type(model.get_submodule(call.owner))
            node.meta["nn_module_stack"] = {call.owner: (call.owner, f"{kind.__module__}.{kind.__qualname__}")}


def export_model(model: nn.Module, example_inputs: ExampleInputs, training: bool = False) -> ExportedProgram:
    """The traced pass as torch's own program, which can also be run; arguments and errors as in `trace_model`."""
    call = calls_of(example_inputs)[0]
    try:
        with (
            _mode(model, training),
            _quiet(),
            callable_by_name(model),
            calling(model, call, eagerly=False),
            plain_outputs(model, _GradModeUnrecorded),
        ):
            return torch.export.export(model, call.arguments, call.keywords or None, strict=False)
    except FAILURES as error:
        refuse_unusable(model)
        reason = next(iter(str(error).strip().splitlines()), "").rstrip(".")
        with _mode(model, False):  # in training mode a pass would change statistics
            replaced, fails = ([], "") if training else tried(model, call)
        raise UserError(
            f"{type(model).__name__} cannot be traced from the example inputs "
            f"({_describe(call)}, {'training' if training else 'eval'} mode): "
            f"{type(error).__name__}: {reason}{place_of(error)}. "
            f"{advice_on(error, replaced, fails)}"
        ) from error


FAILURES = (RuntimeError, TypeError, ValueError, AttributeError, LookupError, AssertionError, ArithmeticError)
"""What a model's own code raises when it cannot be run on shapes alone, or not at all."""


@contextlib.contextmanager
def plain_outputs(
    model: nn.Module, within: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext
) -> Iterator[None]:
    """Inside, objects with fields that the model returns (a dataclass) are dictionaries, so that tensors are found.

    Its forward runs inside what `within` makes.
    """
    forward = model.forward
    own = vars(model).get("forward")

    @functools.wraps(forward)
    def plain(*arguments: Any, **named: Any) -> Any:
        with within():
            return pytree.tree_map(_fields, forward(*arguments, **named))

    vars(model)["forward"] = plain
    try:
        yield
    finally:
        vars(model).pop("forward", None)
        if own is not None:
            vars(model)["forward"] = own


class _GradModeUnrecorded(TorchFunctionMode):
    """Inside, `torch.no_grad()` works and leaves no trace: torch.export makes a sub-graph of every such block.

    In a time that grows with the square of their number; fake quantizers have one each.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch._C._set_grad_enabled:
            with torch._C.DisableTorchFunction():  # past the modes below this one, which would record it
                return func(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _fields(leaf: Any) -> Any:
    """The fields of a dataclass or of another plain object, by name; anything else as it is."""
    if dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
        return {each.name: pytree.tree_map(_fields, getattr(leaf, each.name)) for each in dataclasses.fields(leaf)}
    return pytree.tree_map(_fields, dict(vars(leaf))) if isinstance(leaf, SimpleNamespace) else leaf


def canonical_names(model: nn.Module) -> dict[str, str]:
    """Every name of every parameter and buffer -> the first name of the same tensor."""
    first: dict[int, str] = {}
    found: dict[str, str] = {}
    for source in (
        model.named_parameters(remove_duplicate=False),
        model.named_buffers(remove_duplicate=False),
    ):
        for name, tensor in source:
            found[name] = first.setdefault(id(tensor), name)
    return found


def as_arguments(example_inputs: Any) -> tuple[Any, ...]:
    """The positional arguments of `forward`: a lone tensor becomes a tuple of one."""
    return example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)


def operation_name(node: Node) -> str:
    """`conv2d` for `aten.conv2d.default`; `getitem` for the picking of one result of several."""
    packet = getattr(node.target, "overloadpacket", None)
    return str(packet).removeprefix("aten.") if packet is not None else getattr(node.target, "__name__", "?")


def module_of(node: Node) -> str:
    """Full name of the innermost module whose `forward` made the call; '' is the model itself."""
    stack = node.meta.get("nn_module_stack") or {}
    path = next(reversed(stack.values()))[0] if stack else ""
    # torch.export names the second call of a module `conv@1`.
    return str(path).split("@")[0]


def call_of(node: Node) -> tuple[str, ...]:
    """The chain of module calls that made this node: equal for all that one call's `forward` and its hooks made."""
    return tuple(node.meta.get("nn_module_stack") or ())


def source_of(node: Any) -> Any:
    """What a part was cut from: a packed weight for its rows of the queries; else the node itself."""
    while isinstance(node, Node) and node.op == "call_function" and operation_name(node) in PARTS:
        node = node.args[0]
    return node


PARTS = ("getitem", "split_with_sizes", "split", "chunk", "slice", "narrow")


def shape_of(node: Any) -> tuple[int, ...]:
    """Shape of the tensor that the node yields; () for what is not a single tensor."""
    return _sizes(node)[0] if isinstance(node, Node) and isinstance(node.meta.get("val"), Tensor) else ()


def _sizes(node: Node) -> tuple[tuple[int, ...], ...]:
    """Of each tensor that the node yields; kept with it, since a graph is walked a dozen times."""
    found: tuple[tuple[int, ...], ...] | None = node.meta.get("compress_sizes")
    if found is None:
        tensors = (each for each in pytree.tree_leaves(node.meta.get("val")) if isinstance(each, Tensor))
        found = node.meta["compress_sizes"] = tuple(sizes_of(each) for each in tensors)
    return found


UNKNOWN = -1
"""A size that the values decide, such as the number of pixels that a mask picks."""


def sizes_of(tensor: torch.Tensor) -> tuple[int, ...]:
    """A traced tensor's sizes; `UNKNOWN` for those that no trace can know."""
    return tuple(
        size if type(size) is int else UNKNOWN if free_unbacked_symbols(size) else int(size) for size in tensor.shape
    )


def has_unknown_size(node: Node) -> bool:
    """Whether a call reads or yields a tensor with a size that the values decide."""
    return any(UNKNOWN in sizes for each in (node, *node.all_input_nodes) for sizes in _sizes(each))


@contextlib.contextmanager
def _mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Set the training flag; put every module's own flag back. Fused attention would hide the operations."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # nn.MultiheadAttention would be one opaque call in eval mode
    try:
        with in_mode(model, training):
            for module in dropping(model) if training else ():
                module.training = False  # what it drops is no other network
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The tracer warns of what recurrent layers cache, and prints the operations so far before it fails.

    It would note the place in the code of each operation, which takes a quarter of the time.
    """
    log = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    level, bare = log.level, getattr(fx_config, "do_not_emit_stack_traces", False)
    log.setLevel(logging.ERROR)
    fx_config.do_not_emit_stack_traces = True
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        fx_config.do_not_emit_stack_traces = bare
        log.setLevel(level)


def _describe(call: Call) -> str:
    given = (*call.arguments, *call.keywords.values())
    shapes = [str(tuple(item.shape)) if isinstance(item, torch.Tensor) else type(item).__name__ for item in given]
    return ", ".join(shapes) if call.method == "forward" else f"{', '.join(shapes)} for {call.method!r}"
