"""From the units that go to the recipe that takes them out.

Which positions stay, the new shapes, and what follows from them: module attributes and attention
modules that need an explicit head size. Called by `thin` and by `trial.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from compress.graph.channels import ChannelGraph, Place
from compress.graph.coupling import FULL_WIDTH
from compress.thinning.attention.exchange import head_attributes, head_spec
from compress.thinning.attributes import new_attributes
from compress.thinning.complete import gone_positions
from compress.thinning.recipe import Recipe, tensors_of


def plan_recipe(model: nn.Module, graph: ChannelGraph, removed: Mapping[str, list[int]]) -> Recipe:
    """The recipe that removes units from a model.

    Args:
        model: as it is before.
        graph: of the model.
        removed: group name -> units that go.
    """
    tensors = tensors_of(model)
    staying: dict[Place, np.ndarray] = {}
    for group in graph.groups():
        for (name, dim), gone in gone_positions(group, removed.get(group.name, [])).items():
            size = len(group.members[name, dim])
            # setdefault: several groups can have positions in one
            # place (a concatenation; heads and positions within them).
            stays = staying.setdefault((name, dim), np.ones(size, dtype=bool))
            stays[gone] = False
    kept: dict[str, dict[int, torch.Tensor]] = {}
    sizes: dict[str, dict[int, int]] = {}
    counts: dict[str, dict[str, Any]] = {}
    computed: dict[str, dict[int, int]] = {}
    padded: dict[str, tuple[int, int]] = {}
    for (name, dim), stays in staying.items():
        if name.endswith(f".{FULL_WIDTH}"):
            padded[owner_of(name)] = graph.padded[owner_of(name)], len(stays)
            continue
        if name in graph.computed:
            computed.setdefault(name, {})[dim] = int(stays.sum())
            continue
        if name not in tensors:  # a number of a module without tensors, such as a bare norm's num_features
            counts.setdefault(owner_of(name), {})[name.rpartition(".")[2]] = int(stays.sum())
            continue
        kept.setdefault(name, {})[dim] = torch.as_tensor(np.flatnonzero(stays))
        sizes.setdefault(name, {})[dim] = len(stays)
    headed = _heads(model, kept)
    attributes = _attributes(model, graph, kept, computed)
    for name, values in (*counts.items(), *headed.items()):
        attributes.setdefault(name, {}).update(values)
    return Recipe(kept, sizes, attributes, tuple(headed), padded=padded)


def owner_of(tensor: str) -> str:
    """The module that a parameter belongs to: `layer1.conv` of `layer1.conv.weight`."""
    return tensor.rpartition(".")[0]


def _heads(model: nn.Module, kept: Mapping[str, Mapping[int, torch.Tensor]]) -> dict[str, dict[str, Any]]:
    """Attention modules whose projections change -> the number and sizes of their heads."""
    found = {}
    for name, module in model.named_modules():
        spec = head_spec(module)
        full = {own: f"{name}.{own}".lstrip(".") for own in spec.projections} if spec else {}
        if spec and any(projection in kept for projection in full.values()):
            rows = {own: kept[projection][0] for own, projection in full.items() if 0 in kept.get(projection, {})}
            found[name] = head_attributes(module, spec, rows)
    return found


def _attributes(
    model: nn.Module,
    graph: ChannelGraph,
    kept: dict[str, dict[int, torch.Tensor]],
    computed: Mapping[str, Mapping[int, int]],
) -> dict[str, dict[str, Any]]:
    """New attributes of every module that owns a changed tensor under any of its names, or computes one."""
    # Recipes name a shared tensor by its first name; every module that holds it has to change its numbers.
    first = {id(tensor): name for name, tensor in tensors_of(model).items()}
    found: dict[str, dict[str, Any]] = {}
    for module_name, module in model.named_modules():
        own = {**module._parameters, **module._buffers}
        names = {key: first[id(tensor)] for key, tensor in own.items() if tensor is not None}
        made = {name: computed.get(name, {}) for name in graph.computed if owner_of(name) == module_name}
        if not any(made.values()) and not any(name in kept for name in names.values()):
            continue
        shapes = {key: _new_shape(own[key], kept.get(name, {})) for key, name in names.items()}
        shapes = {key: shape for key, shape in shapes.items() if shape}
        for name, dims in made.items():
            full = graph.computed[name]
            shapes[name.rpartition(".")[2]] = tuple(dims.get(dim, size) for dim, size in enumerate(full))
        values = new_attributes(module, shapes, module_name in graph.block_modules)
        if values:
            found[module_name] = values
    return found


def _new_shape(tensor: Any, dims: Mapping[int, torch.Tensor]) -> tuple[int, ...]:
    return tuple(len(dims[dim]) if dim in dims else size for dim, size in enumerate(tensor.shape))
