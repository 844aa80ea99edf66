"""Every application of the table with its cases, which the generic tests run over.

An application's cases are the module `tests/models/<name>/cases.py`; nothing else lists applications.
"""

import importlib
from typing import Any

from options.applications import APPLICATIONS
from tests.models.cases import Cases


def cases_of(name: str) -> Cases:
    """The cases of an application."""
    try:
        module: Any = importlib.import_module(f"tests.models.{name}.cases")
    except ModuleNotFoundError as e:
        raise AssertionError(f"the application {name} has no cases: write tests/models/{name}/cases.py") from e
    found: Cases = module.CASES
    return found


CASES = {name: cases_of(name) for name in APPLICATIONS}
