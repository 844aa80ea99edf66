"""`--amp`, `--compile` and `--channels-last` give the plain run's losses within the tolerances of docs/scale.md."""

from typing import Any

import pytest
import torch

from engine.trainer import BaseTrainer
from tests.engine.conftest import TrainerOf
from tests.models.Classify.conftest import ClassifierOf, classifier_of  # noqa: F401

AMP, ROUNDING = 2e-2, 1e-4  # relative


def losses(trainer: BaseTrainer) -> list[float]:
    """Of each step of an epoch."""
    found: list[float] = []
    trainer.build()
    inner = trainer.loss_of

    def noting(batch: Any) -> torch.Tensor:
        loss = inner(batch)
        found.append(float(loss.detach()))
        return loss

    trainer.loss_of = noting  # type: ignore[method-assign]
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
