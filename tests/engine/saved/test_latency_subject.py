"""Inputs of a run's latency model."""

import torch

from engine.saved.latency_subject import latency_subject
from tests.engine.conftest import TrainerOf


def test_ranges_can_be_estimated_from_the_inputs_of_a_latency_model(trainer_of: TrainerOf) -> None:
    trainer_of("--nEpochs=1", "--run=a").run()
    first, again = latency_subject("a")[1], latency_subject("a")[1]
    assert all(each.std() > 0.1 for each in first)
    assert all(map(torch.equal, first, again))
