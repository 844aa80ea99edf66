"""CIFAR-10's batches: read without running anything, written as class folders."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from compress.errors import UserError
from data.Classify_data.convert import convert_cifar, main
from data.Classify_data.find_dataset import place_layout
from data.Classify_data.formats.cifar import read_batch


class Malicious:
    """Unpickling it would make a folder."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("outer", [False, True])
def test_batches_are_read_in_their_order(cifar: Path, outer: bool) -> None:
    layout = place_layout(cifar.parent if outer else cifar)
    training = layout.open("test"), layout.open("train")
    whole = [pickle.loads((cifar / f"data_batch_{i}").read_bytes()) for i in range(1, 6)]
    data = np.concatenate([each[b"data"] for each in whole]).reshape(-1, 3, 32, 32)
    labels = [label for each in whole for label in each[b"labels"]]
    given = {name: i for i, name in enumerate(training[1].names)}
    assert len(training[0]) == 4
    assert training[1].classes[3] == "class3"
    for name, place in given.items():
        assert np.array_equal(training[1].load(place), data[int(name)].transpose(1, 2, 0))
        assert training[1].labels[place] == labels[int(name)]


def test_code_in_a_batch_is_refused_and_does_not_run(cifar: Path, tmp_path: Path) -> None:
    target = tmp_path / "made"
    (cifar / "test_batch").write_bytes(pickle.dumps({b"data": Malicious(str(target))}))
    with pytest.raises(UserError, match=r"test_batch is refused: it holds (posix|nt)\.mkdir"):
        read_batch(cifar / "test_batch")
    assert not target.exists()


@pytest.mark.parametrize("content", [b"", b"hello", pickle.dumps([1])])
def test_what_is_no_batch_is_refused(cifar: Path, content: bytes) -> None:
    (cifar / "test_batch").write_bytes(content)
    with pytest.raises(UserError, match="test_batch cannot be read as a batch"):
        read_batch(cifar / "test_batch")


def test_wrong_shapes_are_refused(cifar: Path) -> None:
    (cifar / "test_batch").write_bytes(pickle.dumps({b"data": np.zeros((4, 7), np.uint8), b"labels": [0] * 4}))
    with pytest.raises(UserError, match="no array 'data' of 8-bit rows of 3,072 values"):
        place_layout(cifar).open("test")
    (cifar / "test_batch").write_bytes(pickle.dumps({b"data": np.zeros((4, 3072), np.uint8), b"labels": [0]}))
    with pytest.raises(UserError, match="no list 'labels' with one number for each of its 4 images"):
        place_layout(cifar).open("test")


def test_conversion_goes_on_where_it_was_and_counts(cifar: Path, tmp_path: Path, capsys: Any) -> None:
    target = tmp_path / "png"
    assert main(["cifar10", str(cifar), str(target)]) == 0
    assert "train: 20 images, test: 4 images" in capsys.readouterr().out
    first = target / "train" / "class0" / "00000.png"
    pixels = np.asarray(Image.open(first))
    data = pickle.loads((cifar / "data_batch_1").read_bytes())[b"data"]
    assert np.array_equal(pixels, data[0].reshape(3, 32, 32).transpose(1, 2, 0))
    kept = (target / "train" / "class1" / "00000.png").stat().st_mtime_ns
    first.unlink()
    convert_cifar(cifar, target)
    assert first.exists()
    assert (target / "train" / "class1" / "00000.png").stat().st_mtime_ns == kept
    Image.fromarray(pixels).save(target / "train" / "class0" / "99999.png")
    assert main(["cifar10", str(cifar), str(target)]) == 2
    assert "holds 3 images instead of 2" in capsys.readouterr().err


def test_a_folder_without_batches_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no data_batch_1"):
        convert_cifar(tmp_path, tmp_path / "out")
