"""The manual's page of costs is what benchmarks/costs.json says, and intervals decide its words."""

import json
from pathlib import Path

import pytest

from benchmarks import costs

MEASURED = "100 images: the test part of here (classes a, b)"


def content() -> dict[str, object]:
    """Of a compare.json with a dense network, one that is worse, and one of which nothing is shown."""
    row = {"parameters": 1000, "macs": 5000, "effective_macs": 5000, "sparsity": 0.0, "file_bytes": None, "seeds": None}
    row |= {"top1": 90.0, "top1_deviation": None, "bitops": None}
    less = {"parameters": 1000, "effective_macs": 1000, "sparsity": 0.8, "file_bytes": 4321, "seeds": 3}
    rows = [row | {"name": "dense"}, row | less | {"name": "sparse", "top1": 88.0, "top1_deviation": 0.5}]
    rows.append(row | {"name": "int8", "top1": 90.1})
    facts = {"than": "dense", "metric": "top1", "images": 100, "paired": True}
    differences = [
        facts | {"name": "sparse", "mean": -2.0, "low": -3.0, "high": -1.0, "seeds": 3, "finding": "worse by 2.00 %"},
        facts | {"name": "int8", "mean": 0.1, "low": -0.2, "high": 0.4, "seeds": 1, "finding": "no difference shown"},
        facts | {"name": "int8", "metric": "top5", "mean": 0.1, "low": 0, "high": 0, "seeds": 1, "finding": ""},
    ]
    return {"metrics": {"top1": True, "top5": True}, "measured_on": MEASURED, "rows": rows, "differences": differences}


def test_the_page_is_made_of_the_data() -> None:
    tables = json.loads(costs.DATA.read_text(encoding="utf-8"))
    text = costs.PAGE.read_text(encoding="utf-8")
    assert costs.page(text, tables) == text, "write it anew: python benchmarks/costs.py"


def test_rows_have_seeds_intervals_and_what_is_zero() -> None:
    lines = costs.table("Pruning", costs.taken_from(content())).splitlines()
    assert lines[0] == "## Pruning"
    assert lines[2] == "Measured on 100 images: the test part of here."
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[-3:]]
    assert rows[0] == ["`dense`", "1", "90.00", "0", "1,000", "5,000", "0 %", "none"]
    assert rows[1] == [
        "`sparse`", "3", "88.00 (deviation 0.50)", "worse by 2.00 % (-3.00 to -1.00)", "1,000",
        "5,000 (1,000 not zero)", "80 %", "4,321",
    ]  # fmt: skip
    assert rows[2][3] == "no difference shown (-0.20 to +0.40)"


def test_main_keeps_other_titles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "DATA", tmp_path / "costs.json")
    monkeypatch.setattr(costs, "PAGE", tmp_path / "costs.md")
    costs.PAGE.write_text(f"# Costs\n\n{costs.BEGIN}\n\nold\n\n{costs.END}\n\nend\n")
    file = tmp_path / "compare.json"
    file.write_text(json.dumps(content()))
    costs.main([f"A={file}"])
    costs.main([f"B={file}"])
    text = costs.PAGE.read_text()
    assert text.index("## A") < text.index("## B") < text.index("end\n")
    assert "old" not in text
    with pytest.raises(SystemExit, match="give TITLE=FILE"):
        costs.main(["nowhere.json"])
