"""A float ONNX file written again with the weights of another network of the same kind, without another export.

`with_other_weights`. Called where a dense network is timed beside a pruned one: tracing it anew takes seconds.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compress.errors import UserError
from compress.export.onnx.check import Inputs, compare_onnx
from compress.io.files import checked, replacing
from compress.io.optional import needed

CLOSE = 1e-4  # of the largest output: what the order of float sums may move


def with_other_weights(file: Path, model: nn.Module, other: nn.Module, target: Path, inputs: Inputs) -> bool:
    """Writes `target`, the file of `other`; False where only an export can make it, and then writes nothing.

    Both networks are of the same modules, every weight in the file is one of `model`'s by name and value, none is
    missing, and the new file computes what `other` does.

    Args:
        file: the float file of `model`.
        model: the network that it was exported from.
        other: a network on the CPU.
        target: where to write.
        inputs: real ones, on the CPU, that the new file is compared on.

    Raises:
        UserError: onnx or onnxruntime is missing, or the file cannot be written.
    """
    if _kinds(model) != _kinds(other):
        return False
    onnx = needed("onnx", "writing an ONNX file")
    content = needed("onnx", "reading an ONNX file").load(checked(file))
    if not _exchanged(onnx, content.graph.initializer, _tensors(model), _tensors(other)):
        return False
    with replacing(target) as temporary:
        onnx.save(content, str(temporary))
    if _is_of(target, other, inputs):
        return True
    target.unlink()
    return False


def _exchanged(onnx: Any, initializers: Any, own: dict[str, Tensor], new: dict[str, Tensor]) -> bool:
    """Replaces what the graph holds; whether all of it is known."""
    left = {name for name, each in own.items() if each.is_floating_point()}
    for each in initializers:
        if each.name not in own:
            if each.data_type == onnx.TensorProto.FLOAT and onnx.numpy_helper.to_array(each).size > 1:
                return False  # it may be computed from weights
            continue
        if not torch.equal(torch.tensor(onnx.numpy_helper.to_array(each)), own[each.name]):
            return False
        each.CopyFrom(onnx.numpy_helper.from_array(new[each.name].numpy(), each.name))
        left.discard(each.name)
    return not left


def _is_of(file: Path, model: nn.Module, inputs: Inputs) -> bool:
    try:
        found = compare_onnx(file, model, [inputs])
    except UserError:
        return False
    return found.max <= CLOSE * found.largest


def _kinds(model: nn.Module) -> list[Any]:
    modules = [(name, type(each)) for name, each in model.named_modules()]
    return [modules, [(name, each.shape, each.dtype) for name, each in _tensors(model).items()]]


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {name: each.detach().cpu().contiguous() for name, each in named}
