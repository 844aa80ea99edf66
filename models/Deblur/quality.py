"""Quality of deblurring networks on whole pictures, beside the blurred pictures' own.

Means over pictures.
"""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from apputils.Deblur_apputils.metrics import psnr_rgb, ssim_rgb
from data.Deblur_data.dataset import DeblurItem

METRICS = {"psnr": psnr_rgb, "ssim": ssim_rgb}
BASELINE = "blurred"


@torch.inference_mode()
def outputs(model: nn.Module, items: Iterable[DeblurItem], device: torch.device) -> Iterator[tuple[DeblurItem, Tensor]]:
    """Each picture with the network's output, (3, H, W) in [0, 1] on the CPU; the network's mode is put back."""
    was_training = model.training
    model.eval()
    try:
        for item in items:
            yield item, model(item.blurred[None].to(device))[0].clamp(0, 1).float().cpu()
    finally:
        model.train(was_training)


def evaluate(
    model: nn.Module, items: Iterable[DeblurItem], device: torch.device, metrics: Iterable[str] = METRICS
) -> dict[str, float]:
    """Mean of each metric over the pictures: `psnr` in dB, `ssim`, of RGB."""
    return _mean([_quality(item, output, metrics) for item, output in outputs(model, items, device)])


def quality_of_outputs(
    items: Sequence[DeblurItem], outputs: Iterable[Tensor], metrics: Iterable[str] = tuple(METRICS)
) -> dict[str, float]:
    """The same of outputs that are there: one picture (1, 3, H, W) each, not clamped, in the items' order."""
    made = (output[0].clamp(0, 1).float().cpu() for output in outputs)
    return _mean([_quality(item, picture, metrics) for item, picture in zip(items, made, strict=True)])


def evaluate_blurred(items: Iterable[DeblurItem], metrics: Iterable[str] = METRICS) -> dict[str, float]:
    """The same of the blurred pictures themselves: the baseline."""
    return _mean([_quality(item, item.blurred, metrics) for item in items])


def beside_blurred(model: nn.Module, items: Iterable[DeblurItem], device: torch.device) -> dict[str, dict[str, float]]:
    """Metric -> {"blurred": x, "model": y}."""
    baseline, own = evaluate_blurred(items), evaluate(model, items, device)
    return {metric: {BASELINE: baseline[metric], "model": own[metric]} for metric in own}


def _quality(item: DeblurItem, picture: Tensor, metrics: Iterable[str]) -> dict[str, float]:
    return {name: METRICS[name](picture, item.sharp) for name in metrics}


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
