"""What quality was measured on, in words; the facts are those of `data/measured.py`."""

from collections.abc import Mapping
from typing import Any


def measured_words(facts: Mapping[str, Any]) -> str:
    """`4 images: the validation part of the embedded photographs`."""
    if facts["images"] is None:
        return "data of the caller's own"
    count = f"{facts['images']:,} image{'' if facts['images'] == 1 else 's'}"
    if facts.get("data") is None:
        return count
    where = facts["data"] if facts["part"] == "whole" else f"the {facts['part']} part of {facts['data']}"
    return f"{count}: {where}"
