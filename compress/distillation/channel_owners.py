"""Which parameter a layer's channels belong to, so that features can follow when thinning cuts that parameter.

`carriers`.
"""

from collections.abc import Iterable

import numpy as np
from torch import nn
from torch.fx import Node

from compress.distillation.capture import OUTPUT, Call
from compress.errors import UserError
from compress.graph.coupling import Coupling
from compress.graph.rules.table import RULES
from compress.graph.trace import Trace, shape_of, trace_model
from compress.graph.units import Ids
from compress.selectors import canonical, unwrapped

Carrier = tuple[str, int]
"""A parameter's full name, and the dimension of it along which the channels lie in the same order."""


def carriers(model: nn.Module, layers: Iterable[str], call: Call) -> dict[str, Carrier | None]:
    """For each layer a parameter whose positions are its output's channels; None where no channel can be removed.

    A ReLU behind a BatchNorm behind a convolution has the convolution's weight, dimension 0, or one coupled to it.

    Args:
        model: as it is now; it is traced.
        layers: canonical names.
        call: whose positional arguments the model is traced with.

    Raises:
        UserError: the model cannot be traced, or the channels of a layer are those of several parameters.
    """
    inner = unwrapped(model)
    if call.kwargs:
        raise UserError("features of a thinned network are followed by tracing it, which needs positional inputs only")
    trace = trace_model(inner, call.args)
    coupling = Coupling(inner, RULES)
    coupling.walk(trace)
    return {layer: _carrier(coupling, _last_operation(trace, layer, inner), layer) for layer in layers}


def _last_operation(trace: Trace, layer: str, model: nn.Module) -> Node:
    """The operation that a layer ends with."""
    if layer == OUTPUT:
        return trace.results[0]
    found = [node for node in trace.operations if layer in _modules_of(node, model)]
    if not found:
        raise UserError(
            f"the layer {layer!r} computes nothing by itself; name the layer before it, whose output it passes"
        )
    return found[-1]


def _modules_of(node: Node, model: nn.Module) -> set[str]:
    stack = node.meta.get("nn_module_stack") or {}
    return {canonical(str(path).split("@")[0], model) for path, _ in stack.values()}


def _carrier(coupling: Coupling, node: Node, layer: str) -> Carrier | None:
    shape = shape_of(node)
    value = coupling.values(node)[0]
    dims = (1, -1) if len(shape) > 3 else (-1, 1)[: len(shape) - 1]  # (N, C, L) of Conv1d, (N, tokens, C) of Linear
    ids = next((value.units[dim] for dim in dims if value.units[dim] is not None), None)
    if ids is None:
        return None
    wanted = coupling.units.roots(ids)
    for name in coupling.parameters:
        for dim, own in enumerate(coupling.tensors[name].units if name in coupling.tensors else ()):
            if own is not None and (name, dim) not in coupling.reads and _equal(coupling.units.roots(own), wanted):
                return name, dim
    raise UserError(
        f"the channels of {layer!r} are those of several layers together, so features compared channel by channel "
        "cannot follow them when the network is thinned; name another layer, or compare by attention or similarity"
    )


def _equal(left: Ids, right: Ids) -> bool:
    return left.shape == right.shape and bool(np.array_equal(left, right))
