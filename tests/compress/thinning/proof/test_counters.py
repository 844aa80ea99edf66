"""A width or a counter in a tensor of whole numbers: what it is held against stays, and what meets none goes."""

import pytest
import torch

from tests.compress.thinning.proof.nets import Two, thinned_and_trained

SLOW = pytest.mark.slow


class Counting(Two):
    """Counters as a buffer, as an attribute and two in one tensor; the width as a buffer."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.register_buffer("step", torch.tensor(0))
        self.register_buffer("steps", torch.tensor([0, 0]))
        self.register_buffer("width", torch.tensor(8))
        self.counted = torch.tensor(0)

    def between(self, y):
        return self.function(self, y)


def count_to(number):
    def switch(model):
        for tensor in (model.step, model.steps, model.counted):
            tensor.fill_(number)

    return switch


def chosen(y):
    return y.tanh() if y.shape[1] >= 8 else y.sigmoid()


STAYS = {
    "a counter and the width": lambda m, y: torch.where(m.step > y.shape[1], 2 * y, y),
    "two counters and the width": lambda m, y: torch.where(m.steps[1] > torch.tensor(y.shape[1]), 2 * y, y),
    "an attribute and the width": lambda m, y: torch.where(m.counted > m.first.out_channels, 2 * y, y),
    "the smaller one": lambda m, y: y * (1 + torch.minimum(m.steps, torch.tensor(y.shape[1])).sum().detach()),
    "the width and itself": lambda m, y: torch.where(m.counted > 20, torch.where(m.width == y.shape[1], y, 2 * y), y),
    "a divisor behind two counters": lambda m, y: torch.where(m.steps[0] > 20, y / torch.tensor(y.shape[1]), y),
    "a fraction": lambda m, y: torch.where(m.counted > 20, y / torch.tensor(float(y.shape[1])), y),
    "all of a shape": lambda m, y: torch.where(m.step > torch.tensor(y.shape)[1], 2 * y, y),
    "numel": lambda m, y: torch.where(m.step > y[0].numel() // 16, 2 * y, y),
    "another path behind two counters": lambda m, y: torch.where(m.steps[1] > 20, chosen(y), y),
    "another path behind an attribute": lambda m, y: torch.where(m.counted > 20, chosen(y), y),
}
GOES = {
    "a counter and the height": lambda m, y: torch.where(m.step > torch.tensor(y.shape[2]), 2 * y, y),
    "a shape that nobody reads": lambda m, y: (torch.tensor(y.shape), y)[1],
    "height and width of a shape": lambda m, y: y * torch.tensor(y.shape)[2:].sum() / 8,
    "counters": lambda m, y: y * (1 + m.steps.sum()) + torch.minimum(m.step, m.counted + 2),
}
QUICK = ("a counter and the width", "the smaller one", "another path behind two counters")


@pytest.mark.parametrize("case", [pytest.param(case, marks=() if case in QUICK else SLOW) for case in STAYS])
@pytest.mark.parametrize("count", [7, 2000])
def test_what_goes_by_a_counted_width_stays(case, count):
    removed, why = thinned_and_trained(Counting(STAYS[case]), switch=count_to(count))
    assert not removed
    assert "a trial without some of it" in why


@pytest.mark.parametrize("case", [pytest.param(case, marks=() if case == "counters" else SLOW) for case in GOES])
def test_what_meets_no_width_goes(case):
    assert thinned_and_trained(Counting(GOES[case]), switch=count_to(7))[0]


def test_a_number_in_a_tensor_is_named():
    _, why = thinned_and_trained(Counting(STAYS["the smaller one"]))
    assert "a number in a tensor that minimum reads follows the width: 8 becomes 7" in why
