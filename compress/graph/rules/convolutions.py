"""Rules of convolutions: dense, grouped, depthwise, transposed, deformable, with weights of a layer or of the code.

Which dimension of the weight meets which dimension of the activation, and what may leave a grouped one. Called through
the table in `rules/table.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn
from torch.fx import Node

from compress.graph.coupling import Coupling, Rule
from compress.graph.rules.layers import NOT_ZERO_SUMMED, contract
from compress.graph.rules.shapes import boundary
from compress.graph.sizes.computed import follow, units_of
from compress.graph.sizes.origins import form_of
from compress.graph.trace import operation_name, shape_of
from compress.graph.units import Ids
from compress.graph.values import Result, Value

CONVOLUTIONS = (
    nn.modules.conv._ConvNd  # the only common base of the six kinds
)


def convolution(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """x (N, I, ..), weight (O, I/g, ..), or transposed (I, O/g, ..); bias (O); result (N, O, ..)."""
    x, weight, bias = c.read(a["input"]), c.weight(a["weight"], "weight"), c.read(a["bias"])
    transposed = "transpose" in operation_name(node)
    # 1 for a batch, 0 for an input without a batch dimension: (C, H, W) is allowed.
    channel = len(x.shape) - len(weight.shape) + 1
    for ids in x.units[channel + 1 :]:
        c.pin(ids, "convolved along")
    # No reason given: that a kernel keeps its size is no news, and such pins are left out of the listing.
    for ids in weight.units[2:]:
        c.pin(ids, "")
    if a["groups"] == 1:
        reads, writes = (0, 1) if transposed else (1, 0)
        c.reads_along(a["weight"], reads)
        contract(c, x, channel, weight, reads)
        out = weight.units[writes]
    else:
        out = _grouped(c, a, Value(x.shape[channel : channel + 1], (x.units[channel],), (x.zero[channel],)), weight)
    shape = shape_of(node)
    units: dict[int, Ids | None] = {k: x.units[k] for k in range(channel)}
    # A sample of zeros stays zero only if no bias is added to it.
    zero = {k: x.zero[k] and a["bias"] is None for k in range(channel)}
    if a["bias"] is not None and shape[channel] > 1:
        out = c.join(out, bias.units[0])
    # Whether an output channel that is masked comes out as exactly
    # 0: its row of the weight is, and so is its bias (below).
    clean = weight.zero[1 if transposed else 0] and (weight.zero[0] or a["groups"] == 1)
    zero[channel] = clean and (a["bias"] is None or bias.zero[0])
    return Value.of(shape, {**units, channel: out}, zero)


def deformable(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """x (N, I, H, W), weight (O, I, ..), offsets and mask (N, .., H, W): channels are read at the same places.

    Each of several groups of offsets loses the same positions, so that those that are left are parts of one size again.
    """
    if a["groups"] != 1:
        return boundary(c, node, a)
    x, weight, bias = c.read(a["input"]), c.weight(a["weight"], "weight"), c.read(a["bias"])
    for value in (c.read(a["offset"]), c.read(a["mask"])):
        c.pin_all(value, "where a deformable convolution reads")
    for ids in x.units[2:]:
        c.pin(ids, "convolved along")
    for ids in weight.units[2:]:
        c.pin(ids, "")
    for ids in (x.units[1], weight.units[1]):
        if ids is not None:
            c.units.tie_along(ids.reshape(a["offset_groups"], -1), 0)
    c.reads_along(a["weight"], 1)
    contract(c, x, 1, weight, 1)
    out = c.join(weight.units[0], bias.units[0]) if weight.shape[0] > 1 else None
    return Value.of(shape_of(node), {1: out}, {1: weight.zero[0] and bias.zero[0]})


def _grouped(c: Coupling, a: dict[str, Any], read: Value, weight: Value) -> Ids | None:
    """g convolutions side by side: either whole ones go, or the same positions go from each of them.

    With x (I), weight dims (O, I/g): whole ones tie every input and output of a block to one unit; positions tie
    input p of every block to weight column p, and output p of every block to one another.
    """
    groups, x, transposed = a["groups"], read.units[0], "transpose" in operation_name(c.node)
    if x is None:
        x = c.units.fresh(weight.shape[0] if transposed else weight.shape[1] * groups)
        c.pin(x, "coupled to a tensor of fixed size")
    full, part = weight.units[0], weight.units[1]
    if full is None and weight.shape[0] == groups and not transposed and part is not None:
        _each_part(c, x, groups, read, weight)  # a filter for each sample, which another one gives
        return None
    if full is None:
        for ids in (x, part):
            c.pin(ids, "coupled to a weight of fixed size")
        return None
    # Both ways keep the weight a grouped weight. Taken first is the one that leaves more units: 32 groups of 4 channels
    # have 32 blocks but only 4 positions.
    inside = max(weight.shape[1], weight.shape[0] // groups)
    form = form_of(c.node, groups)
    # The code counts them, as where a fixed filter goes over each channel; the size of a batch (each sample has weights
    # of its own) counts none.
    if form is not None and any(units_of(c, origin) is not None for origin in form):
        blocks = _whole_blocks(c, a, x, weight, transposed)
        follow(c, form, full.reshape(groups, -1)[:, 0])
        return blocks
    own = c.owner(CONVOLUTIONS) is not None
    ways = ["blocks", "positions"] if groups >= inside else ["positions", "blocks"]
    # Depthwise (with a multiplier): one position per group, and that one cannot go.
    depthwise = weight.shape[1] == 1 and not transposed
    ways = ["blocks"] if depthwise else [way for way in ways if way == "positions" or own]
    way = c.choose(ways, full)
    if way == "blocks":
        return _whole_blocks(c, a, x, weight, transposed)
    if way is None:
        reason = f"a trial without whole groups of its {groups}, or without a part of each, failed" if own else LITERAL
        c.pin(x, reason)
        c.pin(full, reason)
        c.pin(part, "")
        if not transposed:
            return full
        out = c.units.fresh(weight.shape[1] * groups)
        c.pin(out, reason)
        return out
    # Channel number = block * (channels per block) + position: reshape(groups, -1) has a block in each row, tying along
    # 0 ties equal positions, tying along 1 (`_whole_blocks`) whole blocks.
    outputs = c.units.tie_along(full.reshape(groups, -1), 0)
    if transposed:
        c.reads_along(a["weight"], 0)
        c.join(c.units.tie_along(x.reshape(groups, -1), 0), outputs)
        # Transposed: dimension 1 of the weight is O/g, one set of output positions that all groups share.
        return None if part is None else np.tile(part, groups)
    c.reads_along(a["weight"], 1)
    _each_part(c, x, groups, read, weight)
    return full


def _each_part(c: Coupling, x: Ids, groups: int, read: Value, weight: Value) -> None:
    """The same positions of every group go, with their column of the weight."""
    ids = c.join(c.units.tie_along(x.reshape(groups, -1), 0), weight.units[1])
    if not (read.zero[0] or weight.zero[1]):
        c.pin(ids, NOT_ZERO_SUMMED)


LITERAL = "the number of groups is a literal"


def _whole_blocks(c: Coupling, a: dict[str, Any], x: Ids, weight: Value, transposed: bool) -> Ids:
    groups, full = a["groups"], weight.units[0]
    assert full is not None
    caller = c.caller()
    assert caller is not None
    c.block_modules.add(c.first_name(caller))
    # Within a block nothing goes, or the weight would no longer be rectangular.
    c.pin(weight.units[1], "")
    blocks = c.units.tie_along(full.reshape(groups, -1), 1)
    c.units.tie(c.units.tie_along(x.reshape(groups, -1), 1), blocks)
    return np.repeat(blocks, weight.shape[1]) if transposed else full


RULES: dict[str, Rule] = {
    "torchvision.deform_conv2d": deformable,
    **dict.fromkeys((f"conv{t}{n}d" for t in ("", "_transpose") for n in (1, 2, 3)), convolution),
}
