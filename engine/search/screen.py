"""What a search shows: its own lines, and not those of the runs that it trains, which are in their log files."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

OWN = "search"


def _of_the_search(record: logging.LogRecord) -> bool:
    return record.name == OWN or record.levelno >= logging.ERROR


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, the screen shows lines of the search, and errors."""
    screens = [
        each
        for each in logging.getLogger().handlers
        if isinstance(each, logging.StreamHandler) and each.stream in (sys.stdout, sys.stderr)
    ]
    for each in screens:
        each.addFilter(_of_the_search)
    try:
        yield
    finally:
        for each in screens:
            each.removeFilter(_of_the_search)
