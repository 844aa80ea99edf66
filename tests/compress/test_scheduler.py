"""The scheduler: hooks in order, masks against momentum, state, plan."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress.config import dict_config
from compress.context import LayersExchanged, LossComponent, PolicyLoss, StepContext
from compress.epoch_window import EpochWindow
from compress.errors import UserError
from compress.masks import MaskTable
from compress.policies.base import HOOKS, Policy
from compress.scheduler import CompressionScheduler

AGP = {
    "pruners": {
        "agp": {
            "class": "AutomatedGradualPruner",
            "initial_sparsity": 0.1,
            "final_sparsity": 0.6,
            "weights": ["?.weight"],
        }
    },
    "policies": [{"pruner": {"instance_name": "agp"}, "starting_epoch": 0, "ending_epoch": 4, "frequency": 1}],
}


class Recorder(Policy):
    """Notes each hook with its epoch and step."""

    def __init__(self, name: str, window: EpochWindow, log: list[tuple[Any, ...]]) -> None:
        super().__init__(name, window)
        self.log = log

    def before_backward_pass(self, ctx: StepContext, loss: Tensor) -> PolicyLoss:
        self.log.append((self.name, "before_backward_pass", ctx.epoch, ctx.step))
        return PolicyLoss(loss + 1, [LossComponent(self.name, torch.ones(()))])


def _recording(hook: str) -> Any:
    def call(self: Recorder, ctx: StepContext) -> None:
        self.log.append((self.name, hook, ctx.epoch, ctx.step))

    return call


for _hook in HOOKS:
    if _hook != "before_backward_pass":
        setattr(Recorder, _hook, _recording(_hook))


def run_epoch(scheduler: CompressionScheduler, net: nn.Module, optimizer: Any, epoch: int, steps: int = 2) -> None:
    scheduler.on_epoch_begin(epoch, optimizer)
    for step in range(steps):
        scheduler.on_minibatch_begin(epoch, step, steps, optimizer)
        loss = net(torch.randn(2, 3, 6, 6)).pow(2).sum()
        loss = scheduler.before_backward_pass(epoch, step, steps, loss, optimizer)
        optimizer.zero_grad()
        loss.backward()
        scheduler.before_parameter_optimization(epoch, step, steps, optimizer)
        optimizer.step()
        scheduler.on_minibatch_end(epoch, step, steps, optimizer)
    scheduler.on_epoch_end(epoch, optimizer, {"min": 1.0, "max": 1.0})


def test_hooks_fire_in_order_and_only_in_the_window(net: nn.Module) -> None:
    log: list[tuple[Any, ...]] = []
    policies = [
        Recorder("a", EpochWindow.of_list([1]), log),
        Recorder("b", EpochWindow.of_range(1, 4, 2), log),
    ]
    scheduler = CompressionScheduler(net, policies)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    for epoch in range(3):
        run_epoch(scheduler, net, optimizer, epoch, steps=1)
    step_hooks = HOOKS[1:5]
    expected = [(n, "on_epoch_begin", 1, -1) for n in "ab"]
    expected += [(n, hook, 1, 0) for hook in step_hooks for n in "ab"]
    expected += [(n, "on_epoch_end", 1, -1) for n in "ab"]
    assert log == expected


def test_loss_terms_are_chained_and_named(net: nn.Module) -> None:
    scheduler = CompressionScheduler(net, [Recorder(n, EpochWindow.of_list([0]), []) for n in "ab"])
    scheduler.on_epoch_begin(0)
    loss = scheduler.before_backward_pass(0, 0, 1, torch.tensor(5.0), return_loss_components=True)
    assert loss.overall_loss == 7
    assert [term.name for term in loss.loss_components] == ["a", "b"]
    assert scheduler.before_backward_pass(0, 0, 1, torch.tensor(5.0)) == 7


@pytest.mark.parametrize("kind", ["momentum", "adam"])
def test_masked_weights_stay_exactly_zero_against_the_optimizers_memory(net: nn.Module, kind: str) -> None:
    optimizer: torch.optim.Optimizer = (
        torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
        if kind == "momentum"
        else torch.optim.Adam(net.parameters(), 0.01)
    )
    scheduler = dict_config(net, optimizer, AGP)
    for epoch in range(6):  # two epochs after the policy's end: the mask outlives it
        run_epoch(scheduler, net, optimizer, epoch)
        for masker in scheduler.masks.masked():
            assert torch.count_nonzero(masker.parameter[~masker.mask]) == 0
    sizes = {name: net.get_parameter(name).numel() for name in ("0.weight", "2.weight", "5.weight")}
    zeros = {name: n - int(torch.count_nonzero(net.get_parameter(name))) for name, n in sizes.items()}
    assert zeros == {name: int(0.6 * n + 0.5) for name, n in sizes.items()}


def test_state_goes_through_a_safe_file_and_back(net: nn.Module, tmp_path: Any) -> None:
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    scheduler = dict_config(net, optimizer, AGP)
    run_epoch(scheduler, net, optimizer, 0)
    torch.save(scheduler.state_dict(), tmp_path / "s.pt")
    other = dict_config(net, optimizer, AGP)
    other.load_state_dict(torch.load(tmp_path / "s.pt", weights_only=True))
    for masker in scheduler.masks.masked():
        assert torch.equal(other.masks[masker.name].mask, masker.mask)
    assert torch.equal(other.generator.get_state(), scheduler.generator.get_state())


def test_state_of_another_schedule_or_version_is_refused(net: nn.Module) -> None:
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    state = dict_config(net, optimizer, AGP).state_dict()
    with pytest.raises(UserError, match=r"made with the policies \['agp'\], the schedule has \[\]"):
        CompressionScheduler(net).load_state_dict(state)
    with pytest.raises(UserError, match="version 99"):
        CompressionScheduler(net).load_state_dict({**state, "version": 99})


def places(value: Any) -> Iterator[tuple[Any, ...]]:
    """Where something is in nested plain data."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield (key,)
        yield from ((key, *rest) for rest in places(value[key]))


@pytest.mark.parametrize("wrong", [None, 3, "text", [7], {"a": 1}, torch.full((2,), 0.5), "left out"], ids=str)
def test_a_damaged_state_is_refused_or_does_no_harm(net: nn.Module, wrong: Any) -> None:
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    scheduler = dict_config(net, optimizer, AGP)
    run_epoch(scheduler, net, optimizer, 0)
    refused = 0
    for place in places(scheduler.state_dict()):
        state = copy.deepcopy(scheduler.state_dict())
        inner = state
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = wrong
        if isinstance(wrong, str) and wrong == "left out":
            del inner[place[-1]]
        other = dict_config(net, optimizer, AGP)
        try:
            other.load_state_dict(state)
        except UserError:
            refused += 1
        for masker in other.masks.masked():
            assert masker.mask.dtype is torch.bool, place  # type: ignore[union-attr]
    assert refused > 5


def test_preview_touches_nothing_and_follows_the_cubic(net: nn.Module) -> None:
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    schedule = {
        **AGP,
        "lr_schedulers": {"lr": {"class": "ExponentialLR", "gamma": 0.5}},
        "policies": [
            *AGP["policies"],
            {"lr_scheduler": {"instance_name": "lr"}, "starting_epoch": 1, "ending_epoch": 3, "frequency": 1},
        ],
    }
    before = [p.detach().clone() for p in net.parameters()]
    plan = dict_config(net, optimizer, schedule).preview(6)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    assert optimizer.param_groups[0]["lr"] == 0.1
    levels = [row.levels["0.weight"] for row in plan.rows]
    assert levels[0] == 0.1
    assert levels[3:] == [0.6, 0.6, 0.6]
    assert levels[1] == pytest.approx(0.6 - 0.5 * (2 / 3) ** 3)
    # absolute epochs: untouched through epoch 1, then what governs epoch 2 of a run governed from the start
    assert [row.learning_rates[0] for row in plan.rows] == pytest.approx([0.1, 0.1, 0.025, 0.0125, 0.0125, 0.0125])
    assert plan.rows[1].acting == ("agp", "lr")
    assert len(plan.changes()) == 5


def test_a_run_that_ends_inside_a_policy_says_the_level_it_reaches(net: nn.Module) -> None:
    scheduler = dict_config(net, torch.optim.SGD(net.parameters(), 0.1), AGP)
    assert scheduler.cut_short(4) == []
    assert "reaches 10.0 % instead of 60.0 %" in scheduler.cut_short(1)[0]
    assert not scheduler.settled(2)
    assert scheduler.settled(3)
    assert scheduler.scheduled_weights == ["0.weight", "2.weight", "5.weight"]


class Exchanging(Policy):
    """Says twice in an epoch that it has exchanged something."""

    def on_epoch_begin(self, ctx: StepContext) -> None:
        before = len(ctx.structures)
        ctx.tell(LayersExchanged({"layers": {}, "folded": {}}))
        assert len(ctx.structures) == before + 1  # at once, for whoever acts after it


def test_what_a_policy_says_it_has_exchanged_is_saved(net: nn.Module) -> None:
    scheduler = CompressionScheduler(net, [Exchanging("e", EpochWindow.of_list([0, 1]))])
    for epoch in range(3):
        scheduler.on_epoch_begin(epoch)
    assert scheduler.state_dict()["structures"] == 2 * [{"layers": {}, "folded": {}}]
    assert scheduler.recipes == []


def test_a_policy_may_be_called_where_nobody_keeps_account(net: nn.Module) -> None:
    ctx = StepContext(0, net, MaskTable(net), torch.Generator())
    ctx.tell(LayersExchanged({}))
    assert not ctx.structures
