"""Several minibatches as one update: the same as one large minibatch; the hooks fire once."""

from pathlib import Path

import pytest
import torch

from engine.epoch.accumulation import grouped
from tests.engine.tiny import tiny_trainer

REGULARIZED = """\
pruners:
  agp: {class: AutomatedGradualPruner, initial_sparsity: 0.1, final_sparsity: 0.5, weights: [fc.weight]}
regularizers:
  l1: {class: L1Regularizer, reg_regims: {conv2.weight: 0.001}}
policies:
  - {pruner: {instance_name: agp}, starting_epoch: 0, ending_epoch: 2, frequency: 1}
  - {regularizer: {instance_name: l1}, starting_epoch: 0, ending_epoch: 2, frequency: 1}
"""


def test_groups_are_full_but_the_last() -> None:
    assert list(grouped(range(5), 2)) == [[0, 1], [2, 3], [4]]
    assert list(grouped([], 2)) == []


@pytest.mark.parametrize(("parts", "samples"), [(4, 48), (3, 50)], ids=["even", "smaller last ones"])
def test_accumulated_equals_one_large_batch(here: Path, parts: int, samples: int) -> None:
    """50 samples in batches of 12: the last update has 2 samples; in parts of 4 it has one part of 2."""
    runs = []
    for options in (["--batchSize=12"], [f"--batchSize={12 // parts}", f"--accumulate={parts}"]):
        trainer = tiny_trainer("--nEpochs=2", *options, schedule=REGULARIZED, samples=samples)
        trainer.build()
        means = [trainer.train(epoch, trainer.compression_scheduler) for epoch in range(2)]
        runs.append((trainer.losses, means, trainer.model.state_dict()))
    whole, accumulated = runs
    assert len(whole[0]) == 2 * -(-samples // 12)
    torch.testing.assert_close(accumulated[0], whole[0], rtol=0, atol=1e-10)
    torch.testing.assert_close(accumulated[1], whole[1], rtol=0, atol=1e-10)
    torch.testing.assert_close(accumulated[2], whole[2], rtol=0, atol=1e-10)


def test_each_hook_fires_once_for_an_update(here: Path) -> None:
    trainer = tiny_trainer("--batchSize=4", "--accumulate=3", samples=48)
    trainer.build()
    scheduler, calls = trainer.compression_scheduler, []
    for name in ("on_minibatch_begin", "before_parameter_optimization", "on_minibatch_end"):
        setattr(scheduler, name, lambda epoch, step, steps, optimizer, name=name: calls.append((name, step, steps)))
    trainer.train(0, scheduler)
    assert len(trainer.losses) == trainer.steps_per_epoch() == 4
    assert [call for call in calls if call[0] == "on_minibatch_end"] == [("on_minibatch_end", i, 4) for i in range(4)]
    assert len(calls) == 12
