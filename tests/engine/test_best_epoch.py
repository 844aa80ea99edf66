"""Which epoch is the best."""

from engine.best_epoch import EpochScore


def test_a_settled_epoch_beats_a_denser_and_better_one() -> None:
    dense = EpochScore(0, False, 0.0, 40.0)
    settled = EpochScore(9, True, 0.4, 30.0)
    assert settled.beats(dense)
    assert not dense.beats(settled)


def test_settled_epochs_are_compared_by_quality_alone() -> None:
    assert EpochScore(9, True, 0.4, 31.0).beats(EpochScore(8, True, 0.5, 30.0))


def test_before_that_the_sparsest_wins_and_then_quality() -> None:
    sparse, dense = EpochScore(1, False, 0.2, 30.0), EpochScore(2, False, 0.1, 35.0)
    assert sparse.beats(dense)
    assert EpochScore(2, False, 0.2, 31.0).beats(sparse)
