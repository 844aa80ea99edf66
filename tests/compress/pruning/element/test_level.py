"""Element pruners: each mask against a few lines of its own, ties, levels."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.criteria import global_masks, level_mask, level_masks, mask_smallest, nm_mask, zeros_of
from compress.epoch_window import EpochWindow
from compress.errors import ScheduleError, UserError
from compress.pruning.element.baidu_rnn import BaiduRNNPruner
from tests.compress.harness import Run, one_policy, tiny_net

WEIGHTS = ["conv1.weight", "conv2.weight", "fc.weight"]
few = settings(max_examples=25, deadline=None, derandomize=True)


def run_one(instance, epochs=(0,), last=0, **args) -> Run:
    """A run with one pruner, up to the end of epoch `last`."""
    run = Run(one_policy("pruners", instance, list(epochs), **args))
    for epoch in range(last + 1):
        run.epoch(epoch)
    return run


@few
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=40), st.floats(0, 1))
def test_level_mask_has_the_exact_count_whatever_ties(values, level):
    weight = torch.tensor(values, dtype=torch.float32)
    mask = level_mask(weight, level)
    assert int((~mask).sum()) == zeros_of(level, len(values))
    if mask.any() and not mask.all():
        assert weight.abs()[mask].min() >= weight.abs()[~mask].max()
    order = np.argsort(np.abs(values), kind="stable")  # the independent computation: a stable sort
    expected = np.ones(len(values), bool)
    expected[order[: zeros_of(level, len(values))]] = False
    assert mask.tolist() == expected.tolist()


@few
@given(st.lists(st.integers(0, 2), min_size=2, max_size=30), st.integers(0, 30))
def test_mask_smallest_breaks_ties_by_position(values, zeros):
    scores = torch.tensor(values, dtype=torch.float32)
    dropped = sorted(range(len(values)), key=lambda i: (values[i], i))[: min(zeros, len(values))]
    assert (~mask_smallest(scores, zeros)).nonzero().reshape(-1).tolist() == sorted(dropped)


@few
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.sampled_from([(2, 4), (1, 4), (1, 2), (4, 8)]))
def test_nm_mask_keeps_n_of_m_along_the_input_channels(filters, groups, kernel, nm):
    n, m = nm
    weight = torch.randn(filters, groups * m, kernel, kernel)
    mask = nm_mask(weight, n, m, 1)
    for o in range(filters):
        for g in range(groups):
            for y in range(kernel):
                for x in range(kernel):
                    group = weight[o, g * m : (g + 1) * m, y, x].abs()
                    kept = mask[o, g * m : (g + 1) * m, y, x]
                    assert int(kept.sum()) == n
                    assert set(kept.nonzero().flatten().tolist()) == set(group.topk(n).indices.tolist())


@few
@given(st.lists(st.integers(1, 12), min_size=1, max_size=4), st.floats(0, 0.999))
def test_global_masks_keep_one_element_of_each_weight(sizes, level):
    scores = {str(i): torch.full((size,), float(i)) for i, size in enumerate(sizes)}
    masks = global_masks(scores, level)
    zeros = sum(int((~mask).sum()) for mask in masks.values())
    assert zeros == min(zeros_of(level, sum(sizes)), sum(sizes) - len(sizes))
    assert all(mask.any() for mask in masks.values())


def test_everything_goes_only_for_one():
    assert level_mask(torch.ones(2), 0.99).sum() == 1
    assert level_mask(torch.ones(2), 1.0).sum() == 0
    assert not global_masks({"a": torch.ones(3)}, 1.0)["a"].any()


def test_magnitude_prunes_at_or_below_the_threshold():
    before = tiny_net().conv1.weight.detach()
    run = run_one({"class": "MagnitudeParameterPruner", "thresholds": {"conv1.weight": 0.1, "conv2.weight": 0.0}})
    assert torch.equal(run.mask("conv1.weight"), before.abs() > 0.1)


def test_sensitivity_keeps_its_first_deviation():
    before = tiny_net().conv1.weight.detach()
    run = Run(one_policy("pruners", {"class": "SensitivityPruner", "sensitivities": {"conv1.weight": 0.5}}, [0, 1]))
    run.epoch(0)
    assert torch.equal(run.mask("conv1.weight"), before.abs() > 0.5 * before.std())
    now = run.parameter("conv1.weight").clone()
    run.scheduler.on_epoch_begin(1)
    assert torch.equal(run.mask("conv1.weight"), now.abs() > 0.5 * float(before.std()))


def test_splicing_brings_weights_back():
    instance = {
        "class": "SplicingPruner",
        "sensitivities": {"conv1.weight": 0.1},
        "low_thresh_mult": 0.8,
        "hi_thresh_mult": 1.2,
        "sensitivity_multiplier": 0.5,
    }
    run = Run(one_policy("pruners", instance, [0, 1], mask_on_forward_only=True, use_double_copies=True))
    weight = run.parameter("conv1.weight")
    size = weight.abs().clone()
    run.scheduler.on_epoch_begin(0)
    base = float(size.mean() + 0.1 * size.std())
    first = size >= base * 0.8
    assert torch.equal(run.mask("conv1.weight"), first)
    weight.copy_(torch.where(first, weight, weight.sign() * 10))  # all that was pruned grows large
    weight.flatten()[first.flatten().nonzero()[0]] = base  # between the thresholds: stays on
    run.scheduler.on_epoch_begin(1)
    base = float(size.mean() + 0.1 * 1.5 * size.std())
    size = weight.abs()
    expected = torch.where(size >= base * 1.2, True, torch.where(size < base * 0.8, False, first))
    assert torch.equal(run.mask("conv1.weight"), expected)
    assert run.mask("conv1.weight")[~first].all()


@pytest.mark.parametrize("threads", [1, 2])
def test_masks_of_many_weights_are_those_of_each(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    draw = torch.Generator().manual_seed(1)
    weights = {f"w{i}": torch.randint(-4, 5, (7, 3 + i), generator=draw).float() for i in range(5)}
    weights |= {
        "double": torch.randn(4, 5, generator=draw).double(),
        "half": torch.randn(4, 5, generator=draw).bfloat16(),
        "turned": torch.randint(-2, 3, (6, 4, 3, 3), generator=draw).float().to(memory_format=torch.channels_last),
        "one": torch.randn(1),
    }
    levels = dict(zip(weights, (0.0, 0.3, 0.5, 0.77, 1.0, 0.5, 0.5, 0.5, 0.4), strict=True))
    try:
        masks = level_masks(weights, levels)
    finally:
        torch.set_num_threads(before)
    assert list(masks) == list(levels)
    for name, weight in weights.items():
        scores = weight.abs().reshape(-1).float().numpy()
        expected = np.ones(scores.size, bool)  # the independent computation: a stable sort
        expected[np.argsort(scores, kind="stable")[: zeros_of(levels[name], scores.size)]] = False
        assert masks[name].reshape(-1).tolist() == expected.tolist(), name
        assert masks[name].shape == weight.shape


def test_baidu_threshold_follows_its_two_slopes():
    pruner = BaiduRNNPruner(q=0.2, ramp_epoch_offset=2, ramp_slope_mult=2.0, weights=["a"])
    window = EpochWindow.of_range(4, 10, 1)
    slope = 2 * 0.2 / (2 * 2 + 3 * 4)
    expected = [slope * 1, slope * 2, slope * (3 + 2), slope * (3 + 4), slope * (3 + 6), slope * (3 + 8)]
    assert [pruner.threshold(e, window) for e in range(4, 10)] == pytest.approx(expected)


def test_baidu_takes_the_ramp_as_an_epoch_too():
    window, weights = EpochWindow.of_range(4, 10, 1), ["a"]
    offset = BaiduRNNPruner(q=0.2, ramp_epoch_offset=2, ramp_slope_mult=2.0, weights=weights)
    epoch = BaiduRNNPruner(0.2, 2.0, weights, ramp_epoch=6, initial_sparsity=0.05, final_sparsity=0.9)
    assert [epoch.threshold(e, window) for e in range(4, 10)] == [offset.threshold(e, window) for e in range(4, 10)]
    slope = 2 * 0.2 / (2 * (6 - 8) + 3 * (20 - 6))  # a published schedule's ramp lies two epochs before its window
    late = [epoch.threshold(e, EpochWindow.of_range(8, 20)) for e in range(8, 20)]
    assert late == pytest.approx([slope * (-1 + 2 * (e - 5)) for e in range(8, 20)])
    flat = BaiduRNNPruner(0.2, 0.2, weights, ramp_epoch=1)
    with pytest.raises(ValueError, match="ramp_epoch 1 lies too far before epochs 7"):
        flat.check_window(EpochWindow.of_range(7, 9))
    for wrong in ({}, {"ramp_epoch": 1, "ramp_epoch_offset": 1}):
        with pytest.raises(ValueError, match="give ramp_epoch_offset .* or ramp_epoch"):
            BaiduRNNPruner(0.2, 2.0, weights, **wrong)
    with pytest.raises(ValueError, match=r"final_sparsity 0.1 must be above initial_sparsity 0.5"):
        BaiduRNNPruner(0.2, 2.0, weights, ramp_epoch=1, initial_sparsity=0.5, final_sparsity=0.1)


def test_baidu_ramp_after_the_end_is_refused():
    pruner = BaiduRNNPruner(q=0.2, ramp_epoch_offset=30, ramp_slope_mult=2.0, weights=["a"])
    with pytest.raises(ValueError, match="too far behind the end"):
        pruner.threshold(0, EpochWindow.of_range(0, 3))


@pytest.mark.parametrize(
    ("instance", "message"),
    [
        ({"class": "LotteryTicketPruner", "weights": ["fc.weight"]}, "would prune nothing in epoch 0"),
        (
            {
                "class": "BaiduRNNPruner",
                "q": 0.1,
                "ramp_epoch_offset": 9,
                "ramp_slope_mult": 2.0,
                "weights": ["fc.weight"],
            },
            "too far behind the end",
        ),
    ],
)
def test_windows_that_cannot_work_are_refused(instance, message):
    with pytest.raises(ScheduleError, match=message):
        Run(one_policy("pruners", instance, [0]))


@pytest.mark.parametrize("cls", ["SNIPPruner", "MovementPruner", "TaylorRankedFilterPruner"])
def test_a_frozen_weight_cannot_be_ranked_by_its_gradient(cls):
    run = Run(one_policy("pruners", {"class": cls, "weights": ["conv1.weight"], "desired_sparsity": 0.5}, [0]))
    run.net.conv1.weight.requires_grad_(False)
    with pytest.raises(UserError, match="had no gradient"):
        run.epoch(0)


def test_global_magnitude_has_one_threshold():
    net = tiny_net()
    run = run_one({"class": "GlobalMagnitudePruner", "weights": WEIGHTS, "desired_sparsity": 0.6})
    sizes = torch.cat([net.get_parameter(name).detach().abs().flatten() for name in WEIGHTS])
    threshold = sizes.sort().values[round(0.6 * len(sizes)) - 1]
    for name in WEIGHTS:
        assert torch.equal(run.mask(name), net.get_parameter(name).detach().abs() > threshold)


def test_snip_scores_are_gradient_times_weight():
    run = Run(one_policy("pruners", {"class": "SNIPPruner", "weights": WEIGHTS, "desired_sparsity": 0.5}, [0]), lr=0.0)
    run.scheduler.on_epoch_begin(0)
    assert run.scheduler.masks["fc.weight"].mask is None, "no gradients yet, no masks yet"
    run.step(0, 0)
    scores = {name: (run.parameter(name), run.scheduler.masks[name].parameter.grad) for name in WEIGHTS}
    fresh = tiny_net()
    flat = torch.cat([(fresh.get_parameter(n).detach() * grad).abs().flatten() for n, (_, grad) in scores.items()])
    threshold = flat.sort().values[round(0.5 * len(flat)) - 1]
    mask = (fresh.get_parameter("fc.weight").detach() * scores["fc.weight"][1]).abs() > threshold
    assert torch.equal(run.mask("fc.weight"), mask)


def test_movement_sums_over_all_minibatches():
    instance = {"class": "MovementPruner", "weights": ["fc.weight"], "desired_sparsity": 0.5, "batches": 3}
    run = Run(one_policy("pruners", instance, [0]), steps=3)
    moved = torch.zeros_like(run.parameter("fc.weight"))
    run.scheduler.on_epoch_begin(0)
    for step in range(3):
        before = run.parameter("fc.weight").clone()
        run.step(0, step)
        moved -= before * run.scheduler.masks["fc.weight"].parameter.grad
    expected = moved > moved.flatten().sort().values[moved.numel() // 2 - 1]
    assert torch.equal(run.mask("fc.weight"), expected)


def test_nm_pruner_masks_convolutions_and_linear_layers():
    run = run_one({"class": "NMPruner", "weights": ["conv2.weight", "fc.weight"]})
    assert (run.mask("conv2.weight").reshape(4, 2, 4, 9).sum(dim=2) == 2).all()
    assert (run.mask("fc.weight").reshape(5, 36, 4).sum(dim=2) == 2).all()
    assert torch.count_nonzero(run.parameter("fc.weight")) <= 360


def test_lottery_rewinds_what_survives():
    instance = {"class": "LotteryTicketPruner", "weights": ["*.weight"], "pruning_rate": 0.2}
    run = Run(one_policy("pruners", instance, [1, 2, 3]))
    run.epoch(0)
    saved = {name: parameter.detach().clone() for name, parameter in run.net.named_parameters()}
    run.epoch(1)
    assert run.scheduler.masks["fc.weight"].mask is None
    trained = run.parameter("fc.weight").clone()
    run.scheduler.on_epoch_begin(2, run.optimizer)
    zeros = round(0.2 * trained.numel())
    expected = trained.abs() > trained.abs().flatten().sort().values[zeros - 1]
    assert torch.equal(run.mask("fc.weight"), expected)
    assert torch.equal(run.parameter("fc.weight"), saved["fc.weight"] * expected)
    assert torch.equal(run.parameter("conv1.bias"), saved["conv1.bias"])
    assert not run.optimizer.state
    run.scheduler.on_epoch_begin(3, run.optimizer)
    assert int((~run.mask("fc.weight")).sum()) == round((1 - 0.8**2) * trained.numel())
    assert not (run.mask("fc.weight") & ~expected).any()


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (0.5, [0.5] * 5),
        ({"class": "LinearLevel", "initial_sparsity": 0.1, "final_sparsity": 0.5}, [0.1, 0.2, 0.3, 0.4, 0.5]),
        (
            {"class": "AgpLevel", "initial_sparsity": 0.0, "final_sparsity": 0.64},
            [0.64 * (1 - (1 - t / 4) ** 3) for t in range(5)],
        ),
        (
            {"class": "ExponentialLevel", "initial_sparsity": 0.0, "final_sparsity": 1 - 0.5**4},
            [0, 0.5, 0.75, 0.875, 0.9375],
        ),
        ({"class": "StepsLevel", "steps": {1: 0.25, 3: 0.75}}, [0, 0.25, 0.25, 0.75, 0.75]),
    ],
)
@pytest.mark.parametrize(
    "cls", ["SparsityLevelParameterPruner", "GlobalMagnitudePruner", "L1RankedStructureParameterPruner"]
)
def test_levels_compose_into_ranked_pruners(cls, level, expected):
    if cls == "SparsityLevelParameterPruner":
        instance = {"class": cls, "levels": {"fc.weight": level}}
    else:
        instance = {"class": cls, "weights": ["fc.weight"], "desired_sparsity": level}
    plan = Run(one_policy("pruners", instance, list(range(5)))).scheduler.preview()
    assert [row.levels["fc.weight"] for row in plan.rows] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("instance", "message"),
    [
        ({"class": "NMPruner", "weights": ["conv1.weight"]}, "3 input channels, no multiple of m = 4"),
        ({"class": "NMPruner", "weights": ["fc.bias"]}, "has no input channels"),
        ({"class": "NMPruner", "weights": ["fc.weight"], "n": 4, "m": 4}, "must be below m"),
        (
            {"class": "SplicingPruner", "sensitivities": {"*": 1.0}, "low_thresh_mult": 2.0, "hi_thresh_mult": 1.0},
            "must not be above",
        ),
        ({"class": "SNIPPruner", "weights": ["*"], "desired_sparsity": 1.5}, "given 1.5; desired_sparsity should be"),
        (
            {"class": "SNIPPruner", "weights": ["*"], "desired_sparsity": {"class": "LinearLevl"}},
            "no class|unknown class 'LinearLevl' in levels; did you mean 'LinearLevel'",
        ),
        (
            {"class": "SNIPPruner", "weights": ["*"], "desired_sparsity": {"class": "ConstantLevel", "sparsity": 2.0}},
            "given 2.0; sparsity should be a number, >= 0, <= 1",
        ),
        (
            {
                "class": "GlobalMagnitudePruner",
                "weights": ["*"],
                "desired_sparsity": {"class": "StepsLevel", "steps": {}},
            },
            "at least one epoch",
        ),
        (
            {"class": "AutomatedGradualPruner", "weights": ["*"], "initial_sparsity": 0.5, "final_sparsity": 0.4},
            "AGP only grows",
        ),
    ],
)
def test_faults_are_found_before_training(instance, message):
    with pytest.raises(ScheduleError, match=message):
        Run(one_policy("pruners", instance, [0]))


@pytest.mark.parametrize("level", [0.001, 0.4, 0.62, 0.999])
@pytest.mark.parametrize("kind", ["plain", "ties", "masked", "rows", "equal"])
def test_masks_of_large_weights_are_those_of_a_stable_sort(kind, level):
    """Large weights go through a sampled bracket; ties, zeros of an old mask and filters of other sizes change none."""
    weight = torch.randn(130, 1031, generator=torch.Generator().manual_seed(4))
    if kind == "ties":
        weight = (weight * 8).round() / 8
    elif kind == "masked":
        weight[:, ::2] = 0.0
    elif kind == "rows":
        weight *= torch.linspace(1e-3, 10.0, 130)[:, None]
    elif kind == "equal":
        weight.fill_(-0.5)

    mask = level_masks({"w": weight}, {"w": level})["w"]

    order = weight.abs().flatten().argsort(stable=True)
    expected = torch.ones(weight.numel(), dtype=torch.bool)
    expected[order[: zeros_of(level, weight.numel())]] = False
    assert torch.equal(mask, expected.reshape(weight.shape))
