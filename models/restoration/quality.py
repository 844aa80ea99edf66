"""Quality of restoration networks on whole images, beside the trivial method's.

Means over images. Called by solvers and testers.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from apputils.restoration.metrics import psnr_rgb, ssim_rgb
from data.restoration import RestorationItem

Items = Iterable[RestorationItem]
Metric = Callable[[Tensor, RestorationItem], float]  # of an image (3, H, W) in [0, 1], and of the item with its target


def rgb_psnr(image: Tensor, item: RestorationItem) -> float:
    """PSNR of RGB, dB."""
    return psnr_rgb(image, item.target)


def rgb_ssim(image: Tensor, item: RestorationItem) -> float:
    """SSIM of RGB."""
    return ssim_rgb(image, item.target)


@dataclass(frozen=True)
class Quality:
    """How an application measures images.

    Attributes:
        baseline: what the trivial method is called; items hold its images.
        metrics: by name; more of each is better. Functions of a module, which other processes can be sent.
        example_size: height and width of the target that MACs are counted and latency is measured for, pixels.
    """

    baseline: str
    metrics: Mapping[str, Metric] = field(default_factory=lambda: {"psnr": rgb_psnr, "ssim": rgb_ssim})
    example_size: tuple[int, int] = (256, 256)

    def example_inputs(self, scale: int, device: torch.device) -> tuple[Tensor, ...]:
        """One input of the size whose output has `example_size`, where the target is `scale` times larger."""
        return (torch.zeros(1, 3, *(side // scale for side in self.example_size), device=device),)

    def evaluate(
        self, model: nn.Module, items: Items, device: torch.device, names: Iterable[str] | None = None
    ) -> dict[str, float]:
        """Mean of each metric over the images, or of those named."""
        return _mean(self.by_image(model, items, device, names))

    def by_image(
        self, model: nn.Module, items: Items, device: torch.device, names: Iterable[str] | None = None
    ) -> list[dict[str, float]]:
        """The metrics of each image, or those named."""
        return [self._of(item, output, names) for item, output in outputs(model, items, device)]

    def of_outputs(
        self, items: Sequence[RestorationItem], outputs: Iterable[Tensor], names: Iterable[str] | None = None
    ) -> dict[str, float]:
        """The same of outputs that are there: one image (1, 3, H, W) each, not clamped, in the items' order."""
        made = map(_image, outputs)
        return _mean([self._of(item, image, names) for item, image in zip(items, made, strict=True)])

    def of_baseline(self, items: Items) -> dict[str, float]:
        """The same of the trivial method."""
        return _mean([self._of(item, item.baseline) for item in items])

    def beside_baseline(self, model: nn.Module, items: Items, device: torch.device) -> dict[str, dict[str, float]]:
        """Metric -> {the baseline's name: x, "model": y}."""
        trivial, own = self.of_baseline(items), self.evaluate(model, items, device)
        return {metric: {self.baseline: trivial[metric], "model": own[metric]} for metric in own}

    def _of(self, item: RestorationItem, image: Tensor, names: Iterable[str] | None = None) -> dict[str, float]:
        return {name: self.metrics[name](image, item) for name in names or self.metrics}


@torch.inference_mode()
def outputs(model: nn.Module, items: Items, device: torch.device) -> Iterator[tuple[RestorationItem, Tensor]]:
    """Each item with the network's output, (3, H, W) in [0, 1] on the CPU; the network's mode is put back."""
    was_training = model.training
    model.eval()
    try:
        for item in items:
            yield item, _image(model(item.degraded[None].to(device)))
    finally:
        model.train(was_training)


def _image(output: Tensor) -> Tensor:
    """(1, 3, H, W) -> (3, H, W) in [0, 1], on the CPU."""
    return output[0].clamp(0, 1).float().cpu()


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
