"""What the report says, as plain data: `report.json`."""

import time
from collections.abc import Sequence
from typing import Any

from apputils.report.section import Content, Section
from apputils.report.source import Source


def collect(source: Source, sections: Sequence[Section]) -> dict[str, Any]:
    """Which network it is about, and what each section collects.

    Raises:
        ValueError: two sections collect the same key.
    """
    checkpoint, summary = source.checkpoint, source.summary
    content = {
        "run": checkpoint["run"],
        "optform": checkpoint["optform"],
        "written": time.strftime("%Y-%m-%d %H:%M"),
        "checkpoint": summary["checkpoint"],
        "epoch": checkpoint["epoch"],
        "trained_epochs": len(checkpoint.get("history", [])),
        "planned_epochs": summary.get("planned_epochs"),
        "summary": dict(summary),
    }
    for section in sections:
        found = section.collect(source)
        if taken := sorted(content.keys() & found.keys()):
            raise ValueError(f"section {section.name} of the report: the key {taken[0]} is another section's")
        content |= found
    return content


def about(content: Content) -> str:
    """Which network of which run: the line below the page's heading."""
    trained, planned = content["trained_epochs"], content["planned_epochs"]
    more = f" and {planned} planned" if planned and planned > trained else ""
    return (
        f"{content['optform']}, {content['checkpoint']}, epoch {content['epoch']} of {trained} trained{more} "
        f"(counted from 0), written {content['written']}"
    )
