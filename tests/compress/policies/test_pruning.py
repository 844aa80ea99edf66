"""The arguments of a pruning policy, each as Distiller has it."""

import pytest
import torch
from torch import nn

from compress.errors import ScheduleError, UserError
from compress.pruning.forward_watch import ForwardListener, ForwardProbe
from tests.compress.harness import Run, batch, one_policy, tiny_net

LEVEL = {"class": "SparsityLevelParameterPruner", "levels": {"fc.weight": 0.5}}
NAME = "fc.weight"


def start(instance=LEVEL, epochs=(0,), net=None, steps=4, **args) -> Run:
    """A run with one pruner, at the beginning of epoch 0."""
    run = Run(one_policy("pruners", instance, list(epochs), **args), net, steps)
    run.scheduler.on_epoch_begin(0, run.optimizer)
    return run


def zeros(run: Run) -> int:
    """How many weights are zero."""
    return int((run.parameter(NAME) == 0).sum())


def test_a_mask_outlives_its_policy():
    run = start()
    for epoch in range(3):
        run.epoch(epoch)
    assert zeros(run) == 360


def test_levels_replace_the_pruners_own():
    run = start(levels={"fc.*": 0.25})
    assert int((~run.mask(NAME)).sum()) == 180
    assert run.scheduler.preview(1).rows[0].levels == {NAME: 0.25}


def test_levels_of_other_weights_are_refused():
    with pytest.raises(ScheduleError, match=r"levels: 'conv1.weight' is none of the weights"):
        start(levels={"conv1.weight": 0.25})


def test_levels_for_a_pruner_without_levels():
    with pytest.raises(ScheduleError, match="NMPruner takes no 'levels'"):
        Run(one_policy("pruners", {"class": "NMPruner", "weights": [NAME]}, [0], levels={NAME: 0.5}))


def test_mini_batch_frequency_counts_over_epochs():
    """New masks when the minibatch is not the epoch's first and its number over all epochs divides by 3."""
    run = Run(one_policy("pruners", LEVEL, [0, 1], mini_batch_pruning_frequency=3), steps=4)
    renewed = []
    for epoch in (0, 1):
        run.scheduler.on_epoch_begin(epoch)
        for step in range(4):
            before = run.scheduler.masks[NAME].mask
            run.step(epoch, step)
            if run.scheduler.masks[NAME].mask is not before:
                renewed.append((epoch, step))
    assert renewed == [(0, 3), (1, 2)]


def test_forward_only_lets_weights_return():
    run = start(mask_on_forward_only=True)
    run.step(0, 0)
    assert zeros(run) < 360
    run.scheduler.on_minibatch_begin(0, 1, 4)
    assert zeros(run) == 360


def test_masked_gradients_keep_forward_only_weights_at_zero_without_momentum():
    run = start(mask_on_forward_only=True, mask_gradients=True)
    run.step(0, 0)
    gradient = run.scheduler.masks[NAME].parameter.grad
    assert torch.count_nonzero(gradient[~run.mask(NAME)]) == 0
    assert zeros(run) == 360


def test_mask_gradients_alone_is_refused():
    with pytest.raises(ScheduleError, match="needs mask_on_forward_only"):
        start(mask_gradients=True)


def test_double_copies_update_the_unmasked_weights():
    run = start(use_double_copies=True)
    dense = run.parameter(NAME).clone()
    run.scheduler.on_minibatch_begin(0, 0, 4)
    assert torch.equal(run.parameter(NAME), dense * run.mask(NAME))
    run.net(batch(0, 0)).square().mean().backward()
    gradient = run.scheduler.masks[NAME].parameter.grad.clone()
    run.scheduler.before_parameter_optimization(0, 0, 4, run.optimizer)
    run.optimizer.step()
    run.scheduler.on_minibatch_end(0, 0, 4)
    torch.testing.assert_close(run.parameter(NAME), dense - 0.1 * gradient)


def test_double_copies_validation_sees_masked_weights():
    run = start(use_double_copies=True)
    for step in range(4):
        run.step(0, step)
    assert zeros(run) == 360


def test_double_copies_need_the_hook():
    run = start(use_double_copies=True)
    run.scheduler.on_minibatch_begin(0, 0, 4)
    with pytest.raises(UserError, match="use_double_copies needs the hook"):
        run.scheduler.on_minibatch_end(0, 0, 4)


def test_discarded_masks_leave_nothing():
    run = start(discard_masks_at_minibatch_end=True)
    run.step(0, 0)
    assert run.scheduler.masks[NAME].mask is None


def test_first_minibatch_may_be_left_alone():
    run = start(skip_first_minibatch=True, mask_on_forward_only=True)
    run.scheduler.on_minibatch_begin(0, 0, 4)
    assert zeros(run) == 0
    run.scheduler.on_minibatch_begin(0, 1, 4)
    assert zeros(run) == 360


def test_first_minibatch_is_not_gathered_either():
    instance = {"class": "TaylorRankedFilterPruner", "weights": ["conv1.weight"], "desired_sparsity": 0.5}
    run = start(instance, skip_first_minibatch=True)
    run.step(0, 0)
    assert run.scheduler.masks["conv1.weight"].mask is None
    run.step(0, 1)
    assert run.mask("conv1.weight") is not None


def test_keep_mask_ends_forward_only_at_the_last_epoch():
    run = Run(one_policy("pruners", LEVEL, [0, 1], mask_on_forward_only=True, keep_mask=True))
    run.epoch(0)
    assert run.scheduler.masks[NAME].mask_on_forward_only
    run.epoch(1)
    assert not run.scheduler.masks[NAME].mask_on_forward_only
    run.epoch(2)
    assert zeros(run) == 360


@pytest.mark.parametrize("args", [{}, {"use_double_copies": True}, {"mask_on_forward_only": True}])
def test_late_masks_can_be_renewed_by_minibatches(args):
    instance = {"class": "SNIPPruner", "weights": [NAME], "desired_sparsity": 0.5, "batches": 2}
    run = start(instance, mini_batch_pruning_frequency=2, **args)
    masks = []
    for step in range(4):
        run.step(0, step)
        masks.append(run.scheduler.masks[NAME].mask)
    assert masks[0] is None
    assert masks[1] is not None
    assert masks[2] is masks[1]
    assert masks[3] is not masks[1]


def test_folding_ranks_filters_by_what_batch_norm_makes_of_them():
    net = tiny_net()
    net.bn2.weight.data = torch.tensor([10.0, 0.1, 10.0, 0.1])
    instance = {"class": "L1RankedStructureParameterPruner", "weights": ["conv2.weight"], "desired_sparsity": 0.5}
    run = start(instance, net=net, fold_batchnorm=True)
    assert run.scheduler.masks["conv2.weight"].mask is None, "the pairs are found in the first forward pass"
    assert run.scheduler.policies[0].awaits_masks
    run.step(0, 0)
    assert not run.scheduler.policies[0].awaits_masks
    assert run.mask("conv2.weight").flatten(1).any(dim=1).tolist() == [True, False, True, False]
    run.scheduler.on_epoch_begin(0)
    assert run.scheduler.policies[0].gathering.left == 0, "the pairs are known by now"


def test_folded_weights_are_the_folded_convolution():
    net = tiny_net()
    net.bn1.running_var.uniform_(0.5, 2)
    net.bn1.weight.data.uniform_(0.5, 2)
    instance = {"class": "MagnitudeParameterPruner", "thresholds": {"conv1.weight": 0.1, "fc.weight": 0.01}}
    run = start(instance, net=net, fold_batchnorm=True)
    plain = run.parameter("conv1.weight").clone()
    run.scheduler.on_minibatch_begin(0, 0, 4)
    net.eval()(batch(0, 0)).sum().backward()
    run.scheduler.before_parameter_optimization(0, 0, 4, run.optimizer)
    fused = torch.nn.utils.fusion.fuse_conv_bn_eval(tiny_like(net.conv1, plain).eval(), net.bn1).weight
    assert torch.equal(run.mask("conv1.weight"), fused.detach().abs() > 0.1)
    assert torch.equal(run.mask("fc.weight"), tiny_net().fc.weight.detach().abs() > 0.01)


def tiny_like(conv: nn.Conv2d, weight: torch.Tensor) -> nn.Conv2d:
    """The convolution with another weight."""
    copy = nn.Conv2d(3, 8, 3, padding=1)
    copy.weight.data = weight
    copy.bias.data = conv.bias.data
    return copy


class Sharing(nn.Module):
    """`alone` has its norm for itself; the others share the norm, weight or output, or the dimension is another."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("alone", "a", "b", "twice", "read", "kept"):
            self.add_module(name, nn.Conv2d(3, 3, 1))
            self.add_module(f"norm_{name}", nn.BatchNorm2d(3))
        self.tokens, self.norm_tokens = nn.Linear(6, 6), nn.BatchNorm1d(6)

    def forward(self, x):
        y = self.norm_alone(self.alone(x)) + self.norm_a(self.a(x)) + self.norm_a(self.b(x))
        y = y + self.norm_twice(self.twice(x)) + self.twice(y)
        read, kept = self.read(x), self.kept(x)
        y = y + self.norm_read(read) + torch.cat([read, read], 1)[:, :3] + self.norm_kept(kept)
        rows = torch.cat([y, y], 1).flatten(2)[..., :6]
        return self.norm_tokens(self.tokens(rows)), kept


def test_only_a_norm_that_is_one_layers_alone_is_folded_for_ranking():
    net = Sharing()
    watched = {name: each for name, each in net.named_parameters() if name.endswith("weight") and "norm" not in name}
    probe = ForwardProbe(net, watched, ForwardListener())
    net(torch.randn(4, 3, 6, 6))
    probe.detach()
    assert probe.norms == {"alone.weight": id(net.norm_alone.weight)}
