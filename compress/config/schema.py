"""The arguments that a schedule writes for a class -> checked ones, or faults at their places.

`check_arguments`; what the arguments may be is the constructor's signature, `compress.arguments.schema`.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from compress.arguments.places import Path
from compress.arguments.schema import arguments_model, faults_of_arguments
from compress.config.errors.faults import Report
from compress.errors import shown
from compress.policies.base import Policy


def check_arguments(
    target: type, given: Any, path: Path, report: Report, called: str | None = None
) -> dict[str, Any] | None:
    """Validates the arguments written for a class.

    Args:
        target: the class.
        given: what was written.
        path: where.
        report: takes the faults.
        called: the name by which the class was written, of those that it has.

    Returns:
        every argument by name, defaults filled in; None when there were faults, which are in the report.
    """
    if not isinstance(given, Mapping):
        owner = "args" if issubclass(target, Policy) else f"the arguments of {called or target.__name__}"
        report.add(f"given {shown(given)}, but {owner} are written as `name: value`", path)
        return None
    owner = "args" if issubclass(target, Policy) else called or target.__name__
    model, written = arguments_model(target), {str(key): value for key, value in given.items()}
    try:
        checked = model.model_validate(written)
    except ValidationError as e:
        for place, message in faults_of_arguments(e, written, owner, model):
            report.add(message, path + place)
        return None
    return {name: getattr(checked, name) for name in model.model_fields}
