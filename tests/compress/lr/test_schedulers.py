"""Every learning-rate class: its rates, the absolute-epoch rule, exact resume, faults before training."""

import io
import math

import pytest
import torch
from torch import nn

from compress.config import dict_config
from compress.errors import ScheduleError, UserError
from compress.lr.torch_schedulers import REFUSED
from compress.policies.lr import LRPolicy
from compress.registry import LR_SCHEDULERS
from compress.window import EpochWindow

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
