"""Evaluation of super-resolution networks: metrics beside bicubic, pictures side by side.

`XSRCNNTester`.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from apputils.SR_apputils.panels import save_image, side_by_side, write_image
from compress.analysis.sensitivity.evaluation import Evaluation
from data.loaders import sr_training_loaders
from engine.tester import BaseTester
from models.C2SRCNN.model import Net
from models.SR.quality import BASELINE, METRICS, evaluate, evaluate_bicubic, outputs, quality_of_outputs


class XSRCNNTester(BaseTester):
    """Measures a super-resolution checkpoint by PSNR (dB) and SSIM of the Y channel."""

    higher_is_better: ClassVar[dict[str, bool]] = {"psnr": True, "ssim": True}

    def new_network(self, arguments: dict[str, Any]) -> nn.Module:
        """`Net` with the checkpoint's arguments."""
        return Net(**arguments)

    def example_inputs(self) -> tuple[Tensor, ...]:
        """One low-resolution picture of the size that makes 1280 x 720 pixels."""
        scale = self.checkpoint["network"]["arguments"]["upscale_factor"]
        return (torch.zeros(1, 3, 720 // scale, 1280 // scale, device=self.device),)

    def test(self, model: nn.Module) -> dict[str, float]:
        """Mean PSNR and SSIM of the test pictures; writes nothing."""
        return evaluate(model, self.testing_loader, self.device)

    def measured_on(self) -> dict[str, Any]:
        """The pictures by their names, and the scale."""
        names = ", ".join(item.name for item in self.testing_loader)
        return {"pictures": names, "scale": self.checkpoint["network"]["arguments"]["upscale_factor"]}

    def samples(self) -> Iterator[tuple[Tensor, None]]:
        """One low-resolution picture at a time."""
        return ((item.low[None], None) for item in self.testing_loader)

    def evaluation(self) -> Evaluation:
        """The test pictures, and PSNR (with `--full` SSIM too) of what a network makes of them."""
        items = list(self.testing_loader)
        metrics = tuple(METRICS) if self.config.full else ("psnr",)
        inputs = [item.low[None].to(self.device) for item in items]
        return Evaluation(inputs, partial(quality_of_outputs, items, metrics=metrics), self.higher_is_better)

    def training_data(self) -> tuple[Iterable[Any], Any]:
        """Training crops and validation pictures of the run."""
        saved: Any = SimpleNamespace(**self.checkpoint["options"])
        return sr_training_loaders(saved)

    def baseline(self) -> tuple[str, dict[str, float]]:
        """Bicubic."""
        return BASELINE, evaluate_bicubic(self.testing_loader)

    def write_pictures(self, model: nn.Module, folder: Path) -> int:
        """For each picture: input, bicubic, output, target, and the four side by side with their PSNR."""
        count = 0
        for item, output in outputs(model, self.testing_loader, self.device):
            scale = item.high.shape[-1] // item.low.shape[-1]
            enlarged = item.low.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
            panels = {"input": enlarged, "bicubic": item.bicubic, "output": output, "target": item.high}
            stem = Path(item.name).stem
            for kind, pixels in {**panels, "input": item.low}.items():
                save_image(pixels, folder / f"{stem}_{kind}.png")
            write_image(side_by_side(panels, item.high, scale), folder / f"{stem}_side_by_side.png")
            count += 5
        return count
