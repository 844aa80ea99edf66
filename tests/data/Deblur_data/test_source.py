"""Pairs: made on the fly, made by the command, and in every known layout."""

import logging
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from compress.errors import UserError
from data.data_fingerprint import check_same_data
from data.Deblur_data.folders import pairs_of
from data.Deblur_data.loaders import deblur_testing_loader, deblur_training_loaders, source_of
from data.Deblur_data.make_pairs import main
from data.images import ImageFile, Pixels
from data.pair_sets import PairCrops, PairImages
from data.pairs import MANY, FilePairs, PairFiles, usable
from data.sampling import SampleKey
from options.Deblur_options.train_options import TrainOptions


def image(path: Path, seed: int, size: tuple[int, int] = (40, 50)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)


def pixels(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1).float() / 255


def test_crops_follow_from_seed_epoch_and_sample_alone(tmp_path: Path) -> None:
    for i in range(3):
        image(tmp_path / f"{i}.png", i)
    made = [PairCrops(source_of(tmp_path, "test", True, 12.0), 32, 6, seed) for seed in (5, 5, 6)]
    key = SampleKey(2, 4)
    first, again, other = (each[key] for each in made)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[1], other[1])
    assert first[0].shape == first[1].shape == (3, 32, 32)
    assert not torch.equal(first[0], first[1])


def test_a_crop_larger_than_the_image_is_mirrored(tmp_path: Path) -> None:
    image(tmp_path / "a.png", 0, (33, 36))
    blurred, sharp = PairCrops(source_of(tmp_path, "test", True, 12.0), 48, 2)[0]
    assert blurred.shape == sharp.shape == (3, 48, 48)


def test_measured_images_are_the_same_each_time_and_cut_to_four(tmp_path: Path) -> None:
    image(tmp_path / "a.png", 0, (41, 50))
    items = [PairImages(source_of(tmp_path, "test", True, 12.0)) for _ in range(2)]
    assert [item.name for item in items[0]] == ["a_0", "a_1"]
    for one, two in zip(*items, strict=True):
        assert torch.equal(one.degraded, two.degraded)
        assert one.target.shape == (3, 40, 48)
    assert not torch.equal(items[0][0].degraded, items[0][1].degraded)


def test_the_embedded_photographs_are_split_by_image() -> None:
    names = {part: {item.name[:-2] for item in PairImages(source_of(None, part, False, 20.0))} for part in ("test",)}
    assert names["test"] == {"brick", "camera", "coffee", "ihc"}


def test_made_pairs_are_read_back_and_a_second_call_changes_nothing(tmp_path: Path) -> None:
    for i in range(2):
        image(tmp_path / "src" / f"{i}.png", i)
    for _ in range(2):
        main([str(tmp_path / "src"), str(tmp_path / "dst"), "--count=2", "--length=12"])
        blurred = {path.name: path.read_bytes() for path in (tmp_path / "dst" / "blurred").iterdir()}
        (tmp_path / "dst" / "sharp" / "0_1.png").unlink()  # as if interrupted
    main([str(tmp_path / "src"), str(tmp_path / "dst"), "--count=2", "--length=12"])
    assert {path.name: path.read_bytes() for path in (tmp_path / "dst" / "blurred").iterdir()} == blurred
    items = PairImages(source_of(tmp_path / "dst", "test", False, 0.0))
    assert [item.name for item in items] == ["0_0", "0_1", "1_0", "1_1"]
    assert torch.equal(items[2].target, pixels(tmp_path / "src" / "1.png")[:, :, :48])


def test_pairs_of_one_photograph_stay_together_and_have_names_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(3):
        image(tmp_path / "src" / f"p{i}.png", i)
    image(tmp_path / "src" / "p1_0.png", 3)
    image(tmp_path / "src" / "p0.jpg", 4)  # the same stem as p0.png
    source, target = str(tmp_path / "src"), tmp_path / "dst"
    assert main([source, str(target), "--count=3", "--length=12"]) == 0
    assert "15 pairs made, 0 were there" in capsys.readouterr().out
    parts = {part: pairs_of(target, part) for part in ("train", "validation")}  # type: ignore[arg-type]
    assert {part: len(pairs) for part, pairs in parts.items()} == {"train": 12, "validation": 3}
    photographs = {part: {pair.group for pair in pairs} for part, pairs in parts.items()}
    assert photographs["train"] | photographs["validation"] == {"p0.png", "p1.png", "p2.png", "p1_0.png", "p0.jpg"}
    assert not photographs["train"] & photographs["validation"]
    assert not torch.equal(pixels(target / "sharp/p0_0.png"), pixels(target / "sharp/p0_png_0.png"))
    (target / "sharp" / "p2_1.png").unlink()
    image(tmp_path / "src" / "a.png", 5)  # comes first: what is there keeps its name
    assert main([source, str(target), "--count=3", "--length=12"]) == 0
    assert "4 pairs made, 14 were there" in capsys.readouterr().out


def test_pairs_of_other_settings_and_foreign_images_are_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image(tmp_path / "src" / "a.png", 0)
    source, target = str(tmp_path / "src"), tmp_path / "dst"
    assert main([source, str(target), "--length=12"]) == 0
    for other in (["--length=13"], ["--length=12", "--seed=1"]):
        assert main([source, str(target), *other]) == 2
        assert "holds pairs of --length=12 --seed=0" in capsys.readouterr().err
    assert main([source, str(target), "--length=257"]) == 2
    assert "--length from 2 to 256 pixels" in capsys.readouterr().err
    (target / "pairs.json").write_text('{"length": 12')
    with pytest.raises(UserError, match=r"pairs.json is not what make_pairs wrote"):
        pairs_of(target, "test")
    (target / "pairs.json").unlink()
    assert main([source, str(target), "--length=12"]) == 2
    assert "so they were not made by this command" in capsys.readouterr().err


def test_a_wrong_source_or_number_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nowhere"), str(tmp_path / "dst")]) == 2
    assert main([str(tmp_path), str(tmp_path / "dst"), "--count=0"]) == 2
    told = capsys.readouterr().err
    assert "nowhere is not a folder" in told
    assert "--count is from 1 to 10,000" in told


def test_images_that_hold_both_halves(tmp_path: Path) -> None:
    image(tmp_path / "train" / "a.png", 0, (40, 80))
    pair = PairImages(FilePairs(pairs_of(tmp_path / "train", "test")))[0]
    both = pixels(tmp_path / "train" / "a.png")
    assert torch.equal(pair.degraded, both[:, :, :40])
    assert torch.equal(pair.target, both[:, :, 40:])


@pytest.mark.parametrize("alike", [True, False])
def test_sharp_images_taken_for_halves_are_warned_of(
    alike: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(12):
        image(tmp_path / f"{number}.png", number, (100, 100))
        if alike:
            half = np.asarray(Image.open(tmp_path / f"{number}.png"))
            Image.fromarray(np.concatenate([half, half // 2 + 64], 1)).save(tmp_path / f"{number}.png")
    caplog.set_level(logging.INFO)
    settings = {"sharp_only": False, "blur_length": 8.0, "patch_size": 16, "samples": 4, "seed": 0}
    deblur_training_loaders(SimpleNamespace(traindata=str(tmp_path), batchSize=2, workers=0, **settings))
    assert "pairs to train on" in caplog.text
    assert ("--sharp-only" in caplog.text) != alike


def test_gopros_scenes_stay_together(tmp_path: Path) -> None:
    for scene in range(5):
        for kind in ("blur", "sharp"):
            for frame in range(3):
                image(tmp_path / "train" / f"GOPR{scene}" / kind / f"{frame}.png", frame)
    held_out, train = pairs_of(tmp_path, "validation"), pairs_of(tmp_path, "train")
    assert (len(held_out), len(train)) == (3, 12)
    assert len({pair.group for pair in held_out}) == 1
    assert not {pair.group for pair in held_out} & {pair.group for pair in train}
    assert pairs_of(tmp_path / "train", "train") == train  # named by its train folder


def test_without_a_test_part_the_held_out_pairs_are_measured(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for kind in ("blurred", "sharp"):
        for i in range(12):
            image(tmp_path / kind / f"{i}.png", i)

    def tested(given: Path | None) -> set[str]:
        options = {"traindata": str(tmp_path), "sharp_only": False, "blur_length": 40.0}
        opt = SimpleNamespace(testdata=None if given is None else str(given), sharp_only=False)
        return {item.name for item in deblur_testing_loader(opt, {"options": options, "task": {}})}

    trained = {pair.name for pair in pairs_of(tmp_path, "train")}
    assert len(tested(None)) == 1
    assert not tested(None) & trained
    assert "has no test part: quality is measured on its validation images" in caplog.text
    assert len(tested(tmp_path)) == 12
    assert "most of these images were trained on" in caplog.text


def test_a_folder_that_appears_later_is_not_taken_for_what_was_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`dataset/Deblur/train` is looked for first; a run that began without it continues, and is tested, without it."""
    monkeypatch.chdir(tmp_path)

    def facts() -> dict[str, Any]:
        return deblur_training_loaders(TrainOptions().parse(["--optform=Deblur"]))[0].dataset.origin.facts  # type: ignore[attr-defined]

    before = facts()
    assert (before["place"], before["files"]) == (None, 14)
    for kind in ("blurred", "sharp"):
        for i in range(3):
            image(tmp_path / "dataset/Deblur/train" / kind / f"{i}.png", i)
    after = facts()
    assert (after["place"], after["files"]) == ("dataset/Deblur/train", 6)
    wanted = r"the embedded photographs \(14 files\); here it would continue with dataset/Deblur/train \(6 files\)"
    with pytest.raises(UserError, match=wanted):
        check_same_data(before, after)
    options = {"traindata": None, "sharp_only": False, "blur_length": 40.0}
    opt = SimpleNamespace(testdata=None, sharp_only=False)
    tested = [
        {item.name for item in deblur_testing_loader(opt, {"options": options, "task": {"data": each}})}
        for each in (before, after)
    ]
    assert [len(names) for names in tested] == [8, 1]
    assert "coffee_0" in tested[0]


def test_a_image_without_its_other_half_is_named(tmp_path: Path) -> None:
    image(tmp_path / "sharp" / "a.png", 0)
    image(tmp_path / "sharp" / "b.png", 1)
    image(tmp_path / "blurred" / "a.png", 0)
    with pytest.raises(UserError, match=r"b.png is not in blurred/ \(1 images have no other half\)"):
        pairs_of(tmp_path, "test")


def test_pairs_of_two_sizes_are_left_out_and_none_is_an_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image(tmp_path / "sharp" / "a.png", 0, (40, 50))
    image(tmp_path / "blurred" / "a.png", 0, (40, 48))
    with pytest.raises(UserError, match="no usable image"):
        FilePairs(pairs_of(tmp_path, "test"))
    assert "blurred is 48 x 40 pixels, sharp 50 x 40" in caplog.text


def test_many_pairs_are_not_read_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: Any
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    pairs = [PairFiles(str(i), ImageFile(str(i), tmp_path / f"{i}.png")) for i in range(MANY)]

    def load(pair: PairFiles) -> tuple[Pixels, ...]:
        if pair.name == "7":
            raise ValueError("damaged")
        return ()

    with caplog.at_level(logging.INFO):
        kept, _ = usable(pairs, load)
    assert [pair.name for pair in kept] == [str(i) for i in range(MANY) if i != 7]
    assert f"reading {MANY} images in {tmp_path} once" in caplog.text
    assert "7.png: damaged" in caplog.text
    assert f"/{MANY}" in capsys.readouterr().err


def test_a_folder_without_pairs_names_the_forms(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(UserError, match="known forms: blurred/ and sharp/"):
        pairs_of(tmp_path, "test")


def test_of_many_large_pairs_only_heads_are_read_and_the_next_pair_stands_in(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(4):
        image(tmp_path / "sharp" / f"{number}.png", number)
        image(tmp_path / "blurred" / f"{number}.png", number + 10)
    image(tmp_path / "sharp" / "4.png", 4, (20, 50))
    image(tmp_path / "blurred" / "4.png", 4, (20, 50))
    whole = (tmp_path / "blurred" / "2.png").read_bytes()
    (tmp_path / "blurred" / "2.png").write_bytes(whole[:-300])
    pairs = pairs_of(tmp_path, "test")
    kept, pixels = usable(pairs, PairFiles.load, lazily=True, memory_budget=100)
    assert [pair.name for pair in kept] == list("0123")
    assert "4.png: a side is below 32 pixels" in caplog.text
    assert "2.png: it cannot be decoded" not in caplog.text
    sent = pickle.loads(pickle.dumps(pixels))
    for each in (pixels, sent):
        assert all(np.array_equal(a, b) for a, b in zip(each[2], kept[3].load(), strict=True))
    assert "2.png: it cannot be decoded (blurred/2.png: " in caplog.text
    assert "the next file stands in for it" in caplog.text
