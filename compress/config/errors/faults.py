"""Every fault of a document, gathered: `Report`.

Places and order.
"""

import re

from compress.arguments.places import Path, dotted
from compress.config.loader import Document
from compress.errors import Fault


class Report:
    """Gathers every fault of a document, each with its place."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.faults: list[Fault] = list(document.faults)

    def add(self, message: str, path: Path, fatal: bool = True) -> None:
        """Notes one fault at a path; `fatal=False` is a warning."""
        self.faults.append(Fault(message, self.document.where(path), dotted(path), fatal))

    def in_order(self) -> list[Fault]:
        """The faults in the order of the file."""
        return sorted(self.faults, key=lambda fault: [int(n) for n in re.findall(r":(\d+)", fault.where)[-2:]])

    @property
    def fatal(self) -> bool:
        """Whether anything noted so far stops the run."""
        return any(fault.fatal for fault in self.faults)
