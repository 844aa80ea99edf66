"""Lines for long work."""

import logging
import time

import pytest

from compress.io.progress import said_when_long


def test_a_line_comes_only_where_work_takes_long(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with said_when_long("quick", 30.0):
        pass
    with said_when_long("slow", 0.01):
        until = time.monotonic() + 5.0
        while not caplog.messages and time.monotonic() < until:
            time.sleep(0.005)
    assert caplog.messages == ["slow"]
