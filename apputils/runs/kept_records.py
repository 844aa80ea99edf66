"""What another process logs, shown here later.

`kept_records` there, `show` here. Called where the evaluation uses two processes.
"""

import logging
import logging.handlers
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from queue import SimpleQueue


class _Keeper(logging.handlers.QueueHandler):
    """Keeps records, their texts made, so that they can be sent."""

    def __init__(self) -> None:
        super().__init__(SimpleQueue())
        self.kept: list[logging.LogRecord] = []

    def enqueue(self, record: logging.LogRecord) -> None:
        """Takes one."""
        self.kept.append(record)


@contextmanager
def kept_records() -> Iterator[list[logging.LogRecord]]:
    """Inside, what is logged is kept and not shown."""
    root, keeper = logging.getLogger(), _Keeper()
    before, root.handlers = root.handlers, [keeper]
    try:
        yield keeper.kept
    finally:
        root.handlers = before


def show(records: Sequence[logging.LogRecord]) -> None:
    """Logs what was kept."""
    for record in records:
        logging.getLogger(record.name).handle(record)
