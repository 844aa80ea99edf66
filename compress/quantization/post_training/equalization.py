"""Cross-layer equalization: the same function with weights whose channels are equally wide.

The scales, which pairs of layers they may pass between, and `equalize`. Paper: Nagel et al. 2019, "Data-free
quantization through weight equalization and bias correction", arXiv 1906.04721, section 4.1. Because relu(s x) = s
relu(x) for s > 0, output channel i of one layer may be divided by s_i and the weights of the next layer that read it
multiplied by s_i.
"""

import logging
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from compress.graph.trace import ExampleInputs, shape_of, trace_model
from compress.quantization.modules.layers import channel_axis
from compress.quantization.placement.sharing import input_channel_dim, is_layer, output_channel_dim, owning
from compress.quantization.placement.signs import plain_name
from compress.quantization.post_training.folding import Bias, Norms, along
from compress.selectors import submodule

logger = logging.getLogger("compress")
HOMOGENEOUS = {"relu", "leaky_relu", "prelu", "dropout", "feature_dropout", "clone", "contiguous", "detach"}
POOLING = {  # f(s x) = s f(x) for s > 0 in each channel, where channels are the second dimension
    "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d",
    "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool2d",
}  # fmt: skip
SWEEPS = 40  # over all pairs, at most
STILL = 1e-3  # a sweep in which no scale is further from 1 is the last


@dataclass(frozen=True)
class Pair:
    """Two layers with only homogeneous operations between them.

    Attributes:
        first: whose output channels are divided.
        second: which reads them, and nobody else does.
    """

    first: str
    second: str


def scales(first: Tensor, second: Tensor, bias: Tensor | None = None) -> Tensor:
    """s_i = sqrt(r1_i r2_i) / r2_i (eq. 11), r = the largest |weight| of a channel: after it both ranges are equal.

    A bias is divided by s_i too. That of a channel with next to no weight, such as behind a BatchNorm whose gamma has
    died, would become so large that the activation's range has no steps left for the others, so s_i is held where no
    bias becomes larger than what any channel reaches: its |bias| and three times the norm of its weight.

    Args:
        first: (channels, n): the rows of the first weight, one an output channel.
        second: (channels, m): what reads that channel in the second weight.
        bias: (channels,) of the first.

    Returns:
        (channels,); 1 where a channel has no weight on either side.
    """
    r1, r2 = first.abs().amax(1), second.abs().amax(1)
    usable = (r1 > 0) & (r2 > 0)
    found = torch.where(usable, torch.sqrt(r1 * r2) / torch.where(usable, r2, 1.0), 1.0)
    if bias is None or not bias.any():
        return found
    reach = (bias.abs() + 3.0 * first.norm(dim=1)).max()
    return torch.maximum(found, bias.abs() / reach)


def find_pairs(model: nn.Module, example_inputs: ExampleInputs, norms: Norms) -> list[Pair]:
    """The pairs of a network, in the order of execution: of layers whose weights are theirs alone (sharing.py)."""
    trace = trace_model(model, example_inputs)
    owned = owning(model, trace)
    layers = {node: name for name, node in owned.alone.items()}
    returned = set(trace.results)
    pairs = []
    for name, node in owned.alone.items():
        reader = _sole_reader(node, owned.owners, norms.get(name), returned)
        if reader in layers:
            pair = Pair(name, layers[reader])
            if _fits(model, pair):
                pairs.append(pair)
    return pairs


def _sole_reader(node: Node, owners: dict[Node, str], norm: str | None, returned: Collection[Node]) -> Any:
    """The layer that alone reads a layer's output, channel by channel, through homogeneous operations, or None."""
    channels = output_channel_dim(node)
    while len(node.users) == 1 and node not in returned:
        (user,) = node.users
        # Read as something else than the data: as a weight, or as the second operand.
        if user.args[0] is not node:
            return None
        if is_layer(user):
            return user if input_channel_dim(user) == channels else None
        folded = plain_name(user) == "batch_norm" and owners[user] == norm
        if not (folded or _keeps_channels(user, channels)):
            return None
        node = user
    return None


def _keeps_channels(node: Node, channels: int) -> bool:
    """Whether an operation is homogeneous and leaves channels in order in their dimension."""
    name, rank = plain_name(node), len(shape_of(node.args[0]))
    pools = name in POOLING and channels == 1 and rank > 2
    return name in HOMOGENEOUS or pools or (name == "flatten" and node.args[1:] == (1,) and channels == 1)


def _fits(model: nn.Module, pair: Pair) -> bool:
    """Whether the channels of both can be told apart: grouped layers are left out unless they are depthwise."""
    first: Any = submodule(model, pair.first)
    second: Any = submodule(model, pair.second)
    if getattr(first, "groups", 1) > 1 and channel_axis(first) == 1:
        return False
    channels, groups = output_rows(first).shape[0], getattr(second, "groups", 1)
    depthwise = groups == channels == second.weight.shape[0] and channel_axis(second) == 0
    # A multiple where the channels were flattened: each is then several inputs in a row of the linear layer.
    return (groups == 1 or depthwise) and len(input_rows(second)) % channels == 0


def output_rows(layer: Any) -> Tensor:
    """A weight as (output channels, n)."""
    return layer.weight.movedim(channel_axis(layer), 0).flatten(1)


def input_rows(layer: Any) -> Tensor:
    """A weight as (input channels, n); a depthwise one reads each channel by its own filter."""
    axis = 0 if getattr(layer, "groups", 1) > 1 else 1 - channel_axis(layer)
    return layer.weight.movedim(axis, 0).flatten(1)


@torch.no_grad()
def equalize(model: nn.Module, pairs: Collection[Pair], norms: Norms) -> None:
    """Scales every pair until no scale changes, in place; the network computes what it computed.

    Args:
        model: float, its BatchNorms folded.
        pairs: of `find_pairs`.
        norms: layer -> the BatchNorm that was folded into it.
    """
    sweeps, moved = 0, float("inf")
    while pairs and moved >= STILL and sweeps < SWEEPS:
        moved = max(_equalize(model, pair, norms) for pair in pairs)
        sweeps += 1
    logger.info("equalized %d pairs of layers in %d sweeps", len(pairs), sweeps)


def _equalize(model: nn.Module, pair: Pair, norms: Norms) -> float:
    """One pair; returns how far its scales were from 1."""
    first: Any = submodule(model, pair.first)
    second: Any = submodule(model, pair.second)
    outputs = output_rows(first)
    inputs = input_rows(second)
    repeat = len(inputs) // len(outputs)  # a flattened channel is several inputs of a linear layer
    norm = norms.get(pair.first)
    bias = Bias(first, None if norm is None else submodule(model, norm))
    s = scales(outputs, inputs.reshape(len(outputs), -1), bias.values)
    first.weight.div_(s.reshape(along(first.weight, channel_axis(first))))
    axis = 0 if getattr(second, "groups", 1) > 1 else 1 - channel_axis(second)
    second.weight.mul_(s.repeat_interleave(repeat).reshape(along(second.weight, axis)))
    bias.scale(1 / s)
    return float((s - 1).abs().max())
