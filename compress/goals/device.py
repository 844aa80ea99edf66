"""Whether a file has the times of another machine that a goal's `device` needs: `problem_with_device`."""

import json
from typing import Any

from compress.export.on_device import LAYER_TABLE
from compress.io.files import read_text


def problem_with_device(file: str, runtime: str | None) -> str:
    """Why a file cannot be the clock of a goal, in words; empty where it can.

    Args:
        file: the goal's `device`.
        runtime: of the goal.
    """
    try:
        found = json.loads(read_text(file))
    except (OSError, ValueError, RecursionError) as e:
        return f"{file} cannot be read as JSON: {str(e)[:150]}"
    content: dict[str, Any] = found if isinstance(found, dict) else {}
    origin = content.get(LAYER_TABLE) if "rows" in content else content.get("origin")
    if not isinstance(origin, dict):
        return (
            f"{file} has no times of layers; python test.py --bundle=FOLDER --layer-table writes a bundle whose "
            "measure.py takes them on a device"
        )
    if origin.get("error"):
        return f"{file}: the layers were not timed: {origin['error']}"
    if origin.get("runtime") != runtime:
        return f"{file} has the times of {origin.get('runtime')}, not of {runtime}"
    return ""
