"""The list of a network's weights: lines of a schedule, and those of the fused network where blocks fuse."""

import yaml

from compress.analysis.listings.weights import weight_list
from tests.compress.fusing.nets import EdgeNet
from tests.compress.harness import tiny_net


def test_the_list_can_be_pasted():
    assert yaml.safe_load(weight_list(tiny_net())) == {"weights": ["conv1.weight", "conv2.weight", "fc.weight"]}


def test_blocks_are_listed_as_they_are_and_fused():
    net = EdgeNet()
    now, _, later = weight_list(net).partition("    # from the epoch on in which Reparameterize fuses the blocks:\n")
    assert "mid.squeeze.weight" in yaml.safe_load(now)["weights"]
    assert yaml.safe_load(later)["weights"] == ["head.weight", "mid.weight", "tail.weight"]
    assert hasattr(net.mid, "squeeze")
