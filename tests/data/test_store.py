"""Pairs of low and high resolution, the memory budget, and files that cannot be used."""

import logging
import pickle
from collections.abc import Iterable
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from compress.errors import UserError
from data import decoding
from data.images import ImageFile
from data.store import PairStore
from tests.data.conftest import MakeImages


def all_images(directory: Path) -> list[ImageFile]:
    return [ImageFile(path.stem, path) for path in sorted(directory.iterdir())]


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_low_resolution_is_pillows_bicubic_of_the_cropped_image(make_images: MakeImages, scale: int) -> None:
    directory = make_images("p", 1, (41, 37))
    pair = PairStore(all_images(directory), scale)[0]
    width, height = 41 // scale * scale, 37 // scale * scale
    cropped = Image.open(directory / "0.png").crop((0, 0, width, height))
    expected = cropped.resize((width // scale, height // scale), Image.Resampling.BICUBIC)
    assert np.array_equal(pair.high, np.array(cropped).transpose(2, 0, 1))
    assert np.array_equal(pair.low, np.array(expected).transpose(2, 0, 1))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1"])
def test_every_mode_becomes_three_channels(make_images: MakeImages, mode: str) -> None:
    directory = make_images("p", 1, mode=mode)
    assert PairStore(all_images(directory), 2)[0].high.shape == (3, 36, 40)


def test_sixteen_bit_grey_keeps_its_range(tmp_path: Path) -> None:
    grey = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1024
    Image.fromarray(grey).save(tmp_path / "deep.png")
    high = PairStore(all_images(tmp_path), 2)[0].high
    assert np.array_equal(high, np.repeat((grey >> 8).astype(np.uint8)[None], 3, axis=0))


def test_beyond_the_budget_pairs_are_decoded_again(make_images: MakeImages, monkeypatch: pytest.MonkeyPatch) -> None:
    candidates = all_images(make_images("p", 12))
    one_pair = 40 * 36 * 3 + 20 * 18 * 3
    kept, tight = PairStore(candidates, 2), PairStore(candidates, 2, memory_budget=2 * one_pair)
    decoded: list[str] = []
    load = ImageFile.load
    monkeypatch.setattr(ImageFile, "load", lambda self: (decoded.append(self.name), load(self))[1])
    for index in range(12):
        assert all(np.array_equal(a, b) for a, b in zip(kept[index], tight[index], strict=True))
    assert len(decoded) == 10
    assert tight[11] is tight[11]
    assert len(decoded) == 10
    assert len(tight._entries._recent) == decoding.RECENT


@pytest.mark.parametrize("budget", [decoding.MEMORY_BUDGET, 0])
def test_damaged_and_small_files_are_skipped_by_name(
    budget: int, make_images: MakeImages, caplog: pytest.LogCaptureFixture
) -> None:
    directory = make_images("p", 2)
    whole = (directory / "0.png").read_bytes()
    (directory / "cut.png").write_bytes(whole[: len(whole) // 2])
    (directory / "text.png").write_text("hello")
    Image.new("RGB", (8, 40)).save(directory / "thin.png")
    Image.effect_noise((40, 40), 50).save(directory / "half.jpg")
    (directory / "half.jpg").write_bytes((directory / "half.jpg").read_bytes()[:600])
    with caplog.at_level(logging.WARNING):
        found = PairStore(all_images(directory), 2, smallest=16, memory_budget=budget)
    assert [image.name for image in found.all_images] == ["0", "1"]
    messages = "\n".join(caplog.messages)
    assert "cut.png: it cannot be decoded" in messages
    assert "text.png: it cannot be decoded" in messages
    assert "thin.png: it has a side below 16 pixels" in messages
    assert "half.jpg: it cannot be decoded" in messages
    assert "4 of 6 images were skipped" in messages


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "bmp"])
def test_the_side_of_a_file_is_found_without_its_pixels(ending: str, tmp_path: Path) -> None:
    Image.effect_noise((50, 37), 50).save(tmp_path / f"it.{ending}")
    assert ImageFile("it", tmp_path / f"it.{ending}").smaller_side() == 37


def test_nothing_usable(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(UserError, match=r"no usable image in .*: 1 of 1 files were skipped"):
        PairStore(all_images(tmp_path), 2)
    with pytest.raises(UserError, match="no usable image: 0 of 0"):
        PairStore([], 2)


def test_the_scale_is_checked(make_images: MakeImages) -> None:
    with pytest.raises(UserError, match="the upscale factor is 5; allowed are 2, 3 and 4"):
        PairStore(all_images(make_images("p", 1)), 5)


def damaged_at_its_end(directory: Path, name: str) -> None:
    """Its head is whole, so that only decoding it finds the fault."""
    path = directory / name
    path.write_bytes(path.read_bytes()[:-200])


def test_of_a_large_folder_only_heads_are_read_beforehand(
    make_images: MakeImages, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    directory = make_images("p", 6)
    (directory / "text.png").write_text("hello")
    Image.new("RGB", (8, 40)).save(directory / "thin.png")
    monkeypatch.setattr(ImageFile, "load", lambda self: pytest.fail("decoded too early"))
    found = PairStore(all_images(directory), 2, smallest=16, memory_budget=9000, lazily=True)
    assert [image.name for image in found.all_images] == list("012345")
    assert "text.png: it cannot be decoded" in caplog.text
    assert "thin.png: it has a side below 16 pixels" in caplog.text
    assert "2 of 8 images were skipped" in caplog.text


def test_a_folder_that_fits_is_decoded_beforehand(make_images: MakeImages, caplog: pytest.LogCaptureFixture) -> None:
    directory = make_images("p", 3)
    damaged_at_its_end(directory, "1.png")
    assert [image.name for image in PairStore(all_images(directory), 2, lazily=True).all_images] == ["0", "2"]
    assert "1.png: it cannot be decoded" in caplog.text


@pytest.mark.parametrize("order", [range(4), reversed(range(4))])
def test_the_next_image_stands_in_for_a_damaged_one(
    order: Iterable[int], make_images: MakeImages, caplog: pytest.LogCaptureFixture
) -> None:
    whole = PairStore(all_images(make_images("whole", 4)), 2)
    directory = make_images("p", 4)
    for name in ("0.png", "3.png"):
        damaged_at_its_end(directory, name)
    found = PairStore(all_images(directory), 2, memory_budget=9000, lazily=True)
    for place in order:
        assert np.array_equal(found[place].high, whole[{0: 1, 3: 1}.get(place, place)].high)
    assert [message.count("stands in for it") for message in caplog.messages] == [1, 1]
    assert "0.png: it cannot be decoded" in caplog.text
    with_workers = DataLoader(found, batch_size=None, num_workers=2)
    assert all(torch.equal(pair[1], torch.from_numpy(found[i].high)) for i, pair in enumerate(with_workers))


def test_no_image_of_a_large_folder_decodes(make_images: MakeImages) -> None:
    directory = make_images("p", 2)
    for name in ("0.png", "1.png"):
        damaged_at_its_end(directory, name)
    found = PairStore(all_images(directory), 2, memory_budget=0, lazily=True)
    with pytest.raises(UserError, match="none of 2 images can be decoded"):
        found[0]


def test_a_file_that_is_damaged_during_a_run_is_named(make_images: MakeImages) -> None:
    directory = make_images("p", 2)
    found = PairStore(all_images(directory), 2, memory_budget=0)
    damaged_at_its_end(directory, "1.png")
    with pytest.raises(UserError, match=r"1.png can no longer be decoded .*; it could when its folder was read"):
        found[1]


def test_workers_share_the_budget(make_images: MakeImages, monkeypatch: pytest.MonkeyPatch) -> None:
    found = PairStore(all_images(make_images("p", 6)), 2, memory_budget=4 * 40 * 36 * 3, lazily=True)
    monkeypatch.setattr(decoding, "get_worker_info", lambda: SimpleNamespace(num_workers=2))
    for place in range(6):
        assert found[place].high.shape == (3, 36, 40)
    assert len(found._entries._kept) == 2


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_crop_is_cut_out_of_the_whole_pair(make_images: MakeImages, scale: int) -> None:
    candidates = all_images(make_images("p", 1, (49, 43)))
    whole, unread = PairStore(candidates, scale), PairStore(candidates, scale, memory_budget=1000, lazily=True)
    (height, width), side = whole.size(0), 4
    assert unread.size(0) == (height, width)
    for corner in product(range(height - side + 1), range(width - side + 1)):
        pairs = [store.crop(0, corner, side) for store in (whole, unread)]
        assert all(np.array_equal(a, b) for a, b in zip(*pairs, strict=True))
        assert pairs[1].low.shape == (3, side, side)
        assert pairs[1].high.shape == (3, side * scale, side * scale)


def test_a_store_can_be_sent_to_another_process(make_images: MakeImages) -> None:
    for lazily in (False, True):
        found = PairStore(all_images(make_images("p", 2)), 2, memory_budget=9000, lazily=lazily)
        assert np.array_equal(pickle.loads(pickle.dumps(found))[1].low, found[1].low)


def test_a_file_that_has_gone_is_no_damaged_one(make_images: MakeImages) -> None:
    directory = make_images("p", 3)
    found = PairStore(all_images(directory), 2, memory_budget=0, lazily=True)
    (directory / "1.png").unlink()
    with pytest.raises(UserError, match=r"1.png cannot be read any more \(No such file or directory\)"):
        found[1]
