"""What a table of runtimes says in words."""

from typing import Any

from compress.export.runtimes.base import milliseconds_text, wrong_of
from compress.export.runtimes.text import fastest_of, table_text, warnings_of


def row(runtime: str, network: str, low: float, ms: float | None, high: float) -> dict[str, Any]:
    return {"runtime": runtime, "network": network, "precision": "float32", "quantized": False, "ms": ms, "low": low,
            "high": high}  # fmt: skip


def test_milliseconds_are_never_powers_of_ten() -> None:
    given = (0.001234, 1.254, 99.96, 999.4, 999.6, 12345.6)
    assert [milliseconds_text(each) for each in given] == ["0.00123", "1.25", "100", "999", "1000", "12346"]
    assert milliseconds_text(1234.56, 4) == "1235"


def test_the_fastest_is_named_with_those_that_are_not_shown_to_be_slower() -> None:
    rows = [
        row("a", "dense", 8, 9, 10), row("b", "dense", 5, 6, 7), row("c", "dense", 6.5, 7.5, 8),
        row("d", "dense", 0, None, 0),
        row("a", "net", 3, 3.5, 4), row("b", "net", 4.5, 5, 5.5), row("a", "other", 1, 2, 3),
    ]  # fmt: skip
    assert fastest_of(rows) == [
        "fastest for dense: b (float32), 6 ms; no difference shown to c (float32)",
        "fastest for net: a (float32), 3.5 ms",
    ]


def whole(**changes: Any) -> dict[str, Any]:
    """A row as `measure_runtimes` gives it."""
    plain = {"bytes": 1, "max": 0.8, "mean": 1e-6, "largest": 1.0, "ratio": None, "ratio_onnxruntime": None,
             "layers": 0, "integer": None, "float_layers": [], "notes": [], "error": None, "quality": {}}  # fmt: skip
    return {**row("litert", "net", 1, 1, 1), **plain, **changes}


def test_a_row_whose_outputs_are_beyond_rounding_is_wrong_and_never_the_fastest() -> None:
    off = whole(mean=0.11)
    off["wrong"] = wrong_of(off)
    assert "11 % of the largest value, and rounding explains 0.1 %" in off["wrong"]
    rows = [off, *(whole(runtime=name, ms=ms, low=ms, high=ms) for name, ms in (("ncnn", 3), ("onnxruntime", 2)))]
    table = {"rows": rows, "how": {}, "missing": []}
    assert fastest_of(rows) == ["fastest for net: onnxruntime (float32), 2 ms"]
    assert "0.11 (wrong)" in table_text(table)
    assert "1 [1, 1] (wrong)" in " ".join(table_text(table).split())
    assert warnings_of(table) == [f"litert, net, float32: {off['wrong']}"]


def test_rounding_is_not_wrong() -> None:
    assert not wrong_of(whole(mean=1e-4))
    assert not wrong_of(whole(mean=0.03, precision="bfloat16"))
    assert not wrong_of(whole(mean=0.03, quantized=True))
    assert wrong_of(whole(mean=0.06, quantized=True))
    assert not wrong_of(whole(mean=0.06, quantized=True, runtime="ncnn"))
    assert not wrong_of(whole(mean=0.0, largest=0.0))
    assert wrong_of(whole(mean=0.1, largest=0.0))
    assert not wrong_of(whole(mean=None, largest=None))
