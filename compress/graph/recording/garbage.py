"""What Python's collector of garbage looks at while networks are traced and compared: `old_objects_aside`."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def old_objects_aside() -> Iterator[None]:
    """Inside, the collector leaves alone what there was before; what is made inside it collects as ever.

    A trace makes objects by the ten thousands, which starts full collections; each goes over all that torch holds, some
    400,000 objects, for a fifth of a second. Where somebody has frozen objects before, nothing is done: there is one
    place for them, and it is emptied as a whole.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
