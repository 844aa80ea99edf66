"""`write_report`: report.html, report.xlsx and report.json of a run. Called by the tester, after the analyses."""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from apputils.report.book import write_book
from apputils.report.content import about, collect
from apputils.report.page import Head, render
from apputils.report.section import Section
from apputils.report.section_list import SECTIONS
from apputils.report.source import Source
from compress.analysis.macs.layers import MacsTable
from compress.errors import UserError
from compress.io import files

logger = logging.getLogger("run")


def write_report(
    folder: Path,
    checkpoint: Mapping[str, Any],
    summary: Mapping[str, Any],
    dense: MacsTable,
    sections: Sequence[Section] = SECTIONS,
) -> dict[str, Any]:
    """Writes the report of an evaluated network to its folder, such as results/<run>/.

    Args:
        folder: what the analyses left there is taken in.
        checkpoint: of the evaluated network.
        summary: of the evaluation.
        dense: cost of the network before anything was removed.
        sections: of the page, the workbook and the data, in their order.

    Returns:
        What `report.json` holds.

    Raises:
        UserError: a file cannot be written.
    """
    content: dict[str, Any] = finite(collect(Source(folder, checkpoint, summary, dense), sections))
    write_text(folder / "report.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    write_book(folder / "report.xlsx", content, sections)
    head = Head(f"{content['run']}: report", content["run"], about(content))
    write_text(folder / "report.html", render(head, content, sections, folder))
    logger.info("the report: %s/report.html (and .xlsx, .json)", folder)
    return content


def finite(value: Any) -> Any:
    """Plain data as JSON has it: NaN and infinity are None, tuples lists."""
    if isinstance(value, Mapping):
        return {str(name): finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_text(path: Path, text: str) -> None:
    """Writes a text file, whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    try:
        files.write_text(path, text)
    except OSError as e:
        raise UserError(f"{path} could not be written: {files.why(e)}") from e
