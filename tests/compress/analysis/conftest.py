"""What drawings have drawn."""

from typing import Any

import pytest
from matplotlib.figure import Figure


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are written."""
    found: list[Figure] = []
    write = Figure.savefig

    def keep(figure: Figure, *given: Any, **named: Any) -> None:
        found.append(figure)
        write(figure, *given, **named)

    monkeypatch.setattr(Figure, "savefig", keep)
    return found
