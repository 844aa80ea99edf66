"""What fused parameters take over: masks, places in the optimizer's groups, and its state."""

import pytest
import torch
from torch import nn

from compress.errors import UserError
from compress.fusing.blocks import exchange, fusions_of
from compress.fusing.carry import carried_masks, exchange_in_optimizer, unchanged_sources
from models.blocks import EdgeBlock, RepVGGBlock
from tests.compress.fusing.nets import InPlace, images


def test_only_what_every_branch_masks_is_masked_afterwards():
    block = EdgeBlock(4, 4)
    (fusion,) = fusions_of(nn.Sequential(block)).values()
    rows = torch.tensor([True, False, True, True])
    conv = rows[:, None, None, None].expand(4, 4, 3, 3)
    assert carried_masks(fusion, {"0.conv.weight": conv}) == {}  # the other branches fill it
    masks = {
        name: rows.view(-1, *[1] * (p.dim() - 1)).expand(p.shape)
        for name, p in block.named_parameters(prefix="0")
        if not name.startswith("0.expand")
    }
    found = carried_masks(fusion, masks)
    assert torch.equal(found["0.weight"], conv)
    assert torch.equal(found["0.bias"], rows)
    assert carried_masks(fusion, {}) == {}


def test_masks_of_a_block_with_batch_norms():
    block = RepVGGBlock(4, 4)
    (fusion,) = fusions_of(nn.Sequential(block)).values()
    rows = torch.tensor([True, True, False, True])
    masks = {
        name: rows.view(-1, *[1] * (p.dim() - 1)).expand(p.shape) for name, p in block.named_parameters(prefix="0")
    }
    found = carried_masks(fusion, masks)
    assert torch.equal(found["0.weight"], rows[:, None, None, None].expand(4, 4, 3, 3))
    assert torch.equal(found["0.bias"], rows)


def test_sources_are_the_parameters_that_go_in_as_they_are():
    edge, norm, own = EdgeBlock(4, 4), RepVGGBlock(4, 4), InPlace()
    edges, norms, owns = fusions_of(nn.Sequential(edge, norm, own)).values()
    assert unchanged_sources(edges) == {"0.weight": "0.conv.weight", "0.bias": "0.conv.bias"}
    assert unchanged_sources(norms).keys() <= {"1.bias"}  # a norm's shift is the bias's, its weights are scaled
    assert unchanged_sources(owns) == {"2.deployed.weight": "2.first.weight"}


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD])
def test_the_state_taken_over_is_the_one_that_the_fused_layer_would_have_gathered(kind):
    """With learning rate 0 the fused layer, trained from the start, has seen the same gradients."""
    settings = {"lr": 0.0, **({"momentum": 0.9} if kind is torch.optim.SGD else {})}
    torch.manual_seed(0)
    wide = nn.Sequential(EdgeBlock(3, 4), nn.ReLU())
    (fusion,) = fusions_of(wide).values()
    narrow = nn.Sequential(fusion.fused, nn.ReLU())
    optimizers = [kind(net.parameters(), **settings) for net in (wide, narrow)]
    for step in range(3):
        for net, optimizer in zip((wide, narrow), optimizers, strict=True):
            optimizer.zero_grad()
            net(images(step)).square().mean().backward()
            optimizer.step()
    exchange_in_optimizer(optimizers[0], fusion, unchanged_sources(fusion))
    exchange(wide, [fusion])
    for parameter in wide.parameters():
        state, expected = optimizers[0].state[parameter], optimizers[1].state[parameter]
        assert state.keys() == expected.keys()
        for key, value in expected.items():
            assert torch.allclose(torch.as_tensor(state[key]), torch.as_tensor(value), rtol=1e-4, atol=1e-8), key


def test_groups_keep_their_kinds_and_order():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), EdgeBlock(4, 4), nn.Conv2d(4, 2, 1))
    weights = [p for p in net.parameters() if p.dim() > 1]
    others = [p for p in net.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW([{"params": weights}, {"params": others, "weight_decay": 0.0}])
    (fusion,) = fusions_of(net).values()
    exchange_in_optimizer(optimizer, fusion, {})
    exchange(net, [fusion])
    weights, others = (group["params"] for group in optimizer.param_groups)
    assert [id(p) for p in weights] == [id(net[i].weight) for i in range(3)]
    assert [id(p) for p in others] == [id(net[i].bias) for i in range(3)]


def test_named_groups_and_parameters_that_are_not_trained():
    net = nn.Sequential(EdgeBlock(3, 4), EdgeBlock(4, 4))
    named = [(f"module.{name}", p) for name, p in net.named_parameters() if name.startswith("0.")]
    optimizer = torch.optim.SGD(named, lr=0.1)
    for fusion in fusions_of(net).values():
        exchange_in_optimizer(optimizer, fusion, {})
        exchange(net, [fusion])
    (group,) = optimizer.param_groups
    assert [id(p) for p in group["params"]] == [id(net[0].weight), id(net[0].bias)]
    assert group["param_names"] == ["module.0.weight", "module.0.bias"]


def test_one_vector_for_all_parameters_is_refused():
    net = nn.Sequential(EdgeBlock(3, 4))
    (fusion,) = fusions_of(net).values()
    with pytest.raises(UserError, match="LBFGS remembers all parameters in one vector"):
        exchange_in_optimizer(torch.optim.LBFGS(net.parameters()), fusion, {})


@pytest.mark.parametrize("kind", [torch.optim.Adagrad, torch.optim.Adafactor, torch.optim.RMSprop, torch.optim.NAdam])
def test_parameters_that_start_anew_are_trained_by_every_kind(kind):
    net = nn.Sequential(RepVGGBlock(3, 4))
    optimizer = kind(net.parameters(), lr=0.01)
    for step in range(2):
        if step:
            (fusion,) = fusions_of(net).values()
            exchange_in_optimizer(optimizer, fusion, {})
            exchange(net, [fusion])
            before = net[0].weight.clone()
        net(images()).square().mean().backward()
        optimizer.step()
    assert not torch.equal(before, net[0].weight)
