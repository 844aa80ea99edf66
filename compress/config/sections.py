"""The top level of a schedule: which sections there are, and that each has its form.

`check_sections`.
"""

from collections.abc import Mapping
from typing import Any

from compress.config.errors.faults import Report
from compress.config.families import FAMILIES
from compress.epoch_window import MAX_EPOCHS
from compress.errors import did_you_mean, nearest, shown

SECTIONS = tuple(family.section for family in FAMILIES)
QUANTIZE_AFTER = "quantize_after_training"
TOP_LEVEL = ("version", *SECTIONS, "policies", "fine_tuning_epochs", "goals", QUANTIZE_AFTER)


def check_sections(data: Any, report: Report) -> dict[str, Any]:
    """The known sections of the document, each of the right form; the rest is reported.

    A misspelt section is reported and then read as the one that it is nearest to, so that its own faults show too. A
    section of a wrong form is None.
    """
    if not isinstance(data, Mapping):
        kind = "text" if isinstance(data, str) else type(data).__name__
        found = "is empty" if data is None else f"holds {kind} {shown(data)}"
        report.add(f"the schedule {found}; it should hold sections such as 'pruners' and 'policies'", ())
        return {}
    sections: dict[str, Any] = {}
    for key, value in data.items():
        name = key if key in TOP_LEVEL else _meant(str(key), data)
        if name != key:
            report.add(f"unknown section {shown(key)}; {did_you_mean(str(key), TOP_LEVEL)}", (str(key),))
        if name is not None:
            report.document.rename(str(key), name)
            sections[name] = value if _has_form(name, value, report) else None
    if "policies" not in sections:
        report.add("there is no section 'policies', so nothing of this schedule would ever act", ())
    elif sections["policies"] == [] and QUANTIZE_AFTER not in sections:
        report.add("the list is empty, so nothing of this schedule ever acts", ("policies",), fatal=False)
    return sections


def _meant(key: str, data: Mapping[Any, Any]) -> str | None:
    return next((name for name in nearest(key, TOP_LEVEL, 1) if name not in data), None)


def _has_form(name: str, value: Any, report: Report) -> bool:
    """Whether a section's value has its form; a fault is reported."""
    if name == "version":
        wrong = "" if value == 1 else f"given {shown(value)}; this bench reads version 1"
    elif name == "fine_tuning_epochs":
        good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_EPOCHS
        most = f"; at most {MAX_EPOCHS:,}, the longest run there is"
        wrong = "" if good else f"given {shown(value)}; it should be a whole number of epochs, 0 or more{most}"
    elif name == "goals":
        wrong = "" if isinstance(value, list) else _not(value, name, "a list of goals, each begins with '- {metric: '")
    elif name == QUANTIZE_AFTER:
        wrong = "" if isinstance(value, str) else _not(value, name, "the name of an instance of `quantizers`")
    elif name == "policies":
        wrong = "" if isinstance(value, list) else _not(value, name, "a list of policies, each begins with '- '")
    else:
        good = isinstance(value, Mapping)
        wrong = "" if good else _not(value, name, "instances, `NAME: {class: CLASS, ...}`")
    if wrong:
        report.add(wrong, (name,))
    return not wrong


def _not(value: Any, name: str, form: str) -> str:
    if value is None:
        return f"the section is empty, but {name!r} holds {form}; leave it out if it has none"
    return f"given {shown(value)}, but section {name!r} holds {form}"
