"""The tester: rebuilt from data, measured, imaged."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from apputils.checkpoints.file import load_checkpoint
from compress.errors import UserError
from data.loaders import sr_testing_loader, sr_training_loaders
from engine.commands.find_checkpoint import find_subject
from models.SR.tester import XSRCNNTester
from options.Normal_options.test_options import TestOptions
from tests.engine.conftest import TrainerOf


def evaluation(*arguments: str) -> tuple[XSRCNNTester, SimpleNamespace]:
    opt, checkpoint = find_subject(
        TestOptions().parse(["--testdata=images/val", "--no-export", "--no-report", *arguments])
    )
    return XSRCNNTester(opt, sr_testing_loader(opt, checkpoint)), opt


def test_the_network_is_rebuilt_from_the_checkpoint(trainer_of: TrainerOf) -> None:
    trainer_of("--compress=schedule.yaml", "--upscale_factor=3", "--run=a").run()
    it, _ = evaluation("--run=a")
    model = it.build_model()
    assert model.upscale_factor == 3
    assert not model.training
    best = load_checkpoint(Path("checkpoints/a/best.pt"))["model"]
    assert all(torch.equal(value, best[name]) for name, value in model.state_dict().items())


def test_without_testdata_the_runs_own_held_out_images_are_measured(trainer_of: TrainerOf) -> None:
    trainer_of("--nEpochs=1", "--run=a").run()
    opt, checkpoint = find_subject(TestOptions().parse(["--run=a"]))
    trained, held_out = sr_training_loaders(SimpleNamespace(**checkpoint["options"]))
    tested = [item.name for item in sr_testing_loader(opt, checkpoint)]
    assert tested == [item.name for item in held_out]
    assert not set(tested) & {image.name for image in trained.dataset.store.all_images}  # type: ignore[attr-defined]


def test_summary_and_images(trainer_of: TrainerOf) -> None:
    trainer_of("--compress=schedule.yaml", "--run=a").run()
    it, opt = evaluation()
    before = set(Path().rglob("*"))
    metrics = it.test(it.build_model())
    assert set(Path().rglob("*")) == before  # `test` writes nothing
    summary = it.run(opt)
    assert json.loads(Path("results/a/test_summary.json").read_text()) == summary
    assert summary["quality"]["psnr"]["model"] == pytest.approx(metrics["psnr"])
    assert summary["sparsity"]["scheduled"] == pytest.approx(0.5)
    sheet = Image.open("results/a/images/val0_side_by_side.png")
    assert sheet.size == (4 * 48 + 3 * 4, 48 + 28)
    target = Image.open("results/a/images/val0_target.png")
    assert target.tobytes() == Image.open("images/val/val0.png").tobytes()


def test_the_newest_run_the_one_named_or_a_file(trainer_of: TrainerOf) -> None:
    for run in ("a", "b"):
        trainer_of("--nEpochs=1", f"--run={run}").run()
    find = lambda *arguments: find_subject(TestOptions().parse(list(arguments)))[0].model  # noqa: E731
    assert find() == "checkpoints/b/best.pt"
    assert find("--run=a") == "checkpoints/a/best.pt"
    assert find("--model=checkpoints/a/last.pt") == "checkpoints/a/last.pt"
    assert find("--optform=SR") == "checkpoints/b/best.pt"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--run=a", "--model=schedule.yaml"], "--model excludes --run"),
        (["--model=x.pt"], "--model=x.pt: there is no such file"),
        (["--optform=Other"], "no run in checkpoints/ is of --optform=Other"),
        (["--optform=Other", "--run=a"], "is of --optform=SR, not Other"),
    ],
)
def test_what_cannot_be_tested_is_refused(trainer_of: TrainerOf, arguments: list[str], message: str) -> None:
    trainer_of("--nEpochs=1", "--run=a").run()
    with pytest.raises(UserError, match=message):
        find_subject(TestOptions().parse(arguments))
