"""Which files of a user's folder belong to which part."""

from pathlib import Path

import pytest

from compress.errors import UserError
from data.folders import folder_pictures
from tests.data.conftest import MakePictures


def names(directory: Path, part: str) -> list[str]:
    return [picture.name for picture in folder_pictures(directory, part)]


def test_a_plain_folder_gives_a_tenth_to_validation(make_pictures: MakePictures) -> None:
    directory = make_pictures("mine", 20, (4, 4))
    (directory / "notes.txt").write_text("not an image")
    train, validation = names(directory, "train"), names(directory, "validation")
    assert (len(train), len(validation)) == (18, 2)
    assert not set(train) & set(validation)
    assert names(directory, "validation") == validation
    assert len(names(directory, "test")) == 20


def test_a_name_stays_on_its_side_in_another_folder(make_pictures: MakePictures) -> None:
    assert names(make_pictures("a", 20, (4, 4)), "validation") == names(make_pictures("b", 20, (4, 4)), "validation")


def test_bsds_layout(make_pictures: MakePictures) -> None:
    make_pictures("BSDS300/images/train", 10, (4, 4))
    root = make_pictures("BSDS300/images/test", 3, (4, 4)).parent
    for directory in (root, root.parent):
        assert len(names(directory, "train")) == 9
        assert len(names(directory, "validation")) == 1
        assert names(directory, "test") == ["0", "1", "2"]


def test_augmented_copies_stay_with_their_picture(make_pictures: MakePictures) -> None:
    folder = make_pictures("images/train_aug", 20, (4, 4))
    make_pictures("images/train", 3, (4, 4))
    for file in list(folder.iterdir()):
        file.rename(folder / f"{100 + int(file.stem) // 2}_turned{int(file.stem) % 2}.png")
    train, validation = names(folder.parent, "train"), names(folder.parent, "validation")
    assert (len(train), len(validation)) == (18, 2)
    assert not {name[:3] for name in train} & {name[:3] for name in validation}


def test_a_validation_folder_is_used(make_pictures: MakePictures) -> None:
    root = make_pictures("set/train", 3, (4, 4)).parent
    make_pictures("set/val", 2, (4, 4))
    assert (len(names(root, "train")), len(names(root, "validation"))) == (3, 2)


def test_a_validation_folder_beside_plain_files(make_pictures: MakePictures) -> None:
    root = make_pictures("set", 3, (4, 4))
    make_pictures("set/valid", 1, (4, 4))
    assert (len(names(root, "train")), len(names(root, "validation"))) == (3, 1)


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="absent is not a folder"):
        folder_pictures(tmp_path / "absent", "train")


def test_a_folder_without_pictures(tmp_path: Path) -> None:
    (tmp_path / "read.me").write_text("")
    with pytest.raises(UserError, match=r"holds no image; files ending in \.bmp"):
        folder_pictures(tmp_path, "train")


def test_a_single_picture_cannot_be_split(make_pictures: MakePictures) -> None:
    directory = make_pictures("one", 1)
    with pytest.raises(UserError, match="holds a single readable image; training needs at least two"):
        folder_pictures(directory, "train")
    assert names(directory, "test") == ["0"]


def test_a_folder_that_cannot_be_listed(make_pictures: MakePictures, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = make_pictures("closed", 2)

    def refuse(self: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(UserError, match="closed cannot be read: Permission denied"):
        folder_pictures(directory, "test")


def test_a_file_that_is_no_picture_is_never_the_held_out_part(make_pictures: MakePictures) -> None:
    directory = make_pictures("mixed", 5)
    for name in ("broken.png", "zz_bad.png", "a.png"):
        (directory / name).write_text("no image")
    held_out = folder_pictures(directory, "validation")
    assert [picture.path.name for picture in held_out] != []
    assert all(picture.path.stem.isdigit() for picture in held_out)
    names = {picture.path.name for picture in folder_pictures(directory, "train")}
    assert {"broken.png", "zz_bad.png", "a.png"} <= names  # where they are named and left out
