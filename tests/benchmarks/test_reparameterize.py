"""The paired difference of two trainings: what is trained, and the interval."""

from typing import Any

import numpy as np
import pytest

from benchmarks import reparameterize

PSNR = {"ecbsr": [33.0, 33.2, 33.1, 33.3, 33.15], "plainsr": [32.9, 33.15, 33.05, 33.1, 33.1]}


def test_pairs_by_seed_and_their_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, list[str]]] = []

    def one(application: Any, training: list[str], run_name: str, validation: bool) -> dict[str, dict[str, float]]:
        asked.append((run_name, training))
        _, which, seed = run_name.split("-")
        return {"psnr": {"bicubic": 31.0, "model": PSNR[which][int(seed[1:])]}}

    monkeypatch.setattr(reparameterize.seeds, "one", one)
    text = reparameterize.run(["--name=a", "--threads=1"])
    assert len(asked) == 10
    assert asked[0][1] == ["--optform=SR", "--arch=ecbsr", "--compress=reparameterize.yaml", "--threads=1", "--seed=0"]
    assert asked[1][1] == ["--optform=SR", "--arch=plainsr", "--compress=baseline.yaml", "--threads=1", "--seed=0"]
    differences = np.subtract(PSNR["ecbsr"], PSNR["plainsr"])
    half = 2.7764451 * differences.std(ddof=1) / 5**0.5  # t of 4 degrees of freedom, from a printed table
    assert f"psnr: ecbsr - plainsr = {differences.mean():+.4f}" in text
    assert f"[{differences.mean() - half:+.4f}, {differences.mean() + half:+.4f}]" in text


def test_one_seed_has_no_interval() -> None:
    assert reparameterize.interval([0.5]) == (0.5, float("inf"))
