"""Files that are none (FIFOs, sockets, devices, folders), writing whole or not at all, and one opener for the tree."""

import ast
import errno
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from compress.io.files import (
    NotRegular,
    appending,
    check_folder,
    check_place,
    checked,
    opened,
    read_bytes,
    read_text,
    replacing,
    why,
    write_text,
)  # fmt: skip

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(params=["fifo", "socket", "folder", "device", "zero"])
def odd(request: pytest.FixtureRequest, here: Path) -> Iterator[Path]:
    """Something under a file's name that is not a file, and would be waited for, or read, for ever."""
    path, opened_socket = here / "odd.txt", socket.socket(socket.AF_UNIX)
    if request.param == "fifo":
        os.mkfifo(path)
    elif request.param == "socket":
        opened_socket.bind("odd.txt")
    elif request.param == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if request.param == "zero" else "/dev/tty")
    yield path
    opened_socket.close()


@pytest.mark.parametrize("use", [opened, checked, read_bytes, read_text, appending, check_place, replacing_once := (
    lambda path: write_text(path, "text")
)])  # fmt: skip
def test_what_is_no_file_is_refused_at_once(odd: Path, use: Callable[[Path], object]) -> None:
    with pytest.raises(NotRegular, match="it is a (FIFO|socket|folder|device), and a regular file is needed"):
        use(odd)
    assert odd.exists()  # and stays


def test_a_loop_of_links_a_long_name_and_a_file_in_the_way(here: Path) -> None:
    Path("loop").symlink_to("loop")
    Path("file").write_text("")
    for path, number in (("loop", errno.ELOOP), ("a" * 300, errno.ENAMETOOLONG), ("file/inner", errno.ENOTDIR)):
        for use in (
            opened,
            check_place,
            lambda path: write_text(path, ""),
            lambda path: check_folder(Path(path) / "x"),
        ):
            with pytest.raises(OSError) as e:  # noqa: PT011
                use(path)
            assert e.value.errno == number, (path, use)
            assert path[:50] in why(e.value)


def test_a_file_is_written_whole_or_not_at_all(here: Path) -> None:
    write_text("new/deep/a.txt", "ä\r\nb")
    assert Path("new/deep/a.txt").read_bytes() == "ä\r\nb".encode()
    assert read_text("new/deep/a.txt") == "ä\nb"  # as text is read everywhere

    def fail() -> None:
        with replacing("new/deep/a.txt") as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert [path.name for path in Path("new/deep").iterdir()] == ["a.txt"]
    assert read_text("new/deep/a.txt") == "ä\nb"


def test_a_file_is_read_up_to_its_bound(here: Path) -> None:
    Path("a").write_bytes(b"x" * 100)
    assert read_bytes("a", 100) == b"x" * 100
    with pytest.raises(OSError, match="more than 99 bytes"):
        read_bytes("a", 99)


BY_NUMBER = ("os.open", "os.fdopen")  # of pipes that the module made
READERS = {  # what opens a file -> where it may stand, each with a path that `checked` has seen or an open file
    "open": {"compress/io/files.py"},
    "os.open": {"compress/io/files.py", "compress/io/terminal.py", "apputils/checkpoints/file.py"},
    "torch.load": {"apputils/checkpoints/file.py", "compress/integrations/transformers.py", "compress/export/pt2.py"},
    "torch.export.load": {"compress/export/pt2.py", "compress/export/decomposed.py"},
    "np.load": {"data/Classify_data/formats/arrays.py"},
    "np.memmap": set(), "np.fromfile": set(), "np.loadtxt": set(), "np.genfromtxt": set(),
    "os.fdopen": {"compress/export/onnx/crash_guard.py"},
    "io.open": set(), "h5py.File": {"data/Classify_data/formats/arrays.py"},
    "Image.open": {"data/images.py", "apputils/report/images.py", "data/Restore_data/degradations.py"},
    "zipfile.ZipFile": {"compress/io/archive_limits.py", "compress/export/pt2.py"},
    "gzip.open": set(), "tarfile.open": set(),
    "pd.read_csv": {"compress/analysis/activations/statistics.py", "apputils/report/records.py"},
    "pd.read_excel": set(),
    "onnx.load": {
        "compress/export/exported_model.py", "compress/export/onnx/export.py", "compress/export/onnx/check.py"},
    "runtime.InferenceSession": {"compress/export/onnx/session.py", "compress/export/layer_times.py"},
    "openpyxl.load_workbook": set(),
}  # fmt: skip
SAFE = ("checked", "file", "archive", "io.StringIO", "io.BytesIO", "content")  # a checked path, an open file, bytes
# Run by themselves, on files of their own folder.
ALONE = ("compress/export/on_device.py", "compress/export/layer_times.py", "compress/export/runtimes/")
TEXT_METHODS = {"read_text", "read_bytes", "write_text", "write_bytes"}
MODES = ("'r", "'w", "'a", "'x")
WRITERS = {"to_csv", "to_excel", "savefig"}


def sources() -> list[Path]:
    folders = ("compress", "apputils", "data", "engine", "models", "options")
    return [ROOT / "train.py", ROOT / "test.py", *(path for each in folders for path in (ROOT / each).rglob("*.py"))]


def faults_of(path: Path) -> Iterator[str]:
    """Calls that open files past compress/io/files.py."""
    place = path.relative_to(ROOT).as_posix()
    if place.startswith(ALONE):
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or place == "compress/io/files.py":
            continue
        name, first = ast.unparse(node.func), ast.unparse(node.args[0]) if node.args else ""
        tail, owner = name.rpartition(".")[2], name.rpartition(".")[0]
        past = (
            (name in READERS and (place not in READERS[name] or not (first.startswith(SAFE) or name in BY_NUMBER)))
            or (tail in TEXT_METHODS and owner not in ("", "files"))
            or (tail in WRITERS and first != "temporary")
            or (tail == "open" and first[:2] in ("", *MODES) and owner not in ("temporary", "layout", "self", ""))
            or (tail == "load" and "onnx" in name and not first.startswith(SAFE))
        )
        if past:
            yield f"{place}:{node.lineno}: {name}({first})"


def test_no_module_opens_files_past_the_opener() -> None:
    found = [fault for path in sources() for fault in faults_of(path)]
    assert not found, "open through compress/io/files.py instead:\n" + "\n".join(found)


@pytest.mark.parametrize("line", [
    "open('x')", "path.open('rb')", "path.open()", "path.read_text()", "Path('x').write_bytes(b'')", "torch.load(path)",
    "Image.open(path)", "np.load(path)", "table.to_csv(path)", "figure.savefig(path)", "pd.read_csv(path)",
])  # fmt: skip
def test_the_search_finds_what_it_should(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "module.py").write_text(line)
    monkeypatch.setattr("tests.compress.io.test_files.ROOT", tmp_path)
    assert list(faults_of(tmp_path / "module.py"))


def test_errors_name_the_file_that_people_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the temporary one beside it."""

    def refused(path: Any, *_: Any, **__: Any) -> Any:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr("builtins.open", refused)
    for act, name in (
        (lambda: write_text(tmp_path / "plan.png", ""), tmp_path / "plan.png"),
        (lambda: check_folder(tmp_path), tmp_path),
    ):
        with pytest.raises(OSError, match="Read-only") as e:
            act()
        assert why(e.value) == f"{name}: Read-only file system"


def test_a_byte_order_mark_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes("\ufeffa: \ufeff1\r\n".encode())
    assert read_text(tmp_path / "a") == "a: \ufeff1\n"
