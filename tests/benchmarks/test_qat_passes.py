"""The passes of fake quantizers over memory are those that the page on quantization states."""

from pathlib import Path

import pytest

from benchmarks.qat_passes import table
from compress.quantization.native.build import NoCompiler, compiler, options_here

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "quantization.md"


@pytest.mark.slow
def test_the_page_has_the_counted_passes() -> None:
    try:
        options_here()
        compiler()
    except NoCompiler as e:
        pytest.skip(str(e))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table().splitlines()]
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    assert ["| " + " | ".join(row) + " |" for row in rows[2:]] == [
        line for line in lines if line.startswith(("| activation, ", "| ReLU and", "| weight, "))
    ]
