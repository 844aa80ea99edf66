"""What is zero everywhere is a branch that starts closed: what feeds it stays, unless masks say otherwise."""

import pytest
import torch
from torch import nn

from compress.errors import UserError
from compress.graph.calls import Unused
from compress.thinning.thin import remove_units, thin
from compress.thinning.trials.trial import prunable_graph
from compress.thinning.zeros import zero_units

X = torch.rand(2, 3, 6, 6)


class Closed(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.up = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 1)
        self.down, self.last = nn.Conv2d(6, 4, 1), nn.Conv2d(4, 2, 1)
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    def forward(self, x):
        x = self.stem(x).relu()
        return self.last(x + self.down(self.up(x).relu()))


def test_what_a_closed_branch_reads_stays_and_pruned_filters_go():
    model = Closed()
    with torch.no_grad():
        for zero in (model.up.weight, model.up.bias):
            zero[1] = 0
    assert zero_units(prunable_graph(model, X), model, X)[0] == {"up.weight[0]": [1]}
    result = thin(model, X)
    assert result.removed == {"up.weight[0]": [1]}
    assert any(note.startswith("down.weight: zero everywhere") for note in result.notes)


def test_masks_take_it_out():
    model = Closed()
    mask = torch.ones_like(model.down.weight, dtype=torch.bool)
    mask[:, :5] = False
    assert thin(model, X, {"down.weight": mask}).removed == {"up.weight[0]": [0, 1, 2, 3, 4]}


def test_what_does_not_fit_is_refused():
    model = Closed()
    graph = prunable_graph(model, X)
    for removed, match in (
        ({"up.weight[0]": 1}, "should be a list of whole numbers"),
        ({"up.weight[0]": ["a"]}, "should be a whole number"),
        ({"up.weight[0]": range(6)}, "one has to stay"),
    ):
        with pytest.raises(UserError, match=match):
            remove_units(model, graph, removed, X)
    with pytest.raises(UserError, match=r"torch\.float32; a mask is of torch\.bool"):
        thin(model, X, {"up.weight": torch.ones_like(model.up.weight)})
    assert remove_units(model, graph, {"up.weight[0]": [2, 1, 1]}, X).removed == {"up.weight[0]": [1, 2]}
    with pytest.raises(UserError, match="made before units were removed"):
        remove_units(model, graph, {"up.weight[0]": [5]}, X)


def test_lazy_modules_and_unknown_parts_are_named():
    with pytest.raises(UserError, match="'0.weight' has no sizes yet.*run the model once"):
        prunable_graph(nn.Sequential(nn.LazyConv2d(4, 3), nn.Conv2d(4, 2, 1)), X)
    with pytest.raises(UserError, match="'dwn', which is declared as unused.* did you mean 'down'"):
        prunable_graph(Closed(), [X, Unused("dwn")])


@pytest.mark.parametrize("given", ["new", "old", "none"])
def test_masks_with_a_graph_from_before_a_removal_are_refused(given):
    """The graph knows eight filters, the network has seven: no numpy of ours may stumble over that."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1)), torch.rand(2, 3, 4, 4)
    graph = prunable_graph(model, x)

    def masks(filters):
        keep = torch.ones(filters, 3, 1, 1, dtype=torch.bool)
        keep[2] = False
        return {"0.weight": keep}

    thin(model, x, masks(8), graph=graph)
    model[0].weight.data[1] = 0
    with pytest.raises(UserError, match="made before units were removed"):
        thin(model, x, {"new": masks(7), "old": masks(8), "none": None}[given], graph=graph)


def test_a_mask_of_another_library_is_named():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1))
    mask = torch.ones(8, 3, 1, 1, dtype=torch.bool).numpy()
    with pytest.raises(
        UserError, match="the mask of 0.weight is a numpy.ndarray; a mask is a torch.Tensor of torch.bo"
    ):
        thin(model, torch.rand(2, 3, 4, 4), {"0.weight": mask})
