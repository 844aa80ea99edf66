"""Whole networks of torchvision; all of them: `python benchmarks/thinning_zoo.py`."""

import pytest

from benchmarks.thinning_zoo import row_of

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "groups"),
    [  # among the groups of those with attention are the streams, whose norms keep their width
        ("squeezenet1_1", 25),
        ("resnet50", 37),
        ("densenet121", 120),
        ("shufflenet_v2_x1_0", 19),
        ("googlenet", 61),
        ("mobilenet_v3_small", 27),
        ("swin_t", 52),
        ("vit_b_32", 49),
        ("maxvit_t", 117),
    ],
)
def test_thinned_proven_trained_and_reloaded(name, groups):
    row = row_of(name, None, float32=True)
    assert row["ok"], row["note"]
    assert row["groups"] == groups
    assert row["macs"] < 0.9
