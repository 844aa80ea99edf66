"""Average pooling to a grid in a file whose image sizes are free: `pooling_of_any_size`.

torch's exporter writes `adaptive_avg_pool2d` with the kernel that the example's size needs, and the file then fails or
is wrong at every other size. Two products with averaging matrices are the same function at every size.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional


@contextmanager
def pooling_of_any_size() -> Iterator[None]:
    """Inside, `adaptive_avg_pool2d` of an image whose size is free is written as two products."""
    usual = functional.adaptive_avg_pool2d

    def pooled(input: Tensor, output_size: Any) -> Tensor:
        wanted = tuple(output_size) if isinstance(output_size, Sequence) else (output_size, output_size)
        free = [isinstance(size, torch.SymInt) for size in input.shape[-2:]]
        if not any(free) or all(size in (1, None) for size in wanted):
            return usual(input, output_size)
        rows, columns = (_averages(input, axis, size) for axis, size in zip((-2, -1), wanted, strict=True))
        return rows @ input @ columns.transpose(0, 1)

    with mock.patch.object(functional, "adaptive_avg_pool2d", pooled):
        yield


def _averages(x: Tensor, axis: int, cells: int | None) -> Tensor:
    """(cells, size): row k averages the pixels floor(k size / cells) to ceil((k + 1) size / cells) - 1."""
    size = x.shape[axis]
    count = size if cells is None else cells
    place = torch.arange(size, device=x.device)
    cell = torch.arange(count, device=x.device).unsqueeze(1)
    first, behind = cell * size // count, ((cell + 1) * size + count - 1) // count
    inside = ((place >= first) & (place < behind)).to(x.dtype)
    return inside / (behind - first).to(x.dtype)
