"""passes.c made a library by the machine's C compiler, once; passes.py asks for it."""

import contextlib
import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import torch

from compress.io import files

SOURCE = Path(__file__).with_name("passes.c")
# Without contraction and fast math, so that every operation is rounded as torch's are. The two last let the compiler
# use vectors where a number that is not finite, or an error, would set a flag that nobody reads.
OPTIONS = ("-O3", "-std=c11", "-fPIC", "-fopenmp", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math")
WIDE = {
    "AVX512": ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512"),
    "AVX2": ("-mavx2",),
}
PATIENCE = 60.0  # seconds that a compiler has
RETRY = 24 * 3600.0  # seconds until one that failed is asked again


class CannotBuild(Exception):
    """There is no library; the message says why."""


class NoCompiler(CannotBuild):
    """There is no compiler, or none is wanted."""


def options_here() -> tuple[str, ...]:
    """The compiler's options for this processor, as torch sees it: not those of the one that it was installed on.

    Raises:
        NoCompiler: vectors of its kind are not known here.
    """
    capability = torch.backends.cpu.get_cpu_capability()
    if capability in WIDE:
        return (*OPTIONS, *WIDE[capability])
    if platform.machine() in ("aarch64", "arm64"):
        return OPTIONS
    raise NoCompiler(f"no vectors are known for a processor of the kind {capability}")


def compiler() -> list[str]:
    """The command that compiles C: what CC names, else cc, gcc or clang.

    Raises:
        NoCompiler: there is none.
        CannotBuild: CC is no command.
    """
    try:
        wanted = shlex.split(os.environ.get("CC", ""))
    except ValueError as e:
        raise CannotBuild(f"CC={os.environ['CC']!r} is no command: {e}") from e
    for words in [wanted] if wanted else [["cc"], ["gcc"], ["clang"]]:
        if found := shutil.which(words[0]):
            return [found, *words[1:]]
    raise NoCompiler(f"there is no C compiler ({wanted[0] if wanted else 'cc, gcc, clang'})")


def library() -> tuple[ctypes.CDLL, bool]:
    """The compiled library, and whether it was compiled just now.

    It is kept in the user's cache under a name that holds the source, the options and the compiler, and so is, for a
    day, that it failed; where nothing can be kept, it is compiled for this process alone.

    Raises:
        CannotBuild: there is no compiler, it fails, or what it makes cannot be loaded.
    """
    options, command = options_here(), compiler()
    source = files.read_bytes(SOURCE)
    key = hashlib.sha256(repr((source, options, command, platform.machine())).encode()).hexdigest()[:16]
    folder = _cache()
    if folder is None:
        with tempfile.TemporaryDirectory() as own:
            return _loaded(_compiled(command, options, Path(own), key)), True
    path = folder / f"passes-{key}.so"
    if _is_whole(path):
        try:
            return _loaded(path), False
        except CannotBuild:  # of another system that shares the folder
            path.unlink(missing_ok=True)
    failed = path.with_suffix(".failed")
    _refuse_again(failed, command)
    try:
        return _loaded(_compiled(command, options, folder, key)), True
    except CannotBuild as e:
        with contextlib.suppress(OSError):
            files.write_text(failed, f"{_identity(command)}\n{e}")
        raise


def _refuse_again(failed: Path, command: list[str]) -> None:
    """Raises what the same compiler has failed with within a day: each process would wait for it anew."""
    try:
        age = time.time() - failed.stat().st_mtime
        identity, _, reason = files.read_bytes(failed).decode(errors="replace").partition("\n")
    except OSError:
        return
    if 0 <= age < RETRY and identity == _identity(command):
        raise CannotBuild(f"{reason} (remembered; it is tried again after a day, or without {failed})")


def _identity(command: list[str]) -> str:
    """Another one after the compiler was installed anew."""
    about = Path(command[0]).stat()
    return f"{about.st_mtime_ns} {about.st_size}"


def _cache() -> Path | None:
    """A folder that nobody else can write into; None where there is none."""
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = base / "compress"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = folder.stat()
        ours = not hasattr(os, "getuid") or (about.st_uid == os.getuid() and not about.st_mode & 0o022)
        return folder if ours and os.access(folder, os.W_OK) else None
    except (OSError, RuntimeError):  # RuntimeError: no home
        return None


def _compiled(command: list[str], options: tuple[str, ...], folder: Path, key: str) -> Path:
    """The library's file, whole or not at all: several processes may make it at once."""
    path = folder / f"passes-{key}.so"
    try:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            made, shared = Path(place) / "passes.o", Path(place) / "passes.so"
            _run([*command, *options, "-c", str(SOURCE), "-o", str(made)])
            # Linked without -fopenmp: the threads are those of the OpenMP that torch has loaded, not of a second one.
            _run([*command, "-shared", "-o", str(shared), str(made), "-lm"])
            # The checksum first: a library without its own is made anew.
            files.write_text(_checksum(path), _digest(shared))
            os.replace(shared, path)
    except OSError as e:
        raise CannotBuild(f"{command[0]} cannot be run in {folder}: {files.why(e)}") from e
    return path


def _checksum(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _digest(path: Path) -> str:
    return hashlib.sha256(files.read_bytes(path)).hexdigest()


def _is_whole(path: Path) -> bool:
    """Whether a library is as it was made: half of one would not fail to load but end the process, when it is used."""
    try:
        return files.read_bytes(_checksum(path)) == _digest(path).encode()
    except OSError:
        return False


def _run(command: list[str]) -> None:
    try:
        started = subprocess.Popen(  # a session of its own, so that what a wrapper has started ends with it
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
            start_new_session=True,
        )  # fmt: skip
        try:
            printed = started.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            _end(started)
            raise
        if started.returncode:
            raise subprocess.CalledProcessError(started.returncode, command, *printed)
    except subprocess.TimeoutExpired as e:
        raise CannotBuild(f"{command[0]} has not finished after {PATIENCE:.0f} s") from e
    except subprocess.CalledProcessError as e:
        lines = [line for line in e.stderr.splitlines() if "error" in line.lower()] or e.stderr.splitlines()
        raise CannotBuild(f"{command[0]} fails: {lines[0].strip() if lines else f'exit status {e.returncode}'}") from e


def _end(started: "subprocess.Popen[str]") -> None:
    with contextlib.suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(started.pid, signal.SIGKILL)
        else:
            started.kill()
    started.communicate()


def _loaded(path: Path) -> ctypes.CDLL:
    """The library with the types of its functions."""
    try:
        loaded = ctypes.CDLL(str(path))
        pointer, count, number, threads = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_int
        loaded.quantize.argtypes = [pointer, pointer, count, number, number, number, threads]
        loaded.quantize_inside.argtypes = [pointer, pointer, pointer, count, number, number, number, threads]
        loaded.keep.argtypes = [pointer, pointer, pointer, count, threads]
        loaded.find_ends.argtypes = [pointer, count, pointer, threads]
        loaded.steps_of_rows.argtypes = [pointer, pointer, count, count, number]
        loaded.quantize_rows.argtypes = [pointer, pointer, pointer, count, count, number, number]
    except (OSError, AttributeError) as e:
        raise CannotBuild(f"what was compiled cannot be loaded: {e}") from e
    functions = loaded.quantize, loaded.quantize_inside, loaded.keep, loaded.find_ends, loaded.steps_of_rows
    for function in (*functions, loaded.quantize_rows):
        function.restype = None
    return loaded
