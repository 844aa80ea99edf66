"""Starting schedules name what can be pruned; what cannot is a comment with the reason."""

import pytest
import torch
import yaml
from torch import Tensor, nn

from compress.config import dict_config
from compress.config.templates.new_schedule import families, new_schedule
from compress.errors import UserError
from compress.graph.calls import declare_unused

IMAGE = torch.rand(2, 3, 4, 4)


class Net(nn.Module):
    """A table of positions, which has no filters; an old layer that nobody runs; a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.rand(1, 8, 4, 4))
        self.first = nn.Conv2d(3, 8, 1)
        self.one, self.two, self.three = (nn.Conv2d(8, 8, 1) for _ in range(3))
        self.last = nn.Conv2d(8, 3, 1)
        self.old = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu() + self.table
        x = self.three(self.two(self.one(x).relu()).relu()) + x
        y: Tensor = self.last(x)
        return y


def net(unused: bool = True) -> Net:
    model = Net()
    declare_unused(model, ["old"] if unused else [])
    return model


def written(family: str, model: nn.Module) -> str:
    return new_schedule(family, model, "python train.py", example_inputs=IMAGE)


@pytest.mark.parametrize("family", families())
@pytest.mark.parametrize("unused", [True, False])
def test_every_family_is_good_for_a_network_with_an_old_layer(family: str, unused: bool) -> None:
    model = net(unused)
    if not unused:  # the channels of the others may be fed to it
        model.old = nn.Linear(5, 5)
    text = written(family, model)
    dict_config(model, torch.optim.SGD(model.parameters(), 0.1), yaml.safe_load(text), IMAGE, epochs=40, strict=True)
    for line in text.splitlines():
        if "old.weight" in line:
            assert line.startswith("      # ")
            assert line.endswith("# stays: the network does not read it when it runs on the example inputs")


def test_where_filters_leave_only_those_that_can_are_active() -> None:
    lines = [line for line in written("thinning", net()).splitlines() if line.startswith("      ")]
    active = [line for line in lines if line.startswith("      - ")]
    assert active == ["      - one.weight", "      - two.weight", "      - three.weight"]
    assert "      # - first.weight" in lines  # it could, but is the first
    assert any(line.startswith("      # - table  # stays: its positions there count no channels") for line in lines)
    assert "      # - last.weight  # stays: network output" in lines


def test_if_nothing_can_leave_the_reasons_are_given() -> None:
    wanted = "thinning: of no weight of Net can filters leave the network: .* no example call reads old.weight"
    with pytest.raises(UserError, match=wanted + ".*--unused old"):
        written("thinning", net(unused=False))
    active = [line for line in written("filter", net(unused=False)).splitlines() if line.startswith("      - ")]
    assert active == ["      - one.weight", "      - two.weight", "      - three.weight"]  # zeroed in place


def test_a_network_that_cannot_be_traced_has_all_its_weights() -> None:
    text = new_schedule("thinning", net(), "python train.py", example_inputs=torch.rand(2, 7, 4, 4))
    assert "      - three.weight\n      - last.weight\n      # - old.weight\n" in text
