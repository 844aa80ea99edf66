"""Which files of a user's folder belong to which part."""

from pathlib import Path

import pytest

from compress.errors import UserError
from data.folders import folder_images
from tests.data.conftest import MakeImages


def names(directory: Path, part: str) -> list[str]:
    return [image.name for image in folder_images(directory, part)]


def test_a_plain_folder_gives_a_tenth_to_validation(make_images: MakeImages) -> None:
    directory = make_images("mine", 20, (4, 4))
    (directory / "notes.txt").write_text("not an image")
    train, validation = names(directory, "train"), names(directory, "validation")
    assert (len(train), len(validation)) == (18, 2)
    assert not set(train) & set(validation)
    assert names(directory, "validation") == validation
    assert len(names(directory, "test")) == 20


def test_a_name_stays_on_its_side_in_another_folder(make_images: MakeImages) -> None:
    assert names(make_images("a", 20, (4, 4)), "validation") == names(make_images("b", 20, (4, 4)), "validation")


def test_bsds_layout(make_images: MakeImages) -> None:
    make_images("BSDS300/images/train", 10, (4, 4))
    root = make_images("BSDS300/images/test", 3, (4, 4)).parent
    for directory in (root, root.parent):
        assert len(names(directory, "train")) == 9
        assert len(names(directory, "validation")) == 1
        assert names(directory, "test") == ["0", "1", "2"]


def test_augmented_copies_stay_with_their_image(make_images: MakeImages) -> None:
    folder = make_images("images/train_aug", 20, (4, 4))
    make_images("images/train", 3, (4, 4))
    for file in list(folder.iterdir()):
        file.rename(folder / f"{100 + int(file.stem) // 2}_turned{int(file.stem) % 2}.png")
    train, validation = names(folder.parent, "train"), names(folder.parent, "validation")
    assert (len(train), len(validation)) == (18, 2)
    assert not {name[:3] for name in train} & {name[:3] for name in validation}


def test_a_validation_folder_is_used(make_images: MakeImages) -> None:
    root = make_images("set/train", 3, (4, 4)).parent
    make_images("set/val", 2, (4, 4))
    assert (len(names(root, "train")), len(names(root, "validation"))) == (3, 2)


def test_a_validation_folder_beside_plain_files(make_images: MakeImages) -> None:
    root = make_images("set", 3, (4, 4))
    make_images("set/valid", 1, (4, 4))
    assert (len(names(root, "train")), len(names(root, "validation"))) == (3, 1)


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="absent is not a folder"):
        folder_images(tmp_path / "absent", "train")


def test_a_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "read.me").write_text("")
    with pytest.raises(UserError, match=r"holds no image; files ending in \.bmp"):
        folder_images(tmp_path, "train")


def test_a_single_image_cannot_be_split(make_images: MakeImages) -> None:
    directory = make_images("one", 1)
    with pytest.raises(UserError, match="holds a single readable image; training needs at least two"):
        folder_images(directory, "train")
    assert names(directory, "test") == ["0"]


def test_a_folder_that_cannot_be_listed(make_images: MakeImages, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = make_images("closed", 2)

    def refuse(self: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(UserError, match="closed cannot be read: Permission denied"):
        folder_images(directory, "test")


def test_a_file_that_is_no_image_is_never_the_held_out_part(make_images: MakeImages) -> None:
    directory = make_images("mixed", 5)
    for name in ("broken.png", "zz_bad.png", "a.png"):
        (directory / name).write_text("no image")
    held_out = folder_images(directory, "validation")
    assert [image.path.name for image in held_out] != []
    assert all(image.path.stem.isdigit() for image in held_out)
    names = {image.path.name for image in folder_images(directory, "train")}
    assert {"broken.png", "zz_bad.png", "a.png"} <= names  # where they are named and left out
