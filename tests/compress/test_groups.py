"""Groups of weights: what is said of weights that have none."""

from torch import nn

from compress.groups import Tilings


def test_weights_without_groups_are_said_in_one_line_with_those_that_can() -> None:
    blocks = [layer for _ in range(6) for layer in (nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8))]
    model = nn.Sequential(*blocks)
    given = {f"{i}.weight": "Filters" for i in range(12)}
    assert Tilings().faults(model, given) == [
        "6 of 12 weights cannot be taken by Filters: 1.weight, 3.weight, 5.weight, 7.weight and 2 more; the first: "
        "'1.weight': a weight of shape (8,) has no groups of kind 'Filters'. Name those that can: 0.weight, 2.weight, "
        "4.weight, 6.weight and 2 more"
    ]
    assert Tilings().faults(model, {"1.weight": "Filters"}) == [
        "'1.weight': a weight of shape (8,) has no groups of kind 'Filters'"
    ]
    assert Tilings().faults(model, {"0.weight": "Filters"}) == []
