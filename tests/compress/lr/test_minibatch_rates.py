"""`interval: minibatch`: rates on the line from an epoch's to the next one's, exact resume, what is refused."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from compress.config import dict_config
from compress.epoch_window import EpochWindow
from compress.errors import ScheduleError, UserError
from compress.policies.lr import LRPolicy
from tests.compress.lr.test_torch_schedulers import ARGUMENTS

STEPS = 4
JUMP = {"StepLR", "MultiStepLR", "MultiStepMultiGammaLR", "ConstantLR", "CosineAnnealingWarmRestarts",
        "ReduceLROnPlateau", "SequentialLR", "ChainedScheduler"}  # fmt: skip  # the last two by their parts
SMOOTH = sorted(set(ARGUMENTS) - JUMP)
CYCLE = {"class": "OneCycleLR", "max_lr": 0.1, "total_steps": 20}


def schedule(instance, interval="minibatch", start=0, last=6):
    return {
        "lr_schedulers": {"it": instance},
        "policies": [
            {
                "lr_scheduler": {"instance_name": "it", "args": {"interval": interval}},
                "starting_epoch": start,
                "ending_epoch": last,
            }
        ],
    }


def made(instance, interval="minibatch", start=0, last=6, kind=torch.optim.SGD, **settings):
    """A scheduler, its optimizer."""
    net = nn.Linear(2, 2)
    optimizer = kind(net.parameters(), **{"lr": 1.0, **settings})
    return dict_config(net, optimizer, schedule(instance, interval, start, last)), optimizer


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


def test_jumps_of_classes_of_ones_own_are_refused_where_they_are_known():
    class Halved(torch.optim.lr_scheduler.StepLR):
        pass

    class Sudden(torch.optim.lr_scheduler.LRScheduler):
        jumps = True

    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=1.0)
    for cls in (Halved, Sudden):
        with pytest.raises(ValueError, match=f"{cls.__name__} sets the rate in jumps"):
            LRPolicy("it", EpochWindow.of_range(0, 4), optimizer, cls, {}, interval="minibatch")


def test_what_else_a_class_sets_does_not_come_an_epoch_early():
    class Decays(torch.optim.lr_scheduler.ExponentialLR):
        """Also sets what is no rate."""

        def step(self, epoch=None):
            super().step(epoch)
            for group in self.optimizer.param_groups:
                group["weight_decay"], group["nesterov"] = 0.1 * self.last_epoch, self.last_epoch > 1

    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=1.0, momentum=0.9)
    window = EpochWindow.of_range(0, 4)
    policy = LRPolicy("it", window, optimizer, Decays, {"gamma": 0.5}, interval="minibatch")
    found = []
    for epoch in range(3):
        policy.begin(epoch)
        for step in range(2):
            policy.on_minibatch_begin(SimpleNamespace(step=step, steps_per_epoch=2))
            group = optimizer.param_groups[0]
            found.append((group["lr"], round(group["weight_decay"], 9), group["nesterov"]))
        policy.end(epoch, None)
    assert found == [
        (1.0, 0.0, False), (0.75, 0.05, False), (0.5, 0.1, False), (0.375, 0.15, False), (0.25, 0.2, True),
        (0.1875, 0.25, True),
    ]  # fmt: skip


@pytest.mark.parametrize("interval", ["epoch", "minibatch"])
@pytest.mark.parametrize("strategy", ["cos", "linear"])
@pytest.mark.parametrize("part", [False, True])
def test_a_cycle_ends_at_its_end(interval, strategy, part):
    """Torch's class goes on behind its last epoch, to a rate that rises again or lies below zero."""
    instance = {"class": "OneCycleLR", "max_lr": 1.0, "total_steps": 4, "anneal_strategy": strategy}
    if part:
        instance = {"class": "ChainedScheduler", "schedulers": [instance]}
    scheduler, optimizer = made(instance, interval, last=4, momentum=0.9)
    found = run(scheduler, optimizer, places(4))
    last = 1.0 / 25 / 1e4
    assert found[3 * STEPS :] == pytest.approx([last] * STEPS)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(last)
    assert optimizer.param_groups[0]["momentum"] == pytest.approx(0.95)


@pytest.mark.parametrize("interval", ["epoch", "minibatch"])
def test_epochs_behind_a_cycle_are_refused(interval):
    with pytest.raises(ScheduleError, match="the cycle takes 4 epochs, and its policy goes on"):
        made({"class": "OneCycleLR", "max_lr": 1.0, "total_steps": 4}, interval, last=6)


@pytest.mark.parametrize("intervals", [("minibatch", "epoch"), ("epoch", "minibatch"), ("minibatch", "minibatch")])
def test_two_policies_in_one_epoch_are_refused(intervals):
    plan = schedule({"class": "ExponentialLR", "gamma": 0.5}, intervals[0])
    plan["lr_schedulers"]["other"] = {"class": "CosineAnnealingLR", "T_max": 5}
    args = {"interval": intervals[1]}
    plan["policies"].append({"lr_scheduler": {"instance_name": "other", "args": args}, "epochs": [5, 6]})
    net = nn.Linear(2, 2)
    with pytest.raises(ScheduleError, match="'it' sets the learning rate in epoch 5 too"):
        dict_config(net, torch.optim.SGD(net.parameters(), lr=1.0), plan)


def test_a_state_of_another_kind_of_optimizer_moves_what_there_is():
    scheduler, optimizer = made(CYCLE, kind=torch.optim.Adam)
    run(scheduler, optimizer, places(3)[:6])
    state = scheduler.state_dict()
    scheduler, optimizer = made(CYCLE, momentum=0.9)
    scheduler.load_state_dict(state)
    momenta = run(scheduler, optimizer, places(4)[6:], "momentum")
    assert "betas" not in optimizer.param_groups[0]
    assert momenta[6:] == run(*made(CYCLE, momentum=0.9), places(4), "momentum")[12:]  # from the next epoch's rate on


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


@pytest.mark.parametrize(("interval", "last", "epochs", "length", "fits"), [
    ("epoch", 30, 10, {"total_steps": 30}, 10), ("epoch", 8, 30, {"epochs": 10, "steps_per_epoch": 3}, 8),
    ("minibatch", 10, 10, {"total_steps": 12}, 11),
])  # fmt: skip
def test_a_cycle_whose_end_is_never_reached_is_warned_of(caplog, interval, last, epochs, length, fits):
    net = nn.Linear(2, 2)
    cycle = {"class": "OneCycleLR", "max_lr": 0.1, **length}
    dict_config(net, torch.optim.SGD(net.parameters(), lr=1.0), schedule(cycle, interval, 0, last), epochs=epochs)
    assert f"the rate stops on its way; total_steps={fits} ends there" in caplog.text


@pytest.mark.parametrize(("interval", "length"), [("epoch", 10), ("minibatch", 10), ("minibatch", 11)])
def test_a_cycle_that_ends_with_the_run_is_not_warned_of(caplog, interval, length):
    net = nn.Linear(2, 2)
    cycle = {"class": "OneCycleLR", "max_lr": 0.1, "total_steps": length}
    dict_config(net, torch.optim.SGD(net.parameters(), lr=1.0), schedule(cycle, interval, 0, 10), epochs=10)
    assert caplog.text == ""


def test_a_plan_says_that_rates_move_inside_of_epochs():
    assert "it moves the rate in each minibatch" in str(made(CYCLE)[0].preview(6))
    assert "minibatch" not in str(made(CYCLE, "epoch")[0].preview(6))


@pytest.mark.parametrize("after", [
    {"class": "LinearLR", "start_factor": 0.1, "total_iters": 3},
    {"class": "OneCycleLR", "max_lr": 0.1, "total_steps": 9},
])  # fmt: skip
def test_a_warm_up_whose_successor_begins_elsewhere_is_refused(after):
    with pytest.raises(ScheduleError, match="warm-up ends with the rate 1 and after begins with"):
        made({"class": "WarmupLR", "warmup_epochs": 2, "after": after})
    made({"class": "WarmupLR", "warmup_epochs": 2, "after": after}, "epoch")


def test_a_warm_up_may_go_over_into_what_begins_at_its_end():
    made({"class": "WarmupLR", "warmup_epochs": 2, "after": {"class": "CosineAnnealingLR", "T_max": 4}})


def test_a_group_that_comes_inside_of_an_epoch_keeps_its_rate():
    scheduler, optimizer = made({"class": "ExponentialLR", "gamma": 0.5})
    scheduler.on_epoch_begin(0, optimizer)
    scheduler.on_minibatch_begin(0, 0, STEPS, optimizer)
    optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))], "lr": 0.3})
    scheduler.on_minibatch_end(0, 0, STEPS, optimizer)
    scheduler.on_minibatch_begin(0, 1, STEPS, optimizer)
    assert [group["lr"] for group in optimizer.param_groups] == [pytest.approx(0.875), 0.3]


def test_an_epoch_without_a_known_length_begins_at_its_rate():
    scheduler, optimizer = made({"class": "ExponentialLR", "gamma": 0.5})
    scheduler.on_epoch_begin(0, optimizer)
    scheduler.on_minibatch_begin(0, 0, 0, optimizer)
    assert optimizer.param_groups[0]["lr"] == 1.0
