"""WHEN a network becomes quantized: the policy of every training-time quantizer.

`QuantizationPolicy`.
"""

import logging
from typing import Any

from torch import nn
from torch.optim import Optimizer

from compress.context import LayersExchanged, StepContext
from compress.distributed import average, several_processes
from compress.epoch_window import EpochWindow
from compress.policies.base import Policy
from compress.quantization.base import Quantizer
from compress.quantization.convert import refresh_weights
from compress.quantization.fake_quant import ActivationQuantizer, Learned

logger = logging.getLogger("compress")


class QuantizationPolicy(Policy):
    """Exchanges the layers when its first epoch begins, and freezes ranges, clips and steps when its last one ends.

    Before its first epoch the network is float; after its last one it stays quantized. The quantizer's own parameters
    are the optimizer's from the moment the schedule is built, without gradients until the first epoch.

    Args:
        name: the instance's name.
        window: the firing epochs.
        quantizer: what to exchange.
    """

    def __init__(self, name: str, window: EpochWindow, quantizer: Quantizer) -> None:
        super().__init__(name, window)
        self.quantizer = quantizer
        self._model: nn.Module | None = None
        self._since: int | None = None
        self._told: set[str] = set()  # activations whose values were not finite, which is said once
        self._told_signs: set[str] = set()  # layers whose inputs had negative values against the trace
        self._held = self._frozen = False

    def prepare(self, model: nn.Module, optimizer: Optimizer | None) -> None:
        """Makes the fake quantizers and gives their parameters to the optimizer."""
        self._model = model
        self.quantizer.prepare(self.seen(model), optimizer)
        for note in self.quantizer.notes:
            logger.warning("%s: %s", self.name, note)

    def settled(self, epoch: int) -> bool:
        """Whether the network is quantized when `epoch` ends."""
        return epoch >= self.window.first

    def bits(self, epoch: int) -> dict[str, str]:
        """Layer -> its bits in words; {} while the network is float."""
        return self.quantizer.bits_table() if epoch >= self.window.first else {}

    def on_epoch_begin(self, ctx: StepContext) -> None:
        """Exchanges the layers the first time; holds the folded BatchNorms once it is time."""
        if self._since is None:
            ctx.tell(LayersExchanged(self._convert(ctx.model, ctx.epoch)))
            average([parameter for piece in self.quantizer.pieces() for parameter in piece.parameters()])
            logger.info("%s: quantized from epoch %d on: %s", self.name, ctx.epoch, self._story())
        late = self.quantizer.freeze_bn_after
        if late is not None and self._since is not None and ctx.epoch >= self._since + late:
            self.quantizer.hold_norms(ctx.model)
            self._held = True

    def on_minibatch_begin(self, ctx: StepContext) -> None:
        """Learned scales are noted, so that no update makes one useless; observed ranges know the minibatch."""
        for piece in self._learned():
            piece.note_scale()
        for each in self.quantizer.pieces():
            if isinstance(each, ActivationQuantizer):
                each.begin_minibatch(ctx.step, ctx.steps_per_epoch)

    def before_parameter_optimization(self, ctx: StepContext) -> None:
        """Averages the gradients of the quantizer's own parameters over processes."""
        if not several_processes():
            return
        parameters = [parameter for piece in self.quantizer.pieces() for parameter in piece.parameters()]
        average([parameter.grad for parameter in parameters if parameter.grad is not None])

    def on_minibatch_end(self, ctx: StepContext) -> None:
        """Learned scales stay usable; observed ranges are averaged over processes; at last weights' ranges follow."""
        for piece in self._learned():
            piece.keep_scale()
        if several_processes():
            pieces = [piece for piece in self.quantizer.pieces() if isinstance(piece, ActivationQuantizer)]
            average([getattr(piece, name) for piece in pieces for name in piece.statistics])
        self._mend_signs(ctx)
        if ctx.is_last_step:
            refresh_weights(ctx.model)
            self._tell_of_ignored()

    def on_epoch_end(self, ctx: StepContext) -> None:
        """After the last epoch ranges, clips and steps stay as they are; signs that validation showed are reported."""
        self._tell_of_signs_evaluated(ctx)
        if ctx.epoch == self.window.last and not self._frozen:
            self.quantizer.freeze(ctx.model)
            self._frozen = True

    def state_dict(self) -> dict[str, Any]:
        """Since which epoch the network is quantized, and whether BatchNorms are held and ranges frozen."""
        signed = [list(place) for place in self.quantizer.signed_later]
        return {"since": self._since, "held": self._held, "frozen": self._frozen, "signed": signed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Exchanges the layers if they were; the network's tensors are loaded after this."""
        if state["since"] is not None and self._since is None:
            assert self._model is not None, "the scheduler prepares its policies"
            self._convert(self._model, state["since"])
            self.quantizer.make_signed([(layer, slot) for layer, slot in state.get("signed", [])])
        if state["held"] and self._model is not None:
            self.quantizer.hold_norms(self._model)
        if state["frozen"] and not self._frozen and self._model is not None:
            self.quantizer.freeze(self._model)
        self._held, self._frozen = state["held"], state["frozen"]

    def _mend_signs(self, ctx: StepContext) -> None:
        """What the trace takes as never negative and a minibatch showed to be negative is signed from now on."""
        if self._since is None:
            return
        found = self.quantizer.contradicted()
        new = [place for place in found if place[0] not in self._told_signs]
        if not new:
            return
        self._told_signs |= {layer for layer, _ in new}
        names = ", ".join(layer for layer, _ in new)
        if self._frozen:
            then = "their ranges are frozen, so all below zero is lost"
        else:
            self.quantizer.make_signed(new)
            then = "they are quantized as signed from now on, and their ranges start anew"
        logger.warning(
            "%s: epoch %d: %d layers read negative values, which by the traced forward pass they never do, such as a "
            "tensor that is written behind the tracer's back or in training mode only: %s; %s", self.name, ctx.epoch,
            len(new), names, then,
        )  # fmt: skip

    def _tell_of_signs_evaluated(self, ctx: StepContext) -> None:
        """Training never shows these values, so no range can be learned that holds them."""
        found = self.quantizer.contradicted(in_training=False) if self._since is not None else []
        new = list(dict.fromkeys(layer for layer, _ in found if layer not in self._told_signs))
        if new:
            self._told_signs |= set(new)
            logger.warning(
                "%s: epoch %d: in evaluation %d layers read negative values, which by the traced forward pass they "
                "never do, nor did training show any: %s; all below zero is lost there. Leave what they read float "
                "(overrides: {%s: {bits_activations: null}}), or compute the same in training and evaluation",
                self.name, ctx.epoch, len(new), ", ".join(new), new[0],
            )  # fmt: skip

    def _convert(self, model: nn.Module, epoch: int) -> dict[str, Any]:
        structure = self.quantizer.convert(model)
        self._since = epoch
        return structure

    def _learned(self) -> list[Learned]:
        return [piece for piece in self.quantizer.pieces() if isinstance(piece, Learned)]

    def _tell_of_ignored(self) -> None:
        ignored = self.quantizer.ignored()
        new = [f"{name} ({count})" for name, count in ignored.items() if name not in self._told]
        if new:
            self._told |= set(ignored)
            logger.warning(
                "%s: values were not finite (NaN or infinite), so these minibatches were left out of the ranges of %d "
                "activations: %s%s", self.name, len(new), ", ".join(new[:5]), " and others" if len(new) > 5 else "",
            )  # fmt: skip

    def _story(self) -> str:
        counts: dict[str, int] = {}
        for bits in self.quantizer.bits_table().values():
            counts[bits] = counts.get(bits, 0) + 1
        made = ", ".join(f"{count} x {bits}" for bits, count in counts.items())
        left = "; ".join(f"{name} ({why})" for name, why in self.quantizer.left_float.items())
        return f"{made}; float: {left or 'nothing'}"
