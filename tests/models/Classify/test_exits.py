"""Early exits: who leaves where, never by the label, and what it saves."""

import pytest
import torch

from compress.graph.macs.count import count_macs
from models.Classify.exits import early_logits, exit_macs, exit_table
from models.Classify.zoo import build_network


@pytest.fixture
def network() -> torch.nn.Module:
    settings = {"exits": ["layer1", "layer2"], "width_mult": 0.5}
    network = build_network("resnet20", 4, 1, 8, settings).train()
    for _ in range(3):  # statistics of the norms
        network(torch.randn(16, 1, 8, 8))
    return network.eval()


def at_all_exits(network: torch.nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    x = network.stem(images)
    first = network.layer1(x)
    second = network.layer2(first)
    return [network.exits["layer1"](first), network.exits["layer2"](second), network(images)]


@torch.no_grad()
def test_each_image_leaves_at_the_first_exit_that_is_sure(network: torch.nn.Module) -> None:
    images = torch.randn(40, 1, 8, 8)
    every = at_all_exits(network, images)
    sure = torch.stack([logits.softmax(1).amax(1) for logits in every])
    threshold = float(sure[0].median())
    logits, exits = early_logits(network, images, threshold)
    for i in range(40):
        wanted = next((k for k in (0, 1) if sure[k, i] >= threshold), 2)
        assert int(exits[i]) == wanted
        assert torch.allclose(logits[i], every[wanted][i], atol=1e-5)
    assert len(exits.unique()) > 1


def test_at_a_threshold_that_nobody_reaches_it_is_the_network_itself(network: torch.nn.Module) -> None:
    images = torch.randn(6, 1, 8, 8)
    logits, exits = early_logits(network, images, 1.1)
    assert torch.allclose(logits, network(images), atol=1e-6)
    assert exits.tolist() == [2] * 6
    assert early_logits(network, images, 0.0)[1].tolist() == [0] * 6


def test_average_macs_and_accuracy_against_counting(network: torch.nn.Module) -> None:
    images, labels = torch.randn(30, 1, 8, 8), torch.randint(0, 4, (30,))
    batches = [(images[:20], labels[:20]), (images[20:], labels[20:])]
    macs = exit_macs(network, images[:1])
    heads = [count_macs(network.exits[name], (torch.zeros(1, w, s, s),)).total for name, w, s in
             (("layer1", 8, 8), ("layer2", 16, 4))]  # fmt: skip
    assert macs[2] == count_macs(network, (images[:1],)).total + sum(heads)
    assert macs[0] < macs[1] < macs[2]
    threshold = 0.5
    row = exit_table(network, batches, torch.device("cpu"), images[:1], [threshold])[0]
    logits, exits = early_logits(network, images, threshold)
    assert row.macs == pytest.approx(sum(macs[int(e)] for e in exits) / 30)
    assert row.accuracy == pytest.approx(100 * float((logits.argmax(1) == labels).double().mean()))
    assert sum(row.left) == pytest.approx(1)


def test_in_eval_mode_the_exits_cost_nothing(network: torch.nn.Module) -> None:
    plain = build_network("resnet20", 4, 1, 8, {"width_mult": 0.5}).eval()
    image = (torch.zeros(1, 1, 8, 8),)
    assert count_macs(network, image).total == count_macs(plain, image).total
