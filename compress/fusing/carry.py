"""What a fused block takes over: masks, and what the optimizer remembers.

`carried_masks`, `unchanged_sources` and `exchange_in_optimizer`. A fused weight is computed from several parameters:

- A mask: an element that is zero whatever the unmasked elements are is masked. If whole filters are masked in all
  branches, they are in the fused layer; what only one branch masks is filled by the others.
- The optimizer's state: a parameter that goes into the fused one as it is (`fused = own + ...`, the widest convolution
  of a block without BatchNorm) has had the fused one's gradient at every step, so its momentum and moments are
  the fused one's, exactly. Behind a BatchNorm the gradients differ by a factor that changes with each step; then
  the fused parameter starts anew.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from compress.errors import UserError
from compress.fusing.blocks import Fusion, fused_copy
from compress.thinning.proof.copies import cast, restored
from compress.thinning.proof.perturb import Draw, perturb

logger = logging.getLogger("compress")
SAME = 1e-9  # of a change of size one, in float64


@torch.no_grad()
def carried_masks(fusion: Fusion, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Full name of a new parameter -> its mask (True = kept), of those that lose anything.

    Args:
        fusion: of a block.
        masks: full parameter name -> mask.
    """
    own = {name: p for name, p in fusion.gone().items() if name in masks}
    if not own:
        return {}
    with restored(fusion.block):
        cast(fusion.block, torch.float64)
        # On ordinary random values an element of the fused weight is 0 only if it is 0 for any values: no chance zeros.
        perturb(fusion.block, Draw(0, buffers=False))
        for name, parameter in own.items():
            parameter.data = parameter.data.masked_fill(~masks[name].to(parameter.device), 0)
        drawn = dict(fused_copy(fusion.name, fusion.block).named_parameters())
    kept = {name: drawn[name.removeprefix(f"{fusion.name}.")] != 0 for name in fusion.new()}
    return {name: mask for name, mask in kept.items() if not mask.all()}


@torch.no_grad()
def unchanged_sources(fusion: Fusion) -> dict[str, str]:
    """Full name of a new parameter -> of the old one that goes into it unchanged: both change by the same amount."""
    found: dict[str, str] = {}
    prefix = f"{fusion.name}."
    new, gone = fusion.new(), fusion.gone()
    generator = torch.Generator().manual_seed(0)
    with restored(fusion.block):
        cast(fusion.block, torch.float64)
        before = dict(fused_copy(fusion.name, fusion.block).named_parameters())
        for name, parameter in gone.items():
            alike = [each for each in new if each not in found and new[each].shape == parameter.shape]
            if not alike:
                continue
            # Fusing is affine in each parameter: moving one by a random step moves the fused one by the same step, and
            # nothing else, exactly if it goes in as it is.
            held, step = parameter.data, torch.randn(parameter.shape, generator=generator).to(parameter)
            parameter.data = held + step
            after = dict(fused_copy(fusion.name, fusion.block).named_parameters())
            parameter.data = held
            moved = {each: after[each.removeprefix(prefix)] - before[each.removeprefix(prefix)] for each in new}
            for each in alike:
                others = [moved[other] for other in new if other != each]
                if _close(moved[each], step) and all(_close(other, torch.zeros_like(other)) for other in others):
                    found.setdefault(each, name)
    return found


def _close(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).abs().max() <= SAME)


def exchange_in_optimizer(
    optimizer: Optimizer, fusion: Fusion, sources: Mapping[str, str], masks: Mapping[str, Tensor] | None = None
) -> None:
    """New parameters take the places of those that are gone, each in the group of what it is made of.

    A weight joins the group of the block's weights, a bias that of its biases and scales, where the optimizer has them
    in different groups. Parameters of a block that the optimizer does not train stay untrained.

    Args:
        optimizer: of the network; the object and its groups stay.
        fusion: of a block.
        sources: `unchanged_sources`: whose state is taken over.
        masks: of the new parameters; what is masked has no momentum.

    Raises:
        UserError: L-BFGS, whose state is of all parameters at once.
    """
    if isinstance(optimizer, LBFGS):
        raise UserError("LBFGS remembers all parameters in one vector, which fusing would tear; train with another")
    gone, new = fusion.gone(), fusion.new()
    for parameter in new.values():
        parameter.grad = None
    # Both before the groups change: afterwards the old parameters are in none.
    places = {name: _group_of(parameter, gone, optimizer) for name, parameter in new.items()}
    states = {
        name: optimizer.state[gone[source]] for name, source in sources.items() if gone[source] in optimizer.state
    }
    for number, group in enumerate(optimizer.param_groups):
        _exchange_in(group, gone, {name: new[name] for name in new if places[name] == number})
    for parameter in gone.values():
        optimizer.state.pop(parameter, None)
    for name, parameter in new.items():
        if places[name] is None:
            continue
        if name in states:
            mask = (masks or {}).get(name)
            optimizer.state[parameter] = {key: _masked(value, mask) for key, value in states[name].items()}
        elif made := _made_at_once(optimizer, parameter):
            optimizer.state[parameter] = made


def _made_at_once(optimizer: Optimizer, parameter: nn.Parameter) -> dict[str, Any]:
    """The state that an optimizer makes when it is constructed, as Adagrad does; {} where it waits for a step."""
    known = inspect.signature(type(optimizer)).parameters
    settings = {name: value for name, value in optimizer.defaults.items() if name in known}
    with contextlib.suppress(TypeError, ValueError):  # a constructor of another kind: it has to make it in its step
        return dict(type(optimizer)([parameter], **settings).state.get(parameter, {}))
    return {}


def _group_of(parameter: Tensor, gone: Mapping[str, nn.Parameter], optimizer: Optimizer) -> int | None:
    """The number of the group that a new parameter joins; None if the optimizer trains nothing of the block."""
    numbers = {id(p): number for number, group in enumerate(optimizer.param_groups) for p in group["params"]}
    trained = [each for each in gone.values() if id(each) in numbers]
    alike = [each for each in trained if (each.dim() > 1) == (parameter.dim() > 1)]
    return next((numbers[id(each)] for each in (*alike, *trained)), None)


def _exchange_in(group: dict[str, Any], gone: Mapping[str, nn.Parameter], new: Mapping[str, nn.Parameter]) -> None:
    leaving = {id(parameter) for parameter in gone.values()}
    names = group.get("param_names")
    members = list(zip(names or [""] * len(group["params"]), group["params"], strict=True))
    places = [number for number, (_, parameter) in enumerate(members) if id(parameter) in leaving]
    if not places:
        return
    prefix = _prefix(members[places[0]][0], gone, members[places[0]][1])
    joining = [(f"{prefix}{name}", parameter) for name, parameter in new.items()]
    stay = [[each] if id(each[1]) not in leaving else [] for each in members]
    # In the place of the first that leaves: an optimizer's state dict numbers parameters by their order.
    stay[places[0]] = joining
    members = [each for part in stay for each in part]
    group["params"][:] = [parameter for _, parameter in members]
    if names is not None:
        group["param_names"][:] = [name for name, _ in members]


def _prefix(known: str, gone: Mapping[str, nn.Parameter], parameter: nn.Parameter) -> str:
    """What the optimizer's name of a parameter has in front of the canonical one, such as `module.`."""
    own = next(name for name, each in gone.items() if each is parameter)
    return known.removesuffix(own) if known.endswith(own) else ""


def _masked(value: Any, mask: Tensor | None) -> Any:
    if not isinstance(value, Tensor) or mask is None or value.shape != mask.shape:
        return value
    return value.masked_fill(~mask.to(value.device), 0)
