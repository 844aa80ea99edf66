"""Whether a file of weights is no larger in memory than on the disk: a few bytes can stand for any number of them.

`check_archive` (before it is read), `check_tensors` (after).
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compress.io.files import opened


def check_archive(path: Path) -> None:
    """Refuses an archive whose parts are compressed, which torch's never are: they could grow without end.

    Raises:
        ValueError: a part is compressed.
        zipfile.BadZipFile: its table of contents is damaged.
    """
    with opened(path) as file, zipfile.ZipFile(file) as archive:
        for part in archive.infolist():
            if part.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"its part {part.filename[:60]!r} is compressed, which nothing that torch wrote is")


def check_tensors(content: Any) -> None:
    """Refuses tensors with more values than are stored for them, and kinds of tensors that no network of ours has.

    Raises:
        ValueError: there is one.
    """
    waiting, seen = [content], set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            _check_tensor(value)
        elif isinstance(value, Mapping | list | tuple) and id(value) not in seen:  # one may hold another many times
            seen.add(id(value))
            waiting += value.values() if isinstance(value, Mapping) else value


def _check_tensor(tensor: Tensor) -> None:
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta or tensor.is_nested:
        raise ValueError("it holds a tensor that is sparse, quantized, nested or without values")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ValueError(f"it holds a tensor of the shape {tuple(tensor.shape)!r:.60} and fewer values than that")
