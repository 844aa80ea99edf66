"""Files that a run writes but can do without: where one cannot be written, that is said once, and the run continues.

`SideFiles` says it, `EventFile` is what TensorBoard reads, `TextLog` is log.txt.
"""

import logging
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter

from apputils.runs.console import Printable
from compress.io.files import appending, why

logger = logging.getLogger("run")


class SideFiles:
    """What could not be written in a folder.

    Args:
        folder: named in the warning.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lost: set[str] = set()

    @contextmanager
    def writing(self, what: str) -> Iterator[None]:
        """Block in which an OSError is a warning, the first time for each `what`."""
        try:
            yield
        except OSError as e:
            self.tell(what, e)

    def tell(self, what: str, error: OSError) -> None:
        """Says once that something is not written."""
        if what not in self._lost:
            self._lost.add(what)
            logger.warning("%s cannot be written in %s: %s; the run continues without", what, self._folder, why(error))


class EventFile:
    """TensorBoard's file, written by the thread that calls, and not at all after it could not be written once.

    tensorboardX's own `SummaryWriter` hands events to a thread, and waits for ever once a full disk has ended that one.

    Args:
        folder: that takes it.
        first_step: events of earlier files of the folder are dropped from there on.
        side: takes the warning.
    """

    def __init__(self, folder: Path, first_step: int, side: SideFiles) -> None:
        self._side = side
        self._file: RecordWriter | None = None
        with self._writing():
            self._file = RecordWriter(str(folder / f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}"))
        self._write(Event(file_version="brain.Event:2"))
        self._write(Event(step=first_step, session_log=SessionLog(status=SessionLog.START)))

    def add(self, summary: Summary, step: int) -> None:
        """Adds what a function of `tensorboardX.summary` made."""
        self._write(Event(step=step, summary=summary))

    def flush(self) -> None:
        """Sees to it that what was added is on the disk."""
        with self._writing():
            if self._file is not None:
                self._file.flush()

    def close(self) -> None:
        """Ends the file."""
        self.flush()
        self._drop()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        with self._writing():
            if self._file is not None:
                self._file.write(event.SerializeToString())

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            self._drop()  # half a record stands in it: nothing behind that could be read
            self._side.tell("TensorBoard's events", e)

    def _drop(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):  # closing tries once more to write what is left
                file.close()


class TextLog(logging.FileHandler):
    """The lines of a run's log in a file, until one cannot be written.

    Args:
        path: of the file; lines are added at its end.
        side: takes the warning.
    """

    def __init__(self, path: Path, side: SideFiles) -> None:
        super().__init__(path, encoding="utf-8", delay=True)
        self.setFormatter(Printable("%(asctime)s %(levelname)s %(message)s"))
        self._path, self._side = path, side

    def _open(self) -> Any:
        """What logging calls for the stream."""
        return appending(self.baseFilename)

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a line; the file is opened for the first one."""
        try:
            super().emit(record)
        except OSError:  # of opening it, which logging does not guard
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """What logging calls inside of the `except` of a line."""
        error = sys.exception()
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        logging.getLogger().removeHandler(self)  # first: the warning is a line of the log too
        self._side.tell(self._path.name, error)

    def close(self) -> None:
        """Closes the file."""
        with suppress(OSError):
            super().close()
