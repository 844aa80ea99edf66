"""The collector of garbage while networks are traced: `old_objects_aside`."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from compress.graph.recording.garbage import old_objects_aside


@pytest.fixture(autouse=True)
def nothing_frozen() -> Iterator[None]:
    """What imports of another test froze (`apputils.runs.lasting_imports`) is thawed meanwhile."""
    frozen = gc.get_freeze_count()
    gc.unfreeze()
    yield
    gc.unfreeze()
    if frozen:
        gc.freeze()


class Knot:
    """Refers to itself, so that only the collector can free it."""

    def __init__(self) -> None:
        self.itself = self


def test_what_was_there_is_left_alone_and_what_is_made_inside_is_collected() -> None:
    with old_objects_aside():
        assert gc.get_freeze_count() > 1000
        knot = weakref.ref(Knot())
        gc.collect()
        assert knot() is None
    assert gc.get_freeze_count() == 0


def test_inside_each_other_and_after_an_error() -> None:
    @old_objects_aside()
    def fails() -> None:
        with old_objects_aside():
            pass
        assert gc.get_freeze_count() > 1000
        raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        fails()
    assert gc.get_freeze_count() == 0


def test_objects_that_others_froze_stay_frozen() -> None:
    gc.freeze()
    try:
        count = gc.get_freeze_count()
        with old_objects_aside():
            pass
        assert gc.get_freeze_count() >= count - 10  # what dies in between counts no longer
    finally:
        gc.unfreeze()
