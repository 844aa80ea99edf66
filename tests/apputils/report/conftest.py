"""The report of the example, written once for all tests of this folder."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.apputils.report.example import network, write_example


@pytest.fixture(scope="package")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, Any], Path]]:
    """A run with every analysis, one image, one sensitivity record and one export report; made once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place := tmp_path_factory.mktemp("run"))
        content, folder = write_example(network())
        yield content, place / folder
