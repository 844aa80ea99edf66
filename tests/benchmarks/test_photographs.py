"""The folder of photographs of Debian's packages."""

from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import photographs


def test_the_parts_are_as_the_page_says() -> None:
    parts = Counter(map(photographs.part, range(photographs.COUNT)))
    assert parts == {
        "train": 18,
        "val": 3,
        "test": 6,
    }


def test_the_longer_side_is_reduced_and_a_small_image_stays() -> None:
    assert photographs.reduced(Image.new("RGBA", (200, 100)), 50).size == (50, 25)
    assert photographs.reduced(Image.new("RGB", (30, 40)), 50).size == (30, 40)
    assert photographs.reduced(Image.new("RGBA", (200, 100))).mode == "RGB"


def test_photographs_of_both_packages_are_found_by_name_and_nothing_else(tmp_path: Path) -> None:
    nature = tmp_path / "mate" / "nature"
    nature.mkdir(parents=True)
    for path in (tmp_path / "lake_by_Someone.jpg", tmp_path / "logo.jpg", nature / "Dune.jpg", nature / "notes.txt"):
        path.touch()
    assert [path.name for path in photographs.photographs(tmp_path)] == ["Dune.jpg", "lake_by_Someone.jpg"]


def test_without_the_packages_their_names_are_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(photographs, "PLACE", tmp_path)
    monkeypatch.setattr(photographs, "photographs", list)
    monkeypatch.setattr("sys.argv", ["photographs.py", str(tmp_path / "folder")])
    with pytest.raises(SystemExit, match="0 of 27 photographs in .*: apt-get install lomiri-wallpapers"):
        photographs.main()
    assert not (tmp_path / "folder").exists()
