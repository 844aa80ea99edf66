"""Bias correction: what rounding shifts on average is taken off again.

Here: `correct_biases`. Paper: Nagel et al. 2019, arXiv 1906.04721, section 4.2 and appendix D (the empirical form):
the mean difference of each output channel between the quantized and the float network, over calibration data, is
subtracted from the bias, one layer after another in the order of execution. What differs: where only a ReLU or another
clip reads a layer, the mean behind it is corrected, for that is what the next layers read. Rounding changes a filter's
gain too, so the mean in front of a ReLU is shifted most by what the ReLU cuts off.
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from compress.calibration.replay import passing
from compress.calibration.together import on_first_call, together
from compress.graph.calls import run_on
from compress.quantization.modules.layers import quantized_class
from compress.quantization.placement.clips import Clip
from compress.quantization.post_training.folding import Bias, along
from compress.selectors import submodule

logger = logging.getLogger("compress")
STEPS = 4  # towards the mean behind a clip


def channel_means(outputs: Sequence[Tensor], axis: int) -> Tensor:
    """(channels,): means over everything but `axis` of all outputs together."""
    rows = [output.movedim(axis, 0).flatten(1) for output in outputs]
    total = sum(each.sum(1, dtype=torch.float64) for each in rows)
    return total / sum(each.shape[1] for each in rows)  # type: ignore[return-value]


@torch.no_grad()
def correct_biases(
    quantized: nn.Module,
    reference: nn.Module,
    biases: Mapping[str, str | None],
    batches: Sequence[Any],
    clips: Mapping[str, Clip],
) -> list[str]:
    """Corrects the biases in place.

    Args:
        quantized: with ranges.
        reference: the float network of the same weights and module names.
        biases: layer, in the order of execution -> the BatchNorm folded into it, if any.
        batches: calibration data.
        clips: layer -> what alone reads it.

    Returns:
        the layers that have no bias, and so were not corrected.
    """
    owned = {name: _bias(quantized, name, norm) for name, norm in biases.items()}
    without = [name for name, bias in owned.items() if not bias.exists]
    there = {name: norm for name, norm in biases.items() if name not in without}
    found = {name: clips[name] for name, norm in there.items() if name in clips and clips[name].norm == norm}
    shifts = {name: _Shift(reference, name, norm, found.get(name)) for name, norm in there.items()}
    right = _means(reference, shifts, batches)
    shifts = {name: shift for name, shift in shifts.items() if name in right}
    merged = together(reference, batches)
    if merged is not None and len({id(owned[name].layer) for name in shifts}) == len(shifts):
        _in_one_pass(quantized, {name: owned[name] for name in shifts}, shifts, right, merged)
        return without
    for i, (name, shift) in enumerate(shifts.items(), 1):
        # Layer after layer: the means below see the corrections made so far, so that no shift is taken off twice.
        outputs = [output for _, output in passing(quantized, owned[name].layer, batches)]
        _correct(owned[name], name, shift.to(right[name], outputs, owned[name]), (i, len(shifts)))
    return without


class _Shift:
    """What the readers of a layer see of its result, and by how much its bias has to move.

    Args:
        reference: the float network.
        name: of the layer.
        norm: its folded BatchNorm, if any.
        clip: what alone reads the result; None: the result is read as it is.
    """

    def __init__(self, reference: nn.Module, name: str, norm: str | None, clip: Clip | None) -> None:
        self.axis = channel_dimension(submodule(reference, name))
        self.own, self.clip = _bias(reference, name, norm), clip

    def means(self, outputs: Sequence[Tensor], bias: Bias | None = None, by: Tensor | None = None) -> Tensor:
        """(channels,): of what is read, if the bias moves by so much; `bias` is not given of the float network."""
        return channel_means([self._read(each, bias or self.own, by) for each in outputs], self.axis)

    def to(self, right: Tensor, outputs: Sequence[Tensor], bias: Bias) -> Tensor:
        """By how much the quantized layer's bias has to move for its readers to see these means."""
        by = right - self.means(outputs, bias)
        # The mean behind a clip moves as far as the bias, or less: no step goes too far.
        for _ in range(STEPS - 1 if self.clip is not None else 0):
            by = by + right - self.means(outputs, bias, by)
        return by

    def _read(self, output: Tensor, bias: Bias, by: Tensor | None) -> Tensor:
        if self.clip is None:
            return output
        shift = torch.zeros(1, device=output.device) if by is None else by
        if bias.norm is not None:  # behind the layer, so that its output is without it
            assert bias.values is not None
            shift = shift + bias.values
        return (output + shift.to(output).reshape(along(output, self.axis))).clamp(self.clip.low, self.clip.high)


def _in_one_pass(
    quantized: nn.Module, owned: Mapping[str, Bias], shifts: Mapping[str, _Shift], right: Mapping[str, Tensor],
    merged: Tensor,
) -> None:  # fmt: skip
    """As layer after layer: what a layer gives after its correction is what those behind it read."""
    modules = {name: submodule(quantized, name) for name in shifts}
    names = {id(module): name for name, module in modules.items()}
    done = iter(range(1, len(names) + 1))

    def change(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], output: Tensor) -> Tensor | None:
        name = names[id(module)]
        bias = owned[name]
        _correct(bias, name, shifts[name].to(right[name], [output], bias), (next(done), len(names)))
        return module.forward(*arguments, **named) if bias.norm is None else None

    with on_first_call(modules, change):
        run_on(quantized, merged)


@torch.no_grad()
def _correct(bias: Bias, name: str, by: Tensor, place: tuple[int, int]) -> None:
    bias.add(by.to(bias.layer.get_parameter("weight")))
    logger.info("bias correction: layer %d of %d (%s), mean error up to %.2e", *place, name, float(by.abs().max()))


@torch.no_grad()
def _means(network: nn.Module, shifts: Mapping[str, _Shift], batches: Sequence[Any]) -> dict[str, Tensor]:
    """Of what is read of each layer that is called, over all batches: one pass, and the network stays as it is."""
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    modules = {name: submodule(network, name) for name in shifts}

    @torch.no_grad()  # also where forward turns gradients on
    def keep(name: str, _: nn.Module, __: Any, ___: Any, output: Tensor) -> None:
        count = output.numel() // output.shape[shifts[name].axis]
        sums[name] = sums.get(name, 0) + shifts[name].means([output]) * count
        counts[name] = counts.get(name, 0) + count

    for batch in batches:
        with ExitStack() as hooks:
            for name, module in modules.items():
                hooks.enter_context(on_first_call({name: module}, partial(keep, name)))
            run_on(network, batch)
    return {name: each / counts[name] for name, each in sums.items()}


def _bias(model: nn.Module, name: str, norm: str | None) -> Bias:
    return Bias(submodule(model, name), None if norm is None else submodule(model, norm))


def channel_dimension(layer: nn.Module) -> int:
    """Of a layer's output: the last one of a linear layer, the one behind the batch of a convolution."""
    assert quantized_class(layer) is not None
    if isinstance(layer, nn.Linear):
        return -1
    dimensions = layer.get_parameter("weight").dim() - 2
    return -1 - dimensions
