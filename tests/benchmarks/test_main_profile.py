"""A second of a training command counts once."""

import pytest

from benchmarks import main_profile
from tests.clock import Clock


class Loop:
    """A loss that updates another network on the way."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def loss(self, fail: bool = False) -> None:
        self.clock.sleep(2)
        self.backward()
        if fail:
            raise KeyError
        self.clock.sleep(1)

    def backward(self) -> None:
        self.clock.sleep(4)


def test_what_is_inside_another_part_counts_as_itself_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    clock.process_time = clock.perf_counter  # type: ignore[attr-defined]
    monkeypatch.setattr(main_profile, "time", clock)
    monkeypatch.setattr(main_profile, "spent", {})
    loop = Loop(clock)
    for name in ("loss", "backward"):
        main_profile.timed(loop, name, name)
    loop.loss()
    loop.backward()
    assert {name: both[0] for name, both in main_profile.spent.items()} == {"loss": 3, "backward": 8}
    with pytest.raises(KeyError):
        loop.loss(fail=True)
    assert {name: both[1] for name, both in main_profile.spent.items()} == {"loss": 5, "backward": 12}
    assert not main_profile.under_way
