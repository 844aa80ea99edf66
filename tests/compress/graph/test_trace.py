"""When training mode is traced too."""

import torch
from torch import nn

from compress.graph.channels import traces_of
from compress.graph.trace import asks_for_training


class Auxiliary(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        x = self.body(x)
        return (x, self.head(x)) if self.training else x


def test_only_code_that_asks_for_training_is_traced_twice():
    plain, auxiliary = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Dropout(), nn.BatchNorm2d(4)), Auxiliary()
    assert not asks_for_training(plain)
    assert asks_for_training(nn.Sequential(auxiliary))
    assert len(traces_of(plain, torch.zeros(2, 3, 4, 4))) == 1
    assert len(traces_of(auxiliary, torch.zeros(2, 3, 4, 4))) == 2
    hidden = type("Hidden", (nn.Module,), {"forward": lambda self, x: x})  # its source cannot be had
    assert asks_for_training(hidden())
