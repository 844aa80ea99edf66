"""Selectors that mean a shared weight or module by another name than its first one."""

from typing import Any

import pytest
import torch
from torch import nn

from compress.config import dict_config
from compress.errors import ScheduleError


class Tied(nn.Module):
    """The head's weight is the embedding's, and `last` is the linear layer `first`."""

    def __init__(self) -> None:
        super().__init__()
        self.emb, self.first, self.head = nn.Embedding(8, 4), nn.Linear(4, 4), nn.Linear(4, 8, bias=False)
        self.last, self.head.weight = self.first, self.emb.weight


@pytest.mark.parametrize(
    ("selector", "second", "first"),
    [
        ("head.weight", "head.weight", "emb.weight"),
        ("hea*.weight", "head.weight", "emb.weight"),
        ("module.head.weight", "head.weight", "emb.weight"),
        ("last.weight", "last.weight", "first.weight"),
    ],
)
@pytest.mark.parametrize("section", ["pruner", "regularizer"])
def test_the_first_name_is_given(selector: str, second: str, first: str, section: str) -> None:
    net = Tied()
    instance: dict[str, Any] = {"class": "SparsityLevelParameterPruner", "levels": {selector: 0.5}}
    if section == "regularizer":
        instance = {"class": "L1Regularizer", "reg_regims": {selector: 0.1}}
    policies = [{section: {"instance_name": "it"}, "epochs": [0]}]
    schedule = {f"{section}s": {"it": instance}, "policies": policies}
    with pytest.raises(ScheduleError, match=f"'{second}' is the same as '{first}': write that name"):
        dict_config(net, torch.optim.SGD(net.parameters(), 0.1), schedule)
