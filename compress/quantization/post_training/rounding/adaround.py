"""AdaRound: whether each weight is rounded up or down is learned, layer by layer.

The soft rounding, its loss, and `adaround`. Paper: Nagel et al. 2020, "Up or down? Adaptive rounding for
post-training quantization", arXiv 2004.10568: minimise || W x - W~ x~ ||^2 + lambda sum(1 - |2 h(V) - 1|^beta) over V
(eq. 21-24), with x~ what the layer reads in the network quantized so far. What differs: the activation function
behind the layer is left out of the loss (their eq. 25); the error is taken relative to the mean square of the
targets, so that one lambda serves all layers; a weight that is exactly zero stays zero, so that pruning holds; the
learned rounding is taken only where it beats rounding to nearest.
"""

import logging
import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from compress.calibration.replay import passing
from compress.errors import UserError
from compress.quantization.post_training.replay import set_aside
from compress.quantization.post_training.rounding.candidates import Candidates, LayerResult, rounded_input
from compress.selectors import submodule

logger = logging.getLogger("compress")
ZETA, GAMMA = 1.1, -0.1  # the stretch of the sigmoid (section 3.2)
LAMBDA, BETAS, WARM_UP = 0.1, (20.0, 2.0), 0.2  # of the regularizer; its share of the steps without it
SAMPLES = 16  # a step takes that many
LEARNING_RATE = 3e-2


def soft_rounding(v: Tensor) -> Tensor:
    """h(V) = clip(sigmoid(V) (zeta - gamma) + gamma, 0, 1), eq. 23: 0 rounds down, 1 rounds up."""
    return (torch.sigmoid(v) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def start_of(fraction: Tensor) -> Tensor:
    """V whose soft rounding is the fraction in [0, 1) that rounding down cuts off: the float weight."""
    return -torch.log((ZETA - GAMMA) / (fraction - GAMMA) - 1)


def regularizer(h: Tensor, beta: float) -> Tensor:
    """sum(1 - |2 h - 1|^beta), eq. 24: 0 where every h is 0 or 1."""
    return (1 - (2 * h - 1).abs().pow(beta)).sum()


def beta_at(step: int, steps: int) -> float:
    """The regularizer's exponent: from 20 to 2 by a cosine, after the warm-up."""
    first, last = BETAS
    share = (step / steps - WARM_UP) / (1 - WARM_UP)
    return last + (first - last) * (1 + math.cos(math.pi * min(max(share, 0.0), 1.0))) / 2


def adaround(
    quantized: nn.Module, reference: nn.Module, layers: Sequence[str], batches: Sequence[Any], steps: int
) -> list[LayerResult]:
    """Sets the weights of each layer, in this order, to their learned values on the grid, in place.

    Args:
        quantized: with ranges.
        reference: the float network of the same weights and module names.
        layers: with weight quantizers, in the order of execution.
        batches: calibration data.
        steps: of Adam, a layer; the paper takes 10,000.

    Raises:
        UserError: called within inference mode, whose tensors take part in no gradient.
    """
    if torch.is_inference_mode_enabled():
        raise UserError(
            "AdaRound learns by gradients, which torch.inference_mode() rules out; quantize outside it, or under "
            "torch.no_grad()"
        )
    results = []
    for i, name in enumerate(layers):
        started = time.perf_counter()
        result = _learn(quantized, reference, name, batches, steps)
        results.append(result)
        logger.info(
            "AdaRound: layer %d of %d (%s), error %.3g -> %.3g, %.1f %% rounded otherwise, %.1f s",
            i + 1, len(layers), name, result.nearest, result.learned, 100 * result.changed,
            time.perf_counter() - started,
        )  # fmt: skip
    return results


def _learn(quantized: nn.Module, reference: nn.Module, name: str, batches: Sequence[Any], steps: int) -> LayerResult:
    layer: Any = submodule(quantized, name)
    inputs = torch.cat([rounded_input(layer, x) for x, _ in passing(quantized, layer, batches)])
    targets = torch.cat([y for _, y in passing(reference, submodule(reference, name), batches)])
    candidates = Candidates(layer)
    with set_aside(layer):
        # Inputs from the network as quantized so far, targets from
        # the float one: errors of layers in front are made up for.
        learned = hard(candidates, _optimise(layer, candidates, inputs, targets, steps))
        nearest = candidates.nearest()
        errors = [_error(layer, weight, inputs, targets) for weight in (nearest, learned)]
    chosen = learned if errors[1] < errors[0] else nearest
    with torch.no_grad():
        layer.weight.copy_(chosen)
    changed = float((chosen != nearest).double().mean())
    return LayerResult(name, errors[0], min(errors), changed)


class _Alone(nn.Module):
    """A layer without the hooks on it: they ran before its input was taken, and its own output is what is compared."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Any:
        return self.layer.forward(x)


def hard(candidates: Candidates, v: Tensor) -> Tensor:
    """The weight with the rounding that V stands for."""
    return candidates.values((soft_rounding(v) >= 0.5).to(candidates.weight))


@torch.enable_grad()  # also for a caller under `no_grad`
def _optimise(layer: nn.Module, candidates: Candidates, inputs: Tensor, targets: Tensor, steps: int) -> Tensor:
    """V after Adam; samples are drawn by a generator of its own, so that the result does not depend on others."""
    v = start_of(candidates.fraction).requires_grad_()
    optimizer = torch.optim.Adam([v], LEARNING_RATE)
    draw = torch.Generator().manual_seed(0)
    unit = targets.square().mean().clamp_min(1e-30)  # so that lambda means the same for every layer
    for step in range(steps):
        chosen = torch.randint(len(inputs), (min(SAMPLES, len(inputs)),), generator=draw).to(inputs.device)
        h = soft_rounding(v)
        output = functional_call(_Alone(layer), {"layer.weight": candidates.values(h)}, (inputs[chosen],))
        loss = (output - targets[chosen]).square().mean() / unit
        if step >= WARM_UP * steps:
            # A large beta leaves most h free and pushes only those near 0 or 1; as it falls, the rest has to decide.
            loss = loss + LAMBDA * regularizer(h, beta_at(step, steps)) / v.numel()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return v.detach()


@torch.no_grad()
def _error(layer: nn.Module, weight: Tensor, inputs: Tensor, targets: Tensor) -> float:
    total = 0.0
    for x, y in zip(inputs.split(SAMPLES), targets.split(SAMPLES), strict=True):
        output = functional_call(_Alone(layer), {"layer.weight": weight}, (x,))
        total += float((output - y).square().sum(dtype=torch.float64))
    return total / targets.numel()
