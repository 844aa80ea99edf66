"""Evaluation of deblurring networks: metrics beside the blurred pictures' own, pictures side by side.

`DeblurTester`.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from apputils.Deblur_apputils.metrics import psnr_rgb
from apputils.SR_apputils.panels import save_image, side_by_side, write_image
from compress.analysis.sensitivity.evaluation import Evaluation
from data.Deblur_data.loaders import deblur_training_loaders
from data.Deblur_data.source import PairSource
from engine.tester import BaseTester
from models.Deblur.networks import build_networks
from models.Deblur.quality import BASELINE, METRICS, evaluate, evaluate_blurred, outputs, quality_of_outputs
from models.Deblur.solver import EXAMPLE_SIDE


class DeblurTester(BaseTester):
    """Measures a deblurring checkpoint by PSNR (dB) and SSIM of RGB."""

    higher_is_better: ClassVar[dict[str, bool]] = {"psnr": True, "ssim": True}

    def new_network(self, arguments: dict[str, Any]) -> nn.Module:
        """The generator, with the discriminator beside it where the schedule named its weights."""
        return build_networks(**arguments)

    def example_inputs(self) -> tuple[Tensor, ...]:
        """One picture of 256 x 256 pixels."""
        return (torch.zeros(1, 3, EXAMPLE_SIDE, EXAMPLE_SIDE, device=self.device),)

    def test(self, model: nn.Module) -> dict[str, float]:
        """Mean PSNR and SSIM of the test pictures; writes nothing."""
        return evaluate(model, self.testing_loader, self.device)

    def measured_on(self) -> dict[str, Any]:
        """The pictures by their names, and how they are blurred."""
        source: PairSource = self.testing_loader.dataset.source  # type: ignore[attr-defined]
        return {"pictures": ", ".join(item.name for item in self.testing_loader), **source.facts()}

    def training_data(self) -> tuple[Iterable[Any], Any]:
        """Training crops and validation pictures of the run; its workers are not started for a few minibatches."""
        saved: Any = SimpleNamespace(**{**self.checkpoint["options"], "workers": 0})
        return deblur_training_loaders(saved)

    def samples(self) -> Iterator[tuple[Tensor, None]]:
        """One blurred picture at a time."""
        return ((item.blurred[None], None) for item in self.testing_loader)

    def evaluation(self) -> Evaluation:
        """The test pictures, and PSNR (with `--full` SSIM too) of what a network makes of them."""
        items = list(self.testing_loader)
        metrics = tuple(METRICS) if self.config.full else ("psnr",)
        inputs = [item.blurred[None].to(self.device) for item in items]
        return Evaluation(inputs, partial(quality_of_outputs, items, metrics=metrics), self.higher_is_better)

    def baseline(self) -> tuple[str, dict[str, float]]:
        """The blurred pictures themselves."""
        return BASELINE, evaluate_blurred(self.testing_loader)

    def write_pictures(self, model: nn.Module, folder: Path) -> int:
        """For each picture: blurred, output, target, and the three side by side with their PSNR."""
        count = 0
        for item, output in outputs(model, self.testing_loader, self.device):
            panels = {"blurred": item.blurred, "output": output, "target": item.sharp}
            for kind, pixels in panels.items():
                save_image(pixels, folder / f"{item.name}_{kind}.png")
            beside = side_by_side(panels, item.sharp, 0, psnr=lambda a, b, _: psnr_rgb(a, b))
            write_image(beside, folder / f"{item.name}_side_by_side.png")
            count += 4
        return count
