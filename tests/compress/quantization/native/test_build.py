"""A compiler that is absent, fails, hangs or errs; the cache. Torch's operations stay, in one line."""

import logging
import os
import sys
from pathlib import Path

import pytest
import torch

from compress.quantization.native import build, passes
from compress.quantization.native.build import CannotBuild, NoCompiler


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own, and a process that has not asked yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(passes._Known, "asked", False)
    monkeypatch.setattr(passes._Known, "passes", None)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")


def program(folder: Path, text: str) -> str:
    """A compiler of that Python code."""
    path = folder / "compiler"
    path.write_text(f"#!{sys.executable}\nimport os, sys, time, subprocess\nargs = sys.argv[1:]\n{text}\n")
    path.chmod(0o755)
    return str(path)


def needs_compiler() -> list[str]:
    try:
        return build.compiler()
    except NoCompiler as e:
        pytest.skip(str(e))


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("CC", "none-of-that-name")
    with pytest.raises(NoCompiler, match="there is no C compiler .none-of-that-name."):
        build.library()
    with caplog.at_level(logging.INFO, "compress"):
        assert passes.passes_for(torch.rand(1 << 17)) is None
        assert passes.passes_for(torch.rand(1 << 17)) is None
    (record,) = caplog.records
    assert record.levelname == "INFO"
    assert "there is no C compiler" in record.message
    assert "the numbers are the same" in record.message


def test_a_processor_of_another_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "VSX")
    monkeypatch.setattr("platform.machine", lambda: "ppc64le")
    with pytest.raises(NoCompiler, match="no vectors are known for a processor of the kind VSX"):
        build.options_here()
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert build.options_here() == build.OPTIONS


def test_the_compiler_is_the_one_that_cc_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CC", f"{program(tmp_path, '')} -m64")
    assert build.compiler() == [str(tmp_path / "compiler"), "-m64"]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "print('passes.c:1: fatal error: math.h: No such file', file=sys.stderr); sys.exit(1)",
            "math.h: No such file",
        ),
        ("sys.exit(3)", "exit status 3"),
        ("os.abort()", "exit status -6"),
        ("time.sleep(20)", "has not finished after 0 s"),
        ("open(args[args.index('-o') + 1], 'w').close()", "cannot be loaded"),
        ("pass", "cannot be run in"),
    ],
)
def test_a_compiler_that_fails_is_one_warning(
    code: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CC", program(tmp_path, code))
    monkeypatch.setattr(build, "PATIENCE", 0.2 if "sleep" in code else 60.0)
    assert passes.passes_for(torch.rand(1 << 17)) is None
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert message in record.message
    assert "the same numbers" in record.message
    assert passes.passes_for(torch.rand(1 << 17)) is None  # it is not asked again


@pytest.mark.slow
@pytest.mark.parametrize("change", ["-Dnearbyintf=floorf", "-ffast-math"])
def test_one_that_computes_something_else_is_not_used(
    change: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    command = needs_compiler()
    monkeypatch.setattr(build, "OPTIONS", (*build.OPTIONS, change))
    monkeypatch.setenv("CC", command[0])
    assert passes.passes_for(torch.rand(1 << 17)) is None
    assert "what was compiled" in caplog.text


@pytest.mark.slow
def test_compiled_once_and_again_where_the_file_is_spoilt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_compiler()
    assert build.library()[1]
    assert not build.library()[1]
    (kept,) = (tmp_path / "cache" / "compress").glob("*.so")
    other = tmp_path / "other" / "compress"  # of another path: one that is loaded stays so
    other.mkdir(parents=True)
    (other / kept.name).write_bytes(b"half a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(other.parent))
    assert build.library()[1]
    assert not build.library()[1]


@pytest.mark.slow
@pytest.mark.parametrize("spoil", ["file in the way", "writable by others"])
def test_without_a_cache_it_is_compiled_for_this_process(spoil: str, tmp_path: Path) -> None:
    needs_compiler()
    (tmp_path / "cache").mkdir()
    if spoil == "file in the way":
        (tmp_path / "cache" / "compress").touch()
    else:
        (tmp_path / "cache" / "compress").mkdir()
        os.chmod(tmp_path / "cache" / "compress", 0o777)
    assert build.library()[1]
    assert build.library()[1]
    assert not list((tmp_path / "cache").glob("compress/*"))


def test_what_cannot_be_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "compiler"
    path.write_text("no program")
    path.chmod(0o755)
    monkeypatch.setenv("CC", str(path))
    with pytest.raises(CannotBuild, match="cannot be run"):
        build.library()


def test_a_failure_is_remembered_for_a_day_and_while_the_compiler_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = tmp_path / "calls"
    code = f"open({str(calls)!r}, 'a').write('x'); print('error: no headers', file=sys.stderr); sys.exit(1)"
    monkeypatch.setenv("CC", program(tmp_path, code))
    with pytest.raises(CannotBuild, match="error: no headers$"):
        build.library()
    with pytest.raises(CannotBuild, match=r"error: no headers \(remembered; it is tried again after a day, or without"):
        build.library()
    assert calls.read_text() == "x"
    (kept,) = (tmp_path / "cache" / "compress").glob("*.failed")
    os.utime(kept, (0, 0))
    with pytest.raises(CannotBuild, match="error: no headers$"):
        build.library()
    program(tmp_path, code + "  # another one")
    with pytest.raises(CannotBuild, match="error: no headers$"):
        build.library()
    assert calls.read_text() == "xxx"
