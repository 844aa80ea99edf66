"""Blocks that train wide and deploy narrow: which modules of a network fuse themselves, and their exchange.

A block takes part by a method of its own that needs no argument: `fuse`, `reparameterize` or `switch_to_deploy`. What
it returns takes its place; a method that returns None has changed the block itself. The method is always called on a
copy, in float64, so a network is left as it was until `exchange`.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from compress.errors import UserError, did_you_mean
from compress.selectors import canonical_modules

METHODS = ("fuse", "reparameterize", "switch_to_deploy")
HOOKS = [name for name in vars(nn.Module()) if "hooks" in name]
MARK = "_is_fused"  # attribute of a module whose method was called
DEEPEST = 50  # modules inside one another in what a block has become


@dataclass(frozen=True)
class Fusion:
    """One block and what takes its place.

    Attributes:
        name: of the block, by its first path in the network.
        block: as it is in the network.
        fused: computes the same with fewer layers; parameters that the method left as they were are the block's own.
    """

    name: str
    block: nn.Module
    fused: nn.Module

    def gone(self) -> dict[str, nn.Parameter]:
        """Full name -> parameter of the block that the fused one has not."""
        stay = {id(parameter) for parameter in self.fused.parameters()}
        return {f"{self.name}.{name}": p for name, p in self.block.named_parameters() if id(p) not in stay}

    def new(self) -> dict[str, nn.Parameter]:
        """Full name -> parameter that the block had not."""
        had = {id(parameter) for parameter in self.block.parameters()}
        return {f"{self.name}.{name}": p for name, p in self.fused.named_parameters() if id(p) not in had}


def method_of(module: nn.Module) -> str | None:
    """The name of the method by which a module fuses itself; None for one that has none.

    A method of that name that needs arguments (the fusion of features) is another thing, and so is a child module. What
    was fused before counts as having none: not every method may be called twice.
    """
    # vars, not getattr: a child or a class attribute of that name is no mark.
    for name in () if vars(module).get(MARK) else METHODS:
        # On the class first: nn.Module's getattr finds children too, and a child called `fuse` is a layer.
        method = getattr(module, name, None) if callable(getattr(type(module), name, None)) else None
        if callable(method) and not isinstance(method, nn.Module) and _needs_nothing(method):
            return name
    return None


def _needs_nothing(method: Any) -> bool:
    try:
        parameters = inspect.signature(method).parameters.values()
    except (TypeError, ValueError):
        return False
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return all(each.default is not each.empty or each.kind in optional for each in parameters)


def fusions_of(model: nn.Module, names: Iterable[str] | None = None) -> dict[str, Fusion]:
    """What can take the place of each block, by name; the network is left as it was.

    Args:
        model: the network, unwrapped. It does not count as a block: it stays, whatever methods it has.
        names: of blocks; None finds the outermost ones. A block that is fused already is none.

    Raises:
        UserError: a name is not a block's, or a block's method raised an error or returned no module.
    """
    if names is not None:
        modules = canonical_modules(model)
        return {name: _fusion(name, _block(name, modules)) for name in names}
    found: dict[str, Fusion] = {}
    known: set[int] = set()
    waiting = [(name, child) for name, child in model.named_children()]
    while waiting:
        name, module = waiting.pop(0)
        if id(module) in known:
            continue
        known.add(id(module))
        fusion = _fusion(name, module) if method_of(module) else None
        if fusion is not None and _differ(fusion.block, fusion.fused):
            found[name] = fusion
        else:
            # In front: depth first, in the order of the network.
            waiting = [(f"{name}.{key}", child) for key, child in module.named_children()] + waiting
    return found


def _block(name: str, modules: Mapping[str, nn.Module]) -> nn.Module:
    module = modules.get(name)
    if module is None or not name or method_of(module) is None:
        blocks = [each for each, found in modules.items() if each and method_of(found)]
        what = f"there is no module {name!r}" if module is None else f"{name!r} is no block that fuses"
        methods = " or ".join(METHODS)
        raise UserError(f"{what} (it has no method {methods} without arguments); {did_you_mean(name, blocks)}")
    return module


def _differ(block: nn.Module, fused: nn.Module) -> bool:
    """Whether the fused module is another one: a block that was fused before gives itself again."""
    return type(fused) is not type(block) or _shapes(fused) != _shapes(block)


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {
        name: tensor.shape for name, tensor in module.state_dict(keep_vars=True).items() if hasattr(tensor, "shape")
    }


def _fusion(name: str, block: nn.Module) -> Fusion:
    return Fusion(name, block, fused_copy(name, block))


@torch.no_grad()
def fused_copy(name: str, block: nn.Module) -> nn.Module:
    """What a block becomes: computed in float64, in the block's own type, device and memory format.

    Parameters that the method leaves as they are stay the block's own objects, so that an optimizer knows them; the
    others ask for gradients where any of the block does. The block's hooks are on it too.

    Args:
        name: of the block, for messages.
        block: is left as it was.

    Raises:
        UserError: its method raised an error or returned something else than a module.
    """
    first = next((p for p in (*block.parameters(), *block.buffers()) if p.is_floating_point()), None)
    with _in_float64(), torch.random.fork_rng(devices=[]):
        own = _left_alone(name, block)
        fused = _called(name, block)
        _fuse_within(name, fused)
    if first is not None:
        fused = fused.to(first.device, first.dtype)
    if any(_is_channels_last(p) for p in block.parameters()):
        fused = fused.to(memory_format=torch.channels_last)
    trained = any(p.requires_grad for p in block.parameters())
    for parameter in fused.parameters():
        parameter.requires_grad_(trained)
    _keep_own(block, fused, own)
    for hooks in HOOKS:
        setattr(fused, hooks, getattr(block, hooks))  # the very dict: handles stay valid
    return fused


@contextlib.contextmanager
def _in_float64() -> Iterator[None]:
    """New modules are float64: methods make convolutions and fill them."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _called(name: str, block: nn.Module) -> nn.Module:
    """What the method of a copy of a block gives."""
    method = method_of(block)
    assert method is not None, "a block"
    try:
        block = copy.deepcopy(block).double()
        _own_classes(block)
        result = getattr(block, method)()
    except Exception as error:  # the code is the user's, and its message is what helps
        raise UserError(f"{name}.{method}() failed: {type(error).__name__}: {error}; nothing was changed") from error
    if result is not None and not isinstance(result, nn.Module):
        raise UserError(
            f"{name}.{method}() returned {type(result).__name__}; it should return the module that takes the block's "
            "place, or None once it has changed the block itself; nothing was changed"
        )
    new = block if result is None else result
    vars(new)[MARK] = True
    return new


def _own_classes(copied: nn.Module) -> None:
    """A parametrized module has a class of its own, which its copy shares: removing a parametrization tears both."""
    for module in copied.modules():
        if is_parametrized(module):
            kind = type(module)
            members = {key: value for key, value in vars(kind).items() if key not in ("__dict__", "__weakref__")}
            module.__class__ = type(kind.__name__, kind.__bases__, members)


def _fuse_within(name: str, fused: nn.Module, depth: int = 0) -> None:
    """Blocks inside what a block has become, as timm's networks nest them, fuse too."""
    if depth > DEEPEST:
        raise UserError(f"{name}: fusing does not come to an end: blocks become blocks; nothing was changed")
    for key, child in list(fused.named_children()):
        if method_of(child):
            with contextlib.suppress(UserError):  # the block's own method may have fused it already
                new = _called(f"{name}.{key}", child)
                if _differ(child, new):
                    fused._modules[key] = child = new
        _fuse_within(f"{name}.{key}", child, depth + 1)


def _is_channels_last(parameter: Tensor) -> bool:
    return (
        parameter.dim() == 4
        and not parameter.is_contiguous()
        and parameter.is_contiguous(memory_format=torch.channels_last)
    )


def _left_alone(name: str, block: nn.Module) -> set[str]:
    """Names of the parameters that the method leaves as they are, whatever their values.

    Not by their own values: a bias of zeros that is added changes nothing today, and a resumed run's new network has
    other zeros than the trained one; the order of parameters in the optimizer follows from this.
    """
    drawn = copy.deepcopy(block).double()
    generator = torch.Generator().manual_seed(0)
    for parameter in drawn.parameters():
        values = torch.rand(parameter.shape, generator=generator, dtype=torch.float64) + 0.5
        parameter.data = values.to(parameter.device)
    fused = _called(name, drawn)
    _fuse_within(name, fused)
    before = dict(drawn.named_parameters())
    return {key for key, after in fused.named_parameters() if key in before and _alike(before[key], after)}


def _keep_own(block: nn.Module, fused: nn.Module, own: set[str]) -> None:
    """Parameters that the method leaves as they are become the block's own objects again."""
    before = dict(block.named_parameters())
    for prefix, module in fused.named_modules():
        for key in module._parameters:
            name = f"{prefix}.{key}" if prefix else key
            if name in own:
                module._parameters[key] = before[name]


def _alike(before: Tensor, after: Tensor) -> bool:
    return before.shape == after.shape and before.dtype == after.dtype and torch.equal(before, after)


def exchange(model: nn.Module, fusions: Iterable[Fusion], back: bool = False) -> None:
    """Puts each fused module where its block is, under every path and in its mode; `back` puts the blocks back."""
    places = (
        {id(each.fused): each.block for each in fusions} if back else {id(each.block): each.fused for each in fusions}
    )
    for owner in list(model.modules()):
        for key, child in owner._modules.items():
            if child is not None and id(child) in places:
                owner._modules[key] = new = places[id(child)]
                for module in () if back else new.modules():
                    module.training = child.training


def shared_outside(model: nn.Module, fusion: Fusion) -> str | None:
    """The full name of a parameter of the block that another part of the network has too; None if there is none.

    By paths, not by modules: another part may hold a layer of the block, under a name of its own.
    """
    gone = {id(parameter) for parameter in fusion.gone().values()}
    within = {path for path, module in model.named_modules(remove_duplicate=False) if module is fusion.block}
    for name, module in model.named_modules(remove_duplicate=False):
        if not any(name == path or name.startswith(f"{path}.") for path in within):
            for key, parameter in module._parameters.items():
                if id(parameter) in gone:
                    return f"{name}.{key}" if name else key
    return None
