"""Tables that code makes anew for another size of the input: `remade_pins`, called by `prunable_graph`.

    if self.pe.shape[0] < n:                            # every example is shorter
        self.pe = sinusoids(n, self.pe.shape[1])        # of the width that is left, not a part of the table before

The trace of the examples never sees the second line, wherever it stands: in a helper, a cache, another object. So the
masked and the thinned network are run where it is likely to run: with such a table cut short, and on larger inputs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from compress.graph.calls import Call
from compress.graph.channels import ChannelGraph, Pin
from compress.graph.own_code import REMADE
from compress.thinning.proof.copies import cast, mask_removed, restored
from compress.thinning.proof.inputs import cast_inputs, fewer
from compress.thinning.proof.observe import ForwardFailed, Observation, observe
from compress.thinning.proof.perturb import Draw, perturb
from compress.thinning.proof.sizes import smaller
from compress.thinning.proof.verify import Outcome, compare, fits_twice
from compress.thinning.recipe import Recipe
from compress.thinning.removal_plan import plan_recipe
from compress.thinning.trials.retreat import Lookalikes, Trials, retreat

TOLERANCE = {True: 1e-8, False: 1e-4}
"""In float64, and in the type of a network that is too large for it."""
Tables = Mapping[str, Sequence[int]]
"""A buffer's full name -> the dimensions that hold no channels."""


def remade_pins(model: nn.Module, graph: ChannelGraph, calls: Sequence[Call]) -> list[Pin]:
    """The groups that hold positions of a table which the code makes anew from other numbers than it is cut to.

    A network that has no such table costs nothing, and one whose table is cut short in vain hardly more.

    Args:
        model: left as it was.
        graph: of the model.
        calls: real ones.
    """
    tables = _tables(model, graph)
    groups = {group.name: group for group in graph.groups()}
    names = [g.name for g in groups.values() if g.prunable and any(name in tables for name, _ in g.members)]
    pins: list[Pin] = []
    for call in fewer(smaller(model, calls, ["eval"])) if names else ():
        # A wrong index is an error on a CPU, and the end of the process elsewhere.
        short = [(call, tables)] if any(tables.values()) and _on_cpu(model) else []
        for given, cut in (*short, *((each, {}) for each in _larger(call))):
            trials = _trials(model, graph, given, cut)
            _, faults, _ = retreat(names, trials, trials.compares(names), Lookalikes(model).of(graph))
            for name in faults:
                held = next(place for place, _ in groups[name].members if place in tables)
                pins.append(Pin.of(groups[name], REMADE.format(held)))
            names = [name for name in names if name not in faults]
    return pins


def _tables(model: nn.Module, graph: ChannelGraph) -> Tables:
    """The buffers with channels that can go in one dimension, without those of norms -> their other dimensions."""
    named = [(name, buffer) for name, buffer in model.named_buffers() if not name.endswith(STATISTICS)]
    channels = {place for group in graph.groups(prunable_only=True) for place in group.members}
    held = {name for name, _ in channels}
    return {
        name: [dim for dim, size in enumerate(buffer.shape) if size > 1 and (name, dim) not in channels]
        for name, buffer in named
        if name in held
    }


STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def _on_cpu(model: nn.Module) -> bool:
    return all(tensor.device.type == "cpu" for tensor in (*model.parameters(), *model.buffers()))


def _larger(call: Call) -> Iterator[Call]:
    """The call with all but the first dimension of its tensors doubled, in the ways that a network may take."""
    most = max((leaf.dim() for leaf in pytree.tree_leaves(call.inputs) if isinstance(leaf, Tensor)), default=0)
    for dims in ((1,), (2,)) if most == 3 else (tuple(range(2, most)) or (1,),):

        def doubled(leaf: Any, dims: tuple[int, ...] = dims) -> Any:
            for dim in dims if isinstance(leaf, Tensor) else ():
                leaf = torch.cat([leaf, leaf.flip(dim)], dim) if dim < leaf.dim() else leaf
            return leaf

        yield replace(call, inputs=pytree.tree_map(doubled, call.inputs))


@contextlib.contextmanager
def _cut_short(model: nn.Module, tables: Tables) -> Iterator[None]:
    """Inside, tables have one entry in each dimension that holds no channels."""
    owners = [(model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], name) for name in tables]
    before = [dict(owner._buffers) for owner, _, _ in owners]
    try:
        for owner, key, name in owners:
            buffer = owner._buffers[key]
            assert buffer is not None
            for dim in tables[name]:
                buffer = buffer.narrow(dim, 0, 1)
            owner._buffers[key] = buffer.clone()
        yield
    finally:
        for (owner, _, _), buffers in zip(owners, before, strict=True):
            owner._buffers.clear()
            owner._buffers.update(buffers)


def _trials(model: nn.Module, graph: ChannelGraph, call: Call, cut: Tables) -> Trials:
    removed = {group.name: [0] for group in graph.groups(prunable_only=True)}
    exact = fits_twice(model)
    (call,) = cast_inputs([call], torch.float64 if exact else None)

    def compares(names: Sequence[str]) -> Outcome:
        return _compared(model, plan_recipe(model, graph, {name: removed[name] for name in names}), call, cut, exact)

    return Trials(graph, compares, compares)


def _compared(model: nn.Module, recipe: Recipe, call: Call, cut: Tables, exact: bool) -> Outcome:
    """The masked and the thinned network; nothing is said where the masked one does not run."""
    found = Outcome(0.0, TOLERANCE[exact])

    def ran(before: Observation | None = None) -> Observation:
        with restored(model), _cut_short(model, cut):  # a number may say that a table exists
            return observe(model, call, "eval", inside=True, before=before.steps if before else None)

    with restored(model):
        perturb(model, Draw())
        cast(model, torch.float64 if exact else None)
        mask_removed(model, recipe, tells=False)
        try:
            masked = ran()
        except ForwardFailed:
            return found
        with restored(model):
            recipe.apply(model)
            try:
                parting = compare(recipe, masked, ran(masked), found.tolerance)
            except ForwardFailed as error:
                return replace(found, difference=float("inf"), module=error.module, reason=str(error))
    return replace(found, difference=parting.difference, module=parting.module, what=parting.what)
