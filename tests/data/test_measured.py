"""What quality was measured on is known of every application's data."""

from types import SimpleNamespace

from compress.analysis.measured_words import measured_words
from data.Classify_data.formats.digits import WHERE, digits
from data.data import get_validation_set
from data.data_fingerprint import EMBEDDED
from data.Deblur_data.loaders import deblur_training_loaders
from data.measured import facts_of
from tests.data.conftest import MakeImages, held_out


def test_the_embedded_photographs() -> None:
    assert facts_of(get_validation_set(2)) == {"data": EMBEDDED, "part": "validation", "images": 4}
    facts = facts_of(held_out(None, None))
    assert measured_words(facts) == "4 images: the test part of the embedded photographs"


def test_a_folder_by_its_name(make_images: MakeImages) -> None:
    folder = make_images("plain", 10)
    assert measured_words(facts_of(get_validation_set(2, folder))) == f"1 image: the validation part of {folder}"
    assert measured_words(facts_of(held_out(str(folder), None))) == f"10 images: {folder}"
    assert facts_of(held_out(None, str(folder)))["part"] == "validation"  # it has no test part


def test_deblurring_counts_blurred_images(make_images: MakeImages) -> None:
    options = {"sharp_only": True, "blur_length": 10.0, "patch_size": 32, "samples": 4, "seed": 0}
    config = SimpleNamespace(traindata=str(make_images("sharp", 10)), batchSize=2, workers=0, **options)
    _, validation = deblur_training_loaders(config)
    facts = facts_of(validation.dataset)
    assert facts["part"] == "validation"
    assert facts["images"] == len(validation.dataset) == 2  # one photograph, two blurs


def test_parts_of_classification_data() -> None:
    layout = digits()
    parts = {part: layout.open(part).part for part in ("train", "validation", "test")}
    assert parts == {"train": "train", "validation": "validation", "test": "test"}
    assert layout.open("test").where == WHERE


def test_a_data_set_of_the_callers_own_has_its_length() -> None:
    facts = facts_of([0, 1, 2])
    assert measured_words(facts) == "3 images"
    assert measured_words(facts_of(iter([0]))) == "data of the caller's own"
