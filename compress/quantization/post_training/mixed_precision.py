"""Bits for each layer under a budget, from measured sensitivities.

`choose` (the knapsack), `MixedPrecision`. The loss of a layer at some bits is the noise that rounding this weight
alone makes in the network's output, relative to the output (no labels needed); noise of several layers is taken to
add up.

    plan = MixedPrecision(0.15).pick(model, batches)    # weights in 15 % of their float size
    plan.write("mixed.yaml")                            # python test.py --quantize=mixed.yaml
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from compress.arguments.checked import CheckedArguments
from compress.errors import UserError
from compress.graph.calls import run_on
from compress.graph.macs.count import count_macs
from compress.graph.modes import uncached_autocast
from compress.io.files import write_text
from compress.quantization.faults import FLOAT
from compress.quantization.modules.layers import channel_axis, kind_of, weight_names
from compress.quantization.post_training.quantizer import PostTrainLinearQuantizer
from compress.quantization.post_training.ranges import Clipping, weight_range
from compress.quantization.range_linear import RangeWeight
from compress.quantization.range_numbers import scale_and_zero
from compress.selectors import submodule

logger = logging.getLogger("compress")
Kind = Literal["size", "bitops"]
CELLS = 20_000  # the budget is cut into for the knapsack
CANDIDATES = (8, 6, 5, 4, 3, 2)
SETTINGS: Mapping[str, Any] = {
    "bits_activations": 8, "per_channel_wts": True, "clip_acts": "MSE", "also_clip_weights": True,
}  # fmt: skip


def choose(costs: Sequence[Sequence[float]], losses: Sequence[Sequence[float]], budget: float) -> list[int] | None:
    """The choice of one option a row with the least sum of losses whose sum of costs is within the budget.

    A multiple-choice knapsack by dynamic programming over costs in units of budget / CELLS, rounded up; the same option
    for all rows is tried exactly, so that a uniform choice that just fits is not lost to the rounding.

    Args:
        costs: a row a layer, a column an option, >= 0.
        losses: of the same form.
        budget: >= 0.

    Returns:
        the column for each row; None if even the cheapest options do not fit.
    """
    if sum(min(row) for row in costs) > budget or budget <= 0:
        return None
    least = np.zeros(CELLS + 1)  # least loss of the rows so far within so many cells
    picked = []
    for cost, loss in zip(costs, losses, strict=True):
        # Rounded up, or a choice could exceed the budget; the 1e-9
        # keeps float noise from adding a unit; CELLS + 1: never fits.
        units = [min(int(np.ceil(each / budget * CELLS - 1e-9)), CELLS + 1) for each in cost]
        options = np.full((len(cost), CELLS + 1), np.inf)
        for i, unit in enumerate(units):
            if unit <= CELLS:
                options[i, unit:] = least[: CELLS + 1 - unit] + loss[i]
        best = options.argmin(0)
        picked.append((best, units))
        # least[c]: the least loss of the rows so far with at most
        # c units; a row's option of u units looks back to c - u.
        least = options[best, np.arange(CELLS + 1)]
    found = [_walk_back(picked)] if np.isfinite(least[-1]) else []
    found += [[i] * len(costs) for i in range(min(map(len, costs)))]
    found.append([int(np.argmin(row)) for row in costs])
    fitting = [each for each in found if sum(row[i] for row, i in zip(costs, each, strict=True)) <= budget]
    return min(fitting, key=lambda each: sum(row[i] for row, i in zip(losses, each, strict=True)))


def _walk_back(picked: list[tuple[Any, list[int]]]) -> list[int]:
    left, found = CELLS, []
    for best, units in reversed(picked):
        found.append(int(best[left]))
        left -= units[found[-1]]
    return found[::-1]


@dataclass(frozen=True)
class Plan:
    """Bits for each layer.

    Attributes:
        bits: layer -> bits of its weight.
        losses: layer -> {bits: relative noise of the output}.
        cost: of the choice, as a share of the float network's.
        budget: the share that was allowed.
        kind: of the budget.
        settings: the other arguments of the quantizer.
    """

    bits: dict[str, int]
    losses: dict[str, dict[int, float]]
    cost: float
    budget: float
    kind: Kind
    settings: dict[str, Any]

    @property
    def loss(self) -> float:
        """The sum of the layers' noise."""
        return sum(self.losses[name][bits] for name, bits in self.bits.items())

    def schedule(self) -> dict[str, Any]:
        """A file of post-training settings, as data."""
        overrides = {name: {"bits_weights": bits} for name, bits in self.bits.items()}
        instance = {"class": PostTrainLinearQuantizer.__name__, **self.settings, "overrides": overrides}
        return {"version": 1, "quantizers": {"mixed": instance}}

    def write(self, path: Path | str) -> None:
        """Writes it as YAML for `test.py --quantize`; the folder is made if needed."""
        head = (
            f"# Bits for each layer by sensitivity: {100 * self.cost:.1f} % of the float network's {self.kind}\n"
            f"# (budget {100 * self.budget:.1f} %), expected relative noise of the output {self.loss:.3g}.\n"
        )
        write_text(path, head + yaml.safe_dump(self.schedule(), sort_keys=False))


class MixedPrecision(CheckedArguments):
    """Picks the bits of each layer's weight.

    Args:
        budget: share of the float network's cost that may be used, (0, 1]; 0.25 is 8 bits everywhere by size.
        kind: `size` (bits of the weights) or `bitops` (MACs * bits of the weight * bits of the activation, arXiv
            1804.10969, section 4.2; activations have those of `settings`).
        candidates: bits to choose from, 2 to 8 or 16.
        settings: further arguments of `PostTrainLinearQuantizer`.

    Raises:
        ValueError: a budget or candidates that mean nothing.
    """

    def __init__(
        self,
        budget: float,
        kind: Kind = "size",
        candidates: Sequence[int] = CANDIDATES,
        settings: Mapping[str, Any] = SETTINGS,
    ) -> None:
        if not 0 < budget <= 1:
            raise ValueError(f"budget {budget}: a share of the float network's {kind}, in (0, 1]")
        if not candidates or any(bits not in (2, 3, 4, 5, 6, 7, 8, 16) for bits in candidates):
            raise ValueError(f"candidates {list(candidates)}: bits of weights are 2 to 8 or 16")
        self.budget, self.kind, self.settings = budget, kind, dict(settings)
        self.candidates = sorted(set(candidates), reverse=True)

    @uncached_autocast()
    def pick(self, model: nn.Module, batches: Sequence[Any]) -> Plan:
        """Measures every layer at every candidate and chooses.

        Args:
            model: float; it stays as it was.
            batches: calibration data; see `PostTrainLinearQuantizer.quantize`.

        Raises:
            UserError: the budget is below what the fewest bits cost; nothing can be quantized.
        """
        quantizer = PostTrainLinearQuantizer(**{**self.settings, "bits_parameters": 8})
        network = quantizer.float_copy(model, batches)
        quantizer.prepare(network, None)
        assert quantizer.structure is not None
        names = [
            name
            for name, slots in quantizer.structure["layers"].items()
            if any(kind_of(slot) == "weight" for slot in slots)
        ]
        amounts = self._amounts(network, names, batches[0])
        losses = self._losses(network, names, batches)
        width = FLOAT if self.kind == "size" else FLOAT * FLOAT
        activations = 1 if self.kind == "size" else self.settings.get("bits_activations", 8)
        total = sum(amounts.values()) * width
        costs = [[amounts[name] * bits * activations / total for bits in self.candidates] for name in names]
        chosen = choose(costs, [[losses[name][bits] for bits in self.candidates] for name in names], self.budget)
        if chosen is None:
            least = sum(min(row) for row in costs)
            raise UserError(
                f"a {self.kind} budget of {self.budget:.4g} is less than {min(self.candidates)} bits everywhere cost "
                f"({least:.4g} of the float network's); allow more, or offer fewer bits"
            )
        bits = {name: self.candidates[i] for name, i in zip(names, chosen, strict=True)}
        cost = sum(row[i] for row, i in zip(costs, chosen, strict=True))
        return Plan(bits, losses, cost, self.budget, self.kind, self.settings)

    def _amounts(self, network: nn.Module, names: Sequence[str], batch: Any) -> dict[str, int]:
        if self.kind == "size":
            return {name: sum(each.numel() for each in _weights(network, name)) for name in names}
        macs = count_macs(network, batch).by_module()
        return {name: macs.get(name, 0) for name in names}

    @torch.no_grad()
    def _losses(self, network: nn.Module, names: Sequence[str], batches: Sequence[Any]) -> dict[str, dict[int, float]]:
        right = [_first(run_on(network, batch)) for batch in batches]
        losses: dict[str, dict[int, float]] = {}
        for i, name in enumerate(names):
            weights = _weights(network, name)
            kept = [weight.clone() for weight in weights]
            losses[name] = {}
            for bits in self.candidates:
                for weight, before in zip(weights, kept, strict=True):
                    weight.copy_(self._rounded(submodule(network, name), before, bits))
                losses[name][bits] = _noise(network, batches, right)
            for weight, before in zip(weights, kept, strict=True):
                weight.copy_(before)
            told = ", ".join(f"{bits} bits {loss:.2e}" for bits, loss in losses[name].items())
            logger.info("sensitivity: layer %d of %d (%s): %s", i + 1, len(names), name, told)
        return losses

    def _rounded(self, layer: nn.Module, weight: Tensor, bits: int) -> Tensor:
        """The weight as the quantizer of these settings would round it."""
        quantizer = PostTrainLinearQuantizer(**self.settings)
        piece = quantizer.weight_piece(bits, channel_axis(layer))
        assert isinstance(piece, RangeWeight)
        method = quantizer.clip_acts if quantizer.also_clip_weights else "NONE"
        how = Clipping(method, quantizer.n_stds, quantizer.percentile)
        piece.step, piece.zero_point = scale_and_zero(
            *weight_range(weight, how, bits, piece.mode, piece.axis), piece.mode, bits
        )
        return piece.eval()(weight)


def _weights(network: nn.Module, name: str) -> list[Tensor]:
    """A layer's weights; a recurrent one has several."""
    layer = submodule(network, name)
    return [layer.get_parameter(own) for own in weight_names(layer)]


def _first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple | list) else output


def _noise(network: nn.Module, batches: Sequence[Any], right: Sequence[Tensor]) -> float:
    """Mean square difference of the outputs over the outputs' mean square."""
    wrong = sum(
        float((_first(run_on(network, batch)) - y).square().sum(dtype=torch.float64))
        for batch, y in zip(batches, right, strict=True)
    )
    size = sum(float(y.square().sum(dtype=torch.float64)) for y in right)
    return wrong / size if size else wrong
