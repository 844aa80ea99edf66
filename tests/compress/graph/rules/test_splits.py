"""Parts of a table: what the example leaves of it another input may read, whatever stands between table and cut."""

import pytest
import torch
from torch import nn

from compress.graph.channels import channel_graph
from compress.thinning.thin import thin


class Positions(nn.Module):
    """Adds what a function makes of a table of 16 x 16 positions."""

    def __init__(self, function, *shape):
        super().__init__()
        self.first, self.last, self.function = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1), function
        self.table = nn.Parameter(torch.randn(shape or (8, 16, 16)))

    def forward(self, x):
        x = self.first(x)
        return self.last(x + self.function(self.table, x))


def cut(table, x):
    return table[..., : x.shape[2], : x.shape[3]]


PARTS = {
    "sliced": cut,
    "scaled": lambda t, x: cut(t * 2, x),
    "squashed": lambda t, x: cut(t.tanh(), x),
    "detached": lambda t, x: cut(t.detach(), x),
    "turned": lambda t, x: cut(t.transpose(1, 2), x),
    "expanded": lambda t, x: cut(t.expand(x.shape[0], -1, -1, -1), x),
    "from the end": lambda t, x: t[:, -x.shape[2] :, -x.shape[3] :],
    "from within": lambda t, x: t[:, 2 : 2 + x.shape[2], 2 : 2 + x.shape[3]],
    "flipped": lambda t, x: cut(t.flip(1), x),
    "joined": lambda t, x: cut(torch.cat([t, t], 1), x),
    "twice": lambda t, x: cut(t[:, :12], x),
    "narrow": lambda t, x: (t * 2).narrow(1, 0, x.shape[2]).narrow(2, 0, x.shape[3]),
    "scaled by the input": lambda t, x: cut(t * x.mean((2, 3), keepdim=True), x),
    "scaled by the input, to a computed bound": lambda t, x: (t * x.mean((2, 3), keepdim=True))[
        ..., : x.shape[2] * x.shape[3] // 8, : int(x.shape[3] * 1.0)
    ],
    "scaled by the input and turned": lambda t, x: (
        (t * x.mean((2, 3), keepdim=True))
        .permute(0, 2, 3, 1)
        .transpose(1, 2)[:, : int(x.shape[3] * 1.0), : int(x.shape[2] * 1.0)]
        .permute(0, 3, 2, 1)
    ),
    "a dimension taken away": lambda t, x: cut(t[None].squeeze(0), x),
    "from a list of rows": lambda t, x: torch.stack(t.unbind(1)[: x.shape[2]], 1)[..., : x.shape[3]],
}


@pytest.mark.parametrize("kind", PARTS)
def test_no_position_of_a_table_goes_although_the_example_does_not_reach_it(kind):
    graph = channel_graph(Positions(PARTS[kind]), torch.zeros(2, 3, 8, 8))
    for group in graph.groups():
        assert not group.prunable or not {("table", 1), ("table", 2)} & set(group.members), str(group)
    assert any(group.prunable for group in graph.groups_of("table", 0))  # the channels still go


@pytest.mark.parametrize("kind", ["scaled", "from the end"])
def test_zeros_behind_the_cut_are_kept_for_a_larger_image(kind):
    torch.manual_seed(0)
    model = Positions(PARTS[kind])
    with torch.no_grad():
        model.table[:, 3], model.table[..., 3] = 0, 0
        model.table[:, 12], model.table[..., 12] = 0, 0
        expected = model(torch.ones(1, 3, 14, 14))
        thin(model, torch.rand(2, 3, 8, 8))
        assert model.table.shape == (8, 16, 16)
        torch.testing.assert_close(model(torch.ones(1, 3, 14, 14)), expected)


@pytest.mark.parametrize("read", [lambda w, x: w[:8] * x + w[8:], lambda w, x: w.narrow(0, 8, 8) * x + w[:-8]])
def test_a_computed_weight_that_is_read_in_parts_and_whole_is_no_table(read):
    graph = channel_graph(Positions(lambda t, x: read(t * 2, x), 16, 1, 1), torch.zeros(2, 3, 8, 8))
    assert any(group.prunable for group in graph.groups_of("table", 0))
