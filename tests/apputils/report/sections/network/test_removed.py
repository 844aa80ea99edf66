"""What thinning took out, and why."""

import re
from pathlib import Path
from types import SimpleNamespace

from apputils.report.removed_units import reasons_of_removal, removed_units, unexplained
from apputils.report.sections.network.removed import Removed
from tests.apputils.report.example import REASON, RECIPES


def test_removed_units_have_the_dense_networks_numbers() -> None:
    [row] = removed_units(RECIPES)
    assert row == {"weight": "0.weight", "dimension": 0, "before": 6, "now": 2, "removed": [0, 1, 3, 4]}


def test_why_units_were_removed_is_shown_with_the_threshold() -> None:
    [row] = reasons_of_removal([RECIPES[0], {**RECIPES[1], "reasons": {"0.weight[0]": REASON}}])
    assert (row["group"], row["epoch"], row["units"], row["removed"]) == ("0.weight[0]", 2, 3, [1])
    assert (row["highest_removed"], row["lowest_kept"], row["threshold"]) == (0.25, 0.5, 0.25)
    assert unexplained([RECIPES[0], {**RECIPES[1], "reasons": {"0.weight[0]": REASON}}]) == 1
    [chart] = Removed().charts({"reasons": [row]})
    tips = re.findall(r"<title>([^<]*)</title>", chart.svg)
    assert tips == [
        "removed: 0.25 at 0",
        "kept: 0.5 at 1",
        "kept: 1 at 2",
        "threshold: 0.25 at 0",
        "threshold: 0.25 at 2",
    ]


def test_fused_blocks_are_named_and_are_no_thinning() -> None:
    recipe = {"kept": {}, "sizes": {}, "attributes": {}, "headed": [], "fused": ["body.0", "body.2"], "reasons": {}}
    source = SimpleNamespace(checkpoint={"scheduler": {"recipes": [recipe]}})
    content = Removed().collect(source)  # type: ignore[arg-type]
    assert (content["unexplained"], content["removed"]) == (0, [])
    [text] = Removed().blocks(content, Path())
    assert "single layers now: body.0, body.2." in str(text)
