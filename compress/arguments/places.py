"""Where a value stands in a document or an argument: `Path`, and how it is written."""

Path = tuple[str | int, ...]


def dotted(path: Path) -> str:
    """A path as a reader writes it: `policies[0].pruner.args`."""
    text = ""
    for part in path:
        name = str(part) if len(str(part)) <= 80 else f"{str(part)[:77]}..."
        text += f"[{name}]" if isinstance(part, int) else f".{name}" if text else name
    return text
