"""Averaged weights (`--ema`): the network that evaluation and `best` use.

An exponential moving average that respects masks.
"""

from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from compress.errors import UserError
from compress.masks import MaskTable
from compress.parameters import widened
from compress.quantization.convert import apply, refresh_weights
from compress.quantization.placement.signs_seen import signed_as
from compress.scheduler import CompressionScheduler
from compress.selectors import canonical_parameters
from compress.thinning.recipe import Recipe


class AveragedWeights:
    """An exponential moving average of a network's parameters; buffers are copied from it.

    Args:
        model: the network being trained.
        decay: share of the old average that an update keeps, (0, 1).

    Raises:
        UserError: parameters are of half precision.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if narrow := sorted({str(each.dtype)[6:] for each in model.parameters() if widened(each) is not each}):
            raise UserError(
                f"--ema: this network has parameters of {' and '.join(narrow)}, whose average would not move: its "
                "small steps are rounded away; make the network .float() and train it under --precision=bfloat16"
            )
        self._averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
        self._thinned = self._quantized = 0  # how many recipes and structures it has followed

    @torch.no_grad()
    def update(self, model: nn.Module, scheduler: CompressionScheduler) -> None:
        """One more step of the network, which the scheduler may have thinned or quantized since it was new."""
        self.follow(scheduler, model)
        self._averaged.update_parameters(model)
        if rewritten := [masker for masker in scheduler.masks.values() if masker.rewritten]:
            averaged = canonical_parameters(self._averaged.module)
            for masker in rewritten:  # the values before go neither with the new ones nor with the buffers
                averaged[masker.name].copy_(masker.parameter)
                masker.rewritten = False

    def follow(self, scheduler: CompressionScheduler, model: nn.Module | None = None) -> None:
        """Thins and quantizes the average like the network, as far as that is new.

        Args:
            scheduler: what it has done to the network.
            model: the network, whose values the average takes for what quantization added; None leaves them new.
        """
        averaged = self._averaged.module
        for recipe in scheduler.recipes[self._thinned :]:
            Recipe.from_dict(recipe).apply(averaged)
        self._thinned = len(scheduler.recipes)
        for structure in scheduler.structures[self._quantized :]:
            known = set(averaged.state_dict())
            apply(averaged, structure)
            if model is not None:
                added = {name: value for name, value in model.state_dict().items() if name not in known}
                averaged.load_state_dict(added, strict=False)
        self._quantized = len(scheduler.structures)

    def made_after(self, scheduler: CompressionScheduler) -> None:
        """It was copied from a network that the scheduler's thinnings and quantization had shaped already."""
        self._thinned, self._quantized = len(scheduler.recipes), len(scheduler.structures)

    @torch.no_grad()
    def masked(self, model: nn.Module, masks: MaskTable) -> nn.Module:
        """The averaged network with the present masks and buffers; what is masked is exactly zero."""
        averaged = self._averaged.module
        for name, parameter in canonical_parameters(averaged).items():
            mask = masks[name].mask if name in masks else None
            if mask is not None:
                parameter.masked_fill_(~mask, 0)
        signed_as(averaged, model)
        for own, source in zip(averaged.buffers(), model.buffers(), strict=True):
            own.copy_(source)
        refresh_weights(averaged)
        return averaged

    def state_dict(self) -> dict[str, Any]:
        """Weights and the number of updates."""
        return {"model": self._averaged.module.state_dict(), "updates": int(self._averaged.n_averaged)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` gave."""
        self._averaged.module.load_state_dict(state["model"])
        self._averaged.n_averaged.fill_(state["updates"])
