"""A masked model becomes a smaller model that computes the same, or stays as it is.

`thin`, from masks, and `remove_units`, from units of the graph; both prove on real tensors that nothing changed
before they touch the model; a group with which that fails stays, with a note.

    masks = {"conv1.weight": keep[:, None, None, None].expand_as(model.conv1.weight)}
    result = thin(model, batch, masks, optimizer)  # without masks: what is zero leaves
    torch.save({"recipe": result.recipe.to_dict(), "state": model.state_dict()}, path)
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from compress.arguments.checked import checks_arguments
from compress.errors import UserError
from compress.graph.aliases import overlapping
from compress.graph.channels import ChannelGraph
from compress.graph.own_code import hooked, hooks_of
from compress.graph.recording.garbage import old_objects_aside
from compress.graph.recording.variation import drawing_notes
from compress.graph.trace import ExampleInputs
from compress.thinning.complete import Masks, check_graph, complete_masks
from compress.thinning.proof.inputs import Samples
from compress.thinning.proof.observe import ForwardFailed, watch_anew
from compress.thinning.proof.stepping import other_steps
from compress.thinning.proof.verify import Outcome, measured
from compress.thinning.recipe import Recipe, slice_optimizer
from compress.thinning.removal_plan import plan_recipe
from compress.thinning.trials.retreat import Lookalikes, reason_of, retreat
from compress.thinning.trials.trial import check_repeatable, prunable_graph, trials_of
from compress.thinning.zeros import zero_units


@dataclass(frozen=True)
class Thinned:
    """What a thinning did.

    Attributes:
        recipe: what was removed; empty if nothing could be.
        removed: group name -> the units that went.
        masks: the masks given, cut to the new shapes.
        notes: why cleared units stay all the same, and what the example inputs do not show.
        difference: largest relative difference of thinned and masked model that the proof found; of an inexact
            removal that of the model's own values, in eval or in training mode.
        exact: whether that is within rounding; only with `allow_inexact` it may be more.
        masking_change: relative change of the eval output by masking the rest of each unit, such as a bias (0 if
            all that went was zero already).
        mode: of an inexact removal, the mode that has the largest difference, `eval` or `train`.
    """

    recipe: Recipe
    removed: dict[str, list[int]]
    masks: dict[str, Tensor]
    notes: tuple[str, ...] = ()
    difference: float = 0.0
    masking_change: float = 0.0
    exact: bool = True
    mode: str = ""


@checks_arguments
def thin(
    model: nn.Module,
    example_inputs: ExampleInputs,
    masks: Masks | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    graph: ChannelGraph | None = None,
    allow_inexact: bool = False,
) -> Thinned:
    """Remove from a model every unit that its masks clear, or without masks what is zero already.

    Args:
        model: changed in place; modules and parameters stay the same objects.
        example_inputs: a tensor, the tuple of `forward`'s arguments, or a list of calls (`compress/graph/calls.py`);
            real ones if possible.
        masks: parameter name -> bool, True = kept; None takes the units that are zero, or that nothing reads, and whose
            absence changes no output.
        optimizer: of the model; its per-element state is cut, the object and its groups stay.
        graph: from `prunable_graph`, if there is one already.
        allow_inexact: also remove through layer norms, which changes the output; it is reported.

    Raises:
        UserError: the proof failed for every group; it names the module and the reason, and nothing has changed. Or a
            mask fits no parameter, the model cannot be traced, or `torch.inference_mode()` is on.
    """
    _refuse_inference()
    if graph is None:
        graph = prunable_graph(model, example_inputs, allow_inexact)
    if masks is None:
        removed, notes = zero_units(graph, model, example_inputs)
    else:
        completion = complete_masks(graph, masks, model)
        removed, notes = completion.removed, completion.notes
    return remove_units(model, graph, removed, example_inputs, optimizer, masks, notes, allow_inexact)


@checks_arguments
@old_objects_aside()
def remove_units(
    model: nn.Module,
    graph: ChannelGraph,
    removed: Mapping[str, list[int]],
    example_inputs: ExampleInputs,
    optimizer: torch.optim.Optimizer | None = None,
    masks: Masks | None = None,
    notes: tuple[str, ...] = (),
    allow_inexact: bool = False,
) -> Thinned:
    """Remove given units of the graph's groups, with the same proof as `thin`.

    Args:
        model: changed in place.
        graph: of the model.
        removed: group name -> units.
        example_inputs: as for `thin`.
        optimizer: as for `thin`.
        masks: what else is masked; they come back cut.
        notes: of earlier steps; they come back in front of this one's.
        allow_inexact: report a difference instead of refusing it.

    Raises:
        UserError: as for `thin`, and where the graph has no such group or unit, where a group is pinned, or where the
            optimizer steps another model. `allow_inexact` opens none: a graph made with it pins fewer.
    """
    _refuse_inference()
    given = masks or {}
    _check_units(graph, removed)
    check_graph(graph, dict(model.named_parameters()))
    _check_memory(graph, model, removed)
    _check_optimizer(optimizer, model)
    removed = {name: sorted(set(units)) for name, units in removed.items()}
    if not any(removed.values()):
        return Thinned(Recipe(), {}, dict(given), notes + graph.notes)
    proof = _proved(model, graph, removed, given, example_inputs, allow_inexact)
    difference, mode = proof.outcome.difference, ""
    if not proof.outcome.passed:
        difference, mode = _measured(model, graph, proof.removed, given, example_inputs)
    put_on(model, given)
    recipe = plan_recipe(model, graph, proof.removed)
    recipe.apply(model)
    if optimizer is not None:
        slice_optimizer(recipe, model, optimizer)
    outcome, cut = proof.outcome, recipe.slice_all(given)
    unsaid = tuple(each for each in drawing_notes(model) if each not in graph.notes)
    notes += proof.notes + graph.notes + unsaid + _later_notes(model, optimizer)
    return Thinned(recipe, proof.removed, cut, notes, difference, outcome.masking_change, outcome.passed, mode)


def _later_notes(model: nn.Module, optimizer: torch.optim.Optimizer | None) -> tuple[str, ...]:
    """Why the thinned network may train otherwise than the masked one would, though it computes the same."""
    found = [other_steps(optimizer)] if optimizer is not None else []
    found += [COUNTED] if any(getattr(each, "counts_elements", False) for each in model.modules()) else []
    return tuple(each for each in found if each)


COUNTED = (
    "the gradients of learned quantization steps are scaled by the number of elements (LSQ, eq. 4), which is smaller "
    "now: the steps learn faster than the masked network's would"
)


def _refuse_inference() -> None:
    if torch.is_inference_mode_enabled():
        raise UserError(
            "thinning was called inside `torch.inference_mode()`, where the smaller parameters would be tensors that "
            "can never be trained; call it outside, or inside `torch.no_grad()`. Nothing was removed"
        )


def _check_units(graph: ChannelGraph, removed: Mapping[str, list[int]]) -> None:
    groups = {group.name: group for group in graph.groups()}
    for name, units in removed.items():
        if name not in groups:
            member = next(
                (g.name for g in groups.values() for place, dim in g.members if f"{place}[{dim}]" == name), ""
            )
            known = (
                f"it has {member!r}, in which that is a member"
                if member
                else f"`graph.groups()` lists its {len(groups)}"
            )
            raise UserError(f"the graph has no group {name!r}; {known}; nothing was removed")
        if not isinstance(units, Collection) or isinstance(units, str):
            raise UserError(f"group {name!r}: given {units!r}; give a list of units; nothing was removed")
        wrong = [unit for unit in units if not isinstance(unit, int | np.integer) or not 0 <= unit < groups[name].units]
        if wrong:
            raise UserError(
                f"group {name!r} has the units 0 to {groups[name].units - 1}, and no unit {wrong[0]}; "
                "nothing was removed"
            )
        if units and groups[name].pinned:  # the proof may be blind to why: a method that no call runs, a training step
            raise UserError(f"group {name!r} cannot lose units: {'; '.join(groups[name].pinned)}; nothing was removed")
        if len(set(units)) == groups[name].units:
            raise UserError(f"group {name!r}: all its units were to go; one has to stay; nothing was removed")


def _check_optimizer(optimizer: torch.optim.Optimizer | None, model: nn.Module) -> None:
    """Raises UserError where it steps nothing of the model: its state would stay, and that of the model's own too."""
    own = {id(parameter) for parameter in model.parameters()}
    stepped = [each for group in optimizer.param_groups for each in group["params"]] if optimizer is not None else []
    if stepped and not any(id(each) in own for each in stepped):
        raise UserError(
            f"the optimizer given steps {len(stepped)} parameters, none of which is one of {type(model).__name__}'s: "
            "it is another network's, or of before a copy; give the one that trains this network, or None. Nothing "
            "was removed"
        )


def _check_memory(graph: ChannelGraph, model: nn.Module, removed: Mapping[str, list[int]]) -> None:
    """Raises UserError where tensors in one memory would part, or what hooks on gradients see would change.

    Outputs show neither, training does; and there may be more of both than when the graph was made.
    """
    shared = hooked(model) | overlapping(model)
    for group in graph.groups() if shared else ():
        reason = next((shared[name] for name, _ in group.members if name in shared), "")
        if reason and removed.get(group.name):
            raise UserError(f"group {group.name!r} cannot lose units: {reason}; nothing was removed")


@dataclass(frozen=True)
class _Proof:
    """What of a removal holds, and why the rest stays."""

    removed: dict[str, list[int]]
    outcome: Outcome
    notes: tuple[str, ...] = ()


def _proved(
    model: nn.Module,
    graph: ChannelGraph,
    removed: Mapping[str, list[int]],
    masks: Masks,
    example_inputs: ExampleInputs,
    allow_inexact: bool,
) -> _Proof:
    """Try all groups; where that fails, give up those that are at fault. Raises UserError if nothing is left."""
    inputs = Samples.of(example_inputs, next(model.parameters()).device, model)
    if hooks_of(model) - graph.hooks:  # what younger hooks do in which mode is not known yet
        graph = replace(graph, alike=False)
        watch_anew(model, inputs.given[0])
    trials = trials_of(model, graph, removed, inputs, masks=masks)
    names = [name for name, units in removed.items() if units]
    outcome = trials.compares(names)
    if outcome.passed or (allow_inexact and not outcome.reason):
        return _Proof(dict(removed), outcome)
    if not trials.runs(names).reason:
        check_repeatable(model, trials)
    lenient = trials_of(model, graph, removed, inputs, masks=masks, allow_inexact=allow_inexact)
    left, faults, last = retreat(names, lenient, outcome, Lookalikes(model).of(graph))
    if not left:
        raise UserError(_refusal(model, outcome))
    notes = tuple(f"{name}: {len(removed[name])} units stay: {reason_of(fault)}" for name, fault in faults.items())
    return _Proof({name: removed[name] for name in left}, trials.compares(left) if allow_inexact else last, notes)


def _measured(
    model: nn.Module, graph: ChannelGraph, removed: Mapping[str, list[int]], masks: Masks, example_inputs: ExampleInputs
) -> tuple[float, str]:
    """What an inexact removal changes of the model as it is, and in which mode most; the proof's values are others."""
    recipe = plan_recipe(model, graph, removed)
    inputs = Samples.of(example_inputs, next(model.parameters()).device, model)
    found = {}
    for mode in ("eval",) if graph.alike else ("eval", "train"):
        with contextlib.suppress(ForwardFailed):  # a batch of one in training mode
            found[mode] = measured(model, recipe, masks, inputs.given if mode == "eval" else inputs.several, mode)
    return max((difference, mode) for mode, difference in found.items())


@torch.no_grad()
def put_on(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Set what is masked to exactly zero, NaN included."""
    for name, parameter in model.named_parameters():
        if name in masks:
            parameter.masked_fill_(~masks[name].to(parameter.device), 0)


def _refusal(model: nn.Module, outcome: Outcome) -> str:
    where = f"module {outcome.module!r}" if outcome.module else "the model's own forward"
    why = outcome.reason or (
        f"outputs of the masked and of the thinned model differ by {outcome.difference:.1e} relative, "
        f"allowed are {outcome.tolerance:.0e}"
        if math.isfinite(outcome.difference)
        else "outputs of the masked and of the thinned model differ in shape, in integers, or in what is not finite"
    )
    if outcome.what:
        why = f"the masked and the thinned model are different functions, which training will show: {outcome.what}"
    return f"{type(model).__name__} was not thinned and is unchanged: in {where}: {why}"
