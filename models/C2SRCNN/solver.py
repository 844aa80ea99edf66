"""Training of C2SRCNN and other networks: what super-resolution adds to the shared loop.

The network and example images.
"""

from typing import Any

import torch
from torch import Tensor, nn

from engine.architectures.chosen import ChosenArchitecture
from models.restoration.quality import outputs
from models.restoration.solver import RestorationTrainer
from models.SR.quality import QUALITY
from models.SR.zoo import OPTIONS, ZOO
from options.Normal_options.train_options import SRTrainConfig

SHOWN = 64  # pixels of the low resolution


class C2SRCNNTrainer(ChosenArchitecture, RestorationTrainer):
    """Trains the network of `--arch`, by default `Net`, with an L1 loss; the metric is Y-PSNR (dB) on whole
    validation images.
    """

    config: SRTrainConfig
    image_quality = QUALITY
    zoo = ZOO
    setting_options = OPTIONS
    bfloat16 = frozenset({"c2srcnn"})  # docs/scale.md has the figures

    def given(self) -> dict[str, Any]:
        """The upscale factor."""
        return {"upscale_factor": self.config.upscale_factor}

    def example_images(self, model: nn.Module) -> dict[str, Tensor]:
        """The middle of the first validation image: the network's output, bicubic and the target side by side."""
        item = self.validation_loader.dataset[0].middle(SHOWN, SHOWN)
        [(_, output)] = outputs(model, [item], self.device)
        return {"output_bicubic_target": torch.cat([output, item.baseline, item.target], dim=2)}
