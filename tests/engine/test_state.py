"""What is trained and saved, apart from any trainer."""

from typing import Any

import torch
from torch import nn

from compress.scheduler import CompressionScheduler
from engine.ema import AveragedWeights
from engine.progress import Progress
from engine.saved.best_per_width import BestOfEachSize
from engine.saved.run_teachers import RunTeachers
from engine.state import Companion, TrainState, gather, restore
from options.Normal_options.train_options import TrainOptions
from tests.engine.dying import differences
from tests.engine.tiny import TinyNet


def _no_architecture(name: str, pretrained: bool) -> nn.Module:
    raise AssertionError(name)


def made(seed: int) -> tuple[TrainState, Progress]:
    """A network with a companion, an average, and one update behind it."""
    torch.manual_seed(seed)
    model, rival = TinyNet(), nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = CompressionScheduler(model, optimizer=optimizer)
    state = TrainState(model, optimizer, scheduler, RunTeachers("SR", _no_architecture))
    state.companions = {"rival": Companion(rival, torch.optim.Adam(rival.parameters()))}
    state.averaged = AveragedWeights(model, 0.5)
    for network, each in ((model, optimizer), (rival, state.companions["rival"].optimizer)):
        sum(parameter.sum() for parameter in network.parameters()).backward()
        each.step()
    state.averaged.update(model, scheduler)
    return state, Progress(4, BestOfEachSize(scheduler))


def test_networks_go_by_the_names_of_their_optimizers() -> None:
    state, _ = made(0)
    assert list(state.networks) == ["", "rival"]
    assert state.networks[""] is state.model
    assert {id(each) for each in state.companions_parameters()} == {id(p) for p in state.networks["rival"].parameters()}
    assert state.evaluated_model() is not state.model
    state.averaged = None
    assert state.evaluated_model() is state.model


def test_what_is_gathered_is_restored_to_the_bit() -> None:
    config, device = TrainOptions().parse([]), torch.device("cpu")
    state, progress = made(0)
    progress.epoch, progress.seconds = 3, 7.0
    saved: dict[str, Any] = gather(state, progress, "a", config, {"data": None}, [])
    wanted = state.state_dict()
    drawn = torch.rand(3)
    other, at = made(1)
    assert differences(other.state_dict(), wanted)
    restore(other, at, saved, config, 5, device)
    assert not differences(other.state_dict(), wanted)
    assert (at.epoch, at.seconds, at.middle) == (3, 7.0, None)
    assert torch.equal(torch.rand(3), drawn)  # the random state comes back too


def test_an_average_begins_anew_with_a_parameter_that_a_pruner_has_set() -> None:
    torch.manual_seed(0)
    model = TinyNet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = CompressionScheduler(model, optimizer=optimizer)
    averaged = AveragedWeights(model, 0.9)
    name, other = list(scheduler.masks)[:2]
    averaged.update(model, scheduler)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1
    scheduler.masks[name].rewrite(torch.full_like(scheduler.masks[name].parameter, 7.0))
    averaged.update(model, scheduler)
    found = dict(averaged.masked(model, scheduler.masks).named_parameters())
    assert bool((found[name] == 7).all())
    torch.testing.assert_close(found[other], scheduler.masks[other].parameter - 0.9)
