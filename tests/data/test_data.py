"""The three loaders: where the images come from when nothing, BSDS300 or a folder is given."""

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

from compress.errors import UserError
from data.data import embedded_notice, get_testing_set, get_training_set, get_validation_set
from data.sampling import SampleKey
from tests.data.conftest import MakeImages, held_out


def test_default_is_the_embedded_photographs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    with caplog.at_level(logging.INFO):
        training = get_training_set(2, None, samples=7, patch_size=32)
    validation = get_validation_set(2, None)
    testing = get_testing_set(SimpleNamespace(testdata=None, upscale_factor=2))
    assert (len(training), len(training.store), len(validation), len(testing)) == (7, 10, 4, 4)
    assert caplog.messages == [embedded_notice()]
    assert "18 photographs" in embedded_notice()
    assert "(10 train, 4 validation, 4 test)" in embedded_notice()
    assert "--traindata DIR" in embedded_notice()


def test_bsds_in_its_place_is_preferred(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_images: MakeImages
) -> None:
    make_images("dataset/BSDS300/images/train", 10)
    make_images("dataset/BSDS300/images/test", 3)
    monkeypatch.chdir(tmp_path)
    assert len(get_training_set(3, None, patch_size=24).store) == 9
    assert len(get_validation_set(3, None)) == 1
    assert len(get_testing_set(SimpleNamespace(testdata=None, upscale_factor=3))) == 3


def test_a_folder_of_ones_own(make_images: MakeImages) -> None:
    directory = str(make_images("mine", 20))
    training = get_training_set(4, directory, patch_size=16, samples=5, seed=3)
    assert (len(training), len(training.store), training.seed) == (5, 18, 3)
    assert training[SampleKey(0, 4)][0].shape == (3, 4, 4)
    assert len(get_validation_set(4, directory)) == 2
    assert len(get_testing_set(SimpleNamespace(testdata=directory, upscale_factor=4))) == 20


def measured(place: str | None, trained: str | None) -> set[str]:
    return {item.name for item in held_out(place, trained)}


def test_a_run_is_measured_on_what_it_did_not_train_on(
    make_images: MakeImages, caplog: pytest.LogCaptureFixture
) -> None:
    plain = str(make_images("plain", 20))
    trained = {image.name for image in get_training_set(2, plain, patch_size=16).store.all_images}
    assert len(measured(None, plain)) == 2
    assert not measured(None, plain) & trained
    assert "plain has no test part: quality is measured on its validation images" in caplog.text
    assert len(measured(plain, plain)) == 20  # given: taken whole, and told
    assert "plain is the folder that the network was trained on, and has no test part" in caplog.text
    caplog.clear()
    other = str(make_images("other", 3))
    make_images("parted/train", 4)
    parted = str(make_images("parted/test", 5).parent)
    assert len(measured(other, plain)) == 3
    assert len(measured(None, parted)) == len(measured(parted, parted)) == 5
    assert measured(None, None) == {"brick", "camera", "coffee", "ihc"}  # the embedded photographs have every part
    assert caplog.text == ""


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        get_training_set(2, tmp_path / "absent")
