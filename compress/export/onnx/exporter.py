"""torch's exporter, called for a network of any shape: `write_exported`.

Sizes are left free where the network allows it; its errors become one line.
"""

import functools
import importlib
import inspect
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from inspect import Parameter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from compress.errors import UserError, shown
from compress.export.onnx.adaptive_pooling import pooling_of_any_size
from compress.export.onnx.check import Inputs
from compress.graph.calls import Call
from compress.graph.recording.untraced import replaced_weights

Sizes = tuple[dict[int, Any], ...]  # of each input: free axis -> its name


def write_exported(
    model: nn.Module,
    dummies: Inputs,
    file: Path,
    opset: int | None,
    free_axes: Sequence[int],
    fixed: bool = False,
    tried: Inputs | None = None,
) -> list[str]:
    """Writes the exporter's file; its notes. Sizes are tried free, then free where the network allows it.

    With `fixed` height and width are those of the dummies. One pass on inputs that are `tried`, or on zeros, shows
    whether the network replaces weights.
    """
    examples = tuple(example_of(each) for each in dummies)
    named = tuple(free_sizes(each, index, free_axes, fixed) for index, each in enumerate(examples))
    notes = _replaced(model, tried or examples)
    program, more = _first_that_works(model, examples, named, opset, fixed or bool(free_axes))
    program.save(str(file), external_data=False)
    return notes + more


def _first_that_works(
    model: nn.Module, examples: Inputs, named: Sizes, opset: int | None, as_asked: bool
) -> tuple[Any, list[str]]:
    """torch's program: sizes free, free where the network leaves them so, or the example's; and a note."""
    try:
        return _trace(model, examples, named, opset), []
    except Exception:  # the exporter's errors share no base class; the second try shows what is wrong
        automatic = tuple(dict.fromkeys(each, torch.export.Dim.AUTO) for each in named)
    try:
        note = "the network fixes some of its input's sizes; `dynamic` says which may change"
        return _trace(model, examples, automatic, opset), [note]
    except Exception as e:
        reason, error = _reason(e), e
    foreign = _foreign_output(model, examples)
    if foreign:
        raise UserError(_refused(model, foreign)) from error
    if as_asked or not any(set(each) - {0} for each in named):
        raise UserError(_refused(model, reason)) from error
    try:
        only_batch = tuple(free_sizes(each, index, fixed=True) for index, each in enumerate(examples))
        program = _trace(model, examples, only_batch, opset)
    except Exception as e:
        raise UserError(_refused(model, _reason(e))) from e
    return program, [
        f"height and width are fixed in this file (fixed_size), as torch's exporter fails where they are free: {reason}"
    ]


def _foreign_output(model: nn.Module, examples: Inputs) -> str:
    """What an output is that no file can hold; '' if all are tensors."""
    try:
        with torch.no_grad():
            leaves, _ = torch.utils._pytree.tree_flatten_with_path(model(*examples))
    except Exception:  # the network's own, of any kind: the exporter's reason is said
        return ""
    for path, leaf in leaves:
        if leaf is not None and not isinstance(leaf, torch.Tensor):
            place = torch.utils._pytree.keystr(path)
            return f"forward returns {shown(leaf)} ({type(leaf).__name__}) as output{place}; return tensors only"
    return ""


def _replaced(model: nn.Module, inputs: Inputs) -> list[str]:
    """A note on the weights that a pass has replaced: the file holds those of this pass."""
    names = replaced_weights(model, Call(inputs))
    if not names:
        return []
    return [
        f"forward replaces {', '.join(names[:3])}{' ...' if len(names) > 3 else ''} through `.data`: the file holds "
        "what one pass in eval mode has made of it"
    ]


def _trace(model: nn.Module, examples: Inputs, dynamic: Any, opset: int | None) -> Any:
    with warnings.catch_warnings(), pooling_of_any_size():
        warnings.simplefilter("ignore")
        return torch.onnx.export(
            model, examples, dynamo=True, opset_version=opset, dynamic_shapes=_nested(model, dynamic), verbose=False
        )


def _nested(model: nn.Module, sizes: Sizes) -> tuple[Any, ...]:
    """Sizes as the exporter wants them: those of `*args` in a tuple of their own."""
    kinds = [each.kind for each in inspect.signature(model.forward).parameters.values()]
    named = kinds.index(Parameter.VAR_POSITIONAL) if Parameter.VAR_POSITIONAL in kinds else len(sizes)
    return sizes if named >= len(sizes) else (*sizes[:named], sizes[named:])


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """The exporter's own log lines, which speak of its passes, are left out."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnx_ir", "onnxscript")]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)


@contextmanager
def prepared_exporter() -> Iterator[None]:
    """Inside, the exporter is imported and its operators are translated once for this process and what it forks.

    torch translates its 500 operators anew in each export, and a forked process imports anew what this one has not:
    together half the time of a small network's export.
    """
    try:
        lazy: Any = importlib.import_module("torch.onnx._internal._lazy_import")
        operators = _operators()
    except (ImportError, AttributeError):  # another torch: slower, the same file
        yield
        return
    # an attribute of the lazy module hides the function of the module behind it
    lazy.onnxscript_apis.get_torchlib_ops = lambda: list(operators)
    try:
        yield
    finally:
        del lazy.onnxscript_apis.get_torchlib_ops


@functools.cache
def _operators() -> list[Any]:
    for late in ("torch._functorch.aot_autograd", "torch.export._trace", "torch.onnx._internal.exporter._compat"):
        importlib.import_module(late)  # torch.onnx.export would, in every fork
    lazy: Any = importlib.import_module("torch.onnx._internal._lazy_import")
    with _only_domains():
        return list(lazy.onnxscript_apis.get_torchlib_ops())


@contextmanager
def _only_domains() -> Iterator[None]:
    """Inside, onnxscript does not parse a function's source where its list of operators only asks for the domain."""
    traced: Any = importlib.import_module("onnxscript._internal.values").TracedOnnxFunction
    own = traced.function_ir
    traced.function_ir = property(lambda function: SimpleNamespace(domain=function.opset.domain))
    try:
        yield
    finally:
        traced.function_ir = own


def _refused(model: nn.Module, reason: str) -> str:
    return f"{type(model).__name__} cannot be exported to ONNX: {reason}; nothing was written"


def _reason(error: Exception) -> str:
    """The first of the chained errors that says something, which is the innermost."""
    causes: list[BaseException] = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    lines = [line for line in str(causes[-1]).strip().splitlines() if line.strip()]
    return " ".join(lines[:3])[:400] if lines else type(causes[-1]).__name__


def example_of(dummy: Tensor) -> Tensor:
    """Zeros of a dummy's shape and type; a batch of 1 becomes 2, because the exporter takes a size of 1 for fixed."""
    shape = list(dummy.shape)
    if shape and shape[0] == 1:
        shape[0] = 2
    return torch.zeros(shape, dtype=dummy.dtype)


def free_sizes(example: Tensor, index: int, more: Sequence[int] = (), fixed: bool = False) -> dict[int, str]:
    """Names of the sizes that may change: batch, of images height and width unless `fixed`, and `more` axes."""
    names = {0: "batch"} if example.dim() else {}
    if fixed:
        return names
    spatial = {3: ["length"], 4: ["height", "width"], 5: ["depth", "height", "width"]}.get(example.dim(), [])
    suffix = f"_{index}" if index else ""
    for axis, name in enumerate(spatial, start=2):
        names[axis] = f"{name}{suffix}"
    for axis in more:
        if axis < example.dim():
            names.setdefault(axis, f"axis{axis}{suffix}")
    if more and example.dim() == 3:  # the last one is the features'
        names = {axis: name for axis, name in names.items() if axis < 2 or axis in more}
    return names
