"""When distillers act: resumed runs, adaptors beside learning-rate policies, stages."""

from typing import Any

import pytest
import torch
from torch import nn

from compress.distillation.staged import StagedDistillation
from compress.epoch_window import EpochWindow
from compress.errors import UserError
from compress.policies.stages import parameters_behind
from tests.compress.distillation.nets import first_batch, taught, wide_net
from tests.compress.harness import Run, batch, tiny_net

EPOCHS, STEPS = 4, 3
STAGES = {"class": "StagedDistillation", "teacher": "big", "stages": {"relu1": "act1", "relu2": "act3"}}
HINTS = {"class": "FeatureDistillation", "teacher": "big", "layers": {"relu1": "act1", "conv2": "neck"}}


def make(instance: dict[str, Any], **settings: Any) -> Run:
    """Distils in all epochs, with a learning rate that falls and weight decay."""
    schedule = {
        "distillers": {"it": instance},
        "lr_schedulers": {"lr": {"class": "StepLR", "step_size": 1, "gamma": 0.5}},
        "policies": [
            {"distiller": {"instance_name": "it"}, "starting_epoch": 0, "ending_epoch": EPOCHS},
            {"lr_scheduler": {"instance_name": "lr"}, "starting_epoch": 0, "ending_epoch": EPOCHS},
        ],
    }
    net = settings.pop("net", None) or tiny_net()
    optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9, weight_decay=0.01)
    run = taught(schedule, {"big": wide_net()}, net, optimizer=optimizer, example_inputs=first_batch(), **settings)
    run.steps = STEPS
    return run


def train(run: Run, first: int, last: int) -> None:
    """Minibatches `first` to `last` (exclusive) of the whole run."""
    for number in range(first, last):
        epoch, step = divmod(number, STEPS)
        if step == 0:
            run.scheduler.on_epoch_begin(epoch, run.optimizer)
        run.step(epoch, step)
        if step == STEPS - 1:
            run.scheduler.on_epoch_end(epoch, run.optimizer)


@pytest.mark.parametrize(
    "instance",
    [
        {"class": "KnowledgeDistillation", "teacher": "big", "temperature": 3.0},
        {"class": "KnowledgeDistillation", "teacher": "self"},
        {"class": "OutputDistillation", "teacher": "self", "loss": "l2"},
        {"class": "SimilarityDistillation", "teacher": "big", "layers": {"relu1": "act2"}},
        HINTS,
        STAGES,
        {**STAGES, "frozen": "earlier", "epochs_of_stages": [1, 2]},
    ],
    ids=lambda each: each["class"] + each["teacher"] + each.get("frozen", ""),
)
@pytest.mark.parametrize("kill", [1, 2 * STEPS + 1])
def test_a_resumed_run_is_the_same_run(instance: dict[str, Any], kill: int, tmp_path: Any) -> None:
    whole, first, second = make(instance), make(instance), make(instance)
    train(whole, 0, EPOCHS * STEPS)
    train(first, 0, kill)
    torch.save(first.save(), tmp_path / "state.pt")
    second.load(torch.load(tmp_path / "state.pt", weights_only=True))
    train(second, kill, EPOCHS * STEPS)
    for name, value in whole.net.state_dict().items():
        assert torch.equal(value, second.net.state_dict()[name]), name
    groups = [group["params"] for run in (whole, second) for group in run.optimizer.param_groups[1:]]
    half = len(groups) // 2
    for ours, theirs in zip(groups[:half], groups[half:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_adaptors_have_a_group_of_their_own_whose_rate_falls_with_the_others() -> None:
    run = make(HINTS)
    assert [len(group["params"]) for group in run.optimizer.param_groups] == [10, 2]
    train(run, 0, 2 * STEPS)
    assert [group["lr"] for group in run.optimizer.param_groups] == [0.0125, 0.0125]
    assert len(run.scheduler.preview().rows[0].learning_rates) == 2


def test_the_run_s_random_numbers_are_left_alone() -> None:
    torch.manual_seed(3)
    net = tiny_net(3)
    before = torch.get_rng_state()
    run = make(HINTS, net=net)
    wide_net()  # what `make` drew for the teacher
    torch.set_rng_state(before)
    again = make(HINTS, net=tiny_net(3))
    for ours, theirs in zip(run.optimizer.param_groups[1]["params"], again.optimizer.param_groups[1]["params"],
                            strict=True):  # fmt: skip
        assert torch.equal(ours, theirs)


def snapshot(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def changed(net: nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    """The layers in which anything, statistics included, is not what it was."""
    return {name.split(".")[0] for name, value in net.state_dict().items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize(
    ("frozen", "expected"),
    [("rest", [{"conv1", "bn1"}, {"conv1", "bn1", "conv2", "bn2"}]), ("earlier", [{"conv1", "bn1"}, {"conv2", "bn2"}])],
)
def test_each_stage_trains_its_layers_and_nothing_else(frozen: str, expected: list[set[str]]) -> None:
    run = make({**STAGES, "frozen": frozen})
    train(run, 0, STEPS)  # momenta are there from now on
    for stage, layers in enumerate(expected):
        first = [STEPS, 2 * STEPS][stage]
        before = snapshot(run.net)
        train(run, first, first + STEPS)
        assert changed(run.net, before) == layers, f"stage {stage}"
        assert run.terms == [f"it_loss/{['relu1', 'relu2'][stage]}"]
    assert all(module.training for module in run.net.modules())


def test_a_loop_that_zeroes_gradients_instead_of_dropping_them_freezes_too() -> None:
    run = make(STAGES)
    before = snapshot(run.net)
    for parameter in run.net.parameters():
        parameter.grad = torch.ones_like(parameter)
    run.optimizer.zero_grad = lambda set_to_none=False: [p.grad.zero_() for p in run.net.parameters()]  # type: ignore[method-assign, assignment, misc, union-attr]
    run.scheduler.on_epoch_begin(0, run.optimizer)
    run.step(0, 0)
    assert changed(run.net, before) == {"conv1", "bn1"}


def test_stages_share_the_epochs() -> None:
    def stages(count: int, epochs: range, given: list[int] | None = None) -> list[int]:
        points = {f"layer{i}": "x" for i in range(count)}
        distiller = StagedDistillation(points, "big", epochs_of_stages=given)
        window = EpochWindow.of_list(epochs)
        return [distiller.stage_at(epoch, window) for epoch in epochs]

    assert stages(2, range(3, 7)) == [0, 0, 1, 1]
    assert stages(3, range(7)) == [0, 0, 0, 1, 1, 2, 2]
    assert stages(2, range(0, 8, 2)) == [0, 0, 1, 1]
    assert stages(2, range(6), [1, 3]) == [0, 1, 1, 1, 1, 1]


def test_a_loop_without_the_hook_between_backward_and_step_is_told() -> None:
    run = make(STAGES)
    run.scheduler.on_epoch_begin(0, run.optimizer)
    run.scheduler.on_minibatch_begin(0, 0, 3, run.optimizer)
    run.net(batch(0, 0))
    with pytest.raises(UserError, match="needs the hook before_parameter_optimization"):
        run.scheduler.on_minibatch_end(0, 0, 3, run.optimizer)


def test_the_parameters_behind_a_tensor() -> None:
    net = tiny_net()
    inner = net[:3](first_batch())
    assert parameters_behind(inner) == {id(p) for module in (net.conv1, net.bn1) for p in module.parameters()}
    assert parameters_behind(torch.zeros(1)) == set()
