"""A file with free image sizes pools to a grid at every size."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.export.onnx.adaptive_pooling import pooling_of_any_size
from compress.export.onnx.export import transform_to_onnx


class Pyramid(nn.Module):
    """Pools to a grid by a module and by the function, as PSPNet does, and enlarges again."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.conv = nn.AdaptiveAvgPool2d((3, None)), nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        grid = functional.adaptive_avg_pool2d(self.conv(x), 5)
        return functional.interpolate(grid, size=(6, 7)) + self.pool(self.conv(x)).mean((2, 3), keepdim=True)


@pytest.mark.slow
def test_a_file_pools_at_other_sizes_than_it_was_exported_for(tmp_path: Path) -> None:
    inputs = [torch.rand(1, 3, height, width) for height, width in ((20, 30), (17, 23), (40, 11))]
    report = transform_to_onnx(
        Pyramid().eval(), tmp_path / "net.onnx", torch.zeros(1, 3, 20, 30), False, "clip", inputs
    )
    assert report.difference.largest > 0.1
    assert report.difference.max < 1e-5


def test_fixed_sizes_are_pooled_as_they_are() -> None:
    x = torch.rand(1, 2, 9, 7)
    with pooling_of_any_size():
        assert torch.equal(functional.adaptive_avg_pool2d(x, 4), nn.AdaptiveAvgPool2d(4)(x))
