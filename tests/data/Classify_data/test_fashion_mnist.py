"""Fashion-MNIST as it is installed: what its paper (1708.07747) says of it."""

import pytest
import torch

from data.Classify_data.find_dataset import find_layout
from data.Classify_data.normalization import KNOWN, measured
from data.Classify_data.store import ImageStore

pytestmark = pytest.mark.data


def test_images_classes_and_pixels_are_those_of_the_paper() -> None:
    layout = find_layout(None, "fashion-mnist")
    parts = {part: layout.open(part) for part in ("train", "validation", "test")}  # type: ignore[arg-type]
    assert [len(source) for source in parts.values()] == [54_000, 6_000, 10_000]
    assert torch.tensor(parts["test"].labels).bincount().tolist() == [1_000] * 10
    assert torch.tensor(parts["validation"].labels).bincount().tolist() == [600] * 10
    mean, std = measured(ImageStore(parts["test"], 28, 1))
    assert mean[0] == pytest.approx(KNOWN["fashionmnist"][0][0], abs=2e-3)
    assert std[0] == pytest.approx(KNOWN["fashionmnist"][1][0], abs=2e-3)
