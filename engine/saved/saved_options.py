"""The options in a checkpoint, as this version of the bench takes them.

`usable`. A checkpoint may be of a version with other options, or come from anyone.
"""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Annotated, Any, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from compress.errors import UserError, shown
from options.option import former_names

logger = logging.getLogger("run")
BOUNDS = {"minimum": "ge", "maximum": "le", "above": "gt", "below": "lt"}  # of an option -> of pydantic
MOST_SHOWN = 6


def usable(saved: Mapping[str, Any], kind: type, run: str) -> dict[str, Any]:
    """Those of the saved options that there are here; the others are named in a warning.

    Args:
        saved: name -> value.
        kind: the dataclass of the options.
        run: named in messages.

    Raises:
        UserError: values are not what the options may have, all of them in one message.
    """
    fields = {field.name: field for field in dataclasses.fields(kind) if "help" in field.metadata}
    saved = {former_names(kind).get(name, name): value for name, value in saved.items()}
    unknown = [str(name) for name in saved if name not in fields]
    if unknown:
        names = _some([shown(name) for name in unknown])
        logger.warning("the run %s has options that this version lacks, which are left out: %s", run, names)
    hints = get_type_hints(kind)
    known = {name: value for name, value in saved.items() if name in fields}
    faults = [
        f"{name} is {shown(value)}: {fault}"
        for name, value in known.items()
        if (fault := _fault(value, hints[name], fields[name].metadata))
    ]
    if faults:
        raise UserError(f"the run {run} cannot continue: options in its checkpoint cannot be: {_some(faults)}")
    return known


def _fault(value: Any, hint: Any, metadata: Mapping[str, Any]) -> str | None:
    """What is wrong with a value; None if nothing is."""
    if value is None:
        return None if type(None) in getattr(hint, "__args__", ()) else "it must have a value"
    bounds = {BOUNDS[name]: bound for name, bound in metadata["bounds"].items() if bound is not None}
    finite = {"allow_inf_nan": False} if hint is float else {}
    try:
        TypeAdapter(Annotated[hint, Field(**bounds, **finite)], config=ConfigDict(strict=True)).validate_python(value)
    except ValidationError as e:
        return e.errors()[0]["msg"][:120]
    choices = metadata["choices"]
    return f"it must be one of {', '.join(map(str, choices))}" if choices is not None and value not in choices else None


def _some(words: list[str]) -> str:
    more = f" and {len(words) - MOST_SHOWN} more" if len(words) > MOST_SHOWN else ""
    return "; ".join(words[:MOST_SHOWN]) + more
