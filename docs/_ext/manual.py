"""The Sphinx extension of this manual: pages are filled from the classes, docstrings are made readable.

Here: which event calls what. Not here: the work (pages.py, docstrings.py, sources.py).
"""

from typing import Any

import docstrings
import pages
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)


def check(app: Sphinx) -> None:
    """Warns of classes and packages without a page, and of public names without docstring; `-W` makes it an error."""
    for fault in pages.find_places(app.srcdir):
        logger.warning("%s", fault)


def fill_page(app: Sphinx, page: str, source: list[str]) -> None:
    """Replaces a page's markers."""
    source[0] = pages.fill(source[0], page)


def setup(app: Sphinx) -> dict[str, Any]:
    """Connects the events."""
    app.connect("builder-inited", check)
    app.connect("source-read", fill_page)
    app.connect("autodoc-process-docstring", docstrings.to_rst, priority=100)
    app.connect("autodoc-skip-member", docstrings.skip_field_numbers)
    app.connect("autodoc-process-signature", docstrings.plain_signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
