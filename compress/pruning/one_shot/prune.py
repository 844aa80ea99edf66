"""A trained network loses whole units in one shot: `prune_one_shot`, and by L1 norms what it is compared with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from compress.arguments.checked import checks_arguments
from compress.calibration.batch_norm import carry_batch_norm, with_statistics
from compress.calibration.samples import finite_samples
from compress.errors import UserError, some
from compress.graph.channels import ChannelGraph
from compress.graph.modes import uncached_autocast
from compress.groups import Tilings, group_norms, group_size
from compress.io.progress import said_when_long
from compress.parameters import copied
from compress.pruning.network_wide.global_groups import CostOf, fewest
from compress.pruning.one_shot.repair import repair
from compress.pruning.one_shot.selection import check_is_finite, find_readers, select
from compress.selectors import parameter_owner, unwrapped
from compress.thinning.complete import masks_of
from compress.thinning.cost import Removed, left_out_of_budget, parameter_count, weight_macs_left
from compress.thinning.ranking import Vote, combined, voters
from compress.thinning.thin import put_on
from compress.thinning.trials.trial import prunable_graph

Counted = Literal["macs", "params"]
COUNTED = get_args(Counted)
Share = Annotated[float, Field(gt=0.0, lt=1.0)]
FAR = 0.05  # below the budget, that a note says so
PARTS = 1000  # steps of the fraction by which L1 norms prune


@dataclass(frozen=True)
class OneShot:
    """What came of it.

    Attributes:
        network: a copy whose removed units are zero everywhere; `thin(network, inputs)` makes it smaller, with proof.
        removed: group name -> units.
        left: of the cost, a fraction.
        error: share of the layers' squared errors that repair left, mean over layers; 1 without repair.
        notes: why groups stay whole, whether the budget was out of reach, and what it does not count.
        uncarried: layers that hold running statistics, but do not normalise by them as BatchNorm does: they keep them.
    """

    network: nn.Module
    removed: dict[str, list[int]]
    left: float
    error: float
    notes: tuple[str, ...] = ()
    uncarried: tuple[str, ...] = ()


@checks_arguments
@torch.inference_mode(False)  # gradients are needed, also for a caller within inference mode
@uncached_autocast()
def prune_one_shot(model: nn.Module, batches: Sequence[Any], to: Share, target: Counted = "macs") -> OneShot:
    """Prunes whole coupled units without training or labels, from calibration data alone.

    Units are chosen by a second-order criterion (surgeon.py) over all layers at once, then the weights that are left
    are set layer by layer by least squares, and BatchNorm's statistics follow the change (repair.py).

    Args:
        model: float; it is left as it was.
        batches: inputs of some minibatches of training data, a few hundred samples.
        to: what may be left of the cost, (0, 1). MACs are those of layers with weights; products of two activations,
            as in attention, are not in them, and `count_macs` has both.
        target: `macs` or `params`.

    Raises:
        UserError: the model cannot be traced, no unit of it can leave, or the budget makes no sense.
    """
    with said_when_long("one-shot pruning: finding out which channels belong together"):
        dense, batches, graph, cost = _prepared(model, batches, to, target)
    with said_when_long(f"one-shot pruning: what each unit is worth, by {len(batches)} minibatches"):
        readers = find_readers(dense, graph, batches)
    if not readers.groups:
        raise UserError("nothing was pruned: " + ("; ".join(readers.notes[:4]) or "the network has no prunable group"))
    with said_when_long(f"one-shot pruning: choosing units until {to:.0%} of the {target} are left"):
        removed, left = select(graph, readers, cost, to, target)
    pruned, masks = _masked(dense, graph, removed)
    with said_when_long("one-shot pruning: setting what is left, layer by layer"):
        error = repair(dense, pruned, masks, batches)
    out_of_reach = f"{to:.1%} of the {target} is out of reach: {left:.1%} are left" if left > to else ""
    too_few = (
        f"{left:.1%} of the {target} are left, less than the {to:.1%} asked for: the last unit that left is a large "
        "one, such as a head of an attention; other fractions may come nearer"
        if to - left > FAR
        else ""
    )
    left_out = left_out_of_budget(graph) if target == "macs" else ""
    uncarried = tuple(with_statistics(dense, batches[0])[1])
    kept = (
        f"running statistics were left as they are, though pruning changes what is read, in: {some(uncarried)}: the "
        "layer does not normalise by them as BatchNorm does"
        if uncarried
        else ""
    )
    notes = (*readers.notes, *filter(None, (out_of_reach, too_few, left_out, kept)))
    return OneShot(pruned, removed, left, error, notes, uncarried)


@checks_arguments
@torch.inference_mode(False)  # gradients are needed, also for a caller within inference mode
def prune_by_norms(model: nn.Module, batches: Sequence[Any], to: Share, target: Counted = "macs") -> OneShot:
    """The same budget by L1 norms, with BatchNorm's statistics carried over too: what it is compared with.

    Every group loses the same fraction of its units, those whose filters have the smallest norms (Li et al. 2017,
    Pruning Filters for Efficient ConvNets, arXiv 1608.08710).

    Raises:
        UserError: see `prune_one_shot`.
    """
    dense, batches, graph, cost = _prepared(model, batches, to, target)
    votes, order = _filters(dense, graph), {}
    for group in graph.groups(prunable_only=True):
        if own := voters(group, votes):
            order[group.name] = combined(group, own).argsort(stable=True).tolist()

    def removed(parts: int) -> dict[str, list[int]]:
        counts = {name: min(len(units) - 1, round(len(units) * parts / PARTS)) for name, units in order.items()}
        return {name: sorted(units[: counts[name]]) for name, units in order.items() if counts[name]}

    parts, left = fewest(PARTS - 1, lambda k: cost(removed(k)), to)
    pruned, _ = _masked(dense, graph, removed(parts))
    carry_batch_norm(pruned, dense, batches)
    return OneShot(pruned, removed(parts), left, 1.0, uncarried=tuple(with_statistics(dense, batches[0])[1]))


def _prepared(
    model: nn.Module, batches: Sequence[Any], to: float, target: Counted
) -> tuple[nn.Module, list[Any], ChannelGraph, CostOf]:
    if not isinstance(batches, list | tuple) or not batches:
        raise UserError(f"batches: given {type(batches).__name__}; give a list of minibatches; nothing was pruned")
    dense, finite = copied(unwrapped(model)).eval(), pytree.tree_map(_usable, finite_samples(batches))
    check_is_finite(dense)
    graph = prunable_graph(dense, finite[0])
    count = weight_macs_left if target == "macs" else parameter_count
    whole = count(graph, dense, {})

    def cost(removed: Removed) -> float:
        return count(graph, dense, removed) / whole

    return dense, finite, graph, cost


def _usable(leaf: Any) -> Any:
    """A copy of what was made within inference mode, which can take part in no gradient."""
    return leaf.clone() if isinstance(leaf, Tensor) and leaf.is_inference() else leaf


def _masked(dense: nn.Module, graph: ChannelGraph, removed: Removed) -> tuple[nn.Module, dict[str, Tensor]]:
    """A copy with zeros in everything that belongs to the units."""
    pruned = copied(dense)
    masks = masks_of(graph, removed, dict(pruned.named_parameters()))
    put_on(pruned, masks)
    return pruned, masks


def _filters(model: nn.Module, graph: ChannelGraph) -> list[Vote]:
    """The L1 norm of every filter of a prunable group, over its length."""
    found, tilings = [], Tilings()
    for name, weight in model.named_parameters():
        owner = parameter_owner(model, name)
        known = isinstance(owner, nn.Conv1d | nn.Conv2d | nn.Linear) and name.rpartition(".")[2] == "weight"
        if known and any(group.prunable for group in graph.groups_of(name, 0)):
            tile = tilings.tile(model, name, weight.shape, "Filters")
            with torch.no_grad():
                found.append(Vote(name, 0, group_norms(weight, tile, 1) / group_size(tile), 0.0, None))
    return found
