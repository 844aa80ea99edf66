"""`--amp`, `--compile` and `--channels-last` give the plain run's losses within the tolerances of docs/scale.md."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from engine.trainer import BaseTrainer
from tests.engine.conftest import TrainerOf
from tests.models.Classify.conftest import ClassifierOf, classifier_of  # noqa: F401
from tests.models.Deblur.conftest import DeblurrerOf, deblurrer_of  # noqa: F401

AMP, ROUNDING = 2e-2, 1e-4  # relative


def losses(trainer: BaseTrainer) -> list[float]:
    """Of each step of an epoch."""
    found: list[float] = []
    trainer.build()
    inner = trainer.compute_loss

    def noting(batch: Any) -> torch.Tensor:
        loss = inner(batch)
        found.append(float(loss.detach()))
        return loss

    trainer.compute_loss = noting  # type: ignore[method-assign]
    trainer.train(0, trainer.compression_scheduler)
    return found


@pytest.mark.parametrize(
    ("option", "tolerance"),
    [("--amp", AMP), ("--channels-last", ROUNDING), pytest.param("--compile", ROUNDING, marks=pytest.mark.slow)],
)
def test_the_losses_of_super_resolution_stay(trainer_of: TrainerOf, option: str, tolerance: float) -> None:
    plain, other = losses(trainer_of()), losses(trainer_of(option))
    assert len(plain) == 3
    assert other == pytest.approx(plain, rel=tolerance)
    if option != "--compile":  # whose losses may be the same, or may not
        assert (other == plain) == (option == "--channels-last")  # there it is the default


def test_losses_are_computed_in_float32(deblurrer_of: DeblurrerOf) -> None:  # noqa: F811
    """SSIM subtracts squares of means from means of squares: of smooth images nothing is left in bfloat16."""
    smooth = np.random.default_rng(0).integers(96, 160, (3, 2, 2, 3), dtype=np.uint8)
    for path, few in zip(sorted(Path("images/train").glob("*.png")), smooth, strict=True):
        Image.fromarray(few).resize((52, 44), Image.Resampling.BICUBIC).save(path)
    plain = losses(deblurrer_of())
    assert losses(deblurrer_of("--amp")) == pytest.approx(plain, rel=AMP)


@pytest.mark.parametrize(
    ("option", "tolerance"),
    [("--amp", AMP), ("--channels-last", ROUNDING), pytest.param("--compile", ROUNDING, marks=pytest.mark.slow)],
)
def test_the_losses_of_classification_stay(
    classifier_of: ClassifierOf,  # noqa: F811
    option: str,
    tolerance: float,
) -> None:
    plain = losses(classifier_of("--arch=simplenet"))
    trainer = classifier_of("--arch=simplenet", option)
    assert losses(trainer) == pytest.approx(plain, rel=tolerance)
    if option == "--channels-last":
        assert trainer.model.conv1.weight.is_contiguous(memory_format=torch.channels_last)
