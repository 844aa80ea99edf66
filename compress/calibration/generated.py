"""Calibration data for a network whose training data are not at hand: inputs made from its BatchNorm statistics.

`generate_inputs`. Paper: Cai et al. 2020, ZeroQ, arXiv 2001.00281 (inputs whose statistics in front of each BatchNorm
are those that it holds). What differs: a deviation is relative to the channel's own, so that no layer outweighs the
others; inputs start from noise that is as rough at every scale, as photographs nearly are, and may be kept within
limits.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from compress.arguments.checked import checks_arguments
from compress.calibration.replay import first_input
from compress.errors import UserError
from compress.graph.calls import run_on
from compress.parameters import copied

logger = logging.getLogger("compress")
LEARNING_RATE = 0.1  # of Adam, falls to 0
SMALLEST = 1e-3  # of a layer's mean variance: channels below that are not worth more
COARSEST = 4  # pixels along the shorter side of the coarsest noise


@checks_arguments
@torch.inference_mode(False)  # gradients are needed, also for a caller within inference mode
def generate_inputs(
    network: nn.Module,
    example: Tensor,
    batches: Annotated[int, Field(ge=1)],
    batch_size: Annotated[int, Field(ge=2)] = 32,
    steps: Annotated[int, Field(ge=1)] = 100,
    limits: tuple[Tensor, Tensor] | None = None,
    seed: int = 0,
) -> list[Tensor]:
    """Minibatches of inputs with the network's own BatchNorm statistics, to calibrate with instead of data.

    Args:
        network: trained, float; it is left as it was.
        example: an input, for its shape, type and device; its values are not used. Dimension 0 is the batch: one image
            is (1, channels, height, width).
        batches: how many minibatches.
        batch_size: inputs of each.
        steps: of Adam, a minibatch.
        limits: the least and the largest value an input can have, each of a shape that broadcasts with `example`; no
            NaN, the least not above the largest.
        seed: of the noise that inputs start from.

    Raises:
        UserError: the network has no BatchNorm with running statistics, it holds NaN, the network does not take such
            inputs, no gradient reaches them, or the limits make no sense.
    """
    if not example.is_floating_point() or not example.dim():
        raise UserError(
            f"example: given a {example.dtype} tensor; inputs can be generated of floating-point numbers only"
        )
    trial = copied(network).eval().requires_grad_(False)
    layers = {name: each for name, each in trial.named_modules() if _holds_statistics(each)}
    if not layers:
        raise UserError(
            f"{type(network).__name__} has no BatchNorm with running statistics, from which inputs could be generated; "
            "calibrate with data"
        )
    _check_values(trial, layers)
    limits = None if limits is None else _checked(limits, example, batch_size)
    draw = torch.Generator().manual_seed(seed)
    _check_takes(trial, example, batch_size)
    made = []
    for number in range(1, batches + 1):
        x = noise((batch_size, *example.shape[1:]), draw).to(example)
        x, first, last = _fitted(trial, layers, x if limits is None else x.clamp(*limits), steps, limits)
        logger.info(
            "generated minibatch %d of %d: deviation from the BatchNorm statistics %.3g -> %.3g", number, batches,
            first, last,
        )  # fmt: skip
        made.append(x)
    return made


def noise(shape: tuple[int, ...], draw: torch.Generator) -> Tensor:
    """Noise of mean 0 and deviation 1; of images (samples, channels, height, width) with equal parts of all scales."""
    x = torch.randn(shape, generator=draw, dtype=torch.float32)
    if len(shape) != 4:
        return x
    size = [max(1, each // 2) for each in shape[2:]]
    while min(size) >= COARSEST:
        rough = torch.randn(*shape[:2], *size, generator=draw, dtype=torch.float32)
        x += functional.interpolate(rough, shape[2:], mode="bilinear")
        size = [each // 2 for each in size]
    return (x - x.mean()) / x.std()


def _holds_statistics(layer: nn.Module) -> bool:
    return isinstance(layer, _BatchNorm) and layer.running_mean is not None and layer.running_var is not None


def _is_finite(layer: nn.Module) -> bool:
    return all(bool(torch.isfinite(layer.get_buffer(name)).all()) for name in ("running_mean", "running_var"))


def _check_values(network: nn.Module, layers: dict[str, nn.Module]) -> None:
    odd = [name for name, each in layers.items() if not _is_finite(each)]
    if odd:
        raise UserError(f"{odd[0]} holds NaN or infinite statistics, from which no inputs can be generated")
    odd = [name for name, each in network.named_parameters() if not bool(torch.isfinite(each).all())]
    odd += [name for name, each in network.named_buffers() if bool(torch.isnan(each).any())]  # a mask may be infinite
    if odd:
        raise UserError(f"{odd[0]} holds NaN or infinite values; no inputs can be generated")


def _checked(limits: tuple[Tensor, Tensor], example: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
    """The limits on the example's device, if they are in order."""
    low, high = (each.to(example.device) for each in limits)
    shape = (batch_size, *example.shape[1:])
    try:
        fit = torch.broadcast_shapes(low.shape, high.shape, shape) == shape
    except RuntimeError:
        fit = False
    if not fit:
        raise UserError(
            f"limits: of shapes {list(low.shape)} and {list(high.shape)}, which do not broadcast to the inputs' "
            f"{list(shape)}; no inputs were generated"
        )
    if bool(torch.isnan(low).any() or torch.isnan(high).any()):
        raise UserError("limits: they hold NaN; give (least, largest) values; no inputs were generated")
    if bool((low > high).any()):
        raise UserError("limits: a least value is above the largest; give (least, largest); no inputs were generated")
    return low, high


@torch.no_grad()
def _check_takes(network: nn.Module, example: Tensor, batch_size: int) -> None:
    try:
        run_on(network, example.new_zeros((batch_size, *example.shape[1:])))
    except (RuntimeError, ValueError, IndexError) as e:
        raise UserError(
            f"example: of shape {list(example.shape)}, dimension 0 being the batch (one image is (1, channels, height, "
            f"width)); the network does not take {batch_size} such inputs: {e}"
        ) from e


class _Deviation:
    """How far what a BatchNorm reads is from what it holds: sums over the calls of a pass."""

    def __init__(self) -> None:
        self.terms: list[Tensor] = []

    def __call__(self, layer: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        rows = first_input(layer, arguments, named).transpose(0, 1).flatten(1).float()
        mean, variance = layer.get_buffer("running_mean").float(), layer.get_buffer("running_var").float()
        variance = variance.clamp_min(SMALLEST * float(variance.mean()) + 1e-12)
        # max: the square root has no gradient at 0
        given = rows.var(1, correction=0).clamp_min(1e-6 * variance)
        away = (rows.mean(1) - mean).square() / variance + ((given / variance).sqrt() - 1).square()
        self.terms.append(away.mean())


@contextmanager
def _watched(layers: dict[str, nn.Module]) -> Iterator[_Deviation]:
    found = _Deviation()
    handles = [layer.register_forward_pre_hook(found, with_kwargs=True) for layer in layers.values()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _fitted(
    network: nn.Module, layers: dict[str, nn.Module], x: Tensor, steps: int, limits: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, float, float]:
    """The inputs after Adam, and their deviation at first and at last, mean over layers and channels."""
    x = x.clone().requires_grad_()
    optimizer = torch.optim.Adam([x], LEARNING_RATE)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    seen: list[float] = []
    for _ in range(steps):
        with _watched(layers) as found, torch.enable_grad():
            run_on(network, x)
            if not found.terms:
                raise UserError("the network runs none of its BatchNorm layers; no inputs can be generated")
            loss = torch.stack(found.terms).mean()
        if not loss.requires_grad:
            raise UserError(
                "no gradient reaches the network's input, so no inputs can be generated; calibrate with data"
            )
        (x.grad,) = torch.autograd.grad(loss, [x])
        seen.append(float(loss.detach()))
        optimizer.step()
        decay.step()
        if limits is not None:
            with torch.no_grad():
                x.clamp_(*limits)
    return x.detach(), seen[0], seen[-1]
