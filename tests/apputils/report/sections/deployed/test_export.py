"""Latency beside the dense network."""

import re
from html import unescape
from pathlib import Path
from typing import Any


def test_latency_stands_beside_the_dense_networks(written: tuple[dict[str, Any], Path]) -> None:
    text = (written[1] / "report.html").read_text()
    table = text[text.index('aria-label="latency"') :].split("</table>")[0]
    assert re.findall(r"<td[^>]*>([^<]*)</td>", table)[5:] == ["net.onnx", "", "", "2.5 [2, 3]", "0.5 [0.375, 0.625]"]
    assert "<b>0.5</b> of the dense network's time<small>[0.375, 0.625] (quartiles), " in unescape(text)
    assert "Not exported: no &lt;kernel&gt;" in text
