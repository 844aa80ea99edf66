"""When training mode is traced too."""

import pytest
import torch
from torch import nn

from compress.errors import UserError
from compress.graph.channels import traces_of
from compress.graph.trace import asks_for_training, trace_model


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


class Asks(nn.Module):
    """Looks at values, or fails by itself."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: x if x.sum() > 0 else -x, "GuardOnDataDependentSymNode"),
        (lambda x: x * float(x.mean().item()), "GuardOnDataDependentSymNode"),
        (lambda x: torch.from_numpy(x.numpy()), r"RuntimeError: .numpy\(\) is not supported"),
        (lambda x: {}["missing"], "KeyError: 'missing'"),
    ],
)
def test_what_cannot_be_traced_says_where_and_what_to_do(function, reason, capfd):
    line = function.__code__.co_firstlineno
    with pytest.raises(UserError, match=rf"Asks cannot be traced .*{reason}.* \(at .*test_trace.py:{line}\)") as caught:
        trace_model(Asks(function), torch.zeros(2, 3))
    assert "out of `forward`, or write it as `torch.where`" in str(caught.value)
    assert capfd.readouterr() == ("", "")
