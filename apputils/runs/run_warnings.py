"""The warnings of a run, kept beside its numbers: in the checkpoint, the summary, the report and comparisons.

`RunWarnings`, a logging handler. Called by the trainer and the tester; log.txt has the same lines among others.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

MOST = 100  # different warnings that are kept
LONGEST = 2000  # characters of one
OURS = ("run", "compress", "data")  # first parts of our loggers' names


class RunWarnings(logging.Handler):
    """Gathers warnings in the order in which they are logged, each text once.

    As a context manager it listens inside the block.

    Attributes:
        epoch: that is under way, set by the loop; None outside of epochs.
        entries: plain data, `{"epoch": int | None, "text": str, "count": int}`.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.epoch: int | None = None
        self.entries: list[dict[str, Any]] = []

    def __enter__(self) -> "RunWarnings":
        logging.getLogger().addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger().removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Takes a record of one of our loggers."""
        if record.name.partition(".")[0] in OURS:
            self.add({"epoch": self.epoch, "text": record.getMessage()[:LONGEST], "count": 1})

    def add(self, entry: Mapping[str, Any]) -> None:
        """Counts a warning that is known, keeps a new one; of too many it keeps the number."""
        if all(entry["text"] != known["text"] for known in self.entries) and len(self.entries) >= MOST:
            entry = {"epoch": None, "text": "further warnings are in log.txt alone", "count": entry["count"]}
        for known in self.entries:
            if known["text"] == entry["text"]:
                known["count"] += entry["count"]
                return
        self.entries.append(dict(entry))

    def put_before(self, earlier: Iterable[Mapping[str, Any]]) -> None:
        """Takes over the warnings of a resumed run; one that came again since is not counted twice."""
        before = [dict(entry) for entry in earlier]
        known = {entry["text"] for entry in before}
        self.entries = before + [entry for entry in self.entries if entry["text"] not in known]


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
