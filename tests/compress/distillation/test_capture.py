"""A student under torch.compile is heard in the epochs of its distiller, and only there."""

from typing import Any

import pytest
import torch

from compress.distillation.capture import OUTPUT, Call, Capture, run
from tests.compress.distillation.nets import taught, wide_net
from tests.compress.harness import batch, one_policy


def terms(instance: dict[str, Any], epochs: list[int], compiled: bool) -> list[float]:
    """The terms of two minibatches in each of four epochs, 0 where no distiller acts."""
    student = taught(one_policy("distillers", instance, epochs), {"big": wide_net()})
    forward: Any = torch.compile(student.net, backend="aot_eager") if compiled else student.net
    found = []
    for epoch in range(4):
        student.scheduler.on_epoch_begin(epoch, student.optimizer)
        for step in range(2):
            now = (epoch, step, 2)
            student.scheduler.on_minibatch_begin(*now, student.optimizer)
            loss = forward(batch(epoch, step)).square().mean()
            answer: Any = student.scheduler.before_backward_pass(
                *now, loss, student.optimizer, return_loss_components=True
            )
            found += [float(each.value.detach()) for each in answer.loss_components] or [0.0]
            student.optimizer.zero_grad()
            answer.overall_loss.backward()
            student.scheduler.before_parameter_optimization(*now, student.optimizer)
            student.optimizer.step()
            student.scheduler.on_minibatch_end(*now, student.optimizer)
        student.scheduler.on_epoch_end(epoch, student.optimizer)
    capture = student.scheduler.teachers._capture
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


def test_what_is_compared_is_float32_under_autocast() -> None:
    """Terms are computed outside of autocast: of bfloat16 they would keep two digits."""
    net, capture = wide_net().train(), Capture()
    capture.watch(net, ["act2"])
    with torch.autocast("cpu", torch.bfloat16):
        assert net(batch(0, 0)).dtype == torch.bfloat16
    assert capture.call is not None
    again = run(net, capture.call, ["act2", OUTPUT])
    for found in (capture.call.layers, again):
        assert {name: each.dtype for name, each in found.items()} == {"act2": torch.float32, OUTPUT: torch.float32}
    capture.release()
    assert run(net.bfloat16(), Call((batch(0, 0).bfloat16(),)), [OUTPUT])[OUTPUT].dtype == torch.bfloat16
