"""Cells that a spreadsheet would run."""

import csv
import math
from pathlib import Path

import openpyxl
import pandas as pd
import pytest
import torch

from apputils.Classify_apputils.confusion import Confusion
from compress.analysis.workbook import write_tables
from compress.io.csv_file import harmless, write_csv, write_frame, write_records

ATTACKS = ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\tx", "\r=x", "=1", "\uff1d1"]


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize("text", ATTACKS)
def test_a_name_from_data_is_text(text: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_csv(Path("a.csv"), [text], [[text, 1]])
    write_records(Path("b.csv"), [{text: text}])
    write_frame(Path("c.csv"), pd.DataFrame({text: [text]}))
    monkeypatch.setattr(Confusion, "draw", lambda *_: None)
    Confusion((text, "b"), torch.zeros(2, 2, dtype=torch.int64)).write(Path("d"))
    for name in ("a.csv", "b.csv", "c.csv", "d/classes.csv", "d/confusion.csv"):
        cells = [cell for row in rows(Path(name)) for cell in row]
        assert f"'{text}" in cells, name
        assert text not in cells
    write_tables(Path("e.xlsx"), {text: pd.DataFrame({text: [text]})})
    sheet = openpyxl.load_workbook("e.xlsx").worksheets[0]
    assert [cell.data_type for row in sheet.iter_rows() for cell in row] == ["s", "s"]


@pytest.mark.parametrize("value", [-1.5, -3, None, math.nan, "-1.5", "+3e-5", "-inf", "plain", "a=b", ""])
def test_numbers_and_plain_text_stay(value: object) -> None:
    assert harmless(value) is value


def test_numbers_are_read_back_as_they_were(here: Path) -> None:
    table = pd.DataFrame({"a": [-0.1, 1e-300, math.nan], "b": [1, -2, 3], "c": ["x", None, "-4"]})
    write_frame(Path("a.csv"), table)
    found = pd.read_csv("a.csv")
    assert found["a"].equals(table["a"])
    assert found["b"].equals(table["b"])
