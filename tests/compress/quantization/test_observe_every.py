"""Ranges that are observed in every so manyth minibatch once they are stable."""

import pytest
import torch

from compress.quantization.range_linear import RangeActivation


def trained(piece: RangeActivation, first: int, last: int) -> list[list[float]]:
    """The ranges after each minibatch of an epoch."""
    found = []
    for i in range(first, last):
        piece.begin_minibatch(i)
        piece(torch.randn(50, generator=torch.Generator().manual_seed(i)))
        found.append(piece.ranges.tolist())
    return found


def test_every_minibatch_counts_until_the_range_is_stable_then_every_fourth() -> None:
    each, fourth = (
        trained(RangeActivation(8, True, decay=0.9), 0, 40),
        RangeActivation(8, True, decay=0.9, observe_every=4),
    )
    some = trained(fourth, 0, 40)
    stable = 10  # 1 / (1 - 0.9) minibatches: their weights' sum is 1 - 0.9^10, more than 1 - 1 / e
    assert some[:stable] == each[:stable]
    assert [i for i in range(stable, 40) if some[i] != some[i - 1]] == [12, 16, 20, 24, 28, 32, 36]
    low, high, weights = some[stable - 1]
    x = torch.randn(50, generator=torch.Generator().manual_seed(12))
    share = 1 - 0.9**4  # one stands for four
    expected = [
        low + share * (float(x.min()) - low),
        high + share * (float(x.max()) - high),
        weights + share * (1 - weights),
    ]
    assert some[12] == pytest.approx(expected, rel=1e-5)


def test_a_resumed_run_observes_the_same_minibatches() -> None:
    whole = RangeActivation(8, True, decay=0.9, observe_every=4)
    trained(whole, 0, 18)
    resumed = RangeActivation(**whole.settings())
    resumed.load_state_dict(whole.state_dict())
    assert trained(resumed, 18, 30) == trained(whole, 18, 30)


def test_a_frozen_or_evaluated_range_does_not_move_and_signs_are_noted_in_evaluation() -> None:
    piece = RangeActivation(8, False, decay=0.5, observe_every=3)
    trained(piece, 0, 8)  # the last minibatch was left out
    piece.eval()
    before = piece.ranges.tolist()
    piece.check_sign(torch.tensor([-1.0]))
    piece(torch.tensor([9.0]))
    assert piece.ranges.tolist() == before
    assert piece.negative.tolist()[0]


@pytest.mark.parametrize(("observe_every", "steps"), [(8, 5), (100, 1), (4, 10)])
def test_the_average_is_as_fast_where_an_epoch_ends_between(observe_every: int, steps: int) -> None:
    piece = RangeActivation(8, True, decay=0.9, observe_every=observe_every)
    for _ in range(8):
        for i in range(steps):
            piece.begin_minibatch(i, steps)
            piece(torch.tensor([-1.0, 1.0]))
    # The weights' sum shows how many minibatches have counted, the first ones before the average was stable too.
    assert float(piece.ranges[2]) == pytest.approx(1 - 0.9 ** (8 * steps), rel=1e-5)
