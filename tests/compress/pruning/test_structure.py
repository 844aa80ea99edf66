"""Structured pruners: each mask against a few lines of its own; counts, groups, dependency, gathering."""

import logging
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from compress.criteria import geometric_median_distances
from compress.errors import ScheduleError, UserError
from compress.groups import as_groups, group_count, group_norms, spread, tile_of
from compress.pruning.reconstruction import solve_columns
from compress.pruning.structure import groups_to_prune
from tests.compress.harness import Run, batch, one_policy, tiny_net

few = settings(max_examples=25, deadline=None, derandomize=True)
AXES = {"Filters": (1, 2, 3), "3D": (1, 2, 3), "Channels": (0, 2, 3), "2D": (2, 3), "Cols": (1, 2, 3), "Rows": (0,)}


def mask_of(instance, name="conv2.weight", net=None, **args):
    """The mask after one epoch with a learning rate of zero, and the run."""
    run = Run(one_policy("pruners", instance, [0], **args), net, lr=0.0)
    run.epoch(0)
    return run.mask(name), run


def ranked(cls="L1RankedStructureParameterPruner", weights=("conv2.weight",), sparsity=0.5, **arguments):
    """An instance of a ranked pruner."""
    return {"class": cls, "weights": list(weights), "desired_sparsity": sparsity, **arguments}


@few
@given(
    st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3)),
    st.sampled_from(["Filters", "Channels", "Rows", "Cols", "2D", "4D"]),
)
def test_groups_and_back(shape, group):
    weight = torch.randn(shape)
    tile = tile_of(group, shape)
    groups = as_groups(weight, tile)
    assert groups.shape == (group_count(shape, tile), math.prod(tile))
    torch.testing.assert_close(group_norms(weight, tile, 2), groups.norm(dim=1))
    ids = spread(torch.arange(len(groups)), shape, tile)
    for i in range(len(groups)):
        assert sorted(weight[ids == i].tolist()) == sorted(groups[i].tolist())


@few
@given(st.floats(0, 1), st.integers(1, 60), st.integers(1, 4))
def test_count_is_the_stated_rounding(fraction, count, multiple):
    zeros = groups_to_prune(fraction, count, multiple)
    if fraction == 1.0:
        assert zeros == count
        return
    assert zeros < count
    assert zeros % multiple == 0
    assert zeros == min(math.floor(fraction * count + 1e-9), count - 1) // multiple * multiple


def test_rounding_is_not_fooled_by_floats():
    assert groups_to_prune(0.29, 100) == 29
    assert groups_to_prune(0.26, 10, rounding="ceil") == 3
    assert groups_to_prune(0.25, 10, rounding="nearest") == 3
    assert groups_to_prune(0.99, 2) == 1


@pytest.mark.parametrize("cls", ["L1RankedStructureParameterPruner", "L2RankedStructureParameterPruner"])
@pytest.mark.parametrize("group", list(AXES))
def test_norm_ranking(cls, group):
    weight = tiny_net().conv2.weight.detach()
    order = int(cls[1])
    norms = torch.linalg.vector_norm(weight, order, dim=AXES[group], keepdim=True)
    zeros = math.floor(0.5 * norms.numel())
    expected = (norms > norms.flatten().sort().values[zeros - 1]).expand_as(weight)
    mask, _ = mask_of(ranked(cls, group_type=group))
    assert torch.equal(mask, expected)


@pytest.mark.parametrize("way", [{"block_shape": [1, 4, 1, 1]}, {"kwargs": {"block_shape": [1, 4, 1, 1]}}])
def test_blocks(way):
    weight = tiny_net().conv2.weight.detach()
    sums = weight.abs().reshape(4, 1, 2, 4, 3, 3).sum(dim=(1, 3))
    keep = sums > sums.flatten().sort().values[sums.numel() // 2 - 1]
    mask, _ = mask_of(ranked(group_type="Blocks", **way))
    assert torch.equal(mask, keep.repeat_interleave(4, dim=1))


def test_rows_of_a_linear_layer_are_its_inputs():
    norms = tiny_net().fc.weight.detach().abs().sum(dim=0)
    mask, _ = mask_of(ranked(weights=["fc.weight"], group_type="Rows"), "fc.weight")
    assert torch.equal(mask, (norms > norms.sort().values[71]).expand(5, 144))


def test_filters_of_a_transposed_convolution():
    net = nn.Sequential(nn.ConvTranspose2d(3, 8, 2))
    norms = net[0].weight.detach().abs().sum(dim=(0, 2, 3))
    mask, _ = mask_of(ranked(weights=["0.weight"]), "0.weight", net)
    assert torch.equal(mask, (norms > norms.sort().values[3]).reshape(1, 8, 1, 1).expand(3, 8, 2, 2))


def test_both_generations_of_arguments_agree():
    old, _ = mask_of({"class": "L1RankedStructureParameterPruner", "reg_regims": {"conv2.weight": [0.5, "3D"]}})
    new, _ = mask_of(ranked())
    assert torch.equal(old, new)


def test_leader_prunes_the_same_filters():
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1))
    _, run = mask_of(ranked(weights=["0.weight", "1.weight"], group_dependency="Leader"), "0.weight", net)
    rows = run.mask("0.weight").flatten(1).all(dim=1)
    assert torch.equal(run.mask("1.weight").flatten(1).all(dim=1), rows)
    norms = net[1].weight.detach().abs().flatten(1).sum(dim=1)
    assert norms.numel() == 8


def test_noise_shuffles_sometimes():
    instance = ranked(weights=["conv1.weight"], noise=1.0)
    noisy, _ = mask_of(instance, "conv1.weight")
    plain, _ = mask_of(ranked(weights=["conv1.weight"]), "conv1.weight")
    assert int(noisy.sum()) == int(plain.sum())
    assert not torch.equal(noisy, plain)


def test_everything_goes_only_for_one_and_is_told(caplog):
    with caplog.at_level(logging.WARNING, logger="compress"):
        mask, _ = mask_of(ranked(sparsity=1.0))
    assert not mask.any()
    assert "has pruned all of 'conv2.weight'" in caplog.text


@pytest.mark.parametrize(("criterion", "reduce"), [("Max", torch.amax), ("Mean_Abs", torch.mean)])
def test_threshold_on_groups(criterion, reduce):
    weight = tiny_net().conv2.weight.detach().abs()
    measure = reduce(weight, dim=(1, 2, 3))
    threshold = float(measure.sort().values[0])
    instance = {
        "class": "StructureParameterPruner",
        "reg_regims": {"conv2.weight": [threshold, "Filters"]},
        "threshold_criteria": criterion,
    }
    mask, _ = mask_of(instance)
    assert torch.equal(mask.flatten(1).any(dim=1), measure > threshold)
    assert int((~mask).sum()) == 72


def test_fpgm_example():
    assert geometric_median_distances(torch.tensor([[0.0], [1.0], [5.0]])).tolist() == [6.0, 5.0, 9.0]
    weight = tiny_net().conv2.weight.detach().flatten(1)
    sums = torch.stack([(weight - row).norm(dim=1).sum() for row in weight])
    mask, _ = mask_of(ranked("FPGMRankedFilterPruner", sparsity=0.25))
    assert mask.flatten(1).any(dim=1).tolist() == (sums > sums.min()).tolist()


def test_random_filters_come_from_the_schedulers_generator():
    first, _ = mask_of(ranked("RandomRankedFilterPruner", weights=["conv1.weight"]), "conv1.weight")
    torch.manual_seed(99)
    second, _ = mask_of(ranked("RandomRankedFilterPruner", weights=["conv1.weight"]), "conv1.weight")
    assert torch.equal(first, second)
    assert int(first.flatten(1).any(dim=1).sum()) == 4


def test_random_level_draws_from_its_range():
    instance = {
        "class": "RandomLevelStructureParameterPruner",
        "group_type": "Filters",
        "sparsity_range": [0.25, 0.75],
        "weights": ["conv1.weight"],
    }
    run = Run(one_policy("pruners", instance, list(range(12))))
    counts = set()
    for epoch in range(12):
        run.scheduler.on_epoch_begin(epoch)
        counts.add(int((~run.mask("conv1.weight").flatten(1).any(dim=1)).sum()))
    assert counts <= {2, 3, 4, 5, 6}
    assert len(counts) > 1


def test_bernoulli_scales_forward_passes_only():
    instance = ranked("BernoulliFilterPruner", weights=["conv1.weight"])
    run = Run(one_policy("pruners", instance, [0], use_double_copies=True), lr=0.0)
    before = run.parameter("conv1.weight").clone()
    run.scheduler.on_epoch_begin(0)
    run.scheduler.on_minibatch_begin(0, 0, 2)
    mask = run.mask("conv1.weight")
    assert 0 < int(mask.sum()) < mask.numel()
    scale = mask.numel() / int(mask.sum())
    torch.testing.assert_close(run.parameter("conv1.weight"), before * mask * scale)
    run.scheduler.before_parameter_optimization(0, 0, 2, run.optimizer)
    assert torch.equal(run.parameter("conv1.weight"), before)


def test_batch_norm_scale_prunes_scale_and_shift():
    net = tiny_net()
    net.bn1.weight.data = torch.linspace(0.1, 0.8, 8)
    net.bn2.weight.data = torch.tensor([0.01, 0.02, 0.9, 1.0])
    _, run = mask_of({"class": "BatchNormScalePruner", "desired_sparsity": 0.5}, "bn1.weight", net)
    assert run.mask("bn2.weight").tolist() == [False, False, True, True]
    assert run.mask("bn1.weight").tolist() == [False] * 4 + [True] * 4
    assert torch.equal(run.mask("bn1.bias"), run.mask("bn1.weight"))
    net.eval()
    out = net.bn1(net.conv1(batch(0, 0)))
    assert torch.count_nonzero(out[:, :4]) == 0


def test_batch_norm_scale_by_layer():
    net = tiny_net()
    net.bn1.weight.data = torch.linspace(1, 8, 8)
    net.bn2.weight.data = torch.tensor([0.01, 0.02, 0.9, 1.0])
    _, run = mask_of({"class": "BatchNormScalePruner", "desired_sparsity": 0.5, "scope": "layer"}, "bn1.weight", net)
    assert int(run.mask("bn1.weight").sum()) == 4
    assert int(run.mask("bn2.weight").sum()) == 2


class Functional(nn.Module):
    """A residual block without activation modules: the relu of conv `a` is a function behind an addition."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 6, 1)
        self.skip = nn.Conv2d(3, 6, 1)
        self.last = nn.Conv2d(6, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.a(x)
        out += self.skip(x)
        return self.last(functional.relu(out))


@pytest.mark.parametrize("cls", ["ActivationAPoZRankedFilterPruner", "ActivationMeanRankedFilterPruner"])
def test_activations_are_found_through_functions(cls):
    torch.manual_seed(0)
    net = Functional()
    run = Run(one_policy("pruners", ranked(cls, weights=["a.weight"], batches=2), [0]), net, lr=0.0)
    run.epoch(0)
    fresh = Functional()
    fresh.load_state_dict({name: value for name, value in net.state_dict().items()})
    torch.manual_seed(0)
    fresh = Functional()
    acts = torch.cat([functional.relu(fresh.a(batch(0, s)) + fresh.skip(batch(0, s))) for s in (0, 1)]).detach()
    value = (acts > 0).double().mean(dim=(0, 2, 3)) if "APoZ" in cls else acts.double().mean(dim=(0, 2, 3))
    assert run.mask("a.weight").flatten(1).all(dim=1).tolist() == (value > value.sort().values[2]).tolist()


def test_a_compiled_model_is_followed_too():
    instance = ranked("ActivationAPoZRankedFilterPruner", weights=["conv1.weight"], batches=2)
    plain, _ = mask_of(instance, "conv1.weight")
    compiled, _ = mask_of(instance, "conv1.weight", torch.compile(tiny_net(), backend="eager"))
    assert torch.equal(plain, compiled)


def test_the_strongest_activations_stay():
    net = tiny_net()
    with torch.no_grad():
        net.bn1.bias.copy_(torch.tensor([5.0, 0, 5, 0, 5, 0, 5, 0]))
    mask, _ = mask_of(
        ranked("ActivationMeanRankedFilterPruner", weights=["conv1.weight"], batches=1), "conv1.weight", net
    )
    assert mask.flatten(1).all(dim=1).tolist() == [True, False] * 4


def test_no_activation_behind_the_last_layer():
    with pytest.raises(UserError, match="no activation function was seen"):
        mask_of(ranked("ActivationMeanRankedFilterPruner", weights=["fc.weight"], batches=1))


def test_an_activation_that_is_never_zero_cannot_be_ranked_by_zeros():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sigmoid())
    with pytest.raises(UserError, match=r"\(sigmoid\) was never zero"):
        mask_of(ranked("ActivationAPoZRankedFilterPruner", weights=["0.weight"], batches=1), "0.weight", net)


@pytest.mark.parametrize("cls", ["GradientRankedFilterPruner", "TaylorRankedFilterPruner"])
def test_gradient_criteria(cls):
    run = Run(one_policy("pruners", ranked(cls, weights=["conv1.weight"], batches=2), [0]), lr=0.0)
    weight = run.parameter("conv1.weight").clone()
    total = torch.zeros(8)
    run.scheduler.on_epoch_begin(0)
    for step in range(2):
        run.step(0, step)
        products = (weight * run.scheduler.masks["conv1.weight"].parameter.grad).flatten(1).sum(dim=1)
        total += products.square() if "Taylor" in cls else products
    assert run.mask("conv1.weight").flatten(1).all(dim=1).tolist() == (total > total.sort().values[3]).tolist()


def test_masks_come_before_the_optimizers_step_that_follows():
    run = Run(one_policy("pruners", ranked("TaylorRankedFilterPruner", weights=["conv1.weight"], batches=2), [0]))
    run.scheduler.on_epoch_begin(0)
    run.step(0, 0)
    assert run.scheduler.masks["conv1.weight"].mask is None
    run.step(0, 1)
    mask = run.mask("conv1.weight")
    assert torch.count_nonzero(run.parameter("conv1.weight")[~mask]) == 0


def test_a_short_epoch_masks_with_what_it_saw_and_says_so(caplog):
    run = Run(one_policy("pruners", ranked("TaylorRankedFilterPruner", batches=9), [0]))
    with caplog.at_level(logging.WARNING, logger="compress"):
        run.epoch(0)
    assert run.mask("conv2.weight") is not None
    assert "5 minibatches before the 9" in caplog.text


def test_a_loop_without_the_hook_is_told():
    run = Run(one_policy("pruners", ranked("TaylorRankedFilterPruner"), [0]))
    run.scheduler.on_epoch_begin(0)
    run.scheduler.on_minibatch_begin(0, 0, 4)
    with pytest.raises(UserError, match="TaylorRankedFilterPruner needs the hook before_parameter_optimization"):
        run.scheduler.on_minibatch_end(0, 0, 4)


@pytest.mark.parametrize("layer", ["conv2.weight", "fc.weight"])
def test_reconstruction_is_the_least_squares_solution(layer):
    net = tiny_net().eval()
    seen = []
    module = net.get_submodule(layer.split(".")[0])
    module.register_forward_hook(lambda m, i, o: seen.append((i[0].detach(), o.detach())))
    sparsity = 0.5 if layer.startswith("conv") else 0.95
    instance = ranked("FMReconstructionChannelPruner", weights=[layer], sparsity=sparsity, batches=4, points=1000)
    before = module.weight.detach().clone()
    run = Run(one_policy("pruners", instance, [0]), net, lr=0.0)
    run.epoch(0)
    columns = run.mask(layer).flatten(1)[0]
    if layer == "fc.weight":
        x, y = torch.cat([a for a, _ in seen]), torch.cat([b for _, b in seen])
    else:
        x = torch.cat([functional.unfold(a, 3, padding=1) for a, _ in seen]).movedim(1, 2).flatten(0, 1)
        y = torch.cat([b.flatten(2) for _, b in seen]).movedim(1, 2).flatten(0, 1)
    y = (y - module.bias.detach()).double()
    x = x.double()
    solution = torch.linalg.lstsq(x[:, columns], y, driver="gelsd").solution.T
    found = module.weight.detach().flatten(1).double()
    torch.testing.assert_close(found[:, columns], solution, rtol=1e-3, atol=1e-4)
    assert torch.count_nonzero(found[:, ~columns]) == 0
    plain = before.flatten(1).double() * columns
    assert (x @ found.T - y).square().sum() < (x @ plain.T - y).square().sum()


def test_too_few_samples_leave_the_weights(caplog):
    instance = ranked("FMReconstructionChannelPruner", weights=["fc.weight"], sparsity=0.1, batches=1)
    with caplog.at_level(logging.WARNING, logger="compress"):
        mask_of(instance, "fc.weight")
    assert "too few to rebuild" in caplog.text


def test_columns_that_are_not_read_are_zero():
    square = torch.eye(3).double()
    cross = torch.arange(6.0).reshape(3, 2).double()
    keep = torch.tensor([True, False, True])
    assert solve_columns(square, cross, keep).tolist() == [[0, 0, 4], [1, 0, 5]]


def test_grouped_convolutions_are_not_reconstructed():
    net = nn.Sequential(nn.Conv2d(4, 4, 1, groups=2))
    run = Run(one_policy("pruners", ranked("FMReconstructionChannelPruner", weights=["0.weight"]), [0]), net)
    run.scheduler.on_epoch_begin(0)
    run.scheduler.on_minibatch_begin(0, 0, 1)
    with pytest.raises(UserError, match="cannot be sampled"):
        net(torch.zeros(1, 4, 2, 2))


@pytest.mark.parametrize(
    ("instance", "message"),
    [
        (ranked(group_type="Blocks"), "needs a block_shape"),
        (ranked(group_type="Blocks", block_shape=[1, 3, 1, 1]), "do not fill a weight of shape"),
        (ranked(weights=["conv1.bias"]), "'conv1.bias'.*no groups of kind 'Filters'"),
        (ranked(weights=["conv1.weight", "conv2.weight"], group_dependency="Leader"), "4 groups, its leader"),
        (ranked(reg_regims={"conv1.weight": [0.5, "3D"]}), "either weights and desired_sparsity"),
        ({"class": "L1RankedStructureParameterPruner", "weights": ["*"]}, "are both needed"),
        (ranked("FPGMRankedFilterPruner", group_type="Channels"), "should be one of Filters, 3D"),
        (
            {
                "class": "RandomLevelStructureParameterPruner",
                "group_type": "3D",
                "sparsity_range": [0.5, 0.1],
                "weights": ["conv1.weight"],
            },
            "is reversed",
        ),
        (
            {
                "class": "StructureParameterPruner",
                "reg_regims": {"conv1.bias": [0.5, "2D"]},
                "threshold_criteria": "Max",
            },
            "'conv1.bias'.*no groups of kind '2D'",
        ),
    ],
)
def test_faults_are_found_before_training(instance, message):
    with pytest.raises(ScheduleError, match=message):
        Run(one_policy("pruners", instance, [0]))


def test_filters_of_a_grouped_transposed_convolution_are_refused():
    net = nn.Sequential(nn.ConvTranspose2d(4, 4, 1, groups=2))
    with pytest.raises(ScheduleError, match="transposed convolution in groups"):
        Run(one_policy("pruners", ranked(weights=["0.weight"]), [0]), net)
