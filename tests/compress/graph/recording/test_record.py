"""The recorder writes down what torch.export does, and leaves to it what it cannot write down."""

import functools
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Node

from compress.graph.calls import Call
from compress.graph.recording.fakes import Unrecordable
from compress.graph.recording.leaks import without_leaks
from compress.graph.recording.record import record
from compress.graph.sizes.origins import dims_read, numbers_of
from compress.graph.trace import (
    Trace,
    _exported,
    call_of,
    canonical_names,
    module_of,
    operation_name,
    shape_of,
    trace_model,
)


class Runs(nn.Module):
    """A network of one function, with a convolution to call."""

    shared: Tensor | None = None

    def __init__(self, function: Callable[[nn.Module, Tensor], Any]) -> None:
        super().__init__()
        self.conv, self.norm, self.width = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), 8
        self.table, self.kept = torch.arange(8.0), []  # type: ignore[var-annotated]
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def in_training(net: Any, x: Tensor) -> Tensor:
    return net.norm(net.conv(x)).relu_() if net.training else net.conv(x)


def quietly(net: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        y = net.conv(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return net.norm(net.conv(x)) + y


def assigns(net: Any, x: Tensor) -> Tensor:
    net.seen = net.conv(x)
    return net.seen * 2


def appends(net: Any, x: Tensor) -> Tensor:
    net.kept.append(net.conv(x))
    return net.kept[-1] * 2


FUNCTIONS: dict[str, Callable[[Any, Tensor], Any]] = {
    "batch norm": lambda net, x: nn.functional.relu(net.norm(net.conv(x)), inplace=True),
    "training": in_training,
    "two calls": lambda net, x: net.conv(x) + net.conv(x + 1),
    "sizes": lambda net, x: net.conv(x).view(x.size(0), net.width, -1).chunk(2, 1),
    "constants": lambda net, x: net.conv(x) * net.table.view(1, 8, 1, 1) + torch.tensor([1.0, 2.0]).sum(),
    "factories": lambda net, x: torch.zeros_like(net.conv(x)).add_(1) + torch.arange(x.shape[-1]) * 2,
    "indices": lambda net, x: net.conv(x)[:, torch.arange(0, 8, 2)],
    "in place": lambda net, x: net.conv(x).clone().flatten(1).mul_(2),
    "modes": quietly,
    "dictionary": lambda net, x: {"a": net.conv(x), "b": (x, 3)},
    "assigns": assigns,
    "appends": appends,
    "attention": lambda net, x: nn.functional.scaled_dot_product_attention(*[net.conv(x).flatten(2)] * 3),
}


def described(trace: Trace) -> list[Any]:
    """All that rules read of a trace, without the names of nodes."""
    names = {
        node: trace.tensor_names.get(node, "constant" if node in trace.constants else "") for node in trace.placeholders
    }
    own = [node for node in trace.operations if operation_name(node) != "_assert_tensor_metadata"]
    names |= {node: f"operation {number}" for number, node in enumerate(own)}
    calls: dict[Any, int] = {}

    def plain(value: Any) -> Any:
        if isinstance(value, Node):
            return names[value]
        return [plain(each) for each in value] if isinstance(value, list | tuple) else str(value)

    rows = [
        (
            str(node.target),
            module_of(node),
            calls.setdefault(call_of(node), len(calls)),
            plain(node.args),
            shape_of(node),
        )
        for node in own
    ]
    numbers = [([value for value, _ in numbers_of(node)], dims_read(node)) for node in own]
    return [rows, numbers, [names[node] for node in trace.results]]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", FUNCTIONS)
def test_it_is_the_graph_of_torch_export(kind: str, training: bool) -> None:
    net, call = Runs(FUNCTIONS[kind]), Call(torch.rand(2, 3, 6, 6))
    before = dict(vars(net))
    trace_model(net, call, training)
    assert vars(net) == before
    assert not net.kept
    with torch.random.fork_rng():
        exported = described(_exported(net, call, training, ()))
    record(net, call.arguments, {}, canonical_names(net))  # it can
    assert described(trace_model(net, call, training)) == exported


@pytest.mark.slow
@pytest.mark.parametrize(
    "net",
    [nn.LSTM(4, 6, batch_first=True), nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)],
    ids=["lstm", "transformer"],
)
def test_layers_that_keep_their_weights_elsewhere_too(net: nn.Module) -> None:
    call = Call(torch.rand(2, 5, 4))
    assert described(trace_model(net, call)) == described(_exported(net, call, False, ()))
    assert all(type(each) is nn.Parameter for each in net.parameters())


def exchanges(net: Any, x: Tensor) -> Tensor:
    net.norm.running_mean = net.norm.running_mean + 1
    return net.conv(x)


def test_gradients_that_the_code_asks_for() -> None:
    net: Any = Runs(lambda net, x: net.conv(x) if net.conv.weight.grad is None else x * 2)
    net.conv.weight.grad = torch.ones_like(net.conv.weight)
    call = Call(torch.rand(2, 3, 6, 6))
    assert described(trace_model(net, call)) == described(_exported(net, call, False, ()))


def test_a_seed_in_the_code_moves_no_random_numbers() -> None:
    net = Runs(lambda net, x: [torch.manual_seed(0), net.conv(x)][1])
    before = torch.get_rng_state()
    trace_model(net, torch.rand(2, 3, 6, 6, generator=torch.Generator()))
    assert torch.equal(torch.get_rng_state(), before)


BEYOND: dict[str, Callable[[Any, Tensor], Any]] = {
    "a value": lambda net, x: net.conv(x) if x.sum() > 0 else x,
    "data": lambda net, x: setattr(x, "data", x * 2) or net.conv(x),
    "vmap": lambda net, x: torch.vmap(lambda image: image * 2)(net.conv(x)),
    "condition": lambda net, x: torch.cond(x.sum() > 0, lambda y: y * 2, lambda y: y * 3, (net.conv(x),)),
    "layout": lambda net, x: net.conv(x).transpose_(1, 2),
    "exchanges": exchanges,
}


@pytest.mark.parametrize("kind", BEYOND)
def test_what_it_cannot_write_down_it_leaves_to_torch_export(kind: str) -> None:
    net = Runs(BEYOND[kind])
    before = {name: dict(vars(module)) for name, module in net.named_modules()}
    values = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises((Unrecordable, RuntimeError, AssertionError)):
        record(net, (torch.rand(2, 3, 6, 6),), {}, canonical_names(net))
    assert all(vars(module).keys() == before[name].keys() for name, module in net.named_modules())
    assert not net.kept
    assert all(torch.equal(tensor, values[name]) for name, tensor in net.state_dict().items())


def test_a_part_under_two_names_is_named_as_it_is_called() -> None:
    net = Runs(lambda net, x: net.other(x))
    net.other = net.conv
    call = Call(torch.rand(2, 3, 6, 6))
    assert described(trace_model(net, call)) == described(_exported(net, call, False, ()))


class Block(nn.Module):
    """A convolution and an activation, each of which others may have, too."""

    def __init__(self, act: nn.Module, conv: nn.Module | None = None) -> None:
        super().__init__()
        self.conv, self.act = conv or nn.Conv2d(3, 3, 1), act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x))


def shared_parts(kind: str) -> tuple[nn.Module, bool]:
    """A network with parts of two names, and whether the recorder knows by which they are called."""
    act, conv = nn.SiLU(), nn.Conv2d(3, 3, 1)
    net: Any = Runs(lambda net, x: net.two(net.one(x)))
    if kind == "activation of blocks":
        net.one, net.two = Block(act), nn.Sequential(Block(act), act)
    elif kind == "several times in a sequence":
        net.one, net.two = nn.Sequential(conv, act, nn.Conv2d(3, 3, 1), act), nn.Sequential(act, conv, act)
    elif kind == "convolution of blocks":
        net.one, net.two = Block(nn.ReLU(), conv), Block(nn.ReLU(), conv)
    elif kind == "a block":
        net.one = net.two = Block(act)
    elif kind == "from outside":
        net.one, net.two = Block(act), Block(act)
        net.function = lambda net, x: net.two.act(net.one.conv(x))
    elif kind == "in a list":
        net.one, net.two = nn.ModuleList([conv, act, nn.Conv2d(3, 3, 1), act]), nn.Identity()
        net.function = lambda net, x: functools.reduce(lambda y, layer: layer(y), net.one, x)
    return net, kind in ("activation of blocks", "several times in a sequence", "convolution of blocks")


@pytest.mark.parametrize(
    "kind",
    [
        "activation of blocks",
        "several times in a sequence",
        "convolution of blocks",
        "a block",
        "from outside",
        "in a list",
    ],
)
def test_parts_of_two_names(kind: str) -> None:
    net, recorded = shared_parts(kind)
    call = Call(torch.rand(2, 3, 6, 6))
    exported = described(_exported(net, call, False, ()))
    if recorded:
        record(net, call.arguments, {}, canonical_names(net))
    else:
        with pytest.raises(Unrecordable, match="two names"):
            record(net, call.arguments, {}, canonical_names(net))
    assert described(trace_model(net, call)) == exported
    assert all(type(each) is nn.Parameter for each in net.parameters())


class Tables:
    """An object that keeps a table."""

    table: Tensor | None = None


@functools.lru_cache
def made_once(width: int) -> Tensor:
    return torch.arange(float(width))


def by_object(net: Any) -> Tensor:
    if net.tables.table is None:
        net.tables.table = torch.arange(8.0)
    return net.tables.table


def by_class(net: Any) -> Tensor:
    if Runs.shared is None:
        Runs.shared = torch.arange(8.0)
    return Runs.shared


def by_attribute(net: Any) -> Tensor:
    if not hasattr(net, "late"):
        net.late = torch.arange(8.0)
    return net.late


def by_buffer(net: Any) -> Tensor:
    if not hasattr(net, "late"):
        net.register_buffer("late", torch.arange(8.0))
    return net.late


def by_queue(net: Any) -> Tensor:
    if not net.queue:
        net.queue.append(torch.arange(8.0))
    return net.queue[0]


def by_size(net: Any) -> Tensor:
    """As ultralytics keeps anchors: a number beside the table says for which size it was made."""
    if net.made_for != 8:
        net.table, net.made_for = torch.arange(8.0), 8
    return net.table


def by_size_elsewhere(net: Any) -> Tensor:
    if net.made_for != 8:
        net.tables.table, net.made_for = torch.arange(8.0), 8
    return net.tables.table


TABLES: dict[str, Callable[[Any], Tensor]] = {
    "dictionary": lambda net: net.nested["a"].setdefault(8, torch.arange(8.0)),
    "ordered": lambda net: net.ordered.setdefault(8, torch.arange(8.0)),
    "late": lambda net: net.late_ones[0].setdefault(8, torch.arange(8.0)),
    "object": by_object,
    "class": by_class,
    "attribute": by_attribute,
    "buffer": by_buffer,
    "queue": by_queue,
    "size": by_size,
    "size elsewhere": by_size_elsewhere,
    "cached": lambda net: made_once(net.width),
}


@pytest.mark.parametrize("kind", TABLES)
def test_no_tensor_of_the_tracer_stays_in_what_the_code_keeps(kind: str) -> None:
    net: Any = Runs(lambda net, x: net.conv(x) * TABLES[kind](net).view(1, 8, 1, 1))
    net.nested, net.ordered, net.late_ones = {"a": {}}, OrderedDict(), defaultdict(dict)
    net.tables, net.queue = Tables(), deque()
    net.table, net.made_for = torch.zeros(0), 0
    trace_model(net, torch.rand(2, 3, 6, 6))
    assert type(net(torch.rand(2, 3, 6, 6))) is Tensor


def test_what_says_that_a_table_exists_goes_with_it() -> None:
    """torch.export, for networks beyond the recorder, puts back tensors alone."""
    net: Any = Runs(lambda net, x: net.conv(x) * by_size(net).view(1, 8, 1, 1))
    net.table, net.made_for = torch.zeros(0), 0
    with without_leaks(net):
        _exported(net, Call(torch.rand(2, 3, 6, 6)), False, ())
    assert net.made_for == 0
