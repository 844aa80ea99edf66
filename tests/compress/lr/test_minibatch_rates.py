"""`interval: minibatch`: rates on the line from an epoch's to the next one's, exact resume, what is refused."""

import io

import numpy as np
import pytest
import torch
from torch import nn

from compress.config import dict_config
from compress.errors import ScheduleError, UserError
from tests.compress.lr.test_torch_schedulers import ARGUMENTS

STEPS = 4
JUMP = {"StepLR", "MultiStepLR", "MultiStepMultiGammaLR", "ConstantLR", "CosineAnnealingWarmRestarts",
        "ReduceLROnPlateau", "SequentialLR", "ChainedScheduler"}  # fmt: skip  # the last two by their parts
SMOOTH = sorted(set(ARGUMENTS) - JUMP)
CYCLE = {"class": "OneCycleLR", "max_lr": 0.1, "total_steps": 20}


def schedule(instance, interval="minibatch", start=0):
    return {
        "lr_schedulers": {"it": instance},
        "policies": [
            {
                "lr_scheduler": {"instance_name": "it", "args": {"interval": interval}},
                "starting_epoch": start,
                "ending_epoch": 6,
            }
        ],
    }


def made(instance, interval="minibatch", start=0, kind=torch.optim.SGD, **settings):
    """A scheduler, its optimizer."""
    net = nn.Linear(2, 2)
    optimizer = kind(net.parameters(), **{"lr": 1.0, **settings})
    return dict_config(net, optimizer, schedule(instance, interval, start)), optimizer


def run(scheduler, optimizer, places, key="lr"):
    """What the first group has in each minibatch of a loop over (epoch, step)."""
    found = []
    for epoch, step in places:
        if step == 0:
            scheduler.on_epoch_begin(epoch, optimizer)
        scheduler.on_minibatch_begin(epoch, step, STEPS, optimizer)
        value = optimizer.param_groups[0][key]
        found.append(float(value[0] if isinstance(value, tuple) else value))
        scheduler.on_minibatch_end(epoch, step, STEPS, optimizer)
        if step == STEPS - 1:
            scheduler.on_epoch_end(epoch, optimizer)
    return found


def places(epochs):
    return [(epoch, step) for epoch in range(epochs) for step in range(STEPS)]


def on_lines(by_epoch):
    """What lies between the values of the epochs."""
    known = np.arange(len(by_epoch))
    return np.interp(np.arange(0, len(by_epoch) - 1, 1 / STEPS), known, by_epoch)


@pytest.mark.parametrize("name", SMOOTH)
def test_the_rate_moves_on_a_line_to_that_of_the_next_epoch(name):
    instance = {"class": name, **ARGUMENTS[name]}
    by_epoch = run(*made(instance, "epoch", momentum=0.9), places(7))[::STEPS]
    found = run(*made(instance, momentum=0.9), places(6))
    assert found == pytest.approx(on_lines(by_epoch), rel=1e-12)
    assert found[::STEPS] == by_epoch[:-1]  # to the bit, where an epoch begins
    assert len(set(found)) > len(set(by_epoch))


@pytest.mark.parametrize(
    ("kind", "key", "settings"),
    [(torch.optim.SGD, "momentum", {"momentum": 0.9}), (torch.optim.Adam, "betas", {})],
)
def test_momentum_that_the_class_cycles_follows(kind, key, settings):
    by_epoch = run(*made(CYCLE, "epoch", kind=kind, **settings), places(7), key)[::STEPS]
    assert run(*made(CYCLE, kind=kind, **settings), places(6), key) == pytest.approx(on_lines(by_epoch), rel=1e-12)


@pytest.mark.parametrize("start", [0, 2])
@pytest.mark.parametrize("at", [0, 7, 8, 11, 14, 23])
def test_resume_inside_of_an_epoch_is_exact(at, start):
    whole = run(*made(CYCLE, start=start, momentum=0.9), places(6))
    scheduler, optimizer = made(CYCLE, start=start, momentum=0.9)
    before = run(scheduler, optimizer, places(6)[:at])
    file = io.BytesIO()
    torch.save([optimizer.state_dict(), scheduler.state_dict()], file)
    file.seek(0)
    states = torch.load(file, weights_only=True)
    scheduler, optimizer = made(CYCLE, start=start, momentum=0.9)
    optimizer.load_state_dict(states[0])
    scheduler.load_state_dict(states[1])
    assert before + run(scheduler, optimizer, places(6)[at:]) == whole


def test_a_policy_that_starts_later_goes_on_from_the_rate_that_it_finds():
    found = run(*made({"class": "ExponentialLR", "gamma": 0.9}, start=2), places(4))
    assert found[: 2 * STEPS] == [1.0] * 2 * STEPS
    assert found[2 * STEPS :] == pytest.approx(on_lines([1.0, 0.9**3, 0.9**4]))


def test_an_epoch_that_is_begun_again_does_not_lose_its_way():
    plain = run(*made(CYCLE), places(2))
    scheduler, optimizer = made(CYCLE)
    run(scheduler, optimizer, places(2)[:2])
    assert run(scheduler, optimizer, places(2)) == plain


def test_a_rate_in_a_tensor_stays_that_tensor():
    rate = torch.tensor(1.0)
    scheduler, optimizer = made({"class": "ExponentialLR", "gamma": 0.5}, kind=torch.optim.Adam, lr=rate)
    held = optimizer.param_groups[0]["lr"]
    assert run(scheduler, optimizer, places(2)) == pytest.approx(on_lines([1.0, 0.5, 0.25]))
    assert optimizer.param_groups[0]["lr"] is held


@pytest.mark.parametrize("name", sorted(JUMP))
def test_jumps_are_refused(name):
    with pytest.raises(ScheduleError, match="interval minibatch: .*leave\\s+interval out"):
        made({"class": name, **ARGUMENTS[name]})


def test_jumps_of_parts_are_refused():
    after = {"class": "StepLR", "step_size": 2}
    with pytest.raises(ScheduleError, match="StepLR sets the rate in jumps"):
        made({"class": "WarmupLR", "warmup_epochs": 2, "after": after})


def test_a_misspelt_interval_is_told():
    with pytest.raises(ScheduleError, match="minibatch"):
        made(CYCLE, interval="minibach")


def test_the_plan_shows_the_rate_with_which_an_epoch_begins():
    scheduler, optimizer = made(CYCLE)
    shown = [row.learning_rates[0] for row in scheduler.preview().rows]
    assert run(scheduler, optimizer, places(6))[::STEPS] == shown


def test_a_loop_without_the_minibatches_begin_is_told():
    scheduler, optimizer = made(CYCLE)
    scheduler.on_epoch_begin(0, optimizer)
    with pytest.raises(UserError, match="does not call on_minibatch_begin"):
        scheduler.on_minibatch_end(0, 0, STEPS, optimizer)


def test_rates_of_epochs_need_no_minibatches_begin():
    scheduler, optimizer = made(CYCLE, "epoch")
    scheduler.on_epoch_begin(0, optimizer)
    scheduler.on_minibatch_end(0, 0, STEPS, optimizer)
    scheduler.on_epoch_end(0, optimizer)
