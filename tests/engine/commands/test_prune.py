"""`test.py --prune`: dense beside pruned and L1 norms, a checkpoint that is evaluated, refusals."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from apputils.checkpoints.file import load_checkpoint
from compress.errors import UserError
from compress.pruning.one_shot.prune import OneShot
from data.loaders import sr_testing_loader
from engine.commands.prune import DENSE, NORMS, PRUNED, PruneRequest, _why_empty, recovered
from engine.saved.find_checkpoint import find_subject
from models.SR.tester import XSRCNNTester
from options.Normal_options.test_options import TestOptions
from tests.engine.conftest import TrainerOf


def subject_of(*arguments: str) -> Any:
    calibration = ["--calibration=2"] * any(each.startswith("--prune") for each in arguments)
    options = ["--testdata=images/val", "--no-report", "--no-export", "--sense=none", *calibration, *arguments]
    opt, checkpoint = find_subject(TestOptions().parse(options))
    return XSRCNNTester(opt, sr_testing_loader(opt, checkpoint)), opt


def test_nothing_is_recovered_where_norms_lose_nothing() -> None:
    assert recovered(90.0, 50.0, 80.0) == 0.75
    assert recovered(31.41, 31.47, 31.41) is None
    assert recovered(31.41, 31.41, 31.0) is None


@pytest.mark.parametrize(("uncarried", "share"), [((), 0.75), (("norm",), None)])
def test_nothing_is_claimed_where_statistics_are_not_carried(uncarried: tuple[str, ...], share: float | None) -> None:
    tester: Any = SimpleNamespace(
        baseline=lambda: ("trivial", {"psnr": 20.0}), folders=SimpleNamespace(name="a"), data_facts=dict
    )
    found = OneShot(nn.Identity(), {}, 0.5, 0.3, (), uncarried)
    measured = {DENSE: {"psnr": 90.0}, NORMS: {"psnr": 50.0}, PRUNED: {"psnr": 80.0}}
    result = PruneRequest("macs", 0.5, 2, False)._result(tester, found, found, measured, 64)
    assert result["recovered"] == {"psnr": share}
    assert result["uncarried"] == list(uncarried)
    assert ("the statistics that norm hold are not carried over" in _why_empty(result)) == bool(uncarried)


@pytest.mark.slow  # 15 s
def test_dense_pruned_and_reloaded(trainer_of: TrainerOf) -> None:
    trainer_of("--nEpochs=1", "--run=a", "--compress=schedule.yaml").run()
    tester, opt = subject_of("--prune=macs=0.8")
    result = tester.run(opt)
    assert json.loads(Path("results/a/one_shot.json").read_text()) == result
    psnr = result["quality"]["psnr"]
    assert psnr["dense"] == pytest.approx(tester.test(tester.build_model())["psnr"])
    assert result["recovered"]["psnr"] == pytest.approx(
        (psnr["pruned"] - psnr["L1 norms"]) / (psnr["dense"] - psnr["L1 norms"])
    )
    assert 0.6 < result["left"]["pruned"] <= 0.8
    content = load_checkpoint(Path("results/a/pruned.pt"))
    assert "optimizer" not in content
    assert sum(result["removed"].values()) > 0
    again, opt = subject_of("--model=results/a/pruned.pt")
    model = again.build_model()
    assert sum(p.numel() for p in model.parameters()) == result["parameters"][1] < result["parameters"][0]
    assert again.test(model)["psnr"] == pytest.approx(psnr["pruned"])


@pytest.mark.parametrize("given", ["0.7", "macs", "macs=1", "macs=0", "latency=0.5", "macs=x"])
def test_other_values_are_refused(given: str) -> None:
    with pytest.raises(UserError, match="give macs=X or params=X"):
        PruneRequest.of(TestOptions().parse([f"--prune={given}"]))


def test_without_data_and_without_batch_norm_is_refused(trainer_of: TrainerOf) -> None:
    trainer_of("--nEpochs=1", "--run=a").run()
    tester, opt = subject_of("--prune=macs=0.8", "--calibration-data=generated")
    with pytest.raises(UserError, match="Net has no BatchNorm with running statistics"):
        tester.run(opt)
