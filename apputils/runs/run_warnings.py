"""The warnings of a run, kept beside its numbers: in the checkpoint, the summary, the report and comparisons.

`RunWarnings`, a logging handler. Called by the trainer and the tester; log.txt has the same lines among others.
"""

import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

MOST = 100  # different warnings that are kept
LONGEST = 2000  # characters of one
LONGEST_SENT = (
    680  # bytes of one from a forked process: with each escaped by six, what a pipe takes whole or not at all
)
OURS = ("run", "compress", "data")  # first parts of our loggers' names


class RunWarnings(logging.Handler):
    """Gathers warnings in the order in which they are logged, each text once.

    As a context manager it listens inside the block, and in processes that are forked there: a loader's workers.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._epoch: int | None = None
        self._entries: list[dict[str, Any]] = []
        self._process = os.getpid()
        self._pipe: tuple[int, int] | None = None  # from forked processes
        self._read = b""  # the beginning of a line that has not come to its end
        self._unsent: list[bytes] = []  # lines of a forked process that found the pipe full

    @property
    def epoch(self) -> int | None:
        """That is under way, set by the loop; None outside of epochs."""
        return self._epoch

    @epoch.setter
    def epoch(self, epoch: int | None) -> None:
        """What came so far is of the epoch before."""
        self._hear()
        self._epoch = epoch

    @property
    def entries(self) -> list[dict[str, Any]]:
        """Plain data, `{"epoch": int | None, "text": str, "count": int}`."""
        self._hear()
        return self._entries

    def __enter__(self) -> "RunWarnings":
        if hasattr(os, "fork"):
            self._pipe = os.pipe()
            for end in self._pipe:
                os.set_blocking(end, False)
        logging.getLogger().addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger().removeHandler(self)
        self._hear()
        for end in self._pipe or ():
            os.close(end)
        self._pipe = None

    def emit(self, record: logging.LogRecord) -> None:
        """Takes a record of one of our loggers."""
        if record.name.partition(".")[0] not in OURS:
            return
        text = record.getMessage()[:LONGEST]
        if os.getpid() == self._process:
            self._hear()  # what a worker said before comes first
            self.add({"epoch": self._epoch, "text": text, "count": 1})
        else:
            self._send(text)

    def _send(self, text: str) -> None:
        """To the process of the run, without waiting for it: it may itself wait for this one's next sample."""
        cut = text.encode(errors="replace")[:LONGEST_SENT].decode(errors="ignore")
        self._unsent.append(json.dumps(cut, ensure_ascii=False).encode() + b"\n")
        while self._pipe is not None and self._unsent:
            try:
                os.write(self._pipe[1], self._unsent[0])
            except OSError:
                return
            self._unsent.pop(0)

    def _hear(self) -> None:
        """Takes what forked processes have sent since."""
        if self._pipe is None or os.getpid() != self._process:
            return
        while True:
            try:
                found = os.read(self._pipe[0], 2**16)
            except BlockingIOError:
                break
            self._read += found
        *lines, self._read = self._read.split(b"\n")
        for line in lines:
            self.add({"epoch": self._epoch, "text": json.loads(line), "count": 1})

    def add(self, entry: Mapping[str, Any]) -> None:
        """Counts a warning that is known, keeps a new one; of too many it keeps the number."""
        if all(entry["text"] != known["text"] for known in self._entries) and len(self._entries) >= MOST:
            entry = {"epoch": None, "text": "further warnings are in log.txt alone", "count": entry["count"]}
        for known in self._entries:
            if known["text"] == entry["text"]:
                known["count"] += entry["count"]
                return
        self._entries.append(dict(entry))

    def put_before(self, earlier: Iterable[Mapping[str, Any]]) -> None:
        """Takes over the warnings of a resumed run; one that came again since is not counted twice."""
        before = [dict(entry) for entry in earlier]
        known = {entry["text"] for entry in before}
        self._entries = before + [entry for entry in self.entries if entry["text"] not in known]


def warnings_text(entries: Sequence[Mapping[str, Any]]) -> str:
    """The warnings for a screen; '' where there are none."""
    if not entries:
        return ""
    lines = [f"  {place_of(entry)}{entry['text']}" for entry in entries]
    return "\n".join([f"warnings of this run ({len(entries)}):", *lines])


def place_of(entry: Mapping[str, Any]) -> str:
    """What stands in front of a text, such as `epoch 3, 4 times:`; empty for one that came once, outside epochs."""
    parts = [] if entry["epoch"] is None else [f"epoch {entry['epoch']}"]
    parts += [f"{entry['count']} times"] if entry["count"] > 1 else []
    return f"{', '.join(parts)}: " if parts else ""
