"""Each term against a few lines of its own; thresholds; what is dropped comes back."""

import pytest
import torch
from torch import nn

from compress.config import dict_config
from compress.errors import ScheduleError, UserError
from compress.registry import REGULARIZERS
from tests.compress.harness import Run, one_policy, tiny_net


def term(cls: str, **arguments):
    """The value and the gradients of one regularizer's term on the tiny net."""
    net = tiny_net()
    run = Run(one_policy("regularizers", {"class": cls, **arguments}, [0]), net)
    run.scheduler.on_minibatch_begin(0, 0, 1)
    zero = torch.zeros((), requires_grad=True)
    value = run.scheduler.before_backward_pass(0, 0, 1, zero)
    value.backward()
    return value.detach(), net


def test_l1_is_the_weighted_sum_of_absolute_values():
    value, net = term("L1Regularizer", reg_regims={"conv1.weight": 0.1, "fc.weight": 0.01})
    expected = 0.1 * net[0].weight.abs().sum() + 0.01 * net[7].weight.abs().sum()
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(net[0].weight.grad, 0.1 * net[0].weight.detach().sign())


@pytest.mark.parametrize(
    ("group", "norms"),
    [
        ("Filters", lambda w: w.flatten(1).norm(dim=1)),
        ("3D", lambda w: w.flatten(1).norm(dim=1)),
        ("Channels", lambda w: w.transpose(0, 1).flatten(1).norm(dim=1)),
        ("2D", lambda w: w.flatten(2).norm(dim=2).flatten()),
        ("4D", lambda w: w.norm().reshape(1)),
        ("Rows", lambda w: w.flatten(1).norm(dim=1)),
        ("Cols", lambda w: w.flatten(1).norm(dim=0)),
        ("Rows+Cols", lambda w: torch.cat([w.flatten(1).norm(dim=1), w.flatten(1).norm(dim=0)])),
        ("Cols+Rows", lambda w: torch.cat([w.flatten(1).norm(dim=1), w.flatten(1).norm(dim=0)])),
        ("Channels+4D", lambda w: torch.cat([w.transpose(0, 1).flatten(1).norm(dim=1), w.norm().reshape(1)])),
    ],
)
def test_group_lasso_sums_the_groups_norms(group, norms):
    value, net = term("GroupLassoRegularizer", reg_regims={"conv2.weight": [0.2, group]})
    torch.testing.assert_close(value, 0.2 * norms(net[3].weight.detach()).sum())


def test_group_lasso_has_a_zero_gradient_at_an_all_zero_group():
    net = tiny_net()
    net[3].weight.data[1] = 0
    run = Run(
        one_policy(
            "regularizers", {"class": "GroupLassoRegularizer", "reg_regims": {"conv2.weight": [1.0, "3D"]}}, [0]
        ),
        net,
    )
    run.scheduler.on_minibatch_begin(0, 0, 1)
    run.scheduler.before_backward_pass(0, 0, 1, torch.zeros((), requires_grad=True)).backward()
    assert torch.count_nonzero(net[3].weight.grad[1]) == 0
    assert torch.isfinite(net[3].weight.grad).all()


def test_filters_of_a_transposed_convolution_are_its_second_dimension():
    net = nn.Sequential(nn.ConvTranspose2d(3, 8, 2))
    run = Run(
        one_policy("regularizers", {"class": "GroupLassoRegularizer", "reg_regims": {"0.weight": [1.0, "3D"]}}, [0]),
        net,
    )
    run.scheduler.on_minibatch_begin(0, 0, 1)
    value = run.scheduler.before_backward_pass(0, 0, 1, torch.zeros(()))
    torch.testing.assert_close(value, net[0].weight.transpose(0, 1).flatten(1).norm(dim=1).sum())


def test_group_variance_is_strength_over_variance():
    value, net = term("GroupVarianceRegularizer", reg_regims={"conv2.weight": [0.01, "Channels"]})
    norms = net[3].weight.detach().transpose(0, 1).flatten(1).norm(dim=1)
    torch.testing.assert_close(value, 0.01 / norms.var())


def test_batch_norm_scales_are_found_by_themselves():
    value, net = term("BatchNormScaleRegularizer", strength=0.1)
    torch.testing.assert_close(value, 0.1 * (net[1].weight.abs().sum() + net[4].weight.abs().sum()).detach())


def test_each_term_is_logged_under_its_own_name():
    schedule = {
        "regularizers": {
            "small": {"class": "L1Regularizer", "reg_regims": {"conv1.weight": 0.1}},
            "grouped": {"class": "GroupLassoRegularizer", "reg_regims": {"conv2.weight": [0.1, "3D"]}},
        },
        "policies": [{"regularizer": {"instance_name": name}, "epochs": [0]} for name in ("small", "grouped")],
    }
    run = Run(schedule)
    run.epoch(0)
    assert run.terms == ["small_loss", "grouped_loss"]


@pytest.mark.parametrize(
    ("criterion", "measure"),
    [("Max", lambda w: w.abs().amax(dim=1)), ("Mean_Abs", lambda w: w.abs().mean(dim=1))],
)
def test_group_threshold_zeroes_groups_at_or_below_the_strength(criterion, measure):
    net = tiny_net()
    strength = float(measure(net[3].weight.detach().flatten(1)).sort().values[1])  # the second weakest is at it
    instance = {
        "class": "GroupLassoRegularizer",
        "reg_regims": {"conv2.weight": [strength, "Filters"]},
        "threshold_criteria": criterion,
    }
    run = Run(one_policy("regularizers", instance, [0]), net, steps=1, lr=0.0)
    run.epoch(0)
    assert int((net[3].weight.detach().flatten(1).abs().sum(dim=1) == 0).sum()) == 2
    assert run.scheduler.masks["conv2.weight"].mask is None, "a threshold is one-shot without keep_mask"


def test_keep_mask_makes_the_last_zeros_permanent_and_joins_a_pruners_mask():
    schedule = {
        "pruners": {"p": {"class": "SparsityLevelParameterPruner", "levels": {"conv2.weight": 0.25}}},
        "regularizers": {
            "r": {"class": "L1Regularizer", "reg_regims": {"conv2.weight": 0.05}, "threshold_criteria": "Max"}
        },
        "policies": [
            {"pruner": {"instance_name": "p"}, "epochs": [0]},
            {"regularizer": {"instance_name": "r", "args": {"keep_mask": True}}, "epochs": [0, 1]},
        ],
    }
    run = Run(schedule)
    run.epoch(0)
    pruned = run.mask("conv2.weight").clone()
    assert int((~pruned).sum()) == 72, "the regularizer's one-shot zeros are no mask yet"
    run.epoch(1)
    mask = run.mask("conv2.weight")
    assert not (mask & ~pruned).any()
    assert int((~mask).sum()) > 72
    run.epoch(2)
    assert torch.count_nonzero(run.parameter("conv2.weight")[~mask]) == 0


def test_dropped_filters_come_back_and_have_no_gradient():
    net = tiny_net()
    before = {name: value.clone() for name, value in net.state_dict().items() if "num_batches" not in name}
    instance = {"class": "DropFilterRegularizer", "reg_regims": {"conv1.weight": 0.5}}
    run = Run(one_policy("regularizers", instance, [0]), net, steps=1, lr=0.0)
    run.scheduler.on_minibatch_begin(0, 0, 1)
    scale = net[0].weight.detach().flatten(1).sum(1) / before["conv1.weight"].flatten(1).sum(1)
    assert {round(float(s), 3) for s in scale} == {0.0, 2.0}
    net(torch.randn(2, 3, 6, 6)).sum().backward()
    run.scheduler.before_parameter_optimization(0, 0, 1, run.optimizer)
    assert torch.equal(net[0].weight, before["conv1.weight"])
    dropped = scale < 1
    assert torch.count_nonzero(net[0].weight.grad[dropped]) == 0
    assert torch.count_nonzero(net[0].weight.grad[~dropped]) > 0


def test_drop_filter_needs_the_hook_before_the_optimizers_step():
    run = Run(one_policy("regularizers", {"class": "DropFilterRegularizer", "reg_regims": {"conv1.weight": 0.5}}, [0]))
    run.scheduler.on_minibatch_begin(0, 0, 1)
    with pytest.raises(UserError, match="before_parameter_optimization"):
        run.scheduler.on_minibatch_end(0, 0, 1)


def test_drop_filter_and_double_copies_do_not_mix():
    schedule = {
        "pruners": {"p": {"class": "SparsityLevelParameterPruner", "levels": {"conv1.weight": 0.25}}},
        "regularizers": {"d": {"class": "DropFilterRegularizer", "reg_regims": {"conv1.weight": 0.5}}},
        "policies": [
            {"pruner": {"instance_name": "p", "args": {"use_double_copies": True}}, "epochs": [0]},
            {"regularizer": {"instance_name": "d"}, "epochs": [0]},
        ],
    }
    with pytest.raises(UserError, match="use_double_copies"):
        Run(schedule).epoch(0)


@pytest.mark.parametrize(
    ("instance", "message"),
    [
        (
            {"class": "GroupLassoRegularizer", "reg_regims": {"*.bias": [0.1, "2D"]}},
            "'conv1.bias'.*no groups of kind '2D'",
        ),
        ({"class": "GroupLassoRegularizer", "reg_regims": {"conv1.weight": [0.1, "3DD"]}}, "given '3DD'"),
        (
            {"class": "GroupLassoRegularizer", "reg_regims": {"conv1.weight": [-0.1, "3D"]}},
            "should be a number, >= 0",
        ),
        (
            {"class": "DropFilterRegularizer", "reg_regims": {"conv1.bias": 0.5}},
            "'conv1.bias'.*no groups of kind 'Filters'",
        ),
        (
            {"class": "BatchNormScaleRegularizer", "strength": 0.1, "weights": ["conv1.weight"]},
            "not the scale of a norm",
        ),
    ],
)
def test_faults_are_found_before_training(instance, message):
    with pytest.raises(ScheduleError, match=message):
        Run(one_policy("regularizers", instance, [0]))


def test_keep_mask_without_a_threshold_is_a_warning(caplog):
    instance = {"class": "L1Regularizer", "reg_regims": {"conv1.weight": 0.1}}
    Run(one_policy("regularizers", instance, [0], keep_mask=True))
    assert "keep_mask keeps nothing: 'it' has no threshold_criteria" in caplog.text


def test_variance_of_one_group_is_refused():
    net = nn.Sequential(nn.Conv2d(1, 4, 3))
    instance = {"class": "GroupVarianceRegularizer", "reg_regims": {"0.weight": [0.1, "Channels"]}}
    with pytest.raises(ScheduleError, match="a variance needs two"):
        Run(one_policy("regularizers", instance, [0]), net)


def test_a_model_without_batch_norm_is_refused():
    net = nn.Sequential(nn.Conv2d(1, 4, 3))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(ScheduleError, match="no BatchNorm layer"):
        dict_config(
            net, optimizer, one_policy("regularizers", {"class": "BatchNormScaleRegularizer", "strength": 0.1}, [0])
        )


def test_all_regularizers_are_here():
    assert set(REGULARIZERS) == {
        "BatchNormScaleRegularizer",
        "DropFilterRegularizer",
        "GroupLassoRegularizer",
        "GroupVarianceRegularizer",
        "L1Regularizer",
    }
