"""What was removed, as plain data that makes any copy of the model smaller.

`Recipe`, composed over repeated thinnings, saved with the checkpoint, applied to a fresh model.

    recipe = Recipe(kept={"conv.weight": {0: torch.tensor([0, 2])}}, sizes={"conv.weight": {0: 3}},
                    attributes={"conv": {"out_channels": 2}})
    recipe.apply(fresh_model)                 # conv.weight keeps its rows 0 and 2
    text = json.dumps(recipe.to_dict())       # Recipe.from_dict(json.loads(text))
"""

from __future__ import annotations

import logging
import numbers
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from compress.errors import UserError
from compress.fusing.blocks import exchange, fusions_of
from compress.graph.sizes.origins import number_at, set_number
from compress.graph.sizes.settable import settable
from compress.graph.trace import canonical_names
from compress.parameters import replace_data
from compress.selectors import unwrapped
from compress.thinning.attention.exchange import HEAD_SIZES, as_headed, head_spec
from compress.thinning.norms import as_padded

logger = logging.getLogger("compress")

Attribute = int | tuple[int, ...] | None


@dataclass(frozen=True)
class Recipe:
    """The difference between a model and its thinned self.

    Attributes:
        kept: full name of a parameter or buffer -> dimension -> the positions that stay, in order.
        sizes: the same places -> the size before; what guards against applying it to another model.
        attributes: module name -> attribute -> its new value (`out_channels`, `groups`, ...).
        headed: names of the attention modules that compute with an explicit head size from now on.
        padded: names of the norms that compute over the width before from now on -> the dimension of the channels, from
            the end, and that width.
        fused: names of the blocks that are replaced by what they fuse to; such a recipe removes nothing else.
    """

    kept: dict[str, dict[int, Tensor]] = field(default_factory=dict)
    sizes: dict[str, dict[int, int]] = field(default_factory=dict)
    attributes: dict[str, dict[str, Attribute]] = field(default_factory=dict)
    headed: tuple[str, ...] = ()
    fused: tuple[str, ...] = ()
    padded: dict[str, tuple[int, int]] = field(default_factory=dict)

    def apply(self, model: nn.Module) -> nn.Module:
        """Make a model smaller in place; parameters stay the same objects, but for those of fused blocks.

        Nothing is proved here: `thin` and `remove_units` prove what they remove, and give the recipe of it.

        Args:
            model: has the names and sizes that the recipe was made for.

        Returns:
            The model itself.

        Raises:
            UserError: a name or a size is not what the recipe was made for; the model is untouched then.
        """
        self.check(model)
        if self.fused:
            exchange(model, fusions_of(unwrapped(model), self.fused).values())
        modules = dict(model.named_modules(remove_duplicate=False))
        for name in self.headed:
            as_headed(modules[name])
        self._pad(model)
        for name, tensor in tensors_of(model).items():
            if name in self.kept:
                # Set again below, once the parameter has its new shape:
                # torch checks a gradient's shape when it is assigned.
                grad, tensor.grad = tensor.grad, None
                replace_data(tensor, self.slice(name, tensor.data))
                tensor.grad = None if grad is None else self.slice(name, grad)
        for name, values in self.attributes.items():
            for attribute, value in values.items():
                set_number(modules[name], attribute, value)
        return model

    def _pad(self, model: nn.Module) -> None:
        canonical = canonical_names(model)
        for name, (dim, width) in self.padded.items():
            module = model.get_submodule(name)
            numbers = {path: number_at(module, path) for path in self.attributes.get(name, {})}
            cut = {
                own: self.kept.get(canonical[f"{name}.{own}"], {})
                for own in (*module._parameters, *module._buffers)
                if f"{name}.{own}" in canonical
            }
            as_padded(module, dim, width, numbers, {own: next(iter(dims)) for own, dims in cut.items() if dims})

    def check(self, model: nn.Module) -> None:
        """Raises UserError where the model is not the one that the recipe was made for."""
        tensors = tensors_of(model)
        modules = dict(model.named_modules(remove_duplicate=False))
        for name, dims in self.sizes.items():
            for dim, size in dims.items():
                found = tuple(tensors[name].shape) if name in tensors else None
                if found is None or dim >= len(found) or found[dim] != size:
                    raise UserError(
                        f"this recipe does not fit {type(model).__name__}: {name} should have size {size} in "
                        f"dimension {dim} and {'does not exist' if found is None else f'has shape {found}'}; "
                        "nothing was changed"
                    )
        for name in (*self.attributes, *self.headed, *self.padded):
            if name not in modules:
                raise UserError(
                    f"this recipe does not fit {type(model).__name__}: it has no module {name!r}; nothing was changed"
                )
        self._check_values(modules)

    def _check_values(self, modules: Mapping[str, nn.Module]) -> None:
        """A recipe may come from a file: it must not exchange a method, nor make a tensor larger."""
        if self.fused and (self.kept or self.attributes or self.headed or self.padded):
            raise UserError("this recipe is damaged: it fuses blocks and removes units at once; nothing was changed")
        for name in self.headed:
            if head_spec(modules[name]) is None:
                raise UserError(
                    f"this recipe is damaged: {name!r} is not an attention that is known; nothing was changed"
                )
        self._check_padded(modules)
        for name, values in self.attributes.items():
            own = HEAD_SIZES if name in self.headed else ()  # a module has them from then on
            for attribute in set(values) - set(own):
                if not _is_number(modules[name], attribute):
                    raise UserError(
                        f"this recipe is damaged: {name!r} has no number {attribute!r}; nothing was changed"
                    )
        for name, dims in self.kept.items():
            for dim, indices in dims.items():
                size = self.sizes.get(name, {}).get(dim, 0)
                if (
                    indices.numel() > size
                    or indices.is_floating_point()
                    or not ((indices >= 0) & (indices < size)).all()
                    or not (indices.diff() > 0).all()  # a channel twice, or channels in another order
                ):
                    raise UserError(
                        f"this recipe is damaged: it keeps of {name} other than ascending indices in [0, {size})"
                    )

    def _check_padded(self, modules: Mapping[str, nn.Module]) -> None:
        for name, (dim, width) in self.padded.items():
            if not dim < 0 < width or any(True for _ in modules[name].children()):
                raise UserError(f"this recipe is damaged: {name!r} is no norm of {width} channels; nothing was changed")

    def slice(self, name: str, tensor: Tensor) -> Tensor:
        """The part of a tensor that stays; it has the shape that the parameter had before (a mask, a moment)."""
        for dim, indices in self.kept.get(name, {}).items():
            tensor = tensor.index_select(dim, indices.to(tensor.device))
        return tensor

    def slice_all(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`slice` for a mapping parameter name -> tensor, such as masks."""
        return {name: self.slice(name, tensor) for name, tensor in tensors.items()}

    def then(self, later: Recipe) -> Recipe:
        """One recipe for this thinning followed by a later one of the thinned model.

        Raises:
            UserError: one of them fuses blocks: names before and after it are of different networks.
        """
        if self.fused or later.fused:
            raise UserError("a recipe that fuses blocks stands alone; apply the recipes one after the other")
        kept = {name: dict(dims) for name, dims in self.kept.items()}
        sizes = {name: dict(dims) for name, dims in self.sizes.items()}
        for name, dims in later.kept.items():
            for dim, indices in dims.items():
                before = kept.setdefault(name, {}).get(dim)
                # `later` counts positions of the thinned network: they are places in what the first recipe kept.
                kept[name][dim] = indices if before is None else before[indices]
                sizes.setdefault(name, {}).setdefault(dim, later.sizes[name][dim])
        attributes = {name: dict(values) for name, values in self.attributes.items()}
        for name, values in later.attributes.items():
            attributes.setdefault(name, {}).update(values)
        headed = tuple(dict.fromkeys(self.headed + later.headed))
        # The first recipe's width wins: a norm is computed over the width before anything was removed.
        return Recipe(kept, sizes, attributes, headed, padded={**later.padded, **self.padded})

    def to_dict(self) -> dict[str, Any]:
        """Lists, dictionaries, text and numbers, such as `json.dumps` and `torch.load(..., weights_only=True)` take."""
        kept = {name: {dim: each.tolist() for dim, each in dims.items()} for name, dims in self.kept.items()}
        return {**self.to_state(), "kept": kept}

    def to_state(self) -> dict[str, Any]:
        """The same with tensors of indices: what checkpoints keep."""
        return {
            "kept": {name: dict(dims) for name, dims in self.kept.items()},
            "sizes": {name: dict(dims) for name, dims in self.sizes.items()},
            "attributes": {
                name: {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
                for name, values in self.attributes.items()
            },
            "headed": list(self.headed),
            "fused": list(self.fused),
            "padded": {name: list(widths) for name, widths in self.padded.items()},
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Recipe:
        """What `to_dict` gave, also by way of JSON, whose keys are text; older files have tensors of indices.

        Raises:
            UserError: the indices are no whole numbers.
        """
        kept = {
            name: {int(dim): _indices(name, each) for dim, each in dims.items()} for name, dims in data["kept"].items()
        }
        sizes = {name: {int(dim): size for dim, size in dims.items()} for name, dims in data["sizes"].items()}
        attributes = {
            name: {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
            for name, values in data["attributes"].items()
        }
        padded = {name: (dim, width) for name, (dim, width) in data.get("padded", {}).items()}
        # Older checkpoints have neither of the last two.
        return Recipe(kept, sizes, attributes, tuple(data["headed"]), tuple(data.get("fused", ())), padded)


def _indices(name: str, given: Any) -> Tensor:
    if isinstance(given, Tensor):
        return given
    if not all(type(each) is int for each in given):
        raise UserError(f"this recipe is damaged: it keeps of {name} other than whole numbers")
    return torch.tensor(given, dtype=torch.long)


def _is_number(module: nn.Module, attribute: str) -> bool:
    """Whether a module has this attribute, it is a number or a shape, and it can be set."""
    nested = "/" in attribute  # `config/width`
    value = number_at(module, attribute) if nested else getattr(module, attribute, "")
    known = isinstance(value, numbers.Integral if nested else numbers.Integral | tuple | None)
    return known and settable(module, attribute.partition("/")[0])


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by their first full name, shared ones once."""
    found: dict[int, tuple[str, Tensor]] = {}
    modules = list(model.named_modules(remove_duplicate=False))
    for kind in ("_parameters", "_buffers"):
        for path, module in modules:
            for own, tensor in getattr(module, kind).items():
                if tensor is not None:
                    found.setdefault(id(tensor), (f"{path}.{own}" if path else own, tensor))
    return dict(found.values())


def slice_optimizer(recipe: Recipe, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Cut the state of each parameter (momentum, moments, means over rows, ...) like it; all objects stay the same.

    A tensor of the parameter's rank is cut in each dimension in which it has the size that the parameter had; where it
    has size 1 it holds a mean or a sum, and stays: Adafactor's `row_var` of a (8, 3, 3, 3) weight is (8, 3, 3, 1). A
    parameter with state of another form starts anew, which is logged.

    Args:
        recipe: has been applied to the model already.
        model: the thinned model.
        optimizer: its state is changed in place.
    """
    for name, parameter in model.named_parameters():
        if name in recipe.kept:
            slice_state(recipe, name, parameter, optimizer)


def slice_state(recipe: Recipe, name: str, parameter: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """The same for one parameter, which need not be of the model."""
    state = optimizer.state.get(parameter)
    if not state:
        return
    cut = _cut_moments(recipe, name, parameter, state, type(optimizer).__name__)
    if cut is None:
        del optimizer.state[parameter]
    else:
        state.update(cut)


def cut_optimizer_state(
    recipe: Recipe, model: nn.Module, optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]
) -> dict[str, Any]:
    """The `state_dict` of an optimizer that was saved before a thinning, cut like the parameters.

    Args:
        recipe: what was removed since.
        model: whose parameters the optimizer has.
        optimizer: new, of the saved one's kind: shows which parameter has which number. Groups that were added to the
            saved one later are not of the model, and stay as they are.
        saved: what `optimizer.state_dict()` gave.

    Raises:
        UserError: the groups do not fit.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    state = dict(saved["state"])
    for group, old in zip(optimizer.param_groups, saved["param_groups"], strict=False):
        if len(group["params"]) != len(old["params"]):
            raise UserError(
                f"the saved optimizer has a group of {len(old['params'])} parameters, the network's has "
                f"{len(group['params'])}; nothing was changed"
            )
        for parameter, number in zip(group["params"], old["params"], strict=True):
            name = names.get(id(parameter))
            if name in recipe.kept and state.get(number):
                cut = _cut_moments(recipe, name, parameter, state.pop(number), type(optimizer).__name__)
                state |= {} if cut is None else {number: cut}
    return {**saved, "state": state}


def _cut_moments(
    recipe: Recipe, name: str, parameter: Tensor, state: Mapping[str, Any], kind: str
) -> dict[str, Any] | None:
    """One parameter's state, cut; None, with a warning, where it cannot be."""
    odd = [str(key) for key, value in state.items() if not _follows(recipe, name, parameter, value)]
    if odd:
        listed = ", ".join(odd)
        logger.warning("the %s state of %s starts anew: its %s cannot be cut as the parameter was", kind, name, listed)
        return None
    return {key: _cut(recipe, name, value) for key, value in state.items()}


def _follows(recipe: Recipe, name: str, parameter: Tensor, value: Any) -> bool:
    """Whether a piece of state can be cut like its parameter, or need not be: a number, a tensor of one element."""
    if not isinstance(value, Tensor):
        return not any(isinstance(leaf, Tensor) and leaf.numel() > 1 for leaf in pytree.tree_leaves(value))
    sizes = recipe.sizes[name].items()
    same_rank = value.dim() == parameter.dim()
    return value.numel() <= 1 or (same_rank and all(value.shape[dim] in (1, size) for dim, size in sizes))


def _cut(recipe: Recipe, name: str, value: Any) -> Any:
    if isinstance(value, Tensor) and value.numel() > 1:
        for dim, indices in recipe.kept[name].items():
            if value.shape[dim] == recipe.sizes[name][dim]:
                value = value.index_select(dim, indices.to(value.device))
    return value


def cut_state(state: Any, recipe: Recipe) -> Any:
    """Plain state in which tensors stored under a thinned parameter's name are cut like it.

    A tensor counts when it has the parameter's size before the thinning in every dimension that was cut; a scalar kept
    under that name stays. The very same object comes back when nothing had to be cut.
    """
    if isinstance(state, list):
        items = [cut_state(item, recipe) for item in state]
        return items if any(new is not old for new, old in zip(items, state, strict=True)) else state
    if not isinstance(state, Mapping):
        return state
    found = {
        key: recipe.slice(key, value)
        if isinstance(value, Tensor) and _of_old_size(recipe, key, value)
        else cut_state(value, recipe)
        for key, value in state.items()
    }
    return found if any(found[key] is not value for key, value in state.items()) else state


def _of_old_size(recipe: Recipe, name: Any, tensor: Tensor) -> bool:
    sizes = recipe.sizes.get(name, {})
    return bool(sizes) and all(dim < tensor.dim() and tensor.shape[dim] == size for dim, size in sizes.items())
