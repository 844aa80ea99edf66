"""Meetings of policies against comparing each with each."""

from collections import Counter
from types import SimpleNamespace

from hypothesis import given, settings
from hypothesis import strategies as st

from compress.epoch_window import EpochWindow
from compress.policies.overlaps import MOST_TOLD, acting_in, meetings

RANGES = st.builds(
    lambda start, length, frequency: EpochWindow.of_range(start, start + length, min(frequency, length)),
    st.integers(0, 20), st.integers(1, 12), st.integers(1, 5),
)  # fmt: skip
WINDOWS = st.lists(st.one_of(RANGES, st.lists(st.integers(0, 30), min_size=1).map(EpochWindow.of_list)), max_size=12)


@settings(max_examples=100, deadline=None)
@given(WINDOWS)
def test_which_policies_act_in_an_epoch(windows: list[EpochWindow]) -> None:
    policies = [SimpleNamespace(window=window) for window in windows]
    for epoch, found in enumerate(acting_in(policies, 35)):
        assert found == [each for each in policies if epoch in list(each.window.epochs)]


@settings(max_examples=100, deadline=None)
@given(WINDOWS, st.data())
def test_what_meets(windows: list[EpochWindow], data: st.DataObject) -> None:
    of = [data.draw(st.sets(st.sampled_from("abc"), max_size=2)) for _ in windows]
    keys = {key: [i for i, own in enumerate(of) if key in own] for key in "abc"}
    found = meetings(windows, keys)
    pairs = {
        (i, j): min(set(windows[i].epochs) & set(windows[j].epochs))
        for j in range(len(windows)) for i in range(j)
        if of[i] & of[j] and set(windows[i].epochs) & set(windows[j].epochs)
    }  # fmt: skip
    for earlier, later, key, epoch in found:
        assert pairs[earlier, later] == epoch
        assert key in of[earlier] & of[later]
    told, there = Counter(each[1] for each in found), Counter(later for _, later in pairs)
    assert told == {later: min(count, MOST_TOLD) for later, count in there.items()}


def test_thousands_that_meet_are_not_compared_with_each_other() -> None:
    class Counted(EpochWindow):
        compared = 0

        def meets(self, other: EpochWindow) -> int | None:
            Counted.compared += 1
            return super().meets(other)

    together = [Counted(range(10), 10) for _ in range(2000)]
    assert len(meetings(together, {"w": range(2000)})) == 3 * 2000 - 6
    apart = [Counted((i,), i + 1) for i in range(2000)]
    assert meetings(apart, {"w": range(2000)}) == []
    assert Counted.compared < 10 * 2000
