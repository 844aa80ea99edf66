"""Numbers that modules keep beside their weights, and that must follow the weights' new shapes.

Here: one table module type -> what its attributes are, given its parameters. Not here: weights. Called by
`plan.py` after it has worked out the new shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from compress.graph.settable import settable

Shapes = Mapping[str, tuple[int, ...]]
"""Name of a parameter or buffer of the module, without the module's own name -> its new shape."""


def new_attributes(module: nn.Module, shapes: Shapes, blocks: bool) -> dict[str, Any]:
    """The attributes that change.

    Args:
        module: with its old attributes.
        shapes: the new shapes of its own parameters and buffers.
        blocks: whether whole groups of a grouped convolution went.
    """
    for kind, rule in TABLE:
        if isinstance(module, kind):
            values = rule(module, shapes, blocks)
            return {
                name: value
                for name, value in values.items()
                if getattr(module, name, value) != value and settable(module, name)
            }
    return {}


def _convolution(module: Any, shapes: Shapes, blocks: bool) -> dict[str, Any]:
    weight = shapes["weight"]
    shared = module.weight.shape[0] // module.groups
    groups = weight[0] // shared if blocks else module.groups
    ins, outs = (weight[0], weight[1] * groups) if module.transposed else (weight[1] * groups, weight[0])
    return {"in_channels": ins, "out_channels": outs, "groups": groups}


def _linear(module: Any, shapes: Shapes, blocks: bool) -> dict[str, Any]:
    return {"in_features": shapes["weight"][1], "out_features": shapes["weight"][0]}


def _first(attribute: str) -> Callable[[Any, Shapes, bool], dict[str, Any]]:
    """The length of whichever vector the norm has."""
    return lambda module, shapes, blocks: {attribute: next(iter(shapes.values()))[0]} if shapes else {}


def _group_norm(module: Any, shapes: Shapes, blocks: bool) -> dict[str, Any]:
    if not shapes:
        return {}
    channels = shapes["weight"][0]
    return {"num_channels": channels, "num_groups": module.num_groups * channels // module.num_channels}


def _layer_norm(module: Any, shapes: Shapes, blocks: bool) -> dict[str, Any]:
    return {"normalized_shape": tuple(shapes["weight"])} if shapes else {}


def _embedding(module: Any, shapes: Shapes, blocks: bool) -> dict[str, Any]:
    return {"num_embeddings": shapes["weight"][0], "embedding_dim": shapes["weight"][1]}


def _recurrent(module: Any, shapes: Shapes, blocks: bool) -> dict[str, Any]:
    return {"input_size": shapes["weight_ih_l0"][1], "hidden_size": shapes["weight_hh_l0"][1]}


def _cell(module: Any, shapes: Shapes, blocks: bool) -> dict[str, Any]:
    return {"input_size": shapes["weight_ih"][1], "hidden_size": shapes["weight_hh"][1]}


TABLE: list[tuple[type[nn.Module], Callable[[Any, Shapes, bool], dict[str, Any]]]] = [
    (nn.modules.conv._ConvNd, _convolution),
    (nn.Linear, _linear),
    (nn.modules.batchnorm._NormBase, _first("num_features")),
    (nn.GroupNorm, _group_norm),
    (nn.LayerNorm, _layer_norm),
    (nn.PReLU, _first("num_parameters")),
    (nn.Embedding, _embedding),
    (nn.RNNBase, _recurrent),
    (nn.RNNCellBase, _cell),
]
