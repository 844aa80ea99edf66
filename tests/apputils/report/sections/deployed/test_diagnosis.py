"""Where quantization loses: suspects, the curve, the layers."""

from html import unescape
from pathlib import Path
from typing import Any


def test_suspects_come_first_then_every_layer(written: tuple[dict[str, Any], Path]) -> None:
    page = (written[1] / "report.html").read_text()
    part = unescape(page[page.index('<section id="diagnosis">') :].split("</section>")[0])
    assert "1. 2 (simulation): it is <cut off>. Remedy: a wider range." in part
    assert part.index("Remedy") < part.index("Signal to quantization noise") < part.index("Conv2d")
    assert "40.2" in part
