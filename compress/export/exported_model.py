"""An exported file as a network that a tester can evaluate.

`is_exported`, `description_of`, `ExportedModel`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from compress.errors import UserError
from compress.export.onnx.export import METADATA
from compress.export.onnx.session import open_session, run_session
from compress.export.onnx.trust import look_through
from compress.export.pt2 import load_pt2
from compress.io.files import checked
from compress.io.optional import needed

SUFFIXES = (".onnx", ".pt2")
_BULK = {"model", "averaged", "optimizer", "scheduler", "schedule", "random_state", "history", "best", "format"}


class ExportedModel(nn.Module):
    """Runs an exported file: inputs as the network's, its outputs on the input's device.

    Args:
        file: `.onnx`, run by onnxruntime on the CPU, or `.pt2`, run by torch.
        threads: of onnxruntime; None leaves it to it.
        exact: see `open_session`; False is what a plain session would compute.

    Raises:
        UserError: the file is missing, damaged or refused, or onnxruntime is not installed.
    """

    def __init__(self, file: str | Path, threads: int | None = None, exact: bool = False) -> None:
        super().__init__()
        self.file = Path(file)
        if self.file.suffix == ".onnx":
            look_through(_loaded(self.file), self.file)
        self._session = open_session(file, threads=threads, exact=exact) if self.file.suffix == ".onnx" else None
        self._program = None if self._session else load_pt2(file)[0]

    def forward(self, *inputs: Tensor) -> Any:
        """Inputs of the network -> its output, or a tuple of several."""
        if self._program is not None:
            return self._program(*inputs)
        outputs = [each.to(inputs[0].device) for each in run_session(self._session, inputs)]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def train(self, mode: bool = True) -> "ExportedModel":
        """Does nothing: an exported file has one mode, that of evaluation."""
        self.training = False
        return self


def is_exported(path: str | Path) -> bool:
    """Whether a path is of an exported file, by its suffix."""
    return Path(path).suffix in SUFFIXES


def describing(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """What of a checkpoint an exported file keeps: the plain data that say of which run and network it is."""
    kept = {}
    for key, value in checkpoint.items():
        if key not in _BULK:
            try:
                kept[key] = json.loads(json.dumps(value))
            except (TypeError, ValueError):
                continue  # holds tensors
    return kept


def description_of(path: str | Path) -> dict[str, Any]:
    """What `describing` kept, from a file.

    Raises:
        UserError: there is no such file, it is damaged, or it is none of this bench's.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"there is no file {file}")
    found = load_pt2(file)[1] if file.suffix == ".pt2" else _of_onnx(file)
    if not {"run", "optform", "network"} <= set(found):
        raise UserError(
            f"{file} does not say of which run it is, so its application and test data are unknown; export it by "
            "`python test.py`, or give transform_to_onnx a description"
        )
    return found


def _of_onnx(file: Path) -> dict[str, Any]:
    model = _loaded(file)
    try:
        text = next((each.value for each in model.metadata_props if each.key == METADATA), "{}")
        return dict(json.loads(text))
    except (ValueError, TypeError, RecursionError) as e:
        raise UserError(f"what {file} keeps of its checkpoint cannot be read: {str(e)[:200]}") from e


def _loaded(file: Path) -> Any:
    """The file as onnx reads it, weights outside of it left alone."""
    if not file.is_file():
        raise UserError(f"there is no file {file}")
    onnx = needed("onnx", "reading an ONNX file")
    try:
        return onnx.load(checked(file), load_external_data=False)
    except Exception as e:  # onnx's errors share no base class
        raise UserError(f"{file} cannot be read as an ONNX file, it may be damaged: {str(e)[:200]}") from e
