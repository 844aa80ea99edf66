"""`test.py --dump-features`: a run's network, its layers by name."""

from pathlib import Path

import numpy as np
import pytest

from compress.errors import UserError
from tests.engine.conftest import TrainerOf
from tests.engine.test_tester import evaluation


def test_a_super_resolution_run_writes_its_features_and_nothing_else(trainer_of: TrainerOf) -> None:
    trainer_of("--nEpochs=1", "--run=a").run()
    it, opt = evaluation("--run=a", "--dump-features=out.npz", "--layers=mid_part.1,last_part", "--num=1")
    before = set(Path().rglob("*"))
    assert it.run(opt)["features"] == "out.npz"
    assert set(Path().rglob("*")) - before == {Path("out.npz")}
    found = np.load("out.npz", allow_pickle=False)
    assert found["mid_part.1"].shape == (1, 32, 24, 24)
    assert found["last_part"].shape == (1, 12, 24, 24)


def test_a_layer_that_is_not_there_is_named(trainer_of: TrainerOf) -> None:
    trainer_of("--nEpochs=1", "--run=a").run()
    it, opt = evaluation("--run=a", "--dump-features=out.npz", "--layers=mid_part.11")
    with pytest.raises(UserError, match="'mid_part.11' matches no layer"):
        it.run(opt)
