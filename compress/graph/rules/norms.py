"""Rules of norms, and of statistics over the channels.

`pin_statistic`: what is computed over the channels changes with each that goes, unless the layer that computes it can
do so over the width before (`compress/thinning/norms.py`). Called through the table in `rules/table.py`.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from torch import nn
from torch.fx import Node

from compress.graph.coupling import FULL_WIDTH, Coupling, Rule
from compress.graph.pointwise import is_pointwise
from compress.graph.regions import LayerCall
from compress.graph.sizes.computed import follow
from compress.graph.sizes.numbers import Kept
from compress.graph.sizes.origins import dims_read, form_of, forms_of
from compress.graph.trace import module_of, operation_name, shape_of
from compress.graph.units import Ids
from compress.graph.values import Result, Value


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


ANY_ORDER = _names(
    "mean var std var_mean std_mean sum amax amin max min norm linalg_vector_norm layer_norm rms_norm group_norm "
    "permute transpose unsqueeze squeeze contiguous clone to _to_copy type_as float double half dropout detach "
    "expand_as alias getitem"
)
"""Operations beside the point-wise ones to which it does not matter where a channel stands."""
OF_WEIGHTS = _names("view reshape expand")
"""The same, of what is made of parameters only."""
WITH_SPACE = (
    "norm over the channels and other dimensions at once, with a weight for each number; of an image "
    "`nn.GroupNorm(1, C)` has the mean and variance of `nn.LayerNorm([C, H, W])` and weights that channels can leave"
)


def pin_statistic(c: Coupling, ids: Ids | None, reason: str, can_go: bool = True) -> None:
    """Pin what a statistic is taken over, unless its layer can take it over zeros in place of what went."""
    if not (can_go and _widens(c, ids)):
        c.pin_inexact(ids, reason, can_go)


def sum_over(c: Coupling, ids: Ids | None) -> None:
    """A sum of zeros needs no width, but what the code divides it by may be one, where it has read a size."""
    call = c.calls.get(c.node)
    if call is not None and dims_read(call.source):
        _widens(c, ids)


def _widens(c: Coupling, ids: Ids | None) -> bool:
    """Whether the layer of the current call can compute over the width before; from now on it does."""
    call = c.calls.get(c.node)
    return ids is not None and call is not None and _takes_any_order(c, call) and _reads_zeros(c, call, ids)


def _takes_any_order(c: Coupling, call: LayerCall) -> bool:
    """Whether a layer without parts does nothing to which it would matter where a channel stands."""
    layer = c.modules.get(call.module) if call.module else None
    if layer is None or any(True for _ in layer.children()):
        return False
    # Padding puts the channels that are left to their old places and zeros between them: exact only for code that
    # neither reshapes nor slices the channels.
    run = [node for node, each in c.calls.items() if each is call]
    return all(_any_order(c, node) and not _reads_table(c, node) for node in run)


def _any_order(c: Coupling, node: Node) -> bool:
    name = operation_name(node)
    return is_pointwise(node) or name in ANY_ORDER or (c.is_weight(node) and name in OF_WEIGHTS)


def _reads_table(c: Coupling, node: Node) -> bool:
    """Whether a call does more than multiply with a buffer of numbers for each channel, which no mask sets to zero."""
    buffers = [x for x in node.all_input_nodes if c.name_of(x) is not None and c.name_of(x) not in c.parameters]
    tables = [buffer for buffer in buffers if c.read(buffer).labelled()]
    # 0 * table is 0, but 0 + table is not: after an addition the places of removed channels would enter the statistic.
    return bool(tables) and operation_name(node) not in ("mul", "mul_")


def _reads_zeros(c: Coupling, call: LayerCall, ids: Ids) -> bool:
    """Whether these are all channels of the tensor that a layer reads, and zero there where masked; notes its width."""
    x = c.read(call.source)
    dims = x.labelled()
    if len(dims) != 1 or not x.zero[dims[0]] or shape_of(call.result) != x.shape:
        return False
    # Counted from the end: the same layer may read (N, C) in one call and (N, T, C) in another.
    own, dim = x.units[dims[0]], dims[0] - len(x.shape)
    assert own is not None
    if set(c.units.roots(ids).ravel().tolist()) != set(c.units.roots(own).tolist()):
        return False
    if c.padded.setdefault(call.module, dim) != dim:
        return False
    known = c.tensors.setdefault(f"{call.module}.{FULL_WIDTH}", Value.of((len(own),), {0: own}, {}))
    c.join(known.units[0], own)
    return True


def channel_norm(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """batch_norm and instance_norm: each channel by itself; its scale and shift make it exactly zero."""
    x = c.read(a["input"])
    ids = x.units[1]
    for name in ("weight", "bias", "running_mean", "running_var"):
        if a.get(name) is not None and x.shape[1] > 1:
            ids = c.join(ids, c.weight(a[name], name).units[0])
    bare = all(a.get(name) is None for name in ("weight", "bias", "running_mean"))
    if bare and ids is not None and c.owner(nn.modules.batchnorm._NormBase) is not None:
        c.attribute("num_features", ids)
    for space in x.units[2:]:
        c.pin(space, "normalised along")
    scaled, shifted = (a.get(name) is not None and c.read(a[name]).zero[0] for name in ("weight", "bias"))
    # y = (x - mean) / sqrt(var + eps) * weight + bias is 0 in a masked channel if weight and bias are masked there,
    # whatever x is. Without a weight, x has to be 0, and so has its mean: no running one.
    own = x.zero[1] and a.get("running_mean") is None  # 0 is its own mean: a standardised weight
    return Value.of(x.shape, {0: x.units[0], 1: ids}, {1: (scaled or own) and (shifted or a.get("bias") is None)})


def group_norm(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """Only whole groups of the norm can go, or the statistics of the rest would change."""
    x, groups = c.read(a["input"]), a["num_groups"]
    ids = x.units[1]
    for name in ("weight", "bias"):
        if a.get(name) is not None:
            ids = c.join(ids, c.weight(a[name], name).units[0])
    if ids is not None and groups == 1:
        pin_statistic(c, ids, "norm over the channel dimension")
    elif ids is not None:
        # Each group of the norm becomes one unit, so that its mean and variance are over the same channels as before.
        first = c.units.tie_along(ids.reshape(groups, -1), 1)
        form = form_of(c.node, groups)
        if form is not None:
            follow(c, form, first)
        elif c.owner(nn.GroupNorm) is None or a.get("weight") is None:
            c.pin(ids, "the number of groups is not that of a module with weights")
    for space in x.units[2:]:
        c.pin(space, "normalised along")
    affine = all(a.get(name) is not None and c.read(a[name]).zero[0] for name in ("weight", "bias"))
    return Value.of(x.shape, {0: x.units[0], 1: ids}, {1: affine})


def layer_norm(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """Norms over the last dimensions: their statistics change with each channel that goes."""
    x, count = c.read(a["input"]), len(a["normalized_shape"])
    units = dict(enumerate(x.units))
    weights = [c.weight(a[name], name) for name in ("weight", "bias") if a.get(name) is not None]
    for k in range(len(x.shape) - count, len(x.shape)):
        for weight in weights:
            if x.shape[k] > 1:
                units[k] = c.join(units[k], weight.units[k - len(x.shape)])
        pin_statistic(c, units[k], "norm over the channel dimension" if count == 1 else WITH_SPACE, can_go=count == 1)
        if (ids := units[k]) is not None and count == 1:
            _follow_shape(c, a, ids)
    return Value.of(x.shape, units, {len(x.shape) - 1: len(weights) == 2 and all(w.zero[0] for w in weights)})


def weight_norm(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """v times g over the length of v, a length for each position of `dim`, or one (-1): zeros add nothing to it."""
    v, g, dim = c.read(a["v"]), c.read(a["g"]), a["dim"]
    units = list(v.units)
    if dim >= 0 and v.shape[dim] > 1:
        units[dim] = c.join(units[dim], g.units[dim])
        c.pin(units[dim], "weight norm divides by the length of a filter, which is 0 where it is masked")
    value = Value(v.shape, tuple(units), v.zero)
    return value if operation_name(node) == "_weight_norm" else [value, Value.fixed(g.shape)]


def _follow_shape(c: Coupling, a: dict[str, Any], ids: Ids) -> None:
    """The shape that a norm is over: torch's own module keeps it, other code gives it."""
    if c.owner((nn.LayerNorm, nn.RMSNorm)) is None:
        form = forms_of(c.node, a["normalized_shape"])[0]
        follow(c, form or {}, ids)
        if form is None:
            c.doubt(ids)
    elif a.get("weight") is None:
        follow(c, {Kept(module_of(c.node), "normalized_shape/0"): Fraction(1)}, ids)


RULES: dict[str, Rule] = {
    **dict.fromkeys(("batch_norm", "instance_norm"), channel_norm),
    "group_norm": group_norm,
    **dict.fromkeys(("layer_norm", "rms_norm"), layer_norm),
    **dict.fromkeys(("_weight_norm", "_weight_norm_interface"), weight_norm),
}
