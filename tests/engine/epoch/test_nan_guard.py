"""Losses that are not finite."""

import logging
import math
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from apputils.checkpoints.file import load_checkpoint
from engine.epoch.nan_guard import EVERY, NanGuard, NotFinite
from engine.epoch.nan_search import not_finite_weights
from engine.state import Companion, TrainState
from models.C2SRCNN.solver import C2SRCNNTrainer
from tests.engine.conftest import TrainerOf
from tests.engine.dying import differences, state_of

BAD = (0, 1)  # the place whose minibatch is bad


class Tiny:
    """What the guard watches: a network with BatchNorm, and a companion that its loss updates."""

    def __init__(self, mode: str) -> None:
        self.mode = mode
        parts = OrderedDict(conv=nn.Conv2d(1, 2, 1), bn=nn.BatchNorm2d(2), head=nn.Conv2d(2, 1, 1))
        self.model: Any = nn.Sequential(parts)
        other = nn.Linear(1, 1)
        self.companions = {"netD": Companion(other, torch.optim.Adam(other.parameters()))}
        self.optimizer = torch.optim.SGD(self.model.parameters())

    def state(self) -> TrainState:
        """Without scheduler and teachers, which the guard does not look at."""
        unused: Any = None
        return TrainState(self.model, self.optimizer, unused, unused, self.companions)

    def guard(self) -> NanGuard:
        return NanGuard(self.state(), self.mode, torch.device("cpu"), self.compute_loss)

    def compute_loss(self, batch: Tensor) -> Tensor:
        loss: Tensor = self.model(batch).mean()
        network, optimizer = self.companions["netD"]
        network.weight.grad = loss.detach().reshape(1, 1)
        optimizer.step()
        return loss


def tried(mode: str, batch: Tensor, change: Any = None) -> tuple[Tiny, NanGuard, bool]:
    trainer = Tiny(mode)
    trainer.compute_loss(torch.ones(2, 1, 3, 3))
    guard = trainer.guard()
    if change:
        change(trainer)
    guard.before_step(BAD)
    return trainer, guard, guard.passes(BAD, trainer.compute_loss(batch), [batch])


def test_a_finite_loss_passes() -> None:
    assert tried("stop", torch.ones(2, 1, 3, 3))[2]


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_the_minibatch_is_named(number: float) -> None:
    with pytest.raises(NotFinite, match="epoch 0, step 1: the loss is .*; the minibatch itself holds numbers") as e:
        tried("stop", torch.full((2, 1, 3, 3), number))
    assert e.value.place == BAD


def _overflowing(trainer: Tiny) -> None:
    trainer.model.bn.register_forward_hook(lambda module, args, output: output * math.inf)


def test_the_first_module_is_named() -> None:
    with pytest.raises(
        NotFinite, match=r"the first module that gave numbers that are not finite is bn \(BatchNorm2d\)"
    ):
        tried("stop", torch.ones(2, 1, 3, 3), _overflowing)


def _broken(trainer: Tiny) -> None:
    with torch.no_grad():
        trainer.model.head.weight.fill_(math.nan)


def test_weights_that_the_update_before_broke_are_named_and_that_update_is_blamed() -> None:
    for mode in ("stop", "skip"):  # there is nothing to skip
        with pytest.raises(NotFinite, match=r"the weights head.weight were not finite before it") as e:
            tried(mode, torch.ones(2, 1, 3, 3), _broken)
        assert e.value.place == (0, 0)


class Judged(Tiny):
    """Its companion judges what the network gives, and learns from that first, as a discriminator does."""

    def __init__(self, mode: str) -> None:
        super().__init__(mode)
        self.critic = nn.Sequential(OrderedDict(first=nn.Conv2d(1, 2, 1), second=nn.Conv2d(2, 1, 1)))
        self.companions = {"netD": Companion(self.critic, torch.optim.Adam(self.critic.parameters()))}

    def compute_loss(self, batch: Tensor) -> Tensor:
        network, optimizer = self.companions["netD"]
        optimizer.zero_grad()
        network(batch).mean().backward()
        optimizer.step()
        loss: Tensor = network(self.model(batch)).mean()
        return loss


def judged(mode: str, change: Any) -> tuple[Judged, bool]:
    trainer = Judged(mode)
    trainer.compute_loss(torch.ones(2, 1, 3, 3))
    change(trainer)
    guard = trainer.guard()
    guard.before_step(BAD)
    return trainer, guard.passes(BAD, trainer.compute_loss(torch.ones(2, 1, 3, 3)), [torch.ones(2, 1, 3, 3)])


def _overflowing_critic(trainer: Judged) -> None:
    trainer.critic.second.register_forward_hook(lambda module, args, output: output * math.nan)


def _broken_critic(trainer: Judged) -> None:
    with torch.no_grad():
        trainer.critic.second.weight.fill_(math.nan)


def test_a_module_of_a_companion_is_named() -> None:
    """The loss breaks all weights of the companion before it is looked at, so those of before the step tell."""
    with pytest.raises(NotFinite, match=r"the first module .* not finite is netD.second \(Conv2d\)") as e:
        judged("stop", _overflowing_critic)
    assert e.value.place == BAD


@pytest.mark.parametrize("mode", ["stop", "skip"])
def test_weights_of_a_companion_that_were_broken_before_are_named(mode: str) -> None:
    with pytest.raises(NotFinite, match=r"the weights netD.second.weight were not finite before it") as e:
        judged(mode, _broken_critic)
    assert e.value.place == (0, 0)


def test_a_skipped_step_leaves_no_trace_in_a_companion() -> None:
    trainer, passed = judged("skip", _overflowing_critic)
    assert not passed
    assert all(torch.isfinite(each).all() for each in trainer.critic.parameters())
    assert {int(each["step"]) for each in trainer.companions["netD"].optimizer.state.values()} == {1}


def test_no_checkpoint_holds_a_broken_companion() -> None:
    trainer = Judged("stop")
    _broken_critic(trainer)
    with pytest.raises(NotFinite, match="after this update netD.second.weight is not finite"):
        trainer.guard().before_saving(BAD)


def test_a_companion_that_is_a_part_of_the_network_is_named_once() -> None:
    trainer = Judged("stop")
    trainer.model = nn.ModuleDict({"netG": trainer.model, "netD": trainer.critic})
    _broken_critic(trainer)
    assert not_finite_weights(trainer.state().networks) == ["netD.second.weight"]


def test_a_loss_that_no_module_explains(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Tiny("stop")
    with pytest.raises(NotFinite, match="every module gives finite numbers"):
        trainer.guard().passes(BAD, torch.tensor(math.nan), [torch.ones(2, 1, 3, 3)])


def test_a_skipped_step_leaves_no_trace() -> None:
    trainer, _, passed = tried("skip", torch.full((2, 1, 3, 3), math.nan))
    plain = Tiny("skip")
    plain.model.load_state_dict(trainer.model.state_dict())  # weights are random
    assert not passed
    assert all(torch.isfinite(buffer).all() for buffer in trainer.model.buffers())
    assert int(trainer.model.bn.num_batches_tracked) == 1
    network, optimizer = trainer.companions["netD"]
    assert torch.isfinite(network.weight).all()
    assert int(next(iter(optimizer.state.values()))["step"]) == 1


def test_on_cuda_the_first_bad_step_is_found_later() -> None:
    guard = Tiny("stop").guard()
    guard._waits = False  # as on CUDA
    for step in range(EVERY - 1):
        assert guard.passes((3, step), torch.tensor(math.nan if step in (7, 9) else 1.0), [])
    with pytest.raises(NotFinite, match="epoch 3, step 7: the loss was not finite") as e:
        guard.passes((3, EVERY - 1), torch.tensor(1.0), [])
    assert e.value.place == (3, 7)
    assert guard.passes((3, EVERY), torch.tensor(math.inf), [])
    with pytest.raises(NotFinite, match=f"step {EVERY}"):
        guard.before_saving((3, EVERY))


def bad_at(monkeypatch: pytest.MonkeyPatch, *places: tuple[int, int]) -> None:
    """The loss of these minibatches is NaN, whenever they are seen."""
    original = C2SRCNNTrainer.compute_loss

    def loss(self: C2SRCNNTrainer, batch: Any) -> Tensor:
        found = original(self, batch)
        at = self.progress
        assert at.middle is not None
        return found * math.nan if (at.epoch, at.middle.step) in places else found

    monkeypatch.setattr(C2SRCNNTrainer, "compute_loss", loss)


GIVEN = ("--nEpochs=2", "--threads=1")


def test_a_run_stops_and_the_last_good_checkpoint_is_left(
    trainer_of: TrainerOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad_at(monkeypatch, (1, 2))
    with pytest.raises(NotFinite, match="epoch 1, step 2: the loss is nan"):
        trainer_of(*GIVEN, "--run=a").run()
    assert load_checkpoint(Path("checkpoints/a/last.pt"))["epoch"] == 0


def test_skip_and_rollback_end_alike_where_the_forward_pass_changes_nothing(
    trainer_of: TrainerOf, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bad_at(monkeypatch, (0, 1), (1, 2))
    trainer_of(*GIVEN, "--on-nan=skip", "--run=skipped").run()
    with caplog.at_level(logging.WARNING):
        trainer_of(*GIVEN, "--on-nan=rollback", "--run=back").run()
    assert not differences(state_of("skipped"), state_of("back"))
    assert "going back to the last checkpoint: before the first epoch" in caplog.text
    assert "epoch 1, step 2: left out" in caplog.text


def test_rollback_gives_up(trainer_of: TrainerOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.epoch.nan_guard.MOST_RETURNS", 1)
    bad_at(monkeypatch, (0, 0), (0, 1))
    with pytest.raises(NotFinite, match="epoch 0, step 1"):
        trainer_of(*GIVEN, "--on-nan=rollback", "--run=a").run()


def test_weights_that_are_not_finite_are_not_saved(trainer_of: TrainerOf) -> None:
    trainer = trainer_of(*GIVEN, "--run=a")
    validate = trainer.validate

    def breaking(model: nn.Module, epoch: int) -> dict[str, float]:
        found = validate(model, epoch)
        with torch.no_grad():
            next(model.parameters()).fill_(math.inf)
        return found

    trainer.validate = breaking  # type: ignore[method-assign]
    with pytest.raises(NotFinite, match=r"epoch 0, step 2: after this update first_part\S+ is not finite"):
        trainer.run()
    assert load_checkpoint(Path("checkpoints/a/last.pt"))["epoch"] == -1
    assert not Path("checkpoints/a/best.pt").exists()
