"""Quality of restored images: what other processes are sent, and the size that MACs are counted for."""

import pickle

import pytest
import torch

from data.restoration import RestorationItem
from models.Deblur.solver import QUALITY as DEBLURRING
from models.restoration.quality import Quality
from models.Restore.solver import QUALITY as RESTORATION
from models.SR.quality import QUALITY as SUPER_RESOLUTION


@pytest.mark.parametrize("quality", [SUPER_RESOLUTION, DEBLURRING, RESTORATION])
def test_other_processes_are_sent_it(quality: Quality) -> None:
    """`--jobs` measures in several processes."""
    draw = torch.Generator().manual_seed(0)
    low, baseline, target = (torch.rand(3, side, side, generator=draw) for side in (16, 32, 32))
    items = [RestorationItem("a", low, baseline, target)]
    again = pickle.loads(pickle.dumps(quality))
    assert again.of_baseline(items) == quality.of_baseline(items)
    assert list(again.metrics) == ["psnr", "ssim"]


def test_the_example_is_the_input_of_a_target_of_the_fields_size() -> None:
    cpu = torch.device("cpu")
    assert SUPER_RESOLUTION.example_inputs(3, cpu)[0].shape == (1, 3, 240, 426)  # 1280 x 720
    assert DEBLURRING.example_inputs(1, cpu)[0].shape == (1, 3, 256, 256)
