"""Reading what the analyses left in a run's folder."""

import io
import json
from pathlib import Path
from typing import Any

import pandas as pd

from compress.analysis.workbook import records
from compress.errors import UserError
from compress.io.files import read_text


def read_json(path: Path) -> Any:
    """The content of a JSON file; None if there is none.

    Raises:
        UserError: it is damaged.
    """
    try:
        return json.loads(read_text(path)) if path.exists() else None
    except (OSError, ValueError, RecursionError) as e:
        raise UserError(f"{path} cannot be read: {str(e)[:200]}; remove it, and test again") from e


def read_table(path: Path) -> list[dict[str, Any]] | None:
    """The rows of a CSV file, in which a layer may be called `0`; None if there is none.

    Raises:
        UserError: it is damaged.
    """
    try:
        return records(pd.read_csv(io.StringIO(read_text(path)), dtype={"layer": str})) if path.exists() else None
    except (OSError, ValueError, LookupError, TypeError, OverflowError, MemoryError) as e:
        raise UserError(f"{path} cannot be read: {str(e)[:200]}; remove it, and test again") from e
