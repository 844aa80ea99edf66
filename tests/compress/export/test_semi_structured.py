"""2:4 weights: recognised everywhere, multiplied sparsely on CUDA."""

import pytest
import torch
from torch import nn

from compress.config import dict_config
from compress.errors import UserError
from compress.export.semi_structured import is_two_of_four, to_semi_structured


def pruned(width: int = 8) -> nn.Sequential:
    net = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
    schedule = {
        "pruners": {"it": {"class": "NMPruner", "weights": ["0.weight"]}},
        "policies": [{"pruner": {"instance_name": "it"}, "epochs": [0]}],
    }
    scheduler = dict_config(net, torch.optim.SGD(net.parameters(), 0.1), schedule)
    scheduler.on_epoch_begin(0)
    scheduler.on_minibatch_begin(0, 0, 1)
    return net


def test_the_pruners_weights_are_recognised() -> None:
    net = pruned()
    assert is_two_of_four(net[0].weight)
    assert not is_two_of_four(net[2].weight)
    assert not is_two_of_four(torch.zeros(2, 6))
    assert not is_two_of_four(torch.zeros(2, 4, 1, 1))


def test_without_the_hardware_it_says_so_and_leaves_the_model() -> None:
    net = pruned()
    before = net[0].weight.detach().clone()
    with pytest.raises(UserError, match=r"need a CUDA device .* the model is on cpu"):
        to_semi_structured(net)
    assert torch.equal(net[0].weight, before)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_cuda_the_outputs_agree_and_the_speed_is_told() -> None:
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("compute capability below 8.0")
    net = pruned(256).cuda()
    with pytest.raises(UserError, match="need float16 or bfloat16"):
        to_semi_structured(net)
    net = net.half()
    inputs = torch.randn(128, 256, device="cuda", dtype=torch.half)
    expected = net(inputs)
    rows = to_semi_structured(net)
    assert [row.name for row in rows] == ["0"]
    assert min(rows[0].dense, rows[0].sparse) > 0
    torch.testing.assert_close(net(inputs), expected, rtol=1e-2, atol=1e-2)
