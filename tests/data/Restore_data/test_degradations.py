"""What is done to sharp images: as its text says, the same for the same seed, the same inside a crop."""

import io
import itertools
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from compress.errors import UserError
from data.images import ImageFile
from data.pair_sets import PairCrops, PairImages
from data.pairs import Degradation, DegradedImages, inside
from data.Restore_data.degradations import Change, degradation_of
from options.own_network import parts_of

SHARP = np.random.default_rng(0).integers(60, 200, (3, 64, 80), dtype=np.uint8)


def refused(name: str) -> Change:
    raise UserError(f"not typed: {name}")


def made_of(text: str, own: Callable[[str], Change] = refused) -> Degradation:
    return degradation_of(parts_of(text), own)


def degraded(text: str, seed: int = 0, sharp: np.ndarray = SHARP) -> np.ndarray:
    return made_of(text).whole(sharp, np.random.default_rng(seed))


def test_noise_has_its_standard_deviation_and_follows_the_seed() -> None:
    difference = degraded("noise:10").astype(int) - SHARP
    assert abs(difference.std() - 10) < 0.3
    assert abs(difference.mean()) < 0.3
    assert np.array_equal(degraded("noise:10"), degraded("noise:10"))
    assert not np.array_equal(degraded("noise:10"), degraded("noise:10", seed=1))


def test_jpeg_blur_and_downup_are_what_their_names_say() -> None:
    buffer = io.BytesIO()
    Image.fromarray(SHARP.transpose(1, 2, 0)).save(buffer, "JPEG", quality=30)
    assert np.array_equal(degraded("jpeg:30"), np.array(Image.open(buffer)).transpose(2, 0, 1))
    smooth = gaussian_filter(SHARP.astype(float), (0, 1.5, 1.5))
    assert np.abs(inside(degraded("blur:1.5"), 8) - inside(smooth, 8)).mean() < 2  # Pillow's is made of boxes
    flat = np.full((3, 32, 40), 77, np.uint8)
    assert np.array_equal(degraded("downup:4", sharp=flat), flat)
    assert degraded("downup:3").shape == SHARP.shape  # 80 is no multiple of 3


@pytest.mark.parametrize("text", ["noise:25+jpeg:40", " noise:25.0 + jpeg:4e1"])
def test_it_is_written_the_same_way_each_time(text: str) -> None:
    """Networks are compared only where it is equal."""
    assert made_of(text).facts() == {"degradation": "noise:25+jpeg:40"}


@pytest.mark.parametrize("text", ["blur:1.5", "downup:2", "blur:1+downup:2"])
def test_a_crop_is_the_inside_of_the_degraded_image(text: str) -> None:
    """What lies around a crop reaches into it, as it does at work."""
    degradation = made_of(text)
    draw = np.random.default_rng(0)
    margin, top, left = degradation.margin, 4, 6
    assert 0 < margin < 20
    sharp = np.random.default_rng(1).integers(0, 256, (3, 96, 96), dtype=np.uint8)
    wide = sharp[:, top : top + 16 + 2 * margin, left : left + 16 + 2 * margin]
    whole = degradation.whole(sharp, draw)[:, top + margin : top + margin + 16, left + margin : left + margin + 16]
    difference = np.abs(degradation.crop(wide, draw).astype(int) - whole)
    assert difference.max() <= 1


def test_parts_are_applied_in_their_order() -> None:
    both = degraded("blur:2+noise:20").astype(int) - degraded("blur:2")
    assert abs(both.std() - 20) < 1
    assert np.abs(degraded("noise:20+blur:2").astype(int) - degraded("blur:2")).std() < 8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("noise:10,jpeg:20", "'noise:10,jpeg:20' is not one part; several are joined by"),
        ("noise:10+", "there is nothing beside a"),
        ("noize:25", "unknown part 'noize:25'; did you mean 'noise'"),
        ("noise", "'noise' must be noise:N, N a standard deviation in grey levels"),
        ("noise:abc", "'noise:abc' must be noise:N, N a standard deviation in grey levels, a number from 0.1 to 255"),
        ("noise:nan", "must be noise:N"),
        ("jpeg:0", "must be jpeg:N, N a quality, a whole number from 1 to 100"),
        ("jpeg:20.5", "a whole number"),
        ("downup:1", "a whole number from 2 to 8"),
        ("noise:1_0", "must be noise:N"),
        ("noise:\u0661\u0660", "must be noise:N"),
        ("noise:1e999", "must be noise:N"),
        ("noise:5+own.py:", "'own.py:' names no function; write own.py:FUNCTION"),
        ("own.py:3", "'own.py:3' names no function; write own.py:FUNCTION"),
        ("../a+b/own.py:dark+noise:5", r"not typed: ../a\+b/own.py:dark"),
        ("blur:2+", "there is nothing beside a"),
        ("mine.py:dark", "not typed: mine.py:dark"),
        ("package.mine:dark+noise:2", "not typed: package.mine:dark"),
    ],
)
def test_what_is_not_there_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        made_of(text)


def test_ones_own_must_give_an_image() -> None:
    made = made_of("mine.py:dark", lambda name: lambda pixels, draw: pixels // 2)
    assert np.array_equal(made.whole(SHARP, np.random.default_rng(0)), SHARP // 2)
    with pytest.raises(UserError, match="mine.py:dark gave float64 of shape .* it must give the same kind and shape"):
        made_of("mine.py:dark", lambda name: lambda pixels, draw: pixels / 2)


@pytest.mark.parametrize("drawn", [np.random.rand, random.random, lambda: torch.rand(1)])
def test_ones_own_draws_from_no_global_generator_at_any_call(drawn: Callable[[], object]) -> None:
    tried = iter(range(6))

    def later(pixels: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        if next(tried, None) is None:
            drawn()
        return pixels

    made = made_of("mine.py:rare", lambda name: later)
    with pytest.raises(UserError, match="mine.py:rare draws from, or seeds, a generator of numpy.random, random or to"):
        made.whole(SHARP, np.random.default_rng(0))


def test_ones_own_is_the_same_at_other_sizes_and_calls() -> None:
    fresh, calls = np.random.default_rng(), itertools.count()
    for change in (
        lambda pixels, draw: pixels if len(pixels) == 128 else pixels // (1 + fresh.integers(1, 99)).astype(np.uint8),
        lambda pixels, draw: pixels // np.uint8(1 + (next(calls) > 2)),
    ):
        with pytest.raises(UserError, match="mine.py:odd gives something else each time"):
            made_of("mine.py:odd", lambda name, change=change: change)


def test_samples_follow_seed_epoch_and_number(tmp_path: Path) -> None:
    Image.fromarray(SHARP.transpose(1, 2, 0)).save(tmp_path / "a.png")
    files = [ImageFile("a", tmp_path / "a.png")]
    sets = [PairCrops(DegradedImages(files, made_of("noise:9+blur:1")), 24, 4, 7) for _ in range(2)]
    for key in (0, 3, 1):
        one, other = sets[0][key], sets[1][key]
        assert all(bool((a == b).all()) for a, b in zip(one, other, strict=True))
    assert not bool((sets[0][0][0] == sets[0][1][0]).all())
    whole = PairImages(DegradedImages(files, made_of("noise:9")))
    assert [item.name for item in whole] == ["a"]
    item, again = whole[0], whole[0]
    assert bool((item.degraded == again.degraded).all())
    assert item.baseline is item.degraded
