"""The channel graph of a network as it is now."""

import torch
from torch import nn

from compress.thinning.current import CurrentGraph
from tests.compress.thinning.blocks import Sum, conv


def test_what_was_seen_in_inference_mode_can_be_traced() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(conv(3, 4), Sum(conv(4, 4), nn.Identity()), conv(4, 4)).eval()
    current = CurrentGraph(model)
    current.watch()
    with torch.inference_mode():
        x = torch.rand(2, 3, 6, 6)
        model(x)
    assert current.inputs is not None
    assert torch.equal(current.inputs[0], x)
    assert current.get().groups
    assert not any(each.is_inference() for each in current.batch or ())
