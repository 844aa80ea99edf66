"""Records are kept, sent and shown as if they were logged here."""

import logging
import pickle

import pytest

from apputils.runs.kept_records import kept_records, show
from apputils.runs.run_warnings import RunWarnings


def test_what_is_logged_is_shown_later(caplog: pytest.LogCaptureFixture) -> None:
    logger, warnings = logging.getLogger("run"), RunWarnings()
    with caplog.at_level("INFO"), warnings:
        with kept_records() as kept:
            logger.info("%d files", 3)
            logger.warning("%s is odd", lambda: 0)  # an argument that cannot be sent
        assert not caplog.messages
        assert not warnings.entries
        show(pickle.loads(pickle.dumps(kept)))
    assert [each.levelname for each in caplog.records] == ["INFO", "WARNING"]
    assert caplog.messages[0] == "3 files"
    assert len(warnings.entries) == 1
    assert logging.getLogger().handlers


def test_handlers_come_back_after_an_error() -> None:
    before = list(logging.getLogger().handlers)
    with pytest.raises(KeyError), kept_records():
        raise KeyError
    assert logging.getLogger().handlers == before
