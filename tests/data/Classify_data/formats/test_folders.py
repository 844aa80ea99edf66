"""`classes.txt`: the network's classes, of which the folders are some."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compress.errors import UserError
from data.Classify_data.find_dataset import place_layout


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for part, name in (("train", "10"), ("train", "2"), ("test", "2")):
        folder = tmp_path / part / name
        folder.mkdir(parents=True)
        for i in range(2):
            Image.fromarray(np.full((4, 4, 3), 9 * i, np.uint8)).save(folder / f"{i}.png")
    return tmp_path


def test_labels_are_places_in_the_list(place: Path) -> None:
    (place / "classes.txt").write_text("".join(f"{i}\n" for i in range(12)))
    parts = {part: place_layout(place).open(part) for part in ("train", "validation", "test")}
    assert all(source.classes == tuple(map(str, range(12))) for source in parts.values())
    assert sorted(parts["train"].labels) == [2, 10]
    assert sorted(parts["validation"].labels) == [2, 10]
    assert parts["test"].labels == [2, 2]
    assert [name.split("/")[0] for name in parts["test"].names] == ["2", "2"]


def test_without_it_the_folders_are_the_classes(place: Path) -> None:
    assert place_layout(place).open("train").classes == ("2", "10")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\n10\n", "classes.txt does not list the class '2'"),
        ("2\n10\n2\n", "names 2 twice"),
        ("\n\n", "is empty"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_a_wrong_list_is_refused(place: Path, text: str | bytes, message: str) -> None:
    (place / "classes.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message):
        place_layout(place).open("train")
