"""Numbers that modules keep beside their weights, and that must follow the weights' new shapes.

One table module type -> what its attributes are, given its parameters. Called by `plan.py` after it has worked out
the new shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from compress.graph.sizes.settable import settable

Shapes = Mapping[str, tuple[int, ...]]
"""Name of a parameter or buffer of the module, without the module's own name -> its new shape."""


def new_attributes(module: nn.Module, shapes: Shapes, blocks: bool) -> dict[str, Any]:
    """The attributes that change.

    Args:
        module: with its old attributes.
        shapes: the new shapes of its own parameters and buffers, and of weights that it computes.
        blocks: whether whole groups of a grouped convolution went.
    """
    for kind, needed, rule in TABLE:
        # The first row that fits decides.
        if isinstance(module, kind) and all(name in shapes for name in needed):
            values = rule(module, shapes, blocks)
            return {
                name: value
                for name, value in values.items()
                if getattr(module, name, value) != value and settable(module, name)
            }
    return {}


def _convolution(module: Any, shapes: Shapes, blocks: bool) -> dict[str, Any]:
    weight = shapes["weight"]
    shared = (module.in_channels if module.transposed else module.out_channels) // module.groups
    # `shared`: channels of one group along the weight's dimension 0; if whole groups go, their size stays.
    groups = weight[0] // shared if blocks else module.groups
    ins, outs = (weight[0], weight[1] * groups) if module.transposed else (weight[1] * groups, weight[0])
    return {"in_channels": ins, "out_channels": outs, "groups": groups}


def _linear(module: Any, shapes: Shapes, blocks: bool) -> dict[str, Any]:
    return {"in_features": shapes["weight"][1], "out_features": shapes["weight"][0]}


def _bilinear(module: nn.Module, shapes: Shapes, blocks: bool) -> dict[str, Any]:
    out, left, right = shapes["weight"]
    return {"in1_features": left, "in2_features": right, "out_features": out}


def _first(attribute: str) -> Callable[[Any, Shapes, bool], dict[str, Any]]:
    """The length of whichever vector the module has, the usual ones first."""

    def rule(module: Any, shapes: Shapes, blocks: bool) -> dict[str, Any]:
        vectors = [shapes[name] for name in ("weight", "running_mean", *shapes) if name in shapes]
        return {attribute: vectors[0][0]} if vectors else {}

    return rule


def _group_norm(module: Any, shapes: Shapes, blocks: bool) -> dict[str, Any]:
    channels = shapes["weight"][0]
    return {"num_channels": channels, "num_groups": max(1, module.num_groups * channels // module.num_channels)}


def _layer_norm(module: Any, shapes: Shapes, blocks: bool) -> dict[str, Any]:
    return {"normalized_shape": tuple(shapes["weight"])}


def _embedding(module: Any, shapes: Shapes, blocks: bool) -> dict[str, Any]:
    return {"num_embeddings": shapes["weight"][0], "embedding_dim": shapes["weight"][1]}


def _recurrent(module: Any, shapes: Shapes, blocks: bool) -> dict[str, Any]:
    (rows, state), inputs = shapes["weight_hh_l0"], shapes["weight_ih_l0"][1]
    if not module.proj_size:
        return {"input_size": inputs, "hidden_size": state}
    return {"input_size": inputs, "hidden_size": rows // 4, "proj_size": state}  # 4 gates: an LSTM


def _cell(module: Any, shapes: Shapes, blocks: bool) -> dict[str, Any]:
    return {"input_size": shapes["weight_ih"][1], "hidden_size": shapes["weight_hh"][1]}


TABLE: list[tuple[type[nn.Module], tuple[str, ...], Callable[[Any, Shapes, bool], dict[str, Any]]]] = [
    (nn.modules.conv._ConvNd, ("weight",), _convolution),
    (nn.Linear, ("weight",), _linear),
    (nn.Bilinear, ("weight",), _bilinear),
    (nn.modules.batchnorm._NormBase, (), _first("num_features")),
    (nn.GroupNorm, ("weight",), _group_norm),
    (nn.LayerNorm, ("weight",), _layer_norm),
    (nn.RMSNorm, ("weight",), _layer_norm),
    (nn.PReLU, (), _first("num_parameters")),
    (nn.Embedding, ("weight",), _embedding),
    (nn.RNNBase, ("weight_ih_l0", "weight_hh_l0"), _recurrent),
    (nn.RNNCellBase, ("weight_ih", "weight_hh"), _cell),
]
"""Kind of module, the tensors that its rule goes by, the rule. Without those its numbers stay as they are."""
