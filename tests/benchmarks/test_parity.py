"""Every runtime gives what PyTorch gives, for three applications in float and int8: the page of the manual, rebuilt."""

from pathlib import Path

import pytest

from benchmarks.parity import BOUNDS, NETWORKS, bound_of, rows_of, share
from compress.export.runtimes.table import RUNTIMES
from compress.export.runtimes.text import precision_text

PAGE = Path(__file__).resolve().parents[2] / "docs" / "runtimes.md"
NAMES = ("onnxruntime", "openvino", "executorch", "litert", "ncnn")


def page() -> dict[tuple[str, str, str], list[str]]:
    """The rows of the manual: application, runtime and precision -> the other cells."""
    lines = [[cell.strip() for cell in line.strip("|\n ").split("|")] for line in PAGE.read_text().splitlines()]
    rows = [cells for cells in lines if len(cells) == 7 and cells[0] in NETWORKS]
    return {(cells[0], cells[1].split()[0], cells[2]): cells[3:] for cells in rows}


def test_the_page_has_five_runtimes_and_three_applications_within_their_bounds() -> None:
    rows = page()
    kinds = ("float32", "int8, rest float32")
    assert {(app, name, kind) for app in NETWORKS for name in NAMES for kind in kinds} <= set(rows)
    for (_, name, kind), (mean, bound, *_) in rows.items():
        assert float(mean) < float(bound)
        quantized = kind.startswith("int8")
        row = {"runtime": name, "quantized": quantized, "precision": kind.removeprefix("int8, rest ")}
        assert float(bound) == bound_of(row)
    assert max(BOUNDS.values()) < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_is_measured_again(name: str) -> None:
    reason = RUNTIMES[name].available()
    if reason:
        pytest.skip(reason)
    known = page()
    rows = list(rows_of([name]))
    assert len(rows) >= 2 * len(NETWORKS)
    for row in rows:
        assert row["error"] is None, row
        assert share(row) < bound_of(row), row
        assert (row["application"], name, precision_text(row)) in known
