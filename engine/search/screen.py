"""What a search shows: its own lines and what a signal does, not those of the runs that it trains."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

SHOWN = ("search", "run.signal")


def _of_the_search(record: logging.LogRecord) -> bool:
    return record.name in SHOWN or record.levelno >= logging.ERROR


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, the screen shows lines of the search, and errors."""
    screens = [
        each
        for each in logging.getLogger().handlers
        if isinstance(each, logging.StreamHandler)
        and each.stream in (sys.stdout, sys.stderr)
        and _of_the_search not in each.filters  # inside of another such block that one ends it
    ]
    for each in screens:
        each.addFilter(_of_the_search)
    try:
        yield
    finally:
        for each in screens:
            each.removeFilter(_of_the_search)
