"""What C libraries print to standard error is filtered by lines, nothing else is lost."""

import os

import pytest

from compress.analysis.drawing.native_stderr import without_lines


def test_lines_with_the_beginning_are_dropped_and_others_come_out(capfd: pytest.CaptureFixture[str]) -> None:
    with without_lines("Fontconfig warning"):
        os.write(2, b"Fontconfig warning: unknown element\nerror: something real\n")
    assert capfd.readouterr().err == "error: something real\n"


def test_they_come_out_after_an_error_too(capfd: pytest.CaptureFixture[str]) -> None:
    def fails() -> None:
        with without_lines("noise"):
            os.write(2, b"noise\nkept\n")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "kept\nafter\n"
