"""Evaluation of restoration networks: metrics beside the trivial method's, images side by side.

`RestorationTester`. An application takes it, or derives from it.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from apputils.restoration.panels import save_image, side_by_side, write_image
from compress.analysis.sensitivity.evaluation import Evaluation
from data.restoration import RestorationItem, WholeImages
from engine.tester import BaseTester
from models.restoration.quality import Quality, outputs


class RestorationTester(BaseTester):
    """Measures a checkpoint on whole images, as the application's trainer does."""

    higher_is_better: ClassVar[Mapping[str, bool]] = {"psnr": True, "ssim": True}

    @property
    def image_quality(self) -> Quality:
        """How images are measured."""
        found: Quality = self.application.load("trainer").image_quality
        return found

    def test(self, model: nn.Module) -> dict[str, float]:
        """Mean of each metric over the test images; writes nothing."""
        return self.image_quality.evaluate(model, self.testing_loader, self.device)

    def cropped(self, shape: Sequence[int]) -> "RestorationTester | None":
        """See `TestedApplication`."""
        height, width = shape[-2:]
        fitting = [item for item in self.testing_loader if _holds(item, height, width)]
        found = copy.copy(self)
        found.testing_loader = cast(Any, [item.middle(height, width) for item in fitting])
        return found if fitting else None

    def image_scores(self, model: nn.Module) -> dict[str, list[float]]:
        """Each metric of each test image."""
        rows = self.image_quality.by_image(model, self.testing_loader, self.device)
        return {name: [row[name] for row in rows] for name in self.image_quality.metrics}

    def baseline(self) -> tuple[str, dict[str, float]]:
        """The trivial method."""
        return self.image_quality.baseline, self.image_quality.of_baseline(self.testing_loader)

    def measured_on(self) -> dict[str, Any]:
        """The images by their names, and what was done to them."""
        images = getattr(self.testing_loader, "dataset", None)
        done = images.facts() if isinstance(images, WholeImages) else {}
        return {"images": ", ".join(item.name for item in self.testing_loader), **done}

    def example_inputs(self) -> tuple[Tensor, ...]:
        """One image of the size that MACs are counted for."""
        scale = self.checkpoint["network"]["arguments"].get("upscale_factor", 1)
        return self.image_quality.example_inputs(scale, self.device)

    def samples(self) -> Iterator[tuple[Tensor, None]]:
        """One degraded image at a time."""
        return ((item.degraded[None], None) for item in self.testing_loader)

    def evaluation(self) -> Evaluation:
        """The test images, and PSNR (with `--full` every metric) of what a network makes of them."""
        items = list(self.testing_loader)
        names = tuple(self.image_quality.metrics) if self.config.full else ("psnr",)
        inputs = [item.degraded[None].to(self.device) for item in items]
        return Evaluation(inputs, partial(self.image_quality.of_outputs, items, names=names), self.higher_is_better)

    def write_images(self, model: nn.Module, folder: Path) -> int:
        """For each image the baseline, output and target, and all side by side with their PSNR.

        The input comes first where the baseline is not the input itself; an input that is smaller is shown enlarged.
        """
        count = 0
        for item, output in outputs(model, self.testing_loader, self.device):
            images = {self.image_quality.baseline: item.baseline, "output": output, "target": item.target}
            shown = images
            if item.degraded is not item.baseline:
                enlarged = item.degraded.repeat_interleave(item.scale, 1).repeat_interleave(item.scale, 2)
                images, shown = {"input": item.degraded, **images}, {"input": enlarged, **images}
            for kind, pixels in images.items():
                save_image(pixels, folder / f"{item.name}_{kind}.png")
            write_image(
                side_by_side(shown, item.target, partial(self._psnr, item)), folder / f"{item.name}_side_by_side.png"
            )
            count += len(images) + 1
        return count

    def _psnr(self, item: RestorationItem, image: Tensor) -> float:
        return self.image_quality.metrics["psnr"](image, item)


def _holds(item: RestorationItem, height: int, width: int) -> bool:
    return item.degraded.shape[-2] >= height and item.degraded.shape[-1] >= width
