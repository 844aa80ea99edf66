"""Quality of super-resolution networks on whole pictures, beside bicubic.

Means over pictures. Called by the solver and the tester.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from apputils.SR_apputils.metrics import psnr_y, ssim_y
from data.dataset import EvaluationItem

METRICS = {"psnr": psnr_y, "ssim": ssim_y}
BASELINE = "bicubic"


@torch.inference_mode()
def outputs(
    model: nn.Module, items: Iterable[EvaluationItem], device: torch.device
) -> Iterator[tuple[EvaluationItem, Tensor]]:
    """Each picture with the network's output, (3, H, W) in [0, 1] on the CPU; the network's mode is put back."""
    was_training = model.training
    model.eval()
    try:
        for item in items:
            yield item, model(item.low[None].to(device))[0].clamp(0, 1).float().cpu()
    finally:
        model.train(was_training)


def centre_of(item: EvaluationItem, side: int) -> EvaluationItem:
    """The middle of a picture: at most `side` pixels high and wide in the low resolution."""
    scale = item.high.shape[-1] // item.low.shape[-1]
    top, left = (max(size - side, 0) // 2 for size in item.low.shape[-2:])
    low = item.low[:, top : top + side, left : left + side]
    rows, columns = (
        slice(scale * start, scale * (start + size)) for start, size in zip((top, left), low.shape[1:], strict=True)
    )
    return item._replace(low=low, bicubic=item.bicubic[:, rows, columns], high=item.high[:, rows, columns])


def evaluate(
    model: nn.Module, items: Iterable[EvaluationItem], device: torch.device, metrics: Iterable[str] = METRICS
) -> dict[str, float]:
    """Mean of each metric over the pictures: `psnr` in dB, `ssim`; Y channel, border cut by the scale."""
    return _mean([_quality(item, output, metrics) for item, output in outputs(model, items, device)])


def quality_of_outputs(
    items: Sequence[EvaluationItem], outputs: Iterable[Tensor], metrics: Iterable[str] = tuple(METRICS)
) -> dict[str, float]:
    """The same of outputs that are there: one picture (1, 3, H, W) each, not clamped, in the items' order."""
    made = (output[0].clamp(0, 1).float().cpu() for output in outputs)
    return _mean([_quality(item, picture, metrics) for item, picture in zip(items, made, strict=True)])


def evaluate_bicubic(items: Iterable[EvaluationItem], metrics: Iterable[str] = METRICS) -> dict[str, float]:
    """The same of the bicubic baseline."""
    return _mean([_quality(item, item.bicubic, metrics) for item in items])


def beside_bicubic(model: nn.Module, items: Any, device: torch.device) -> dict[str, dict[str, float]]:
    """Metric -> {"bicubic": x, "model": y}."""
    baseline, own = evaluate_bicubic(items), evaluate(model, items, device)
    return {metric: {BASELINE: baseline[metric], "model": own[metric]} for metric in own}


def _quality(item: EvaluationItem, output: Tensor, metrics: Iterable[str]) -> dict[str, float]:
    scale = item.high.shape[-1] // item.low.shape[-1]
    return {name: METRICS[name](output, item.high, scale) for name in metrics}


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
