"""The shared loop: same seed same weights, resume to the bit, what is best, what is written."""

import csv
import json
import logging
from pathlib import Path

import pytest
import torch
import yaml
from tensorboardX.proto.event_pb2 import Event

from apputils.checkpoints.file import load_checkpoint
from compress.errors import UserError
from tests.engine.conftest import TrainerOf

SPARSE = "--compress=schedule.yaml"


def weights(run: str) -> dict[str, torch.Tensor]:
    return load_checkpoint(Path("checkpoints") / run / "last.pt")["model"]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_same_seed_gives_the_same_weights_and_another_does_not(trainer_of: TrainerOf) -> None:
    for run, seed in (("a", 1), ("b", 1), ("c", 2)):
        trainer_of(SPARSE, "--nEpochs=2", f"--seed={seed}", f"--run={run}").run()
    assert same(weights("a"), weights("b"))
    assert not same(weights("a"), weights("c"))


def test_workers_do_not_change_the_weights(trainer_of: TrainerOf) -> None:
    trainer_of("--nEpochs=2", "--run=a").run()
    trainer_of("--nEpochs=2", "--workers=2", "--run=b").run()
    assert same(weights("a"), weights("b"))


@pytest.mark.parametrize("extra", [[], ["--ema=0.8"]], ids=["plain", "ema"])
def test_a_resumed_run_is_the_same_run(trainer_of: TrainerOf, extra: list[str]) -> None:
    trainer_of(SPARSE, "--nEpochs=4", "--run=whole", *extra).run()
    trainer_of(SPARSE, "--nEpochs=2", "--run=cut", *extra).run()
    torch.rand(7)  # whatever happened in between
    Path("schedule.yaml").unlink()  # the resolved schedule is in the checkpoint
    trainer_of("--resume=cut", "--nEpochs=4").run()
    whole, cut = (load_checkpoint(Path("checkpoints") / run / "last.pt") for run in ("whole", "cut"))
    assert same(whole["model"], cut["model"])
    assert str(whole["averaged"]) == str(cut["averaged"])
    assert str(whole["optimizer"]) == str(cut["optimizer"])
    assert str(whole["scheduler"]) == str(cut["scheduler"])
    assert [row["psnr"] for row in whole["history"]] == [row["psnr"] for row in cut["history"]]
    assert len(Path("logs/cut/metrics.csv").read_text().splitlines()) == 5


FILTERS = """\
pruners:
  p: {class: L1RankedStructureParameterPruner, reg_regims: {mid_part.1.weight: [0.5, 3D]}}
extensions:
  t: {class: FilterRemover}
policies:
  - pruner: {instance_name: p}
    epochs: [1]
  - extension: {instance_name: t}
    epochs: [1]
fine_tuning_epochs: 2
"""


def test_a_run_that_was_thinned_resumes_to_the_bit_and_is_rebuilt_from_data(trainer_of: TrainerOf) -> None:
    Path("filters.yaml").write_text(FILTERS)
    trainer = trainer_of("--compress=filters.yaml", "--run=whole", "--ema=0.8")
    summary = trainer.run()
    assert trainer.model.mid_part[1].out_channels == 16
    assert summary["params"] < 43_468
    trainer_of("--compress=filters.yaml", "--run=cut", "--nEpochs=2", "--ema=0.8").run()
    trainer_of("--resume=cut", "--nEpochs=4").run()
    whole, cut = (load_checkpoint(Path("checkpoints") / run / "last.pt") for run in ("whole", "cut"))
    assert same(whole["model"], cut["model"])
    assert str(whole["averaged"]) == str(cut["averaged"])
    assert str(whole["optimizer"]) == str(cut["optimizer"])


def test_resume_refuses_options_that_would_make_it_another_run(trainer_of: TrainerOf) -> None:
    trainer_of(SPARSE, "--nEpochs=1", "--run=a").run()
    with pytest.raises(UserError, match="--lr=0.5: the run was trained with 0.003"):
        trainer_of("--resume=a", "--lr=0.5")


def test_best_is_the_best_of_the_epochs_at_the_final_sparsity(trainer_of: TrainerOf) -> None:
    trainer = trainer_of(SPARSE, "--run=a")
    trainer.run()
    best = load_checkpoint(Path("checkpoints/a/best.pt"))
    rows = trainer.progress.history
    assert len(rows) == 4
    assert best["epoch"] == max((2, 3), key=lambda epoch: rows[epoch]["psnr"])
    for name, parameter in trainer.model.named_parameters():
        if name in trainer.compression_scheduler.scheduled_weights:
            assert int((parameter == 0).sum()) == round(0.5 * parameter.numel())


def test_a_run_cut_short_warns_and_keeps_the_sparsest(trainer_of: TrainerOf, caplog: pytest.LogCaptureFixture) -> None:
    summary = trainer_of(SPARSE, "--nEpochs=2", "--run=a").run()
    assert any("inside 'agp'" in record.message for record in caplog.records)
    assert [entry for entry in summary["warnings"] if "inside 'agp'" in entry["text"]]
    assert summary["measured_on"]["part"] == "validation"
    last = load_checkpoint(Path("checkpoints/a/last.pt"))
    assert (last["planned_epochs"], last["warnings"]) == (2, summary["warnings"])
    assert load_checkpoint(Path("checkpoints/a/best.pt"))["epoch"] == 1


def test_averaged_weights_are_masked_too(trainer_of: TrainerOf) -> None:
    trainer = trainer_of(SPARSE, "--ema=0.9", "--run=a")
    trainer.run()
    averaged = load_checkpoint(Path("checkpoints/a/best.pt"))["averaged"]["model"]
    for masker in trainer.compression_scheduler.masks.masked():
        assert torch.count_nonzero(averaged[masker.name][~masker.mask]) == 0
    assert not same(averaged, weights("a"))


def test_what_is_written(trainer_of: TrainerOf, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    summary = trainer_of(SPARSE, "--run=a").run()
    assert json.loads(Path("results/a/summary.json").read_text()) == summary
    assert set(summary) >= {
        "run", "optform", "schedule", "epochs", "seconds", "quality", "sparsity", "params", "macs", "checkpoint",
    }  # fmt: skip
    assert set(summary["quality"]) == {"psnr", "ssim"}
    assert set(summary["quality"]["psnr"]) == {"bicubic", "model"}
    assert summary["sparsity"]["scheduled"] == pytest.approx(0.5)
    rows = list(csv.DictReader(Path("logs/a/metrics.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "3"]
    assert float(rows[0]["sparsity/mid_part.1.weight"]) == pytest.approx(0.1, abs=1e-3)
    assert [float(row["lr"]) for row in rows] == pytest.approx([3e-3, 1.5e-3, 1.5e-3, 7.5e-4])
    resolved = yaml.safe_load(Path("logs/a/schedule.yaml").read_text())
    assert resolved["pruners"]["agp"]["weights"] == [f"mid_part.{i}.weight" for i in (1, 3, 5, 7)]
    assert yaml.safe_load(Path("logs/a/options.yaml").read_text())["batchSize"] == 4
    assert "epoch 3/3" in Path("logs/a/log.txt").read_text()
    assert "test.py --run=a" in caplog.text


def test_tensorboard_gets_loss_quality_rate_and_sparsity(trainer_of: TrainerOf) -> None:
    trainer_of(SPARSE, "--nEpochs=1", "--run=a").run()
    tags, data = set(), next(Path("logs/a").glob("events*")).read_bytes()
    while data:  # TFRecord: length (8 bytes), its CRC (4), the event, its CRC (4)
        length = int.from_bytes(data[:8], "little")
        tags |= {value.tag for value in Event.FromString(data[12 : 12 + length]).summary.value}
        data = data[16 + length :]
    assert tags >= {"loss", "psnr", "lr", "sparsity", "sparsity/mid_part.1.weight"}


def test_plain_training_needs_no_schedule(trainer_of: TrainerOf) -> None:
    summary = trainer_of("--nEpochs=1").run()
    assert summary["schedule"] is None
    assert summary["sparsity"]["weights"] == {}


@pytest.mark.parametrize("option", ["--amp", pytest.param("--compile", marks=pytest.mark.slow)])
def test_amp_and_compile_train(trainer_of: TrainerOf, option: str) -> None:
    trainer = trainer_of(SPARSE, "--nEpochs=1", option, "--samples=4", "--run=a")
    trainer.run()
    assert all(torch.isfinite(parameter).all() for parameter in trainer.model.parameters())
    assert all("_orig_mod" not in name for name in weights("a"))


def test_a_device_that_is_not_there_is_refused(trainer_of: TrainerOf) -> None:
    with pytest.raises(UserError, match="--device=tpu9: unknown device"):
        trainer_of("--device=tpu9")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="--device=cuda: this machine offers no CUDA device"):
            trainer_of("--device=cuda")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("extra", [[], ["--amp"]], ids=["float32", "amp"])
def test_the_main_job_and_resume_on_cuda(trainer_of: TrainerOf, extra: list[str]) -> None:
    trainer = trainer_of(SPARSE, "--nEpochs=2", "--device=cuda", "--run=a", *extra)
    trainer.run()
    trainer_of("--resume=a", "--nEpochs=4").run()
    content = load_checkpoint(Path("checkpoints/a/last.pt"))
    assert content["epoch"] == 3
    assert all(torch.isfinite(each).all() for each in content["model"].values())


def test_a_run_of_no_epoch_holds_what_it_started_from(trainer_of: TrainerOf, caplog: pytest.LogCaptureFixture) -> None:
    trainer_of("--nEpochs=1", "--run=a").run()
    with caplog.at_level("INFO", "run"):
        summary = trainer_of("--nEpochs=0", "--run=b", "--start-from=a").run()
    assert same(weights("b"), load_checkpoint(Path("checkpoints/a/best.pt"))["model"])
    assert same(load_checkpoint(Path("checkpoints/b/best.pt"))["model"], weights("b"))
    assert summary["epochs"] == 0
    assert "run b: nothing is trained" in caplog.text
    trainer_of("--resume=b", "--nEpochs=1").run()
    assert not same(weights("a"), weights("b"))
    with pytest.raises(UserError, match="--nEpochs=0 leaves none"):
        trainer_of(SPARSE, "--nEpochs=0")


def test_the_rate_counts_the_images_that_an_epoch_sees(trainer_of: TrainerOf) -> None:
    trainer = trainer_of("--batchSize=2")
    trainer.build()
    assert trainer.samples_per_epoch() == len(trainer.training_loader.dataset) > 2
    trainer.steps_limit = 1
    assert trainer.samples_per_epoch() == 2
