"""The table of runtimes: what ran, what runs in float, what failed, what is missing."""

import json
from html import unescape
from pathlib import Path
from typing import Any

import openpyxl

from apputils.report.sections.deployed.runtimes import Runtimes


def test_each_runtime_is_a_row_and_each_failure_a_sentence(written: tuple[dict[str, Any], Path]) -> None:
    content, folder = written
    page = (folder / "report.html").read_text()
    part = unescape(page[page.index('<section id="runtimes">') :].split("</section>")[0])
    for text in (
        "int8, rest float32", "2.5 [2, 3]", "0.50x", "2 of 3", "30.50", "2 threads each",
        "onnxruntime, <net>, int8, rest float32: 1 of 3 quantized layers run in float: <last>",
        "onnxruntime, <net>, int8, rest float32: <a note>", "openvino, <net>: it <hung>",
        "ncnn requires ncnn, not installed: pip install ncnn",
    ):  # fmt: skip
        assert text in part, text
    (sheet,) = (each for each in openpyxl.load_workbook(folder / "report.xlsx") if each.title == "runtimes")
    cells = {cell for row in sheet.iter_rows(values_only=True) for cell in row}
    assert {"runtime", "ratio_onnxruntime", "psnr", "float_layers", "error", 30.5, "<last>", "it <hung>"} <= cells
    assert content["runtimes"]["rows"] == json.loads((folder / "report.json").read_text())["runtimes"]["rows"]


def test_what_a_device_measured_is_a_table_of_its_own(tmp_path: Path) -> None:
    """One file ran there and one did not."""
    row = {"runtime": "onnxruntime", "network": "int8", "quantized": True, "precision": "float32", "bytes": 1234,
           "error": None, "ms": 1.5, "low": 1.0, "high": 2.0, "max": 0.01, "ratio": 0.25, "integer": 2,
           "layers": ["a", "b", "c"]}  # fmt: skip
    empty = dict.fromkeys(("ms", "low", "high", "max", "ratio", "integer"))
    device = {
        "machine": {"cpu": "Cortex", "machine": "arm", "cores": 4, "system": "Linux", "date": "2026-01-01 00:00"},
        "how": {"threads": 2, "rounds": 15},
        "rows": [row, {**row, **empty, "runtime": "ncnn", "error": "ncnn requires ncnn, not installed"}],
    }
    content: dict[str, Any] = {"runtimes": None, "devices": [device]}
    (table,) = Runtimes().tables(content)
    assert table.columns is not None
    texts = [[each.cell(one)[1] for each in table.columns] for one in table.rows]
    assert texts[0][-3:] == ["1.5 [1, 2]", "0.25x", "2 of 3"]
    assert texts[1][-3:] == ["ncnn requires ncnn, not installed", "", ""]
    assert "Cortex, 4 cores, 2 threads, Linux, 2026-01-01 00:00; 15 rounds in turns" in str(
        Runtimes().blocks(content, tmp_path)
    )
    content["devices"].append({**device, "machine": {**device["machine"], "name": "board"}})
    (table,) = Runtimes().tables(content)
    assert [each.head for each in table.columns or ()][:2] == ["device", "runtime"]
    assert [row["device"] for row in table.rows][1:3] == [
        "Cortex, 4 cores, 2 threads",
        "board, Cortex, 4 cores, 2 threads",
    ]
