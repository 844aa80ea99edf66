"""Every learning-rate class: its rates, the absolute-epoch rule, exact resume, faults before training."""

import io
import math
from typing import Any

import pytest
import torch
from torch import nn

from compress.config import dict_config
from compress.epoch_window import EpochWindow
from compress.errors import ScheduleError, UserError
from compress.lr.torch_schedulers import REFUSED
from compress.policies.lr import LRPolicy
from compress.registry import LR_SCHEDULERS
from tests.compress.harness import one_policy, tiny_net

PARTS = [{"class": "ConstantLR", "factor": 0.1, "total_iters": 3}, {"class": "ExponentialLR", "gamma": 0.9}]
ARGUMENTS = {
    "StepLR": {"step_size": 2},
    "MultiStepLR": {"milestones": [2, 4]},
    "ConstantLR": {},
    "LinearLR": {},
    "ExponentialLR": {"gamma": 0.9},
    "CosineAnnealingLR": {"T_max": 5},
    "ReduceLROnPlateau": {"patience": 1, "factor": 0.5},
    "CyclicLR": {"base_lr": 0.01, "max_lr": 0.1},
    "CosineAnnealingWarmRestarts": {"T_0": 3},
    "OneCycleLR": {"max_lr": 0.1, "total_steps": 20},
    "PolynomialLR": {"T_max": 8, "power": 0.9},
    "MultiStepMultiGammaLR": {"milestones": [2, 4], "gammas": [0.5, 0.1]},
    "SequentialLR": {"schedulers": PARTS, "milestones": [3]},
    "ChainedScheduler": {"schedulers": PARTS},
    "WarmupLR": {"warmup_epochs": 3, "after": {"class": "CosineAnnealingLR", "T_max": 5}},
}


def make(name: str, start: int = 0, lr: float = 1.0, **arguments):
    """A policy on an optimizer of its own."""
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=lr, momentum=0.9)
    window = EpochWindow.of_range(start, 20)
    return LRPolicy(name, window, optimizer, LR_SCHEDULERS.get(name), arguments or ARGUMENTS[name])


def rates(policy: LRPolicy, first: int, last: int, metric: float = 1.0) -> list[float]:
    """The rate of each epoch in [first, last)."""
    found = []
    for epoch in range(first, last):
        fires = policy.window.fires(epoch)
        if fires:
            policy.begin(epoch)
        found.append(policy.optimizer.param_groups[0]["lr"])
        if fires:
            policy.end(epoch, {"min": metric, "max": metric})
    return found


def test_every_class_is_tested():
    assert set(ARGUMENTS) == set(LR_SCHEDULERS)


@pytest.mark.parametrize("start", [0, 4])
@pytest.mark.parametrize("name", ARGUMENTS)
def test_resume_is_exact(name, start):
    whole = rates(make(name, start), 0, 10)
    first = make(name, start)
    before = rates(first, 0, 6)
    file = io.BytesIO()
    torch.save({"optimizer": first.optimizer.state_dict(), "policy": first.state_dict()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    second = make(name, start)
    second.optimizer.load_state_dict(state["optimizer"])
    second.load_state_dict(state["policy"])
    assert before + rates(second, 6, 10) == whole


def test_epochs_are_absolute():
    """Distiller's numbers: from epoch 5 with gamma 0.9 the rate is 1.0 through epoch 5, then 0.9^6 = 0.5314."""
    found = rates(make("ExponentialLR", start=5, gamma=0.9), 0, 8)
    assert found[:6] == [1.0] * 6
    assert found[6:] == pytest.approx([0.9**6, 0.9**7])
    assert round(found[6], 4) == 0.5314


def test_sequential_starts_each_part_anew():
    assert rates(make("SequentialLR"), 0, 6) == pytest.approx([0.1, 0.1, 0.1, 1.0, 0.9, 0.81])


def test_sequential_agrees_with_torch():
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=1.0)
    parts = [
        torch.optim.lr_scheduler.ConstantLR(optimizer, 0.1, 3),
        torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9),
    ]
    reference = torch.optim.lr_scheduler.SequentialLR(optimizer, parts, [3])
    expected = []
    for _ in range(8):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()
    assert rates(make("SequentialLR"), 0, 8) == expected


def test_chained_multiplies():
    assert rates(make("ChainedScheduler"), 0, 5) == pytest.approx([0.1, 0.09, 0.081, 0.729, 0.6561])


def test_warmup_is_a_straight_line_then_hands_over():
    expected = [0.1, 0.4, 0.7, *(0.5 * (1 + math.cos(math.pi * e / 5)) for e in range(4))]
    assert rates(make("WarmupLR"), 0, 7) == pytest.approx(expected)


def test_warmup_alone_stays_at_the_full_rate():
    assert rates(make("WarmupLR", warmup_epochs=2, start_factor=0.5), 0, 5) == pytest.approx([0.5, 0.75, 1, 1, 1])


@pytest.mark.parametrize("key", ["T_max", "total_iters"])
def test_polynomial_by_either_name(key):
    expected = [max(0.0, 1 - e / 4) ** 2 for e in range(6)]
    assert rates(make("PolynomialLR", **{key: 4, "power": 2.0}), 0, 6) == pytest.approx(expected)


def test_each_milestone_has_its_gamma():
    assert rates(make("MultiStepMultiGammaLR"), 0, 6) == pytest.approx([1, 1, 0.5, 0.5, 0.05, 0.05])


def test_plateau_follows_the_metric():
    policy = make("ReduceLROnPlateau")
    assert rates(policy, 0, 6, metric=1.0) == [1.0, 1.0, 1.0, 0.5, 0.5, 0.25]


def test_plateau_without_its_metric_says_so():
    policy = make("ReduceLROnPlateau", mode="max", patience=0)
    with pytest.raises(UserError, match=r"needs metrics\['max'\]"):
        policy.end(0, {"min": 1.0})
    with pytest.raises(UserError, match=r"needs metrics\['max'\] in on_epoch_end; the training loop gave 1.0"):
        policy.end(0, 1.0)


def schedule(**instance):
    """A schedule with one learning-rate policy."""
    return {
        "lr_schedulers": {"it": instance},
        "policies": [{"lr_scheduler": {"instance_name": "it"}, "starting_epoch": 0, "ending_epoch": 9}],
    }


@pytest.mark.parametrize(
    ("instance", "message"),
    [
        ({"class": "LambdaLR"}, "a function, which YAML cannot hold"),
        ({"class": "PolynomialLR", "T_max": 3, "total_iters": 3}, "two names of the same"),
        ({"class": "MultiStepMultiGammaLR", "milestones": [1], "gammas": []}, "needs its own gamma"),
        ({"class": "MultiStepMultiGammaLR", "milestones": [2, 1], "gammas": [1.0, 1.0]}, "must ascend"),
        ({"class": "SequentialLR", "schedulers": PARTS, "milestones": [3, 2]}, "must ascend"),
        ({"class": "SequentialLR", "schedulers": PARTS, "milestones": []}, "one more"),
        ({"class": "SequentialLR", "schedulers": [{"class": "StepLr"}], "milestones": []}, "did you mean 'StepLR'"),
        ({"class": "SequentialLR", "schedulers": [{"gamma": 1}], "milestones": []}, "the class is missing"),
        ({"class": "ChainedScheduler", "schedulers": [{"class": "StepLR"}]}, "needs the argument 'step_size'"),
        ({"class": "ChainedScheduler", "schedulers": []}, "at least one part"),
        ({"class": "ChainedScheduler", "schedulers": [{"class": "ReduceLROnPlateau"}]}, "follows a metric"),
        ({"class": "WarmupLR", "warmup_epochs": 0}, "given 0; warmup_epochs should be a whole number, >= 1"),
    ],
)
def test_faults_are_found_before_training(instance, message):
    net = nn.Linear(2, 2)
    with pytest.raises(ScheduleError, match=message):
        dict_config(net, torch.optim.SGD(net.parameters(), lr=0.1), schedule(**instance))


def test_parts_are_checked_where_they_are_written(tmp_path):
    from compress.config import file_config

    path = tmp_path / "parts.yaml"
    path.write_text(
        "lr_schedulers:\n  it:\n    class: ChainedScheduler\n    schedulers:\n"
        "      - class: ExponentialLR\n        gama: 0.9\n"
        "policies:\n  - lr_scheduler: {instance_name: it}\n    epochs: [0]\n"
    )
    net = nn.Linear(2, 2)
    with pytest.raises(ScheduleError, match=r"parts.yaml:6:9: .*schedulers\[0\].gama.*did you mean 'gamma'"):
        file_config(net, torch.optim.SGD(net.parameters(), lr=0.1), path)


def test_what_is_refused_cannot_be_written():
    assert set(REFUSED) == {"LambdaLR", "MultiplicativeLR"}


def two_groups(kind=torch.optim.SGD, **settings):
    """A network of two layers and an optimizer with a group for each, at the rates 1.0 and 0.1."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    groups = [{"params": net[0].parameters()}, {"params": net[2].parameters(), "lr": 0.1}]
    return net, kind(groups, lr=1.0, **settings)


def entry(name, first, last):
    return {"lr_scheduler": {"instance_name": name}, "starting_epoch": first, "ending_epoch": last}


def trained(net, optimizer, schedule, epochs=8, first=0, state=None, metric=1.0):
    """The rates of all groups in each epoch of a loop of no steps, and the states at its end."""
    scheduler, found = dict_config(net, optimizer, schedule, example_inputs=torch.zeros(1, 3)), []
    if state is not None:
        optimizer.load_state_dict(state[0])
        scheduler.load_state_dict(state[1])
    for epoch in range(first, epochs):
        scheduler.on_epoch_begin(epoch, optimizer)
        found.append([float(group["lr"]) for group in optimizer.param_groups])
        scheduler.on_epoch_end(epoch, optimizer, {"min": metric, "max": metric})
    return found, (optimizer.state_dict(), scheduler.state_dict())


LISTS = {
    "OneCycleLR": {"max_lr": [0.5, 0.05], "total_steps": 20},
    "CyclicLR": {"base_lr": [0.01, 0.02], "max_lr": [0.1, 0.4], "step_size_up": 3},
    "ReduceLROnPlateau": {"patience": 0, "factor": 0.5, "min_lr": [0.3, 0.04]},
}


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam], ids=lambda each: each.__name__)
@pytest.mark.parametrize("name", LISTS)
def test_a_list_has_a_number_for_each_group_as_in_torch(name, kind):
    settings = {"momentum": 0.9} if kind is torch.optim.SGD else {}
    plan = {"lr_schedulers": {"it": {"class": name, **LISTS[name]}}, "policies": [entry("it", 0, 8)]}
    found, _ = trained(*two_groups(kind, **settings), plan)
    _, optimizer = two_groups(kind, **settings)
    reference, expected = getattr(torch.optim.lr_scheduler, name)(optimizer, **LISTS[name]), []
    for _ in range(8):
        expected.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        reference.step(*([1.0] if name == "ReduceLROnPlateau" else []))
    assert found == expected


@pytest.mark.parametrize("given", [[0.5], [0.5, 0.5, 0.5]])
def test_a_list_of_another_length_is_a_fault_of_the_schedule(given):
    plan = {"lr_schedulers": {"it": {"class": "OneCycleLR", "max_lr": given, "total_steps": 20}},
            "policies": [entry("it", 0, 8)]}  # fmt: skip
    with pytest.raises(ScheduleError, match="max_lr"):
        trained(*two_groups(momentum=0.9), plan)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("step_lr", [None, 0.5])
def test_groups_of_a_quantizer_s_own_take_the_first_group_s_share(step_lr, nested):
    """Whoever writes a list counts the groups of the network; a quantizer's steps come after them."""
    one = {"class": "OneCycleLR", "max_lr": [0.5, 0.05], "total_steps": 20}
    whole = {"class": "SequentialLR", "schedulers": [one], "milestones": []} if nested else one
    steps = {"class": "LSQQuantizer", "bits_weights": 8, "step_lr": step_lr}
    plan = {
        "lr_schedulers": {"it": whole}, "quantizers": {"lsq": steps},
        "policies": [{"quantizer": {"instance_name": "lsq"}, "epochs": [0]}, entry("it", 0, 8)],
    }  # fmt: skip
    net, optimizer = two_groups(momentum=0.9)
    found, _ = trained(net, optimizer, plan)
    for first, second, third in found:
        assert second == pytest.approx(first / 10)
        assert third == pytest.approx(first * (step_lr or 1.0))
    rows = dict_config(*two_groups(momentum=0.9), plan, torch.zeros(1, 3)).preview(8).rows
    assert [list(row.learning_rates) for row in rows] == found


@pytest.mark.parametrize("metric_of_loop", [True, False])
def test_plateau_without_any_metrics_says_so_once(caplog, metric_of_loop):
    net, optimizer = two_groups()
    plan = {"lr_schedulers": {"it": {"class": "ReduceLROnPlateau", "mode": "max"}}, "policies": [entry("it", 0, 8)]}
    scheduler = dict_config(net, optimizer, plan)
    scheduler.preview(8)
    for epoch in range(3):
        scheduler.on_epoch_begin(epoch)
        scheduler.on_epoch_end(epoch, metrics={"max": 1.0} if metric_of_loop else None)
    said = [record.message for record in caplog.records if "on_epoch_end was given no metrics" in record.message]
    assert len(said) == (0 if metric_of_loop else 1)
    assert metric_of_loop or "on_epoch_end(epoch, optimizer, metrics={'max': VALUE})" in said[0]


def test_plateau_goes_on_from_the_rate_that_it_finds():
    instances = {"steps": {"class": "MultiStepLR", "milestones": [2], "gamma": 0.1},
                 "plateau": {"class": "ReduceLROnPlateau", "patience": 0, "factor": 0.5}}  # fmt: skip
    plan = {"lr_schedulers": instances, "policies": [entry("steps", 0, 4), entry("plateau", 4, 8)]}
    found, _ = trained(*two_groups(), plan)
    assert [rate for rate, _ in found] == pytest.approx([1.0, 1.0, 0.1, 0.1, 0.1, 0.1, 0.05, 0.025])
    assert [rate for _, rate in found] == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.01, 0.01, 0.005, 0.0025])


@pytest.mark.parametrize("second", [name for name in ARGUMENTS if name != "ReduceLROnPlateau"])
@pytest.mark.parametrize("first", [name for name in ARGUMENTS if name != "ReduceLROnPlateau"])
def test_whoever_takes_over_sets_the_rates_of_a_run_that_it_had_governed_from_the_start(first, second):
    """Whatever the policy before has left in the groups; and a run that is cut at any epoch continues alike."""
    instances = {"a": {"class": first, **ARGUMENTS[first]}, "b": {"class": second, **ARGUMENTS[second]}}
    plan = {"lr_schedulers": instances, "policies": [entry("a", 0, 3), entry("b", 3, 7)]}
    alone = {"lr_schedulers": instances, "policies": [entry("b", 0, 7)]}
    whole, _ = trained(*two_groups(momentum=0.9), plan)
    expected, _ = trained(*two_groups(momentum=0.9), alone)
    torch.testing.assert_close(torch.tensor(whole[4:]), torch.tensor(expected[4:]))
    cut, state = trained(*two_groups(momentum=0.9), plan, epochs=5)
    rest, _ = trained(*two_groups(momentum=0.9), plan, first=5, state=state)
    assert cut + rest == whole


@pytest.mark.parametrize("warm", [False, True])
def test_what_a_plateau_has_lowered_stays_lowered_for_who_comes_behind(warm):
    instances = {
        "warm": {"class": "WarmupLR", "warmup_epochs": 2, "start_factor": 0.5},
        "plateau": {"class": "ReduceLROnPlateau", "patience": 0, "factor": 0.5},
        "decay": {"class": "ExponentialLR", "gamma": 0.5},
    }
    begin = [entry("warm", 0, 2)] if warm else []
    plan = {"lr_schedulers": instances, "policies": [*begin, entry("plateau", 2, 4), entry("decay", 4, 8)]}
    found, _ = trained(*two_groups(), plan)
    lowered = 0.5  # the second of two epochs without progress
    expected = [0.5, 0.75] if warm else [1.0, 1.0]
    expected += [1.0, 1.0, lowered, *(lowered * 0.5**e for e in (5, 6, 7))]
    assert [rate for rate, _ in found] == pytest.approx(expected)


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("cls", ["CyclicLR", "OneCycleLR"])
def test_momenta_a_group_are_taken_as_torch_takes_them(cls: str, listed: bool) -> None:
    momenta: dict[str, Any] = {"base_momentum": [0.8, 0.7], "max_momentum": [0.95, 0.9]}
    if not listed:
        momenta = {name: values[0] for name, values in momenta.items()}
    given = {"max_lr": [0.1, 0.2], **momenta}
    given |= {"base_lr": [0.01, 0.02]} if cls == "CyclicLR" else {"total_steps": 20}

    def optimizer_of() -> torch.optim.SGD:
        net = tiny_net()
        first, *rest = net.parameters()
        return torch.optim.SGD([{"params": [first]}, {"params": rest}], lr=0.1, momentum=0.9)

    theirs, ours, net = optimizer_of(), optimizer_of(), tiny_net()
    plain = getattr(torch.optim.lr_scheduler, cls)(theirs, **given)
    scheduler = dict_config(net, ours, one_policy("lr_schedulers", {"class": cls, **given}, list(range(8))))
    for epoch in range(8):
        scheduler.on_epoch_begin(epoch, ours)
        assert [(g["lr"], g["momentum"]) for g in ours.param_groups] == [
            (g["lr"], g["momentum"]) for g in theirs.param_groups
        ]
        theirs.step()
        plain.step()
        scheduler.on_epoch_end(epoch, ours)
