"""From masks of single weights to whole coupled units.

Which units a set of masks takes out, and the masks that make a whole unit exactly zero wherever it is read. Called by
structured pruners and by `thin`.

    A residual sum of conv a and conv b, read by conv c. Masks: row 3 of a.weight and row 3 of b.weight.
    Unit 3 goes: completed are a.bias[3], b.bias[3], both norms' weight[3] and bias[3], and column 3 of c.weight.
    With the mask of a alone, and b unnamed, the same. With b's mask given and its row 3 kept, nothing goes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from compress.errors import UserError, did_you_mean
from compress.graph.channels import ChannelGraph, ChannelGroup, Place

Masks = Mapping[str, Tensor]
"""Parameter name -> bool, the parameter's shape, True = kept."""


@dataclass(frozen=True)
class Completion:
    """What a set of masks amounts to.

    Attributes:
        masks: the masks given, completed over every unit that goes; parameters without zeros are left out.
        removed: group name -> the units that go, in order.
        notes: why units that a mask clears stay all the same, one sentence each.
    """

    masks: dict[str, Tensor]
    removed: dict[str, list[int]]
    notes: tuple[str, ...]


def complete_masks(graph: ChannelGraph, masks: Masks, model: nn.Module, zeros: Masks | None = None) -> Completion:
    """Extend masks over the whole of each unit that they clear.

    A unit goes if the masks clear it in every place that writes it, or in every place that reads it, as far as
    those places' parameters are masked at all; what no mask names is masked with it. Pinned groups stay. Of a
    group whose units are all cleared one stays in the network, masked.

    Args:
        graph: of the model.
        masks: by canonical parameter name.
        model: gives the shapes of the parameters that no mask names yet.
        zeros: what is zero and not masked, in the form of masks. Units that they clear together with the masks go
            too; the masks that come back do not take over what else they have of zeros.

    Raises:
        UserError: a mask is of no parameter of the model, or of another shape.
    """
    parameters = dict(model.named_parameters())
    joined = {**masks, **{n: zero & masks[n] if n in masks else zero for n, zero in (zeros or {}).items()}}
    check_graph(graph, parameters)
    check_masks(joined, parameters)
    removed: dict[str, list[int]] = {}
    notes: list[str] = []
    for group in graph.groups():
        # Both: `joined` names more parameters, and each one named has to be cleared, so that it can clear fewer units.
        units = np.union1d(cleared_units(graph, group, masks), cleared_units(graph, group, joined))
        if group.pinned and len(units):
            notes.append(f"{group.name}: {len(units)} cleared units stay, {'; '.join(group.pinned)}")
        elif len(units):
            removed[group.name] = units[: group.units - 1].tolist()
        if not group.pinned and len(units) == group.units:
            notes.append(f"{group.name}: all {group.units} units are cleared; one stays so that the layer exists")
    return Completion(masks_of(graph, removed, parameters, masks), removed, tuple(notes))


def masks_of(
    graph: ChannelGraph,
    removed: Mapping[str, list[int]],
    parameters: Mapping[str, Tensor],
    masks: Masks | None = None,
) -> dict[str, Tensor]:
    """The masks of whole units: every position of every coupled parameter, on top of `masks`.

    Args:
        graph: of the model.
        removed: group name -> units.
        parameters: name -> parameter, for the shapes.
        masks: what is masked already.
    """
    found = {name: mask.clone() for name, mask in (masks or {}).items()}
    for group in graph.groups():
        for (name, dim), gone in gone_positions(group, removed.get(group.name, [])).items():
            if name not in parameters:
                continue
            if name not in found:
                found[name] = torch.ones_like(parameters[name], dtype=torch.bool)
            found[name].index_fill_(dim, torch.as_tensor(gone, device=found[name].device), False)
    return found


def gone_positions(group: ChannelGroup, units: list[int]) -> dict[Place, np.ndarray]:
    """Place -> the positions that go with these units."""
    if not units:
        return {}
    goes = np.zeros(group.units + 1, dtype=bool)  # the last one answers for -1, another group's
    goes[units] = True
    return {place: np.flatnonzero(goes[unit_of]) for place, unit_of in group.members.items()}


def cleared_units(graph: ChannelGraph, group: ChannelGroup, masks: Masks) -> np.ndarray:
    """The units of a group that the masks clear on the writing or on the reading side; see `complete_masks`."""
    sides = {True: [], False: []}  # type: dict[bool, list[np.ndarray]]
    for place in group.members:
        name, dim = place
        # Vectors (a bias, a norm's scale) do not decide: a BatchNorm's weight of 0 still lets its bias through.
        if name in masks and masks[name].dim() > 1:
            sides[place in graph.reads].append(_cleared(group, place, masks[name].movedim(dim, 0)))
    cleared = np.zeros(group.units, dtype=bool)
    for places in sides.values():
        if places:
            cleared |= np.logical_and.reduce(places)
    return np.flatnonzero(cleared)


def _cleared(group: ChannelGroup, place: Place, mask: Tensor) -> np.ndarray:
    """For each unit whether all its positions of one place are masked altogether."""
    alive = mask.flatten(1).any(dim=1).cpu().numpy()
    unit_of = group.members[place]
    living = np.zeros(group.units, dtype=bool)
    living[unit_of[(unit_of >= 0) & alive]] = True
    return ~living


def check_graph(graph: ChannelGraph, parameters: Mapping[str, Tensor]) -> None:
    """Raises UserError where the graph is of other sizes than the model: it was made before a removal."""
    for group in graph.groups():
        for (name, dim), unit_of in group.members.items():
            if name in parameters and parameters[name].shape[dim] != len(unit_of):
                raise UserError(
                    f"the graph has {len(unit_of)} positions in dimension {dim} of {name}, and the model has "
                    f"{parameters[name].shape[dim]}: it was made before units were removed, or of another model; make "
                    "a new one by prunable_graph; nothing was removed"
                )


def check_masks(masks: Masks, parameters: Mapping[str, Tensor]) -> None:
    """Raises UserError for a mask that is not of a parameter's name and shape, or not of truth values."""
    for name, mask in masks.items():
        if name not in parameters:
            raise UserError(
                f"a mask is named {name!r}, and the model has no such parameter; {did_you_mean(name, parameters)}"
            )
        if not isinstance(mask, Tensor):
            raise UserError(
                f"the mask of {name} is a {type(mask).__module__}.{type(mask).__name__}; a mask is a torch.Tensor of "
                "torch.bool, True where it is kept (torch.as_tensor makes one)"
            )
        if mask.dtype != torch.bool:
            raise UserError(f"the mask of {name} is of {mask.dtype}; a mask is of torch.bool, True where it is kept")
        if mask.shape != parameters[name].shape:
            raise UserError(
                f"the mask of {name} has shape {tuple(mask.shape)}, the parameter {tuple(parameters[name].shape)}"
            )


def zero_masks(model: nn.Module, names: Collection[str] | None = None) -> dict[str, Tensor]:
    """Masks that say what is zero already, for weights of two or more dimensions: the named ones, or all.

    Of all, without those that are zero everywhere: a branch that starts closed has such a weight, and no pruner leaves
    one. What it reads is in use once it is trained.
    """
    return {
        name: tensor.detach() != 0
        for name, tensor in model.named_parameters()
        if tensor.dim() > 1 and (name in names if names is not None else not _is_closed(tensor))
    }


def closed_notes(model: nn.Module) -> tuple[str, ...]:
    """A sentence on the weights that are zero everywhere, and whose inputs therefore stay."""
    closed = [name for name, each in model.named_parameters() if each.dim() > 1 and _is_closed(each)]
    if not closed:
        return ()
    return (
        f"{', '.join(closed)}: zero everywhere, as in a branch that starts closed, so that what is read there stays; "
        "give masks to remove it",
    )


def _is_closed(weight: Tensor) -> bool:
    return weight.numel() > 0 and not bool(weight.detach().any())
