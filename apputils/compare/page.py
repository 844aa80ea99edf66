"""`compare.html`: one file that needs nothing else, in the report's looks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apputils.compare.sections import SECTIONS
from apputils.report.page import Head
from apputils.report.page import render as render_page


def render(content: Mapping[str, Any]) -> str:
    """The page of what `compared` gave."""
    title = f"{content['optform']}: {len(content['rows'])} networks side by side"
    about = f"measured on {content['measured_on']}; written {content['written']}"
    return render_page(Head(title, title, about), content, SECTIONS, Path())
