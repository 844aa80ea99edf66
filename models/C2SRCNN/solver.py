"""Training of C2SRCNN: what super-resolution adds to the shared loop.

The network and its example inputs.
"""

import torch
from torch import Tensor, nn

from models.C2SRCNN.model import Net
from models.restoration.quality import outputs
from models.restoration.solver import RestorationTrainer
from models.SR.quality import QUALITY, centre_of
from options.Normal_options.train_options import SRTrainConfig

EXAMPLE_SIDE = 64  # pixels of the low resolution


class C2SRCNNTrainer(RestorationTrainer):
    """Trains `Net` with an L1 loss; the metric is Y-PSNR (dB) on whole validation images."""

    config: SRTrainConfig
    image_quality = QUALITY

    def build_model(self) -> nn.Module:
        """A new `Net` for the upscale factor."""
        return Net(self.config.upscale_factor)

    def example_inputs(self) -> tuple[Tensor, ...]:
        """One low-resolution image of the size that makes 1280 x 720 pixels, the field's size for MACs."""
        scale = self.config.upscale_factor
        return (torch.zeros(1, 3, 720 // scale, 1280 // scale, device=self.device),)

    def example_images(self, model: nn.Module) -> dict[str, Tensor]:
        """The middle of the first validation image: the network's output, bicubic and the target side by side."""
        item = centre_of(self.validation_loader.dataset[0], EXAMPLE_SIDE)
        [(_, output)] = outputs(model, [item], self.device)
        return {"output_bicubic_target": torch.cat([output, item.baseline, item.target], dim=2)}
