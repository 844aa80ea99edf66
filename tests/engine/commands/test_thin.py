"""`--thin`: what is zero in a checkpoint leaves it, with proof, and everything continues from there."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from apputils.checkpoints.file import load_checkpoint, save_checkpoint
from compress.errors import UserError
from data.loaders import sr_testing_loader
from engine.saved.find_checkpoint import find_subject
from models.C2SRCNN.solver import C2SRCNNTrainer
from models.SR.tester import XSRCNNTester
from options.Normal_options.test_options import TestOptions
from options.Normal_options.train_options import TrainOptions
from tests.engine.conftest import TrainerOf

FILTERS = """\
version: 1
pruners:
  half: {class: L1RankedStructureParameterPruner, desired_sparsity: 0.5, weights: ['mid_part.1.weight']}
policies:
  - pruner: {instance_name: half}
    epochs: [0]
"""


def evaluated(*arguments: str) -> dict[str, Any]:
    opt, checkpoint = find_subject(TestOptions().parse(["--testdata=images/val", "--sense=none", *arguments]))
    tester = XSRCNNTester(opt, sr_testing_loader(opt, checkpoint))
    return tester.run(opt)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced and proved on small images; the size is no part of what is tested."""
    monkeypatch.setattr(C2SRCNNTrainer, "example_inputs", lambda self: (torch.zeros(1, 3, 24, 24),))


@pytest.fixture
def masked_run(trainer_of: TrainerOf) -> TrainerOf:
    """A run whose filters are masked and not removed."""
    Path("filters.yaml").write_text(FILTERS)
    trainer_of("--compress=filters.yaml", "--nEpochs=2", "--run=a").run()
    return trainer_of


def test_a_masked_checkpoint_gets_a_thinner_one_beside_it(
    masked_run: TrainerOf, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    best = Path("checkpoints/a/best.pt")
    original = best.read_bytes()
    before = evaluated("--no-export", "--no-report")
    after = evaluated("--no-export", "--no-report", "--thin")
    assert best.read_bytes() == original
    assert after["quality"]["psnr"]["model"] == pytest.approx(before["quality"]["psnr"]["model"], abs=1e-4)
    assert after["params"] < before["params"]
    assert json.loads(Path("results/a/best_thin/test_summary.json").read_text()) == after
    assert "proved: outputs differ by" in caplog.text
    old, thin = load_checkpoint(best), load_checkpoint(Path("checkpoints/a/best_thin.pt"))
    width = old["model"]["mid_part.1.weight"].shape[0]
    assert thin["model"]["mid_part.1.weight"].shape[0] == width - width // 2
    kept = thin["scheduler"]["recipes"][0]["kept"]["mid_part.1.weight"][0]
    assert torch.equal(thin["model"]["mid_part.1.weight"], old["model"]["mid_part.1.weight"][kept])
    assert "mid_part.1.weight" not in thin["scheduler"]["masks"]
    moments = {tuple(each["exp_avg"].shape) for each in thin["optimizer"]["state"].values()}
    assert moments == {tuple(each.shape) for name, each in thin["model"].items()}
    caplog.clear()
    evaluated("--no-export", "--no-report", "--thin", "--model=checkpoints/a/best_thin.pt")  # already thinned
    assert "nothing was thinned: no whole filter or channel is zero" in caplog.text
    assert not Path("checkpoints/a/best_thin_thin.pt").exists()


def test_a_thinned_run_goes_on_with_its_optimizer_to_the_bit(masked_run: TrainerOf) -> None:
    shutil.copytree("checkpoints/a", "checkpoints/b")
    shutil.copytree("logs/a", "logs/b")
    for name in Path("checkpoints/b").glob("*.pt"):
        save_checkpoint(name, {**load_checkpoint(name), "run": "b"})
    whole = masked_run("--resume=a", "--thin", "--nEpochs=4")
    whole.run()
    half = masked_run("--resume=b", "--thin", "--nEpochs=3")
    half.run()
    assert load_checkpoint(Path("checkpoints/b/last.pt"))["scheduler"]["recipes"]
    again = masked_run("--resume=b", "--nEpochs=4")
    again.run()
    one, two = (load_checkpoint(Path(f"checkpoints/{run}/last.pt")) for run in "ab")
    assert all(torch.equal(value, two["model"][name]) for name, value in one["model"].items())
    for number, state in one["optimizer"]["state"].items():
        assert torch.equal(state["exp_avg"], two["optimizer"]["state"][number]["exp_avg"])
    assert len(one["scheduler"]["recipes"]) == 1
    assert one["model"]["mid_part.1.weight"].shape[0] == 16


@pytest.mark.slow
def test_a_thinned_run_trains_as_its_masked_twin(masked_run: TrainerOf) -> None:
    """Trained alike, they have the same weights where those are kept."""
    shutil.copytree("checkpoints/a", "checkpoints/b")
    shutil.copytree("logs/a", "logs/b")
    for name in Path("checkpoints/b").glob("*.pt"):
        save_checkpoint(name, {**load_checkpoint(name), "run": "b"})
    masked_run("--resume=a", "--nEpochs=3").run()
    masked_run("--resume=b", "--thin", "--nEpochs=3").run()
    masked, thin = (load_checkpoint(Path(f"checkpoints/{run}/last.pt")) for run in "ab")
    for name, dims in thin["scheduler"]["recipes"][0]["kept"].items():
        expected = masked["model"][name]
        for dim, kept in dims.items():
            expected = expected.index_select(dim, kept)
        assert torch.allclose(thin["model"][name], expected, atol=2e-5), name


def test_overwrite_replaces_the_checkpoint(masked_run: TrainerOf) -> None:
    evaluated("--no-export", "--no-report", "--thin", "--overwrite", "--model=checkpoints/a/last.pt")
    assert len(load_checkpoint(Path("checkpoints/a/last.pt"))["scheduler"]["recipes"]) == 1
    assert not Path("checkpoints/a/last_thin.pt").exists()
    masked_run("--resume=a", "--nEpochs=3").run()


def test_nothing_to_remove_says_so(trainer_of: TrainerOf, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    trainer_of("--nEpochs=1", "--run=a").run()
    evaluated("--no-export", "--no-report", "--thin")
    assert "nothing was thinned: no whole filter or channel is zero that can leave the network" in caplog.text
    assert not Path("checkpoints/a/best_thin.pt").exists()
    trainer_of("--resume=a", "--thin", "--nEpochs=2").run()
    assert caplog.text.count("nothing was thinned") == 3  # of best.pt and of last.pt


def test_a_filter_that_is_zero_before_a_bias_stays_and_is_named(
    trainer_of: TrainerOf, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    trainer_of("--nEpochs=1", "--run=a").run()
    path = Path("checkpoints/a/best.pt")
    content = load_checkpoint(path)
    content["model"]["mid_part.3.weight"][2] = 0  # its bias is not
    content["model"]["mid_part.5.weight"][1] = 0
    content["model"]["mid_part.5.bias"][1] = 0
    content["model"]["mid_part.7.weight"][:, 4] = 0  # nothing reads unit 4 of mid_part.5
    save_checkpoint(path, content)
    before = evaluated("--no-export", "--no-report")
    after = evaluated("--no-export", "--no-report", "--thin")
    assert "1 units with zero filters stay: a bias or BatchNorm behind them is not zero" in caplog.text
    thin = load_checkpoint(Path("checkpoints/a/best_thin.pt"))["model"]
    assert [thin[f"mid_part.{n}.weight"].shape[0] for n in (3, 5)] == [32, 30]
    assert after["quality"]["psnr"]["model"] == pytest.approx(before["quality"]["psnr"]["model"], abs=1e-4)


@pytest.mark.slow
def test_the_average_goes_along(trainer_of: TrainerOf) -> None:
    Path("filters.yaml").write_text(FILTERS)
    trainer_of("--compress=filters.yaml", "--nEpochs=2", "--run=a", "--ema=0.5").run()
    before = evaluated("--no-export", "--no-report")
    after = evaluated("--no-export", "--no-report", "--thin")
    assert after["quality"]["psnr"]["model"] == pytest.approx(before["quality"]["psnr"]["model"], abs=1e-4)
    assert after["params"] < before["params"]
    trainer_of("--resume=a", "--thin", "--nEpochs=3").run()


def test_a_quantized_network_is_refused(masked_run: TrainerOf) -> None:
    path = Path("checkpoints/a/best.pt")
    content = load_checkpoint(path)
    content["scheduler"]["structures"] = [{"layers": {}, "folded": {}}]
    save_checkpoint(path, content)
    with pytest.raises(UserError, match="quantized networks cannot be thinned: thin the float checkpoint"):
        evaluated("--no-export", "--no-report", "--thin")


def test_a_resumed_run_thins_its_best_checkpoint_too_or_neither(masked_run: TrainerOf) -> None:
    best, last = (Path(f"checkpoints/a/{name}.pt") for name in ("best", "last"))
    before, content = best.read_bytes(), load_checkpoint(last)
    quantized = {**content["scheduler"], "structures": [{"layers": {}, "folded": {}}]}
    save_checkpoint(last, {**content, "scheduler": quantized})
    with pytest.raises(UserError, match="quantized networks cannot be thinned"):
        masked_run("--resume=a", "--thin", "--nEpochs=2").run()
    assert best.read_bytes() == before
    save_checkpoint(last, content)
    masked_run("--resume=a", "--thin", "--nEpochs=2").run()
    assert [len(load_checkpoint(each)["scheduler"]["recipes"]) for each in (best, last)] == [1, 1]


@pytest.mark.slow
def test_export_and_report_are_of_the_thinned_network(masked_run: TrainerOf) -> None:
    evaluated("--thin")
    folder = Path("results/a/best_thin")
    assert (folder / "report.html").is_file()
    assert list(folder.glob("*.onnx"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--overwrite"], "--overwrite belongs to --thin"),
        (["--thin", "--compare", "all"], "--thin thins the checkpoint"),
    ],
)
def test_options_that_do_not_go_together(here: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TestOptions().parse(arguments)
    with pytest.raises(UserError, match="--thin is for a run that continues"):
        TrainOptions().parse(["--thin"])


def parameters_of(content: dict[str, Any]) -> int:
    return sum(each.numel() for each in content["model"].values())


@pytest.mark.parametrize("more", [(), pytest.param(("--ema=0.5",), marks=pytest.mark.slow)], ids=["plain", "averaged"])
def test_a_finished_run_is_measured_and_saved_thinned(
    trainer_of: TrainerOf, caplog: pytest.LogCaptureFixture, more: tuple[str, ...]
) -> None:
    """best.pt and last.pt lose what is zero in each; a second time nothing is left to remove."""
    caplog.set_level(logging.INFO)
    Path("filters.yaml").write_text(FILTERS)
    before = trainer_of("--compress=filters.yaml", "--nEpochs=2", "--run=a", *more).run()
    old = {name: load_checkpoint(Path(f"checkpoints/a/{name}.pt")) for name in ("best", "last")}
    after = trainer_of("--resume=a", "--thin").run()
    assert after["params"] < before["params"]
    assert after["quality"]["psnr"]["model"] == pytest.approx(before["quality"]["psnr"]["model"], abs=1e-4)
    for name, content in old.items():
        thin = load_checkpoint(Path(f"checkpoints/a/{name}.pt"))
        assert parameters_of(thin) == after["params"] < parameters_of(content)
        kept = thin["scheduler"]["recipes"][0]["kept"]["mid_part.1.weight"][0]
        assert torch.equal(thin["model"]["mid_part.1.weight"], content["model"]["mid_part.1.weight"][kept])
    caplog.clear()
    again = trainer_of("--resume=a", "--thin").run()
    assert caplog.text.count("nothing was thinned: no whole filter or channel is zero") == 2
    assert again["params"] == after["params"]
    assert evaluated("--no-export", "--no-report", "--run=a")["params"] == after["params"]
