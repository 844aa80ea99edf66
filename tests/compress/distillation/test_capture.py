"""A student under torch.compile is heard in the epochs of its distiller, and only there."""

from typing import Any

import pytest
import torch

from tests.compress.distillation.nets import taught, wide_net
from tests.compress.harness import batch, one_policy


def terms(instance: dict[str, Any], epochs: list[int], compiled: bool) -> list[float]:
    """The terms of two minibatches in each of four epochs, 0 where no distiller acts."""
    run = taught(one_policy("distillers", instance, epochs), {"big": wide_net()})
    forward: Any = torch.compile(run.net, backend="aot_eager") if compiled else run.net
    found = []
    for epoch in range(4):
        run.scheduler.on_epoch_begin(epoch, run.optimizer)
        for step in range(2):
            now = (epoch, step, 2)
            run.scheduler.on_minibatch_begin(*now, run.optimizer)
            loss = forward(batch(epoch, step)).square().mean()
            answer: Any = run.scheduler.before_backward_pass(*now, loss, run.optimizer, return_loss_components=True)
            found += [float(each.value.detach()) for each in answer.loss_components] or [0.0]
            run.optimizer.zero_grad()
            answer.overall_loss.backward()
            run.scheduler.before_parameter_optimization(*now, run.optimizer)
            run.optimizer.step()
            run.scheduler.on_minibatch_end(*now, run.optimizer)
        run.scheduler.on_epoch_end(epoch, run.optimizer)
    capture = run.scheduler.teachers._capture
    assert capture.call is None
    assert not capture._open, "hooks that were compiled in continue gathering"
    return found


@pytest.mark.parametrize("epochs", [[1, 2], [0, 2]], ids=["from epoch 1", "every other epoch"])
def test_compiled_and_plain_students_learn_the_same(epochs: list[int]) -> None:
    instance = {
        "class": "FeatureDistillation", "teacher": "big", "layers": {"relu1": "act2"}, "loss": "attention",
        "channel_dim": 1,  # compiled code does not tell it, and there are no example inputs
    }  # fmt: skip
    plain, compiled = (terms(instance, epochs, flag) for flag in (False, True))
    assert compiled == pytest.approx(plain, rel=1e-5)
    assert [value > 0 for value in plain[::2]] == [epoch in epochs for epoch in range(4)]
