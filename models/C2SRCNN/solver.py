"""Training of C2SRCNN: what super-resolution adds to the shared loop.

The network, loss and metric.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.trainer import BaseTrainer
from models.C2SRCNN.model import Net
from models.SR.quality import beside_bicubic, centre_of, evaluate, outputs
from options.Normal_options.train_options import SRTrainConfig

EXAMPLE_SIDE = 64  # pixels of the low resolution


class C2SRCNNTrainer(BaseTrainer):
    """Trains `Net` with an L1 loss; the metric is Y-PSNR (dB) on whole validation pictures."""

    config: SRTrainConfig
    quality = "psnr"
    memory_format = torch.channels_last  # a training step takes 0.9 of the time on a CPU

    def build_model(self) -> nn.Module:
        """A new `Net` for the upscale factor."""
        return Net(self.config.upscale_factor)

    def example_inputs(self) -> tuple[Tensor, ...]:
        """One low-resolution picture of the size that makes 1280 x 720 pixels, the field's size for MACs."""
        scale = self.config.upscale_factor
        return (torch.zeros(1, 3, 720 // scale, 1280 // scale, device=self.device),)

    def compute_loss(self, batch: Any) -> Tensor:
        """Mean absolute error of the output, in [0, 1] pixel values."""
        low, high = (each.to(self.device, memory_format=self.memory_format, non_blocking=True) for each in batch)
        return functional.l1_loss(self.forward(low), high)

    def validate(self, model: nn.Module, epoch: int) -> dict[str, float]:
        """Y-PSNR on the validation pictures."""
        return evaluate(model, self.validation_loader, self.device, ["psnr"])

    def example_pictures(self, model: nn.Module) -> dict[str, Tensor]:
        """The middle of the first validation picture: the network's output, bicubic and the target side by side."""
        item = centre_of(self.validation_loader.dataset[0], EXAMPLE_SIDE)
        [(_, output)] = outputs(model, [item], self.device)
        return {"output_bicubic_target": torch.cat([output, item.bicubic, item.high], dim=2)}

    def measure(self, model: nn.Module) -> dict[str, dict[str, float]]:
        """PSNR and SSIM beside bicubic's, on the validation pictures."""
        return beside_bicubic(model, self.validation_loader, self.device)
