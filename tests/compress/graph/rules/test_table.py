"""The manual lists the operations that the table of rules knows, no more and no fewer."""

import re
from pathlib import Path

from compress.graph.pointwise import UNTAGGED
from compress.graph.rules.table import RULES

PAGE = Path(__file__).parents[4] / "docs" / "thinning.md"
INTERNAL = re.compile(r"^(_|sym_|lift_|getitem$|boundary$|pointwise$|identity$|numpy_T$)")
"""What no code calls by name, and what stands for no operation."""


def test_the_manual_lists_every_rule():
    section = PAGE.read_text().partition("## Operations that are followed")[2].partition("\n## ")[0]
    listed = set(re.findall(r"`([\w.]+)`", section.partition("\n- ")[2])) - {"pointwise"}
    known = {name for name in (*RULES, *UNTAGGED) if not INTERNAL.match(name)}
    assert listed == {name.removesuffix("_") for name in known}
