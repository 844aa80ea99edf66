"""Integers in ncnn's files: each layer gets its own, also beside float layers of the same size. Needs no ncnn."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from compress.export.decomposed import HeldWeight
from compress.export.runtimes.ncnn import _put_integers, _unloaded, _Weight, told_apart

HEAD = "7767517\n6 6\nInput in0 0 1 in0\n"
CONVOLUTION = "Convolution {} 1 1 a b 0=2 1=1 5=1 6=4\n"
LAYERS = CONVOLUTION.format("first") + "PReLU act 1 1 a b 0=2\n" + CONVOLUTION.format("second")
LINEAR = "InnerProduct last 1 1 a b 0=1 1=0 2=4\n"


def floats(*values: float) -> bytes:
    return np.array(values, np.float32).tobytes()


@pytest.fixture
def weight() -> _Weight:
    integers = np.array([[1, -2], [3, 4]], np.int8)
    scale = np.array([0.5, 0.25], np.float32)
    return _Weight("second", integers, scale, (integers * scale[:, None]).astype(np.float32), 0.1, 255)


def written(folder: Path, param: str, data: bytes) -> tuple[Path, Path]:
    files = folder / "net.param", folder / "net.bin"
    files[0].write_text(param)
    files[1].write_bytes(data)
    return files


def test_integers_go_to_the_layer_that_holds_their_values(tmp_path: Path, weight: _Weight) -> None:
    """The float layer in front has the same size; it once was marked in place of the right one."""
    first = bytes(4) + floats(9, 9, 9, 9, 7, 7) + floats(0.1, 0.2)  # the PReLU's behind it
    last = bytes(4) + floats(5, 6, 7, 8)
    second = bytes(4) + weight.values.tobytes() + floats(1, 2)
    param, binary = written(tmp_path, HEAD + LAYERS + LINEAR, first + second + last)

    assert _put_integers(param, binary, [weight])[0] == ["second"]

    lines = param.read_text().splitlines()
    assert [line.endswith(" 8=1") for line in lines] == [False] * 5 + [True, False]
    scales = floats(2, 4, 127 / 25.5)
    tag = (0x000D4B38).to_bytes(4, "little")
    assert binary.read_bytes() == first + tag + weight.integers.tobytes() + floats(1, 2) + scales + last


def test_a_file_that_is_not_understood_to_the_end_stays_float(tmp_path: Path, weight: _Weight) -> None:
    data = bytes(4) + weight.values.tobytes() + floats(1, 2) + floats(3)
    param, binary = written(tmp_path, HEAD + CONVOLUTION.format("first") + "Unknown u 1 1 a b 0=1\n", data)
    assert _put_integers(param, binary, [weight]) == (
        [], ["second is written for ncnn in float, its weights on their grid"],
    )  # fmt: skip
    assert binary.read_bytes() == data


def test_groups_that_share_a_scale_in_ncnn_stay_float(tmp_path: Path, weight: _Weight) -> None:
    line = "ConvolutionDepthWise first 1 1 a b 0=2 1=1 5=0 6=4 7={}\n"
    for groups, found in ((1, []), (2, ["second"])):
        param, binary = written(tmp_path, HEAD + line.format(groups), bytes(4) + weight.values.tobytes())
        assert _put_integers(param, binary, [weight])[0] == found


def test_what_ncnn_has_no_layer_for_is_named() -> None:
    assert (
        _unloaded(HEAD + LINEAR + "aten::cross c 1 1 a b\nF.gelu g 1 1 b c\n")
        == "ncnn has no layer for aten::cross, F.gelu"
    )
    assert _unloaded(HEAD + LINEAR) == "ncnn does not load the file that pnnx made"


def test_equal_weights_of_several_layers_are_told_apart() -> None:
    """The integers are not touched, and another layer's values neither."""
    integers = torch.tensor([[1, -2], [0, 4]], dtype=torch.int8)
    values = 0.3 * integers.float()
    same = [HeldWeight(None, name, integers, torch.tensor([0.3, 0.3]), values, True) for name in ("a", "b", "c")]
    other = HeldWeight(None, "d", integers, torch.tensor([0.2, 0.2]), 0.2 * integers.float(), True)
    found = told_apart([*same, other])
    assert len({each.values.numpy().tobytes() for each in found}) == 4
    assert torch.equal(found[0].values, values)
    assert torch.equal(found[3].values, other.values)
    for each in found[:3]:
        torch.testing.assert_close(each.values, values, rtol=1e-6, atol=0)
        assert each.integers is integers


@pytest.mark.parametrize(("reach", "factor", "coarser"), [(15, 10, False), (128, 10, False), (255, 127 / 25.5, True)])
def test_steps_that_fit_are_kept(reach: int, factor: float, coarser: bool, weight: _Weight) -> None:
    """15 steps to 127 integers once became 7 of them."""
    found = replace(weight, reach=reach)
    assert found.factor == pytest.approx(factor)
    assert found.coarser == coarser
