"""Masks of parameters and how they are put on.

`ParameterMasker` (one parameter's mask and its copies) and `MaskTable` (all of a model's). The scheduler owns the
table.

A mask is a bool tensor of the parameter's shape, True = kept: a quarter of the bytes of a float32 weight in memory, and
a bit for each element in saved state.
"""

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compress.errors import UserError
from compress.selectors import canonical_parameters, same_names


def packed(mask: Tensor | None) -> dict[str, Any] | None:
    """A bool mask as plain data and one tensor, uint8, a bit for each element; None stays None."""
    if mask is None:
        return None
    bits = np.packbits(mask.cpu().numpy().reshape(-1))
    return {"bits": torch.from_numpy(bits), "shape": list(mask.shape)}


def unpacked(saved: Any) -> Tensor | None:
    """The mask that `packed` gave, on the CPU; a bool tensor, which older files hold, is itself.

    Raises:
        UserError: it is damaged.
    """
    if isinstance(saved, Tensor) and saved.dtype is not torch.bool:
        raise UserError(f"a saved mask is of {saved.dtype}, not torch.bool; the file is damaged")
    if saved is None or isinstance(saved, Tensor):
        return saved
    shape, bits = [int(size) for size in saved["shape"]], saved["bits"]
    count = math.prod(shape)
    if bits.dtype != torch.uint8 or bits.numel() != -(-count // 8):
        raise UserError(f"a saved mask of shape {tuple(shape)} has {bits.numel()} bytes; the file is damaged")
    return torch.from_numpy(np.unpackbits(bits.cpu().numpy(), count=count)).bool().reshape(shape)


class ParameterMasker:
    """The mask of one parameter.

    Attributes:
        name: canonical name of the parameter.
        parameter: the parameter itself.
        mask: bool, the parameter's shape, True = kept; None while nothing is masked. What the pruner that names this
            weight wants, and what those want that mask it along with a weight of theirs.
        alone: whether the part of the pruner that names this weight goes alone (rows, kernels, blocks).
        use_double_copies: the optimizer updates an unmasked copy; forward, validation, saving and export see
            the masked weight.
        mask_on_forward_only: the mask is not applied again after the optimizer's step.
        mask_gradients: gradients of masked elements are zeroed before the optimizer's step.
        unmasked_copy: the values before masking, while they are put aside.
        forward_scale: factor of the surviving weights while the copy is aside (`hide`).
        rewritten: whether a pruner has set the parameter to other values; an average of it begins anew there.
    """

    def __init__(self, name: str, parameter: nn.Parameter) -> None:
        self.name = name
        self.parameter = parameter
        self.mask: Tensor | None = None
        self.own: Tensor | None = None
        self.alone = False
        self.coupled: dict[str, Tensor] = {}
        self.use_double_copies = False
        self.mask_on_forward_only = False
        self.mask_gradients = False
        self.unmasked_copy: Tensor | None = None
        self.forward_scale = 1.0
        self.rewritten = False
        self._new = False

    @property
    def may_recover(self) -> bool:
        """Whether masked elements keep being updated, so that the mask holds on forward only."""
        return self.mask_on_forward_only or self.use_double_copies

    @property
    def clearing(self) -> Tensor | None:
        """The mask without what goes alone: what a thinner may take whole units by; None if nothing is left."""
        if not self.alone:
            return self.mask
        return functools.reduce(torch.logical_and, self.coupled.values()) if self.coupled else None

    def set_mask(self, mask: Tensor | None, coupled_by: str | None = None, alone: bool = False) -> None:
        """Takes a new mask; the weight itself is not touched before `apply`.

        Args:
            mask: replaces the one that was given before in the same way; None takes it back.
            coupled_by: the policy that masks this parameter along with a weight that it names, or the kind of a mask
                that stands beside others (`Pruner.stands_beside`); None for a policy that names this parameter itself.
                Whatever any of them masks is masked.
            alone: whether whole filters or channels that this mask happens to clear stay in the network all the same.

        Raises:
            ValueError: the mask is not bool or not of the parameter's shape.
        """
        if mask is not None and (mask.dtype != torch.bool or mask.shape != self.parameter.shape):
            raise ValueError(
                f"{self.name}: a mask must be bool and of shape {tuple(self.parameter.shape)}, "
                f"not {mask.dtype} {tuple(mask.shape)}"
            )
        mask = None if mask is None else mask.contiguous()  # an expanded view would be saved with fewer values
        if coupled_by is None:
            self.own, self.alone = mask, alone and mask is not None
        else:
            self.coupled.pop(coupled_by, None)
            if mask is not None:
                self.coupled[coupled_by] = mask
        # Kept apart by who gave them, so that one policy can take its own back without freeing what another has masked.
        parts = [each for each in (self.own, *self.coupled.values()) if each is not None]
        self.mask = functools.reduce(torch.logical_and, parts) if parts else None
        self._new = True

    def take_cut(self, mask: Tensor | None) -> None:
        """Takes the mask of a parameter that thinning has cut; one that switches nothing off is dropped."""
        self.mask = self.own = None if mask is None or bool(mask.all()) else mask
        self.alone = self.alone and self.mask is not None
        self.coupled = {}

    def apply_if_needed(self) -> None:
        """Applies a mask that is new or that was not applied after the optimizer's step."""
        if self._new or self.mask_on_forward_only:
            self.apply()

    @torch.no_grad()
    def apply(self) -> None:
        """Sets what is masked to exactly zero (also NaN and negative zero)."""
        if self.mask is not None:
            # Not `mul_(mask)`: NaN * 0 is NaN, and -1 * 0 is -0.
            self.parameter.masked_fill_(~self.mask, 0)
        self._new = False

    @torch.no_grad()
    def rewrite(self, values: Tensor) -> None:
        """Overwrites the parameter; a mask is put on at once, unless double copies keep the unmasked values."""
        self.parameter.copy_(values)
        self.rewritten = True
        if self.unmasked_copy is not None:  # it would come back in place of the new values
            self.unmasked_copy.copy_(values)
        if self.unmasked_copy is not None or not self.use_double_copies:
            self.apply()

    @torch.no_grad()
    def hide(self) -> None:
        """Puts the unmasked values aside and applies the mask; does nothing when they are aside already."""
        if self.mask is not None and self.unmasked_copy is None:
            self.unmasked_copy = self.parameter.detach().clone()
            self.apply()
            if self.forward_scale != 1.0:
                self.parameter.mul_(self.forward_scale)

    @torch.no_grad()
    def reveal(self) -> None:
        """Puts the unmasked values back, if they were put aside."""
        if self.unmasked_copy is not None:
            self.parameter.copy_(self.unmasked_copy)
            self.unmasked_copy = None

    def zero_masked_gradient(self) -> None:
        """Zeroes the gradient of what is masked."""
        if self.mask is not None and self.parameter.grad is not None:
            self.parameter.grad.masked_fill_(~self.mask, 0)

    def sparsity(self) -> float:
        """Fraction of elements that the mask switches off, [0, 1]."""
        if self.mask is None:
            return 0.0
        return 1.0 - int(torch.count_nonzero(self.mask)) / self.mask.numel()

    def state_dict(self) -> dict[str, Any]:
        """The mask (a bit for each element), the flags and the copy as plain data and tensors."""
        return {
            "mask": packed(self.mask),
            # Without coupled masks it is `mask` itself, which would be saved twice.
            "own": packed(self.own) if self.coupled else None,
            "coupled": {owner: packed(each) for owner, each in self.coupled.items()},
            "alone": self.alone,
            "use_double_copies": self.use_double_copies,
            "mask_on_forward_only": self.mask_on_forward_only,
            "mask_gradients": self.mask_gradients,
            "unmasked_copy": self.unmasked_copy,
            "forward_scale": self.forward_scale,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what `state_dict` gave, on the parameter's device.

        Raises:
            UserError: the saved mask is of another shape.
        """
        mask, copy = unpacked(state["mask"]), state["unmasked_copy"]
        if mask is not None and mask.shape != self.parameter.shape:
            raise UserError(
                f"the saved mask of {self.name!r} is of shape {tuple(mask.shape)}, the parameter's is "
                f"{tuple(self.parameter.shape)}: the checkpoint belongs to another network"
            )
        device = self.parameter.device
        self.mask = None if mask is None else mask.to(device)
        coupled = {owner: unpacked(each) for owner, each in state["coupled"].items()}
        self.coupled = {owner: each.to(device) for owner, each in coupled.items() if each is not None}
        self.own = self.mask
        if self.coupled:
            own = unpacked(state["own"])
            self.own = None if own is None else own.to(device)
        self.unmasked_copy = None if copy is None else copy.to(device)
        self.alone = bool(state.get("alone", False))
        self.use_double_copies = bool(state["use_double_copies"])
        self.mask_on_forward_only = bool(state["mask_on_forward_only"])
        self.mask_gradients = bool(state["mask_gradients"])
        self.forward_scale = float(state["forward_scale"])


class MaskTable(Mapping[str, ParameterMasker]):
    """Every parameter of a model by its canonical name -> its `ParameterMasker`."""

    def __init__(self, model: nn.Module) -> None:
        self.awaited: set[str] = set()  # policies whose masks or zeros of this epoch are still to come
        self.zeroed: set[str] = set()  # weights in which a regularizer's threshold has made zeros, masked or not
        self._maskers = {name: ParameterMasker(name, p) for name, p in canonical_parameters(model).items()}

    def __getitem__(self, name: str) -> ParameterMasker:
        return self._maskers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._maskers)

    def __len__(self) -> int:
        return len(self._maskers)

    def take_cut(self, masks: Mapping[str, Tensor], cut: Callable[[str, Tensor], Tensor]) -> None:
        """Follows parameters that thinning has cut.

        Args:
            masks: name -> mask of the new shape; one that switches nothing off is dropped.
            cut: name and tensor of the parameter's old shape -> the part that stays.
        """
        for name, masker in self._maskers.items():
            if name in masks:
                masker.take_cut(masks[name])
            if masker.unmasked_copy is not None:
                masker.unmasked_copy = None if masker.mask is None else cut(name, masker.unmasked_copy)

    def take_exchanged(self, model: nn.Module, masks: Mapping[str, Tensor] | None = None, alone: bool = False) -> None:
        """Follows a network in which modules were exchanged: parameters that stay keep their masks.

        Args:
            model: the network as it is now.
            masks: of new parameters, by name.
            alone: whether whole filters that they happen to clear stay in the network.
        """
        # By identity: exchanging modules changes names, not the parameters that stay.
        known = {id(masker.parameter): masker for masker in self._maskers.values()}
        self._maskers = {
            name: known.get(id(parameter)) or ParameterMasker(name, parameter)
            for name, parameter in canonical_parameters(model).items()
        }
        self.zeroed &= self._maskers.keys()
        for name, mask in (masks or {}).items():
            self._maskers[name].set_mask(mask, alone=alone)

    def masked(self) -> list[ParameterMasker]:
        """The maskers that hold a mask now."""
        return [masker for masker in self._maskers.values() if masker.mask is not None]

    def clearing(self) -> dict[str, Tensor]:
        """The masks by which a thinner may take whole units out: without those that go alone."""
        return {masker.name: masker.clearing for masker in self.masked() if masker.clearing is not None}

    # The life of a mask in a training step; nothing else hides, reveals or applies one ----------------------------

    def begin_epoch(self) -> None:
        """The optimizer's own values come back, which validation and saving have not seen."""
        self.show_updated(self)

    def before_forward(self, names: Iterable[str]) -> None:
        """Masks are put on: unmasked values are put aside where copies are kept, else masked weights become zero."""
        for masker in map(self.__getitem__, names):
            if masker.use_double_copies:
                masker.hide()
            else:
                masker.apply_if_needed()

    def before_step(self, names: Iterable[str]) -> None:
        """The optimizer sees unmasked values where copies are kept, and no gradient of masked ones where asked."""
        for masker in map(self.__getitem__, names):
            masker.reveal()
            if masker.mask_gradients:
                masker.zero_masked_gradient()

    def after_step(self, prefix: str = "") -> None:
        """Masked weights that momentum moved are zero again, but for those that may recover.

        Args:
            prefix: begins the names of the parameters that the optimizer has stepped; '' means all.
        """
        for masker in self.masked():
            if not masker.may_recover and masker.name.startswith(prefix):
                masker.apply()

    def show_masked(self) -> list[str]:
        """For validation, saving and export weights that may recover are masked too; returns which were not yet."""
        new = [masker for masker in self.masked() if masker.may_recover and masker.unmasked_copy is None]
        for masker in new:
            masker.hide()
        return [masker.name for masker in new]

    def show_updated(self, names: Iterable[str]) -> None:
        """Undoes `show_masked`: the values that the optimizer updates come back."""
        for masker in map(self.__getitem__, names):
            masker.reveal()

    def make_permanent(self, names: Iterable[str]) -> None:
        """Weights that might have recovered lose what is masked, for good."""
        for masker in map(self.__getitem__, names):
            masker.mask_on_forward_only = masker.use_double_copies = masker.mask_gradients = False
            masker.unmasked_copy = None
            masker.apply()

    # State ---------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """State of the maskers that hold a mask, by name."""
        return {masker.name: masker.state_dict() for masker in self.masked()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores every mask; parameters that are not named lose theirs.

        Raises:
            UserError: a name is unknown, or a shape differs.
        """
        meant = same_names(state, self._maskers)
        unknown = sorted(set(state) - set(meant))
        if unknown:
            raise UserError(f"the saved masks name parameters that this network lacks: {', '.join(unknown[:5])}")
        given = {meant[name]: each for name, each in state.items()}
        for name, masker in self._maskers.items():
            if name in given:
                masker.load_state_dict(given[name])
            else:
                masker.take_cut(None)
                masker.unmasked_copy = None
