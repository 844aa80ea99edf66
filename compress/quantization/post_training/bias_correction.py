"""Bias correction: what rounding shifts on average is taken off again.

Here: `correct_biases`. Paper: Nagel et al. 2019, arXiv 1906.04721, section 4.2 and appendix D (the empirical form):
the mean difference of each output channel between the quantized and the float network, over calibration data, is
subtracted from the bias, one layer after another in the order of execution.
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
from compress.quantization.post_training.folding import Bias
from compress.selectors import submodule

logger = logging.getLogger("compress")


def channel_means(outputs: Sequence[Tensor], axis: int) -> Tensor:
    """(channels,): means over everything but `axis` of all outputs together."""
    rows = [output.movedim(axis, 0).flatten(1) for output in outputs]
    total = sum(each.sum(1, dtype=torch.float64) for each in rows)
    return total / sum(each.shape[1] for each in rows)  # type: ignore[return-value]


@torch.no_grad()
def correct_biases(
    quantized: nn.Module, reference: nn.Module, biases: Mapping[str, str | None], batches: Sequence[Any]
) -> list[str]:
    """Corrects the biases in place.

    Args:
        quantized: with ranges.
        reference: the float network of the same weights and module names.
        biases: layer, in the order of execution -> the BatchNorm folded into it, if any.
        batches: calibration data.

    Returns:
        the layers that have no bias, and so were not corrected.
    """
    owned = {name: _bias(quantized, name, norm) for name, norm in biases.items()}
    without = [name for name, bias in owned.items() if not bias.exists]
    there = {name: norm for name, norm in biases.items() if name not in without}
    right = _means(reference, there, batches)
    there = {name: norm for name, norm in there.items() if name in right}
    merged = together(reference, batches)
    if merged is not None and len({id(owned[name].layer) for name in there}) == len(there):
        _in_one_pass(quantized, reference, there, right, merged)
        return without
    for i, name in enumerate(there, 1):
        # Layer after layer: the means below see the corrections made so far, so that no shift is taken off twice.
        bias = owned[name]
        axis = channel_dimension(submodule(reference, name))
        wrong = channel_means([output for _, output in passing(quantized, bias.layer, batches)], axis)
        _correct(bias, name, right[name] - wrong, (i, len(there)))
    return without


def _in_one_pass(
    quantized: nn.Module, reference: nn.Module, biases: Mapping[str, str | None], right: Mapping[str, Tensor],
    merged: Tensor,
) -> None:  # fmt: skip
    """As layer after layer: what a layer gives after its correction is what those behind it read."""
    modules = {name: submodule(quantized, name) for name in biases}
    names = {id(module): name for name, module in modules.items()}
    done = iter(range(1, len(names) + 1))

    def change(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], output: Tensor) -> Tensor | None:
        name = names[id(module)]
        wrong = channel_means([output], channel_dimension(submodule(reference, name)))
        _correct(_bias(quantized, name, biases[name]), name, right[name] - wrong, (next(done), len(names)))
        return module.forward(*arguments, **named) if biases[name] is None else None

    with on_first_call(modules, change):
        run_on(quantized, merged)


@torch.no_grad()
def _correct(bias: Bias, name: str, by: Tensor, place: tuple[int, int]) -> None:
    bias.add(by.to(bias.layer.get_parameter("weight")))
    logger.info("bias correction: layer %d of %d (%s), mean error up to %.2e", *place, name, float(by.abs().max()))


def _means(network: nn.Module, biases: Mapping[str, str | None], batches: Sequence[Any]) -> dict[str, Tensor]:
    """Of what each layer that is called gives, over all batches: one pass, and the network stays as it is.

    Of the layer, not of its folded BatchNorm: classes such as timm's have an activation behind the norm's bias, and
    a mean behind a ReLU is no shift of what is in front of it. The norm's bias is the same in both networks.
    """
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    modules = {name: submodule(network, name) for name in biases}
    axes = {name: channel_dimension(submodule(network, name)) for name in biases}

    def keep(name: str, _: nn.Module, __: Any, ___: Any, output: Tensor) -> None:
        count = output.numel() // output.shape[axes[name]]
        sums[name] = sums.get(name, 0) + channel_means([output], axes[name]) * count
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
