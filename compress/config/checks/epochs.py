"""The epochs of a policy: `starting_epoch`, `ending_epoch`, `frequency`, or `epochs`.

Each key checked by itself and against the others, each fault at its key.
"""

from collections.abc import Mapping
from typing import Any

from compress.arguments.places import Path
from compress.arguments.words import should_be
from compress.config.errors.faults import Report
from compress.epoch_window import MAX_EPOCHS, EpochWindow
from compress.errors import nearest

WINDOW_KEYS = ("starting_epoch", "ending_epoch", "frequency", "epochs")
LOWEST = {"starting_epoch": 0, "ending_epoch": 1, "frequency": 1}


def window_of(entry: Mapping[str, Any], path: Path, report: Report) -> EpochWindow | None:
    """The window of a policy's keys; None when there were faults, which are in the report."""
    given = {key: entry[key] for key in WINDOW_KEYS if key in entry}
    misspelt = {key for word in entry if word not in WINDOW_KEYS for key in nearest(str(word), WINDOW_KEYS, 1)}
    if misspelt - set(given):
        return None  # reported as an unknown key
    before = len(report.faults)
    if "epochs" in given:
        _check_list(given, path, report)
    else:
        _check_range(given, path, report)
    if any(fault.fatal for fault in report.faults[before:]):
        return None
    if "epochs" in given:
        return EpochWindow.of_list(given["epochs"])
    return EpochWindow.of_range(given["starting_epoch"], given["ending_epoch"], given.get("frequency", 1))


def _check_list(given: Mapping[str, Any], path: Path, report: Report) -> None:
    epochs, path = given["epochs"], (*path, "epochs")
    if len(given) > 1:
        others = ", ".join(key for key in given if key != "epochs")
        report.add(f"both epochs and {others}; give either `epochs: [..]` or the range", path)
    elif not isinstance(epochs, list) or not epochs:
        report.add(should_be(epochs, "epochs", "list of at least one whole number, >= 0"), path)
    else:
        for i, epoch in enumerate(epochs):
            _check_number(epoch, f"epochs[{i}]", 0, (*path, i), report)


def _check_range(given: Mapping[str, Any], path: Path, report: Report) -> None:
    missing = [key for key in ("starting_epoch", "ending_epoch") if key not in given]
    if missing:
        message = (
            f"{' and '.join(missing)} missing: say when it acts, by starting_epoch (inclusive), ending_epoch "
            "(exclusive) and frequency, or by `epochs: [..]`"
        )
        report.add(message, path)
    good = [_check_number(given[key], key, LOWEST[key], (*path, key), report) for key in given]
    if missing or not all(good):
        return
    start, end, frequency = given["starting_epoch"], given["ending_epoch"], given.get("frequency", 1)
    if end <= start:
        message = f"given {end}; ending_epoch (exclusive) should be above starting_epoch, {start}: it would never act"
        report.add(message, (*path, "ending_epoch"))
    elif frequency > end - start:
        message = f"given {frequency}, but the range has {end - start} epochs, so it acts once, in epoch {start}"
        report.add(message, (*path, "frequency"), fatal=False)


def _check_number(value: Any, name: str, lowest: int, path: Path, report: Report) -> bool:
    if not _is_whole(value) or value < lowest:
        counted = "" if name == "frequency" else "; epochs are counted from 0"
        report.add(should_be(value, name, f"whole number, >= {lowest}") + counted, path)
    elif value > MAX_EPOCHS:
        report.add(f"given {value}; {name} should be at most {MAX_EPOCHS}, the longest run there is", path)
    else:
        return True
    return False


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
