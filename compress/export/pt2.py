"""Networks as `.pt2` files (torch.export): a graph that PyTorch runs without the code that made it.

`export_pt2`, `load_pt2`. A quantized network computes in a `.pt2` file what it computes in training: weights on their
grids in float, activations rounded.

torch.export.load runs code that a hostile file may hold (pickles, expressions, names of functions), so `load_pt2`
looks through a file first and refuses whatever is not tensors and a graph of ordinary operations.
"""

import json
import logging
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compress.arguments.checked import checks_arguments
from compress.errors import UserError
from compress.export.onnx.check import Difference, difference, tensors_of, torch_outputs
from compress.export.onnx.export import CheckInputs, inputs_to_check
from compress.export.onnx.exporter import example_of, free_sizes
from compress.export.onnx.qdq import deployable
from compress.io.archive_limits import check_archive
from compress.io.files import checked, opened, replacing, why

DESCRIPTION = "compress_bench.json"
_OPERATIONS = re.compile(r"(torch\.ops\.(aten|prims|higher_order)\.|_operator\.|math\.|torch\._?sym_)\w+(\.\w+)?")
_WORDS = re.compile(
    r"\d+|[suz]\d+|Symbol|Integer|Float|Rational|precision|Mul|Add|Pow|PowByNatural|FloatPow|Mod|PythonMod|FloorDiv|"
    r"CleanDiv|CeilDiv|IntTrueDiv|FloatTrueDiv|CeilToInt|FloorToInt|TruncToInt|TruncToFloat|RoundToInt|RoundDecimal|"
    r"ToFloat|OpaqueUnaryFn_\w+|Identity|Where|ModularIndexing|Max|Min|Eq|Ne|Lt|Le|Gt|Ge|Equality|Unequality|"
    r"StrictLessThan|LessThan|StrictGreaterThan|GreaterThan|And|Or|Not|true|false|True|False|positive|integer|nonnegative|int_oo|oo"
)
_DECIMAL = re.compile(r"(?<![\w.)])\d+\.\d+(e[+-]?\d+)?(?![\w.])")


@dataclass(frozen=True)
class Pt2Report:
    """What was written.

    Attributes:
        file: the `.pt2` file.
        bytes: its size.
        difference: to the network, run again from the file.
        real_inputs: whether `check_inputs` were given.
        fixed_sizes: whether the network fixed some of its input's sizes.
    """

    file: str
    bytes: int
    difference: Difference
    real_inputs: bool
    fixed_sizes: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)


@checks_arguments
def export_pt2(
    model: nn.Module,
    file: str | Path,
    dummy_input: Tensor | tuple[Tensor, ...],
    check_inputs: CheckInputs | None = None,
    description: Mapping[str, Any] | None = None,
    fixed_size: bool = False,
) -> Pt2Report:
    """Writes a network as a `.pt2` file with a free batch size and image size, loads it again and compares.

    Args:
        model: any network; left as it was.
        file: where to write; the folder is made if needed.
        dummy_input: gives shape and type only.
        check_inputs: real inputs, as for `transform_to_onnx`.
        description: plain data kept in the file, for `test.py --model FILE.pt2`.
        fixed_size: keep the example's height and width; only the batch may change.

    Raises:
        UserError: torch.export does not take the network, or the file cannot be written.
    """
    dummies = dummy_input if isinstance(dummy_input, tuple) else (dummy_input,)
    inputs = inputs_to_check(check_inputs, dummies)
    program, fixed = _program(deployable(model, "torch").model, dummies, fixed_size)
    program.example_inputs = None  # of the dummy's size, which may be many times the network's
    path = Path(file)
    try:
        with replacing(path) as temporary:
            torch.export.save(program, temporary, extra_files={DESCRIPTION: json.dumps(dict(description or {}))})
            loaded, _ = load_pt2(temporary)
            with torch.no_grad():
                found = [tensors_of(loaded(*(x.cpu() for x in each))) for each in inputs]
            gap = difference(torch_outputs(model, inputs), found)
    except (OSError, RuntimeError) as e:  # torch wraps a failed write in a RuntimeError
        raise UserError(f"{path} could not be written: {why(e) if isinstance(e, OSError) else e}") from e
    return Pt2Report(str(path), path.stat().st_size, gap, check_inputs is not None, fixed)


@checks_arguments
def load_pt2(file: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """The network of a `.pt2` file that holds nothing but tensors and ordinary operations, and its description.

    Raises:
        UserError: there is no such file, it is no `.pt2` file, or it holds something that could run code.
    """
    path = Path(file)
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    try:
        check_archive(path)
        _look_through(path)
        extra = {DESCRIPTION: ""}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.load(checked(path), extra_files=extra)
        return program.module(), dict(json.loads(extra[DESCRIPTION] or "{}"))
    except (OSError, zipfile.BadZipFile, RuntimeError, ValueError, KeyError, AssertionError) as e:
        raise UserError(f"{path} cannot be read as a .pt2 file, it may be damaged: {str(e)[:200]}") from e


def _program(model: nn.Module, dummies: tuple[Tensor, ...], fixed_size: bool = False) -> tuple[Any, bool]:
    examples = tuple(example_of(each) for each in dummies)
    free = [set(free_sizes(each, 0, (), fixed_size)) for each in examples]
    logging.getLogger("torch.export").setLevel(logging.ERROR)
    for fixed, kind in ((False, torch.export.Dim.DYNAMIC), (True, torch.export.Dim.AUTO)):
        try:
            sizes = tuple(dict.fromkeys(each, kind) for each in free)
            return torch.export.export(model, examples, dynamic_shapes=(sizes,) if _variadic(model) else sizes), fixed
        except Exception as e:  # torch.export's errors share no base class
            if fixed:
                text = " ".join(str(e).split())[:300]
                raise UserError(f"{type(model).__name__} cannot be exported by torch.export: {text}") from e
    raise AssertionError("unreachable")


def _variadic(model: nn.Module) -> bool:
    """Whether forward takes `*inputs`, for which torch.export wants the sizes nested once more."""
    return bool(model.forward.__code__.co_flags & 0x04) if hasattr(model.forward, "__code__") else False


def _look_through(path: Path) -> None:
    """Refuses pickles, objects, functions and expressions that are not of a plain exported network."""
    with opened(path) as file, zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            inner = name.split("/", 1)[-1]
            if inner.endswith(".json") and not inner.startswith("extra/"):
                _check_plain(path, json.loads(archive.read(name)))
            elif "sample_inputs" in inner:
                _check_sample(path, archive.read(name))
            elif inner.endswith((".pt", ".pkl", ".so", ".cpp")) or "custom_obj" in inner or "opaque_obj" in inner:
                raise UserError(f"{path} is refused: it holds {inner}, which may run code when it is loaded")


def _check_sample(path: Path, content: bytes) -> None:
    import io
    import pickle

    if content:
        try:
            torch.load(io.BytesIO(content), weights_only=True)
        except (pickle.UnpicklingError, RuntimeError) as e:
            raise UserError(f"{path} is refused: its sample inputs hold more than tensors") from e


def _check_plain(path: Path, content: Any) -> None:
    for key, value in _pairs(content):
        if key == "use_pickle" and value:
            raise UserError(f"{path} is refused: it holds a pickled tensor, which may run code when it is loaded")
        if key == "target" and isinstance(value, str) and not _OPERATIONS.fullmatch(value):
            raise UserError(f"{path} is refused: its graph calls {value!r}, which is not an ordinary operation")
        if key == "expr_str" and not _is_arithmetic(str(value)):
            raise UserError(f"{path} is refused: the size {str(value)[:80]!r} is no arithmetic")


def _is_arithmetic(expression: str) -> bool:
    """Whether an expression consists of known words, numbers and operators; sympy would evaluate any Python."""
    expression = _DECIMAL.sub("0", expression)
    words = re.findall(r"\w+", expression)
    return all(_WORDS.fullmatch(word) for word in words) and not re.search(r"[^\w\s(),='+\-*/%<>&|~]", expression)


def _pairs(content: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, however deep."""
    todo = [content]
    while todo:
        current = todo.pop()
        if isinstance(current, dict):
            yield from current.items()
            todo.extend(current.values())
        elif isinstance(current, list):
            todo.extend(current)
