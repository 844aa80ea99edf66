"""WHEN blocks are fused: the policy of `Reparameterize`.

`FusingPolicy`: when its one epoch begins. After it the network has other modules and parameters.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from compress.context import NetworkCut, StepContext
from compress.distributed import take_from_first
from compress.epoch_window import EpochWindow
from compress.errors import UserError, some
from compress.fusing.blocks import Fusion, exchange, fusions_of, shared_outside
from compress.fusing.carry import carried_masks, exchange_in_optimizer, unchanged_sources
from compress.fusing.proof import Norm, prove
from compress.fusing.reparameterize import Reparameterize
from compress.masks import MaskTable
from compress.policies.base import Policy
from compress.thinning.current import CurrentGraph
from compress.thinning.recipe import Recipe
from compress.thinning.wrapping import rewrap

logger = logging.getLogger("compress")


class FusingPolicy(Policy):
    """Fuses the blocks when its epoch begins. Policies of the same epoch that name weights stand after it.

    Args:
        name: the instance's name.
        window: one firing epoch.
        reparameterize: which blocks.

    Raises:
        ValueError: the window has more than one epoch.
    """

    wants_batch = True

    def __init__(self, name: str, window: EpochWindow, reparameterize: Reparameterize) -> None:
        super().__init__(name, window)
        if window.first != window.last:
            raise ValueError(
                f"blocks are fused once, and this policy fires in {window}; write `epochs: [{window.first}]`"
            )
        self.reparameterize = reparameterize
        self._done = False

    def settled(self, epoch: int) -> bool:
        """Whether the blocks are fused when `epoch` ends."""
        return epoch >= self.window.last

    def on_epoch_begin(self, ctx: StepContext) -> None:
        """Proves, then exchanges the blocks and all that knows their parameters.

        Raises:
            UserError: the proof failed or is not possible, or the network is quantized; nothing was changed.
        """
        if self._done:
            return
        if ctx.structures:
            raise UserError(
                f"extension {self.name!r}: the network is quantized already; fuse blocks before, in a new run. Nothing "
                "was fused"
            )
        if ctx.graph is None or ctx.graph.inputs is None:
            raise UserError(
                f"extension {self.name!r}: there are no inputs to prove the fusing on in epoch {ctx.epoch}: give "
                "example_inputs to file_config or dict_config, or fuse in a later epoch. Nothing was fused"
            )
        try:
            self._fuse(ctx, ctx.graph)
        except UserError as e:
            raise UserError(f"extension {self.name!r}: {e}") from e

    def state_dict(self) -> dict[str, Any]:
        """Whether the blocks are fused."""
        return {"done": self._done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` gave."""
        self._done = state["done"]

    def _fuse(self, ctx: StepContext, current: CurrentGraph) -> None:
        model = current.network
        found = self.reparameterize.fusions(model)
        for fusion in found.values():
            if name := shared_outside(model, fusion):
                raise UserError(f"{fusion.name} shares {name!r} with another part of the network; nothing was changed")
        difference = prove(model, found, current.proved_on())
        before = _size(model)
        ctx.masks.make_permanent(name for name in _gone(found) if ctx.masks[name].mask is not None)
        fusions = fusions_of(model, found)  # of the masked weights
        for fusion in fusions.values():
            _warn_of_frozen(self.name, fusion)
        carried = _exchange(model, fusions, ctx.optimizer, ctx.masks)
        self._done = True
        current.forget()
        rewrap(ctx.model)
        ctx.tell(NetworkCut({**Recipe(fused=tuple(fusions)).to_state(), "reasons": {}}))
        source = "the first training batch" if current.batch is not None else "the example inputs"
        logger.info(
            "%s: fused in epoch %d: %s, parameters %s -> %s; proved on %s in eval and training mode: outputs differ by "
            "%.1e relative%s; %s", self.name, ctx.epoch, _kinds(fusions), f"{before:,}", f"{_size(model):,}", source,
            difference, _norms(fusions), carried,
        )  # fmt: skip


def _exchange(model: nn.Module, fusions: Mapping[str, Fusion], optimizer: Optimizer | None, table: MaskTable) -> str:
    """Exchanges blocks, parameters of the optimizer and masks; says what was carried over."""
    given = {masker.name: masker.mask for masker in table.masked() if masker.mask is not None}
    masks = {name: each for fusion in fusions.values() for name, each in carried_masks(fusion, given).items()}
    take_from_first([p for fusion in fusions.values() for p in fusion.new().values()])
    new = [name for fusion in fusions.values() for name in fusion.new()]
    kept = 0
    for fusion in fusions.values() if optimizer is not None else ():
        sources = unchanged_sources(fusion)
        kept += sum(fusion.gone()[source] in optimizer.state for source in sources.values())  # type: ignore[union-attr]
        exchange_in_optimizer(optimizer, fusion, sources, masks)  # type: ignore[arg-type]
    exchange(model, fusions.values())
    gone = _gone(fusions)
    alone = any(table[name].alone for name in gone)
    zeroed = [each for each in new if table.zeroed & set(gone)]
    table.take_exchanged(model, masks, alone)
    table.zeroed |= set(zeroed)
    rest = "" if kept == len(new) else ", the others start anew"
    words = [f"optimizer state carried over for {kept} of {len(new)} new parameters{rest}"]
    if masks or any(name in given for name in gone):
        words.append(f"masks carried over to {len(masks)} of them")
    return "; ".join(words if optimizer is not None else words[1:]) or "no optimizer"


def fuse_again(
    model: nn.Module, names: Sequence[str], network: nn.Module, optimizer: Optimizer | None, table: MaskTable
) -> None:
    """Exchanges the blocks of a resumed run's new network; weights, masks and moments are loaded after this."""
    fusions = fusions_of(network, names)
    for fusion in fusions.values() if optimizer is not None else ():
        exchange_in_optimizer(optimizer, fusion, {})  # type: ignore[arg-type]
    exchange(model, fusions.values())
    table.take_exchanged(model)


def _gone(fusions: Mapping[str, Fusion]) -> list[str]:
    return [name for fusion in fusions.values() for name in fusion.gone()]


def _warn_of_frozen(instance: str, fusion: Fusion) -> None:
    """Says that frozen parameters train from now on, where they become one with others that do."""
    gone = fusion.gone()
    frozen = [name for name, each in gone.items() if not each.requires_grad]
    if frozen and len(frozen) < len(gone):
        logger.warning(
            "%s: %s frozen, and %s joined with what is trained in %s: all of the fused parameters are trained",
            instance, f"{some(frozen)} {'is' if len(frozen) == 1 else 'are'}",
            "it is" if len(frozen) == 1 else "they are", fusion.name,
        )  # fmt: skip


def _size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _kinds(fusions: Mapping[str, Fusion]) -> str:
    counts: dict[str, int] = {}
    for fusion in fusions.values():
        kind = f"{type(fusion.block).__name__} -> {type(fusion.fused).__name__}"
        counts[kind] = counts.get(kind, 0) + 1
    return ", ".join(f"{count} x {kind}" for kind, count in counts.items())


def _norms(fusions: Mapping[str, Fusion]) -> str:
    with_norms = [f for f in fusions.values() if any(isinstance(module, Norm) for module in f.block.modules())]
    return f" (of {len(with_norms)} blocks BatchNorm's running statistics are folded)" if with_norms else ""
