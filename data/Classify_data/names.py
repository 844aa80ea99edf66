"""Names of classes that a file gives: how many, of which kind, how long.

`checked_names`, `check_count`. They become layers and tables.
"""

from collections.abc import Iterable

from compress.errors import printable, shown

MOST_CLASSES, LONGEST = 65_536, 200  # characters


def check_count(count: int) -> None:
    """Refuses more classes than a network has outputs.

    Raises:
        ValueError: there are more.
    """
    if count > MOST_CLASSES:
        raise ValueError(f"it names {count:,} classes; at most {MOST_CLASSES:,} are read")


def checked_names(given: Iterable[object]) -> tuple[str, ...]:
    """Names as printable text.

    Raises:
        ValueError: they are too many, one is no text, or longer than a name is.
    """
    names = list(given)
    check_count(len(names))
    return tuple(_name(each) for each in names)


def _name(given: object) -> str:
    if not isinstance(given, str | bytes):
        raise ValueError(f"the class name {shown(given)} is no text")
    name = printable(given.decode("utf-8", "backslashreplace") if isinstance(given, bytes) else given)
    if len(name) > LONGEST:
        raise ValueError(f"the class name {shown(name)} has {len(name):,} characters; at most {LONGEST} are read")
    return name
