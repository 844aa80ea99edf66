"""Bias correction: what rounding shifts on average is taken off again.

Here: `correct_biases`. Paper: Nagel et al. 2019, arXiv 1906.04721, section 4.2 and appendix D (the empirical form):
the mean difference of each output channel between the quantized and the float network, over calibration data, is
subtracted from the bias, one layer after another in the order of execution.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from compress.calibration.replay import passing
from compress.quantization.modules.layers import quantized_class
from compress.quantization.post_training.folding import Bias
from compress.selectors import submodule

logger = logging.getLogger("compress")


def channel_means(outputs: Sequence[Tensor], axis: int) -> Tensor:
    """(channels,): means over everything but `axis` of all outputs together."""
    rows = [output.movedim(axis, 0).flatten(1).double() for output in outputs]
    return sum(each.sum(1) for each in rows) / sum(each.shape[1] for each in rows)  # type: ignore[return-value]


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
    without = []
    for i, (name, norm) in enumerate(biases.items()):
        bias = _bias(quantized, name, norm)
        if not bias.exists:
            without.append(name)
            continue
        # Layer after layer: the means below see the corrections made so far, so that no shift is taken off twice.
        axis = _channel_dimension(submodule(reference, name))
        wrong, right = (
            channel_means([output for _, output in passing(net, _bias(net, name, norm).output, batches)], axis)
            for net in (quantized, reference)
        )
        bias.add((right - wrong).to(submodule(quantized, name).get_parameter("weight")))
        logger.info(
            "bias correction: layer %d of %d (%s), mean error up to %.2e",
            i + 1, len(biases), name, float((right - wrong).abs().max()),
        )  # fmt: skip
    return without


def _bias(model: nn.Module, name: str, norm: str | None) -> Bias:
    return Bias(submodule(model, name), None if norm is None else submodule(model, norm))


def _channel_dimension(layer: nn.Module) -> int:
    """Of the output: the last one of a linear layer, the one behind the batch of a convolution."""
    assert quantized_class(layer) is not None
    if isinstance(layer, nn.Linear):
        return -1
    dimensions = layer.get_parameter("weight").dim() - 2
    return -1 - dimensions
