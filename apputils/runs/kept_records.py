"""What another process logs, shown here later.

`kept_records` there, `show` here. Called where the evaluation uses two processes.
"""

import logging
import logging.handlers
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class _Keeper(logging.handlers.QueueHandler):
    """Keeps records, their texts made, so that they can be sent."""

    def enqueue(self, record: logging.LogRecord) -> None:
        """Takes one."""
        self.queue.append(record)


@contextmanager
def kept_records() -> Iterator[list[logging.LogRecord]]:
    """Inside, what is logged is kept and not shown."""
    root, kept = logging.getLogger(), list[logging.LogRecord]()
    before, root.handlers = root.handlers, [_Keeper(kept)]  # type: ignore[arg-type]
    try:
        yield kept
    finally:
        root.handlers = before


def show(records: Sequence[logging.LogRecord]) -> None:
    """Logs what was kept."""
    for record in records:
        logging.getLogger(record.name).handle(record)
