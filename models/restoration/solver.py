"""Training of restoration networks: loss, metric and example images.

`RestorationTrainer`. An application's solver derives from it and gives the network.
"""

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.trainer import BaseTrainer
from models.restoration.quality import Quality, outputs

LARGEST_PROBE = 64  # pixels of a crop that a new network is tried with
PROBED_IMAGES = 3  # validation images whose sizes are tried, with a network that is not the bench's


class RestorationTrainer(BaseTrainer):
    """Trains on pairs (degraded, target) with an L1 loss; PSNR (dB) on whole validation images chooses `best`.

    Attributes:
        image_quality: how images are measured.
    """

    quality = "psnr"
    memory_format = torch.channels_last  # a training step takes 0.9 of the time on a CPU
    image_quality: ClassVar[Quality]

    @property
    def scale(self) -> int:
        """How many times larger the target is than the input."""
        return getattr(self.config, "upscale_factor", 1)

    def example_inputs(self) -> tuple[Tensor, ...]:
        """One image of the size that MACs are counted for."""
        return self.image_quality.example_inputs(self.scale, self.device)

    def compute_loss(self, batch: Any) -> Tensor:
        """Mean absolute error of the output, in [0, 1] pixel values."""
        degraded, target = self.on_device(batch)
        return functional.l1_loss(self.forward(degraded), target)

    def on_device(self, batch: Any) -> tuple[Tensor, Tensor]:
        """A minibatch (degraded, target) where and as it is computed with."""
        degraded, target = (each.to(self.device, memory_format=self.memory_format, non_blocking=True) for each in batch)
        return degraded, target

    def probes(self) -> Iterator[tuple[tuple[Tensor, ...], tuple[int, ...]]]:
        """A training crop's size, then the sizes of the first validation images."""
        crop: int = getattr(self.config, "patch_size", LARGEST_PROBE)
        side = max(min(crop, LARGEST_PROBE) // self.scale, 1)
        yield self._probe(side, side)
        data: Any = self.validation_loader.dataset if self.validation_loader is not None else []
        for height, width in {data[i].degraded.shape[-2:]: None for i in range(min(len(data), PROBED_IMAGES))}:
            yield self._probe(height, width)

    def _probe(self, height: int, width: int) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        return (torch.zeros(1, 3, height, width),), (1, 3, height * self.scale, width * self.scale)

    def validate(self, model: nn.Module, epoch: int) -> dict[str, float]:
        """PSNR on the validation images."""
        return self.image_quality.evaluate(model, self.validation_loader, self.device, ["psnr"])

    def example_images(self, model: nn.Module) -> dict[str, Tensor]:
        """The first validation image: the baseline, the network's output and the target side by side."""
        [(item, output)] = outputs(model, [self.validation_loader.dataset[0]], self.device)
        name = f"{self.image_quality.baseline}_output_target"
        return {name: torch.cat([item.baseline, output, item.target], dim=2)}

    def measure(self, model: nn.Module) -> dict[str, dict[str, float]]:
        """Every metric beside the baseline's, on the validation images."""
        return self.image_quality.beside_baseline(model, self.validation_loader, self.device)
