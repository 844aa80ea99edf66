"""Copies of networks that keep what they have computed."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune, spectral_norm

from compress.errors import UserError
from compress.parameters import copied
from compress.quantization.post_training.quantizer import PostTrainLinearQuantizer as Ptq


class Keeps(nn.Module):
    """Holds features of its last call, in an attribute and deep in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.kept = nn.Linear(4, 4), {"features": [torch.zeros(0)]}

    def forward(self, x: Tensor) -> Tensor:
        self.last: Tensor = self.fc(x)
        self.kept["features"][0] = self.last
        return self.last


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "features": Keeps,
    "pruned by torch": lambda: nn.Sequential(prune.l1_unstructured(nn.Linear(4, 4), "weight", 0.5)),  # type: ignore[no-untyped-call]
    "spectral norm": lambda: nn.Sequential(spectral_norm(nn.Linear(4, 4))),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_what_a_network_has_computed_does_not_hinder_its_copy(kind: str) -> None:
    net, x = NETWORKS[kind](), torch.randn(3, 4)
    net(x).sum().backward()
    net.eval()
    twin = copied(net)
    torch.testing.assert_close(twin(x), net(x), rtol=0, atol=0)
    own = {id(each) for each in (*net.parameters(), *net.buffers())}
    assert not own & {id(each) for each in (*twin.parameters(), *twin.buffers())}
    if isinstance(twin, Keeps):
        assert twin.kept["features"][0] is twin.last
    quantized = Ptq().quantize(nn.Sequential(net, nn.Linear(4, 4)), [x])
    assert quantized(x).shape == (3, 4)


def test_what_cannot_be_copied_is_named() -> None:
    net: Any = nn.Linear(2, 2)
    net.steps = (each for each in range(3))
    with pytest.raises(UserError, match="Linear cannot be copied: cannot pickle 'generator' object"):
        copied(net)
