"""The table of runtimes: what ran, what runs in float, what failed, what is missing."""

import json
from html import unescape
from pathlib import Path
from typing import Any

import openpyxl


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
