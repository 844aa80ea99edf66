"""Every function that reads a file, given what is no such file: one line of error within bounded work, or an answer."""

import ast
import os
import re
import socket
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from filelock import FileLock
from torch import nn

from apputils.checkpoints.checksum import check_checksum, is_zip
from apputils.checkpoints.file import import_pickle, load_checkpoint, load_weights
from apputils.report.images import images_of
from apputils.report.records import read_json, read_table
from apputils.report.sections.network.architecture import Architecture
from apputils.runs.folders import Run, recorded_optform
from apputils.runs.lock import hold
from apputils.runs.seed_groups import group_of
from compress.analysis.latency_model.carried import read_model
from compress.analysis.sensitivity.record import open_record
from compress.config import file_config
from compress.config.goals import load_goals
from compress.config.post_training import load_post_training
from compress.errors import UserError
from compress.export.bundle import read_device_results
from compress.export.exported_model import ExportedModel, description_of
from compress.goals.device import problem_with_device
from compress.io.archive_limits import check_archive
from compress.quantization.post_training.statistics_file import read_statistics
from data.Classify_data.find_dataset import place_layout
from data.Classify_data.formats.cifar import read_batch
from data.Classify_data.formats.folders import listed_classes
from data.Classify_data.formats.idx import read_idx
from data.Deblur_data.pairs_index import read_index
from data.images import ImageFile
from engine.architectures.neighbours import imports_of
from engine.architectures.own import _checksum
from engine.distributed.elastic_restart import _own_run
from engine.resume import schedule_text
from engine.saved.dense_baseline import is_dense
from engine.saved.find_checkpoint import load_subject
from engine.search.agreement import resumed as study_resumed
from engine.search.study import _without_torn_line
from options.search_options import SearchConfig
from tests.compress.harness import tiny_net
from tests.compress.io.test_files import ALONE
from tests.fuzz.watch import Watched, tiers

ROOT = Path(__file__).resolve().parents[2]
OPENERS = frozenset(("opened", "read_text", "read_bytes", "checked"))
PRODUCT = ("compress", "engine", "apputils", "data", "models", "options")
OWN = {  # read what this project or the system has written itself, under names that nobody gives
    "has_vnni", "_cpu_seconds", "_template", "_processor", "_busy_seconds", "_since", "world", "new_schedule",
    "stored_in_integers", "layers_in_integers", "_parts", "load_program", "_checked_source", "of_run",
    "cost_row", "node_kinds", "blame", "_facts", "append_activations",  # what has just been written or proved
    "_measured_once", "add_layer_table", "_computed", "with_other_weights",
    "_top_of",  # code that the command line names; its import says what is wrong with it
    "load",  # of transformers' own checkpoints, see compress/integrations
}  # fmt: skip


def in_run(name: str, read: Callable[[], Any]) -> Callable[[Path], Any]:
    """Reads a file that has one name in a run's folder of logs; the file is put there."""

    def work(path: Path) -> Any:
        there = Run("a").logs / name
        there.parent.mkdir(parents=True, exist_ok=True)
        there.unlink(missing_ok=True)
        there.symlink_to(path.absolute())
        return read()

    return work


def _schedule(path: Path) -> Any:
    net = tiny_net()
    return file_config(net, torch.optim.SGD(net.parameters(), 0.1), path)


def _held() -> None:
    """A run that another process trains."""
    with pytest.MonkeyPatch.context() as patch, FileLock(Run("a").logs / "lock"):
        patch.setattr("apputils.runs.lock.WAIT", 0.0)
        patch.setattr("apputils.runs.lock.FileLock", lambda file: FileLock(file, is_singleton=False))
        with hold(Run("a")):
            raise AssertionError("held twice")


def _study(path: Path) -> str:
    """The name of a study whose file is the one tried."""
    there = Path("studies/a/study.json")
    there.parent.mkdir(parents=True, exist_ok=True)
    there.unlink(missing_ok=True)
    there.symlink_to(path.absolute())
    return "a"


def unwanted_lock() -> Any:
    """A lock that nobody else wants."""
    return SimpleNamespace(acquire=lambda: True, release=lambda: None)


def _started_again() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHELASTIC_RUN_ID", "job")
        return _own_run()


def _with_ending(read: Callable[[Path], Any], ending: str) -> Callable[[Path], Any]:
    def work(path: Path) -> Any:
        named = path.with_name(f"named{ending}")
        named.unlink(missing_ok=True)
        named.symlink_to(path.absolute())
        return read(named)

    return work


def _in_folder(read: Callable[[Path], Any], name: str) -> Callable[[Path], Any]:
    def work(path: Path) -> Any:
        folder = Path("folder")
        folder.mkdir(exist_ok=True)
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(path.absolute())
        return read(folder)

    return work


# function that opens -> how people's files come there
READERS: dict[str, Callable[[Path], Any]] = {
    "compress/config/build.py file_config": _schedule,
    "compress/config/post_training.py load_post_training": lambda path: load_post_training(
        tiny_net(), path, torch.zeros(1, 3, 6, 6)
    ),
    "statistics_file.py read_statistics": lambda path: read_statistics(path, False),
    "bounds.py check_archive": lambda path: check_archive(path),
    "checkpoint.py _unpickled": load_checkpoint,
    "checkpoint.py import_pickle": import_pickle,
    "lock.py hold": in_run("running.txt", _held),
    "lock.py _owner": in_run("running.txt", _held),
    "onnx_model.py _loaded": _with_ending(description_of, ".onnx"),
    "onnx_session.py open_session": _with_ending(ExportedModel, ".onnx"),
    "pt2_export.py load_pt2": _with_ending(ExportedModel, ".pt2"),
    "pt2_export.py _look_through": _with_ending(description_of, ".pt2"),
    "records.py read_json": read_json,
    "records.py read_table": read_table,
    "architecture.py blocks": _in_folder(lambda folder: Architecture().blocks({}, folder), "arch.svg"),
    "images.py _middle": _in_folder(images_of, "a_output.png"),
    "runs.py recorded_optform": in_run("options.yaml", lambda: recorded_optform("a", None)),
    "checksum.py check_checksum": check_checksum,
    "checksum.py is_zip": is_zip,
    "record.py _read": lambda path: open_record(path, nn.Linear(1, 1), "element", [], {"psnr": 1.0}, True),
    "arrays.py _open": _with_ending(place_layout, ".h5"),
    "plain_pickle.py read_plain": read_batch,
    "folders.py listed_classes": _in_folder(listed_classes, "classes.txt"),
    "idx.py read_idx": lambda path: read_idx(path, 1),
    "idx.py read_idx, packed": _with_ending(lambda path: read_idx(path, 3), ".gz"),
    "seed_groups.py group_of": in_run("group.json", lambda: group_of("a")),
    "goals.py load_goals": load_goals,
    "bundle.py read_device_results": lambda path: read_device_results(path, "a"),
    "carried.py read_model": read_model,
    "device.py problem_with_device": lambda path: problem_with_device(str(path), "onnxruntime"),
    "agreement.py _read": lambda path: study_resumed(SearchConfig(study=_study(path))),
    "study.py _without_torn_line": lambda path: _without_torn_line(path, unwanted_lock()),
    "pairs_index.py read_index": _in_folder(read_index, "pairs.json"),
    "data/images.py opened": lambda path: ImageFile("a", path).load(),
    "dense.py is_dense": in_run("schedule.yaml", lambda: is_dense(Run("a"))),
    "restart.py _own_run": in_run("torchrun.yaml", _started_again),
    "restart.py _read_note": in_run("torchrun.yaml", _started_again),
    "resumption.py _text": lambda path: schedule_text(SimpleNamespace(compress=str(path)), None),
    "neighbours.py imports_of": imports_of,
    "own.py _checksum": lambda path: _checksum([path]),
    "solver.py _schedule": lambda path: schedule_text(SimpleNamespace(compress=str(path)), None),
}
MORE: dict[str, Callable[[Path], Any]] = {"--weights": load_weights, "--model": load_subject}


def test_every_reader_is_listed() -> None:
    """A new one fails here until it is listed above, and so is tried."""
    listed = {name.rpartition(" ")[2] for name in READERS} | OWN
    found = {name for folder in PRODUCT for file in (ROOT / folder).rglob("*.py") for name in _callers(file)}
    assert len(found) > 25
    assert found - listed == set()


def _callers(file: Path) -> Iterator[str]:
    """Names of the functions that call one of the openers of compress/io/files.py."""
    text = file.read_text()
    if file.name == "files.py" or not re.search(r"compress(\.files)? import .*files|from compress.io.files", text):
        return
    tree = ast.parse(text)
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            called = [each.func for each in ast.walk(function) if isinstance(each, ast.Call)]
            for each in called:
                plain = isinstance(each, ast.Name) and each.id in OPENERS and _imports(tree, each.id)
                if plain or (isinstance(each, ast.Attribute) and ast.unparse(each) in {f"files.{o}" for o in OPENERS}):
                    yield function.name


def _imports(tree: ast.Module, name: str) -> bool:
    imports = [
        each for each in ast.walk(tree) if isinstance(each, ast.ImportFrom) and each.module == "compress.io.files"
    ]
    return any(alias.name == name for each in imports for alias in each.names)


def test_no_reader_opens_by_itself() -> None:
    """Nothing in the product calls `open` for reading, `read_text` of a Path, or the like."""
    for folder in PRODUCT:
        for file in (ROOT / folder).rglob("*.py"):
            if file.relative_to(ROOT).as_posix().startswith(ALONE):
                continue
            for number, line in enumerate(file.read_text().splitlines(), start=1):
                assert not re.search(r"(?<!files)\.read_(text|bytes)\(", line), f"{file}:{number}"


CONTENTS = {
    "empty": b"", "zeros": bytes(5000), "text": b"hello", "no UTF-8": b"\xff\xfe\x80" * 50, "deep": b"[" * 60_000,
    "long number": b'{"a": ' + b"9" * 5000 + b"}", "number": b"1" + b"0" * 400, "NaN": b'{"a": NaN, "b": 1e999}',
    "list": b"[1, 2]", "null": b"null", "zip": b"PK\x05\x06" + bytes(18), "aliases":
    b"a: &a [x,x]\n" + b"".join(b"%c: &%c [%s]\n" % (c, c, b",".join([b"*%c" % (c - 1)] * 9)) for c in range(98, 122)),
    "wide": b",".join([b"a"] * 3000) + b"\n1\n", "escape": b"\x1b]0;x\x07: 1\n",
    "huge length": b"\x89HDF\r\n\x1a\n" + b"\xff" * 200, "PNG": b"\x89PNG\r\n\x1a\n" + b"\xff" * 60,
}  # fmt: skip
SPECIAL = ("absent", "folder", "FIFO", "socket", "device", "loop", "unreadable name")


def _special(kind: str) -> Path:
    """Something under a name that is not a regular file."""
    path = Path(kind.replace(" ", "_"))
    if kind == "folder":
        path.mkdir(exist_ok=True)
    elif kind == "FIFO" and not path.exists():
        os.mkfifo(path)
    elif kind == "socket" and not path.exists():
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.close()
    elif kind == "device":
        return Path("/dev/zero")
    elif kind == "loop" and not path.is_symlink():
        path.symlink_to(path)
    elif kind == "unreadable name":
        return Path("a" * 300)
    return path


def _tried(read: Callable[[Path], Any], path: Path, watched: Watched) -> None:
    """OSErrors, and those that a caller in the same file catches, are words of the entry points' one line."""

    def work() -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read(path)
        except OSError as e:
            raise UserError(str(e)) from e

    watched(work)


IN_WORDS = {"bounds.py check_archive", "data/images.py opened", "architecture.py blocks"}  # their callers say it


@tiers(few=1, many=3)
@pytest.mark.parametrize("name", [*READERS, *MORE])
def test_what_is_no_such_file(here: Path, name: str, examples: int) -> None:
    read, watched = {**READERS, **MORE}[name], Watched()
    for kind in SPECIAL:
        _tried(_lenient(name, read), _special(kind), watched)
    for number in range(examples):
        for label, content in CONTENTS.items():
            file = here / f"{label}.bin".replace(" ", "_")
            file.write_bytes(content * (1, 2, 50)[number])
            _tried(_lenient(name, read), file, watched)
    assert watched.refused + watched.read == len(SPECIAL) + examples * len(CONTENTS)


def _lenient(name: str, read: Callable[[Path], Any]) -> Callable[[Path], Any]:
    if name not in IN_WORDS:
        return read

    def work(path: Path) -> Any:
        try:
            return read(path)
        except Exception as e:
            raise UserError(str(e) or type(e).__name__) from e

    return work
